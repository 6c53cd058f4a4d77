"""Load balancing over the OpenAI-compatible servers of one model: routing, health checks, cool-down, failover."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Any

import openai

from judges.engines.base import RequestFailed
from judges.engines.openai.prefix_affinity import PrefixAffinity
from judges.engines.openai.retry import (
    FIRST_BACKOFF,
    LONGEST_RETRY_AFTER,
    exponential_backoff,
    is_connection_error,
    retry_delay,
    to_request_failed,
)
from judges.errors import CannotRun

FIRST_HEALTH_CHECK = 1.0  # seconds from one health check of a server that is down to the next; doubled each time
LONGEST_HEALTH_CHECK = 60.0
HEALTH_CHECK_TIMEOUT = 10.0
CONNECT_TIMEOUT = 10.0
AFFINITY_SLACK = 4  # requests by which a server may be busier than the least busy and still be chosen for its cache


class Server:
    """The state of one server.

    `in_flight` counts its requests. No request goes to it while it is `down`, nor before `cooldown_until`
    (monotonic seconds) where another server is available. `failures` counts incidents since its last good response.
    """

    def __init__(self, url: str, client: Any) -> None:
        self.url, self.client = url, client
        self.in_flight = self.failures = 0
        self.down = False
        self.cooldown_until = 0.0


class ServerPool:
    """Balances requests over the servers of one model.

    A request goes to a server with the fewest requests in flight, round-robin where several have equally few; among
    servers that are about as busy, to one that was sent the same prefix before. A server whose connection fails, or
    that does not answer in time, is marked down until a health check (`/models`) succeeds; the intervals between
    checks grow, and its request goes to another server. While all are down, requests wait for up to `patience`
    seconds. 408, 409, 429 and 5xx are retried up to `retries` times, on another server where one is available.
    Everything runs on one event loop.
    """

    def __init__(
        self, model: str, urls: Sequence[str], api_key: str, timeout: float, retries: int, patience: float
    ) -> None:
        self._model, self._retries, self._patience = model, retries, patience
        timeouts = openai.Timeout(timeout, connect=min(timeout, CONNECT_TIMEOUT))
        self._servers = [
            Server(url, openai.AsyncOpenAI(base_url=url, api_key=api_key, timeout=timeouts, max_retries=0))
            for url in urls
        ]
        self._affinity = PrefixAffinity[Server]()
        self._round = 0
        self._any_up = asyncio.Event()
        self._all_down_since = 0.0
        self._health_checks: set[asyncio.Task[None]] = set()
        self._closed = False

    async def open(self) -> None:
        """Check every server. Raises CannotRun when none is up, or one can never serve the model."""
        problems = await asyncio.gather(*(self._check_health(server, 20.0, 1) for server in self._servers))
        if all(problems):
            raise CannotRun("; ".join(problems))
        self._any_up.set()
        for server, problem in zip(self._servers, problems, strict=True):
            if problem:
                self._mark_down(server, problem)

    async def send(self, call: Callable[[Any], Awaitable[Any]], text: str = "") -> tuple[Any, str]:
        """(the response to `call(client)`, the URL it came from); `text` is the prompt, for prefix affinity.

        Raises RequestFailed for this request, CannotRun where all servers were down for `patience` seconds.
        """
        broken_connections = retries = timeouts = 0
        server: Server | None = None
        while True:
            server = await self._next_server(text, server)
            server.in_flight += 1
            try:
                response = await call(server.client)
            except openai.APIError as raised:
                error = raised
            except ValueError as invalid:
                raise _not_json(server.url) from invalid
            else:
                if isinstance(response, str):  # the client returns a page that is not declared to be JSON as text
                    raise _not_json(server.url)
                server.failures = 0
                return response, server.url
            finally:
                server.in_flight -= 1
            if self._closed:
                raise RequestFailed("engine", "the engine was closed") from error
            if is_connection_error(error):
                broken_connections += 1
                self._mark_down(server)
                # A request that breaks the connection of every server must not go round for ever.
                if broken_connections > self._retries + len(self._servers):
                    raise RequestFailed("server", f"the connection broke {broken_connections} times") from error
            elif isinstance(error, openai.APITimeoutError):
                timeouts += 1
                self._cool_down(server, FIRST_BACKOFF)
                self._mark_down(server)
                if timeouts > 1 or not self._any_up.is_set():
                    raise RequestFailed("timeout", f"{server.url} did not answer in time") from error
            else:
                delay = retry_delay(error, retries)
                if delay is not None:
                    self._cool_down(server, delay)
                same_server = not self._available()
                if delay is None or retries == self._retries or (same_server and delay > LONGEST_RETRY_AFTER):
                    raise to_request_failed(error, server.url) from error
                retries += 1
                if same_server:
                    await asyncio.sleep(delay)

    async def _next_server(self, text: str, failed: Server | None) -> Server:
        """The server to send to now. While all are down, waits for one until `patience` is over."""
        while not self._any_up.is_set():
            left = self._all_down_since + self._patience - time.monotonic()
            if left <= 0:
                raise CannotRun(
                    f"no server has answered for {self._patience:g} seconds"
                    f" ({', '.join(server.url for server in self._servers)});"
                    " what is finished is safe, run the same command again"
                )
            with suppress(TimeoutError):
                await asyncio.wait_for(self._any_up.wait(), left)
        if self._closed:
            raise RequestFailed("engine", "the engine was closed")
        server = self._choose(text, failed)
        if len(self._servers) > 1:
            self._affinity.add(text, server)
        return server

    def _choose(self, text: str, failed: Server | None) -> Server:
        """A server that is up; where there is a choice, neither `failed` nor one that cools down."""
        up = [server for server in self._servers if not server.down]
        others = [server for server in up if server is not failed] or up
        available = self._available()
        candidates = [server for server in available if server in others] or available or others
        least = min(server.in_flight for server in candidates)
        cached = self._affinity.holders(text)
        near = [server for server in candidates if server in cached and server.in_flight <= least + AFFINITY_SLACK]
        self._round += 1
        return min(
            near or candidates,
            key=lambda server: (server.in_flight, (self._servers.index(server) - self._round) % len(self._servers)),
        )

    def _available(self) -> list[Server]:
        """The servers that are up and do not cool down."""
        now = time.monotonic()
        return [server for server in self._servers if not server.down and server.cooldown_until <= now]

    def _cool_down(self, server: Server, delay: float) -> None:
        """Prefer other servers for a while: one that refuses everything would soon be the least busy of all."""
        now = time.monotonic()
        if server.cooldown_until <= now:  # else this request failed in the same incident
            server.cooldown_until = now + max(delay, min(exponential_backoff(server.failures), LONGEST_HEALTH_CHECK))
            server.failures += 1

    def _mark_down(self, server: Server, problem: str = "") -> None:
        """Send it nothing until it is healthy. The first check runs now, unless its `problem` is known already."""
        if server.down:
            return
        server.down = True
        if all(other.down for other in self._servers):
            self._all_down_since = time.monotonic()
            self._any_up.clear()
        task = asyncio.get_running_loop().create_task(self._wait_until_healthy(server, problem))
        self._health_checks.add(task)
        task.add_done_callback(self._health_checks.discard)

    async def _wait_until_healthy(self, server: Server, problem: str) -> None:
        interval, reported = FIRST_HEALTH_CHECK, False
        while True:
            if not problem:
                try:
                    problem = await self._check_health(server, HEALTH_CHECK_TIMEOUT, 0)
                except CannotRun as error:
                    problem = str(error)
            if not problem:
                break
            if not reported:
                print(f"assay: {problem}; no requests go to it until it answers again", file=sys.stderr, flush=True)
            reported, problem = True, ""
            until = time.monotonic() + interval
            interval = min(2 * interval, LONGEST_HEALTH_CHECK)
            while (left := until - time.monotonic()) > 0:
                await asyncio.sleep(min(left, FIRST_HEALTH_CHECK))
                if not self._any_up.is_set():  # every request waits
                    break
        server.down = False
        self._any_up.set()
        if reported:
            print(f"assay: {server.url} answers again", file=sys.stderr, flush=True)

    async def _check_health(self, server: Server, timeout: float, retries: int) -> str:
        """What is wrong with the server at present, "" where nothing is. Raises CannotRun where it will stay so."""
        url = server.url
        try:
            client = server.client.with_options(max_retries=retries, timeout=timeout)
            response = await client.get("/models", cast_to=object)  # unparsed: the client breaks on a page of HTML
            served = [str(model["id"]) for model in response["data"]]
        except openai.AuthenticationError as error:
            raise CannotRun(f"{url} refuses the key (401): set OPENAI_API_KEY or api_key=…") from error
        except openai.PermissionDeniedError as error:
            raise CannotRun(f"{url} does not allow this key (403)") from error
        except openai.NotFoundError as error:
            raise CannotRun(f"{url} has no /models (404): does the base URL end in /v1?") from error
        except openai.APIConnectionError:
            return f"no server answers at {url}: is it running?"
        except openai.APIStatusError as error:
            return f"{url} answered {error.status_code} when asked for its models"
        except (KeyError, TypeError, ValueError) as error:
            raise CannotRun(f"{url}/models is no list of models: does the base URL end in /v1?") from error
        if served and self._model not in served:
            raise CannotRun(f"{url} serves {', '.join(served[:10])}, not {self._model!r}")
        return ""

    async def close(self) -> None:
        """Close every connection, and fail the requests that wait for a server."""
        self._closed = True
        health_checks = list(self._health_checks)
        for task in health_checks:
            task.cancel()
        await asyncio.gather(*health_checks, return_exceptions=True)
        await asyncio.gather(*(server.client.close() for server in self._servers))
        self._any_up.set()


def _not_json(url: str) -> RequestFailed:
    return RequestFailed("server", f"{url} answered something that is not JSON")
