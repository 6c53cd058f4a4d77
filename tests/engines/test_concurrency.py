"""Many in flight at once, and what is heard of them when all fail."""

from __future__ import annotations

import asyncio
import gc

import pytest

from judges.engines.base import loop
from judges.engines.concurrency import map_unordered


def test_of_many_that_fail_together_one_is_raised_and_the_rest_print_nothing():
    told = []
    engines = loop()
    before = engines.get_exception_handler()
    engines.set_exception_handler(lambda _, context: told.append(context["message"]))
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
    assert told == []
