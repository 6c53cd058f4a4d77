"""Several servers of one model: which of them is asked, which is left out, and when it is tried again."""

from __future__ import annotations

import asyncio
import random
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from email.utils import parsedate_to_datetime
from typing import Any

import openai

from judges.engines.base import RequestFailed
from judges.engines.openai.prefix_affinity import PrefixAffinity
from judges.errors import CannotRun

FIRST_WAIT = 1.0  # seconds until a server that is down is looked at again; doubled each time
LONGEST_WAIT = 60.0
LOOK_SECONDS = 10.0  # for which a server that is down may think about whether it is up
CONNECT_SECONDS = 10.0
FIRST_BACKOFF, LONGEST_BACKOFF = 0.5, 8.0
LONGEST_RETRY_AFTER = 120.0  # a server that wants to be left alone for longer fails the row
SLACK = 4  # requests by which a server may be busier than the least busy, and still be asked for its cache


class Server:
    """One server and how it does: `load` requests in flight; not asked while it is `down`; not before
    `rests_until` (monotonic seconds) where another can be; `faults` incidents since its last good answer."""

    def __init__(self, url: str, client: Any) -> None:
        self.url, self.client = url, client
        self.load = self.faults = 0
        self.down = False
        self.rests_until = 0.0


class Servers:
    """Any number of servers of one model, asked as if they were one.

    A request goes to a server with the fewest in flight, in turn where several have; among those that are
    about as busy, to one that was asked the same beginning before. A server whose connection fails, or that
    does not answer in time, is left out until its `/models` shows that it is there, looked at with growing
    waits; its request goes to another. With none left, requests wait for up to `patience` seconds. 408, 409,
    429 and 5xx are asked again, elsewhere where that can be, up to `retries` times. All on one event loop.
    """

    def __init__(
        self, model: str, urls: Sequence[str], api_key: str, timeout: float, retries: int, patience: float
    ) -> None:
        self._model, self._retries, self._patience = model, retries, patience
        waits = openai.Timeout(timeout, connect=min(timeout, CONNECT_SECONDS))
        self._servers = [
            Server(url, openai.AsyncOpenAI(base_url=url, api_key=api_key, timeout=waits, max_retries=0)) for url in urls
        ]
        self._beginnings = PrefixAffinity[Server]()
        self._turn = 0
        self._up = asyncio.Event()  # set while any server is up
        self._since = 0.0  # when the last one went down
        self._looking: set[asyncio.Task[None]] = set()
        self._closed = False

    async def open(self) -> None:
        """Look at every server. Raises CannotRun when none can be asked, or one never could."""
        reasons = await asyncio.gather(*(self._look(server, 20.0, 1) for server in self._servers))
        if all(reasons):
            raise CannotRun("; ".join(reasons))
        self._up.set()
        for server, reason in zip(self._servers, reasons, strict=True):
            if reason:
                self._leave_out(server, reason)

    async def ask(self, call: Callable[[Any], Awaitable[Any]], text: str = "") -> tuple[Any, str]:
        """(the answer to `call(client)`, the URL it came from), of whichever server; `text` is what is asked.

        Raises RequestFailed for this request, CannotRun where no server has been there for `patience` seconds.
        """
        broken = refused = late = 0
        last: Server | None = None
        while True:
            server = last = await self._next(text, last)
            server.load += 1
            try:
                reply = await call(server.client)
            except openai.APIError as error:
                failed = error
            except ValueError as error:  # its JSON is none
                raise _no_answer(server.url) from error
            else:
                if isinstance(reply, str):  # the client hands on a page that does not even say that it is JSON
                    raise _no_answer(server.url)
                server.faults = 0
                return reply, server.url
            finally:
                server.load -= 1
            if self._closed:
                raise RequestFailed("engine", "the engine was closed") from failed
            if _unreached(failed):
                broken += 1
                self._leave_out(server)
                # A request that ends connections wherever it goes would go round for ever.
                if broken > self._retries + len(self._servers):
                    raise RequestFailed("server", f"the connection broke {broken} times") from failed
            elif isinstance(failed, openai.APITimeoutError):
                late += 1
                self._rest(server, FIRST_BACKOFF)
                self._leave_out(server)
                if late > 1 or not self._up.is_set():
                    raise RequestFailed("timeout", f"{server.url} did not answer in time") from failed
            else:
                wait = _wait(failed, refused)
                if wait is not None:
                    self._rest(server, wait)
                here = not self._rested()  # there is no other to ask meanwhile
                if wait is None or refused == self._retries or (here and wait > LONGEST_RETRY_AFTER):
                    raise refusal(failed, server.url) from failed
                refused += 1
                if here:
                    await asyncio.sleep(wait)

    async def _next(self, text: str, last: Server | None) -> Server:
        """The server to ask now, awaited for as long as patience lasts."""
        while not self._up.is_set():
            left = self._since + self._patience - time.monotonic()
            if left <= 0:
                raise CannotRun(
                    f"{', '.join(server.url for server in self._servers)} went away; what is finished is safe,"
                    " run the same command again"
                )
            with suppress(TimeoutError):
                await asyncio.wait_for(self._up.wait(), left)
        if self._closed:
            raise RequestFailed("engine", "the engine was closed")
        server = self._pick(text, last)
        if len(self._servers) > 1:
            self._beginnings.add(text, server)
        return server

    def _pick(self, text: str, last: Server | None) -> Server:
        """A server that is up: not `last`, which failed the request, and none that rests, if there is another."""
        up = [server for server in self._servers if not server.down]
        others = [server for server in up if server is not last] or up
        able = [server for server in self._rested() if server in others] or self._rested() or others
        least = min(server.load for server in able)
        holders = self._beginnings.holders(text)
        near = [server for server in able if server in holders and server.load <= least + SLACK]
        self._turn += 1
        return min(
            near or able,
            key=lambda server: (server.load, (self._servers.index(server) - self._turn) % len(self._servers)),
        )

    def _rested(self) -> list[Server]:
        now = time.monotonic()
        return [server for server in self._servers if not server.down and server.rests_until <= now]

    def _rest(self, server: Server, wait: float) -> None:
        """Ask others for a while: a server that refuses all it gets is soon the least loaded of all."""
        now = time.monotonic()
        if server.rests_until <= now:  # else this is of the same incident
            server.rests_until = now + max(wait, min(FIRST_BACKOFF * 2.0 ** min(server.faults, 10), LONGEST_WAIT))
            server.faults += 1

    def _leave_out(self, server: Server, reason: str = "") -> None:
        """Do not ask it until it is seen to be there; it is looked at now unless there is a reason already."""
        if server.down:
            return
        server.down = True
        if all(other.down for other in self._servers):
            self._since = time.monotonic()
            self._up.clear()
        task = asyncio.get_running_loop().create_task(self._until_back(server, reason))
        self._looking.add(task)
        task.add_done_callback(self._looking.discard)

    async def _until_back(self, server: Server, reason: str) -> None:
        wait, told = FIRST_WAIT, False
        while True:
            if not reason:
                try:
                    reason = await self._look(server, LOOK_SECONDS, 0)
                except CannotRun as error:
                    reason = str(error)
            if not reason:
                break
            if not told:
                print(f"assay: {reason}; it is left out and tried again", file=sys.stderr, flush=True)
            told, reason = True, ""
            until = time.monotonic() + wait
            wait = min(2 * wait, LONGEST_WAIT)
            while (left := until - time.monotonic()) > 0:
                await asyncio.sleep(min(left, FIRST_WAIT))
                if not self._up.is_set():  # every request waits
                    break
        server.down = False
        self._up.set()
        if told:
            print(f"assay: {server.url} is back", file=sys.stderr, flush=True)

    async def _look(self, server: Server, seconds: float, retries: int) -> str:
        """Why the server cannot be asked now; nothing when it can. Raises CannotRun where that is not for a while."""
        url = server.url
        try:
            client = server.client.with_options(max_retries=retries, timeout=seconds)
            listed = await client.get("/models", cast_to=object)  # as it is: the client breaks on a page of HTML
            served = [str(model["id"]) for model in listed["data"]]
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
        """End every connection; who waits for a server hears that there will be none."""
        self._closed = True
        looking = list(self._looking)
        for task in looking:
            task.cancel()
        await asyncio.gather(*looking, return_exceptions=True)
        await asyncio.gather(*(server.client.close() for server in self._servers))
        self._up.set()


def refusal(error: Any, url: str) -> RequestFailed:
    """What an answer with an error's status is to its row."""
    said = (str(error.message).splitlines() or [""])[0][:300]
    if isinstance(error, openai.BadRequestError):
        text = str(error.message)
        long = "context length" in text or "maximum context" in text or "max_model_len" in text
        return RequestFailed("too-long" if long else "server", said)
    status = getattr(error, "status_code", None)
    return RequestFailed("server", f"{url} answered {status}: {said}" if status else f"{url}: {said}")


def _no_answer(url: str) -> RequestFailed:
    return RequestFailed("server", f"{url} answered something that is not JSON")


def _unreached(error: Any) -> bool:
    """Whether there was no connection, or it ended before the answer."""
    if isinstance(error, openai.APITimeoutError):
        # The client's HTTP library differs between its versions: it is known by its name alone.
        return type(error.__cause__).__name__ == "ConnectTimeout"
    return isinstance(error, openai.APIConnectionError)


def _wait(error: Any, refused: int) -> float | None:
    """Seconds after which a request may be asked again that was refused so often before; None for never."""
    status = getattr(error, "status_code", 0)
    if not (status in (408, 409, 429) or status >= 500):
        return None
    headers = error.response.headers
    if headers.get("x-should-retry") == "false":
        return None
    after = _seconds(headers.get("retry-after", ""))
    if after is not None:
        return max(0.0, after)
    return min(FIRST_BACKOFF * 2.0 ** min(refused, 10), LONGEST_BACKOFF) * random.uniform(0.75, 1.0)


def _seconds(retry_after: str) -> float | None:
    """Seconds from now that a Retry-After header names, by their number or by a date.

    >>> _seconds("2.5"), _seconds("soon"), round(_seconds("Thu, 01 Jan 1970 00:00:00 GMT") + time.time())
    (2.5, None, 0)
    """
    with suppress(ValueError):
        return float(retry_after)
    with suppress(ValueError):
        return parsedate_to_datetime(retry_after).timestamp() - time.time()
    return None
