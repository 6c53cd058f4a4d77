"""The rows of a benchmark, checked. A row of the wrong shape stops the run: a benchmark with holes is another one."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from judges.data.items import to_item
from judges.data.readers import records
from judges.errors import CannotRun
from judges.types import Failure, Gold, Item

Fields = Mapping[str, Any]
ToItem = Callable[[str, Fields], Item | Failure]
Place = tuple[str, int]  # a source and the number of a row
POSITIONS = {"a": 0, "b": 1}
PROMPTS = ("prompt", "question", "input")  # the columns that are never empty
_GOLD = ("chosen", "rejected", "response", "response_a", "response_b", "scores", "ranking", "votes")


def numbered(source: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """The rows of a file or hub dataset with their numbers, 1 the first; a `.json` file is one list of rows.

    Raises CannotRun for a file that cannot be read, a row that is none, and a file without rows.
    """
    number = 0
    for number, row in enumerate(_listed(source) if source.endswith(".json") else records(source), start=1):
        if isinstance(row, Failure):
            raise wrong(source, number, row.message)
        yield number, row
    if not number:
        raise CannotRun(f"{source}: the file has no rows")


def _listed(source: str) -> Iterator[dict[str, Any] | Failure]:
    try:
        rows = json.loads(Path(source).expanduser().read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CannotRun(f"{source}: cannot be read: {error}") from error
    if not isinstance(rows, list):
        raise CannotRun(f"{source}: a .json benchmark is one list of rows; one row a line is .jsonl")
    for row in rows:
        yield row if isinstance(row, dict) else Failure("malformed", "the row is not a JSON object")


def wrong(source: str, number: int, what: str) -> CannotRun:
    """The error for a row of the wrong shape."""
    return CannotRun(f"{source}, row {number}: {what}")


def read_items(source: str, to_one: ToItem) -> tuple[Item, ...]:
    """Every row as an Item with gold, ids unique: a missing one is the row's number, a repeated one gets it added.

    Raises CannotRun with source and row number for a row that `to_one` cannot read.
    """
    items: list[Item] = []
    seen: set[str] = set()
    for number, fields in numbered(source):
        read = to_one(unique(fields.get("id"), number, seen), fields)
        if isinstance(read, Failure):
            raise wrong(source, number, read.message)
        items.append(read)
    return tuple(items)


def unique(given: Any, number: int, seen: set[str]) -> str:
    """An id that `seen` does not hold yet; it does afterwards.

    >>> seen = set()
    >>> unique("a", 1, seen), unique("a", 2, seen), unique(None, 3, seen)
    ('a', 'a#2', 'row-3')
    """
    name = str(given) if given not in (None, "") else f"row-{number}"
    while name in seen:
        name = f"{name}#{number}"
    seen.add(name)
    return name


def make(name: str, fields: Fields, responses: Any, gold: Gold, meta: Mapping[str, Any]) -> Item | Failure:
    """An Item of `responses`, with what the row says beside them: prompt, system, reference, rubric, subset.

    A row's `group` (rows of one context) becomes `meta["prompt"]`, so that they are drawn together.
    """
    rest = {key: value for key, value in fields.items() if key not in _GOLD}
    read = to_item(name, {**rest, "responses": responses})
    if isinstance(read, Failure):
        return read
    return with_gold(read, gold, {**group(fields), **meta})


def with_gold(item: Item, gold: Gold, meta: Mapping[str, Any], comparisons: Any = None) -> Item:
    """The Item with its gold, `meta` added to its own, and the comparisons that matter."""
    return Item(
        id=item.id,
        prompt=item.prompt,
        responses=item.responses,
        system=item.system,
        reference=item.reference,
        rubric=item.rubric,
        subset=item.subset,
        meta={**item.meta, **meta},
        comparisons=comparisons,
        gold=gold,
    )


def group(fields: Fields) -> dict[str, Any]:
    """`meta["prompt"]` where the row names its `group`."""
    return {"prompt": str(fields["group"])} if fields.get("group") not in (None, "") else {}


def authors(fields: Fields, first: str, second: str) -> dict[str, Any]:
    """`meta["authors"]`, the models that wrote the two responses, where both columns are filled."""
    both = [fields.get(first), fields.get(second)]
    return {"authors": both} if all(isinstance(name, str) and name for name in both) else {}


def votes(values: Any) -> dict[str, Any] | Failure:
    """`meta["votes"]`: "a", "b" or "tie" of each annotator who voted.

    A number is a graded vote, above 0 for a; graded votes also stay as they are, in `meta["graded_votes"]`.

    >>> votes([2, 0, -1])
    {'votes': ['a', 'tie', 'b'], 'graded_votes': [2, 0, -1]}
    >>> votes(["a", None, "Tie"])
    {'votes': ['a', 'tie']}
    """
    if values is None or values == "":
        return {}
    if not isinstance(values, Sequence) or isinstance(values, str):
        return Failure("malformed", "votes is a list, one vote for each annotator")
    given = [value for value in values if value is not None]
    read = [vote(value) for value in given]
    if None in read:
        return Failure("malformed", f"a vote is a, b, tie or a number, not {given[read.index(None)]!r}")
    graded = {"graded_votes": given} if any(isinstance(value, int | float) for value in given) else {}
    return {"votes": read, **graded} if read else {}


def vote(value: Any) -> str | None:
    """One vote as "a", "b" or "tie"; None where it is none of them.

    >>> [vote(v) for v in ("A", "tie", -2, 0, "chosen", "maybe")]
    ['a', 'tie', 'b', 'tie', 'a', None]
    """
    if isinstance(value, int | float) and not isinstance(value, bool):
        return "a" if value > 0 else "b" if value < 0 else "tie" if value == 0 else None
    words = {"a": "a", "b": "b", "tie": "tie", "chosen": "a", "rejected": "b"}
    return words.get(value.strip().lower()) if isinstance(value, str) else None


def count_differs(found: int, published: int, what: str = "rows") -> tuple[str, ...]:
    """How the size differs from the published one, in a sentence; nothing where it does not.

    >>> count_differs(678, 8552), count_differs(999, 999)
    (('678 rows; the published set has 8,552',), ())
    """
    return () if found == published else (f"{found:,} {what}; the published set has {published:,}",)


def text_of(columns: Mapping[str, Any], column: str, where: Place, wanted: str) -> str:
    """A column's text; only a response may be empty. Raises CannotRun where it is not text."""
    value = columns.get(column)
    if isinstance(value, str) and is_text(value) and (value.strip() or column not in PROMPTS):
        return value
    what = "missing" if value is None else "empty" if is_text(value) else "not text"
    raise wrong(*where, f"{column} is {what}; {wanted}")


def is_text(value: Any) -> bool:
    """Whether a value is a string that can be written: half of a surrogate pair cannot."""
    try:
        return isinstance(value, str) and value.encode() is not None
    except UnicodeEncodeError:
        return False


def choice_of(columns: Mapping[str, Any], column: str, choices: Mapping[Any, int], where: Place, wanted: str) -> int:
    """What a column's value stands for. Raises CannotRun for another value."""
    value = columns.get(column)
    found = choices.get(value) if isinstance(value, str | int) else None
    if found is None:
        raise wrong(*where, f"{column} is {value!r}; {wanted}")
    return found


def in_given_order(columns: Mapping[str, Any], where: Place, wanted: str) -> tuple[tuple[str, str], int]:
    """The two sides of a chosen/rejected row in the order in which they were published, and the right one's place."""
    right = choice_of(columns, "original_winner_position", POSITIONS, where, wanted)
    chosen, rejected = (text_of(columns, side, where, wanted) for side in ("chosen", "rejected"))
    return ((chosen, rejected), 0) if right == 0 else ((rejected, chosen), 1)


def differences(found: Mapping[str, int], published: Mapping[str, int], what: str) -> tuple[str, ...]:
    """In sentences, where counts are not the published ones.

    >>> differences({"chat": 1, "art": 2}, {"chat": 3, "math": 4}, "pairs")
    ('chat: 1 of the published 3 pairs', 'math: none of the published 4 pairs', 'art: not in the published set')
    """
    told = []
    for name, count in published.items():
        here = found.get(name, 0)
        if here > count:
            told.append(f"{name}: {here} {what}, where {count} were published")
        elif here < count:
            told.append(f"{name}: {here or 'none'} of the published {count} {what}")
    return tuple(told + [f"{name}: not in the published set" for name in found if name not in published])
