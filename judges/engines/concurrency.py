"""Concurrency of engines: `map_unordered` bounds the coroutines in flight, `Batcher` groups requests into batches."""

from __future__ import annotations

import asyncio
import queue
import threading
from collections import deque
from collections.abc import Callable, Coroutine, Iterable, Iterator, Sequence
from concurrent.futures import Executor
from functools import partial
from typing import Any, Generic, TypeVar

from judges.engines.base import event_loop, submit

A = TypeVar("A")
B = TypeVar("B")


async def gather(work: Sequence[Coroutine[Any, Any, B]]) -> list[B]:
    """The results of coroutines that run concurrently. A single one is awaited directly, without a task.

    >>> async def double(n): return 2 * n
    >>> asyncio.run(gather([double(1), double(2)])), asyncio.run(gather([double(3)]))
    ([2, 4], [6])
    """
    return [await work[0]] if len(work) == 1 else list(await asyncio.gather(*work))


def map_unordered(
    source: Iterable[A], work: Callable[[A], Coroutine[Any, Any, B]], window: int, weight: Callable[[A], int]
) -> Iterator[B]:
    """Yield work(element) for each element of the source as it finishes, in any order.

    At most `window` units are between the source and the consumer, where an element counts `weight(element)` units.
    The source is read on a thread of its own, so a finished result never waits for the next element. An
    exception of the source or of `work` is raised here. Closing the iterator cancels what is in flight.
    """
    results: queue.SimpleQueue[tuple[str, int, Any]] = queue.SimpleQueue()
    slots = threading.Condition()
    free = window
    stopped = wakeup_scheduled = False
    engine_loop = event_loop()
    pending: deque[tuple[A, int]] = deque()
    tasks: set[asyncio.Task[B]] = set()

    def start_pending() -> None:
        """On the engines' loop: start all pending work. Waking a loop is a system call, so one serves many."""
        nonlocal wakeup_scheduled
        wakeup_scheduled = False  # before the queue is read: what is added after its end schedules another
        while pending:
            element, need = pending.popleft()
            task = engine_loop.create_task(work(element))
            tasks.add(task)
            task.add_done_callback(partial(on_done, need))

    def on_done(need: int, task: asyncio.Task[B]) -> None:
        tasks.discard(task)
        if not task.cancelled():
            task.exception()  # retrieved, or asyncio logs those that the consumer never sees
        results.put(("result", need, task))

    def feed() -> None:
        nonlocal free, wakeup_scheduled
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
                    pending.append((element, need))
                count += 1
                if not wakeup_scheduled:
                    wakeup_scheduled = True
                    engine_loop.call_soon_threadsafe(start_pending)
        except BaseException as error:
            results.put(("error", 0, error))
        else:
            results.put(("end", count, None))

    async def cancel_all() -> None:
        pending.clear()
        for task in (in_flight := list(tasks)):
            task.cancel()
        if in_flight:
            await asyncio.wait(in_flight, timeout=5)

    feeder = threading.Thread(target=feed, name="assay-feed", daemon=True)
    feeder.start()
    expected: int | None = None
    received = 0
    try:
        while expected is None or received < expected:
            kind, number, value = results.get()
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
        if tasks or pending:
            submit(cancel_all()).result()


class Batcher(Generic[A, B]):
    """Groups what several coroutines submit into batches, and runs one batch at a time on a thread.

    `handle` gets the elements of a batch and returns a result for each, in their order. What it raises, every
    submitter of that batch gets. A batch holds all elements that wait when the one before is finished (`delay`
    seconds later), or those at the indices that `select` returns of them.
    """

    def __init__(
        self,
        handle: Callable[[list[A]], Sequence[B]],
        thread: Executor,
        delay: float = 0.0,
        select: Callable[[Sequence[A]], Sequence[int]] = lambda elements: range(len(elements)),
    ) -> None:
        self._handle, self._thread, self._delay, self._select = handle, thread, delay, select
        self._waiting: list[tuple[A, asyncio.Future[B]]] = []
        self._task: asyncio.Task[None] | None = None

    async def submit(self, element: A) -> B:
        """The result for one element."""
        running = asyncio.get_running_loop()
        result: asyncio.Future[B] = running.create_future()
        self._waiting.append((element, result))
        if self._task is None or self._task.done():
            self._task = running.create_task(self._run())
        return await result

    async def _run(self) -> None:
        while self._waiting:
            if self._delay:
                await asyncio.sleep(self._delay)
            selected = set(self._select([element for element, _ in self._waiting]))
            batch = [self._waiting[i] for i in sorted(selected)]
            self._waiting = [entry for i, entry in enumerate(self._waiting) if i not in selected]
            elements = [element for element, _ in batch]
            try:
                results = await asyncio.get_running_loop().run_in_executor(self._thread, self._handle, elements)
            except Exception as error:  # of whatever kind: each submitter waits for an outcome
                for _, future in batch:
                    if not future.done():
                        future.set_exception(error)
                continue
            for (_, future), result in zip(batch, results, strict=True):
                if not future.done():
                    future.set_result(result)
