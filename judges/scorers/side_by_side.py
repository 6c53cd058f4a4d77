"""Several scorers over one source, each Item given to all of them."""

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
    """The consumer has left: whoever reads the source ends."""


class _SharedSource:
    """One source, read once, given whole to each member; at most `window` responses between it and the consumer.

    So a fast member waits for a slow one, and nothing grows. Members begin one after the other: each when the
    one before asks for its first Item, which is when its model is loaded. Two that load at once would need
    the most memory at the same moment, and libraries load under settings of the whole process.
    """

    def __init__(self, members: int, window: int) -> None:
        self._changed = threading.Condition()
        self._ahead: list[deque[Item]] = [deque() for _ in range(members)]
        self._window = self._free = window
        self._turn = 0
        self._pending: dict[str, tuple[Item, list[Scorecard | None]]] = {}
        self.ended = self.stopped = False

    def put(self, item: Item, apart: bool) -> None:
        """Give an Item to every member (`apart`: to none), once there is room."""
        need = min(len(item.responses), self._window)
        with self._changed:
            self._changed.wait_for(lambda: self.stopped or self._free >= need)
            if self.stopped:
                raise _Stopped
            if item.id in self._pending:
                raise ValueError(f"two items share the id {item.id!r}; ids must be unique")
            self._free -= need
            self._pending[item.id] = (item, [None] * len(self._ahead))
            for waiting in [] if apart else self._ahead:
                waiting.append(item)
            self._changed.notify_all()

    def given_to(self, place: int) -> Iterator[Item]:
        """The source as one member sees it."""
        self.begun(place)
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._ahead[place] or self.ended or self.stopped)
                if self.stopped:
                    raise _Stopped
                if not self._ahead[place]:
                    return
                item = self._ahead[place].popleft()
            yield item

    def await_turn(self, place: int) -> None:
        with self._changed:
            self._changed.wait_for(lambda: self._turn >= place or self.stopped)

    def begun(self, place: int) -> None:
        with self._changed:
            self._turn = max(self._turn, place + 1)
            self._changed.notify_all()

    def take(self, place: int, card: Scorecard) -> tuple[Item, list[Scorecard]] | None:
        """Keep a member's card; the Item with all of them when this was the last. KeyError for an unknown id."""
        with self._changed:
            cards = self._pending[card.id][1]
            cards[place] = card
            whole = [c for c in cards if c is not None]
        return (self.leave(card.id), whole) if len(whole) == len(cards) else None

    def leave(self, id: str) -> Item:
        """The Item goes to the consumer: its room is free."""
        with self._changed:
            item, _ = self._pending.pop(id)
            self._free += min(len(item.responses), self._window)
            self._changed.notify_all()
            return item

    @property
    def pending(self) -> bool:
        with self._changed:
            return bool(self._pending)

    def lacking(self, place: int) -> list[str]:
        """The ids that a member has not judged yet."""
        with self._changed:
            return [id for id, (_, cards) in self._pending.items() if cards[place] is None]

    def end(self, stop: bool = False) -> None:
        with self._changed:
            self.ended, self.stopped = True, self.stopped or stop
            self._changed.notify_all()


def side_by_side(
    members: Sequence[tuple[str, Scorer]], items: Iterable[Item], window: int, apart: Callable[[Item], bool]
) -> Generator[tuple[Item, list[Scorecard]], None, None]:
    """Yield each Item with its members' cards as the last of them finishes; one that is `apart` with none."""
    shared = _SharedSource(len(members), window)
    events: queue.SimpleQueue[tuple[str, int, Any]] = queue.SimpleQueue()

    def read() -> None:
        try:
            for item in items:
                shared.put(item, alone := apart(item))
                if alone:
                    events.put(("apart", -1, item.id))
        except BaseException as error:
            events.put(("error", -1, error))
        else:
            shared.end()
            events.put(("end", -1, None))

    def judge(place: int) -> None:
        try:
            shared.await_turn(place)
            cards = members[place][1].stream(shared.given_to(place))
            try:
                for card in cards:
                    events.put(("card", place, card))
                    if shared.stopped:
                        return
            finally:
                getattr(cards, "close", lambda: None)()
            events.put(("left", place, shared.ended))
        except BaseException as error:
            events.put(("error", place, error))
        finally:
            shared.begun(place)

    threads = [threading.Thread(target=judge, args=(place,), daemon=True) for place in range(len(members))]
    for thread in [threading.Thread(target=read, name="assay-feed", daemon=True), *threads]:
        thread.start()
    try:
        ended = False
        while not ended or shared.pending:
            kind, place, value = events.get()
            label = members[place][0]
            if kind == "error":
                if place >= 0 and isinstance(value, CannotRun):
                    raise CannotRun(f"panel member {label}: {value}") from value
                raise value
            if kind == "end":
                ended = True
            elif kind == "apart":
                yield shared.leave(value), []
            elif kind == "left":
                if not value or shared.lacking(place):
                    raise CannotRun(f"panel member {label} ended before it had judged every item")
            else:
                try:
                    whole = shared.take(place, value)
                except KeyError:
                    raise CannotRun(f"panel member {label} judged {value.id!r}, which it was not asked") from None
                if whole is not None:
                    yield whole
    finally:
        shared.end(stop=True)
        for thread in threads:
            thread.join(timeout=5)
