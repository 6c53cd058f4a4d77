"""The critique-out-loud judge: a critique, and the score as its continuation."""

import math

import pytest
from fakes import FakeEngine, use

from judges import Item, load_scorer
from judges.engines.base import Generation, RequestFailed


def judged(engine, **settings):
    """The Judgment of one response."""
    scorer = use(load_scorer("critique-out-loud", **settings), engine)
    return scorer.score([Item(id="a", prompt="q", responses=["x"])])[0].judgments[0]


def test_the_expected_score_subtracts_the_longer_label_from_the_shorter():
    # P("1") = .5 holds P("10") = .2; "7" has .3; so E = (1*.3 + 10*.2 + 7*.3) / .8
    p = {"1": 0.5, "10": 0.2, "7": 0.3}
    engine = FakeEngine(lambda r: "A critique.", likelihood=lambda label: math.log(p.get(label.strip(), 1e-12)))
    j = judged(engine)
    assert j.score == pytest.approx((0.3 + 2.0 + 2.1) / 0.8, abs=1e-6)
    assert j.read == "expected" and j.critique == "A critique."


def test_labels_without_mass_are_a_failure():
    engine = FakeEngine(lambda r: "A critique.", likelihood=lambda label: -50.0)
    j = judged(engine)
    assert j.failure.reason == "missing" and j.critique == "A critique."


def test_a_critique_may_be_continued():
    def answer(request):
        return Generation(" and ends.", "stop") if request.prefix else Generation("It begins", "length")

    engine = FakeEngine(answer)
    j = judged(engine, finish=True)
    assert j.critique == "It begins and ends." and not j.truncated and j.usage.generated_tokens == 10 + 10


def test_a_critique_that_remains_cut_off_is_marked_for_the_judge_and_in_the_judgment():
    prefixes = []
    engine = FakeEngine(lambda r: Generation("It begins", "length"))

    async def spy(messages, prefix, continuations, partial=None):
        prefixes.append(prefix)
        raise RequestFailed("server", "gone")

    engine.log_likelihoods = spy
    j = judged(engine)
    assert j.truncated and prefixes == ["It begins [cut off]\n\nScore:"]
    assert j.failure.reason == "server" and j.critique == "It begins"


def test_thinking_is_not_part_of_the_critique():
    engine = FakeEngine(lambda r: "<think>Score: 9</think>Well made.")
    j = judged(engine)
    assert j.critique == "Well made." and j.completions == ("<think>Score: 9</think>Well made.",)


def test_read_text_reads_what_the_model_writes_next():
    engine = FakeEngine(lambda r: " 7/10, I think" if r.prefix else "A critique.")
    j = judged(engine, read="text")
    assert j.score == 7 and j.read == "text" and engine.requests[-1].prefix == "A critique.\n\nScore:"
