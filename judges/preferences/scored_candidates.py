"""Judged candidates as `assay score` writes them: what selection, the best of N and the report of a round read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from judges.data.items import read_fields
from judges.data.json_lines import from_line
from judges.data.writers import DRAWN, OURS, renamed
from judges.engines.policy import Prompt
from judges.types import Failure, Item

_HALF = Failure("malformed", "the candidate holds half of a surrogate pair, which is not text")


@dataclass(frozen=True, slots=True)
class Candidate:
    """A response with its score or why it has none; `votes` where there were several."""

    text: str
    score: float | Failure
    votes: tuple[float | Failure, ...] = ()
    truncated: bool = False


@dataclass(frozen=True, slots=True)
class Judged:
    """One row: its number and id, the Item of its candidates, and what the scorer said of each.

    `failure`, where the row has no candidates at all: it could not be read, or nothing was drawn for it.
    """

    row: int
    id: str
    item: Item | None
    candidates: tuple[Candidate, ...] = ()
    failure: Failure | None = None


def judged_rows(path: Path, mapping: Mapping[str, str]) -> Iterator[Judged]:
    """The rows of a judged file, one at a time; `mapping` is the one that they were judged with."""
    with open(path, "rb") as lines:
        for line in lines:
            yield read_judged(from_line(line), mapping)


def read_judged(columns: Mapping[str, Any], mapping: Mapping[str, str]) -> Judged:
    """A row of an output of `assay score` that has one prompt and one response or several.

    >>> columns = {"row": 1, "id": "a", "prompt": "Hi", "responses": ["Hello!", "No."], "scores": [4.0, None],
    ...            "failures": [None, {"reason": "missing", "message": "no verdict"}], "votes": [[4.0], []]}
    >>> [one.score for one in read_judged(columns, {}).candidates]
    [4.0, Failure(reason='missing', message='no verdict')]
    """
    number, name = columns["row"], str(columns["id"])
    # An input may have a column of this name too; ours has these keys.
    made = columns.get("generation")
    drawn = isinstance(made, Mapping) and made.keys() == {"truncated", "usage"}
    # What the input calls like one of our columns is kept under another name.
    ours = OURS | DRAWN if drawn else OURS
    fields = {key: value for key, value in columns.items() if key not in OURS}
    for field, column in mapping.items():
        place = "input.id" if column == "id" and "input.id" in columns else renamed(column, ours)
        fields[field] = columns.get(place)
    if drawn:
        for field in ("response", "responses"):
            fields[field] = _whole(columns.get(field))
        for field in ("scores", "ranking"):  # of other responses than these, if of any
            fields.pop(field, None)
    read = read_fields(name, fields)
    if isinstance(read, Failure | Prompt):
        why = read if isinstance(read, Failure) else Failure("empty", "the row has no candidates")
        return Judged(number, name, None, failure=_failure(columns.get("failure")) or why)
    texts, cut = list(read.responses), [False] * len(read.responses)
    if drawn and made is not None:
        texts = [columns["response"]] if len(texts) == 1 and "response" in columns else columns["responses"]
        cut = made["truncated"]
    if len(read.responses) == 1:
        said = [(columns["score"], columns["failure"], columns["votes"])]
    elif "scores" in columns:
        said = list(zip(columns["scores"], columns["failures"], columns["votes"], strict=True))
    else:  # candidates were there, and the row failed as a whole
        said = [(None, columns["failure"], [])] * len(read.responses)
    candidates = tuple(
        Candidate(text, _scored(score, failure), tuple(_scored(vote, vote) for vote in votes), truncated)
        if text == given
        else Candidate(text, _HALF, truncated=truncated)
        for text, given, (score, failure, votes), truncated in zip(read.responses, texts, said, cut, strict=True)
    )
    return Judged(number, name, read, candidates)


def _whole(said: Any) -> Any:
    """Drawn texts, with a question mark for every half of a surrogate pair, which a model can write."""
    if isinstance(said, list):
        return [_whole(one) for one in said]
    return said.encode("utf-8", "replace").decode() if isinstance(said, str) else said


def _scored(score: Any, failure: Any) -> float | Failure:
    if isinstance(score, int | float):
        return float(score)
    return _failure(failure) or Failure("missing", "no score")


def _failure(told: Any) -> Failure | None:
    return Failure(told["reason"], told["message"]) if isinstance(told, Mapping) else None
