"""Votes on one response as one Judgment, and when more of them could not change what they come to."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from judges.types import Failure, Judgment, Read, Scale, Usage

Combine = Literal["mean", "median", "majority"]
COMBINES = ("mean", "median", "majority")


def combined(scores: Sequence[float], combine: Combine = "mean") -> float:
    """Several scores as one. A majority of several modes is their mean. Raises ValueError for none.

    >>> combined([1, 4, 4]), combined([1, 4, 4], "median"), combined([1, 1, 4, 4, 5], "majority")
    (3.0, 4.0, 2.5)
    """
    if not scores:
        raise ValueError("there is nothing to combine")
    if combine == "majority":
        return statistics.fmean(statistics.multimode(scores))
    return float(statistics.fmean(scores) if combine == "mean" else statistics.median(scores))


def joined(votes: Sequence[Judgment], combine: Combine = "mean") -> Judgment:
    """Several votes on one response, each a Judgment, as one.

    A failed vote is kept among the votes and enters no mean; all failed is a Failure. Raises ValueError
    for no votes.
    """
    if not votes:
        raise ValueError("a judgment needs at least one vote")
    scores = [v.score for v in votes if v.score is not None]
    kept: dict[str, Any] = {
        "votes": tuple(v.failure or v.score for v in votes),
        "completions": tuple(c for v in votes for c in v.completions),
        "critique": next((v.critique for v in votes if v.critique), None),
        "truncated": any(v.truncated for v in votes),
        "usage": sum((v.usage for v in votes), Usage()),
        "readings": _readings(votes, combine),
    }
    if not scores:
        return Judgment(failure=votes[0].failure, **kept)
    masses = [v.mass for v in votes if v.mass is not None]
    reads: list[Read] = [v.read for v in votes if v.read is not None]
    read = "forced" if "forced" in reads else next(iter(reads), None)
    mass = min(masses) if masses else None  # the least sure of them
    return Judgment(score=combined(scores, combine), read=read, mass=mass, **kept)


def _readings(votes: Sequence[Judgment], combine: Combine) -> dict[str, float | Failure]:
    found: dict[str, float | Failure] = {}
    for way in dict.fromkeys(way for vote in votes for way in vote.readings):
        told = [vote.readings[way] for vote in votes if way in vote.readings]
        scores = [value for value in told if not isinstance(value, Failure)]
        found[way] = combined(scores, combine) if scores else told[0]
    return found


def decided(
    votes: Sequence[Sequence[float]], left: int, scale: Scale, combine: Combine, risk: float, seed: int = 0
) -> bool:
    """Whether `left` more votes on each response could not change which response is the best.

    `votes` has each response's scores so far. With `risk` 0 that is certain: whatever the votes to come,
    the best stays ahead (of one response: its score stays as it is). With a risk, that share of the
    futures drawn from what was seen may end otherwise: each vote to come follows the labels' shares so
    far, with one vote's worth of doubt spread over the scale (a Dirichlet posterior, Perks' prior).

    >>> decided([[5, 5], [1, 1]], 1, Scale(0, 5, 1), "mean", 0), decided([[3], [2]], 2, Scale(0, 5, 1), "mean", 0)
    (True, False)
    """
    if left < 1:
        return True
    if not all(votes):
        return False
    if _certain(votes, left, scale, combine):
        return True
    return risk > 0 and len(votes) > 1 and _changed(votes, left, scale, combine, seed) <= risk


def _certain(votes: Sequence[Sequence[float]], left: int, scale: Scale, combine: Combine) -> bool:
    bounds = [_bounds(one, left, scale, combine) for one in votes]
    if len(bounds) == 1:
        return bounds[0][0] == bounds[0][1]
    best = max(range(len(bounds)), key=lambda i: bounds[i][0])
    return all(high < bounds[best][0] for i, (_, high) in enumerate(bounds) if i != best)


def _bounds(scores: Sequence[float], left: int, scale: Scale, combine: Combine) -> tuple[float, float]:
    """The least and the most that scores can come to with up to `left` more (a vote may fail)."""
    if combine == "majority":
        first, *others = sorted((scores.count(v) for v in set(scores)), reverse=True)
        if first > (others[0] if others else 0) + left:
            mode = statistics.mode(scores)
            return mode, mode
        return scale.low, scale.high
    ends = [[combined([*scores, *[end] * k], combine) for k in range(left + 1)] for end in (scale.low, scale.high)]
    return min(ends[0]), max(ends[1])


def _changed(
    votes: Sequence[Sequence[float]], left: int, scale: Scale, combine: Combine, seed: int, draws: int = 400
) -> float:
    """The share of drawn futures in which another response is the best, or one draws level."""
    labels = np.array([float(label) for label in scale.labels()])
    generator = np.random.default_rng(seed)
    ends = []
    for one in votes:
        weights = np.full(len(labels), 1 / len(labels))
        np.add.at(weights, [np.abs(labels - score).argmin() for score in one], 1)
        shares = generator.dirichlet(weights, size=draws)
        drawn = labels[(generator.random((draws, left, 1)) > shares.cumsum(1)[:, None, :-1]).sum(2)]
        ends.append(_each_combined(np.hstack([np.tile(one, (draws, 1)), drawn]), combine))
    ahead = [combined(one, combine) for one in votes]
    best = ahead.index(max(ahead))
    others = np.delete(np.array(ends), best, axis=0).max(0)
    return float((others >= ends[best]).mean())


def _each_combined(rows: np.ndarray[Any, np.dtype[np.float64]], combine: Combine) -> Any:
    """`combined` of each row of an array."""
    if combine == "mean":
        return rows.mean(1)
    if combine == "median":
        return np.median(rows, axis=1)
    counts = (rows[:, :, None] == rows[:, None, :]).sum(2)  # how often each row holds each of its values
    modes = counts == counts.max(1, keepdims=True)
    weights = modes / counts  # a mode that stands three times is one mode
    return (rows * weights).sum(1) / weights.sum(1)
