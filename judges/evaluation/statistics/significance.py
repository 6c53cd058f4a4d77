"""Scorer against scorer on the same rows: paired intervals, p-values, Holm's correction, and plain words."""

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
    """Differences of two tallies (first − second) on the rows that both have; `left_out` rows only one has."""

    first: str
    second: str
    means: Mapping[str, Mean]
    weights: Mapping[str, float]
    left_out: int

    @property
    def rows(self) -> int:
        return len({row for mean in self.means.values() for row in mean.rows})


def contrasts(benchmark: str, tallies: Mapping[str, Tally], seed: int = 0, draws: int = 1000) -> tuple[Contrast, ...]:
    """Every scorer (by label) against every later one, on the headline number, over the rows that both have in
    each of its means.

    The difference is itself a weighted sum of means, of the rows' differences, so `intervals.intervals` gives its
    interval and `p_bootstrap`: every draw gives both scorers, and all pairs, the same prompts. `p_mcnemar`: see
    `mcnemar`. `p_holm` is Holm's correction of `p_bootstrap` over all contrasts here, and decides what is told
    apart (below 0.05). A pair is left out where the two headlines do not weigh the same means, or share no rows.
    """
    pairs = [
        pair
        for (first, a), (second, b) in combinations(tallies.items(), 2)
        if (pair := _paired(first, a, second, b)) is not None
    ]
    found = _measured(pairs, list(tallies.values()), seed, draws)
    corrected = holm([one.p for one in found])
    made = []
    for pair, one, p_holm in zip(pairs, found, corrected, strict=True):
        more = None if p_holm < LEVEL else _more(pair.rows, one, len(pairs))
        low, high = _edges(pair, one)
        names = f"{pair.first} and {pair.second}"
        if p_holm < LEVEL:
            better, worse = (pair.first, pair.second) if one.value > 0 else (pair.second, pair.first)
            words = f"{better} beats {worse} by {_points(abs(one.value))} ± {_points((high - low) / 2)} points."
        else:
            words = _not_apart(f"{names} are not told apart at this size", one.value, more)
        p_mcnemar = mcnemar(pair.means, pair.weights)
        words += _lost(pair.left_out)
        made.append(
            Contrast(benchmark, pair.first, pair.second, one.value, low, high, one.p, p_mcnemar, p_holm, words, more)
        )
    return tuple(made)


def change(benchmark: str, label: str, before: Tally, after: Tally, seed: int = 0, draws: int = 1000) -> Contrast:
    """One scorer in two runs: after − before, as in `contrasts`. Raises ValueError where the two headlines do not
    weigh the same means, or share no rows."""
    earlier = f"{label}, before"
    pair = _paired(label, after, earlier, before)
    if pair is None:
        raise ValueError(f"{label} on {benchmark}: its headline is not made of the same rows in the two runs")
    (one,) = _measured([pair], [before, after], seed, draws)
    low, high = _edges(pair, one)
    more = None if one.p < LEVEL else _more(pair.rows, one, 1)
    by = f"{_points(abs(one.value))} ± {_points((high - low) / 2)} points"
    if one.p < LEVEL:
        words = f"{label} {'rose' if one.value > 0 else 'fell'} by {by}."
    else:
        way = "no change" if one.value == 0 else f"{'up' if one.value > 0 else 'down'} by {by}"
        words = _not_apart(f"{label}, {way}: not told apart from before", one.value, more)
    words += _lost(pair.left_out)
    p_mcnemar = mcnemar(pair.means, pair.weights)
    return Contrast(benchmark, label, earlier, one.value, low, high, one.p, p_mcnemar, one.p, words, more)


def cheapest_not_worse(
    costs: Mapping[str, float], values: Mapping[str, float], contrasts: Sequence[Contrast]
) -> str | None:
    """A sentence that names the cheapest scorer that is not told apart from the best; None where no scorer has
    both a cost and a contrast with the best, or is it.

    `costs` (any unit, one for all) and `values` (the headline, higher is better) by label.
    """
    if not values:
        return None
    best = max(values, key=lambda label: values[label])
    level = {best}
    for one in contrasts:
        if best in (one.first, one.second) and one.p_holm >= LEVEL:
            level |= {one.first, one.second}
    priced = [label for label in values if label in level and label in costs]
    if not priced:
        return None
    cheapest = min(priced, key=lambda label: costs[label])
    if cheapest == best:
        return f"{best} is the best, and no cheaper scorer is level with it."
    told = f"The cheapest scorer that is not told apart from the best ({best}) is {cheapest}"
    if best in costs and costs[best] > 0:
        return f"{told}, at {100 * costs[cheapest] / costs[best]:.2g} % of its cost."
    return f"{told}."


def mcnemar(differences: Mapping[str, Mean], weights: Mapping[str, float]) -> float:
    """McNemar's test on prompts: the two-sided mid-p of a fair coin that fell as often for either scorer.

    Each prompt casts one vote, the sign of its rows' weighted differences in all: rows of one prompt are not
    independent, and counting each would reject too often. A prompt whose differences sum to 0 does not vote.
    Where no prompt has two rows, and values are 0 or 1, it is McNemar's own. Mid-p, for the exact p rejects a
    true null far less often than 5 % (Fagerland, Lydersen and Laake 2013).
    """
    pulls: dict[str, float] = {}
    for name, mean in differences.items():
        scale = weights[name] / len(mean.values)
        for prompt, value in zip(mean.prompts, (mean.values * scale).tolist(), strict=True):
            pulls[prompt] = pulls.get(prompt, 0.0) + value
    sums = np.array(list(pulls.values()))
    # Parts that cancel leave rounding behind, far below the smallest true difference.
    slack = 1e-9 * float(np.abs(sums).max(initial=0.0))
    ups, downs = int((sums > slack).sum()), int((sums < -slack).sum())
    votes, fewer = ups + downs, min(ups, downs)
    if ups == downs:
        return 1.0
    p = 2 * stats.binom.cdf(fewer, votes, 0.5) - stats.binom.pmf(fewer, votes, 0.5)
    return float(min(1.0, p))


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
    means, only = {}, set[str]()
    for name in weights:
        one, other = a.means[name], b.means[name]
        if one.rows == other.rows:
            means[name] = Mean(one.values - other.values, one.rows, one.prompts)
            continue
        place = {row: i for i, row in enumerate(other.rows)}
        held = [(i, place[row]) for i, row in enumerate(one.rows) if row in place]
        only |= set(one.rows) ^ set(other.rows)
        left = np.array([i for i, _ in held], dtype=np.intp)
        right = np.array([j for _, j in held], dtype=np.intp)
        means[name] = Mean(
            one.values[left] - other.values[right],
            tuple(one.rows[i] for i in left),
            tuple(one.prompts[i] for i in left),
        )
    if not all(len(mean.values) for mean in means.values()):
        return None
    return _Pair(first, second, means, weights, len(only))


def _measured(pairs: Sequence[_Pair], tallies: Sequence[Tally], seed: int, draws: int) -> list[Interval]:
    """The difference of each pair with its interval, all from the same draws."""
    if not pairs:
        return []
    means = [mean for pair in pairs for mean in pair.means.values()]
    weights: NDArray[np.float64] = np.zeros((len(pairs), len(means)))
    at = 0
    for i, pair in enumerate(pairs):
        weights[i, at : at + len(pair.means)] = [pair.weights[name] for name in pair.means]
        at += len(pair.means)
    # Strata by all that the benchmark tells apart, so subsets keep their sizes here as in each scorer's own numbers.
    # One scorer's rows are enough: where others had failures, their prompts are the same.
    whole = max(tallies, key=lambda tally: sum(len(mean.rows) for mean in tally.means.values()))
    by = [mean for mean in whole.means.values() if len(mean.values)]
    return intervals(means, weights, seed, draws, by, signed=True)


def _edges(pair: _Pair, one: Interval) -> tuple[float, float]:
    """The interval; where one prompt allows none, all that the difference could be."""
    if one.low is not None and one.high is not None:
        return one.low, one.high
    reach = sum(abs(pair.weights[name]) * max(1.0, float(np.abs(m.values).max())) for name, m in pair.means.items())
    return -reach, reach


def _more(rows: int, one: Interval, contrasts: int) -> int | None:
    """How many further rows like these would tell the difference apart with 80 % power, at the level that Holm
    asks of the smallest p. None for no difference, or no variance to go by."""
    if one.variance <= 0 or abs(one.value) < 1e-12:
        return None
    z = float(stats.norm.ppf(1 - LEVEL / contrasts / 2) + stats.norm.ppf(POWER))
    return max(1, math.ceil(rows * (z * z * one.variance / one.value**2 - 1)))


def _not_apart(said: str, difference: float, more: int | None) -> str:
    if more is None:
        return f"{said}." if difference else f"{said}: the difference is 0."
    return f"{said}; about {rounded(more):,} more rows would (80 % power at the difference seen)."


def _lost(rows: int) -> str:
    if not rows:
        return ""
    return f" Left out: {rows:,} row{'s' if rows != 1 else ''} that only one of them has a value for."


def _points(value: float) -> str:
    return f"{100 * value:.1f}"


def rounded(n: int) -> int:
    """To two digits: what is estimated this roughly is not shown to the row."""
    return round(n, -max(len(str(n)) - 2, 0))
