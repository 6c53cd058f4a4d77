"""The rate limit of one server: pauses, a limit of the requests in flight, and a pace, shared by all requests to it."""

from __future__ import annotations

import asyncio
import math
import time
from collections import deque
from collections.abc import Awaitable, Callable
from contextlib import suppress

from judges.engines.openai.retry import jittered_backoff

WINDOW = 60.25  # seconds that limits "per minute" are counted over, with a margin for the way to the server
START_BURST = 8  # requests that are sent at once before the pace of the start applies
# (until this many requests, seconds between two): an unknown limit shows before many requests are sent beyond it.
START_PACE = ((100, 0.02), (500, 0.005))
HEADROOM = 1.05  # the pace after several refusals is this much slower than what the server let through
LONGEST_SLEEP = 1.0  # seconds, after which a waiting request looks whether another server is free
# After a pause one request is in flight, or LEAST_THRESHOLD after a long one, which opens a new minute. The number
# grows by one with each answer up to half of what there were before, and from there by one with each round of answers.
FIRST_LIMIT, LEAST_THRESHOLD, LONG_PAUSE = 1, 4, 5.0


class RateLimiter:
    """Lets requests to one server through, as fast as its rate limit allows.

    A refusal with 429 pauses all requests for the time that the server names and lowers the number in flight
    (additive increase, multiplicative decrease, with a slow start after a pause, as TCP has it). From a second
    refusal on, requests are paced at the rate that the server let through between the two. `requests_per_minute`
    and `tokens_per_minute` (0: no limit) are kept in every minute from the start. `clock` and `sleep` measure
    seconds. Everything runs on one event loop.
    """

    def __init__(
        self,
        requests_per_minute: float = 0.0,
        tokens_per_minute: float = 0.0,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self.requests_per_minute, self.tokens_per_minute = requests_per_minute, tokens_per_minute
        self._clock, self._sleep = clock, sleep
        self.in_flight = self.sent = 0
        self.limit = self._threshold = math.inf
        self.paused_until = self._next_start = 0.0
        self.refused_since: float | None = None  # the first refusal after the last answer
        self._interval = 0.0
        self._refusals = 0  # pauses since the last answer
        self._sent_since_pause = 0
        self._pause_began = 0.0
        self._recent: deque[tuple[float, int]] = deque()  # (start, tokens) of the requests of the last minute
        self._tokens = 0
        self._turn = asyncio.Lock()
        self._released = asyncio.Event()

    async def acquire(self, tokens: int = 0, leave: Callable[[], bool] = lambda: False) -> float | None:
        """Wait for permission to send a request of about so many tokens; its start, to be handed to `refuse`.

        None where `leave()` holds while it waits: the request goes elsewhere. Every start is followed by one `release`.
        """
        async with self._turn:  # one waits, the others queue behind it in their order
            while (wait := self._wait(tokens)) > 0:
                if leave():
                    return None
                if math.isinf(wait):
                    self._released.clear()
                    with suppress(TimeoutError):
                        await asyncio.wait_for(self._released.wait(), LONGEST_SLEEP)
                else:
                    await self._sleep(min(wait, LONGEST_SLEEP))
            now = self._clock()
            self.in_flight += 1
            self.sent += 1
            self._sent_since_pause += 1
            self._next_start = max(now, self._next_start) + self._spacing()
            if self.requests_per_minute or self.tokens_per_minute:
                self._recent.append((now, tokens))
                self._tokens += tokens
            return now

    def _wait(self, tokens: int) -> float:
        """Seconds until the next request may be sent; infinity where one must end first."""
        if self.in_flight >= self.limit:
            return math.inf
        now = self._clock()
        until = max(self.paused_until, self._next_start)
        while self._recent and self._recent[0][0] <= now - WINDOW:
            self._tokens -= self._recent.popleft()[1]
        if self._recent:
            requests_full = self.requests_per_minute and len(self._recent) + 1 > max(1.0, self.requests_per_minute)
            tokens_full = self.tokens_per_minute and self._tokens + tokens > self.tokens_per_minute
            if requests_full or tokens_full:
                until = max(until, self._recent[0][0] + WINDOW)
        return max(0.0, until - now)

    def _spacing(self) -> float:
        """Seconds from this request to the next one."""
        if self._interval:
            return self._interval
        if self.sent < START_BURST:
            return 0.0
        return next((seconds for count, seconds in START_PACE if self.sent < count), 0.0)

    def release(self) -> None:
        """The request has ended, in whatever way."""
        self.in_flight -= 1
        self._released.set()

    def answer(self, started: float) -> None:
        """A request that was sent at `started` was answered: the number in flight and the pace may grow."""
        self._refusals = 0
        self.refused_since = None
        if started >= self._pause_began:
            self.limit += 1 if self.limit < self._threshold else 1 / self.limit
            self._interval *= 0.999  # probe slowly for a limit that has risen
        self._released.set()

    def refuse(self, started: float, retry_after: float | None) -> float:
        """The server refused a request that was sent at `started` with 429; seconds that all requests wait.

        Requests that were sent before a pause began and are refused after it are of the same incident.
        """
        now = self._clock()
        if self.refused_since is None:
            self.refused_since = now
        delay = jittered_backoff(self._refusals) if retry_after is None else retry_after
        if self._refusals and started >= self._pause_began:  # the time that the server named was not enough
            delay = max(delay, jittered_backoff(self._refusals - 1))
        if started >= self._pause_began:  # sent after the last pause began: a new incident
            # Between the ends of two pauses the server has room for what it let through between them.
            since = now + delay - self.paused_until
            if self._pause_began and self._sent_since_pause > 1 and since > 0:
                self._interval = HEADROOM * since / (self._sent_since_pause - 1)
            self._threshold = max(LEAST_THRESHOLD, min(self.limit, self.in_flight) / 2)
            self.limit = LEAST_THRESHOLD if delay >= LONG_PAUSE else FIRST_LIMIT
            self._refusals += 1
            self._sent_since_pause = 0
            self._pause_began = now
        self.paused_until = max(self.paused_until, now + delay)
        return self.paused_until - now
