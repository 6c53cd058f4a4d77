"""A rate limit loses no row and wastes few requests, whatever way the server counts: in virtual time."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable

import pytest

from judges.engines.openai.rate_limit import RateLimiter


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop whose clock jumps to the next timer."""

    now = 0.0

    def time(self) -> float:
        return self.now

    def _run_once(self) -> None:
        if not self._ready and self._scheduled:  # type: ignore[attr-defined]
            self.now = max(self.now, self._scheduled[0].when())  # type: ignore[attr-defined]
        super()._run_once()  # type: ignore[misc]


class FixedWindow:
    """So many requests in each minute by the clock."""

    def __init__(self, limit: int) -> None:
        self.limit, self.used, self.window = limit, 0, 0

    def admit(self, now: float) -> float | None:
        """None, or the seconds until there is room."""
        if self.window != int(now // 60):
            self.window, self.used = int(now // 60), 0
        if self.used >= self.limit:
            return 60 * (self.window + 1) - now
        self.used += 1
        return None


class SlidingWindow:
    """So many requests in any 60 seconds."""

    def __init__(self, limit: int) -> None:
        self.limit, self.starts = limit, list[float]()

    def admit(self, now: float) -> float | None:
        self.starts = [start for start in self.starts if start > now - 60]
        if len(self.starts) >= self.limit:
            return self.starts[0] + 60 - now
        self.starts.append(now)
        return None


class TokenBucket:
    """A bucket of so many requests that is refilled evenly over a minute."""

    def __init__(self, limit: int) -> None:
        self.limit, self.level, self.last = limit, float(limit), 0.0

    def admit(self, now: float) -> float | None:
        self.level = min(self.limit, self.level + (now - self.last) * self.limit / 60)
        self.last = now
        if self.level < 1 - 1e-9:
            return (1 - self.level) * 60 / self.limit
        self.level -= 1
        return None


def simulate(server, rows: int, latency: float, window: int = 64, says: bool = True, **limits: float):
    """(seconds, requests, RateLimiter, most in flight at the server) until every row is answered."""
    loop = VirtualLoop()
    limiter = RateLimiter(clock=loop.time, **limits)
    requests = in_flight = most = 0

    async def row(slots: asyncio.Semaphore) -> None:
        nonlocal requests, in_flight, most
        async with slots:
            while True:
                started = await limiter.acquire(100)
                assert started is not None
                requests += 1
                in_flight += 1
                most = max(most, in_flight)
                wait = server.admit(loop.time())
                await asyncio.sleep(0.01 if wait is not None else latency)
                in_flight -= 1
                limiter.release()
                if wait is None:
                    return limiter.answer(started)
                limiter.refuse(started, wait if says else None)

    async def all_rows() -> None:
        slots = asyncio.Semaphore(window)
        await asyncio.gather(*(row(slots) for _ in range(rows)))

    try:
        loop.run_until_complete(all_rows())
    finally:
        loop.close()
    return loop.now, requests, limiter, most


@pytest.mark.parametrize("latency", [0.05, 1.0, 10.0])
@pytest.mark.parametrize("kind", [FixedWindow, SlidingWindow, TokenBucket])
def test_80_rows_at_50_requests_a_minute_waste_at_most_a_tenth(kind: Callable[[int], object], latency: float):
    seconds, requests, limiter, _ = simulate(kind(50), 80, latency)
    assert requests <= 88 and limiter.in_flight == 0
    fastest = {FixedWindow: 60, SlidingWindow: 60, TokenBucket: 30 * 60 / 50}[kind] + latency
    assert seconds <= 1.2 * fastest + 2 * latency + 2


@pytest.mark.parametrize("kind", [FixedWindow, SlidingWindow, TokenBucket])
def test_a_long_run_keeps_close_to_the_limit(kind: Callable[[int], object]):
    seconds, requests, _, _ = simulate(kind(50), 600, 2.0)
    assert requests <= 660
    assert seconds <= 1.2 * 600 / 50 * 60


def test_a_server_that_names_no_time_is_asked_again_ever_more_rarely():
    _, requests, limiter, _ = simulate(FixedWindow(50), 80, 0.5, says=False)
    assert requests <= 80 + 25 and limiter.in_flight == 0


def test_without_refusals_all_are_sent_at_once():
    seconds, requests, limiter, most = simulate(FixedWindow(10**9), 5000, 1.0, window=500)
    assert requests == 5000 and most == 500 and seconds < 5000 / 500 + 6 and math.isinf(limiter.limit)


@pytest.mark.parametrize(
    ("limits", "rows"),
    [({"requests_per_minute": 50}, 130), ({"tokens_per_minute": 5000}, 130), ({"requests_per_minute": 0.5}, 3)],
)
def test_a_limit_that_is_set_is_never_exceeded(limits, rows):
    server = SlidingWindow(50)
    seconds, requests, _, _ = simulate(server, rows, 1.0, **limits)
    assert requests == rows
    assert seconds < (rows // 50) * 60 + 5 if rows > 3 else seconds >= 120


def test_a_request_that_alone_exceeds_the_tokens_per_minute_is_sent_all_the_same():
    assert simulate(FixedWindow(50), 2, 1.0, tokens_per_minute=10)[1] == 2


def test_refusals_halve_the_requests_in_flight_and_answers_raise_them():
    async def scenario() -> None:
        limiter = RateLimiter()
        started = [await limiter.acquire() for _ in range(32)]
        assert all(start is not None for start in started)
        limiter.refuse(started[0] or 0.0, 0.0)
        limiter.refuse(started[1] or 0.0, 0.0)  # the same incident
        for _ in range(32):
            limiter.release()
        assert limiter.limit == 1
        now = await limiter.acquire() or 0.0
        for expected in range(2, 17):
            limiter.answer(now)
            assert limiter.limit == expected, "by one with each answer up to the half of before"
        limiter.answer(now)
        assert 16 < limiter.limit < 16.1, "from there by one with each round"

    asyncio.run(scenario())


def test_a_waiting_request_leaves_for_another_server():
    async def scenario() -> None:
        limiter = RateLimiter()
        started = await limiter.acquire()
        assert started is not None
        limiter.refuse(started, 3600)
        limiter.release()
        assert await limiter.acquire(leave=lambda: True) is None and limiter.in_flight == 0

    asyncio.run(scenario())
