"""Fan-out: several scorers read one source of Items concurrently, and each Item is given to all of them."""

from __future__ import annotations

import queue
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from typing import Any

from judges.errors import CannotRun
from judges.scorer import Scorer
from judges.types import Item, Scorecard


class _Stopped(Exception):
    """The consumer has closed the stream; every thread that reads the source ends."""


class _SharedSource:
    """A source that is read once and given to each member, with at most `window` responses between it and the consumer.

    A fast member waits for a slow one, so memory is bounded. Members start one after the other: each when the previous
    one takes its first Item, which is when that one's model is loaded. Two models that load at the same time would need
    their peak memory together, and libraries change settings of the whole process while they load.
    """

    def __init__(self, members: int, window: int) -> None:
        self._changed = threading.Condition()
        self._queues: list[deque[Item]] = [deque() for _ in range(members)]
        self._window = self._free = window
        self._turn = 0
        self._pending: dict[str, tuple[Item, list[Scorecard | None]]] = {}
        self.ended = self.stopped = False

    def put(self, item: Item, skip: bool) -> None:
        """Give an Item to every member (to none with `skip`), once there is room."""
        need = min(len(item.responses), self._window)
        with self._changed:
            self._changed.wait_for(lambda: self.stopped or self._free >= need)
            if self.stopped:
                raise _Stopped
            if item.id in self._pending:
                raise ValueError(f"two items share the id {item.id!r}; ids must be unique")
            self._free -= need
            self._pending[item.id] = (item, [None] * len(self._queues))
            for member_queue in [] if skip else self._queues:
                member_queue.append(item)
            self._changed.notify_all()

    def items_for(self, member: int) -> Iterator[Item]:
        """The source as one member reads it."""
        self.mark_started(member)
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._queues[member] or self.ended or self.stopped)
                if self.stopped:
                    raise _Stopped
                if not self._queues[member]:
                    return
                item = self._queues[member].popleft()
            yield item

    def await_turn(self, member: int) -> None:
        with self._changed:
            self._changed.wait_for(lambda: self._turn >= member or self.stopped)

    def mark_started(self, member: int) -> None:
        with self._changed:
            self._turn = max(self._turn, member + 1)
            self._changed.notify_all()

    def add_card(self, member: int, card: Scorecard) -> tuple[Item, list[Scorecard]] | None:
        """Store a member's card. Returns the Item and all cards after the last one. KeyError for an unknown id."""
        with self._changed:
            cards = self._pending[card.id][1]
            cards[member] = card
            complete = [c for c in cards if c is not None]
        return (self.release(card.id), complete) if len(complete) == len(cards) else None

    def release(self, id: str) -> Item:
        """Hand an Item to the consumer, which makes room for others."""
        with self._changed:
            item, _ = self._pending.pop(id)
            self._free += min(len(item.responses), self._window)
            self._changed.notify_all()
            return item

    @property
    def pending(self) -> bool:
        with self._changed:
            return bool(self._pending)

    def is_waiting_for(self, member: int) -> bool:
        """Whether there are Items that a member has not judged yet."""
        with self._changed:
            return any(cards[member] is None for _, cards in self._pending.values())

    def end(self, stop: bool = False) -> None:
        with self._changed:
            self.ended, self.stopped = True, self.stopped or stop
            self._changed.notify_all()


def fan_out(
    members: Sequence[tuple[str, Scorer]], items: Iterable[Item], window: int, skip: Callable[[Item], bool]
) -> Generator[tuple[Item, list[Scorecard]], None, None]:
    """Yield each Item with its Scorecards, in the order of the members, when the last member has judged it.

    `members` are (label, scorer). An Item for which `skip` is true is given to no member and has no Scorecards.
    Raises CannotRun, with the member's label, where a member cannot run, drops an Item, or judges an unknown one;
    ValueError for two Items with one id in flight; and any error of the source.
    """
    shared = _SharedSource(len(members), window)
    events: queue.SimpleQueue[tuple[str, int, Any]] = queue.SimpleQueue()

    def read() -> None:
        try:
            for item in items:
                shared.put(item, skipped := skip(item))
                if skipped:
                    events.put(("skipped", -1, item.id))
        except BaseException as error:
            events.put(("error", -1, error))
        else:
            shared.end()
            events.put(("end", -1, None))

    def judge(member: int) -> None:
        try:
            shared.await_turn(member)
            cards = members[member][1].stream(shared.items_for(member))
            try:
                for card in cards:
                    events.put(("card", member, card))
                    if shared.stopped:
                        return
            finally:
                getattr(cards, "close", lambda: None)()
            events.put(("finished", member, shared.ended))
        except BaseException as error:
            events.put(("error", member, error))
        finally:
            shared.mark_started(member)

    threads = [threading.Thread(target=judge, args=(member,), daemon=True) for member in range(len(members))]
    for thread in [threading.Thread(target=read, name="assay-feed", daemon=True), *threads]:
        thread.start()
    try:
        ended = False
        while not ended or shared.pending:
            kind, member, value = events.get()
            label = members[member][0]
            if kind == "error":
                if member >= 0 and isinstance(value, CannotRun):
                    raise CannotRun(f"panel member {label}: {value}") from value
                raise value
            if kind == "end":
                ended = True
            elif kind == "skipped":
                yield shared.release(value), []
            elif kind == "finished":
                if not value or shared.is_waiting_for(member):
                    raise CannotRun(f"panel member {label} ended before it had judged every item")
            else:
                try:
                    result = shared.add_card(member, value)
                except KeyError:
                    raise CannotRun(f"panel member {label} judged {value.id!r}, which it was not given") from None
                if result is not None:
                    yield result
    finally:
        shared.end(stop=True)
        for thread in threads:
            thread.join(timeout=5)
