"""Coroutines in a bounded window, and requests in batches."""

from __future__ import annotations

import asyncio
import gc
import itertools
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from judges.engines.base import event_loop
from judges.engines.concurrency import Batcher, map_unordered


def test_of_many_that_fail_together_one_is_raised_and_the_rest_print_nothing():
    logged = []
    engines = event_loop()
    before = engines.get_exception_handler()
    engines.set_exception_handler(lambda _, context: logged.append(context["message"]))
    together = asyncio.Event()

    async def fails(number: int) -> int:
        if number == 7:
            together.set()
        await together.wait()
        raise OSError(f"disk full at {number}")

    try:
        with pytest.raises(OSError, match="disk full"):
            list(map_unordered(range(8), fails, 8, lambda _: 1))
        gc.collect()
        asyncio.run_coroutine_threadsafe(asyncio.sleep(0.05), engines).result()
    finally:
        engines.set_exception_handler(before)
    assert logged == []


def test_closing_the_stream_cancels_what_is_in_flight():
    started, cancelled = [], []

    async def slow(n):
        if n == 0:
            return n
        started.append(n)
        try:
            await asyncio.sleep(600)
        except asyncio.CancelledError:
            cancelled.append(n)
            raise

    stream = map_unordered(itertools.count(), slow, 4, lambda _: 1)
    assert next(stream) == 0
    until = time.monotonic() + 10
    while len(started) < 3 and time.monotonic() < until:
        time.sleep(0.01)
    stream.close()
    while len(cancelled) < len(started) and time.monotonic() < until:
        time.sleep(0.01)
    assert 3 <= len(started) <= 4 and sorted(cancelled) == sorted(started)


def batches(handle, elements, **options):
    """The results, or the exceptions, of elements that are submitted at once."""
    with ThreadPoolExecutor(1) as thread:

        async def submit_all():
            batcher = Batcher(handle, thread, **options)
            return await asyncio.gather(*map(batcher.submit, elements), return_exceptions=True)

        return asyncio.run_coroutine_threadsafe(submit_all(), event_loop()).result(timeout=30)


def test_elements_that_wait_together_are_one_batch_and_each_gets_its_own_result():
    seen = []

    def handle(elements):
        seen.append(elements)
        return [element * 2 for element in elements]

    assert batches(handle, [1, 2, 3]) == [2, 4, 6] and seen == [[1, 2, 3]]
    seen.clear()
    odd_first = {"select": lambda elements: [i for i, e in enumerate(elements) if e % 2] or [0], "delay": 0.001}
    assert batches(handle, [1, 2, 3, 4], **odd_first) == [2, 4, 6, 8] and seen == [[1, 3], [2], [4]]


def test_an_error_goes_to_every_element_of_its_batch_and_the_next_batch_runs():
    def handle(elements):
        if 1 in elements:
            raise OSError("disk full")
        return elements

    results = batches(handle, [1, 2, 3], select=lambda elements: [i for i, e in enumerate(elements) if e < 3] or [0])
    assert [type(result) for result in results] == [OSError, OSError, int]
