from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from judges.evaluation.results import Contrast
from judges.evaluation.statistics.significance import change, cheapest_not_worse, contrasts, holm, mcnemar
from judges.evaluation.statistics.tally import Mean, Tally


def tally(values, prompts=None, rows=None):
    """A Tally of one mean, its headline."""
    rows = tuple(rows if rows is not None else (f"r{i}" for i in range(len(values))))
    mean = Mean(np.asarray(values, dtype=np.float64), rows, tuple(map(str, prompts)) if prompts is not None else rows)
    return Tally({"m": mean}, {"overall": {"m": 1.0}}, "overall")


def differences(values, prompts=None):
    return tally(values, prompts).means


def test_holm_corrects_as_worked_out_by_hand():
    # Sorted .005 .01 .03 .04, times 4 3 2 1: .02 .03 .06 .04, and no later one below an earlier.
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.5, 0.6, 0.9]) == pytest.approx([1.0, 1.0, 1.0])
    assert holm([0.2]) == [0.2] and holm([]) == []


def test_mcnemars_mid_p_is_as_worked_out_by_hand():
    # 10 against 2: 2 · (1 + 12 + 66) / 4096 is the exact p, less the 66 / 4096 of the table itself.
    assert mcnemar(differences([1] * 10 + [-1] * 2 + [0] * 50), {"m": 1.0}) == pytest.approx((2 * 79 - 66) / 4096)
    assert mcnemar(differences([0] * 9), {"m": 1.0}) == 1.0
    assert mcnemar(differences([1, -1, 0]), {"m": 1.0}) == 1.0


def test_mcnemars_mid_p_is_the_mean_of_the_exact_p_here_and_one_step_on():
    for ups, downs in ((9, 1), (30, 18), (0, 7), (100, 62)):
        p = mcnemar(differences([1] * ups + [-1] * downs), {"m": 1.0})
        exact = stats.binomtest(ups, ups + downs).pvalue
        beyond = stats.binomtest(max(ups, downs) + 1, ups + downs).pvalue if min(ups, downs) else 0.0
        assert p == pytest.approx((exact + beyond) / 2)


def test_rows_of_one_prompt_cast_one_vote():
    values, prompts = np.repeat([1] * 6 + [-1], 5), np.repeat(np.arange(7), 5)
    assert mcnemar(differences(values, prompts), {"m": 1.0}) == mcnemar(differences([1] * 6 + [-1]), {"m": 1.0})
    # A prompt that goes both ways equally often does not vote.
    assert mcnemar(differences([1, -1, 1], ["a", "a", "b"]), {"m": 1.0}) == pytest.approx(0.5)


def paired(n=200, better=30, worse=10):
    """Two scorers that are right on the same rows but for these."""
    a, b = np.ones(n), np.ones(n)
    b[:better] = 0
    a[better : better + worse] = 0
    return tally(a), tally(b)


def test_a_difference_and_its_interval_are_those_of_the_paired_rows():
    a, b = paired()
    (found,) = contrasts("bench", {"a": a, "b": b})
    edges = stats.ttest_1samp(a.means["m"].values - b.means["m"].values, 0).confidence_interval()
    assert found.difference == pytest.approx(0.1)
    assert (found.low, found.high) == pytest.approx((edges.low, edges.high), abs=0.006)
    assert found.p_mcnemar == pytest.approx(2 * stats.binom.cdf(10, 40, 0.5) - stats.binom.pmf(10, 40, 0.5))
    assert found.p_holm == found.p_bootstrap < 0.01 and found.more_pairs is None
    points, half = re.fullmatch(r"a beats b by (\S+) ± (\S+) points\.", found.words).groups()
    assert (points, float(half)) == ("10.0", pytest.approx(50 * (edges.high - edges.low), abs=0.5))


def test_the_better_one_is_named_first_in_words_whatever_the_order():
    a, b = paired()
    (found,) = contrasts("bench", {"b": b, "a": a})
    assert found.difference == pytest.approx(-0.1) and (found.first, found.second) == ("b", "a")
    assert found.words.startswith("a beats b by 10.0")


def test_pairing_finds_a_difference_that_separate_intervals_do_not_show():
    rng = np.random.default_rng(0)
    both = (rng.random(300) < 0.6).astype(float)
    better = both.copy()
    better[np.flatnonzero(both == 0)[:12]] = 1
    (found,) = contrasts("bench", {"better": tally(better), "plain": tally(both)})
    assert found.p_bootstrap < 0.01 and found.low > 0


def test_identical_scorers_have_no_significant_difference_at_any_size():
    a, _ = paired()
    (found,) = contrasts("bench", {"a": a, "again": a})
    assert (found.difference, found.p_bootstrap, found.p_mcnemar, found.more_pairs) == (0.0, 1.0, 1.0, None)
    assert found.low < 0 < found.high
    assert found.words == "a and again: no significant difference (the difference is 0)."


def test_with_the_stated_number_of_further_rows_the_difference_is_significant_four_times_in_five():
    a, b = paired(200, 20, 14)
    (found,) = contrasts("bench", {"a": a, "b": b})
    assert found.more_pairs is not None and f"about {round(found.more_pairs, -2):,} more rows" in found.words
    rng = np.random.default_rng(1)
    n = 200 + found.more_pairs
    drawn = rng.choice(a.means["m"].values - b.means["m"].values, size=(2000, n))
    t = drawn.mean(axis=1) / (drawn.std(axis=1, ddof=1) / np.sqrt(n))
    assert np.mean(np.abs(t) > 1.96) == pytest.approx(0.8, abs=0.03)


def test_rows_that_only_one_scorer_has_are_left_out_and_reported():
    a, b = paired()
    rows = a.means["m"].rows
    short = tally(b.means["m"].values[5:], rows=rows[5:])
    (found,) = contrasts("bench", {"a": a, "b": short})
    assert found.difference == pytest.approx((25 - 10) / 195)
    assert found.words.endswith(" Left out: 5 rows with a value for only one of them.")
    turned = tally(b.means["m"].values[::-1], rows=rows[::-1])
    assert contrasts("bench", {"a": a, "b": turned})[0].difference == pytest.approx(0.1)


def test_scorers_without_a_common_row_or_with_other_weights_are_not_compared():
    a, b = paired()
    apart = tally(b.means["m"].values, rows=[f"other{i}" for i in range(200)])
    assert contrasts("bench", {"a": a, "b": apart}) == ()
    parts = Tally(b.means, {"overall": {"m": 2.0}}, "overall")
    assert contrasts("bench", {"a": a, "b": parts}) == ()
    assert contrasts("bench", {"a": a, "b": replace(b, numbers={})}) == ()
    assert contrasts("bench", {"a": a}) == ()


def test_every_pair_is_compared_and_holm_is_over_all_of_them():
    rng = np.random.default_rng(2)
    tallies = {f"s{i}": tally((rng.random(300) < 0.6 + 0.02 * i).astype(float)) for i in range(5)}
    found = contrasts("bench", tallies)
    assert len(found) == 10 and (found[0].first, found[0].second) == ("s0", "s1")
    assert [c.p_holm for c in found] == pytest.approx(holm([c.p_bootstrap for c in found]))
    alone = contrasts("bench", {"s0": tallies["s0"], "s4": tallies["s4"]})[0]
    assert alone.p_holm < next(c for c in found if c.second == "s4" and c.first == "s0").p_holm


def test_an_overall_weighs_its_subsets_and_not_its_rows():
    easy, hard = np.ones(100), np.zeros(20)
    a = Tally(
        {"easy": tally(easy).means["m"], "hard": tally(hard + 1, rows=[f"h{i}" for i in range(20)]).means["m"]},
        {"overall": {"easy": 0.5, "hard": 0.5}},
        "overall",
    )
    b = replace(a, means={**a.means, "hard": tally(hard, rows=[f"h{i}" for i in range(20)]).means["m"]})
    (found,) = contrasts("bench", {"a": a, "b": b})
    assert found.difference == pytest.approx(0.5)


def test_one_prompt_shows_no_significant_difference():
    (found,) = contrasts("bench", {"a": tally([1, 1, 1, 1], "pppp"), "b": tally([0, 0, 0, 0], "pppp")})
    assert (found.low, found.high, found.p_bootstrap) == (-1.0, 1.0, 1.0) and "no significant difference" in found.words


def test_a_scorers_two_runs_are_compared_after_minus_before():
    better, worse = paired()
    rose, fell = change("bench", "judge", worse, better), change("bench", "judge", better, worse)
    assert rose.words.startswith("judge rose by 10.0 ± ") and rose.difference == pytest.approx(0.1)
    assert fell.words.startswith("judge fell by 10.0 ± ") and fell.difference == pytest.approx(-0.1)
    same = change("bench", "judge", better, better)
    assert same.words == "judge: no significant change (the difference is 0)."
    little = change("bench", "judge", *paired(200, 14, 20)[::-1])
    assert little.words.startswith("judge, down by 3.0 ± 5.") and "more rows would" in little.words
    with pytest.raises(ValueError, match="not computed from the same rows"):
        change("bench", "judge", better, replace(worse, numbers={}))


def contrast(first, second, p_holm):
    return Contrast("bench", first, second, 0.0, 0.0, 0.0, p_holm, p_holm, p_holm, "")


def test_the_cheapest_scorer_without_a_significant_difference_from_the_best_is_named():
    values = {"big": 0.9, "small": 0.89, "length": 0.6}
    found = [contrast("big", "small", 0.4), contrast("big", "length", 0.001), contrast("small", "length", 0.2)]
    sentence = cheapest_not_worse({"big": 200.0, "small": 8.0, "length": 0.1}, values, found)
    assert (
        sentence
        == "The cheapest scorer without a significant difference from the best (big) is small, at 4 % of its cost."
    )
    assert "(big) is small." in str(cheapest_not_worse({"small": 8.0, "length": 0.1}, values, found))
    alone = cheapest_not_worse({"big": 2.0, "small": 8.0, "length": 0.1}, values, found)
    assert alone == "big is the best scorer and also the cheapest without a significant difference from it."
    assert cheapest_not_worse({"length": 0.1}, values, found) is None
    assert cheapest_not_worse({}, {}, ()) is None
