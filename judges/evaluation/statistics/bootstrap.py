"""The stratified cluster bootstrap over prompts, and the variance of weighted means over prompts."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from scipy.sparse import csgraph

from judges.evaluation.statistics.tally import Mean

Floats = NDArray[np.float64]

MIN_STRATUM = 8  # prompts; a smaller stratum is merged into a larger one
MAX_WEIGHTS = 1 << 21  # bootstrap weights in memory at the same time


@dataclass(frozen=True, slots=True)
class Stratum:
    """Prompts with rows in the same means; a prompt is replaced by prompts of its own stratum only.

    `means` are indices; `sums` and `counts` have a row for each prompt and a column for each of these means: the
    sum of its values there, and how many.
    """

    means: NDArray[np.intp]
    sums: Floats
    counts: Floats


def strata_of(means: Sequence[Mean], by: Iterable[Mean] = ()) -> list[Stratum]:
    """Strata of all prompts: prompts with rows in the same means of `by` (of `means` where `by` is empty).

    So every draw has as many prompts of each subset as the sample. A stratum of fewer than 8 prompts is merged into
    the largest one that shares a mean with it. Prompts that share a mean with no other prompt form one stratum; a
    single such prompt joins the largest.
    """
    codes: dict[str, int] = {}
    index = [np.array([codes.setdefault(p, len(codes)) for p in mean.prompts], dtype=np.intp) for mean in means]
    marks = index
    if by := tuple(by):
        marks = [np.array([codes[p] for p in mean.prompts if p in codes], dtype=np.intp) for mean in by]
    if not codes:
        return []
    stratum = _merged(marks, len(codes))
    order = np.argsort(stratum, kind="stable")
    edges = np.searchsorted(stratum[order], np.arange(stratum.max() + 2))
    position = np.empty(len(codes), dtype=np.intp)
    position[order] = np.arange(len(codes)) - edges[stratum[order]]
    parts: list[list[tuple[int, Floats, Floats]]] = [[] for _ in edges[1:]]
    for m, (mean, rows) in enumerate(zip(means, index, strict=True)):
        kinds = stratum[rows]
        for s in np.unique(kinds):
            of, size = kinds == s, int(edges[s + 1] - edges[s])
            at = position[rows[of]]
            parts[s].append((m, np.bincount(at, mean.values[of], size), np.bincount(at, minlength=size).astype(float)))
    return [
        Stratum(
            np.array([m for m, _, _ in part], dtype=np.intp),
            np.column_stack([sums for _, sums, _ in part]),
            np.column_stack([counts for _, _, counts in part]),
        )
        for part in parts
        if part
    ]


def _merged(marks: Sequence[NDArray[np.intp]], prompts: int) -> NDArray[np.intp]:
    """The stratum of each prompt, numbered from 0."""
    member = np.zeros((len(marks), prompts), dtype=bool)
    for m, rows in enumerate(marks):
        member[m, rows] = True
    patterns, kind = np.unique(np.packbits(member, axis=0).T, axis=0, return_inverse=True)
    kind = kind.reshape(-1)
    sizes = np.bincount(kind, minlength=len(patterns))
    links = sparse.csr_array(np.unpackbits(patterns, axis=1, count=len(marks)))
    # Patterns and means are the nodes of one graph: patterns that share a mean are in one component.
    graph = sparse.bmat([[None, links], [links.T, None]])
    component = csgraph.connected_components(graph, directed=False)[1][: len(patterns)]
    largest = np.full(component.max() + 1, -1)
    by_size = np.argsort(sizes, kind="stable")
    largest[component[by_size]] = by_size
    target = np.where(sizes < MIN_STRATUM, largest[component], np.arange(len(patterns)))
    merged = np.bincount(target, sizes, len(patterns))
    single = np.flatnonzero(merged == 1)
    if len(single):
        target[np.isin(target, single)] = single[0] if len(single) > 1 else np.argmax(merged)
    return np.unique(target[kind], return_inverse=True)[1].reshape(-1)


@dataclass(frozen=True, slots=True)
class Spread:
    """The sampling variance of numbers over prompts; every field has one entry for each number.

    `variance` is linearised (each prompt's influence on the number), summed over strata. `correlated` and
    `independent` are the variance that a share with row variance 1 would have if the rows of a prompt were fully
    correlated, and if they were independent; `row_variance` is that of the observed rows, were they independent.
    `shrunk` is `variance` with each stratum shrunk towards the value of the whole sample. `skew` is BCa's
    acceleration, `df` the degrees of freedom. `effective_prompts` is how many prompts account for the variance,
    `equal_prompts` how many prompts of equal weight the sample corresponds to, by its weights over strata.
    """

    variance: Floats
    correlated: Floats
    independent: Floats
    row_variance: Floats
    shrunk: Floats
    skew: Floats
    df: Floats
    effective_prompts: Floats
    equal_prompts: Floats


def spread_of(strata: Sequence[Stratum], means: Sequence[Mean], weights: Floats) -> Spread:
    """The Spread of Σ weight · mean; `weights` has a row for each number and a column for each mean."""
    value = np.array([mean.value if len(mean.values) else 0.0 for mean in means])
    count = np.array([max(len(mean.values), 1) for mean in means], dtype=np.float64)
    row_variance = np.array([np.var(mean.values) if len(mean.values) else 0.0 for mean in means])
    variance, correlated, third, fourth, second, df, squared_weight, shrunk = np.zeros((8, len(weights)))
    unit = _unit(weights @ value)
    for stratum in strata:
        n = len(stratum.sums)
        columns = stratum.means
        scaled = (weights[:, columns] / count[columns]).T
        influence = (stratum.sums - value[columns] * stratum.counts) @ scaled
        weight = stratum.counts @ np.abs(scaled)
        influence -= influence.mean(axis=0)
        squares = influence * influence
        of_stratum = squares.sum(axis=0) * n / max(n - 1, 1)
        variance += of_stratum
        second += squares.sum(axis=0)
        third += (squares * influence).sum(axis=0)
        fourth += (squares * squares).sum(axis=0)
        if_correlated = (weight * weight).sum(axis=0)
        if_independent = (stratum.counts @ (np.abs(weights[:, columns]) / count[columns]).T ** 2).sum(axis=0)
        correlated += if_correlated
        df += if_correlated * if_correlated / max(n - 1, 1)
        squared_weight += weight.sum(axis=0) ** 2 / n
        effective = _ratio(squares.sum(axis=0) ** 2, (squares * squares).sum(axis=0))
        shrunk += (effective * of_stratum + unit * (if_correlated + if_independent) / 2) / (effective + 1)
    return Spread(
        variance=variance,
        correlated=correlated,
        independent=(weights**2 / count).sum(axis=1),
        row_variance=weights**2 @ (row_variance / count),
        shrunk=shrunk,
        skew=_ratio(third, 6 * second**1.5),
        df=_ratio(correlated**2, df),
        effective_prompts=_ratio(second**2, fourth),
        equal_prompts=_ratio(np.abs(weights).sum(axis=1) ** 2, squared_weight),
    )


def _unit(p: Floats) -> Floats:
    return np.asarray(np.clip(p * (1 - p), 0, None))


def _ratio(a: Floats, b: Floats) -> Floats:
    """a / b, 0 where b is 0."""
    return np.divide(a, b, out=np.zeros_like(a), where=b > 1e-300)


def draw(strata: Sequence[Stratum], means: int, draws: int, seed: int) -> Floats:
    """The means of `draws` bootstrap samples: an array (draws, means), nan where a mean drew no row.

    Each stratum of n prompts draws n − 1 with replacement (Rao and Wu 1988): with n the variance of the draws would
    be too small by a factor (n − 1) / n.
    """
    rng = np.random.default_rng(seed)
    sums, counts = np.zeros((2, draws, means))
    for stratum in strata:
        n = len(stratum.sums)
        both = np.hstack([stratum.sums, stratum.counts])
        width = len(stratum.means)
        step = max(1, MAX_WEIGHTS // n)
        for start in range(0, draws, step):
            size = min(step, draws - start)
            picks = rng.integers(n, size=(size, max(n - 1, 1)))
            picks += np.arange(size)[:, None] * n
            weights = np.bincount(picks.ravel(), minlength=size * n).reshape(size, n).astype(np.float64)
            totals = weights @ both
            sums[start : start + size, stratum.means] += totals[:, :width]
            counts[start : start + size, stratum.means] += totals[:, width:]
    return np.divide(sums, counts, out=np.full_like(sums, np.nan), where=counts > 0)
