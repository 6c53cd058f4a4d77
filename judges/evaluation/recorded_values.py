"""Ids, scores and verdicts as files of recorded judgments write them, parsed into the types of `judges.types`."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from judges.errors import CannotRun
from judges.evaluation.alignment import Outcome, abbreviate, mirror
from judges.scorers.tournament import OUTCOME_POINTS, PairOutcome, aggregate_comparisons
from judges.types import FAILURE_REASONS, Comparison, Failure, Judgment

Columns = Mapping[str, Any]
_OUTCOMES: Mapping[str, Literal["first", "second", "tie"]] = {
    **dict.fromkeys(("a", "a>b", "a>>b", "b<a", "first"), "first"),
    **dict.fromkeys(("b", "b>a", "b>>a", "a<b", "second"), "second"),
    **dict.fromkeys(("tie", "a=b", "b=a", "c"), "tie"),
}
ROW_FORMS = (
    "a row needs an id and one of: scores (one for each response, in the benchmark's order), score_chosen and"
    " score_rejected, verdict (a, b or tie; verdict_swapped for the other order), the fields of a file that assay"
    " compare or assay score wrote, or those of RewardBench's or JudgeBench's outputs"
)


def parse_id(columns: Columns, where: str, column: str = "id") -> str:
    """A row's id as text; a whole number is written in digits. Raises CannotRun for anything else."""
    value = columns.get(column)
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if (isinstance(value, str) and value) or (isinstance(value, int) and not isinstance(value, bool)):
        try:
            return str(value)
        except ValueError as error:  # an integer of thousands of digits
            raise CannotRun(f"{where}: {column} is too large a number") from error
    raise CannotRun(f"{where}: {column} must be a text or a whole number, not {abbreviate(value)}; {ROW_FORMS}")


def parse_score(value: Any, where: str) -> float | Failure:
    """A score from a number, its text, or a list of one; a Failure for null, an empty text, nan or an infinity."""
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    if value is None or value == "":
        return Failure("missing", "the file holds no score")
    if isinstance(value, int | float | str) and not isinstance(value, bool):
        try:
            number = float(value)
        except OverflowError as error:
            raise CannotRun(f"{where}: a score is too large a number: {abbreviate(value)}") from error
        except ValueError as error:
            raise CannotRun(f"{where}: a score must be a number, not {abbreviate(value)}") from error
        return number if math.isfinite(number) else Failure("off-scale", f"the file holds {number}")
    raise CannotRun(f"{where}: a score must be a number, not {abbreviate(value)}")


def parse_failure(value: Any, where: str) -> Failure | None:
    """A failure as `assay score` writes it: an object, or "reason: message"; None where there is none."""
    if value is None or value == "":
        return None
    if isinstance(value, str):
        reason, _, message = value.partition(": ")
        return Failure(reason, message) if reason in FAILURE_REASONS else Failure("missing", value)  # type: ignore[arg-type]
    try:
        return Failure(**value)
    except (TypeError, ValueError) as error:
        raise CannotRun(f"{where}: not a failure: {abbreviate(value)}") from error


def parse_outcome(value: Any, where: str) -> Outcome:
    """A verdict on (a, b); a Failure for null or an empty text. Raises CannotRun for another word."""
    if value is None or value == "":
        return Failure("missing", "the file holds no verdict")
    outcome = _OUTCOMES.get(value.strip().lower()) if isinstance(value, str) else None
    if outcome is None:
        raise CannotRun(f"{where}: a verdict must be a, b, tie, A>B, B>A or A=B, not {abbreviate(value)}")
    return outcome


def parse_comparisons(verdicts: Sequence[Any], where: str) -> tuple[Comparison, ...]:
    """The Comparisons of one verdict on (a, b), or of that and one on (b, a), each about what was shown first.

    >>> [comparison.outcome for comparison in parse_comparisons(["A>B", "B>A"], "row 1")]
    ['first', 'first']
    """
    given = Comparison(0, 1, parse_outcome(verdicts[0], where))
    if len(verdicts) == 1:
        return (given,)
    return given, Comparison(0, 1, mirror(parse_outcome(verdicts[1], where)), swapped=True)


def make_judgment(score: float | Failure, **fields: Any) -> Judgment:
    """A Judgment with the score, or with the Failure in its stead."""
    return Judgment(failure=score, **fields) if isinstance(score, Failure) else Judgment(score=score, **fields)


def best_response_shares(judgments: Sequence[Judgment]) -> tuple[float, ...] | None:
    """`preference` from scores alone: the highest score has it, equal ones share it; None where one is missing."""
    scores = [j.score for j in judgments if j.score is not None]
    if len(scores) < len(judgments):
        return None
    share = 1 / scores.count(max(scores))
    return tuple(share if score == max(scores) else 0.0 for score in scores)


def judgments_of_comparisons(
    comparisons: Sequence[Comparison], completions: tuple[str, ...] = ()
) -> tuple[Judgment, Judgment]:
    """The Judgments of two responses as `pairwise` makes them: 1 and 0, or ½ each for a tie or orders that disagree."""
    votes = [c.outcome if isinstance(c.outcome, Failure) else OUTCOME_POINTS[c.outcome] for c in comparisons]
    aggregate = aggregate_comparisons(list(zip(comparisons, votes, strict=True)))
    score = OUTCOME_POINTS[aggregate.outcome] if isinstance(aggregate, PairOutcome) else aggregate
    return (
        make_judgment(score, votes=tuple(votes), completions=completions),
        make_judgment(_opposite(score), votes=tuple(map(_opposite, votes)), completions=completions),
    )


def _opposite(score: float | Failure) -> float | Failure:
    return score if isinstance(score, Failure) else 1 - score
