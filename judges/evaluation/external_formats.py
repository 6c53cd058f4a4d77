"""Output files of other evaluation suites: RewardBench's scores and JudgeBench's judgments."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping
from typing import Any

from judges.data.items import subset_name
from judges.errors import CannotRun
from judges.evaluation.alignment import Outcome, RecordedCard, abbreviate, text_digest
from judges.evaluation.benchmarks.rows import load_json, objects
from judges.evaluation.recorded_values import (
    Columns,
    best_response_shares,
    judgments_of_comparisons,
    make_judgment,
    parse_comparisons,
    parse_id,
    parse_score,
)
from judges.types import Comparison, Failure

_LABELS = {"A>B": 0, "B>A": 1}
_RESULTS: dict[float, Outcome] = {1: "first", 0: "second", 0.5: "tie"}


def read_json_rows(path: str) -> Iterator[dict[str, Any] | Failure]:
    """The rows of a .json file: a list of objects, or one object whose lists are columns, as RewardBench writes it.

    A value that is not a list belongs to every row. Raises CannotRun for a file of another shape.
    """
    document = load_json(path)
    if isinstance(document, list):
        yield from objects(document)
        return
    columns = {k: v for k, v in document.items() if isinstance(v, list)} if isinstance(document, dict) else {}
    if not columns or len({len(column) for column in columns.values()}) != 1:
        raise CannotRun(
            f"{path}: neither a list of rows nor columns of equal length; a file of one row a line must end in .jsonl"
        )
    constants = {k: v for k, v in document.items() if k not in columns}
    for values in zip(*columns.values(), strict=True):
        yield constants | dict(zip(columns, values, strict=True))


def parse_rewardbench_row(columns: Columns, where: str) -> RecordedCard:
    """A row of RewardBench's eval-set-scores (allenai/reward-bench, run_rm.py, run_dpo.py, run_generative.py).

    `id`, `subset`, and a reward model's `scores_chosen` and `scores_rejected`; or `results` alone: 1 where the
    chosen response won, 0 where the rejected one did, and 0.5, which the script writes both for a tie and for a
    verdict that it could not read. The file does not say which; it is read as a tie.
    """
    fields: dict[str, Any] = {
        "id": parse_id(columns, where),
        "where": where,
        "order": "gold",
        "subset": subset_name(columns.get("subset")),
        "model": _text(columns, "model"),
    }
    result = columns["results"]
    if isinstance(result, bool) or not isinstance(result, int | float) or result not in _RESULTS:
        raise CannotRun(f"{where}: results must be 1, 0 or 0.5, not {abbreviate(result)}")
    sides = [columns.get("scores_chosen"), columns.get("scores_rejected")]
    if sides == [None, None]:
        comparison = Comparison(0, 1, _RESULTS[result])
        judgments = judgments_of_comparisons([comparison])
        return RecordedCard(
            **fields, judgments=judgments, comparisons=(comparison,), preference=best_response_shares(judgments)
        )
    chosen, rejected = scores = [parse_score(side, where) for side in sides]
    if not isinstance(chosen, Failure) and not isinstance(rejected, Failure) and (chosen > rejected) != (result == 1):
        raise CannotRun(f"{where}: results is {result}, and the scores are {chosen:g} and {rejected:g}")
    rewards = tuple(make_judgment(score, read=None if isinstance(score, Failure) else "reward") for score in scores)
    return RecordedCard(**fields, judgments=rewards, preference=best_response_shares(rewards))


def parse_judgebench_row(columns: Columns, where: str) -> RecordedCard:
    """A row of JudgeBench's output files (ScalerLab/JudgeBench, run_judge.py): a pair judged in one or both orders.

    `judgments` has for each order a `decision` (A>B, B>A, A=B; null where the judge gave none) about the
    responses as they were shown, and in `judgment` the judge's `response`, or a reward model's two `scores`. A
    response's score is the mean over the orders; the decisions become Comparisons, which the official rule reads.
    """
    entries = columns["judgments"]
    if not isinstance(entries, list) or len(entries) not in (1, 2):
        raise CannotRun(
            f"{where}: judgments must hold one judgment for each order, one or two, not {abbreviate(entries)}"
        )
    decisions, details = zip(*(_decision(entry, where) for entry in entries), strict=True)
    comparisons = parse_comparisons(decisions, where)
    votes: list[list[float | Failure]] = [[], []]
    for swapped, detail in enumerate(details):
        scores = detail.get("scores")
        if isinstance(scores, list) and len(scores) == 2:
            for side, score in enumerate(reversed(scores) if swapped else scores):
                votes[side].append(parse_score(score, where))
    completions = tuple(str(detail["response"]) for detail in details if detail.get("response"))
    judgments = judgments_of_comparisons(comparisons, completions)
    if votes[0]:
        scores = [_mean(side) for side in votes]
        judgments = tuple(  # type: ignore[assignment]
            make_judgment(score, votes=tuple(side), read=None if isinstance(score, Failure) else "reward")
            for score, side in zip(scores, votes, strict=True)
        )
    label = columns.get("label")
    if label is not None and label not in _LABELS:
        raise CannotRun(f"{where}: label must be A>B or B>A, not {abbreviate(label)}")
    texts = [text for side in "AB" if isinstance(text := columns.get(f"response_{side}"), str)]
    return RecordedCard(
        id=parse_id(columns, where, "pair_id"),
        where=where,
        judgments=judgments,
        comparisons=comparisons,
        preference=best_response_shares(judgments),
        order=tuple(map(text_digest, texts)) if len(texts) == 2 else "given",
        label=None if label is None else _LABELS[label],
        model=next((model for detail in details if (model := _text(detail, "judge_model"))), None),
    )


def _decision(entry: Any, where: str) -> tuple[Any, Columns]:
    """The decision of one order and its details; the entry is null where the judge failed."""
    if entry is None:
        return None, {}
    if not isinstance(entry, Mapping) or "decision" not in entry:
        raise CannotRun(f"{where}: a judgment has no decision: {abbreviate(entry)}")
    detail = entry.get("judgment")
    return entry["decision"], detail if isinstance(detail, Mapping) else {}


def _mean(votes: list[float | Failure]) -> float | Failure:
    failed = next((vote for vote in votes if isinstance(vote, Failure)), None)
    return failed or statistics.fmean(vote for vote in votes if not isinstance(vote, Failure))


def _text(columns: Columns, name: str) -> str | None:
    value = columns.get(name)
    return value if isinstance(value, str) and value else None
