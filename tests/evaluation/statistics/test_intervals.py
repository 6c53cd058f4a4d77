from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from judges.evaluation.statistics.bootstrap import draw, spread_of, strata_of
from judges.evaluation.statistics.intervals import (
    bca,
    bca_p,
    intervals,
    numbers,
    resampled,
    share,
    wilson,
)
from judges.evaluation.statistics.tally import Mean, Tally


def mean(values, prompts=None, name="r"):
    """A Mean whose rows are numbered; each row its own prompt unless `prompts` names them."""
    rows = tuple(f"{name}{i}" for i in range(len(values)))
    return Mean(np.asarray(values, dtype=np.float64), rows, tuple(map(str, prompts)) if prompts is not None else rows)


def interval_of(values, prompts=None, **settings):
    tally = Tally({"m": mean(values, prompts)}, {"n": {"m": 1.0}}, "n")
    return numbers(tally, "accuracy", **settings)[0]


# Newcombe (1998), Statistics in Medicine 17, table I, method 3.
@pytest.mark.parametrize(
    ("right", "of", "low", "high"),
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_a_plain_share_has_newcombes_published_wilson_interval(right, of, low, high):
    assert share(right, of) == pytest.approx((low, high), abs=5e-5)


def test_a_share_without_cases_is_between_0_and_1():
    assert share(0, 0) == (0.0, 1.0)


def test_wilson_at_0_and_1_includes_the_value():
    for n in (1, 3, 28, 1000, 12.7):
        assert wilson(1.0, n)[1] == 1.0 and wilson(0.0, n)[0] == 0.0


def test_one_row_a_prompt_is_wilson_of_the_plain_share():
    found = interval_of([1] * 16 + [0] * 4)
    assert found.method == "Wilson over 20 prompts" and (found.low, found.high) == pytest.approx(
        share(16, 20), abs=0.01
    )


def test_28_of_28_has_a_lower_bound_below_1():
    found = interval_of([1] * 28)
    assert (found.low, found.high) == pytest.approx((0.879, 1.0), abs=5e-4) and found.value == 1.0
    found = interval_of([0] * 400)
    assert (
        found.method == "Wilson over 400 prompts" and found.low == 0 and found.high == pytest.approx(0.0095, abs=1e-4)
    )


def test_equal_rows_of_a_prompt_count_little_more_than_one_row():
    rng = np.random.default_rng(0)
    prompts = rng.random(60) < 0.7
    single, fivefold = interval_of(prompts), interval_of(np.repeat(prompts, 5), np.repeat(np.arange(60), 5))
    assert fivefold.high - fivefold.low == pytest.approx(single.high - single.low, rel=0.05)
    assert (fivefold.rows, fivefold.prompts) == (300, 60)
    independent = interval_of(rng.random(300) < 0.7, np.repeat(np.arange(60), 5))
    assert independent.high - independent.low < 0.7 * (single.high - single.low)


def test_each_row_twice_leaves_the_bootstrap_as_it_is():
    rng = np.random.default_rng(1)
    values, prompts = rng.random(400).round(), rng.integers(0, 150, 400)
    once, twice = interval_of(values, prompts), interval_of(np.tile(values, 2), np.tile(prompts, 2))
    assert once.method == "bootstrap over prompts, 1000 draws"
    assert (twice.low, twice.high) == pytest.approx((once.low, once.high), abs=1e-12)


def test_the_bootstrap_agrees_with_scipys_bca_on_independent_rows():
    values = np.random.default_rng(2).beta(6, 1, 500)
    found = interval_of(values, draws=8000)
    theirs = stats.bootstrap((values,), np.mean, n_resamples=8000, method="BCa", rng=np.random.default_rng(3))
    edges = theirs.confidence_interval
    assert (found.low, found.high) == pytest.approx((edges.low, edges.high), abs=0.05 * (edges.high - edges.low))


def test_the_same_seed_gives_the_same_interval_and_another_one_nearly():
    values = np.random.default_rng(4).random(300) < 0.8
    first, again, other = interval_of(values, seed=7), interval_of(values, seed=7), interval_of(values, seed=8)
    assert first == again and other.low != first.low
    assert other.low == pytest.approx(first.low, abs=0.1 * (first.high - first.low))


def clustered(rng, prompts, rows, name):
    of = rng.integers(0, prompts, rows)
    return mean((rng.random(prompts)[of] + rng.random(rows)) / 2, [f"{name}{p}" for p in of], name)


def test_the_linearised_variance_is_that_of_the_draws():
    rng = np.random.default_rng(5)
    means = [clustered(rng, 60, 200, "a"), clustered(rng, 9, 30, "b"), clustered(rng, 150, 160, "c")]
    weights = np.array([[1.0, 0, 0], [0, 1.0, 0], [0.2, 0.5, 0.3], [1.0, -1.0, 0.0]])
    strata = strata_of(means)
    drawn = draw(strata, 3, 40_000, seed=0) @ weights.T
    # The ratio's second-order part is 1 / prompts: visible with 9 of them.
    assert np.var(drawn, axis=0) == pytest.approx(spread_of(strata, means, weights).variance, rel=0.12)
    assert np.var(drawn, axis=0)[0] == pytest.approx(spread_of(strata, means, weights).variance[0], rel=0.04)


def test_the_variance_of_one_row_a_prompt_is_the_sample_variance_over_n():
    values = np.random.default_rng(6).normal(size=40)
    spread = spread_of(strata_of([mean(values)]), [mean(values)], np.array([[1.0]]))
    assert spread.variance[0] == pytest.approx(np.var(values, ddof=1) / 40)
    assert spread.df[0] == pytest.approx(39) and spread.equal_prompts[0] == pytest.approx(40)


def test_every_draw_keeps_the_size_of_each_subset():
    subset = [mean([0.2] * 30, name="a"), mean([0.7] * 90, name="b")]
    whole = Mean(
        np.concatenate([m.values for m in subset]),
        subset[0].rows + subset[1].rows,
        subset[0].prompts + subset[1].prompts,
    )
    drawn = draw(strata_of([whole, *subset]), 3, 200, seed=0)
    # Rao and Wu's n − 1 of n: 29 rows of the one, 89 of the other, never more or fewer.
    assert drawn[:, 0] == pytest.approx((29 * 0.2 + 89 * 0.7) / 118)
    loose = draw(strata_of([whole]), 1, 200, seed=0)
    assert np.std(loose) > 0.01
    assert np.std(draw(strata_of([whole], by=[whole, *subset]), 1, 200, seed=0)) < 1e-12


def test_a_small_stratum_is_merged_with_the_largest_that_shares_a_mean():
    whole = mean(np.arange(50.0), name="a")
    part = Mean(whole.values[:3], whole.rows[:3], whole.prompts[:3])
    assert [len(s.sums) for s in strata_of([whole, part])] == [50]
    other = mean(np.arange(9.0), name="b")
    assert sorted(len(s.sums) for s in strata_of([whole, other])) == [9, 50]


def test_single_prompts_of_a_subset_form_one_stratum():
    lone = [mean([float(i % 2)], name=f"s{i}") for i in range(6)]
    assert [len(s.sums) for s in strata_of(lone)] == [6]
    tally = Tally({str(i): m for i, m in enumerate(lone)}, {"all": {str(i): 1 / 6 for i in range(6)}}, "all")
    found = numbers(tally, "accuracy")[0]
    assert found.value == 0.5 and found.low < 0.3 and found.high > 0.7 and found.method == "Wilson over 6 prompts"


def test_a_difference_of_means_over_the_same_rows_is_the_mean_of_the_differences():
    rng = np.random.default_rng(7)
    for n in (30, 250):
        a, b, prompts = rng.random(3 * n).round(), rng.random(3 * n).round(), rng.integers(0, n, 3 * n)
        means = {"a": mean(a, prompts), "b": mean(b, prompts), "d": mean(a - b, prompts)}
        two, direct = numbers(Tally(means, {"a-b": {"a": 1.0, "b": -1.0}, "d": {"d": 1.0}}, "d"), "x")
        assert (two.value, two.low, two.high) == pytest.approx((direct.value, direct.low, direct.high))


def test_numbers_that_are_no_share_have_students_t_below_100_prompts():
    values = np.random.default_rng(8).normal(3, 1, 25)
    found = interval_of(values)
    edges = stats.ttest_1samp(values, 0).confidence_interval()
    assert found.method == "Student's t over 25 prompts"
    assert (found.low, found.high) == pytest.approx((edges.low, edges.high))


def test_a_correlation_never_leaves_its_range():
    found = interval_of([1.0] * 9 + [0.2, -0.1])
    assert found.method == "Student's t over 11 prompts" and found.high == 1.0


def test_correlations_that_happen_to_be_positive_are_no_shares():
    tally = Tally({"m": mean([0.1, 0.0, 0.4, 0.0, 0.3])}, {"n": {"m": 1.0}}, "n")
    signed, share = numbers(tally, "kendall tau-b, per prompt", signed=True)[0], numbers(tally, "ndcg")[0]
    assert signed.method.startswith("Student's t") and signed.low < 0 < share.low


def test_where_every_prompt_has_the_same_value_the_interval_is_not_a_point():
    alike = Tally({"a": mean([1.0] * 40), "b": mean([1.0] * 40)}, {"a-b": {"a": 1.0, "b": -1.0}}, "a-b")
    found = numbers(alike, "x")[0]
    assert found.value == 0 and found.low < -0.05 and found.high > 0.05
    assert found.method == "Wilson on prompts that differ, none of 40"
    tau = interval_of([-1.0] * 20)
    assert tau.low == -1.0 and -0.9 < tau.high < -0.5
    unbounded = interval_of([3.0] * 20)
    assert unbounded.value == 3.0 and unbounded.low is None and "no interval" in unbounded.note


def test_one_prompt_has_no_interval():
    found = interval_of([0.3, 2.5], ["p", "p"])
    assert (found.value, found.low, found.high, found.note) == (1.4, None, None, "one prompt: no interval")
    found = interval_of([1.0])
    assert (found.low, found.high) == pytest.approx(share(1, 1))


def test_numbers_are_in_order_then_the_missing_ones_with_the_reason():
    tally = Tally(
        {"a": mean([1.0, 0.0]), "none": mean([])},
        {"b": {"a": 1.0, "none": 1.0}, "a": {"a": 1.0}},
        "b",
        {"prior": "no rows of it"},
    )
    gone, there, missing = numbers(tally, "official")
    assert [n.section for n in (gone, there, missing)] == ["b", "a", "prior"]
    assert gone.value is None and gone.note == "one of its means has no rows"
    assert there.value == 0.5 and missing.value is None and missing.note == "no rows of it"


def test_much_weight_on_a_few_prompts_does_not_count_as_many():
    rng = np.random.default_rng(9)
    means = {"few": mean(rng.random(12).round(), name="f"), "many": mean(rng.random(400).round(), name="m")}
    heavy = {"both": {"few": 0.5, "many": 0.5}, "by size": {"few": 12 / 412, "many": 400 / 412}}
    both, by_size = numbers(Tally(means, heavy, "both"), "accuracy")
    assert both.method == "Wilson over 412 prompts" and by_size.method.startswith("bootstrap")
    # Half of it is a share of 12: half of that one's width.
    few = interval_of(means["few"].values)
    assert both.high - both.low > 0.45 * (few.high - few.low)


def test_the_p_of_the_bootstrap_is_where_its_interval_ends():
    drawn = np.sort(np.random.default_rng(10).gamma(4, 1, 4000) - 1.0)
    low, high = bca(float(np.median(drawn)), drawn, 0.05, 60)
    for edge in (low, high):
        assert bca_p(float(np.median(drawn)), drawn, 0.05, 60, null=edge) == pytest.approx(0.05, abs=0.002)


def test_p_is_students_where_no_draw_reaches_0():
    values = np.random.default_rng(11).normal(1, 1, 400)
    (found,) = intervals([mean(values)], np.array([[1.0]]))
    assert found.p == pytest.approx(stats.ttest_1samp(values, 0).pvalue, rel=1e-6) and found.p < 1e-20


def pearson(x, y):
    return lambda rows: float(np.corrcoef(x[rows], y[rows])[0, 1]) if len(set(x[rows])) > 1 else math.nan


def test_a_statistic_that_is_no_mean_agrees_with_scipys_bootstrap():
    rng = np.random.default_rng(12)
    x = rng.normal(size=200)
    y = x + rng.normal(size=200)
    found = resampled([str(i) for i in range(200)], pearson(x, y), "pearson, pooled", "all", draws=2000)
    theirs = stats.bootstrap(
        (x, y), lambda a, b: np.corrcoef(a, b)[0, 1], paired=True, vectorized=False, n_resamples=2000, rng=rng
    ).confidence_interval
    assert found.value == pytest.approx(stats.pearsonr(x, y).statistic) and found.section == "all"
    assert (found.low, found.high) == pytest.approx((theirs.low, theirs.high), abs=0.02)


def test_a_statistic_sees_all_rows_of_a_prompt_together():
    seen = []

    def count(rows):
        seen.append(rows)
        return float(len(rows))

    found = resampled(["a", "b", "a", "c", "c", "c"], count, "rows", draws=50)
    assert found.value == 6 and (found.rows, found.prompts) == (6, 3)
    for rows in seen[1:]:
        times = np.bincount(rows, minlength=6)
        assert times[0] == times[2] and times[3] == times[4] == times[5]


def test_draws_that_are_not_defined_are_counted_and_left_out():
    x, y = np.array([1.0, 1, 1, 2]), np.array([1.0, 2, 3, 4])
    found = resampled(list("abcd"), pearson(x, y), "pearson", draws=500)
    lost = int(found.note.split()[0])
    # Three draws of four prompts miss the one that differs, or take it alone: (27 + 1) / 64.
    assert lost == pytest.approx(500 * 28 / 64, abs=40) and found.note == f"{lost} of 500 draws were not defined"
    assert found.low <= found.value <= found.high


def test_a_statistic_without_a_value_or_with_too_few_prompts_has_a_note():
    x = np.ones(4)
    assert resampled(list("abcd"), pearson(x, x), "pearson").note == "not defined on these rows"
    assert resampled([], pearson(x, x), "pearson").value is None
    found = resampled(list("aabb"), lambda rows: float(len(rows)), "rows")
    assert found.value == 4 and found.low is None and found.note == "fewer than 3 prompts: no interval"
