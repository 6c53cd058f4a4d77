import math
from itertools import combinations

import numpy as np
import pytest
from scipy import stats

from judges import Failure, Item, Judgment, Scorecard
from judges.evaluation.metrics.correlation import (
    MAX_RESPONSES,
    correlation_numbers,
    ndcg,
    pearson,
    per_prompt_tau,
    spearman,
    tau_b,
)
from judges.evaluation.statistics import intervals
from judges.types import Gold


def item(name, human=None, ranking=None, **more):
    count = len(human or ranking)
    gold = Gold(scores=tuple(human)) if human else Gold(ranking=tuple(ranking))
    return Item(id=name, prompt=more.pop("prompt", f"about {name}"), responses=["x"] * count, gold=gold, **more)


def card(name, scores):
    made = (Judgment(failure=Failure("missing", "x")) if s is None else Judgment(score=s) for s in scores)
    return Scorecard(name, tuple(made))


def measured(items, scores, draws=50):
    cards = {one.id: card(one.id, of) for one, of in zip(items, scores, strict=True)}
    return {(n.metric, n.section): n for n in correlation_numbers(items, cards, draws=draws)}


# -- the second way: plain Python from the definitions --------------------------------------------------------


def plain_tau(x, y):
    sign = lambda v: (v > 0) - (v < 0)  # noqa: E731
    pairs = [(sign(x[i] - x[j]), sign(y[i] - y[j])) for i, j in combinations(range(len(x)), 2)]
    untied = math.sqrt(sum(a != 0 for a, _ in pairs) * sum(b != 0 for _, b in pairs))
    return sum(a * b for a, b in pairs) / untied if untied else math.nan


def plain_pearson(x, y):
    mx, my = sum(x) / len(x), sum(y) / len(y)
    if len(set(x)) == 1 or len(set(y)) == 1:
        return math.nan
    cov = sum((a - mx) * (b - my) for a, b in zip(x, y, strict=True))
    return cov / math.sqrt(sum((a - mx) ** 2 for a in x) * sum((b - my) ** 2 for b in y))


def plain_spearman(x, y):
    ranks = lambda v: [sum(b < a for b in v) + (sum(b == a for b in v) + 1) / 2 for a in v]  # noqa: E731
    return plain_pearson(ranks(x), ranks(y))


def plain_ndcg(human, scores):
    gains = [h - min(human) for h in human]
    gained = 0.0
    for gain, score in zip(gains, scores, strict=True):
        above, same = sum(s > score for s in scores), sum(s == score for s in scores)
        gained += gain * sum(1 / math.log2(place + 2) for place in range(above, above + same)) / same
    best = sum(gain / math.log2(place + 2) for place, gain in enumerate(sorted(gains, reverse=True)))
    return gained / best if best else math.nan


LIBRARY = {
    tau_b: lambda h, s: stats.kendalltau(h, s).statistic,
    spearman: lambda h, s: stats.spearmanr(h, s).statistic,
    pearson: lambda h, s: stats.pearsonr(h, s).statistic,
}
PLAIN = {tau_b: plain_tau, spearman: plain_spearman, pearson: plain_pearson, ndcg: plain_ndcg}
ROWS = {
    "no ties": ([1, 2, 3, 4, 5], [0.3, 0.1, 0.9, 0.4, 0.8]),
    "reversed": ([1, 2, 3], [3, 2, 1]),
    "ties on both sides": ([1, 1, 2, 3, 3, 3], [2, 1, 1, 1, 5, 5]),
    "two responses": ([0.1, 0.2], [7, 3]),
    "negative values": ([-3, -1.5, 0], [-9, -8, -8]),
    "constant scores": ([1, 2, 3], [0.1, 0.1, 0.1]),
    "constant humans, whose mean is rounded": ([0.1, 0.1, 0.1], [1, 2, 3]),
    "both constant": ([1, 1], [2, 2]),
}


@pytest.mark.parametrize("statistic", PLAIN, ids=lambda f: f.__name__)
@pytest.mark.parametrize("row", ROWS)
def test_a_prompts_correlation_is_that_of_the_definition(statistic, row):
    human, scores = ROWS[row]
    found = statistic(np.array([human], float), np.array([scores], float))
    assert found[0] == pytest.approx(PLAIN[statistic](human, scores), nan_ok=True)


@pytest.mark.filterwarnings("ignore:An input array is constant")
@pytest.mark.parametrize("statistic", LIBRARY, ids=lambda f: f.__name__)
def test_all_prompts_at_once_give_scipys_values(statistic):
    generator = np.random.default_rng(1)
    human, scores = generator.integers(0, 4, (300, 5)).astype(float), generator.integers(0, 3, (300, 5)) / 7
    expected = [LIBRARY[statistic](h, s) for h, s in zip(human, scores, strict=True)]
    assert np.isnan(expected).sum() > 3  # constant rows are among them
    assert statistic(human, scores) == pytest.approx(expected, nan_ok=True)


def test_ndcg_is_scikit_learns():
    metrics = pytest.importorskip("sklearn.metrics")
    generator = np.random.default_rng(2)
    human, scores = generator.integers(1, 6, (200, 6)).astype(float), generator.integers(0, 4, (200, 6)).astype(float)
    for h, s, found in zip(human, scores, ndcg(human, scores), strict=True):
        if h.max() > h.min():
            assert found == pytest.approx(metrics.ndcg_score([h - h.min()], [s]))


def test_a_prompt_with_many_responses_gives_the_same_tau():
    generator = np.random.default_rng(3)
    human, scores = (
        generator.integers(0, 9, (2, MAX_RESPONSES + 5)).astype(float),
        generator.normal(size=(2, MAX_RESPONSES + 5)),
    )
    expected = [plain_tau(h.tolist(), s.tolist()) for h, s in zip(human, scores, strict=True)]
    assert tau_b(human, scores) == pytest.approx(expected)


def test_the_mean_over_prompts_and_the_pooled_value_are_two_numbers():
    # Each prompt is ordered right, and the second prompt's scores all lie below the first's.
    found = measured([item("a", [1, 2, 3]), item("b", [4, 5, 6])], [[7, 8, 9], [1, 2, 3]])
    assert found["kendall tau-b, per prompt", ""].value == 1
    # Pooled: 6 pairs within prompts agree, 9 across disagree.
    assert found["kendall tau-b, pooled", ""].value == pytest.approx(-3 / 15)


def test_a_rank_of_one_is_the_best():
    found = measured([item("a", ranking=[1, 2, 3])], [[0.9, 0.5, 0.1]])
    assert found["kendall tau-b, per prompt", ""].value == 1
    assert found["spearman, pooled", ""].value == pytest.approx(1)
    assert found["ndcg, per prompt", ""].value == 1
    assert found["pearson, pooled", ""].note.endswith("ranks of different prompts pooled")


def test_prompts_without_a_correlation_are_counted_and_left_out_with_the_reason():
    items = [item(name, [1, 2, 3]) for name in "abc"] + [item("d", [2, 2, 2])]
    found = measured(items, [[1, 2, 3], [5, 5, 5], [None, None, 1], [1, 2, 3]])
    tau = found["kendall tau-b, per prompt", ""]
    assert (tau.value, tau.rows, tau.left_out) == (1, 1, 3)
    assert (tau.low, tau.high) == (None, None)
    assert tau.note == (
        "one prompt: no interval; fewer than two responses were scored: 1 prompts; "
        "humans tied all responses: 1 prompts; all scores are equal: 1 prompts"
    )
    # Equal scores are a ranking for NDCG: every order is as likely.
    assert (found["ndcg, per prompt", ""].rows, found["ndcg, per prompt", ""].left_out) == (2, 2)
    assert found["kendall tau-b, pooled", ""].left_out == 2


def test_a_failed_response_leaves_the_others_of_its_prompt():
    found = measured([item("a", [1, 2, 3, 4])], [[1, None, 0, 9]])
    assert found["kendall tau-b, per prompt", ""].value == pytest.approx(plain_tau([1, 3, 4], [1, 0, 9]))
    assert found["kendall tau-b, pooled", ""].left_out == 1


@pytest.mark.parametrize("scores", [[[None, None], [None, None]], [[1, 1], [1, 1]]], ids=["all failed", "constant"])
def test_what_cannot_be_measured_is_no_number_and_says_why(scores):
    found = measured([item("a", [1, 2]), item("b", [1, 2])], scores)
    assert {metric for metric, _ in found} >= {"kendall tau-b, per prompt", "spearman, pooled"}
    for (metric, _), number in found.items():
        if not metric.startswith("ndcg") or scores[0][0] is None:
            assert number.value is None and number.note, metric


def test_one_item_of_one_response_is_no_prompt_and_has_no_correlation():
    found = measured([item("a", [1])], [[1]])
    assert {metric for metric, _ in found} == {"kendall tau-b, pooled", "spearman, pooled", "pearson, pooled"}
    assert all(number.value is None for number in found.values())


def test_items_without_scores_or_ranks_have_no_correlation():
    pair = Item(id="a", prompt="q", responses=["x", "y"], gold=Gold(chosen=(0,)))
    assert correlation_numbers([pair], {"a": card("a", [1, 2])}) == ()
    assert not per_prompt_tau([pair], {"a": card("a", [1, 2])}).means
    assert correlation_numbers([], {}) == ()


def test_items_of_one_response_are_grouped_by_their_named_prompt():
    human = {"p": [1, 2, 3], "q": [3, 2, 1]}
    items = [
        item(f"{p}{i}", [h], meta={"prompt": p}, subset="s")
        for p, values in human.items()
        for i, h in enumerate(values)
    ]
    found = measured(items, [[1], [2], [3], [1], [3], [2]])
    expected = (1 + plain_tau([3, 2, 1], [1, 3, 2])) / 2
    for section in ("", "s"):
        tau = found["kendall tau-b, per prompt", section]
        assert (tau.value, tau.rows, tau.prompts) == (pytest.approx(expected), 2, 2)
    pooled = plain_tau([1, 2, 3, 3, 2, 1], [1, 2, 3, 1, 3, 2])
    assert found["kendall tau-b, pooled", ""].value == pytest.approx(pooled)
    assert found["kendall tau-b, pooled", ""].prompts == 2


def test_systems_are_compared_by_their_means():
    authors = ["x", "y", "z"]
    items = [item("a", [1, 2, 6], meta={"authors": authors}), item("b", [5, 1, 3], meta={"authors": authors})]
    found = measured(items, [[0, 4, 1], [4, 2, None]])
    # Means by humans 3, 1.5, 6 (z's failed response counts on neither side) and by scores 2, 3, 1.
    assert found["pearson, systems", ""].value == pytest.approx(plain_pearson([3, 1.5, 6], [2, 3, 1]))
    assert found["kendall tau-b, systems", ""].value == -1
    assert found["kendall tau-b, systems", ""].left_out == 1


def test_two_systems_are_too_few():
    items = [item("a", [1, 2], meta={"authors": ["x", "y"]})]
    assert not [metric for metric, _ in measured(items, [[1, 2]]) if metric.endswith("systems")]


def test_pooled_numbers_and_their_draws_are_scipys():
    generator = np.random.default_rng(5)
    human, scores = generator.integers(1, 6, (30, 4)).astype(float), generator.normal(size=(30, 4)).round(1)
    items = [item(str(i), list(row)) for i, row in enumerate(human)]
    found = measured(items, [list(map(float, row)) for row in scores], draws=40)
    prompts = [f"about {i}" for i in range(30) for _ in range(4)]
    library = {"kendall tau-b": stats.kendalltau, "spearman": stats.spearmanr, "pearson": stats.pearsonr}
    for name, statistic in library.items():
        number = found[f"{name}, pooled", ""]
        assert number.value == pytest.approx(statistic(human.ravel(), scores.ravel()).statistic)
        expected = intervals.resampled(
            [repr(({"role": "user", "content": prompt},)) for prompt in prompts],
            lambda rows, of=statistic: of(human.ravel()[rows], scores.ravel()[rows]).statistic,
            "x",
            draws=40,
        )
        assert (number.low, number.high) == pytest.approx((expected.low, expected.high))


def test_the_tally_of_tau_has_one_row_a_prompt_and_stands_for_the_number():
    items = [item("a", [1, 2, 3], subset="s"), item("b", [1, 2], subset="t"), item("c", [1, 1], subset="t")]
    cards = {one.id: card(one.id, scores) for one, scores in zip(items, [[1, 3, 2], [1, 2], [1, 2]], strict=True)}
    tally = per_prompt_tau(items, cards)
    assert tally.means[""].rows == ("a", "b")
    assert tally.value(tally.headline) == pytest.approx((1 / 3 + 1) / 2)
    assert tally.value("t") == 1


def test_summeval_has_the_values_of_scipy(shared_data):
    import json

    rows = [json.loads(line) for line in open(shared_data / "summeval.jsonl", encoding="utf-8")][:20]
    items = [item(row["id"], row["human_scores"]) for row in rows]
    lengths = [[float(len(response)) for response in row["responses"]] for row in rows]
    found = measured(items, lengths)
    expected = np.mean([stats.kendalltau(r["human_scores"], s).statistic for r, s in zip(rows, lengths, strict=True)])
    assert found["kendall tau-b, per prompt", ""].value == pytest.approx(expected)
