"""Concurrent clients of entry stream get their own Scorecards, or a refusal with a reason."""

from __future__ import annotations

import asyncio

import pytest
from serving_scorers import HeldScorer, wait_until

from judges import CannotRun, Failure, Item, Judgment, Scorecard, load_scorer
from judges.scorer import Scorer
from judges.serving.service import QueueDepth, RequestRefused, Service
from judges.types import REAL_LINE


def item(id: str, *responses: str) -> Item:
    return Item(id=id, prompt="p", responses=responses)


def run(work):
    return asyncio.run(asyncio.wait_for(work, 60))


def test_each_client_gets_its_own_cards_in_its_own_order():
    async def ask():
        scorer = HeldScorer()
        service = Service(scorer, limit=1000)
        await service.open()
        scorer.go.set()
        requests = [[item("same", "x" * (10 * k + i + 1), "y") for i in range(5)] for k in range(20)]
        results = await asyncio.gather(*(service.judge(items) for items in requests))
        assert service.depth == QueueDepth(0, 0)
        assert service.stop()
        return [[[j.score for j in card.judgments] for card in cards] for cards in results], scorer.seen

    results, seen = run(ask())
    assert results == [[[10 * k + i + 1.0, 1.0] for i in range(5)] for k in range(20)]
    assert len({entry.id for entry in seen}) == len(seen) == 101


def test_a_request_is_admitted_or_refused_as_a_unit_within_the_limit():
    async def ask():
        scorer = HeldScorer(window=4)
        service = Service(scorer, limit=6)
        await service.open()
        first = asyncio.ensure_future(service.judge([item("a", "1", "22"), item("b", "333", "4444")]))
        await asyncio.sleep(0)
        with pytest.raises(RequestRefused) as full:
            await service.judge([item("c", "1"), item("d", "1", "1")])  # 4 are queued; 2 more fit, 3 do not
        fits = asyncio.ensure_future(service.judge([item("e", "12345", "123456")]))
        await asyncio.sleep(0)
        with pytest.raises(RequestRefused):
            await service.judge([item("f", "1")])
        with pytest.raises(RequestRefused) as many:
            await service.judge([item("g", *"1234567")])
        assert service.depth.waiting + service.depth.in_flight == 6
        scorer.go.set()
        assert [[j.score for j in c.judgments] for c in await first] == [[1.0, 2.0], [3.0, 4.0]]
        assert [[j.score for j in c.judgments] for c in await fits] == [[5.0, 6.0]]
        again = await service.judge([item("f", "1")])
        service.stop()
        return full.value.reason, many.value.reason, again, {entry.id for entry in scorer.seen}

    full, many, again, seen = run(ask())
    assert (full, many) == ("full", "too-many") and again[0].judgments[0].score == 1
    assert seen == {"warm-up", "a", "b", "e", "f"}


def test_a_cancelled_request_frees_the_queue_at_once_and_its_items_in_flight_when_they_finish():
    counted = []

    async def ask():
        scorer = HeldScorer(window=2)
        service = Service(scorer, limit=4, on_card=counted.append)
        await service.open()
        request = asyncio.ensure_future(service.judge([item(id, "1") for id in "abcd"]))
        # The warm-up, a and b: the window is full, and c may be next.
        await asyncio.to_thread(wait_until, lambda: len(scorer.seen) == 3)
        request.cancel()
        await asyncio.gather(request, return_exceptions=True)
        left = service.depth
        assert left.waiting == 0 and left.in_flight in (2, 3)
        scorer.go.set()
        await asyncio.to_thread(wait_until, lambda: service.depth == QueueDepth(0, 0))
        results = await service.judge([item(id, "12") for id in "wxyz"])
        service.stop()
        assert "d" not in {entry.id for entry in scorer.seen}
        return results

    assert [c.judgments[0].score for c in run(ask())] == [2.0] * 4
    assert {"a", "b"} <= {card.id for card in counted} <= {*"abcwxyz"}


class FailingScorer(Scorer):
    name = "failing"
    scale = REAL_LINE

    def __init__(self, how):
        self.how = how

    def stream(self, items):
        for number, entry in enumerate(items):
            if number == 0:
                yield Scorecard(entry.id, tuple(Judgment(score=0.0) for _ in entry.responses))
            elif number == 2:
                card = self.how(entry)
                if card is None:
                    return
                yield card


def broken(_):
    raise RuntimeError("out of memory")


def gone(_):
    raise CannotRun("the model server is down")


@pytest.mark.parametrize(
    ("how", "message"),
    [
        (broken, "RuntimeError: out of memory"),
        (gone, "the model server is down"),
        (lambda _: None, "ended its stream"),
        (lambda entry: Scorecard("another", (Judgment(score=1.0),)), "'another' that does not match a request"),
        (lambda entry: Scorecard(entry.id, (Judgment(score=1.0),) * 2), "does not match a request"),
    ],
)
def test_a_failed_scorer_fails_all_current_and_later_requests(how, message):
    async def ask():
        service = Service(FailingScorer(how), limit=10)
        await service.open()
        results = await asyncio.gather(
            *(service.judge([item(id, "1")]) for id in "abc"), return_exceptions=True
        )  # a gets no card, b raises, c is waiting
        with pytest.raises(RequestRefused) as later:
            await service.judge([item("d", "1")])
        service.stop()
        return service, results, later.value

    service, results, later = run(ask())
    for refused in (*results, later):
        assert isinstance(refused, RequestRefused) and refused.reason == "failed" and message in str(refused)
    assert service.state == "failed" and message in service.error and service.depth == QueueDepth(0, 0)


class NeverOpens(Scorer):
    name = "never-opens"
    scale = REAL_LINE

    def __init__(self, failure=None):
        self.failure = failure

    def stream(self, items):
        if self.failure is None:
            raise CannotRun("no model 'x'")
        for entry in items:
            yield Scorecard(entry.id, tuple(Judgment(failure=self.failure) for _ in entry.responses))


@pytest.mark.parametrize(
    ("scorer", "message"),
    [
        (NeverOpens(), "no model 'x'"),
        (NeverOpens(Failure("server", "connection refused")), "does not respond: server: connection refused"),
    ],
)
def test_a_scorer_that_cannot_be_opened_raises_at_once(scorer, message):
    with pytest.raises(CannotRun, match=message):
        run(Service(scorer, limit=1).open())


def test_a_judge_without_a_verdict_on_the_warm_up_is_still_open():
    async def ask():
        service = Service(NeverOpens(Failure("missing", "no verdict")), limit=1)
        await service.open()
        (card,) = await service.judge([item("a", "1")])
        service.stop()
        return card

    assert run(ask()).judgments[0].failure.reason == "missing"


def test_draining_finishes_admitted_requests_and_stopping_refuses_them():
    async def ask():
        scorer = HeldScorer(window=1)
        service = Service(scorer, limit=10)
        with pytest.raises(RequestRefused) as early:
            await service.judge([item("early", "1")])
        await service.open()
        admitted = asyncio.ensure_future(service.judge([item("a", "1"), item("b", "22")]))
        await asyncio.sleep(0)
        service.drain()
        with pytest.raises(RequestRefused) as draining:
            await service.judge([item("c", "1")])
        scorer.go.set()
        results = await admitted
        scorer.go.clear()
        service.stop(0)
        with pytest.raises(RequestRefused) as ended:
            await service.judge([item("d", "1")])
        return [early.value.reason, draining.value.reason, ended.value.reason], results

    reasons, results = run(ask())
    assert reasons == ["opening", "draining", "ended"]
    assert [c.judgments[0].score for c in results] == [1.0, 2.0]


def test_a_request_that_waits_during_the_stop_is_refused():
    async def ask():
        service = Service(HeldScorer(), limit=10)
        await service.open()
        waiting = asyncio.ensure_future(service.judge([item("a", "1")]))
        await asyncio.sleep(0.05)
        service.stop(0)
        with pytest.raises(RequestRefused) as ended:
            await waiting
        return ended.value.reason

    assert run(ask()) == "ended"


def test_an_empty_request_is_served_and_one_above_the_limit_refused():
    async def ask():
        service = Service(load_scorer("random"), limit=1)
        await service.open()
        empty, two = await service.judge([]), None
        with pytest.raises(RequestRefused):
            two = await service.judge([item("a", "1", "2")])
        service.stop()
        return empty, two

    assert run(ask()) == ([], None)
