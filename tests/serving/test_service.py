"""What many askers get from one stream: their own answers, whole or refused, and a clear end."""

from __future__ import annotations

import asyncio
import threading

import pytest
from serving_scorers import Held, until

from judges import CannotRun, Failure, Item, Judgment, Scorecard, load_scorer
from judges.scorer import Scorer
from judges.serving.service import Depth, Refused, Service
from judges.types import REAL_LINE


def item(id: str, *responses: str) -> Item:
    return Item(id=id, prompt="p", responses=responses)


def run(work):
    return asyncio.run(asyncio.wait_for(work, 60))


def test_each_asker_gets_its_own_answers_in_its_own_order_whatever_order_they_come_in():
    async def ask():
        scorer = Held()
        service = Service(scorer, limit=1000)
        await service.open()
        scorer.go.set()
        asked = [[item("same", "x" * (10 * k + i + 1), "y") for i in range(5)] for k in range(20)]
        told = await asyncio.gather(*(service.judge(items) for items in asked))
        assert service.depth == Depth(0, 0)
        assert service.stop()
        return [[[j.score for j in card.judgments] for card in cards] for cards in told], scorer.seen

    told, seen = run(ask())
    assert told == [[[10 * k + i + 1.0, 1.0] for i in range(5)] for k in range(20)]
    assert len({one.id for one in seen}) == len(seen) == 101


def test_a_request_is_admitted_whole_or_refused_whole_and_the_bound_holds():
    async def ask():
        scorer = Held(window=4)
        service = Service(scorer, limit=6)
        await service.open()
        first = asyncio.ensure_future(service.judge([item("a", "1", "22"), item("b", "333", "4444")]))
        await asyncio.sleep(0)
        with pytest.raises(Refused) as full:
            await service.judge([item("c", "1"), item("d", "1", "1")])  # 4 are there, 2 would fit, 3 do not
        fits = asyncio.ensure_future(service.judge([item("e", "12345", "123456")]))
        await asyncio.sleep(0)
        with pytest.raises(Refused):
            await service.judge([item("f", "1")])
        with pytest.raises(Refused) as many:
            await service.judge([item("g", *"1234567")])
        assert service.depth.waiting + service.depth.in_flight == 6
        scorer.go.set()
        assert [[j.score for j in c.judgments] for c in await first] == [[1.0, 2.0], [3.0, 4.0]]
        assert [[j.score for j in c.judgments] for c in await fits] == [[5.0, 6.0]]
        again = await service.judge([item("f", "1")])
        service.stop()
        return full.value.reason, many.value.reason, again, {one.id for one in scorer.seen}

    full, many, again, seen = run(ask())
    assert (full, many) == ("full", "too-many") and again[0].judgments[0].score == 1
    assert seen == {"warm-up", "a", "b", "e", "f"}


def test_who_leaves_while_waiting_frees_the_queue_and_what_was_begun_frees_it_when_it_comes():
    counted = []

    async def ask():
        scorer = Held(window=2)
        service = Service(scorer, limit=4, on_card=counted.append)
        await service.open()
        asked = asyncio.ensure_future(service.judge([item(id, "1") for id in "abcd"]))
        # The warm-up, a and b: the window is full, and c may wait for its place in it.
        await asyncio.to_thread(until, lambda: len(scorer.seen) == 3)
        asked.cancel()
        await asyncio.gather(asked, return_exceptions=True)
        left = service.depth
        assert left.waiting == 0 and left.in_flight in (2, 3)
        scorer.go.set()
        await asyncio.to_thread(until, lambda: service.depth == Depth(0, 0))
        told = await service.judge([item(id, "12") for id in "wxyz"])
        service.stop()
        assert "d" not in {one.id for one in scorer.seen}
        return told

    assert [c.judgments[0].score for c in run(ask())] == [2.0] * 4
    assert {"a", "b"} <= {card.id for card in counted} <= {*"abcwxyz"}


class Dies(Scorer):
    name = "dies"
    scale = REAL_LINE

    def __init__(self, how):
        self.how, self.asked = how, threading.Semaphore(0)

    def stream(self, items):
        for number, one in enumerate(items):
            if number == 0:
                yield Scorecard(one.id, tuple(Judgment(score=0.0) for _ in one.responses))
            elif number == 2:
                card = self.how(one)
                if card is None:
                    return
                yield card


def broken(_):
    raise RuntimeError("out of memory")


def gone(_):
    raise CannotRun("the model server is down")


@pytest.mark.parametrize(
    ("how", "why"),
    [
        (broken, "RuntimeError: out of memory"),
        (gone, "the model server is down"),
        (lambda _: None, "ended before it was asked to"),
        (lambda one: Scorecard("another", (Judgment(score=1.0),)), "judged 'another', which it was not asked"),
        (lambda one: Scorecard(one.id, (Judgment(score=1.0),) * 2), "which it was not asked in this way"),
    ],
)
def test_a_scorer_that_dies_fails_all_who_wait_and_all_who_come_after(how, why):
    async def ask():
        service = Service(Dies(how), limit=10)
        await service.open()
        told = await asyncio.gather(
            *(service.judge([item(id, "1")]) for id in "abc"), return_exceptions=True
        )  # a is never answered, b is what it dies of, c waits behind
        with pytest.raises(Refused) as later:
            await service.judge([item("d", "1")])
        service.stop()
        return service, told, later.value

    service, told, later = run(ask())
    for refused in (*told, later):
        assert isinstance(refused, Refused) and refused.reason == "failed" and why in str(refused)
    assert service.state == "failed" and why in service.why and service.depth == Depth(0, 0)


class NeverOpens(Scorer):
    name = "never-opens"
    scale = REAL_LINE

    def __init__(self, failure=None):
        self.failure = failure

    def stream(self, items):
        if self.failure is None:
            raise CannotRun("no model 'x'")
        for one in items:
            yield Scorecard(one.id, tuple(Judgment(failure=self.failure) for _ in one.responses))


@pytest.mark.parametrize(
    ("scorer", "why"),
    [
        (NeverOpens(), "no model 'x'"),
        (NeverOpens(Failure("server", "connection refused")), "does not answer: server: connection refused"),
    ],
)
def test_a_scorer_that_cannot_be_opened_is_told_at_once(scorer, why):
    with pytest.raises(CannotRun, match=why):
        run(Service(scorer, limit=1).open())


def test_a_judge_that_cannot_read_its_own_warm_up_is_still_open():
    async def ask():
        service = Service(NeverOpens(Failure("missing", "no verdict")), limit=1)
        await service.open()
        (card,) = await service.judge([item("a", "1")])
        service.stop()
        return card

    assert run(ask()).judgments[0].failure.reason == "missing"


def test_draining_refuses_what_comes_and_finishes_what_was_admitted_and_stopping_refuses_that_too():
    async def ask():
        scorer = Held(window=1)
        service = Service(scorer, limit=10)
        with pytest.raises(Refused) as early:
            await service.judge([item("early", "1")])
        await service.open()
        admitted = asyncio.ensure_future(service.judge([item("a", "1"), item("b", "22")]))
        await asyncio.sleep(0)
        service.drain()
        with pytest.raises(Refused) as draining:
            await service.judge([item("c", "1")])
        scorer.go.set()
        told = await admitted
        scorer.go.clear()
        service.stop(0)
        with pytest.raises(Refused) as ended:
            await service.judge([item("d", "1")])
        return [early.value.reason, draining.value.reason, ended.value.reason], told

    reasons, told = run(ask())
    assert reasons == ["opening", "draining", "ended"]
    assert [c.judgments[0].score for c in told] == [1.0, 2.0]


def test_whoever_waits_when_it_is_stopped_is_refused():
    async def ask():
        service = Service(Held(), limit=10)
        await service.open()
        waiting = asyncio.ensure_future(service.judge([item("a", "1")]))
        await asyncio.sleep(0.05)
        service.stop(0)
        with pytest.raises(Refused) as ended:
            await waiting
        return ended.value.reason

    assert run(ask()) == "ended"


def test_a_comparing_judge_and_an_empty_request_are_served_like_any_other():
    async def ask():
        service = Service(load_scorer("random"), limit=1)
        await service.open()
        empty, two = await service.judge([]), None
        with pytest.raises(Refused):
            two = await service.judge([item("a", "1", "2")])
        service.stop()
        return empty, two

    assert run(ask()) == ([], None)
