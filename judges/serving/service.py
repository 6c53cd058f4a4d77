"""One endless `scorer.stream` for everybody: a bounded queue in front of it, and each Scorecard to who waits for it."""

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
Reason = Literal["opening", "ready", "draining", "failed", "ended", "full", "too-many"]
# Judged before anybody is served: its Scorecard is how one knows that models are loaded and answer.
WARM_UP = Item(id="warm-up", prompt="What is 2 + 2?", responses=["It is 4.", "It is 22, I think."])
_FATAL = ("server", "engine", "timeout")
_SAID: dict[Reason, str] = {
    "opening": "the scorer is being opened; ask again",
    "draining": "the server is about to stop",
    "ended": "the server stopped before this was judged",
}


class Refused(Exception):
    """Why a request has no answer. `reason` is a state of the service, or "full", or "too-many"."""

    def __init__(self, reason: Reason, message: str = "") -> None:
        super().__init__(message or _SAID.get(reason, reason))
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Depth:
    """Responses that were admitted and have no answer yet: `waiting` for the scorer, or `in_flight` in it."""

    waiting: int = 0
    in_flight: int = 0


@dataclass(frozen=True, eq=False, slots=True)
class _Asked:
    item: Item
    future: Future[Scorecard] = field(default_factory=Future)

    @property
    def weight(self) -> int:
        return len(self.item.responses)


class Service:
    """Judges Items for many who ask at once, through one stream on a thread of its own.

    At most `limit` responses are waiting or in flight: a request is admitted whole or refused whole. A scorer
    that raises, or whose stream ends by itself, fails all who wait, and everybody after them. `on_card` sees
    every Scorecard that was asked for, also one whose asker has left.

    >>> from judges import load_scorer
    >>> async def ask():
    ...     service = Service(load_scorer("length"), limit=8)
    ...     await service.open()
    ...     cards = await service.judge([Item(id="a", prompt="Hi", responses=["four", "fiver"])])
    ...     service.stop()
    ...     return [judgment.score for judgment in cards[0].judgments]
    >>> asyncio.run(ask())
    [4.0, 5.0]
    """

    def __init__(self, scorer: Scorer, limit: int, on_card: Callable[[Scorecard], None] = lambda _: None) -> None:
        if limit < 1:
            raise CannotRun("the queue holds at least 1 response")
        self.name, self.limit = scorer.name, limit
        self._scorer, self._on_card = scorer, on_card
        self._changed = threading.Condition()
        self._state: State = "opening"
        self._why = ""
        self._waiting: OrderedDict[str, _Asked] = OrderedDict()
        self._begun: dict[str, _Asked] = {}
        self._depth = Depth()
        self._serial = 0
        self._thread = threading.Thread(target=self._run, name="assay-serve", daemon=True)

    @property
    def state(self) -> State:
        return self._state

    @property
    def why(self) -> str:
        """What the scorer died of; empty while it lives."""
        return self._why

    @property
    def depth(self) -> Depth:
        return self._depth

    async def open(self) -> None:
        """Open the scorer by judging one short row. Raises CannotRun when it cannot be opened or does not answer."""
        asked = self._put([WARM_UP])
        self._thread.start()
        try:
            (card,) = await self._cards(asked)
        except Refused as error:
            raise CannotRun(str(error)) from error
        failed = [j.failure for j in card.judgments if j.failure is not None and j.failure.reason in _FATAL]
        if len(failed) == len(card.judgments):
            raise CannotRun(f"the scorer does not answer: {failed[0]}")
        with self._changed:
            if self._state == "opening":
                self._state = "ready"

    async def judge(self, items: Sequence[Item]) -> list[Scorecard]:
        """The Scorecards of some Items, in their order. Raises Refused.

        Whoever is cancelled while waiting leaves nothing behind: what the scorer has not begun leaves the
        queue, the rest is thrown away when it comes.
        """
        need = sum(len(item.responses) for item in items)
        with self._changed:
            if self._state != "ready":
                raise Refused(self._state, self._why)
            if need > self.limit:
                raise Refused("too-many", f"{need} responses in one request; the queue holds {self.limit}")
            if self._depth.waiting + self._depth.in_flight + need > self.limit:
                raise Refused("full", f"the queue of {self.limit} responses has no room for {need} more; ask again")
            asked = self._put(items)
        return await self._cards(asked)

    def drain(self) -> None:
        """Refuse all that comes from now on; what was admitted goes on."""
        with self._changed:
            if self._state in ("opening", "ready"):
                self._state = "draining"

    def stop(self, seconds: float = 2.0) -> bool:
        """End the stream; whoever still waits is refused. False when the scorer does not let go in time."""
        self._end("ended", "")
        if self._thread.ident is not None:
            self._thread.join(seconds)
        return not self._thread.is_alive()

    # -- askers ---------------------------------------------------------------------------------------------

    def _put(self, items: Sequence[Item]) -> list[_Asked]:
        asked: list[_Asked] = []
        with self._changed:
            for item in items:
                # An Item keeps its id where it can: judges that draw at random draw by it.
                id = item.id
                while id in self._waiting or id in self._begun:
                    self._serial += 1
                    id = f"{item.id}#{self._serial}"
                one = _Asked(replace(item, id=id))
                self._waiting[id] = one
                asked.append(one)
            self._move(waiting=sum(one.weight for one in asked))
            self._changed.notify_all()
        return asked

    async def _cards(self, asked: Sequence[_Asked]) -> list[Scorecard]:
        try:
            return list(await asyncio.gather(*(asyncio.wrap_future(one.future) for one in asked)))
        finally:
            with self._changed:
                for one in asked:
                    if self._waiting.get(one.item.id) is one:
                        del self._waiting[one.item.id]
                        self._move(waiting=-one.weight)

    def _move(self, waiting: int = 0, in_flight: int = 0) -> None:
        # One value, replaced as a whole: who reads it never sees a response twice.
        self._depth = Depth(self._depth.waiting + waiting, self._depth.in_flight + in_flight)

    # -- the scorer's thread --------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            cards = self._scorer.stream(self._source())
            try:
                for card in cards:
                    self._deliver(card)
                    if self._state == "ended":
                        return
            finally:  # cancel what is in flight, where the scorer has something in flight
                getattr(cards, "close", lambda: None)()
            self._end("failed", "the scorer ended before it was asked to")
        except CannotRun as error:
            self._end("failed", str(error))
        except BaseException as error:
            if self._state != "ended":
                logging.getLogger(__name__).exception("the scorer failed")
            self._end("failed", f"the scorer failed: {type(error).__name__}: {error}")

    def _source(self) -> Iterator[Item]:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._state in ("ended", "failed"))
                if self._state in ("ended", "failed"):
                    return
                id, one = self._waiting.popitem(last=False)
                self._begun[id] = one
                self._move(waiting=-one.weight, in_flight=one.weight)
            yield one.item

    def _deliver(self, card: Scorecard) -> None:
        with self._changed:
            if self._state == "ended":
                return
            one = self._begun.get(card.id)
            if one is None or len(card.judgments) != one.weight:
                raise CannotRun(f"the scorer judged {card.id!r}, which it was not asked in this way")
            del self._begun[card.id]
            self._move(in_flight=-one.weight)
        if one.item.id != WARM_UP.id:
            self._on_card(card)
        if one.future.set_running_or_notify_cancel():
            one.future.set_result(card)

    def _end(self, state: Literal["ended", "failed"], why: str) -> None:
        with self._changed:
            if self._state in ("ended", "failed"):
                return
            self._state, self._why = state, why
            left = [*self._waiting.values(), *self._begun.values()]
            self._waiting.clear()
            self._begun.clear()
            self._depth = Depth()
            self._changed.notify_all()
        for one in left:
            if one.future.set_running_or_notify_cancel():
                one.future.set_exception(Refused(state, why))
