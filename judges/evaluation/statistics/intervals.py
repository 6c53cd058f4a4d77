"""95 % intervals: a bootstrap over prompts, and closed forms where prompts, or prompts that differ, are few.

How well they hold is measured in tests/evaluation/test_coverage.py; the choices here are by that measure.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from judges.evaluation.results import MetricValue
from judges.evaluation.statistics.bootstrap import SMALL, Spread, draw, spread_of, strata_of
from judges.evaluation.statistics.tally import Mean, Tally

Floats = NDArray[np.float64]

Z = float(stats.norm.ppf(0.975))
FEW = 100  # prompts, below which there is no bootstrap
CARRY = 20  # prompts that must carry the variance: a share of .97 over 100 prompts has 3


def share(successes: float, total: int) -> tuple[float, float]:
    """Wilson's 95 % interval of a share of `total` independent cases; (0, 1) without a case.

    >>> tuple(round(edge, 3) for edge in share(28, 28))
    (0.879, 1.0)
    """
    return wilson(successes / total, total) if total else (0.0, 1.0)


def wilson(p: float, n: float, z: float = Z) -> tuple[float, float]:
    """Wilson's score interval (Wilson 1927) of a share `p` in [0, 1] seen at an effective size of `n` > 0 cases,
    at the quantile `z`: of the normal, or of Student's t where the size is itself an estimate."""
    centre = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(max(p * (1 - p), 0.0) / n + z * z / (4 * n * n))
    # Exactly 0 and 1 at the edges, where rounding would leave the value itself outside.
    return (0.0 if p <= 0 else max(0.0, centre - half)), (1.0 if p >= 1 else min(1.0, centre + half))


def bca(value: float, drawn: Floats, skew: float, df: float) -> tuple[float, float]:
    """The bias-corrected and accelerated interval (Efron 1987) of a value from its draws, sorted and without nan,
    at the quantiles of Student's t: 100 to 200 prompts are too few for those of the normal."""
    z0, t = _bias(value, drawn), float(stats.t.ppf(0.975, df))
    edges = []
    for q in (z0 - t, z0 + t):
        edges.append(float(np.quantile(drawn, stats.norm.cdf(z0 + q / max(1 - skew * q, 0.1)))))
    return min(edges[0], value), max(edges[1], value)


def bca_p(value: float, drawn: Floats, skew: float, df: float, null: float = 0.0) -> float:
    """The two-sided p at which that interval just reaches `null`."""
    z0 = _bias(value, drawn)
    at = float(stats.norm.ppf(_below(null, drawn))) - z0
    q = at / max(1 + skew * at, 0.1)
    return float(min(1.0, 2 * stats.t.sf(abs(q - z0), df)))


def _bias(value: float, drawn: Floats) -> float:
    return float(stats.norm.ppf(_below(value, drawn)))


def _below(value: float, drawn: Floats) -> float:
    """The share of the draws below, equal ones counted half; never quite 0 or 1."""
    slack = 1e-12 * max(1.0, abs(value))
    below = (np.searchsorted(drawn, value - slack) + np.searchsorted(drawn, value + slack)) / 2
    return float(np.clip(below, 0.5, len(drawn) - 0.5) / len(drawn))


@dataclass(frozen=True, slots=True)
class Interval:
    """An interval of a value with what it was made from; `p` is two-sided against 0."""

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
    """The interval of each Σ weight · mean (a row of `weights`), all from the same draws. `signed` says that
    values may be below 0, though here none is: differences and correlations are no shares. `by`: see `strata_of`.

    From FEW prompts up the BCa bootstrap over prompts. Where prompts are fewer, or those that carry the variance
    are (at the edges, with a mean of a few prompts, with much weight on a few), a closed form: Wilson's for a
    share (a weighted mean, weights of sum 1, of values in [0, 1]) and Student's t for any other number.
    """
    strata = strata_of(means, by)
    spread = spread_of(strata, means, weights)
    prompts = np.array([len(set(mean.prompts)) for mean in means])
    values = weights @ np.array([mean.value for mean in means])
    uses = weights != 0
    smallest = np.array([prompts[use].min() if use.any() else 0 for use in uses])
    enough = (spread.even >= FEW - 1e-6) & (spread.carrying >= CARRY) & (smallest >= SMALL)
    drawn = draw(strata, len(means), draws, seed) if enough.any() else np.empty((0, len(means)))
    made = []
    for i, use in enumerate(uses):
        of = np.flatnonzero(use)
        if enough[i]:
            made.append(_drawn(float(values[i]), drawn[:, of] @ weights[i, of], i, spread))
        else:
            named = {p for m in of for p in means[m].prompts}
            ends = _ends([means[m] for m in of], signed)
            made.append(_closed(float(values[i]), weights[i, of], ends, i, spread, len(named)))
    return made


def _drawn(value: float, drawn: Floats, i: int, spread: Spread) -> Interval:
    found = np.sort(drawn[~np.isnan(drawn)])
    lost = len(drawn) - len(found)
    note = f"{lost} of {len(drawn)} draws had a part without rows" if lost else ""
    skew, df, variance = float(spread.skew[i]), float(spread.df[i]), float(spread.variance[i])
    low, high = bca(value, found, skew, df)
    p = bca_p(value, found, skew, df)
    if not found[0] < 0 < found[-1]:
        # Draws end where p is about their number's inverse; beyond, the tail is Student's.
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
        # Of a share only the clustering is estimated: rows that are independent have a known variance.
        clustered = 1 - float(spread.alone[i] / spread.whole[i])
        t = float(stats.t.ppf(0.975, df / clustered**2)) if prompts > 1 and clustered > 1e-6 else Z
        low, high = wilson(min(max(value, 0.0), 1.0), _size(value, i, spread, prompts), t)
        return Interval(value, low, high, f"Wilson {over}", "", variance, _t_p(value, variance, df))
    if prompts < 2:
        return Interval(value, None, None, "", "one prompt: no interval", 0.0, 1.0)
    if variance <= 1e-24:
        # All prompts say the same: two-sided, how rarely so many fair coins fall alike.
        p = min(1.0, 2.0 ** (1 - prompts)) if value else 1.0
        if ends is None:
            return Interval(value, None, None, "", "every prompt says the same: no interval", 0.0, p)
        # As many others may be unseen as Wilson allows, each differing by as much as it can.
        half = (1 - share(prompts, prompts)[0]) * float(np.abs(weights).sum()) * max(map(abs, ends))
        low, high = max(value - half, _least(weights, ends)), min(value + half, -_least(-weights, ends))
        return Interval(value, low, high, f"Wilson on prompts that differ, none of {prompts}", "", variance, p)
    half = float(stats.t.ppf(0.975, df)) * math.sqrt(variance)
    low, high = value - half, value + half
    if ends is not None:
        low, high = max(low, _least(weights, ends)), min(high, -_least(-weights, ends))
    return Interval(value, low, high, f"Student's t {over}", "", variance, _t_p(value, variance, df))


def _size(value: float, i: int, spread: Spread, prompts: int) -> float:
    """The effective number of cases of a share: what independent rows of its variance would be.

    The variance seen is drawn, with the weight of one prompt, to the middle between rows of a prompt all alike
    and all independent: where nothing or next to nothing was wrong, the sample does not say which they are.
    Where much weight lies on a few prompts, each stratum's is drawn by itself. It never falls below independent
    rows.
    """
    unit = max(value * (1 - value), 0.0)
    between = float(spread.whole[i] + spread.alone[i]) / 2
    if unit < 1e-12:
        return 1 / between
    seen = float(spread.carrying[i])
    if spread.even[i] < prompts * 2 / 3:
        variance = float(spread.careful[i])
    else:
        variance = (seen * float(spread.variance[i]) + unit * between) / (seen + 1)
    return unit / max(variance, float(spread.rows[i]))


def _ends(means: Sequence[Mean], signed: bool) -> tuple[int, int] | None:
    """The range that the values keep to: shares, or correlations and differences of shares; None beyond."""
    low, high = min(float(m.values.min()) for m in means), max(float(m.values.max()) for m in means)
    return (0, 1) if low >= 0 and high <= 1 and not signed else (-1, 1) if low >= -1 and high <= 1 else None


def _least(weights: Floats, ends: tuple[int, int]) -> float:
    return float(np.minimum(weights * ends[0], weights * ends[1]).sum())


def numbers(tally: Tally, metric: str, seed: int = 0, draws: int = 1000, signed: bool = False) -> tuple[MetricValue, ...]:
    """One MetricValue for each of the tally's numbers, its name as `section`, then one for each that is missing.

    Every one with its interval (see `intervals`, also for `signed`), from one bootstrap. A number with a mean of
    no rows has no value. `left_out`, `ties`, `worst` and `best` are not known here.
    """
    there = {name: mean for name, mean in tally.means.items() if len(mean.values)}
    known = {name: parts for name, parts in tally.numbers.items() if parts and all(m in there for m in parts)}
    weights = np.array([[parts.get(m, 0.0) for m in there] for parts in known.values()], dtype=np.float64)
    found: dict[str, Interval] = {}
    if known:
        found = dict(zip(known, intervals(tuple(there.values()), weights, seed, draws, signed=signed), strict=True))
    made = []
    for name, parts in tally.numbers.items():
        means = [tally.means[m] for m in parts]
        rows = len({row for mean in means for row in mean.rows})
        prompts = len({prompt for mean in means for prompt in mean.prompts})
        if (one := found.get(name)) is None:
            made.append(MetricValue(metric, name, None, rows=rows, prompts=prompts, note="a part of it has no rows"))
        else:
            made.append(MetricValue(metric, name, one.value, one.low, one.high, one.method, rows, prompts, note=one.note))
    return (*made, *(MetricValue(metric, name, None, note=why) for name, why in tally.missing.items()))


def resampled(
    prompts: Sequence[str],
    statistic: Callable[[NDArray[np.intp]], float],
    metric: str,
    section: str = "",
    seed: int = 0,
    draws: int = 1000,
) -> MetricValue:
    """A MetricValue that is no mean (pooled Kendall τ), with a bootstrap over prompts.

    `prompts` names each row's prompt; `statistic` is given row indices, with repetition, and may answer nan:
    such draws are left out and counted in `note`. Bias-corrected percentiles at the quantiles of Student's t.
    """
    index: dict[str, list[int]] = {}
    for row, prompt in enumerate(prompts):
        index.setdefault(prompt, []).append(row)
    n = len(index)
    value = float(statistic(np.arange(len(prompts), dtype=np.intp))) if prompts else math.nan
    if not math.isfinite(value):
        return MetricValue(metric, section, None, rows=len(prompts), prompts=n, note="not defined on these rows")
    if n < 3:
        return MetricValue(metric, section, value, rows=len(prompts), prompts=n, note="fewer than 3 prompts: no interval")
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
    lost = draws - len(found)
    note = f"{lost} of {draws} draws were not defined" if lost else ""
    if len(found) < draws / 2:
        return MetricValue(metric, section, value, rows=len(prompts), prompts=n, note=f"{note}: no interval")
    low, high = bca(value, found, 0.0, n - 1)
    method = f"bootstrap over prompts, {draws} draws"
    return MetricValue(metric, section, value, low, high, method, len(prompts), n, note=note)
