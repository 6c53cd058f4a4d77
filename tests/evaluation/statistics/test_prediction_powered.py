import math

import numpy as np
import pytest

from judges.evaluation.statistics.intervals import wilson
from judges.evaluation.statistics.prediction_powered import Estimate, TooFewLabels, by_group, estimate, rogan_gladen

REPETITIONS = 1000
NONE = math.nan


def width(number):
    return number.high - number.low


def known(verdicts, labels):
    """Labels on the first rows only."""
    return [*labels, *[None] * (len(verdicts) - len(labels))]


# -- the estimate ---------------------------------------------------------------------------------------------


def reference():
    """Two sets of 600 rows, 150 labelled, result without a random number."""
    i = np.arange(600)
    wins = ((i * i * 7 + 3 * i) % 11 < 6).astype(float)
    scores = np.sin(i) * 2 + i % 5
    yield wins, np.where((i * 13) % 17 < 5, 1 - wins, wins)[:150]
    yield scores, (scores * 0.7 + np.cos(3 * i) + 1)[:150]


def test_it_equals_the_papers_own_package():
    # ppi-python 0.2.3: ppi_mean_pointestimate and ppi_mean_ci(alpha=0.05) with power tuning, on the same rows.
    published = [(0.58133309, 0.50698688, 0.65567931), (2.4098672, 2.25132412, 2.56841028)]
    for (verdicts, labels), (value, low, high) in zip(reference(), published, strict=True):
        result = estimate(verdicts, known(verdicts, labels)).corrected
        assert result.value == pytest.approx(value, abs=0.02 * (high - low))
        assert width(result) == pytest.approx(
            high - low, rel=0.025
        )  # a t quantile, Wilson and leverages beside its normal one


def test_it_is_the_papers_formula_with_independent_rows():
    for verdicts, labels in reference():
        n, rest = len(labels), verdicts[len(labels) :]
        f = verdicts[:n]
        result = estimate(verdicts, known(verdicts, labels))
        # λ = cov(y, f) / ((1 + n / N) var(f)), example 1 of arXiv 2311.01453, var(f) over the labelled rows
        power = np.cov(labels, f)[0, 1] / ((1 + n / len(rest)) * f.var(ddof=1))
        assert result.power == pytest.approx(power)
        assert result.corrected.value == pytest.approx(labels.mean() + power * (rest.mean() - f.mean()))
        variance = np.var(labels - power * f) / n + power**2 * rest.var() / len(rest)
        if not result.rate:
            assert width(result.corrected) / 2 == pytest.approx(1.96 * math.sqrt(variance), rel=0.02)


def test_four_numbers_by_hand():
    # 40 labelled rows: of 24 won ones the judge sees 18, of 16 lost ones it calls 4 won; of 60 more it calls 45 won.
    verdicts = [1] * 18 + [0] * 6 + [1] * 4 + [0] * 12 + [1] * 45 + [0] * 15
    result = estimate(verdicts, known(verdicts, [1] * 24 + [0] * 16))
    assert result.verdicts_alone.value == pytest.approx(0.67)
    assert result.labels_alone.value == pytest.approx(0.6)
    # sensitivity 18 / 24, specificity 12 / 16
    assert result.rogan_gladen.value == pytest.approx((0.67 + 0.75 - 1) / (0.75 + 0.75 - 1))
    # slope of labels on verdicts: (18 / 40 - .6 · .55) / (.55 · .45)
    slope = (0.45 - 0.33) / 0.2475
    assert result.corrected.value == pytest.approx(0.6 + slope * (0.67 - 0.55))
    assert result.power == pytest.approx(slope * 0.6)
    assert (result.rows, result.labelled, result.corrected.rows, result.labels_alone.rows) == (100, 40, 100, 40)


def test_rogan_gladens_interval_is_that_of_its_published_variance():
    # Var = (p (1 - p) / N + θ² se (1 - se) / n₁ + (1 - θ)² sp (1 - sp) / n₀) / (se + sp - 1)², for a prevalence
    # sample apart from the labelled ones: nearly so with 400,000 unlabelled rows.
    verdicts = np.array([1] * 180 + [0] * 60 + [1] * 40 + [0] * 120 + [1] * 240_000 + [0] * 160_000, float)
    labels = np.array([1] * 240 + [0] * 160 + [NONE] * 400_000)
    result = rogan_gladen(verdicts, labels, np.arange(len(labels)))
    p = verdicts.mean()
    value = (p + 0.75 - 1) / 0.5
    variance = p * (1 - p) / len(verdicts)
    variance += value**2 * 0.1875 / 240 + (1 - value) ** 2 * 0.1875 / 160
    assert result.value == pytest.approx(value)
    assert width(result) / 2 == pytest.approx(1.96 * math.sqrt(variance) / 0.5, rel=0.01)


def test_constant_verdicts_give_the_estimate_of_the_labels():
    labels = [0, 1] * 20
    result = estimate([1.0] * 200, known([1] * 200, labels))
    assert result.power == 0 and "not used" in result.notes[0]
    assert (result.corrected.value, result.corrected.low, result.corrected.high) == (
        result.labels_alone.value,
        result.labels_alone.low,
        result.labels_alone.high,
    )
    assert result.rogan_gladen.value is None and "no better than chance" in result.rogan_gladen.note


def test_a_judge_that_is_always_wrong_is_as_good_as_one_that_is_always_right():
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 2, 400).astype(float)
    labels = known(truth, truth[:60])
    right, wrong = estimate(truth, labels), estimate(1 - truth, labels)
    assert wrong.corrected.value == pytest.approx(right.corrected.value)
    assert width(wrong.corrected) == pytest.approx(width(right.corrected))
    assert right.corrected.value == pytest.approx(truth.mean()) and right.worth == pytest.approx(400, rel=0.02)


def test_with_every_row_labelled_the_estimate_is_that_of_the_labels():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, 80).astype(float)
    result = estimate(rng.integers(0, 2, 80).astype(float), labels)
    assert result.corrected.value == labels.mean() and result.more_labels is None and "needs more rows" in result.words
    t = 1.9905  # the t quantile at 79 degrees of freedom
    p = labels.mean()
    assert (result.corrected.low, result.corrected.high) == pytest.approx(wilson(p, 79, t), abs=1e-4)


def test_rows_of_one_prompt_count_as_one():
    rng = np.random.default_rng(1)
    verdicts, labels = rng.integers(0, 2, 300).astype(float), rng.integers(0, 2, 40).astype(float)
    once = estimate(verdicts, known(verdicts, labels))
    four = estimate(
        np.repeat(verdicts, 4), np.repeat(known(verdicts, labels), 4), prompts=np.repeat(np.arange(300), 4).tolist()
    )
    for a, b in zip(once.numbers, four.numbers, strict=True):
        assert (a.value, a.low, a.high) == pytest.approx((b.value, b.low, b.high))
    assert width(estimate(np.repeat(verdicts, 4), np.repeat(known(verdicts, labels), 4)).labels_alone) < 0.55 * width(
        once.labels_alone
    )


def test_few_labels_are_noted_and_too_few_refused():
    verdicts = [0.0, 1.0] * 100
    assert "below 30" in estimate(verdicts, known(verdicts, [0, 1] * 8)).notes[0]
    with pytest.raises(TooFewLabels, match=r"14 labelled prompts are too few: label at least 15"):
        estimate(verdicts, known(verdicts, [0, 1] * 7))
    with pytest.raises(TooFewLabels, match="2 labelled prompts"):
        estimate(verdicts, known(verdicts, [0, 1] * 20), prompts=["a"] * 20 + ["b"] * 180)
    with pytest.raises(TooFewLabels, match="no row"):
        estimate(verdicts, [None] * 200)


@pytest.mark.parametrize(
    "verdicts, labels", [([1.0], [1.0, 2.0]), ([NONE, 1.0], [1.0, None]), ([1.0, 1.0], [math.inf, None])]
)
def test_missing_and_infinite_numbers_are_refused(verdicts, labels):
    with pytest.raises(ValueError):
        estimate(verdicts, labels)


@pytest.mark.filterwarnings("error")
def test_numbers_too_large_for_finite_sums_are_refused_and_large_ones_estimated():
    rng = np.random.default_rng(7)
    verdicts, labels = rng.normal(size=200), rng.normal(size=40)
    for f, y in ((verdicts * 1e307, labels), (verdicts, labels * 1e307)):
        with pytest.raises(ValueError, match="sums are not finite"):
            estimate(f, known(f, y))
    small, large = (estimate(verdicts * by, known(verdicts, labels * by)).corrected for by in (1, 1e98))
    assert [large.value, large.low, large.high] == pytest.approx(
        [1e98 * x for x in (small.value, small.low, small.high)]
    )


def test_labels_not_drawn_at_random_are_noted_where_verdicts_show_it():
    rng = np.random.default_rng(2)
    verdicts = rng.random(500)
    labels = verdicts + rng.normal(size=500)
    order = np.argsort(-verdicts)
    best = np.full(500, NONE)
    best[order[:100]] = labels[order[:100]]
    assert any("not be a random sample" in note for note in estimate(verdicts, best).notes)
    assert not estimate(verdicts, known(verdicts, labels[:100])).notes


def test_verdicts_are_not_used_with_a_rare_class_and_bounds_stay_in_0_to_1():
    result = estimate([1.0] * 150 + [0.0] * 150, known([0] * 300, [1] * 40))
    assert result.power == 0 and result.corrected.high == 1 and 0.85 < result.corrected.low < 0.95
    assert result.more_labels is None and "is unknown" in result.words


def test_groups_are_estimated_each_by_itself():
    rng = np.random.default_rng(3)
    verdicts, labels = rng.random(300), [*rng.random(100), *[None] * 200]
    groups = ["a", "b"] * 145 + ["c"] * 10
    result = by_group(verdicts, labels, groups)
    assert list(result) == ["a", "b", "c"] and isinstance(result["c"], TooFewLabels)
    alone = estimate(verdicts[:290:2], labels[:290:2], section="a")
    assert isinstance(result["a"], Estimate) and result["a"] == alone and alone.corrected.section == "a"


# -- more labels ----------------------------------------------------------------------------------------------


def test_the_stated_number_of_further_labels_halves_the_interval():
    rng = np.random.default_rng(4)
    truth = rng.normal(size=20_000)
    verdicts = truth + rng.normal(size=20_000)
    result = estimate(verdicts, known(verdicts, truth[:200]))
    after = estimate(verdicts, known(verdicts, truth[: 200 + result.more_labels]))
    assert width(after.corrected) / width(result.corrected) == pytest.approx(0.5, abs=0.05)
    assert after.more_labels > result.more_labels and f"{result.more_labels:,} more labels" in result.words


def test_where_labels_on_all_rows_do_not_halve_the_interval_the_sentence_gives_its_width():
    rng = np.random.default_rng(5)
    truth = rng.normal(size=600)
    verdicts = truth + 0.3 * rng.normal(size=600)
    result = estimate(verdicts, known(verdicts, truth[:200]))
    every = estimate(verdicts, truth)
    assert result.more_labels is None and "would not halve" in result.words
    half = float(result.words.split("about ± ")[1].split(",")[0])
    assert half == pytest.approx(width(every.corrected) / 2, rel=0.1)


# -- coverage -------------------------------------------------------------------------------------------------

# name: (rate in two groups, sensitivity, specificity) of the judge in each
JUDGES = {
    "biased": ((0.4, 0.6), (0.95, 0.95), (0.4, 0.4)),
    "noisy": ((0.75, 0.75), (0.6, 0.6), (0.5, 0.5)),
    "different by group": ((0.3, 0.8), (0.6, 0.95), (0.9, 0.1)),
    "better than most": ((0.6, 0.7), (0.98, 0.97), (0.8, 0.75)),
    "harsh, near the edge": ((0.88, 0.92), (0.7, 0.6), (0.9, 0.9)),
}


def judged(rng, rates, sensitivity, specificity, prompts, size):
    """Rows of labels and verdicts, (prompts, size); rows of one prompt go together (correlation about 0.3)."""
    group = rng.integers(0, 2, size=(prompts, 1))
    share = np.take(rates, group)
    if size > 1:
        share = rng.beta(share * 7 / 3, (1 - share) * 7 / 3)
    truth = (rng.random((prompts, size)) < share).astype(float)
    yes = np.where(truth == 1, np.take(sensitivity, group), 1 - np.take(specificity, group))
    return truth, (rng.random((prompts, size)) < yes).astype(float)


def simulated(seed, judge, labelled, prompts, size=1, by_prompt=False, repetitions=REPETITIONS):
    """(coverage of corrected, of verdicts alone; the worst and the mean width over that of the labels alone)."""
    rng = np.random.default_rng(seed)
    truth = np.mean(judge[0])
    code = np.repeat(np.arange(prompts), size).tolist() if size > 1 else None
    held, naive, widths = [], [], []
    for _ in range(repetitions):
        labels, verdicts = (part.ravel() for part in judged(rng, *judge, prompts, size))
        drawn = rng.permutation(prompts if by_prompt else prompts * size)[:labelled]
        seen = np.zeros((prompts, size) if by_prompt else prompts * size, dtype=bool)
        seen[drawn] = True
        seen = seen.ravel()
        result = estimate(verdicts, np.where(seen, labels, NONE), code)
        held.append(result.corrected.low <= truth <= result.corrected.high)
        naive.append(result.verdicts_alone.low <= truth <= result.verdicts_alone.high)
        widths.append(width(result.corrected) / width(result.labels_alone))
    return np.mean(held), np.mean(naive), np.max(widths), np.mean(widths)


@pytest.mark.parametrize("judge", JUDGES)
def test_the_corrected_interval_covers_the_truth_where_the_naive_one_does_not(judge):
    covered, naive, widest, mean = simulated(1, JUDGES[judge], labelled=100, prompts=500)
    assert 0.93 <= covered <= 0.97 and naive < 0.8
    assert widest <= 1.05 and mean < 1.01


# Judges that err on few rows: here verdicts alone are nearly right, and a few lucky labels would be believed.
GOOD_JUDGES = {
    "right but for 3 %": ((0.3, 0.3), (0.97, 0.97), (0.97, 0.97)),
    "errs one way only": ((0.5, 0.5), (1.0, 1.0), (0.85, 0.85)),
}


@pytest.mark.parametrize("judge", GOOD_JUDGES)
def test_a_good_judge_makes_the_interval_much_narrower_and_it_still_covers(judge):
    covered, _, widest, mean = simulated(4, GOOD_JUDGES[judge], labelled=100, prompts=500)
    assert 0.93 <= covered <= 0.97 and widest < 0.9 and mean < 0.7


def test_the_interval_allows_for_errors_of_a_judge_that_is_right_on_every_label():
    rng = np.random.default_rng(6)
    verdicts = rng.integers(0, 2, 4000).astype(float)
    result = estimate(verdicts, known(verdicts, verdicts[:25]))
    # Two errors on 25 rows, each moving the estimate by 1 / 25, at t of 23 degrees of freedom.
    assert width(result.corrected) / 2 == pytest.approx(2.07 * math.sqrt(2) / 25, rel=0.05)
    assert any("allows for 2" in note for note in result.notes)


@pytest.mark.slow
@pytest.mark.parametrize(
    "labelled, prompts, size, by_prompt", [(30, 300, 1, False), (60, 150, 3, True), (150, 150, 3, False)]
)
@pytest.mark.parametrize("judge", {**JUDGES, **GOOD_JUDGES})
def test_it_covers_with_few_labels_and_with_rows_that_share_a_prompt(judge, labelled, prompts, size, by_prompt):
    covered, _, widest, _ = simulated(2, {**JUDGES, **GOOD_JUDGES}[judge], labelled, prompts, size, by_prompt)
    assert 0.93 <= covered <= (0.997 if labelled == 30 else 0.975) and widest <= 1.05
