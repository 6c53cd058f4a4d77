"""Reader for scored candidates: the rows that `assay score` writes for prompts with one or several responses.

Pair selection, best of N and the held-out evaluation of `assay iterate` read their input here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from judges.data.items import to_item_or_prompt
from judges.data.json_lines import from_line
from judges.data.output_row import CANDIDATE_COLUMNS, OUTPUT_COLUMNS, output_name
from judges.engines.policy import Prompt
from judges.types import Failure, Item

_LONE_SURROGATE = Failure("malformed", "the candidate contains half of a surrogate pair, which is not valid text")


@dataclass(frozen=True, slots=True)
class Candidate:
    """A response with its score, or the reason why it has none; `votes` are the single scores behind a vote."""

    text: str
    score: float | Failure
    votes: tuple[float | Failure, ...] = ()
    truncated: bool = False


@dataclass(frozen=True, slots=True)
class ScoredRow:
    """One row: its number (from 1), its id, the Item of its candidates, and the candidates with their scores.

    `failure` is set for a row without candidates: it could not be read, or the policy generated nothing for it.
    """

    row: int
    id: str
    item: Item | None
    candidates: tuple[Candidate, ...] = ()
    failure: Failure | None = None


def read_scored_rows(path: Path, mapping: Mapping[str, str]) -> Iterator[ScoredRow]:
    """Stream the rows of a file of scored candidates; `mapping` is the one that the file was scored with."""
    with open(path, "rb") as lines:
        for line in lines:
            yield parse_scored_row(from_line(line), mapping)


def parse_scored_row(columns: Mapping[str, Any], mapping: Mapping[str, str]) -> ScoredRow:
    """Parse one output row of `assay score` that has one prompt and any number of responses.

    >>> columns = {"row": 1, "id": "a", "prompt": "Hi", "responses": ["Hello!", "No."], "scores": [4.0, None],
    ...            "failures": [None, {"reason": "missing", "message": "no verdict"}], "votes": [[4.0], []]}
    >>> [candidate.score for candidate in parse_scored_row(columns, {}).candidates]
    [4.0, Failure(reason='missing', message='no verdict')]
    """
    number, name = columns["row"], str(columns["id"])
    # An input may have a column of this name too; only ours has exactly these keys.
    generation = columns.get("generation")
    sampled = isinstance(generation, Mapping) and (
        {"truncated", "usage"} <= generation.keys() <= {"truncated", "usage", "failures", "thoughts"}
    )
    # An input column with the name of an output column was written under another name.
    output_columns = OUTPUT_COLUMNS | CANDIDATE_COLUMNS if sampled else OUTPUT_COLUMNS
    fields = {key: value for key, value in columns.items() if key not in OUTPUT_COLUMNS}
    for field, column in mapping.items():
        source = "input.id" if column == "id" and "input.id" in columns else output_name(column, output_columns)
        fields[field] = columns.get(source)
    if sampled:
        for field in ("response", "responses"):
            fields[field] = _replace_surrogates(columns.get(field))
        for field in ("scores", "ranking"):  # gold labels of the input, which belong to other responses
            fields.pop(field, None)
    item = to_item_or_prompt(name, fields)
    if isinstance(item, Failure | Prompt):
        failure = item if isinstance(item, Failure) else Failure("empty", "the row has no candidates")
        return ScoredRow(number, name, None, failure=_parse_failure(columns.get("failure")) or failure)
    count = len(item.responses)
    texts, truncated = list(item.responses), [False] * count
    if sampled and generation is not None:
        texts = [columns["response"]] if count == 1 and "response" in columns else columns["responses"]
        truncated = generation["truncated"]
    if count == 1:
        results = [(columns["score"], columns["failure"], columns["votes"])]
    elif "scores" in columns:
        results = list(zip(columns["scores"], columns["failures"], columns["votes"], strict=True))
    else:  # the row failed before its candidates were scored
        results = [(None, columns["failure"], [])] * count
    candidates = tuple(
        Candidate(text, _parse_score(score, failure), tuple(_parse_score(vote, vote) for vote in votes), cut)
        if text == raw_text
        else Candidate(text, _LONE_SURROGATE, truncated=cut)
        for text, raw_text, (score, failure, votes), cut in zip(item.responses, texts, results, truncated, strict=True)
    )
    return ScoredRow(number, name, item, candidates)


def _replace_surrogates(value: Any) -> Any:
    """Replace halves of surrogate pairs, which a model can generate, by question marks."""
    if isinstance(value, list):
        return [_replace_surrogates(element) for element in value]
    return value.encode("utf-8", "replace").decode() if isinstance(value, str) else value


def _parse_score(score: Any, failure: Any) -> float | Failure:
    if isinstance(score, int | float):
        return float(score)
    return _parse_failure(failure) or Failure("missing", "no score")


def _parse_failure(value: Any) -> Failure | None:
    return Failure(value["reason"], value["message"]) if isinstance(value, Mapping) else None
