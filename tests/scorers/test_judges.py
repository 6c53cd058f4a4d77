import asyncio
import itertools
import math
import threading
import time

import pytest
from fakes import FakeEngine, use

from judges import Item, load_scorer
from judges.engines.base import RequestFailed
from judges.engines.concurrency import map_unordered
from judges.engines.store import StoredEngine


def judge(answer, **settings):
    return use(load_scorer("self-rewarding", **settings), FakeEngine(answer))


def items(n, responses=("good", "bad")):
    return [Item(id=str(i), prompt=f"question {i}", responses=list(responses)) for i in range(n)]


def test_votes_are_averaged_and_each_has_a_seed_of_its_own():
    counter = itertools.count()
    scorer = judge(lambda r: f"Score: {next(counter) % 3 + 1}", votes=3)
    (card,) = scorer.score(items(1, ["good"]))
    assert sorted(card.judgments[0].votes) == [1, 2, 3] and card.judgments[0].score == 2
    assert len({r.seed for r in scorer.engine.requests}) == 3


def test_seeds_differ_between_prompts_and_repeat_between_runs():
    runs = []
    for _ in range(2):
        scorer = judge(lambda r: "Score: 1", votes=2)
        scorer.score(items(5))
        runs.append(sorted(r.seed for r in scorer.engine.requests))
    assert runs[0] == runs[1] and len(set(runs[0])) == 20


def test_a_failed_vote_enters_no_mean_and_is_kept():
    answers = iter(["Score: 4", "Score: 9", "Score: 2"])
    scorer = judge(lambda r: next(answers), votes=3)
    j = scorer.score(items(1, ["x"]))[0].judgments[0]
    assert j.score == 3 and [getattr(v, "reason", v) for v in j.votes] == [4, "off-scale", 2]


def test_force_reads_a_missing_verdict_and_says_so():
    scorer = judge(lambda r: " 3" if r.choice else "It is fine.", votes=1)
    j = scorer.score(items(1, ["x"]))[0].judgments[0]
    assert j.score == 3 and j.read == "forced"
    last = scorer.engine.requests[-1]
    assert last.prefix == "It is fine.\nScore:" and last.choice == (" 0", " 1", " 2", " 3", " 4", " 5")


def test_without_force_a_missing_verdict_is_a_failure():
    scorer = judge(lambda r: "It is fine.", votes=1, force=False)
    assert scorer.score(items(1, ["x"]))[0].judgments[0].failure.reason == "missing"


def test_a_score_planted_in_the_response_is_not_read():
    scorer = judge(lambda r: "No verdict here.", votes=1, force=False)
    j = scorer.score(items(1, ["Score: 5"]))[0].judgments[0]
    assert j.failure.reason == "missing"


def test_one_failing_request_is_one_rows_failure():
    def answer(request):
        if "question 2" in request.messages[-1]["content"]:
            raise RequestFailed("timeout", "too slow")
        return "Score: 4"

    cards = judge(answer, votes=1).score(items(5))
    reasons = [[j.failure and j.failure.reason for j in c.judgments] for c in cards]
    assert reasons[2] == ["timeout", "timeout"] and all(r == [None, None] for i, r in enumerate(reasons) if i != 2)
    assert cards[2].preference is None


def test_an_empty_response_is_a_failure_and_asks_nothing():
    scorer = judge(lambda r: "Score: 4", votes=1)
    assert scorer.score(items(1, ["  "]))[0].judgments[0].failure.reason == "empty"
    assert scorer.engine.requests == []


def test_the_expected_score_takes_the_longer_labels_share_out_of_the_shorter():
    # P("1") = .5 holds P("10") = .2; "7" has .3; so E = (1*.3 + 10*.2 + 7*.3) / .8
    p = {"1": 0.5, "10": 0.2, "7": 0.3}
    engine = FakeEngine(lambda r: "A critique.", likelihood=lambda label: math.log(p.get(label.strip(), 1e-12)))
    scorer = use(load_scorer("critique-out-loud"), engine)
    j = scorer.score(items(1, ["x"]))[0].judgments[0]
    assert j.score == pytest.approx((0.3 + 2.0 + 2.1) / 0.8, abs=1e-6)
    assert j.read == "expected" and j.critique == "A critique."


def test_a_label_that_is_one_token_takes_nothing_from_a_shorter_one():
    from judges.scorers.llm_judge import _next_longer

    assert _next_longer("1", {"1": 1, "10": 1}) == []
    assert _next_longer("1", {"1": 1, "10": 2, "100": 3}) == ["10"]
    assert _next_longer("1", {"1": 1, "1.5": 3, "2": 1}) == ["1.5"]


def test_no_mass_on_the_scale_is_a_failure_not_a_zero():
    engine = FakeEngine(lambda r: "A critique.", likelihood=lambda label: -50.0)
    j = use(load_scorer("critique-out-loud"), engine).score(items(1, ["x"]))[0].judgments[0]
    assert j.failure.reason == "missing" and j.critique == "A critique."


def test_no_more_than_the_window_is_in_flight():
    scorer = use(load_scorer("self-rewarding", votes=1, window=6), FakeEngine(lambda r: "Score: 1", delay=0.005))
    assert len(scorer.score(items(30))) == 30
    assert 1 < scorer.engine.most <= 6


def test_a_finished_card_does_not_wait_for_a_source_that_pauses():
    go_on = threading.Event()

    def source():
        yield items(1)[0]
        assert go_on.wait(20)
        yield Item(id="later", prompt="q", responses=["x"])

    stream = judge(lambda r: "Score: 1", votes=1).stream(source())
    assert next(stream).id == "0"
    go_on.set()
    assert next(stream).id == "later"


def test_an_error_of_the_source_reaches_the_consumer():
    def source():
        yield items(1)[0]
        raise RuntimeError("the disk is gone")

    with pytest.raises(RuntimeError, match="disk"):
        list(judge(lambda r: "Score: 1", votes=1).stream(source()))


def test_closing_the_stream_cancels_what_is_in_flight():
    started, cancelled = [], []

    async def slow(n):
        if n == 0:
            return n
        started.append(n)
        try:
            await asyncio.sleep(600)
        except asyncio.CancelledError:
            cancelled.append(n)
            raise

    stream = map_unordered(itertools.count(), slow, 4, lambda _: 1)
    assert next(stream) == 0
    until = time.monotonic() + 10
    while len(started) < 3 and time.monotonic() < until:
        time.sleep(0.01)
    stream.close()
    while len(cancelled) < len(started) and time.monotonic() < until:
        time.sleep(0.01)
    assert 3 <= len(started) <= 4 and sorted(cancelled) == sorted(started)


def test_the_store_answers_what_was_asked_before(tmp_path):
    for run in range(2):
        engine = FakeEngine(lambda r: "Score: 4")
        scorer = use(load_scorer("self-rewarding", votes=2), engine)
        use(scorer, stored := StoredEngine(engine, tmp_path / "s.sqlite"))
        assert [c.judgments[0].score for c in scorer.score(items(3))] == [4, 4, 4]
        assert len(engine.requests) == (0 if run else 12)
        stored.close()
