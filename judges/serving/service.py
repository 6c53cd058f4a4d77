"""The request queue of the server: many clients share one endless `scorer.stream` behind a bounded queue."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from typing import Literal

from judges.errors import CannotRun
from judges.scorer import Scorer
from judges.types import Item, Scorecard

State = Literal["opening", "ready", "draining", "failed", "ended"]
RefusalReason = Literal["opening", "ready", "draining", "failed", "ended", "full", "too-many"]
# Scored before the first request: its Scorecard proves that the models are loaded and respond.
WARM_UP = Item(id="warm-up", prompt="What is 2 + 2?", responses=["It is 4.", "It is 22, I think."])
_FATAL_REASONS = ("server", "engine", "timeout")
_MESSAGES: dict[RefusalReason, str] = {
    "opening": "the scorer is being opened; retry later",
    "draining": "the server is about to stop",
    "ended": "the server stopped before the request was scored",
}


class RequestRefused(Exception):
    """A request that is not scored. `reason` is the state of the service, "full" or "too-many"."""

    def __init__(self, reason: RefusalReason, message: str = "") -> None:
        super().__init__(message or _MESSAGES.get(reason, reason))
        self.reason = reason


@dataclass(frozen=True, slots=True)
class QueueDepth:
    """Admitted responses without a result: `waiting` for the scorer, or `in_flight` in it."""

    waiting: int = 0
    in_flight: int = 0


@dataclass(frozen=True, eq=False, slots=True)
class _QueuedItem:
    item: Item
    future: Future[Scorecard] = field(default_factory=Future)

    @property
    def responses(self) -> int:
        return len(self.item.responses)


class Service:
    """Scores Items for many concurrent clients, through one stream on a thread of its own.

    At most `limit` responses are waiting or in flight; a request is admitted or refused as a unit. A scorer that
    raises, or whose stream ends, fails all current and later requests. `on_card` is called with the Scorecard of
    every request, including those whose client has disconnected.

    >>> from judges import load_scorer
    >>> async def score():
    ...     service = Service(load_scorer("length"), limit=8)
    ...     await service.open()
    ...     cards = await service.judge([Item(id="a", prompt="Hi", responses=["four", "fiver"])])
    ...     service.stop()
    ...     return [judgment.score for judgment in cards[0].judgments]
    >>> asyncio.run(score())
    [4.0, 5.0]
    """

    def __init__(self, scorer: Scorer, limit: int, on_card: Callable[[Scorecard], None] = lambda _: None) -> None:
        if limit < 1:
            raise CannotRun("the queue must hold at least 1 response")
        self.name, self.limit = scorer.name, limit
        self._scorer, self._on_card = scorer, on_card
        self._changed = threading.Condition()
        self._state: State = "opening"
        self._error = ""
        self._waiting: OrderedDict[str, _QueuedItem] = OrderedDict()
        self._in_flight: dict[str, _QueuedItem] = {}
        self._depth = QueueDepth()
        self._serial = 0
        self._thread = threading.Thread(target=self._run, name="assay-serve", daemon=True)

    @property
    def state(self) -> State:
        return self._state

    @property
    def error(self) -> str:
        """The error of a failed scorer; empty before that."""
        return self._error

    @property
    def depth(self) -> QueueDepth:
        return self._depth

    async def open(self) -> None:
        """Open the scorer and score one short row. Raises CannotRun when it cannot be opened or does not respond."""
        queued = self._enqueue([WARM_UP])
        self._thread.start()
        try:
            (card,) = await self._cards(queued)
        except RequestRefused as error:
            raise CannotRun(str(error)) from error
        failed = [j.failure for j in card.judgments if j.failure is not None and j.failure.reason in _FATAL_REASONS]
        if len(failed) == len(card.judgments):
            raise CannotRun(f"the scorer does not respond: {failed[0]}")
        with self._changed:
            if self._state == "opening":
                self._state = "ready"

    async def judge(self, items: Sequence[Item]) -> list[Scorecard]:
        """The Scorecards of Items, in their order. Raises RequestRefused.

        When the call is cancelled, Items that the scorer has not started leave the queue, and the Scorecards of the
        others are discarded.
        """
        need = sum(len(item.responses) for item in items)
        with self._changed:
            if self._state != "ready":
                raise RequestRefused(self._state, self._error)
            if need > self.limit:
                raise RequestRefused("too-many", f"{need} responses in one request; the queue holds {self.limit}")
            if self._depth.waiting + self._depth.in_flight + need > self.limit:
                raise RequestRefused(
                    "full", f"the queue of {self.limit} responses has no room for {need} more; retry later"
                )
            queued = self._enqueue(items)
        return await self._cards(queued)

    def drain(self) -> None:
        """Refuse new requests; admitted ones are still scored."""
        with self._changed:
            if self._state in ("opening", "ready"):
                self._state = "draining"

    def stop(self, seconds: float = 2.0) -> bool:
        """End the stream and refuse waiting requests. Returns whether the scorer's thread ended within `seconds`."""
        self._shut_down("ended", "")
        if self._thread.ident is not None:
            self._thread.join(seconds)
        return not self._thread.is_alive()

    def _enqueue(self, items: Sequence[Item]) -> list[_QueuedItem]:
        queued: list[_QueuedItem] = []
        with self._changed:
            for item in items:
                # An Item keeps its id where possible, because judges derive random seeds from it.
                id = item.id
                while id in self._waiting or id in self._in_flight:
                    self._serial += 1
                    id = f"{item.id}#{self._serial}"
                self._waiting[id] = _QueuedItem(replace(item, id=id))
                queued.append(self._waiting[id])
            self._update_depth(waiting=sum(entry.responses for entry in queued))
            self._changed.notify_all()
        return queued

    async def _cards(self, queued: Sequence[_QueuedItem]) -> list[Scorecard]:
        try:
            return list(await asyncio.gather(*(asyncio.wrap_future(entry.future) for entry in queued)))
        finally:
            with self._changed:
                for entry in queued:
                    if self._waiting.get(entry.item.id) is entry:
                        del self._waiting[entry.item.id]
                        self._update_depth(waiting=-entry.responses)

    def _update_depth(self, waiting: int = 0, in_flight: int = 0) -> None:
        # One object is replaced at once, so that a reader never counts a response twice.
        self._depth = QueueDepth(self._depth.waiting + waiting, self._depth.in_flight + in_flight)

    # -- the scorer's thread --------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            cards = self._scorer.stream(self._source())
            try:
                for card in cards:
                    self._deliver(card)
                    if self._state == "ended":
                        return
            finally:  # cancels requests in flight
                getattr(cards, "close", lambda: None)()
            self._shut_down("failed", "the scorer ended its stream")
        except CannotRun as error:
            self._shut_down("failed", str(error))
        except BaseException as error:
            if self._state != "ended":
                logging.getLogger(__name__).exception("the scorer failed")
            self._shut_down("failed", f"the scorer failed: {type(error).__name__}: {error}")

    def _source(self) -> Iterator[Item]:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._state in ("ended", "failed"))
                if self._state in ("ended", "failed"):
                    return
                id, entry = self._waiting.popitem(last=False)
                self._in_flight[id] = entry
                self._update_depth(waiting=-entry.responses, in_flight=entry.responses)
            yield entry.item

    def _deliver(self, card: Scorecard) -> None:
        with self._changed:
            if self._state == "ended":
                return
            entry = self._in_flight.get(card.id)
            if entry is None or len(card.judgments) != entry.responses:
                raise CannotRun(f"the scorer returned a Scorecard for {card.id!r} that does not match a request")
            del self._in_flight[card.id]
            self._update_depth(in_flight=-entry.responses)
        if entry.item.id != WARM_UP.id:
            self._on_card(card)
        if entry.future.set_running_or_notify_cancel():
            entry.future.set_result(card)

    def _shut_down(self, state: Literal["ended", "failed"], error: str) -> None:
        with self._changed:
            if self._state in ("ended", "failed"):
                return
            self._state, self._error = state, error
            unfinished = [*self._waiting.values(), *self._in_flight.values()]
            self._waiting.clear()
            self._in_flight.clear()
            self._depth = QueueDepth()
            self._changed.notify_all()
        for entry in unfinished:
            if entry.future.set_running_or_notify_cancel():
                entry.future.set_exception(RequestRefused(state, error))
