import itertools

import numpy as np
import pytest
from fakes import FakeEngine, use
from hypothesis import given, settings
from hypothesis import strategies as st

from judges import Item, load_scorer
from judges.errors import CannotRun
from judges.scorers.voting import COMBINES, _each_combined, combined, decided, joined
from judges.types import Failure, Judgment, Scale, Usage

THREE = Scale(0, 2, 1)


@pytest.mark.parametrize(
    "scores, mean, median, majority",
    [
        ([3], 3, 3, 3),
        ([1, 4, 4], 3, 4, 4),
        ([1, 2, 5, 5], 3.25, 3.5, 5),
        ([1, 1, 4, 4, 5], 3, 4, 2.5),
        ([1, 2, 3], 2, 2, 2),
    ],
)
def test_votes_come_to_what_was_worked_out_by_hand(scores, mean, median, majority):
    assert [combined(scores, c) for c in COMBINES] == pytest.approx([mean, median, majority])


def test_nothing_is_combined_out_of_no_scores():
    with pytest.raises(ValueError, match="nothing to combine"):
        combined([])
    with pytest.raises(ValueError, match="at least one vote"):
        joined([])


def test_joined_keeps_failed_votes_apart_and_adds_up_what_was_used():
    lost = Failure("truncated", "cut")
    votes = [
        Judgment(score=4, read="text", usage=Usage(10, 0, 5, 1.0), readings={"text": 4, "expected": 3.5}),
        Judgment(failure=lost, usage=Usage(10, 8, 5, 1.0), readings={"text": lost}),
        Judgment(score=1, read="forced", usage=Usage(20, 8, 6, 2.0), readings={"text": lost, "forced": 1}),
    ]
    j = joined(votes)
    assert j.score == 2.5 and j.votes == (4, lost, 1) and j.read == "forced"
    assert j.usage == Usage(40, 16, 16, 4.0) and j.spread == 1.5
    assert j.readings == {"text": 4, "expected": 3.5, "forced": 1}
    assert joined([votes[1]]).failure is lost


def futures(scores, left, labels):
    """Every way in which up to `left` more votes may turn out; one that fails adds none."""
    for count in range(left + 1):
        for more in itertools.combinations_with_replacement(labels, count):
            yield [*scores, *more]


def best(scores):
    top = max(scores)
    return frozenset(i for i, s in enumerate(scores) if s == top)


@given(st.lists(st.lists(st.sampled_from([0.0, 1.0, 2.5]), min_size=4, max_size=4), min_size=1, max_size=5))
def test_rows_are_combined_as_one_by_one(rows):
    for combine in COMBINES:
        assert _each_combined(np.array(rows), combine) == pytest.approx([combined(row, combine) for row in rows])


@settings(deadline=None)
@given(
    st.lists(st.lists(st.sampled_from([0, 1, 2]), min_size=1, max_size=4), min_size=2, max_size=2),
    st.integers(1, 3),
    st.sampled_from(COMBINES),
)
def test_a_certain_outcome_is_the_outcome_of_every_future(votes, left, combine):
    each = [[combined(f, combine) for f in futures(one, left, [0, 1, 2])] for one in votes]
    ends = {best(pair) for pair in itertools.product(*each)}
    if decided(votes, left, THREE, combine, 0):
        assert ends == {best([combined(one, combine) for one in votes])}
    elif combine != "majority":  # whose bounds are wider than they need to be
        assert len(ends) > 1 or len(next(iter(ends))) > 1


def test_one_response_is_decided_when_its_own_score_cannot_move():
    assert decided([[4, 4, 4]], 2, Scale(0, 5, 1), "majority", 0)
    assert not decided([[4, 4, 1]], 2, Scale(0, 5, 1), "majority", 0)
    assert not decided([[4, 4, 4]], 1, Scale(0, 5, 1), "mean", 0.5)
    assert decided([[2]], 0, Scale(0, 5, 1), "mean", 0)


@pytest.mark.slow
@pytest.mark.parametrize("combine", COMBINES)
def test_no_more_outcomes_change_than_the_stated_risk(combine):
    # Judges whose votes follow Dirichlet draws: what the posterior assumes, so the risk must hold.
    generator, labels, risk, total = np.random.default_rng(0), np.arange(6), 0.1, 8
    stopped = changed = 0
    for _ in range(1500):
        shares = generator.dirichlet(np.full(6, 1 / 6), size=2)
        votes = [list(generator.choice(labels, size=total, p=p).astype(float)) for p in shares]
        for count in range(2, total):
            if decided([v[:count] for v in votes], total - count, Scale(0, 5, 1), combine, risk):
                stopped += 1
                before = best([combined(v[:count], combine) for v in votes])
                changed += before != best([combined(v, combine) for v in votes])
                break
    assert stopped > 500 and changed / stopped < risk + 0.02


def adaptive(answer, **more):
    scorer = load_scorer("self-rewarding", adaptive=0.0, **{"votes": 6, **more})
    return use(scorer, FakeEngine(answer))


def test_votes_stop_when_more_could_not_change_the_best():
    # 5 against 0: after 4 votes each, two more leave at least 20/6 against at most 10/6.
    scorer = adaptive(lambda r: "Score: 5" if "GOLD" in r.messages[-1]["content"] else "Score: 0")
    (card,) = scorer.score([Item(id="a", prompt="q", responses=["GOLD", "poor"])])
    assert [len(j.votes) for j in card.judgments] == [4, 4]
    assert [j.score for j in card.judgments] == [5, 0]
    assert [j.usage.saved_tokens for j in card.judgments] == [10, 10]  # two votes of five tokens each
    assert card.preference == (1.0, 0.0)


def test_every_vote_is_asked_for_while_the_outcome_is_open():
    scorer = adaptive(lambda r: "Score: 3")
    (card,) = scorer.score([Item(id="a", prompt="q", responses=["GOLD", "poor"])])
    assert [len(j.votes) for j in card.judgments] == [6, 6] and card.usage.saved_tokens == 0


def test_stopping_early_asks_the_same_votes_that_all_would_begin_with():
    def answer(request):
        return "Score: 5" if "GOLD" in request.messages[-1]["content"] else "Score: 0"

    whole = use(load_scorer("self-rewarding", votes=6), FakeEngine(answer))
    early = adaptive(answer)
    for scorer in (whole, early):
        scorer.score([Item(id="a", prompt="q", responses=["GOLD", "poor"])])
    assert {r.seed for r in early.engine.requests} < {r.seed for r in whole.engine.requests}


def test_an_empty_response_fails_alone_when_votes_are_adaptive():
    (card,) = adaptive(lambda r: "Score: 5").score([Item(id="a", prompt="q", responses=["GOLD", " "])])
    assert card.judgments[1].failure.reason == "empty" and card.judgments[0].score == 5 and card.preference is None


@pytest.mark.parametrize(
    "wrong, says",
    [
        ({"combine": "mode"}, "mean, median, majority"),
        ({"adaptive": 1.5}, "risk from 0"),
        ({"votes": 3, "temperature": 0}, "are one vote"),
        ({"template": "score-only", "votes": 3}, "samples nothing"),
    ],
)
def test_wrong_settings_of_votes_are_told(wrong, says):
    with pytest.raises(CannotRun, match=says):
        load_scorer("self-rewarding", **wrong)
