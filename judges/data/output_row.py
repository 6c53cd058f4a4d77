"""The columns of an output row: the input's columns, the row's number and id, its scores, failures, votes and usage."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from judges.data.rows import Row
from judges.engines.policy import PolicyOutput
from judges.types import Failure, Judgment, Scorecard, usage_to_dict

# The columns that scoring adds. An input column of the same name is renamed to "input.NAME" (`output_name`).
OUTPUT_COLUMNS = frozenset(
    ("row", "score", "scores", "failure", "failures", "critique", "votes", "usage", "read", "truncated", "preference")
)
# The columns that are added where a policy sampled the candidates.
CANDIDATE_COLUMNS = frozenset(("response", "responses", "generation"))


@lru_cache(1024)
def output_name(name: str, added: frozenset[str] = OUTPUT_COLUMNS) -> str:
    """The name of an input column in the output: no added column has it, and no two input columns share it.

    >>> output_name("score"), output_name("input.score"), output_name("input.text")
    ('input.score', 'input.input.score', 'input.text')
    """
    bare = name
    while bare.startswith("input."):
        bare = bare[6:]
    return f"input.{name}" if bare in added or (bare == "id" and name != "id") else name


def output_row(row: Row, card: Scorecard | Failure, sampled: PolicyOutput | None = None) -> dict[str, Any]:
    """The columns of one output row.

    `card` is the row's Scorecard, or the Failure of a row that could not be scored. `sampled` holds the candidates
    that a policy wrote for the row, if it wrote any. A row of one response has the columns `score` and `failure`;
    a row of several has the lists `scores` and `failures`, and `preference`.
    """
    added = OUTPUT_COLUMNS if sampled is None else OUTPUT_COLUMNS | CANDIDATE_COLUMNS
    columns = {output_name(key, added): value for key, value in row.columns.items()}
    if (input_id := columns.get("id", "")) not in (None, "") and str(input_id) != row.id:
        columns["input.id"] = input_id
    columns["row"], columns["id"] = row.number, row.id
    if sampled is not None:
        columns |= _candidate_columns(sampled)
    if isinstance(card, Failure):
        return columns | {"score": None, "failure": _failure(card), "critique": None, "votes": [], "usage": None}
    if len(card.judgments) == 1:
        judgment = card.judgments[0]
        columns["score"] = judgment.score
        columns["failure"] = _failure(judgment.failure)
        columns["critique"] = judgment.critique
        columns["votes"] = _votes(judgment)
        columns["read"] = judgment.read
        columns["truncated"] = judgment.truncated
        columns["usage"] = usage_to_dict(judgment.usage)
        return columns
    return columns | {
        "scores": [j.score for j in card.judgments],
        "failures": [_failure(j.failure) for j in card.judgments],
        "preference": card.preference,
        "critique": [j.critique for j in card.judgments],
        "votes": [_votes(j) for j in card.judgments],
        "read": [j.read for j in card.judgments],
        "truncated": [j.truncated for j in card.judgments],
        "usage": usage_to_dict(card.usage),
    }


def _candidate_columns(sampled: PolicyOutput) -> dict[str, Any]:
    """The candidates in the columns that an input row would have, and the usage of generating them."""
    if isinstance(sampled.item, Failure):
        return {"generation": None}
    generation: dict[str, Any] = {"truncated": sampled.truncated, "usage": usage_to_dict(sampled.usage)}
    if sampled.failures:
        generation["failures"] = [_failure(failure) for failure in sampled.failures]
    if sampled.thoughts:
        generation["thoughts"] = sampled.thoughts
    if len(sampled.item.responses) == 1:
        return {"response": sampled.item.responses[0], "generation": generation}
    return {"responses": sampled.item.responses, "generation": generation}


def _failure(failure: Failure | None) -> dict[str, str] | None:
    return None if failure is None else {"reason": failure.reason, "message": failure.message}


def _votes(judgment: Judgment) -> list[Any]:
    return [_failure(vote) if isinstance(vote, Failure) else vote for vote in judgment.votes]


def failure_reason(card: Scorecard | Failure) -> str | None:
    """Why a row counts as failed: the reason of its first failure; None for a row without one."""
    if isinstance(card, Failure):
        return card.reason
    return next((judgment.failure.reason for judgment in card.judgments if judgment.failure is not None), None)


def written_failure_reason(columns: Mapping[str, Any]) -> str | None:
    """The same for an output row that was read back. Raises KeyError or TypeError for any other row."""
    failures = columns["failures"] if "failures" in columns else [columns["failure"]]
    return next((failure["reason"] for failure in failures if failure), None)
