"""A bounded window of coroutines in flight over a source that may pause or never end."""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Callable, Coroutine, Iterable, Iterator, Sequence
from concurrent.futures import CancelledError, Future
from typing import Any, TypeVar

from judges.engines.base import submit

A = TypeVar("A")
B = TypeVar("B")


async def together(work: Sequence[Coroutine[Any, Any, B]]) -> list[B]:
    """What several coroutines return, run at once; a lone one is awaited as it is, which is a task less.

    >>> async def double(n): return 2 * n
    >>> asyncio.run(together([double(1), double(2)])), asyncio.run(together([double(3)]))
    ([2, 4], [6])
    """
    return [await work[0]] if len(work) == 1 else list(await asyncio.gather(*work))


def in_flight(
    source: Iterable[A], work: Callable[[A], Coroutine[Any, Any, B]], window: int, weight: Callable[[A], int]
) -> Iterator[B]:
    """Yield work(a) for each a as it finishes, in any order.

    At most `window` units are between the source and the consumer, an element counting `weight` units.
    The source is read on a thread of its own, so a finished result never waits for the next element. An
    exception of the source or of `work` is raised here. Closing the iterator cancels what is in flight.
    """
    done: queue.SimpleQueue[tuple[str, Any]] = queue.SimpleQueue()
    slots = threading.Condition()
    free = window
    stopped = False
    flying: set[Future[B]] = set()

    def finished(future: Future[B]) -> None:
        done.put(("result", future))

    def feed() -> None:
        nonlocal free
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
                    future = submit(work(element))
                    future.weight = need  # type: ignore[attr-defined]
                    flying.add(future)
                count += 1
                future.add_done_callback(finished)
        except BaseException as error:
            done.put(("error", error))
        else:
            done.put(("end", count))

    feeder = threading.Thread(target=feed, name="assay-feed", daemon=True)
    feeder.start()
    expected: int | None = None
    received = 0
    try:
        while expected is None or received < expected:
            kind, value = done.get()
            if kind == "error":
                raise value
            if kind == "end":
                expected = value
                continue
            received += 1
            with slots:
                free += value.weight
                flying.discard(value)
                slots.notify()
            yield value.result()
    finally:
        with slots:
            stopped = True
            slots.notify_all()
            left = list(flying)
        for future in left:
            future.cancel()
        for future in left:
            try:
                future.exception(timeout=5)
            except (CancelledError, TimeoutError):
                continue
