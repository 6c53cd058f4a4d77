"""Rows of a benchmark's source, and checks of their fields.

A malformed row raises CannotRun with the source and the row's number; leaving it out would change the benchmark.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from judges.data.items import to_item
from judges.data.readers import read_records
from judges.errors import CannotRun
from judges.types import Failure, Gold, Item

Fields = Mapping[str, Any]
RowToItem = Callable[[str, Fields], Item | Failure]
_WINNER_POSITIONS = {"a": 0, "b": 1}
_PROMPT_COLUMNS = ("prompt", "question", "input")  # these may not be empty
_GOLD_COLUMNS = ("chosen", "rejected", "response", "response_a", "response_b", "scores", "ranking", "votes")


@dataclass(frozen=True, slots=True)
class Row:
    """One row of a source. `expected` says what a row must hold; it ends every error message."""

    source: str
    number: int
    fields: Fields
    expected: str = ""

    def error(self, problem: str) -> CannotRun:
        """The error to raise for this row."""
        return CannotRun(f"{self.source}, row {self.number}: {problem}{self.expected and f'; {self.expected}'}")

    def text(self, column: str) -> str:
        """A column's text; only a response may be empty. Raises CannotRun where it is not text."""
        value = self.fields.get(column)
        if isinstance(value, str) and is_text(value) and (value.strip() or column not in _PROMPT_COLUMNS):
            return value
        raise self.error(f"{column} is {'missing' if value is None else 'empty' if is_text(value) else 'not text'}")

    def texts(self, column: str) -> list[str]:
        """A column's list of texts, one at least. Raises CannotRun for anything else."""
        value = self.fields.get(column)
        if not isinstance(value, list) or not value or not all(is_text(text) for text in value):
            raise self.error(f"{column} is {'missing' if value is None else 'not a list of texts'}")
        return value

    def choice(self, column: str, choices: Mapping[Any, int]) -> int:
        """The number that a column's value stands for. Raises CannotRun for a value that is not in `choices`."""
        value = self.fields.get(column)
        number = choices.get(value) if isinstance(value, str | int) else None
        if number is None:
            raise self.error(f"{column} is {value!r}, not one of {', '.join(dict.fromkeys(map(str, choices)))}")
        return number

    def published_pair(
        self, prompt: str, responses: tuple[str, str], label: Mapping[Any, int]
    ) -> tuple[str, tuple[str, str], int]:
        """The prompt, the two responses in their published order, and the index of the right one.

        The row has either the published columns (those named, and `label`), or `prompt`, `chosen`, `rejected` and
        `original_winner_position` (a or b).
        """
        if prompt in self.fields:
            text, first, second = (self.text(column) for column in (prompt, *responses))
            return text, (first, second), self.choice("label", label)
        text, right = self.text("prompt"), self.choice("original_winner_position", _WINNER_POSITIONS)
        chosen, rejected = self.text("chosen"), self.text("rejected")
        return text, ((chosen, rejected) if right == 0 else (rejected, chosen)), right

    def unique_id(self, seen: set[str], name: Any = None) -> str:
        """`name`, or the row's own id, made unique among `seen`."""
        return unique_id(self.fields.get("id") if name is None else name, self.number, seen)


def read_rows(source: str, expected: str = "") -> Iterator[Row]:
    """The rows of a file or hub dataset, numbered from 1; a `.json` file is one list of rows.

    Raises CannotRun for a file that cannot be read, a row that is not an object, and a file without rows.
    """
    number = 0
    for number, fields in enumerate(_json_list(source) if source.endswith(".json") else read_records(source), start=1):
        if isinstance(fields, Failure):
            raise Row(source, number, {}).error(fields.message)
        yield Row(source, number, fields, expected)
    if not number:
        raise CannotRun(f"{source}: the file has no rows")


def _json_list(source: str) -> Iterator[dict[str, Any] | Failure]:
    document = load_json(source)
    if not isinstance(document, list):
        raise CannotRun(f"{source}: a .json benchmark must be one list of rows; a file of one row a line is .jsonl")
    return objects(document)


def load_json(path: str) -> Any:
    """The value of a JSON file. Raises CannotRun where it cannot be read."""
    try:
        return json.loads(Path(path).expanduser().read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise CannotRun(f"{path}: cannot be read: {error}") from error


def objects(rows: Sequence[Any]) -> Iterator[dict[str, Any] | Failure]:
    """The rows of a JSON list, with a Failure for each that is not an object."""
    return (row if isinstance(row, dict) else Failure("malformed", "the row is not a JSON object") for row in rows)


def read_items(source: str, row_to_item: RowToItem) -> tuple[Item, ...]:
    """Every row as an Item with gold and a unique id.

    A missing id becomes the row's number, and a repeated one gets it appended. Raises CannotRun with source and row
    number for a row of which `row_to_item` makes a Failure.
    """
    seen: set[str] = set()
    return tuple(checked(row, row_to_item(row.unique_id(seen), row.fields)) for row in read_rows(source))


def checked(row: Row, item: Item | Failure) -> Item:
    """The Item that was made of a row. Raises the row's error for a Failure."""
    if isinstance(item, Failure):
        raise row.error(item.message)
    return item


def unique_id(given: Any, number: int, seen: set[str]) -> str:
    """An id that is not in `seen`, to which it is added.

    >>> seen = set()
    >>> unique_id("a", 1, seen), unique_id("a", 2, seen), unique_id(None, 3, seen)
    ('a', 'a#2', 'row-3')
    """
    name = str(given) if given not in (None, "") else f"row-{number}"
    while name in seen:
        name = f"{name}#{number}"
    seen.add(name)
    return name


def make_item(name: str, fields: Fields, responses: Any, gold: Gold, meta: Mapping[str, Any]) -> Item | Failure:
    """An Item of `responses`, with the row's prompt, system, reference, rubric and subset.

    A row's `group` (rows of one context) becomes `meta["prompt"]`, so that they are resampled together.
    """
    rest = {key: value for key, value in fields.items() if key not in _GOLD_COLUMNS}
    item = to_item(name, {**rest, "responses": responses})
    if isinstance(item, Failure):
        return item
    return replace(item, gold=gold, meta={**item.meta, **group(fields), **meta})


def group(fields: Fields) -> dict[str, Any]:
    """`meta["prompt"]` where the row names its `group`."""
    return {"prompt": str(fields["group"])} if fields.get("group") not in (None, "") else {}


def authors(fields: Fields, first: str, second: str) -> dict[str, Any]:
    """`meta["authors"]`, the models that wrote the two responses, where both columns are filled."""
    both = [fields.get(first), fields.get(second)]
    return {"authors": both} if all(isinstance(name, str) and name for name in both) else {}


def votes(values: Any) -> dict[str, Any] | Failure:
    """`meta["votes"]`: "a", "b" or "tie" of each annotator who voted.

    A number is a graded vote, positive for a; graded votes also stay as they are, in `meta["graded_votes"]`.

    >>> votes([2, 0, -1])
    {'votes': ['a', 'tie', 'b'], 'graded_votes': [2, 0, -1]}
    >>> votes(["a", None, "Tie"])
    {'votes': ['a', 'tie']}
    """
    if values is None or values == "":
        return {}
    if not isinstance(values, Sequence) or isinstance(values, str):
        return Failure("malformed", "votes must be a list, one vote for each annotator")
    given = [value for value in values if value is not None]
    labels = [vote(value) for value in given]
    if None in labels:
        return Failure("malformed", f"a vote must be a, b, tie or a number, not {given[labels.index(None)]!r}")
    graded = {"graded_votes": given} if any(isinstance(value, int | float) for value in given) else {}
    return {"votes": labels, **graded} if labels else {}


def vote(value: Any) -> str | None:
    """One vote as "a", "b" or "tie"; None for any other value.

    >>> [vote(v) for v in ("A", "tie", -2, 0, "chosen", "maybe")]
    ['a', 'tie', 'b', 'tie', 'a', None]
    """
    if isinstance(value, int | float) and not isinstance(value, bool):
        return "a" if value > 0 else "b" if value < 0 else "tie" if value == 0 else None
    words = {"a": "a", "b": "b", "tie": "tie", "chosen": "a", "rejected": "b"}
    return words.get(value.strip().lower()) if isinstance(value, str) else None


def is_text(value: Any) -> bool:
    """Whether a value is a string that can be encoded: a lone surrogate cannot."""
    try:
        return isinstance(value, str) and value.encode() is not None
    except UnicodeEncodeError:
        return False


def count_difference(found: int, published: int, what: str = "rows") -> tuple[str, ...]:
    """A sentence where the size is not the published one.

    >>> count_difference(678, 8552), count_difference(999, 999)
    (('678 rows; the published set has 8,552',), ())
    """
    return () if found == published else (f"{found:,} {what}; the published set has {published:,}",)


def count_differences(found: Mapping[str, int], published: Mapping[str, int], what: str) -> tuple[str, ...]:
    """A sentence for each subset whose count is not the published one.

    >>> count_differences({"chat": 1, "art": 2}, {"chat": 3, "math": 4}, "pairs")
    ('chat: 1 of the published 3 pairs', 'math: none of the published 4 pairs', 'art: not in the published set')
    """
    sentences = []
    for name, expected in published.items():
        count = found.get(name, 0)
        if count > expected:
            sentences.append(f"{name}: {count} {what}, where {expected} were published")
        elif count < expected:
            sentences.append(f"{name}: {count or 'none'} of the published {expected} {what}")
    return tuple(sentences + [f"{name}: not in the published set" for name in found if name not in published])
