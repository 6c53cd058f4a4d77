"""Files to records, one at a time. A bad one is a Failure; the others go on."""

from __future__ import annotations

import codecs
import csv
import gzip
import io
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, Self

from judges.data.json_lines import DEPTH, from_line
from judges.errors import CannotRun
from judges.types import Failure

PACKED = (".gz", ".zst")
FORMATS = (".jsonl", ".ndjson", ".csv", ".parquet")
SHOWN = ".jsonl, .csv (each also .gz or .zst), .parquet"
STANDARD_INPUT = "-"
LINE_BYTES = 64 << 20  # a longer line is a failed row, not that much memory


def format_of(name: str) -> tuple[str, str] | None:
    """A file's format and packing by its name; None for one that is not read.

    >>> format_of("a.JSONL.gz"), format_of("b.parquet"), format_of("c.txt")
    (('.jsonl', '.gz'), ('.parquet', ''), None)
    """
    name = name.lower()
    packing = next((end for end in PACKED if name.endswith(end)), "")
    form = next((end for end in FORMATS if name.removesuffix(packing).endswith(end)), None)
    return None if form is None or (form == ".parquet" and packing) else (form, packing)


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
