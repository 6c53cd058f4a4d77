import math

import numpy as np
import pytest

from judges import Failure, Item, Judgment, Scorecard
from judges.evaluation.metrics.scorer_agreement import cohen_kappa, only_in, scorer_agreement_numbers, spearman
from judges.types import Gold


def pair(name):
    return Item(id=name, prompt=name, responses=["x", "y"], gold=Gold(chosen=(0,)))


def cards(*scores):
    def judgment(s):
        return Judgment(failure=Failure("missing", "x")) if s is None else Judgment(score=float(s))

    return {str(i): Scorecard(str(i), tuple(map(judgment, row))) for i, row in enumerate(scores)}


def of_all(statistic, one, *more, **how):
    return statistic(one, *more, **how)(np.arange(len(one)))


def told(items, by_label, identities=None):
    return {(n.section, n.metric): n for n in scorer_agreement_numbers(items, by_label, identities or {})}


ITEMS = [pair(str(i)) for i in range(4)]


def test_agreement_by_hand():
    one, other = cards((2, 1), (1, 2), (1, 1), (3, 0)), cards((5, 1), (5, 1), (1, 1), (None, 1))
    found = told(ITEMS, {"one": one, "other": other})
    same = found["one | other", "agreement: same verdict"]
    assert same.value == pytest.approx(2 / 3) and (same.rows, same.left_out) == (3, 1)
    # Of three rows: one says first, second, tie; other says first, first, tie. Chance: 1/3·2/3 + 1/3·0 + 1/3·1/3.
    assert found["one | other", "agreement: cohen kappa"].value == pytest.approx((2 / 3 - 1 / 3) / (1 - 1 / 3))
    assert same.low <= same.value <= same.high and same.method


def test_every_two_scorers_are_compared_once():
    made = cards((2, 1), (1, 2), (1, 1), (3, 0))
    sections = {section for section, _ in told(ITEMS, {"a": made, "b": made, "c": made})}
    assert sections == {"a | b", "a | c", "b | c"}


def test_a_scorer_agrees_with_itself():
    made = cards((2, 1), (1, 2), (1, 1), (3, 0))
    assert [n.value for n in told(ITEMS, {"a": made, "b": made}).values()] == pytest.approx([1, 1, 1])


def test_kappa_is_scikit_learns():
    from sklearn.metrics import cohen_kappa_score

    rng = np.random.default_rng(0)
    for _ in range(20):
        one, other = rng.choice([0, 0.5, 1], (2, 40))
        assert of_all(cohen_kappa, one, other) == pytest.approx(
            cohen_kappa_score((one * 2).astype(int), (other * 2).astype(int))
        )


def test_spearman_is_scipys_with_ties():
    from scipy.stats import spearmanr

    rng = np.random.default_rng(1)
    for _ in range(20):
        one, other = rng.integers(-3, 4, (2, 30)).astype(float)
        assert of_all(spearman, one, other) == pytest.approx(spearmanr(one, other).statistic)
        both = spearmanr(np.append(one, -one), np.append(other, -other)).statistic
        assert of_all(spearman, one, other, both_ways=True) == pytest.approx(both)


def test_rows_drawn_again_count_again():
    """As a bootstrap gives them: what is sorted once must be what scipy finds in the rows drawn."""
    from scipy.stats import spearmanr

    rng = np.random.default_rng(3)
    one, other = rng.integers(-3, 4, (2, 30)).astype(float)
    for _ in range(20):
        rows = rng.integers(30, size=25)
        a, b = one[rows], other[rows]
        assert spearman(one, other)(rows) == pytest.approx(spearmanr(a, b).statistic)
        both = spearmanr(np.append(a, -a), np.append(b, -b)).statistic
        assert spearman(one, other, both_ways=True)(rows) == pytest.approx(both)


def test_margins_agree_alike_whichever_response_stands_first():
    rng = np.random.default_rng(2)
    one, other = rng.normal(size=(2, 50))
    turned = rng.choice([-1, 1], 50)
    same = of_all(spearman, one, other, both_ways=True)
    assert of_all(spearman, one * turned, other * turned, both_ways=True) == pytest.approx(same)


def test_what_is_constant_has_no_coefficient_and_says_so():
    always = cards((2, 1), (2, 1), (2, 1), (2, 1))
    found = told(ITEMS, {"a": always, "b": always})
    kappa = found["a | b", "agreement: cohen kappa"]
    assert kappa.value is None and "are all equal" in kappa.note
    assert math.isnan(of_all(spearman, np.ones(3), np.arange(3.0)))


def test_nothing_in_common_is_said():
    one, other = cards((2, 1), (None, 1), (1, 1), (None, 0)), cards((None, 1), (5, 1), (1, None), (1, None))
    same = told(ITEMS, {"a": one, "b": other})["a | b", "agreement: same verdict"]
    assert same.value is None and same.left_out == 4 and same.note == "no row has a verdict or score from both"


def test_a_scorer_that_was_given_fewer_items_is_compared_on_those():
    whole, part = cards((2, 1), (1, 2), (1, 1), (3, 0)), cards((2, 1), (2, 1))
    same = told(ITEMS, {"a": whole, "b": part})["a | b", "agreement: same verdict"]
    assert same.value == 0.5 and same.rows == 2


def test_single_responses_are_compared_by_their_scores():
    items = [Item(str(i), str(i), ["x"], gold=Gold(scores=(i,))) for i in range(4)]
    found = told(items, {"a": cards((1,), (2,), (3,), (4,)), "b": cards((4,), (3,), (2,), (1,))})
    assert [n.value for n in found.values()] == [-1] and list(found) == [("a | b", "agreement: spearman of scores")]


@pytest.mark.parametrize(
    "one, other, what",
    [
        ({"seed": 0, "model": "m"}, {"seed": 1, "model": "m"}, "seeds"),
        ({"seed": 0, "model": "m"}, {"seed": 1, "model": "n"}, None),
        ({"seed": 0}, {"seed": 0}, None),
        ({"args": {"max_num_seqs": 1, "dtype": "x"}}, {"args": {"max_num_seqs": 9, "dtype": "x"}}, "batch size"),
        ({"args": {"max_num_seqs": 1, "dtype": "x"}}, {"args": {"max_num_seqs": 9, "dtype": "y"}}, None),
        ({"window": 1}, {"window": 8, "batch_size": 2}, "batch size"),
        ({"window": 1, "seed": 0}, {"window": 8, "seed": 1}, None),
        ({"members": [{"seed": 0}, {"seed": 3}]}, {"members": [{"seed": 1}, {"seed": 4}]}, "seeds"),
        ({"members": [{"seed": 0}]}, {"members": [{"seed": 1}, {"seed": 4}]}, None),
        ({}, {}, None),
    ],
)  # fmt: skip
def test_what_two_identities_differ_in(one, other, what):
    assert only_in(one, other) == what == only_in(other, one)


def test_stability_by_hand():
    one, other = cards((2, 1), (1, 2), (1, 1), (3, 0)), cards((2, 1), (3, 2), (1, 2), (3, None))
    found = told(ITEMS, {"a": one, "b": other}, {"a": {"seed": 0}, "b": {"seed": 1}})
    by_metric = {metric.removeprefix("stability over seeds: "): n for (_, metric), n in found.items()}
    assert by_metric["same verdict"].value == pytest.approx(1 / 3)
    # Differences of the scores that both have: 0 0, 2 0, 0 1, 0.
    assert by_metric["mean absolute difference of scores"].value == pytest.approx(3 / 7)
    # Over the three rows that both judged: 1, 0, ½ against 1, 1, 0.
    spread = by_metric["spread of accuracy"]
    assert spread.value == pytest.approx(2 / 3 - 0.5) and spread.low == 0 < spread.high


def test_stability_is_not_claimed_of_different_scorers():
    made = cards((2, 1), (1, 2), (1, 1), (3, 0))
    found = told(ITEMS, {"a": made, "b": made}, {"a": {"scorer": "x"}, "b": {"scorer": "y"}})
    assert not any(metric.startswith("stability") for _, metric in found)
