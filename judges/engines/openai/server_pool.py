"""Load balancing over the OpenAI-compatible servers of one model: routing, health checks, cool-down, failover."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import Any

import openai

from judges.engines.base import RequestFailed
from judges.engines.openai.prefix_affinity import PrefixAffinity
from judges.engines.openai.rate_limit import RateLimiter
from judges.engines.openai.responses import not_json, to_payload
from judges.engines.openai.retry import (
    FIRST_BACKOFF,
    LONGEST_RETRY_AFTER,
    ServerError,
    exponential_backoff,
    is_connection_error,
    jittered_backoff,
)
from judges.errors import CannotRun, redact

FIRST_HEALTH_CHECK = 1.0  # seconds from one health check of a server that is down to the next; doubled each time
LONGEST_HEALTH_CHECK = 60.0
HEALTH_CHECK_TIMEOUT = 10.0
CONNECT_TIMEOUT = 10.0
LONGEST_RATE_LIMIT = 300.0  # seconds of refusals without one answer, after which the run ends
NO_SUCH_PAGE = (404, 405, 501)
# Tags that name a way of serving the same weights: Ollama's default, and OpenRouter's variants.
MODEL_TAGS = ("latest", "nitro", "floor", "free", "online", "extended", "thinking", "exacto", "beta")
CHARACTERS_PER_TOKEN = 4  # an estimate, for tokens_per_minute
AFFINITY_SLACK = 4  # requests by which a server may be busier than the least busy and still be chosen for its cache


class Server:
    """The state of one server.

    `in_flight` counts its requests. No request goes to it while it is `down`, nor before `cooldown_until`
    (monotonic seconds) where another server is available. `failures` counts incidents since its last good response.
    `limiter` keeps its rate limit. `models_listed`: it has a list of models; `owners`: their `owned_by`; `answered`: it
    completed a request.
    """

    def __init__(self, url: str, client: Any, limiter: RateLimiter) -> None:
        self.url, self.client, self.limiter = url, client, limiter
        self.in_flight = self.failures = 0
        self.down = self.answered = False
        self.models_listed = True
        self.owners: frozenset[str] = frozenset()
        self.warned = False
        self.cooldown_until = 0.0


class ServerRefused(Exception):
    """The cause of a RequestFailed: the `error` that a server answered with."""

    def __init__(self, error: ServerError) -> None:
        super().__init__(error.message)
        self.error = error


class ServerPool:
    """Balances requests over the servers of one model.

    A request goes to a server with the fewest requests in flight, round-robin where several have equally few; among
    servers that are about as busy, to one that was sent the same prefix before. A server whose connection fails, or
    that does not answer in time, is marked down until a health check (`/models`) succeeds; the intervals between
    checks grow, and its request goes to another server. While all are down, requests wait for up to `patience`
    seconds. 408, 409, 5xx and answers that are not JSON are retried up to `retries` times, on another server where
    one is available. A rate limit (429) pauses all requests to its server and counts against no request's retries.
    An error inside an answer with status 200 is treated as the status that it names. Everything runs on one event
    loop.
    """

    def __init__(
        self,
        model: str,
        urls: Sequence[str],
        api_key: str,
        timeout: float,
        retries: int,
        patience: float,
        requests_per_minute: float = 0.0,
        tokens_per_minute: float = 0.0,
    ) -> None:
        self._model, self._retries, self._patience = model, retries, patience
        timeouts = openai.Timeout(timeout, connect=min(timeout, CONNECT_TIMEOUT))
        self._servers = [
            Server(
                redact(url),
                openai.AsyncOpenAI(base_url=url, api_key=api_key, timeout=timeouts, max_retries=0),
                RateLimiter(requests_per_minute, tokens_per_minute),
            )
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

    @property
    def owners(self) -> frozenset[str]:
        """The `owned_by` of all models that the servers list."""
        return frozenset(owner for server in self._servers for owner in server.owners)

    @property
    def models_listed(self) -> bool:
        """Whether every server has a list of models."""
        return all(server.models_listed for server in self._servers)

    async def send(
        self, call: Callable[[Any], Awaitable[Any]], text: str = "", max_tokens: int = 0
    ) -> tuple[dict[str, Any], str]:
        """(the JSON object that `call(client)` was answered with, the URL it came from).

        `text` is the prompt, for prefix affinity, and `max_tokens` what may be generated, for `tokens_per_minute`.
        Raises RequestFailed for this request, caused by a ServerRefused where a server answered with an error, and
        CannotRun where no further request can succeed: all servers were down for `patience` seconds, the key is
        refused, the quota is used up, or the model is not known.
        """
        broken_connections = retries = timeouts = 0
        tokens = len(text) // CHARACTERS_PER_TOKEN + max_tokens
        server: Server | None = None
        while True:
            server = await self._next_server(text, server)
            server.in_flight += 1
            try:
                started = await server.limiter.acquire(tokens, partial(self._should_leave, server))
                if started is None:
                    continue
                try:
                    payload, error = await _answer(call, server)
                finally:
                    server.limiter.release()
            finally:
                server.in_flight -= 1
            if payload is not None:
                server.failures = 0
                server.answered = True
                server.limiter.answer(started)
                return payload, server.url
            if self._closed:
                raise RequestFailed("engine", "the engine was closed") from error
            if isinstance(error, ServerError) and error.is_rate_limit:
                error.raise_if_final(server.url)
                self._pause(server, error, started)
            elif error is not None and is_connection_error(error):
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
                delay = self._retry_delay(server, error, retries)
                retries += 1
                if not self._available():
                    await asyncio.sleep(delay)

    def _retry_delay(self, server: Server, error: ServerError | None, retries: int) -> float:
        """Seconds until a request that got `error`, or no JSON, is sent again. Raises what ends the request or run."""
        if isinstance(error, ServerError):
            error.raise_if_final(server.url)
            if error.status == 404 and not (server.models_listed or server.answered):
                raise CannotRun(f"{server.url} answered 404 ({error.message}): does the base URL end in /v1?")
            delay = error.retry_delay(retries)
            failed = error.failure(server.url)
        else:
            delay, failed = jittered_backoff(retries), not_json(server.url)
        if delay is not None:
            self._cool_down(server, delay)
        if delay is None or retries == self._retries or (delay > LONGEST_RETRY_AFTER and not self._available()):
            raise failed from (ServerRefused(error) if isinstance(error, ServerError) else None)
        return delay

    def _pause(self, server: Server, error: ServerError, started: float) -> None:
        """Send nothing to a server for the time that its rate limit asks for. Raises CannotRun for one without end."""
        delay = server.limiter.refuse(started, error.retry_after())
        server.cooldown_until = max(server.cooldown_until, time.monotonic() + delay)
        refused_since = server.limiter.refused_since or started
        if self._available():
            return
        if delay > LONGEST_RETRY_AFTER:
            problem = f"{server.url} takes no more requests for {delay:.0f} seconds"
        elif time.monotonic() - refused_since > LONGEST_RATE_LIMIT:
            problem = f"{server.url} has refused every request for {LONGEST_RATE_LIMIT:.0f} seconds"
        else:
            return
        raise CannotRun(f"{problem} (429: {error.message}); what is finished is safe, run the same command again later")

    def _should_leave(self, server: Server) -> bool:
        """Whether a request that waits for this server's rate limit had better choose again."""
        if self._closed or server.down:
            return True
        return server.cooldown_until > time.monotonic() and bool(self._available())

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
            server.owners = frozenset(str(model.get("owned_by")) for model in response["data"] if "owned_by" in model)
        except openai.AuthenticationError as error:
            raise CannotRun(f"{url} refuses the key (401): set OPENAI_API_KEY or api_key=…") from error
        except openai.PermissionDeniedError as error:
            raise CannotRun(f"{url} does not allow this key (403)") from error
        except openai.APIConnectionError:
            return f"no server answers at {url}: is it running?"
        except openai.APIStatusError as error:
            if error.status_code in NO_SUCH_PAGE:
                self._warn_once(server, f"{url} has no list of models ({error.status_code}); it is asked all the same")
                server.models_listed = False
                return ""
            return f"{url} answered {error.status_code} when asked for its models"
        except (KeyError, TypeError, ValueError) as error:
            raise CannotRun(f"{url}/models is no list of models: does the base URL end in /v1?") from error
        if served and self._model not in served:
            other = next((name for name in served if same_model(name, self._model)), None)
            if other is None:
                raise CannotRun(f"{url} serves {', '.join(served[:10])}, not {self._model!r}")
            self._warn_once(server, f"{url} lists {other!r}, not {self._model!r}; it is taken for the same model")
        return ""

    def _warn_once(self, server: Server, message: str) -> None:
        if not server.warned:
            server.warned = True
            print(f"assay: {message}", file=sys.stderr, flush=True)

    async def close(self) -> None:
        """Close every connection, and fail the requests that wait for a server."""
        self._closed = True
        health_checks = list(self._health_checks)
        for task in health_checks:
            task.cancel()
        await asyncio.gather(*health_checks, return_exceptions=True)
        await asyncio.gather(*(server.client.close() for server in self._servers))
        self._any_up.set()


async def _answer(call: Callable[[Any], Awaitable[Any]], server: Server) -> tuple[dict[str, Any] | None, Any]:
    """(the JSON object that the server answered, None), or (None, the error): None too where it is not JSON."""
    try:
        payload = to_payload(await call(server.client), server.url)
    except openai.APIStatusError as error:
        return None, ServerError.from_exception(error)
    except openai.APIConnectionError as error:
        return None, error
    except (openai.APIError, ValueError, RecursionError, RequestFailed):  # a page, half a body
        return None, None
    refused = ServerError.from_payload(payload)
    return (payload, None) if refused is None else (None, refused)


def same_model(listed: str, model: str) -> bool:
    """Whether a server's list names the model in another form.

    >>> same_model("models/gemini-2.5-flash", "gemini-2.5-flash"), same_model("llama3:latest", "llama3")
    (True, True)
    >>> same_model("deepseek/r1", "deepseek/r1:nitro"), same_model("gpt-4o-mini", "gpt-4o")
    (True, False)
    """
    return _bare(listed) == _bare(model)


def _bare(name: str) -> str:
    name = name.lower().removeprefix("models/")
    base, _, tag = name.rpartition(":")
    return base if base and tag in MODEL_TAGS else name
