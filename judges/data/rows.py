"""Rows with numbers, unique ids and Items; a row that is not an Item has a Failure, and reading goes on."""

from __future__ import annotations

import sqlite3
from collections.abc import Container, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any

from judges.data.items import FIELDS, NO_RESPONSE, to_item_or_prompt
from judges.data.readers import RecordReader, format_of, read_records
from judges.data.row_set import RowSet
from judges.engines.policy import Prompt
from judges.errors import CannotRun
from judges.plugins import unknown_name
from judges.types import Failure, Item

PROMPT_FIELDS = ("prompt", "messages", "chosen")  # fields that can hold a row's prompt
_RECENT_IDS = 1 << 14  # hashes of ids that are stored in one batch
_FILTER_BYTES = 4 << 20
_FILTER_MASK = 8 * _FILTER_BYTES - 1


@dataclass(frozen=True, slots=True)
class Row:
    """One row of a file: its number (1 is the first), its columns, its unique id, and its Item or a Failure.

    A row that lacks only a response also has a `prompt`, for which a policy can sample candidates.
    """

    number: int
    columns: dict[str, Any]
    id: str
    item: Item | Failure
    prompt: Prompt | None = None


def read_rows(
    source: str | RecordReader,
    mapping: Mapping[str, str] | None = None,
    skip: Container[int] = (),
    stop: int | None = None,
    prefix: str = "",
) -> Iterator[Row]:
    """The rows of a file, in order, one at a time.

    `mapping` names the column of a field: {"response": "answer"}. Ids are made unique: a row without an id gets
    `prefix` and its number, a repeated id gets the number as a suffix. Rows whose number is in `skip` or above `stop`
    are left out; they do not change the ids of the others. Raises CannotRun for a file that cannot be read, an
    unknown field, or a missing column.
    """
    path = source.path if isinstance(source, RecordReader) else source
    for field in mapping or {}:
        if field not in FIELDS:
            raise CannotRun(unknown_name("--map: unknown field", field, FIELDS))
    form = format_of(path)
    table = form is not None and form[0] in (".csv", ".parquet")  # all rows have the same columns
    ids = _UniqueIds(prefix)
    records = source if isinstance(source, RecordReader) else read_records(source)
    for number, columns in enumerate(islice(records, stop), start=1):
        if isinstance(columns, Failure):
            name = ids.from_number(number)
            if number not in skip:
                yield Row(number, {}, name, columns)
            continue
        fields = columns
        if mapping:
            fields = dict(columns)
            for field, column in mapping.items():
                if column not in columns and number == 1:
                    raise CannotRun(f"{path}, row {number}: no column {column!r} (--map {field}={column})")
                fields[field] = columns.get(column)
        if table:
            table = False
            if not any(field in fields for field in PROMPT_FIELDS):
                raise CannotRun(
                    f"{path}, row {number}: no column {', '.join(PROMPT_FIELDS[:-1])} or {PROMPT_FIELDS[-1]} among"
                    f" {', '.join(map(repr, columns))}: {_suggest_fix(columns)}"
                )
        input_id = fields.get("id")
        name = ids.from_number(number) if input_id in (None, "") else ids.deduplicate(str(input_id), number)
        if number in skip:
            continue
        parsed = to_item_or_prompt(name, fields)
        if isinstance(parsed, Prompt):
            yield Row(number, columns, name, NO_RESPONSE, parsed)
        else:
            yield Row(number, columns, name, parsed)


def _suggest_fix(columns: Mapping[str, Any]) -> str:
    only = next(iter(columns)) if len(columns) == 1 else ""
    if separator := next((sign for sign in ";\t|" if sign in only), ""):
        return f"its columns are separated by {separator!r}; write the file with commas"
    return "name the prompt's column with --map prompt=COLUMN"


class _UniqueIds:
    """Makes ids unique in bounded memory: hashes of all earlier ids are in a temporary SQLite database.

    A Bloom filter of fixed size, with two bits per id, recognises most new ids without a query. Hashes are inserted in
    batches.
    """

    def __init__(self, prefix: str) -> None:
        self._number_prefix = f"{prefix}row-"
        self._numbered = RowSet()  # rows without an id in the file
        self._prefix_in_file = False  # an id in the file begins like the ids of numbered rows
        self._recent: set[int] = set()
        self._filter = bytearray(_FILTER_BYTES)
        # A generator may be closed on another thread than the one it ran on.
        self._db = sqlite3.connect("", isolation_level=None, check_same_thread=False).cursor()
        self._db.executescript("PRAGMA journal_mode=OFF; PRAGMA cache_size=-1000")
        self._db.executescript("CREATE TABLE ids (hash INTEGER PRIMARY KEY); BEGIN")

    def from_number(self, number: int) -> str:
        """The id of a row that has none: the prefix and its number."""
        name = f"{self._number_prefix}{number}"
        if self._prefix_in_file:
            return self.deduplicate(name, number)
        self._numbered.add(number)
        return name

    def deduplicate(self, name: str, number: int) -> str:
        """A row's own id, with its number as a suffix where an earlier row has the same id."""
        while not self._is_new(name):
            name = f"{name}#{number}"
        return name

    def _is_new(self, name: str) -> bool:
        if name.startswith(self._number_prefix):
            self._prefix_in_file = True
            rest = name.removeprefix(self._number_prefix)
            if rest.isdecimal() and len(rest) < 16 and rest == str(int(rest)) and int(rest) in self._numbered:
                return False
        key = hash(name)
        if key in self._recent:
            return False
        first, second = key & _FILTER_MASK, key >> 32 & _FILTER_MASK
        bits = self._filter
        first_bit, second_bit = 1 << (first & 7), 1 << (second & 7)
        first, second = first >> 3, second >> 3
        if bits[first] & first_bit and bits[second] & second_bit and self._is_stored(key):
            return False
        bits[first] |= first_bit
        bits[second] |= second_bit
        self._recent.add(key)
        if len(self._recent) == _RECENT_IDS:
            self._db.executemany("INSERT INTO ids VALUES (?)", ((recent,) for recent in sorted(self._recent)))
            self._recent.clear()
        return True

    def _is_stored(self, key: int) -> bool:
        return self._db.execute("SELECT 1 FROM ids WHERE hash = ?", (key,)).fetchone() is not None
