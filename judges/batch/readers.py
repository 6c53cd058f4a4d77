"""Files to rows, one at a time. A bad row is a row with a Failure; the others go on."""

from __future__ import annotations

import codecs
import csv
import gzip
import io
import sqlite3
import sys
from collections.abc import Container, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import IO, Any, Self

from judges.batch.items import FIELDS, NO_RESPONSE, read_fields
from judges.batch.numbers import Numbers
from judges.candidates import Prompt
from judges.errors import CannotRun
from judges.json_lines import DEPTH, from_line
from judges.types import Failure, Item

PACKED = (".gz", ".zst")
FORMATS = (".jsonl", ".ndjson", ".csv", ".parquet")
SHOWN = ".jsonl, .csv (each also .gz or .zst), .parquet"
STANDARD_INPUT = "-"
BEGINNINGS = ("prompt", "messages", "chosen")  # where a row's prompt can stand
_RECENT = 1 << 14  # hashes of ids that are filed at a time
_FILTER_BYTES = 4 << 20
_FILTER_MASK = 8 * _FILTER_BYTES - 1
LINE_BYTES = 64 << 20  # a longer line is a failed row, not that much memory


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


def format_of(name: str) -> tuple[str, str] | None:
    """A file's format and packing by its name; None for one that is not read.

    >>> format_of("a.JSONL.gz"), format_of("b.parquet"), format_of("c.txt")
    (('.jsonl', '.gz'), ('.parquet', ''), None)
    """
    name = name.lower()
    packing = next((end for end in PACKED if name.endswith(end)), "")
    form = next((end for end in FORMATS if name.removesuffix(packing).endswith(end)), None)
    return None if form is None or (form == ".parquet" and packing) else (form, packing)


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
        self._given = Numbers()  # rows that have no id of their own
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


def records(path: str) -> Iterator[dict[str, Any] | Failure]:
    """The rows of a file or of a dataset `hf:OWNER/NAME[/CONFIG][:SPLIT]` as they are, in order. Raises CannotRun."""
    return iter(Records(path))


class Records:
    """The rows of one source as they are, in order; a bad one is a Failure. Raises CannotRun, with the row.

    A source is a file of a known format, "-" for JSON lines on standard input, a folder that `datasets` saved, or
    a dataset of the hub. `share` tells how much of it has been read, from 0 to 1, where that is known.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self._size = 0
        self._raw: IO[bytes] | None = None
        self._rows: tuple[int, int] | None = None  # read and in all, where a format says so
        self.number = 0

    @property
    def share(self) -> float | None:
        if self._rows is not None:
            return self._rows[0] / max(1, self._rows[1])
        if self._raw is None or not self._size:
            return None
        try:
            return min(1.0, self._raw.tell() / self._size)
        except ValueError:  # closed: read to its end
            return 1.0

    def __iter__(self) -> Iterator[dict[str, Any] | Failure]:
        self.number = 0
        try:
            for row in self._read():
                self.number += 1
                yield row
        except (OSError, EOFError, csv.Error) as error:
            said = str(error) or type(error).__name__
            raise CannotRun(f"{self.path}, after row {self.number}: cannot be read: {said}") from error

    def _read(self) -> Iterator[dict[str, Any] | Failure]:
        if self.path == STANDARD_INPUT:
            yield from _jsonl(sys.stdin.buffer, "standard input")
            return
        if self.path.startswith("hf:"):
            yield from _hub(self.path)
            return
        file = Path(self.path).expanduser()
        if (file / "state.json").is_file():
            yield from self._saved_dataset(file)
            return
        if not file.exists():
            raise CannotRun(f"no file {self.path!r}")
        if not file.is_file():
            raise CannotRun(f"{self.path!r} is not a file; give one of {SHOWN}")
        form = format_of(file.name)
        if form is None:
            raise CannotRun(f"{self.path!r}: unknown format; there are {SHOWN}")
        if form[0] == ".parquet":
            yield from self._parquet(file)
            return
        with open(file, "rb") as self._raw:
            self._size = file.stat().st_size
            stream = unpacked(self._raw, form[1])
            yield from (_csv if form[0] == ".csv" else _jsonl)(stream, self.path)

    def _saved_dataset(self, folder: Path) -> Iterator[dict[str, Any]]:
        """A folder that `datasets` wrote with save_to_disk."""
        from datasets import Dataset

        dataset = Dataset.load_from_disk(str(folder))
        for number, row in enumerate(dataset, start=1):
            self._rows = (number, len(dataset))
            yield dict(row)

    def _parquet(self, file: Path) -> Iterator[dict[str, Any] | Failure]:
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            with pq.ParquetFile(file) as parquet:
                count, read = parquet.metadata.num_rows, 0
                for batch in parquet.iter_batches(batch_size=256):
                    for row in _rows_of(batch):
                        read += 1
                        self._rows = (read, count)
                        yield row
        except (pa.ArrowException, ValueError) as error:
            raise CannotRun(
                f"{file}, after row {self.number}: not a readable Parquet file: {str(error).splitlines()[0]}"
            ) from error


def _rows_of(batch: Any) -> Iterator[dict[str, Any] | Failure]:
    """The rows of a batch of Arrow. A value that Python has none for (the year 10000) fails its row alone."""
    try:
        yield from batch.to_pylist()
    except (ValueError, OverflowError):
        for number in range(batch.num_rows):
            try:
                yield from batch.slice(number, 1).to_pylist()
            except (ValueError, OverflowError) as error:
                yield Failure("malformed", f"a value cannot be read: {error}")


def unpacked(raw: IO[bytes], packing: str) -> IO[bytes]:
    """A stream of what a packed one holds."""
    if packing == ".gz":
        return gzip.GzipFile(fileobj=raw)  # type: ignore[return-value]
    if packing == ".zst":
        import pyarrow as pa

        return io.BufferedReader(pa.CompressedInputStream(pa.PythonFile(raw, mode="r"), "zstd"), 1 << 16)
    return raw


def _lines(stream: IO[bytes]) -> Iterator[bytes | None]:
    """Lines; None for one of over LINE_BYTES bytes, which is never held whole."""
    while line := stream.readline(LINE_BYTES):
        if len(line) < LINE_BYTES or line.endswith(b"\n"):
            yield line
            continue
        while (more := stream.readline(LINE_BYTES)) and not more.endswith(b"\n"):
            pass
        yield None


def _jsonl(stream: IO[bytes], path: str) -> Iterator[dict[str, Any] | Failure]:
    first = True
    for line in _lines(stream):
        if line is None:
            yield Failure("malformed", f"the line is longer than {LINE_BYTES >> 20} MiB")
            continue
        if not line.strip():
            continue
        if first:
            first = False
            _check_beginning(line, path)
            _check_lines(line.removeprefix(codecs.BOM_UTF8).strip(), path)
        try:
            value = from_line(line)
        except UnicodeDecodeError as error:
            yield Failure("malformed", f"not UTF-8 at byte {error.start + 1} of the line")
            continue
        except RecursionError:
            yield Failure("malformed", f"lists and objects lie more than {DEPTH} deep in each other")
            continue
        except ValueError as error:
            yield Failure("malformed", f"not JSON: {error}")
            continue
        yield value if isinstance(value, dict) else Failure("malformed", "the line is not a JSON object")


def _check_beginning(line: bytes, path: str) -> None:
    """Files that are something else as a whole: one error, not one for each line."""
    begin = line[:2]
    if begin in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE) or (b"\0" in begin and begin != b"\0\0"):
        raise CannotRun(f"{path}: the text is UTF-16; write it as UTF-8 (iconv -f UTF-16 -t UTF-8)")
    if line.startswith((b"\x1f\x8b", b"\x28\xb5\x2f\xfd")):
        raise CannotRun(f"{path}: the file is packed; put .gz or .zst behind its name, or unpack it first")
    if line.startswith(b"PK\x03\x04"):
        raise CannotRun(f"{path}: the file is a zip archive; unpack it first")
    if line.startswith(b"PAR1"):
        raise CannotRun(f"{path}: the file is Parquet; name it .parquet")


def _check_lines(line: bytes, path: str) -> None:
    """JSON that is not one object a line."""
    if line.startswith(b"["):
        raise CannotRun(f"{path}: the file is one JSON list; write one object a line (jq -c '.[]')")
    if line == b"{":
        raise CannotRun(f"{path}: an object goes over several lines; write one object a line (jq -c .)")
    if b"}\r{" in line:
        raise CannotRun(f"{path}: its lines end in CR alone; write them with LF (tr '\\r' '\\n')")


def _csv(stream: IO[bytes], path: str) -> Iterator[dict[str, Any] | Failure]:
    csv.field_size_limit(LINE_BYTES)
    text = _Text(stream, path)
    rows = csv.reader(text, strict=True)
    header: list[str] | None = None
    while True:
        begin = text.number + 1
        try:
            cells = next(rows, None)
        except csv.Error as error:
            told = str(error)
            if "field larger" in told:
                told = f"a cell is longer than {LINE_BYTES >> 20} MiB"
                text.leave_cell()
            if text.ended:  # how many rows it holds nobody knows
                raise csv.Error(f"a quote that is opened on line {begin} is never closed") from error
            if header is None:
                raise CannotRun(f"{path}, line {begin}: the header cannot be read: {told}") from error
            where = f"line {begin}" if begin == text.number else f"lines {begin} to {text.number}"
            yield Failure("malformed", f"{where}: {told}")
            continue
        if cells is None:
            return
        if not cells:
            continue
        if header is None:
            header = cells
            _check_header(header, path)
        elif len(cells) != len(header):
            yield Failure("malformed", f"{len(cells)} columns where the header has {len(header)}")
        elif any(_undecodable(cell) for cell in cells):
            yield Failure("malformed", f"line {begin}: not UTF-8")
        else:
            yield dict(zip(header, cells, strict=True))


def _check_header(header: list[str], path: str) -> None:
    if any(_undecodable(name) for name in header):
        raise CannotRun(f"{path}: the header is not UTF-8")
    if twice := sorted({name for name in header if header.count(name) > 1}):
        raise CannotRun(f"{path}: the header has {', '.join(map(repr, twice))} twice; rename one")


class _Text:
    """Lines of text for the csv module: `number` of them so far, whether they have `ended`.

    A mark at the beginning is no part of the first name. What is not UTF-8 becomes halves of surrogate pairs, which
    fail their row alone; so does a line of over LINE_BYTES characters, which is never held whole.
    """

    def __init__(self, stream: IO[bytes], path: str) -> None:
        self._lines = io.TextIOWrapper(stream, encoding="utf-8-sig", errors="surrogateescape", newline="")
        self._path = path
        self.number, self.ended = 0, False

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> str:
        line = self._lines.readline(LINE_BYTES)
        if not line:
            self.ended = True
            raise StopIteration
        self.number += 1
        if self.number == 1:
            _check_beginning(line.encode("utf-8", "surrogateescape"), self._path)
        if len(line) == LINE_BYTES and not line.endswith(("\n", "\r")):
            while (more := self._lines.readline(LINE_BYTES)) and not more.endswith(("\n", "\r")):
                pass
            raise csv.Error(f"it is longer than {LINE_BYTES >> 20} MiB")
        return line

    def leave_cell(self) -> None:
        """Read over the rest of a cell in quotes, to the end of the line that closes it."""
        while line := self._lines.readline(LINE_BYTES):
            self.number += 1
            if '"' in line.replace('""', ""):
                return
        self.ended = True


def _undecodable(text: str) -> bool:
    return not text.isascii() and any("\udc80" <= c <= "\udcff" for c in text)


def _hub(path: str) -> Iterator[dict[str, Any]]:
    """`hf:OWNER/NAME`, `hf:OWNER/NAME:SPLIT` or `hf:OWNER/NAME/CONFIG:SPLIT`, streamed."""
    name, _, split = path.removeprefix("hf:").partition(":")
    owner, _, rest = name.partition("/")
    dataset, _, config = rest.partition("/")
    from datasets import load_dataset

    try:
        rows = load_dataset(f"{owner}/{dataset}", config or None, split=split or "train", streaming=True)
        for row in rows:
            yield dict(row)
    except (OSError, ValueError) as error:  # datasets' own errors and the hub's are both
        raise CannotRun(f"{path}: cannot be loaded: {str(error).splitlines()[0]}") from error
