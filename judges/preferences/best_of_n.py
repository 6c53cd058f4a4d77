"""The best of N: which candidate a scorer takes of each prompt, and what taking the best of n is worth, n by n."""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from judges.data.json_lines import from_line
from judges.data.writers import DRAWN, OURS
from judges.evaluation.statistics.intervals import intervals
from judges.evaluation.statistics.tally import Mean, prompt_of
from judges.preferences.scored_candidates import Judged, read_judged
from judges.types import Failure

Floats = NDArray[np.float64]
# What a row adds to the input's columns; one of those that is called the same is kept as "input.NAME".
ADDED = ("row", "id", "response", "score", "of", "place", "failure")
_HELD = ("responses", "chosen", "rejected")  # fields that candidates stand in


@dataclass(frozen=True, slots=True)
class Pick:
    """What was taken of one row's candidates: a place among them, or why none.

    `level`: another text has the same score, so the scorer did not decide, and the earliest was taken.
    """

    judged: Judged
    place: int | None
    level: bool
    failure: Failure | None = None

    @property
    def scores(self) -> tuple[float | None, ...]:
        return tuple(None if isinstance(one.score, Failure) else one.score for one in self.judged.candidates)


def pick(judged: Judged) -> Pick:
    """The candidate of the highest score, the earliest of several; those without a score are passed over.

    >>> from judges.preferences.scored_candidates import Candidate
    >>> found = pick(Judged(1, "a", None, (Candidate("x", 1.0), Candidate("y", 3.0), Candidate("z", 3.0))))
    >>> found.place, found.level
    (1, True)
    """
    scored = [(place, one.text, one.score) for place, one in enumerate(judged.candidates)]
    known = [(place, text, score) for place, text, score in scored if not isinstance(score, Failure)]
    if not known:
        why = next((one.score for one in judged.candidates if isinstance(one.score, Failure)), judged.failure)
        return Pick(judged, None, False, why or Failure("empty", "the row has no candidates"))
    place, text, best = max(known, key=lambda one: one[2])
    return Pick(judged, place, any(score == best and other != text for _, other, score in known))


def picks(path: Path, mapping: Mapping[str, str]) -> Iterator[tuple[Pick, dict[str, Any]]]:
    """What is taken of each row of a judged file, and the row to write. `mapping`: as the file was judged with."""
    with open(path, "rb") as lines:
        for line in lines:
            columns = from_line(line)
            picked = pick(read_judged(columns, mapping))
            yield picked, best_row(columns, picked, mapping)


def best_row(columns: Mapping[str, Any], picked: Pick, mapping: Mapping[str, str]) -> dict[str, Any]:
    """The input row's columns, in place of its candidates the best, its score, of how many it was the best, and its
    place among the candidates (0 is the first); `failure` where none has a score."""
    judged, place, scores = picked.judged, picked.place, picked.scores
    text = None if place is None else judged.candidates[place].text
    gone = (OURS | DRAWN if "generation" in columns else OURS) | {"id"} | {mapping.get(field, field) for field in _HELD}
    if columns.get("response") in (None, text):
        gone |= {"response"}
    made: dict[str, Any] = {}
    for name in columns:
        if name not in gone:
            kept = name
            while kept in ADDED or kept in made:
                kept = f"input.{kept}"
            made[kept] = columns[name]
    if judged.item is not None and made.keys().isdisjoint(
        mapping.get(field, field) for field in ("prompt", "messages")
    ):
        made["prompt"] = judged.item.prompt  # it stood in `chosen`, with the response
    failure = picked.failure
    return made | {
        "row": judged.row,
        "id": judged.id,
        "response": text,
        "score": None if place is None else scores[place],
        "of": sum(score is not None for score in scores),
        "place": place,
        "failure": None if failure is None else {"reason": failure.reason, "message": failure.message},
    }


# -- the best of n, for every n ------------------------------------------------------------------------------


@lru_cache(8)
def _weights(count: int) -> Floats:
    """[n - 1, i]: the share C(i, n - 1) / C(count, n) of the subsets of n whose best has i candidates below it."""
    sizes = np.arange(1, count + 1)
    shares = np.empty((count, count))
    shares[:, -1] = sizes / count
    for i in range(count - 1, 0, -1):
        shares[:, i - 1] = shares[:, i] * np.maximum(i - sizes + 1, 0) / i
    return shares


def expected_best(picking: Sequence[float], measured: Sequence[float] | None = None) -> Floats:
    """The mean, over all subsets of n of one prompt's candidates, of the score of the subset's best; n = 1, 2, … all.

    With `measured`, of what another scorer says of the one that has the highest `picking` score; where several have
    it, the mean of what it says of them. Unbiased for n fresh candidates (Stiennon et al. 2020, arXiv 2009.01325,
    draw such curves; the estimator is a U-statistic).

    >>> [round(float(value), 3) for value in expected_best([4, 1, 2])]
    [2.333, 3.333, 4.0]
    >>> [round(float(value), 3) for value in expected_best([4, 1, 2], measured=[0, 1, 2])]
    [1.0, 0.667, 0.0]
    """
    scores, values = np.asarray(picking, dtype=np.float64), np.asarray(measured if measured else picking, np.float64)
    _, level = np.unique(scores, return_inverse=True)
    means = np.bincount(level, values) / np.bincount(level)  # any of those that are level may be taken
    found: Floats = _weights(len(scores)) @ means[np.sort(level)]
    return found


def kl_bound(n: int) -> float:
    """How far the best of n is from the policy that writes, at most, in nats: log n - (n - 1)/n.

    The formula of Stiennon et al. 2020 and Hilton, an upper bound as Beirami et al. 2024 (arXiv 2401.01879) show.

    >>> kl_bound(1), round(kl_bound(4), 3)
    (0.0, 0.636)
    """
    return math.log(n) - (n - 1) / n


@dataclass(frozen=True, slots=True)
class Scored:
    """One prompt's scores in the order of its candidates, None where there is none; digests of prompt and texts."""

    row: int
    prompt: str
    texts: str
    scores: tuple[float | None, ...]


def scored_of(picked: Pick) -> Scored:
    judged = picked.judged
    prompt = "" if judged.item is None else prompt_of(judged.item)
    texts = repr([one.text for one in judged.candidates])
    return Scored(judged.row, _digest(prompt), _digest(texts), picked.scores)


def _digest(text: str) -> str:
    return hashlib.blake2b(text.encode("utf-8", "backslashreplace"), digest_size=16).hexdigest()


@dataclass(frozen=True, slots=True)
class Expected:
    """A mean over prompts with its 95 % interval, None where there are too few prompts for one."""

    value: float
    low: float | None
    high: float | None


@dataclass(frozen=True, slots=True)
class Point:
    """The best of `n`: what the scorer that picks gives it, and what the one that measures does."""

    n: int
    kl: float
    picked: Expected
    measured: Expected | None = None


@dataclass(frozen=True, slots=True)
class Curve:
    """The points for n = 1, 2, … `candidates`, over `prompts` that have so many; how many were `left_out`, and why."""

    points: tuple[Point, ...]
    candidates: int
    prompts: int
    left_out: Mapping[str, int]
    method: str


def curve_of(picking: Sequence[Scored], measuring: Mapping[int, Scored] | None = None) -> Curve | None:
    """What the best of n is worth, over the prompts of which all candidates have a score (by row also in `measuring`),
    as many as most prompts have. None where there is no such prompt.

    Intervals are over prompts: a bootstrap from 100 prompts up, Student's t below
    (`judges.evaluation.statistics.intervals`).
    """
    left_out: Counter[str] = Counter()
    whole: list[tuple[Scored, Scored]] = []
    for one in picking:
        other = one if measuring is None else measuring.get(one.row)
        if not one.scores or None in one.scores:
            left_out["a candidate has no score"] += 1
        elif other is None or other.texts != one.texts or None in other.scores:
            left_out["a candidate was not measured"] += 1
        else:
            whole.append((one, other))
    sizes = Counter(len(one.scores) for one, _ in whole)
    if not sizes:
        return None
    count = max(sizes, key=lambda size: (sizes[size], size))
    if lost := len(whole) - sizes[count]:
        left_out[f"another number of candidates than {count}"] = lost
    used = [pair for pair in whole if len(pair[0].scores) == count]
    picked, method = _over_prompts([expected_best(_known(one)) for one, _ in used], used)
    measured: Sequence[Expected | None] = [None] * count
    if measuring is not None:
        measured, _ = _over_prompts([expected_best(_known(one), _known(other)) for one, other in used], used)
    points = tuple(Point(n, kl_bound(n), picked[n - 1], measured[n - 1]) for n in range(1, count + 1))
    return Curve(points, count, len({one.prompt for one, _ in used}), dict(left_out), method)


def _known(one: Scored) -> list[float]:
    return [score for score in one.scores if score is not None]


def _over_prompts(values: Sequence[Floats], used: Sequence[tuple[Scored, Scored]]) -> tuple[list[Expected], str]:
    table = np.array(values)
    # Scores are no shares, though they may lie from 0 to 1: away from there they are not taken for some.
    shift = 2.0 - float(table.min())
    rows, prompts = tuple(str(one.row) for one, _ in used), tuple(one.prompt for one, _ in used)
    if len(set(prompts)) < 3:
        return [Expected(float(value), None, None) for value in table.mean(axis=0)], "none: fewer than 3 prompts"
    means = [Mean(column + shift, rows, prompts) for column in table.T]
    found = intervals(means, np.eye(len(means)))
    made = [
        Expected(float(value), *(None if edge is None else edge - shift for edge in (one.low, one.high)))
        for value, one in zip(table.mean(axis=0), found, strict=True)
    ]
    return made, found[-1].method
