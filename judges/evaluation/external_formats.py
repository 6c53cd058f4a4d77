"""Files in which other suites leave their judgments."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from judges.data.items import name_of_subset
from judges.errors import CannotRun
from judges.evaluation.alignment import RecordedCard, digest, shown
from judges.evaluation.recorded_judgments import best, both_orders, compared, judged, name_of, number_of, outcome_of
from judges.types import Comparison, Failure

Columns = Mapping[str, Any]
_LABELS = {"A>B": 0, "B>A": 1}


def json_rows(path: str) -> Iterator[dict[str, Any] | Failure]:
    """The rows of a .json file: a list of them, or one object whose lists are columns, as RewardBench's scripts write.

    A value that is no list belongs to every row. Raises CannotRun for another file.
    """
    try:
        whole = json.loads(Path(path).expanduser().read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise CannotRun(f"{path}: cannot be read: {error}") from error
    if isinstance(whole, list):
        for row in whole:
            yield row if isinstance(row, dict) else Failure("malformed", "the row is not a JSON object")
        return
    columns = {k: v for k, v in whole.items() if isinstance(v, list)} if isinstance(whole, dict) else {}
    if not columns or len({len(column) for column in columns.values()}) != 1:
        raise CannotRun(f"{path}: not a list of rows, nor columns of one length; one row a line is .jsonl")
    shared = {k: v for k, v in whole.items() if k not in columns}
    for values in zip(*columns.values(), strict=True):
        yield shared | dict(zip(columns, values, strict=True))


def rewardbench(columns: Columns, where: str) -> RecordedCard:
    """A row of RewardBench's eval-set-scores (allenai/reward-bench, run_rm.py, run_dpo.py, run_generative.py).

    `id`, `subset`, and `scores_chosen` and `scores_rejected` of a reward model; or `results` alone, 1 where the
    chosen response won, 0 where the other did, and 0.5, which the script writes for a tie and for a verdict
    that it could not read: the file does not say which, and it is a tie here.
    """
    name = name_of(columns, where)
    kept: dict[str, Any] = {
        "order": "gold",
        "subset": name_of_subset(columns.get("subset")),
        "model": _text(columns, "model"),
    }
    result = columns["results"]
    if isinstance(result, bool) or result not in (0, 0.5, 1):
        raise CannotRun(f"{where}: results is 1, 0 or 0.5, not {shown(result)}")
    sides = [columns.get("scores_chosen"), columns.get("scores_rejected")]
    if all(side is None for side in sides):
        outcome = "tie" if result == 0.5 else "first" if result == 1 else "second"
        comparison = Comparison(0, 1, outcome_of(outcome, where))
        judgments = compared([comparison])
        return RecordedCard(name, where, judgments, (comparison,), best(judgments), **kept)
    scores = [number_of(side, where) for side in sides]
    good, bad = scores
    if not isinstance(good, Failure) and not isinstance(bad, Failure) and (good > bad) != (result == 1):
        raise CannotRun(f"{where}: results is {result}, and the scores are {good:g} and {bad:g}")
    told = tuple(judged(score, read=None if isinstance(score, Failure) else "reward") for score in scores)
    return RecordedCard(name, where, told, (), best(told), **kept)


def judgebench(columns: Columns, where: str) -> RecordedCard:
    """A row of JudgeBench's output files (ScalerLab/JudgeBench, run_judge.py): a pair judged once or in both orders.

    `judgments` holds for each order a `decision` (A>B, B>A, A=B; null where the judge gave none) in places as they
    were shown, and in `judgment` the judge's `response`, or the two `scores` of a reward model. Those become the
    mean over the orders; the decisions stay as the Comparisons, which the official rule reads.
    """
    made = columns["judgments"]
    if not isinstance(made, list) or len(made) not in (1, 2):
        raise CannotRun(f"{where}: judgments holds one judgment for each order, one or two, not {shown(made)}")
    told = [_one(one, where) for one in made]
    decisions = [decision for decision, _ in told]
    comparisons: tuple[Comparison, ...] = (
        both_orders(decisions[0], decisions[1], where)
        if len(decisions) == 2
        else (Comparison(0, 1, outcome_of(decisions[0], where)),)
    )
    details = [detail for _, detail in told]
    votes: list[list[float | Failure]] = [[], []]
    for swapped, detail in enumerate(details):
        scores = detail.get("scores")
        if isinstance(scores, list) and len(scores) == 2:
            for side, score in enumerate(reversed(scores) if swapped else scores):
                votes[side].append(number_of(score, where))
    judgments = compared(comparisons, tuple(str(detail["response"]) for detail in details if detail.get("response")))
    if votes[0]:
        judgments = tuple(judged(_mean(one), votes=tuple(one), read=_read(one)) for one in votes)  # type: ignore[assignment]
    label = columns.get("label")
    if label is not None and label not in _LABELS:
        raise CannotRun(f"{where}: label is A>B or B>A, not {shown(label)}")
    texts = [columns.get("response_A"), columns.get("response_B")]
    return RecordedCard(
        id=name_of(columns, where, "pair_id"),
        where=where,
        judgments=judgments,
        comparisons=comparisons,
        preference=best(judgments),
        order=tuple(digest(text) for text in texts if isinstance(text, str))
        if all(isinstance(text, str) for text in texts)
        else "given",
        right=None if label is None else _LABELS[label],
        model=next((model for detail in details if (model := _text(detail, "judge_model"))), None),
    )


def _one(one: Any, where: str) -> tuple[Any, Columns]:
    """The decision of one order and what is told beside it. A judge that failed leaves null for the whole."""
    if one is None:
        return None, {}
    if not isinstance(one, Mapping) or "decision" not in one:
        raise CannotRun(f"{where}: a judgment has a decision, and {shown(one)} has none")
    detail = one.get("judgment")
    return one["decision"], detail if isinstance(detail, Mapping) else {}


def _mean(votes: list[float | Failure]) -> float | Failure:
    failed = next((vote for vote in votes if isinstance(vote, Failure)), None)
    return failed or statistics.fmean(vote for vote in votes if not isinstance(vote, Failure))


def _read(votes: list[float | Failure]) -> str | None:
    return None if any(isinstance(vote, Failure) for vote in votes) else "reward"


def _text(columns: Columns, name: str) -> str | None:
    value = columns.get(name)
    return value if isinstance(value, str) and value else None
