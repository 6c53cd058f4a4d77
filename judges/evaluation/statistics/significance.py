"""Paired significance tests of scorers on the same rows: bootstrap, McNemar, and Holm's correction."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from judges.evaluation.results import Contrast
from judges.evaluation.statistics.intervals import Interval, intervals
from judges.evaluation.statistics.tally import Mean, Tally

LEVEL = 0.05
POWER = 0.8


@dataclass(frozen=True, slots=True)
class _Pair:
    """Differences of two tallies (first − second) on the rows that both have; `left_out` counts the other rows."""

    first: str
    second: str
    means: Mapping[str, Mean]
    weights: Mapping[str, float]
    left_out: int

    @property
    def rows(self) -> int:
        return len({row for mean in self.means.values() for row in mean.rows})


def contrasts(benchmark: str, tallies: Mapping[str, Tally], seed: int = 0, draws: int = 1000) -> tuple[Contrast, ...]:
    """Paired comparison of every two scorers (by label) on the headline number, over the rows that both have.

    The difference of two headlines is a weighted sum of means of the rows' differences, so `intervals.intervals`
    gives its interval and `p_bootstrap`; every draw gives all pairs the same prompts. `p_mcnemar`: see `mcnemar`.
    `p_holm` is Holm's correction of `p_bootstrap` over all contrasts here; a difference is significant where it is
    below 0.05. A pair is left out where the two headlines do not weigh the same means, or share no rows.
    """
    pairs = [
        pair
        for (first, a), (second, b) in combinations(tallies.items(), 2)
        if (pair := _paired(first, a, second, b)) is not None
    ]
    differences = _differences(pairs, list(tallies.values()), seed, draws)
    corrected = holm([difference.p for difference in differences])
    results = []
    for pair, difference, p_holm in zip(pairs, differences, corrected, strict=True):
        if p_holm < LEVEL:
            better, worse = (pair.first, pair.second) if difference.value > 0 else (pair.second, pair.first)
            words = f"{better} beats {worse} by {_points(pair, difference)}."
        else:
            words = f"{pair.first} and {pair.second}: no significant difference"
        results.append(_contrast(benchmark, pair, difference, p_holm, words, len(pairs)))
    return tuple(results)


def change(benchmark: str, label: str, before: Tally, after: Tally, seed: int = 0, draws: int = 1000) -> Contrast:
    """One scorer in two runs: after − before, as in `contrasts`. Raises ValueError where the two headlines do not
    weigh the same means, or share no rows."""
    pair = _paired(label, after, f"{label}, before", before)
    if pair is None:
        raise ValueError(f"{label} on {benchmark}: the headline is not computed from the same rows in the two runs")
    (difference,) = _differences([pair], [before, after], seed, draws)
    by = _points(pair, difference)
    if difference.p < LEVEL:
        words = f"{label} {'rose' if difference.value > 0 else 'fell'} by {by}."
    elif difference.value:
        words = f"{label}, {'up' if difference.value > 0 else 'down'} by {by}: no significant change"
    else:
        words = f"{label}: no significant change"
    return _contrast(benchmark, pair, difference, difference.p, words, 1)


def _contrast(benchmark: str, pair: _Pair, difference: Interval, p_holm: float, words: str, contrasts: int) -> Contrast:
    """The Contrast, its sentence completed with what a difference that is not significant would need."""
    low, high = _bounds(pair, difference)
    more = None
    if p_holm >= LEVEL:
        more = _more_rows(pair.rows, difference, contrasts)
        if more is not None:
            words += f"; about {rounded(more):,} more rows would make it significant"
            words += " (80 % power at the observed difference)"
        elif not difference.value:
            words += " (the difference is 0)"
        words += "."
    if pair.left_out:
        words += (
            f" Left out: {pair.left_out:,} row{'s' if pair.left_out != 1 else ''} with a value for only one of them."
        )
    p_mcnemar = mcnemar(pair.means, pair.weights)
    value = difference.value
    return Contrast(benchmark, pair.first, pair.second, value, low, high, difference.p, p_mcnemar, p_holm, words, more)


def cheapest_not_worse(
    costs: Mapping[str, float], values: Mapping[str, float], contrasts: Sequence[Contrast]
) -> str | None:
    """A sentence that names the cheapest scorer without a significant difference from the best.

    None where none of these scorers, the best included, has a cost. `costs` (any unit, one for all) and `values`
    (the headline, higher is better) are by label.
    """
    if not values:
        return None
    best = max(values, key=lambda label: values[label])
    similar = {best}
    for contrast in contrasts:
        if best in (contrast.first, contrast.second) and contrast.p_holm >= LEVEL:
            similar |= {contrast.first, contrast.second}
    priced = [label for label in values if label in similar and label in costs]
    if not priced:
        return None
    cheapest = min(priced, key=lambda label: costs[label])
    if cheapest == best:
        return f"{best} is the best scorer and also the cheapest without a significant difference from it."
    sentence = f"The cheapest scorer without a significant difference from the best ({best}) is {cheapest}"
    if best in costs and costs[best] > 0:
        return f"{sentence}, at {100 * costs[cheapest] / costs[best]:.2g} % of its cost."
    return f"{sentence}."


def mcnemar(differences: Mapping[str, Mean], weights: Mapping[str, float]) -> float:
    """McNemar's test on prompts: the two-sided mid-p of the null that either scorer is as often the better one.

    Each prompt casts one vote, the sign of the sum of its rows' weighted differences: rows of one prompt are not
    independent, and counting each would reject too often. A prompt whose differences sum to 0 casts none. Where
    no prompt has two rows, and values are 0 or 1, this is the usual test of McNemar. The mid-p is used because
    the exact p rejects a true null far less often than 5 % (Fagerland, Lydersen and Laake 2013).
    """
    sums_by_prompt: dict[str, float] = {}
    for name, mean in differences.items():
        scale = weights[name] / len(mean.values)
        for prompt, value in zip(mean.prompts, (mean.values * scale).tolist(), strict=True):
            sums_by_prompt[prompt] = sums_by_prompt.get(prompt, 0.0) + value
    sums = np.array(list(sums_by_prompt.values()))
    # Sums that cancel leave rounding errors, far below the smallest true difference.
    tolerance = 1e-9 * float(np.abs(sums).max(initial=0.0))
    wins, losses = int((sums > tolerance).sum()), int((sums < -tolerance).sum())
    if wins == losses:
        return 1.0
    null, fewer = stats.binom(wins + losses, 0.5), min(wins, losses)
    return float(min(1.0, 2 * null.cdf(fewer) - null.pmf(fewer)))


def holm(p: Sequence[float]) -> list[float]:
    """Holm's step-down correction (Holm 1979) of raw p-values, in their order.

    >>> holm([0.01, 0.04, 0.03])
    [0.03, 0.06, 0.06]
    """
    raw = np.asarray(p, dtype=np.float64)
    order = np.argsort(raw, kind="stable")
    stepped = np.maximum.accumulate(raw[order] * np.arange(len(raw), 0, -1))
    corrected = np.empty_like(raw)
    corrected[order] = np.minimum(stepped, 1.0)
    return [float(value) for value in corrected]


def _paired(first: str, a: Tally, second: str, b: Tally) -> _Pair | None:
    weights = a.numbers.get(a.headline)
    if not weights or weights != b.numbers.get(b.headline):
        return None
    means, unpaired = {}, set[str]()
    for name in weights:
        left, right = a.means[name], b.means[name]
        if left.rows == right.rows:
            means[name] = Mean(left.values - right.values, left.rows, left.prompts)
            continue
        unpaired |= set(left.rows) ^ set(right.rows)
        right_index = {row: j for j, row in enumerate(right.rows)}
        i = [i for i, row in enumerate(left.rows) if row in right_index]
        j = [right_index[left.rows[k]] for k in i]
        means[name] = Mean(
            left.values[np.array(i, dtype=np.intp)] - right.values[np.array(j, dtype=np.intp)],
            tuple(left.rows[k] for k in i),
            tuple(left.prompts[k] for k in i),
        )
    if not all(len(mean.values) for mean in means.values()):
        return None
    return _Pair(first, second, means, weights, len(unpaired))


def _differences(pairs: Sequence[_Pair], tallies: Sequence[Tally], seed: int, draws: int) -> list[Interval]:
    """The difference of each pair with its interval, all from the same draws."""
    if not pairs:
        return []
    means = [mean for pair in pairs for mean in pair.means.values()]
    weights: NDArray[np.float64] = np.zeros((len(pairs), len(means)))
    start = 0
    for i, pair in enumerate(pairs):
        weights[i, start : start + len(pair.means)] = [pair.weights[name] for name in pair.means]
        start += len(pair.means)
    # Strata by all means of the benchmark, so that subsets keep their sizes as in each scorer's own numbers. The
    # scorer with the most rows is enough: rows that others miss, through failures, belong to the same prompts.
    largest = max(tallies, key=lambda tally: sum(len(mean.rows) for mean in tally.means.values()))
    by = [mean for mean in largest.means.values() if len(mean.values)]
    return intervals(means, weights, seed, draws, by, signed=True)


def _bounds(pair: _Pair, difference: Interval) -> tuple[float, float]:
    """The interval; the range of all possible differences where a single prompt allows no interval."""
    if difference.low is not None and difference.high is not None:
        return difference.low, difference.high
    largest = sum(abs(pair.weights[name]) * max(1.0, float(np.abs(m.values).max())) for name, m in pair.means.items())
    return -largest, largest


def _more_rows(rows: int, difference: Interval, contrasts: int) -> int | None:
    """How many further rows like these would make the difference significant with 80 % power, at the level that
    Holm's correction requires of the smallest p. None where the difference or its variance is 0."""
    if difference.variance <= 0 or abs(difference.value) < 1e-12:
        return None
    z = float(stats.norm.ppf(1 - LEVEL / contrasts / 2) + stats.norm.ppf(POWER))
    return max(1, math.ceil(rows * (z * z * difference.variance / difference.value**2 - 1)))


def _points(pair: _Pair, difference: Interval) -> str:
    low, high = _bounds(pair, difference)
    return f"{100 * abs(difference.value):.1f} ± {50 * (high - low):.1f} points"


def rounded(n: int) -> int:
    """`n` to two significant digits, for a rough estimate.

    >>> rounded(912), rounded(12_345)
    (910, 12000)
    """
    return round(n, -max(len(str(n)) - 2, 0))
