"""A bounded window of coroutines in flight over a source that may pause or never end."""

from __future__ import annotations

import asyncio
import queue
import threading
from collections import deque
from collections.abc import Callable, Coroutine, Iterable, Iterator, Sequence
from functools import partial
from typing import Any, TypeVar

from judges.engines.base import loop, submit

A = TypeVar("A")
B = TypeVar("B")


async def gather(work: Sequence[Coroutine[Any, Any, B]]) -> list[B]:
    """What several coroutines return, run at once; a lone one is awaited as it is, which is a task less.

    >>> async def double(n): return 2 * n
    >>> asyncio.run(gather([double(1), double(2)])), asyncio.run(gather([double(3)]))
    ([2, 4], [6])
    """
    return [await work[0]] if len(work) == 1 else list(await asyncio.gather(*work))


def map_unordered(
    source: Iterable[A], work: Callable[[A], Coroutine[Any, Any, B]], window: int, weight: Callable[[A], int]
) -> Iterator[B]:
    """Yield work(a) for each a as it finishes, in any order.

    At most `window` units are between the source and the consumer, an element counting `weight` units.
    The source is read on a thread of its own, so a finished result never waits for the next element. An
    exception of the source or of `work` is raised here. Closing the iterator cancels what is in flight.
    """
    done: queue.SimpleQueue[tuple[str, int, Any]] = queue.SimpleQueue()
    slots = threading.Condition()
    free = window
    stopped = waking = False
    engines = loop()
    asked: deque[tuple[A, int]] = deque()
    flying: set[asyncio.Task[B]] = set()

    def start() -> None:
        """On the engines' loop: begin all that was asked. Waking a loop is a system call: one serves many."""
        nonlocal waking
        waking = False  # before the first is taken: what comes behind the last one wakes it again
        while asked:
            element, need = asked.popleft()
            task = engines.create_task(work(element))
            flying.add(task)
            task.add_done_callback(partial(finished, need))

    def finished(need: int, task: asyncio.Task[B]) -> None:
        flying.discard(task)
        if not task.cancelled():
            task.exception()  # asked for: of many that fail at once the consumer sees the first, asyncio tells the rest
        done.put(("result", need, task))

    def feed() -> None:
        nonlocal free, waking
        count = 0
        try:
            for element in source:
                need = max(1, min(weight(element), window))
                with slots:
                    while not stopped and free < need:
                        slots.wait()
                    if stopped:
                        return
                    free -= need
                    asked.append((element, need))
                count += 1
                if not waking:
                    waking = True
                    engines.call_soon_threadsafe(start)
        except BaseException as error:
            done.put(("error", 0, error))
        else:
            done.put(("end", count, None))

    async def leave() -> None:
        asked.clear()
        left = list(flying)
        for task in left:
            task.cancel()
        if left:
            await asyncio.wait(left, timeout=5)

    feeder = threading.Thread(target=feed, name="assay-feed", daemon=True)
    feeder.start()
    expected: int | None = None
    received = 0
    try:
        while expected is None or received < expected:
            kind, number, value = done.get()
            if kind == "error":
                raise value
            if kind == "end":
                expected = number
                continue
            received += 1
            with slots:
                free += number
                slots.notify()
            yield value.result()
    finally:
        with slots:
            stopped = True
            slots.notify_all()
        if flying or asked:
            submit(leave()).result()
