import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from judges.scorers.voting import COMBINES, _aggregate_rows, aggregate_scores, aggregate_votes, outcome_decided
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
def test_scores_are_aggregated_as_worked_by_hand(scores, mean, median, majority):
    assert [aggregate_scores(scores, c) for c in COMBINES] == pytest.approx([mean, median, majority])


def test_no_scores_and_no_votes_are_errors():
    with pytest.raises(ValueError, match="nothing to combine"):
        aggregate_scores([])
    with pytest.raises(ValueError, match="at least one vote"):
        aggregate_votes([])


def test_failed_votes_are_kept_and_usage_is_added_up():
    lost = Failure("truncated", "cut")
    votes = [
        Judgment(score=4, read="text", usage=Usage(10, 0, 5, 1.0), readings={"text": 4, "expected": 3.5}),
        Judgment(failure=lost, usage=Usage(10, 8, 5, 1.0), readings={"text": lost}),
        Judgment(score=1, read="forced", usage=Usage(20, 8, 6, 2.0), readings={"text": lost, "forced": 1}),
    ]
    j = aggregate_votes(votes)
    assert j.score == 2.5 and j.votes == (4, lost, 1) and j.read == "forced"
    assert j.usage == Usage(40, 16, 16, 4.0) and j.spread == 1.5
    assert j.readings == {"text": 4, "expected": 3.5, "forced": 1}
    assert aggregate_votes([votes[1]]).failure is lost


def futures(scores, left, labels):
    """Every way in which up to `left` more votes may turn out; one that fails adds none."""
    for count in range(left + 1):
        for more in itertools.combinations_with_replacement(labels, count):
            yield [*scores, *more]


def best(scores):
    top = max(scores)
    return frozenset(i for i, s in enumerate(scores) if s == top)


@given(st.lists(st.lists(st.sampled_from([0.0, 1.0, 2.5]), min_size=4, max_size=4), min_size=1, max_size=5))
def test_rows_are_aggregated_as_one_by_one(rows):
    for combine in COMBINES:
        assert _aggregate_rows(np.array(rows), combine) == pytest.approx(
            [aggregate_scores(row, combine) for row in rows]
        )


@settings(deadline=None)
@given(
    st.lists(st.lists(st.sampled_from([0, 1, 2]), min_size=1, max_size=4), min_size=2, max_size=2),
    st.integers(1, 3),
    st.sampled_from(COMBINES),
)
def test_a_certain_outcome_is_the_outcome_of_every_future(votes, left, combine):
    each = [[aggregate_scores(f, combine) for f in futures(scores, left, [0, 1, 2])] for scores in votes]
    ends = {best(pair) for pair in itertools.product(*each)}
    if outcome_decided(votes, left, THREE, combine, 0):
        assert ends == {best([aggregate_scores(scores, combine) for scores in votes])}
    elif combine != "majority":  # whose bounds are wider than they need to be
        assert len(ends) > 1 or len(next(iter(ends))) > 1


def test_one_response_is_decided_when_its_own_score_cannot_move():
    assert outcome_decided([[4, 4, 4]], 2, Scale(0, 5, 1), "majority", 0)
    assert not outcome_decided([[4, 4, 1]], 2, Scale(0, 5, 1), "majority", 0)
    assert not outcome_decided([[4, 4, 4]], 1, Scale(0, 5, 1), "mean", 0.5)
    assert outcome_decided([[2]], 0, Scale(0, 5, 1), "mean", 0)


@pytest.mark.slow
@pytest.mark.parametrize("combine", COMBINES)
def test_at_most_the_stated_share_of_outcomes_changes(combine):
    # Judges whose votes follow Dirichlet draws: what the posterior assumes, so the risk must hold.
    generator, labels, risk, total = np.random.default_rng(0), np.arange(6), 0.1, 8
    stopped = changed = 0
    for _ in range(1500):
        shares = generator.dirichlet(np.full(6, 1 / 6), size=2)
        votes = [list(generator.choice(labels, size=total, p=p).astype(float)) for p in shares]
        for count in range(2, total):
            if outcome_decided([v[:count] for v in votes], total - count, Scale(0, 5, 1), combine, risk):
                stopped += 1
                before = best([aggregate_scores(v[:count], combine) for v in votes])
                changed += before != best([aggregate_scores(v, combine) for v in votes])
                break
    assert stopped > 500 and changed / stopped < risk + 0.02
