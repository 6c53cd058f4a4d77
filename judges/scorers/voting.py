"""Majority, mean and median of the votes on one response, and adaptive stopping of the sampling."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from judges.types import Failure, Judgment, Read, Scale, Usage

Combine = Literal["mean", "median", "majority"]
COMBINES = ("mean", "median", "majority")


def aggregate_scores(scores: Sequence[float], combine: Combine = "mean") -> float:
    """The mean, median or mode of some scores; several modes are averaged. Raises ValueError for no scores.

    >>> [aggregate_scores([1, 1, 4, 4, 5], combine) for combine in COMBINES]
    [3.0, 4.0, 2.5]
    """
    if not scores:
        raise ValueError("there is nothing to combine")
    if combine == "majority":
        return statistics.fmean(statistics.multimode(scores))
    return float(statistics.fmean(scores) if combine == "mean" else statistics.median(scores))


def aggregate_votes(votes: Sequence[Judgment], combine: Combine = "mean") -> Judgment:
    """Several votes on one response, each a Judgment, as one Judgment.

    A failed vote is kept in `votes` and left out of the score; where all failed, the Failure is the first vote's.
    `read` is "forced" where one vote was, `mass` the least of all. Raises ValueError for no votes.
    """
    if not votes:
        raise ValueError("a judgment needs at least one vote")
    scores = [v.score for v in votes if v.score is not None]
    reads: list[Read] = [v.read for v in votes if v.read is not None]
    read = next((read for read in reads if read.startswith("forced")), next(iter(reads), None))
    return Judgment(
        score=aggregate_scores(scores, combine) if scores else None,
        failure=None if scores else votes[0].failure,
        read=read if scores else None,
        mass=min((v.mass for v in votes if v.mass is not None), default=None) if scores else None,
        votes=tuple(value for v in votes for value in (v.score, v.failure) if value is not None),
        completions=tuple(c for v in votes for c in v.completions),
        critique=next((v.critique for v in votes if v.critique), None),
        truncated=any(v.truncated for v in votes),
        usage=sum((v.usage for v in votes), Usage()),
        readings=_aggregate_readings(votes, combine),
    )


def _aggregate_readings(votes: Sequence[Judgment], combine: Combine) -> dict[str, float | Failure]:
    aggregated: dict[str, float | Failure] = {}
    for method in dict.fromkeys(method for vote in votes for method in vote.readings):
        readings = [vote.readings[method] for vote in votes if method in vote.readings]
        scores = [value for value in readings if not isinstance(value, Failure)]
        aggregated[method] = aggregate_scores(scores, combine) if scores else readings[0]
    return aggregated


def outcome_decided(
    votes: Sequence[Sequence[float]], left: int, scale: Scale, combine: Combine, risk: float, seed: int = 0
) -> bool:
    """Whether up to `left` more votes on each response would not change which response is the best.

    `votes` has each response's scores so far. With `risk` 0 this is certain: the best stays ahead whatever the
    remaining votes are (a single response keeps its score). With a risk above 0, at most that share of simulated
    outcomes may differ: the remaining votes are drawn from the Dirichlet posterior of the labels' frequencies, with
    Perks' prior, which weighs as much as one vote spread over the scale.

    >>> outcome_decided([[5, 5], [1, 1]], 1, Scale(0, 5, 1), "mean", 0)
    True
    >>> outcome_decided([[3], [2]], 2, Scale(0, 5, 1), "mean", 0)
    False
    """
    if left < 1:
        return True
    if not all(votes):
        return False
    if _outcome_certain(votes, left, scale, combine):
        return True
    return risk > 0 and len(votes) > 1 and _probability_of_change(votes, left, scale, combine, seed) <= risk


def _outcome_certain(votes: Sequence[Sequence[float]], left: int, scale: Scale, combine: Combine) -> bool:
    bounds = [_bounds(scores, left, scale, combine) for scores in votes]
    if len(bounds) == 1:
        return bounds[0][0] == bounds[0][1]
    best = max(range(len(bounds)), key=lambda i: bounds[i][0])
    return all(high < bounds[best][0] for i, (_, high) in enumerate(bounds) if i != best)


def _bounds(scores: Sequence[float], left: int, scale: Scale, combine: Combine) -> tuple[float, float]:
    """The lowest and highest aggregate with up to `left` more votes (a vote may fail)."""
    if combine == "majority":
        most, *counts = sorted((scores.count(v) for v in set(scores)), reverse=True)
        if most > (counts[0] if counts else 0) + left:
            mode = statistics.mode(scores)
            return mode, mode
        return scale.low, scale.high
    ends = [
        [aggregate_scores([*scores, *[end] * k], combine) for k in range(left + 1)] for end in (scale.low, scale.high)
    ]
    return min(ends[0]), max(ends[1])


def _probability_of_change(
    votes: Sequence[Sequence[float]], left: int, scale: Scale, combine: Combine, seed: int, draws: int = 400
) -> float:
    """The share of simulated outcomes in which another response is the best, or ties with it."""
    labels = np.array([float(label) for label in scale.labels()])
    generator = np.random.default_rng(seed)
    outcomes = []
    for scores in votes:
        weights = np.full(len(labels), 1 / len(labels))
        np.add.at(weights, [np.abs(labels - score).argmin() for score in scores], 1)
        shares = generator.dirichlet(weights, size=draws)
        drawn = labels[(generator.random((draws, left, 1)) > shares.cumsum(1)[:, None, :-1]).sum(2)]
        outcomes.append(_aggregate_rows(np.hstack([np.tile(scores, (draws, 1)), drawn]), combine))
    current = [aggregate_scores(scores, combine) for scores in votes]
    best = current.index(max(current))
    others = np.delete(np.array(outcomes), best, axis=0).max(0)
    return float((others >= outcomes[best]).mean())


def _aggregate_rows(rows: np.ndarray[Any, np.dtype[np.float64]], combine: Combine) -> Any:
    """`aggregate_scores` of each row of an array."""
    if combine == "mean":
        return rows.mean(1)
    if combine == "median":
        return np.median(rows, axis=1)
    counts = (rows[:, :, None] == rows[:, None, :]).sum(2)  # how often each value occurs in its row
    modes = counts == counts.max(1, keepdims=True)
    weights = modes / counts  # a mode that occurs three times counts once
    return (rows * weights).sum(1) / weights.sum(1)
