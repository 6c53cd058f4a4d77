"""Best of N: select the best-scored candidate of each prompt, and estimate and plot the best of n."""

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
from judges.data.output_row import CANDIDATE_COLUMNS, OUTPUT_COLUMNS
from judges.errors import CannotRun
from judges.evaluation.report.plots import COLOURS, RC_PARAMS
from judges.evaluation.statistics.intervals import intervals
from judges.evaluation.statistics.tally import Mean, prompt_of
from judges.preferences.scored_candidates import ScoredRow, parse_scored_row
from judges.types import Failure

Floats = NDArray[np.float64]
# The columns that are added to the input's; an input column of the same name is written as "input.NAME".
ADDED_COLUMNS = ("row", "id", "response", "score", "of", "place", "failure")
_RESPONSE_FIELDS = ("responses", "chosen", "rejected")


@dataclass(frozen=True, slots=True)
class BestCandidate:
    """The best candidate of one row: its index, or why there is none.

    `tied`: a different text has the same score. The earliest of them is the best then.
    """

    row: ScoredRow
    index: int | None
    tied: bool
    failure: Failure | None = None

    @property
    def scores(self) -> tuple[float | None, ...]:
        """The scores of all candidates, None without one."""
        return tuple(
            None if isinstance(candidate.score, Failure) else candidate.score for candidate in self.row.candidates
        )


def select_best(row: ScoredRow) -> BestCandidate:
    """Select the candidate with the highest score, the earliest of several; candidates without a score are skipped.

    >>> from judges.preferences.scored_candidates import Candidate
    >>> best = select_best(ScoredRow(1, "a", None, (Candidate("x", 1.0), Candidate("y", 3.0), Candidate("z", 3.0))))
    >>> best.index, best.tied
    (1, True)
    """
    failures = [candidate.score for candidate in row.candidates if isinstance(candidate.score, Failure)]
    scored = [
        (index, candidate.text, candidate.score)
        for index, candidate in enumerate(row.candidates)
        if not isinstance(candidate.score, Failure)
    ]
    if not scored:
        failure = failures[0] if failures else row.failure
        return BestCandidate(row, None, False, failure or Failure("empty", "the row has no candidates"))
    index, text, best_score = max(scored, key=lambda candidate: candidate[2])
    tied = any(score == best_score and other_text != text for _, other_text, score in scored)
    return BestCandidate(row, index, tied)


def read_best(path: Path, mapping: Mapping[str, str]) -> Iterator[tuple[BestCandidate, dict[str, Any]]]:
    """Stream the best candidate of each row of a scored file, and the row to write.

    `mapping` is the one that the file was scored with.
    """
    with open(path, "rb") as lines:
        for line in lines:
            columns = from_line(line)
            best = select_best(parse_scored_row(columns, mapping))
            yield best, best_row(columns, best, mapping)


def best_row(columns: Mapping[str, Any], best: BestCandidate, mapping: Mapping[str, str]) -> dict[str, Any]:
    """The output row: the input's columns without its candidates, and the columns of the best one.

    Added are `response`, its `score`, `of` (the number of candidates with a score), `place` (the index of the response,
    from 0), and `failure`, set if no candidate has a score.
    """
    row, index, scores = best.row, best.index, best.scores
    text = None if index is None else row.candidates[index].text
    output_columns = OUTPUT_COLUMNS | CANDIDATE_COLUMNS if "generation" in columns else OUTPUT_COLUMNS
    removed = output_columns | {"id"} | {mapping.get(field, field) for field in _RESPONSE_FIELDS}
    if columns.get("response") in (None, text):
        removed |= {"response"}
    output: dict[str, Any] = {}
    for name in columns:
        if name not in removed:
            output_name = name
            while output_name in ADDED_COLUMNS or output_name in output:
                output_name = f"input.{output_name}"
            output[output_name] = columns[name]
    prompt_columns = {mapping.get(field, field) for field in ("prompt", "messages")}
    if row.item is not None and output.keys().isdisjoint(prompt_columns):
        output["prompt"] = row.item.prompt  # the removed column `chosen` contained it
    failure = best.failure
    return output | {
        "row": row.row,
        "id": row.id,
        "response": text,
        "score": None if index is None else scores[index],
        "of": sum(score is not None for score in scores),
        "place": index,
        "failure": None if failure is None else {"reason": failure.reason, "message": failure.message},
    }


# -- the expected score of the best of n ----------------------------------------------------------------------


@lru_cache(8)
def _subset_weights(count: int) -> Floats:
    """[n - 1, i]: the share C(i, n - 1) / C(count, n) of the subsets of size n whose best has i candidates below it."""
    sizes = np.arange(1, count + 1)
    weights = np.empty((count, count))
    weights[:, -1] = sizes / count
    for i in range(count - 1, 0, -1):
        weights[:, i - 1] = weights[:, i] * np.maximum(i - sizes + 1, 0) / i
    return weights


def expected_best(selecting: Sequence[float], measured: Sequence[float] | None = None) -> Floats:
    """The expected score of the best of n of one prompt's candidates, for n = 1 to all of them.

    The mean over all subsets of size n of the best score in the subset. This U-statistic is unbiased for n new samples
    (Stiennon et al. 2020, arXiv 2009.01325, plot such curves).

    Args:
        selecting: The scores by which the best is selected, one per candidate.
        measured: The scores of a second scorer. If given, the result is its expected score of the candidate that
            `selecting` ranks best; for ties its mean over the tied candidates.

    >>> [round(float(value), 3) for value in expected_best([4, 1, 2])]
    [2.333, 3.333, 4.0]
    >>> [round(float(value), 3) for value in expected_best([4, 1, 2], measured=[0, 1, 2])]
    [1.0, 0.667, 0.0]
    """
    scores = np.asarray(selecting, dtype=np.float64)
    values = np.asarray(measured if measured else selecting, np.float64)
    _, groups = np.unique(scores, return_inverse=True)
    group_means = np.bincount(groups, values) / np.bincount(groups)  # tied candidates are interchangeable
    expected: Floats = _subset_weights(len(scores)) @ group_means[np.sort(groups)]
    return expected


def kl_bound(n: int) -> float:
    """An upper bound of the KL divergence of the best of n from the policy, in nats: log n - (n - 1)/n.

    The formula is in Stiennon et al. 2020; Beirami et al. 2024 (arXiv 2401.01879) show that it is an upper bound.

    >>> kl_bound(1), round(kl_bound(4), 3)
    (0.0, 0.636)
    """
    return math.log(n) - (n - 1) / n


@dataclass(frozen=True, slots=True)
class CandidateScores:
    """The scores of one prompt's candidates, None without one; `prompt` and `texts` are digests."""

    row: int
    prompt: str
    texts: str
    scores: tuple[float | None, ...]

    @property
    def known(self) -> list[float]:
        """The scores that are not None."""
        return [score for score in self.scores if score is not None]


def candidate_scores(best: BestCandidate) -> CandidateScores:
    """The scores of all candidates of a row."""
    row = best.row
    prompt = "" if row.item is None else prompt_of(row.item)
    texts = repr([candidate.text for candidate in row.candidates])
    return CandidateScores(row.row, _digest(prompt), _digest(texts), best.scores)


def _digest(text: str) -> str:
    return hashlib.blake2b(text.encode("utf-8", "backslashreplace"), digest_size=16).hexdigest()


@dataclass(frozen=True, slots=True)
class ExpectedScore:
    """A mean over prompts with its 95 % interval, which is None for fewer than 3 prompts."""

    value: float
    low: float | None
    high: float | None


@dataclass(frozen=True, slots=True)
class CurvePoint:
    """The best of `n`: `kl` bounds its divergence from the policy; `picked` is its score by the selecting scorer,
    `measured` by the second scorer."""

    n: int
    kl: float
    picked: ExpectedScore
    measured: ExpectedScore | None = None


@dataclass(frozen=True, slots=True)
class BestOfNCurve:
    """The points for n = 1 to `candidates`, over `prompts` prompts with that many; `left_out` counts rows by reason."""

    points: tuple[CurvePoint, ...]
    candidates: int
    prompts: int
    left_out: Mapping[str, int]
    method: str


def compute_curve(
    selecting: Sequence[CandidateScores], measuring: Mapping[int, CandidateScores] | None = None
) -> BestOfNCurve | None:
    """Estimate the expected score of the best of n, over the prompts whose candidates all have a score.

    Only prompts with the most frequent number of candidates count. `measuring` are the second scorer's scores by row
    number; a row that it did not score completely is left out. None if no prompt is left.

    Intervals are over prompts: a bootstrap from 100 prompts up, Student's t below
    (`judges.evaluation.statistics.intervals`).
    """
    left_out: Counter[str] = Counter()
    complete: list[tuple[CandidateScores, CandidateScores]] = []
    for scores in selecting:
        measured_scores = scores if measuring is None else measuring.get(scores.row)
        if not scores.scores or None in scores.scores:
            left_out["a candidate has no score"] += 1
        elif measured_scores is None or measured_scores.texts != scores.texts or None in measured_scores.scores:
            left_out["a candidate was not measured"] += 1
        else:
            complete.append((scores, measured_scores))
    sizes = Counter(len(scores.scores) for scores, _ in complete)
    if not sizes:
        return None
    count = max(sizes, key=lambda size: (sizes[size], size))
    if lost := len(complete) - sizes[count]:
        left_out[f"another number of candidates than {count}"] = lost
    used = [pair for pair in complete if len(pair[0].scores) == count]
    rows = [scores for scores, _ in used]
    picked, method = _mean_over_prompts([expected_best(scores.known) for scores in rows], rows)
    measured: Sequence[ExpectedScore | None] = [None] * count
    if measuring is not None:
        measured, _ = _mean_over_prompts([expected_best(first.known, second.known) for first, second in used], rows)
    points = tuple(CurvePoint(n, kl_bound(n), picked[n - 1], measured[n - 1]) for n in range(1, count + 1))
    return BestOfNCurve(points, count, len({scores.prompt for scores in rows}), dict(left_out), method)


def _mean_over_prompts(values: Sequence[Floats], scores: Sequence[CandidateScores]) -> tuple[list[ExpectedScore], str]:
    table = np.array(values)
    # `intervals` treats values from 0 to 1 as proportions, which scores are not; the shift moves them out of there.
    shift = 2.0 - float(table.min())
    rows, prompts = tuple(str(row.row) for row in scores), tuple(row.prompt for row in scores)
    if len(set(prompts)) < 3:
        return [ExpectedScore(float(value), None, None) for value in table.mean(axis=0)], "none: fewer than 3 prompts"
    means = [Mean(column + shift, rows, prompts) for column in table.T]
    estimates = intervals(means, np.eye(len(means)))
    expected = [
        ExpectedScore(float(value), *(None if edge is None else edge - shift for edge in (estimate.low, estimate.high)))
        for value, estimate in zip(table.mean(axis=0), estimates, strict=True)
    ]
    return expected, estimates[-1].method


# -- the plot -------------------------------------------------------------------------------------------------


def write_plot(curve: BestOfNCurve, scorer: str, measure: str | None, path: Path) -> None:
    """Write the curve as PNG: the expected score by `scorer`, and below it by `measure`, if there is one.

    Raises CannotRun if matplotlib is not installed.
    """
    try:
        import matplotlib
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise CannotRun("plots need matplotlib: pip install 'assay[report]'") from error
    with matplotlib.rc_context(RC_PARAMS):
        figure = Figure(layout="constrained", figsize=(6.4, 3.9 if measure is None else 6.2))
        FigureCanvasAgg(figure)
        panels = figure.subplots(1 if measure is None else 2, sharex=True, squeeze=False)[:, 0]
        _draw(panels[0], [point.picked for point in curve.points], f"{scorer} (selects)", COLOURS[0])
        if measure is not None:
            measured = [point.measured for point in curve.points if point.measured is not None]
            _draw(panels[1], measured, f"{measure} (measures)", COLOURS[1])
        _label_axes(panels[0], panels[-1], curve)
        title = f"Best of n by {scorer}: mean over {curve.prompts:,} prompts, 95 % interval"
        figure.suptitle(title, x=0.02, ha="left", fontsize=10)
        part = path.with_name(path.name + ".part")
        figure.savefig(part, dpi=150, format="png")
        part.replace(path)


def _draw(axes: Any, scores: Sequence[ExpectedScore], label: str, colour: str) -> None:
    band = [(n, score.low, score.high) for n, score in enumerate(scores, start=1) if score.low is not None]
    if band:
        axes.fill_between(*zip(*band, strict=True), color=colour, alpha=0.18, linewidth=0)
    sizes, marker_size = range(1, len(scores) + 1), 3 if len(scores) > 20 else 4.5
    axes.plot(sizes, [score.value for score in scores], "o-", color=colour, markersize=marker_size)
    axes.set_ylabel(f"expected score,\n{label}")
    axes.grid(color="#eeeeee")


def _label_axes(upper: Any, lower: Any, curve: BestOfNCurve) -> None:
    ticks = log2_ticks(curve.candidates)
    lower.set_xscale("log", base=2)
    lower.set_xlabel("n, number of candidates (log scale)")
    lower.set_xticks(ticks, [str(n) for n in ticks])
    lower.minorticks_off()
    top = upper.secondary_xaxis("top")
    top.set_xticks(ticks, [f"{curve.points[n - 1].kl:.2f}" for n in ticks])
    top.minorticks_off()
    top.spines["top"].set_visible(True)
    top.set_xlabel("upper bound of the KL divergence from the policy: log n − (n−1)/n, in nats")


def log2_ticks(count: int) -> list[int]:
    """The powers of 2 up to `count`, and `count` itself; a power whose label would overlap the last one is left out.

    >>> log2_ticks(4), log2_ticks(12), log2_ticks(9)
    ([1, 2, 4], [1, 2, 4, 8, 12], [1, 2, 4, 9])
    """
    powers = [2**k for k in range(count.bit_length()) if 2**k == count or 2**k < count / 1.25]
    return powers if powers[-1] == count else [*powers, count]
