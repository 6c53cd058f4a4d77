"""95 % confidence intervals: the bootstrap over prompts, Wilson's and Student's t for small samples.

The thresholds are chosen by measured coverage (tests/evaluation/statistics/test_coverage.py).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from judges.evaluation.results import MetricValue
from judges.evaluation.statistics.bootstrap import MIN_STRATUM, Spread, draw, spread_of, strata_of
from judges.evaluation.statistics.tally import Mean, Tally

Floats = NDArray[np.float64]

Z = float(stats.norm.ppf(0.975))
MIN_BOOTSTRAP_PROMPTS = 100
MIN_EFFECTIVE_PROMPTS = 20  # by the variance: a share of .97 over 100 prompts has 3


def share(successes: float, total: int) -> tuple[float, float]:
    """Wilson's 95 % interval of a share of `total` independent cases; (0, 1) without a case.

    >>> tuple(round(edge, 3) for edge in share(28, 28))
    (0.879, 1.0)
    """
    return wilson(successes / total, total) if total else (0.0, 1.0)


def wilson(p: float, n: float, z: float = Z) -> tuple[float, float]:
    """Wilson's score interval (Wilson 1927) of a share `p` in [0, 1] at an effective sample size of `n` > 0.

    `n` need not be an integer. `z` is a quantile of the normal, or of Student's t where `n` is itself an estimate.
    """
    centre = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(max(p * (1 - p), 0.0) / n + z * z / (4 * n * n))
    # Exactly 0 and 1 at the ends: rounding could exclude the value itself.
    return (0.0 if p <= 0 else max(0.0, centre - half)), (1.0 if p >= 1 else min(1.0, centre + half))


def bca(value: float, drawn: Floats, skew: float, df: float) -> tuple[float, float]:
    """The bias-corrected and accelerated (BCa) interval (Efron 1987) of `value`.

    `drawn` are the bootstrap draws, sorted and without nan, `skew` is the acceleration. Quantiles are those of
    Student's t: 100 to 200 prompts are too few for the normal.
    """
    z0, t = _bias(value, drawn), float(stats.t.ppf(0.975, df))
    edges = []
    for q in (z0 - t, z0 + t):
        edges.append(float(np.quantile(drawn, stats.norm.cdf(z0 + q / max(1 - skew * q, 0.1)))))
    return min(edges[0], value), max(edges[1], value)


def bca_p(value: float, drawn: Floats, skew: float, df: float, null: float = 0.0) -> float:
    """The two-sided p-value at which the BCa interval just reaches `null`."""
    z0 = _bias(value, drawn)
    shifted = float(stats.norm.ppf(_share_below(null, drawn))) - z0
    q = shifted / max(1 + skew * shifted, 0.1)
    return float(min(1.0, 2 * stats.t.sf(abs(q - z0), df)))


def _bias(value: float, drawn: Floats) -> float:
    return float(stats.norm.ppf(_share_below(value, drawn)))


def _share_below(value: float, drawn: Floats) -> float:
    """The share of draws below `value`, ties counted half; bounded away from 0 and 1."""
    tolerance = 1e-12 * max(1.0, abs(value))
    below = (np.searchsorted(drawn, value - tolerance) + np.searchsorted(drawn, value + tolerance)) / 2
    return float(np.clip(below, 0.5, len(drawn) - 0.5) / len(drawn))


@dataclass(frozen=True, slots=True)
class Interval:
    """A value with its 95 % interval, the method, the variance and the two-sided p-value against 0."""

    value: float
    low: float | None
    high: float | None
    method: str
    note: str
    variance: float
    p: float


def intervals(
    means: Sequence[Mean],
    weights: Floats,
    seed: int = 0,
    draws: int = 1000,
    by: Iterable[Mean] = (),
    signed: bool = False,
) -> list[Interval]:
    """The interval of each Σ weight · mean (a row of `weights`), all from the same bootstrap draws.

    `signed` marks numbers that can be negative (differences, correlations), even if none of these values is.
    `by`: see `strata_of`. With 100 prompts or more the interval is the BCa bootstrap over prompts. With fewer, or
    where fewer than 20 prompts account for the variance (shares near 0 or 1, much weight on a few prompts), it is
    closed-form: Wilson's for a share (a weighted mean, weights of sum 1, of values in [0, 1]), Student's t otherwise.
    """
    strata = strata_of(means, by)
    spread = spread_of(strata, means, weights)
    prompts = np.array([len(set(mean.prompts)) for mean in means])
    values = weights @ np.array([mean.value for mean in means])
    uses = weights != 0
    smallest = np.array([prompts[use].min() if use.any() else 0 for use in uses])
    enough = (
        (spread.equal_prompts >= MIN_BOOTSTRAP_PROMPTS - 1e-6)
        & (spread.effective_prompts >= MIN_EFFECTIVE_PROMPTS)
        & (smallest >= MIN_STRATUM)
    )
    drawn = draw(strata, len(means), draws, seed) if enough.any() else np.empty((0, len(means)))
    results = []
    for i, use in enumerate(uses):
        of = np.flatnonzero(use)
        if enough[i]:
            results.append(_drawn(float(values[i]), drawn[:, of] @ weights[i, of], i, spread))
        else:
            named = {p for m in of for p in means[m].prompts}
            ends = _ends([means[m] for m in of], signed)
            results.append(_closed(float(values[i]), weights[i, of], ends, i, spread, len(named)))
    return results


def _drawn(value: float, drawn: Floats, i: int, spread: Spread) -> Interval:
    found = np.sort(drawn[~np.isnan(drawn)])
    undefined = len(drawn) - len(found)
    note = f"{undefined} of {len(drawn)} draws had a mean without rows" if undefined else ""
    skew, df, variance = float(spread.skew[i]), float(spread.df[i]), float(spread.variance[i])
    low, high = bca(value, found, skew, df)
    p = bca_p(value, found, skew, df)
    if not found[0] < 0 < found[-1]:
        # Draws cannot resolve a p-value below about 1 / draws; there the tail is Student's t.
        p = min(p, _t_p(value, variance, df))
    return Interval(value, low, high, f"bootstrap over prompts, {len(drawn)} draws", note, variance, p)


def _t_p(value: float, variance: float, df: float) -> float:
    return float(2 * stats.t.sf(abs(value) / math.sqrt(variance), df)) if variance > 0 else float(value == 0)


def _closed(
    value: float, weights: Floats, ends: tuple[int, int] | None, i: int, spread: Spread, prompts: int
) -> Interval:
    over = f"over {prompts} prompt{'s' if prompts != 1 else ''}"
    variance, df = float(spread.variance[i]), float(spread.df[i])
    if ends == (0, 1) and bool(np.all(weights >= 0)) and abs(float(weights.sum()) - 1) < 1e-9:
        # For a share only the clustering is estimated: independent rows have a known variance.
        clustered = 1 - float(spread.independent[i] / spread.correlated[i])
        t = float(stats.t.ppf(0.975, df / clustered**2)) if prompts > 1 and clustered > 1e-6 else Z
        low, high = wilson(min(max(value, 0.0), 1.0), _size(value, i, spread, prompts), t)
        return Interval(value, low, high, f"Wilson {over}", "", variance, _t_p(value, variance, df))
    if prompts < 2:
        return Interval(value, None, None, "", "one prompt: no interval", 0.0, 1.0)
    if variance <= 1e-24:
        # Sign test: the two-sided probability that all prompts have the same sign by chance.
        p = min(1.0, 2.0 ** (1 - prompts)) if value else 1.0
        if ends is None:
            return Interval(value, None, None, "", "every prompt has the same value: no interval", 0.0, p)
        # Wilson bounds the share of prompts with another value; each may differ by the full range.
        half = (1 - share(prompts, prompts)[0]) * float(np.abs(weights).sum()) * max(map(abs, ends))
        low, high = max(value - half, _least(weights, ends)), min(value + half, -_least(-weights, ends))
        return Interval(value, low, high, f"Wilson on prompts that differ, none of {prompts}", "", variance, p)
    half = float(stats.t.ppf(0.975, df)) * math.sqrt(variance)
    low, high = value - half, value + half
    if ends is not None:
        low, high = max(low, _least(weights, ends)), min(high, -_least(-weights, ends))
    return Interval(value, low, high, f"Student's t {over}", "", variance, _t_p(value, variance, df))


def _size(value: float, i: int, spread: Spread, prompts: int) -> float:
    """The effective sample size of a share: the number of independent rows with the same variance.

    The observed variance is shrunk, with the weight of one prompt, to the middle between fully correlated and
    independent rows of a prompt: with (almost) no errors the sample does not show which they are. Where much weight
    is on a few prompts, each stratum is shrunk by itself. The variance is never below that of independent rows.
    """
    unit = max(value * (1 - value), 0.0)
    between = float(spread.correlated[i] + spread.independent[i]) / 2
    if unit < 1e-12:
        return 1 / between
    effective = float(spread.effective_prompts[i])
    if spread.equal_prompts[i] < prompts * 2 / 3:
        variance = float(spread.shrunk[i])
    else:
        variance = (effective * float(spread.variance[i]) + unit * between) / (effective + 1)
    return unit / max(variance, float(spread.row_variance[i]))


def _ends(means: Sequence[Mean], signed: bool) -> tuple[int, int] | None:
    """The range of the values: (0, 1) for shares, (−1, 1) for correlations and differences of shares, else None."""
    low, high = min(float(m.values.min()) for m in means), max(float(m.values.max()) for m in means)
    return (0, 1) if low >= 0 and high <= 1 and not signed else (-1, 1) if low >= -1 and high <= 1 else None


def _least(weights: Floats, ends: tuple[int, int]) -> float:
    return float(np.minimum(weights * ends[0], weights * ends[1]).sum())


def numbers(
    tally: Tally, metric: str, seed: int = 0, draws: int = 1000, signed: bool = False
) -> tuple[MetricValue, ...]:
    """One MetricValue for each of the tally's numbers, its name as `section`, then one for each missing number.

    All intervals are from one bootstrap (see `intervals`, also for `signed`). A number that uses a mean without rows
    has no value. `left_out`, `ties`, `worst` and `best` are for the caller to fill in.
    """
    nonempty = {name: mean for name, mean in tally.means.items() if len(mean.values)}
    known = {name: parts for name, parts in tally.numbers.items() if parts and all(m in nonempty for m in parts)}
    weights = np.array([[parts.get(m, 0.0) for m in nonempty] for parts in known.values()], dtype=np.float64)
    by_name: dict[str, Interval] = {}
    if known:
        by_name = dict(
            zip(known, intervals(tuple(nonempty.values()), weights, seed, draws, signed=signed), strict=True)
        )
    results = []
    for name, parts in tally.numbers.items():
        means = [tally.means[m] for m in parts]
        rows = len({row for mean in means for row in mean.rows})
        prompts = len({prompt for mean in means for prompt in mean.prompts})
        if (interval := by_name.get(name)) is None:
            results.append(
                MetricValue(metric, name, None, rows=rows, prompts=prompts, note="one of its means has no rows")
            )
        else:
            results.append(
                MetricValue(
                    *(metric, name, interval.value, interval.low, interval.high, interval.method),
                    rows=rows,
                    prompts=prompts,
                    note=interval.note,
                )
            )
    return (*results, *(MetricValue(metric, name, None, note=why) for name, why in tally.missing.items()))


def resampled(
    prompts: Sequence[str],
    statistic: Callable[[NDArray[np.intp]], float],
    metric: str,
    section: str = "",
    seed: int = 0,
    draws: int = 1000,
) -> MetricValue:
    """Any statistic of rows (pooled Kendall τ, for example) with a bootstrap over prompts.

    `prompts` names each row's prompt. `statistic` maps row indices, with repetition, to a float; draws where it is
    nan are left out and counted in `note`. The interval is BCa without acceleration (`bca`).
    """
    index: dict[str, list[int]] = {}
    for row, prompt in enumerate(prompts):
        index.setdefault(prompt, []).append(row)
    n = len(index)
    value = float(statistic(np.arange(len(prompts), dtype=np.intp))) if prompts else math.nan
    if not math.isfinite(value):
        return MetricValue(metric, section, None, rows=len(prompts), prompts=n, note="not defined on these rows")
    if n < 3:
        return MetricValue(
            metric, section, value, rows=len(prompts), prompts=n, note="fewer than 3 prompts: no interval"
        )
    by_prompt = np.concatenate([np.array(rows, dtype=np.intp) for rows in index.values()])
    counts = np.array([len(rows) for rows in index.values()])
    starts = np.cumsum(counts) - counts
    rng = np.random.default_rng(seed)

    def one_draw() -> float:
        picked = rng.integers(n, size=n - 1)
        ends = np.cumsum(counts[picked])
        first = np.repeat(starts[picked] - (ends - counts[picked]), counts[picked])
        return statistic(by_prompt[first + np.arange(ends[-1])])

    drawn = np.array([one_draw() for _ in range(draws)])
    found = np.sort(drawn[np.isfinite(drawn)])
    undefined = draws - len(found)
    note = f"{undefined} of {draws} draws were not defined" if undefined else ""
    if len(found) < draws / 2:
        return MetricValue(metric, section, value, rows=len(prompts), prompts=n, note=f"{note}: no interval")
    low, high = bca(value, found, 0.0, n - 1)
    method = f"bootstrap over prompts, {draws} draws"
    return MetricValue(metric, section, value, low, high, method, len(prompts), n, note=note)
