"""Records to rows: numbers, unique ids, Items. A bad row is a row with a Failure; the others go on."""

from __future__ import annotations

import sqlite3
from collections.abc import Container, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any

from judges.data.items import FIELDS, NO_RESPONSE, read_fields
from judges.data.readers import Records, format_of, records
from judges.data.row_set import RowSet
from judges.engines.policy import Prompt
from judges.errors import CannotRun
from judges.types import Failure, Item

BEGINNINGS = ("prompt", "messages", "chosen")  # where a row's prompt can stand
_RECENT = 1 << 14  # hashes of ids that are filed at a time
_FILTER_BYTES = 4 << 20
_FILTER_MASK = 8 * _FILTER_BYTES - 1


@dataclass(frozen=True, slots=True)
class Row:
    """One row of a file: its number (1 is the first), its columns, its unique id, and its Item or why not.

    A row that lacks nothing but a response is also a `prompt`, for a policy to answer.
    """

    number: int
    columns: dict[str, Any]
    id: str
    item: Item | Failure
    prompt: Prompt | None = None


def read_rows(
    source: str | Records,
    mapping: Mapping[str, str] | None = None,
    skip: Container[int] = (),
    stop: int | None = None,
    prefix: str = "",
) -> Iterator[Row]:
    """The rows of a file, in order, one at a time. Raises CannotRun for a file that cannot be read.

    `mapping` says which column holds a field: {"response": "answer"}. Ids are made unique: a missing one is
    the row's number (behind `prefix`), a repeated one gets the number as a suffix. The numbers in `skip` and those
    behind `stop` are left out; ids are those of a reading of all.
    """
    path = source.path if isinstance(source, Records) else source
    for field in mapping or {}:
        if field not in FIELDS:
            raise CannotRun(f"--map {field}=…: unknown field; there are {', '.join(FIELDS)}")
    form = format_of(path)
    table = form is not None and form[0] in (".csv", ".parquet")  # one row's columns are all rows'
    ids = _Ids(prefix)
    given_rows = source if isinstance(source, Records) else records(source)
    for number, columns in enumerate(islice(given_rows, stop), start=1):
        if isinstance(columns, Failure):
            name = ids.given(number)
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
            if not any(field in fields for field in BEGINNINGS):
                raise CannotRun(
                    f"{path}, row {number}: no column {', '.join(BEGINNINGS[:-1])} or {BEGINNINGS[-1]} among"
                    f" {', '.join(map(repr, columns))}: {_what_to_do(columns)}"
                )
        given = fields.get("id")
        name = ids.given(number) if given is None or given == "" else ids.taken(str(given), number)
        if number in skip:
            continue
        read = read_fields(name, fields)
        if isinstance(read, Prompt):
            yield Row(number, columns, name, NO_RESPONSE, read)
        else:
            yield Row(number, columns, name, read)


def _what_to_do(columns: Mapping[str, Any]) -> str:
    only = next(iter(columns)) if len(columns) == 1 else ""
    if between := next((sign for sign in ";\t|" if sign in only), ""):
        return f"its columns stand between {between!r}, and CSV has commas; write it with those"
    return "say which it is with --map prompt=COLUMN"


class _Ids:
    """Unique ids, in bounded memory: hashes of those that stood before lie in a temporary file of SQLite's.

    A filter of fixed size (Bloom's, two bits an id) tells most new ids without asking the file, and hashes are
    filed many at a time.
    """

    def __init__(self, prefix: str) -> None:
        self._ours = f"{prefix}row-"
        self._given = RowSet()  # rows that have no id of their own
        self._imitated = False  # an id in the file is of the form of ours
        self._recent: set[int] = set()
        self._filter = bytearray(_FILTER_BYTES)
        # A generator may be closed on another thread than it ran on.
        self._db = sqlite3.connect("", isolation_level=None, check_same_thread=False).cursor()
        self._db.executescript("PRAGMA journal_mode=OFF; PRAGMA cache_size=-1000")
        self._db.executescript("CREATE TABLE ids (hash INTEGER PRIMARY KEY); BEGIN")

    def given(self, number: int) -> str:
        """An id for a row that has none: its number."""
        name = f"{self._ours}{number}"
        if self._imitated:
            return self.taken(name, number)
        self._given.add(number)
        return name

    def taken(self, name: str, number: int) -> str:
        """A row's own id, with its number behind it where another row has the same."""
        while not self._is_new(name):
            name = f"{name}#{number}"
        return name

    def _is_new(self, name: str) -> bool:
        if name.startswith(self._ours):
            self._imitated = True
            rest = name.removeprefix(self._ours)
            if rest.isdecimal() and len(rest) < 16 and rest == str(int(rest)) and int(rest) in self._given:
                return False
        key = hash(name)
        if key in self._recent:
            return False
        first, second = key & _FILTER_MASK, key >> 32 & _FILTER_MASK
        bits, there = self._filter, 1 << (first & 7)
        also = 1 << (second & 7)
        first, second = first >> 3, second >> 3
        if bits[first] & there and bits[second] & also and self._is_filed(key):
            return False
        bits[first] |= there
        bits[second] |= also
        self._recent.add(key)
        if len(self._recent) == _RECENT:
            self._db.executemany("INSERT INTO ids VALUES (?)", ((one,) for one in sorted(self._recent)))
            self._recent.clear()
        return True

    def _is_filed(self, key: int) -> bool:
        return self._db.execute("SELECT 1 FROM ids WHERE hash = ?", (key,)).fetchone() is not None
