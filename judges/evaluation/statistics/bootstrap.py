"""Prompts drawn again, and how far numbers vary with them: rows of one prompt together, subsets as they are."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from scipy.sparse import csgraph

from judges.evaluation.statistics.tally import Mean

Floats = NDArray[np.float64]

SMALL = 8  # prompts, below which a stratum joins a larger one
WEIGHTS = 1 << 21  # bootstrap weights in memory at once


@dataclass(frozen=True, slots=True)
class Stratum:
    """Prompts with rows in the same means, drawn only for each other.

    `means` are indices; `sums` and `counts` have a row for each prompt and a column for each of these means: the
    sum of its values there, and how many.
    """

    means: NDArray[np.intp]
    sums: Floats
    counts: Floats


def strata_of(means: Sequence[Mean], by: Iterable[Mean] = ()) -> list[Stratum]:
    """The prompts of all these means, by which of the means in `by` (of `means` where it is empty) they have rows in.

    So the prompts of each subset stay as many as they are in every draw. Few prompts of a kind (SMALL) are drawn
    with the largest kind that shares a mean with them, and a prompt that shares none with any other prompt with
    another such, or else with the largest kind.
    """
    codes: dict[str, int] = {}
    held = [np.array([codes.setdefault(p, len(codes)) for p in mean.prompts], dtype=np.intp) for mean in means]
    marks = held
    if by := tuple(by):
        marks = [np.array([codes[p] for p in mean.prompts if p in codes], dtype=np.intp) for mean in by]
    if not codes:
        return []
    stratum = _merged(marks, len(codes))
    order = np.argsort(stratum, kind="stable")
    edges = np.searchsorted(stratum[order], np.arange(stratum.max() + 2))
    place = np.empty(len(codes), dtype=np.intp)
    place[order] = np.arange(len(codes)) - edges[stratum[order]]
    parts: list[list[tuple[int, Floats, Floats]]] = [[] for _ in edges[1:]]
    for m, (mean, rows) in enumerate(zip(means, held, strict=True)):
        kinds = stratum[rows]
        for s in np.unique(kinds):
            of, size = kinds == s, int(edges[s + 1] - edges[s])
            at = place[rows[of]]
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
    """The stratum of each prompt, 0 and up."""
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
    target = np.where(sizes < SMALL, largest[component], np.arange(len(patterns)))
    merged = np.bincount(target, sizes, len(patterns))
    alone = np.flatnonzero(merged == 1)
    if len(alone):
        target[np.isin(target, alone)] = alone[0] if len(alone) > 1 else np.argmax(merged)
    return np.unique(target[kind], return_inverse=True)[1].reshape(-1)


@dataclass(frozen=True, slots=True)
class Spread:
    """How far numbers vary from one sample of prompts to the next; every field has one entry for each number.

    `variance` is linearised (each prompt's pull on the number), summed over strata. `whole` and `alone` are the
    variance that a share of variance 1 a row would have, were the rows of a prompt all alike, and all
    independent; `rows` is the variance of the rows as seen, were they independent. `careful` is `variance` with
    each stratum's own drawn to what the whole sample says. `skew` is BCa's acceleration, `df` the degrees of
    freedom, `carrying` how many prompts carry the variance, `even` how many prompts of equal weight the
    sample is worth by how it is spread over strata.
    """

    variance: Floats
    whole: Floats
    alone: Floats
    rows: Floats
    careful: Floats
    skew: Floats
    df: Floats
    carrying: Floats
    even: Floats


def spread_of(strata: Sequence[Stratum], means: Sequence[Mean], weights: Floats) -> Spread:
    """The Spread of Σ weight · mean; `weights` has a row for each number and a column for each mean."""
    n_numbers = len(weights)
    value = np.array([mean.value if len(mean.values) else 0.0 for mean in means])
    count = np.array([max(len(mean.values), 1) for mean in means], dtype=np.float64)
    row_variance = np.array([np.var(mean.values) if len(mean.values) else 0.0 for mean in means])
    variance, whole, third, fourth, second, df, even, careful = np.zeros((8, n_numbers))
    unit = _unit(weights @ value)
    for stratum in strata:
        n = len(stratum.sums)
        of = stratum.means
        scaled = (weights[:, of] / count[of]).T
        pull = (stratum.sums - value[of] * stratum.counts) @ scaled
        weight = stratum.counts @ np.abs(scaled)
        pull -= pull.mean(axis=0)
        squares = pull * pull
        here = squares.sum(axis=0) * n / max(n - 1, 1)
        variance += here
        second += squares.sum(axis=0)
        third += (squares * pull).sum(axis=0)
        fourth += (squares * squares).sum(axis=0)
        alike = (weight * weight).sum(axis=0)
        apart = (stratum.counts @ (np.abs(weights[:, of]) / count[of]).T ** 2).sum(axis=0)
        whole += alike
        df += alike * alike / max(n - 1, 1)
        even += weight.sum(axis=0) ** 2 / n
        seen = _ratio(squares.sum(axis=0) ** 2, (squares * squares).sum(axis=0))
        careful += (seen * here + unit * (alike + apart) / 2) / (seen + 1)
    alone = (weights**2 / count).sum(axis=1)
    return Spread(
        variance=variance,
        whole=whole,
        alone=alone,
        rows=weights**2 @ (row_variance / count),
        careful=careful,
        skew=_ratio(third, 6 * second**1.5),
        df=_ratio(whole**2, df),
        carrying=_ratio(second**2, fourth),
        even=_ratio(np.abs(weights).sum(axis=1) ** 2, even),
    )


def _unit(p: Floats) -> Floats:
    return np.asarray(np.clip(p * (1 - p), 0, None))


def _ratio(a: Floats, b: Floats) -> Floats:
    """a / b, 0 where b is."""
    return np.divide(a, b, out=np.zeros_like(a), where=b > 1e-300)


def draw(strata: Sequence[Stratum], means: int, draws: int, seed: int) -> Floats:
    """The means of so many resamples: an array (draws, means), nan where a mean drew no row.

    Each stratum of n prompts draws n − 1 with replacement (Rao and Wu 1988), which makes the variance of the
    draws right where n draws would leave it (n − 1) / n too small.
    """
    rng = np.random.default_rng(seed)
    sums, counts = np.zeros((2, draws, means))
    for stratum in strata:
        n = len(stratum.sums)
        both = np.hstack([stratum.sums, stratum.counts])
        width = len(stratum.means)
        step = max(1, WEIGHTS // n)
        for start in range(0, draws, step):
            size = min(step, draws - start)
            picks = rng.integers(n, size=(size, max(n - 1, 1)))
            picks += np.arange(size)[:, None] * n
            weights = np.bincount(picks.ravel(), minlength=size * n).reshape(size, n).astype(np.float64)
            totals = weights @ both
            sums[start : start + size, stratum.means] += totals[:, :width]
            counts[start : start + size, stratum.means] += totals[:, width:]
    return np.divide(sums, counts, out=np.full_like(sums, np.nan), where=counts > 0)
