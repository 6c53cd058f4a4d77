"""Reads JSON lines, CSV, Parquet and Hugging Face datasets row by row; an unreadable row becomes a Failure."""

from __future__ import annotations

import codecs
import csv
import gzip
import io
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, Self

from judges.data.json_lines import MAX_DEPTH, from_line
from judges.errors import CannotRun
from judges.types import Failure

COMPRESSIONS = (".gz", ".zst")
FORMATS = (".jsonl", ".ndjson", ".csv", ".parquet")
SUPPORTED_FORMATS = ".jsonl, .csv (each also .gz or .zst), .parquet"
STANDARD_INPUT = "-"
LINE_BYTES = 64 << 20  # a longer line is a failed row; it is never held in memory


def format_of(name: str) -> tuple[str, str] | None:
    """A file's format and compression by its name; None for an unsupported name.

    >>> format_of("a.JSONL.gz"), format_of("b.parquet"), format_of("c.txt")
    (('.jsonl', '.gz'), ('.parquet', ''), None)
    """
    name = name.lower()
    compression = next((end for end in COMPRESSIONS if name.endswith(end)), "")
    form = next((end for end in FORMATS if name.removesuffix(compression).endswith(end)), None)
    return None if form is None or (form == ".parquet" and compression) else (form, compression)


def read_records(path: str) -> Iterator[dict[str, Any] | Failure]:
    """The rows of a file or of a dataset `hf:OWNER/NAME[/CONFIG][:SPLIT]`, unchanged and in order.

    Raises CannotRun for a source that cannot be read.
    """
    return iter(RecordReader(path))


class RecordReader:
    """The rows of one source, unchanged and in order; an unreadable row is a Failure.

    A source is a file of a supported format, "-" for JSON lines on standard input, a folder written by
    `Dataset.save_to_disk`, or a dataset of the Hugging Face Hub. `share` is the fraction of the source that has been
    read, 0 to 1, or None where that is unknown. `number` counts the rows read so far. Iteration raises CannotRun, with
    the number of the last row, where the source cannot be read any further.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self._size = 0
        self._raw: IO[bytes] | None = None
        self._rows: tuple[int, int] | None = None  # read so far and in total, where the format states it
        self.number = 0

    @property
    def share(self) -> float | None:
        if self._rows is not None:
            return self._rows[0] / max(1, self._rows[1])
        if self._raw is None or not self._size:
            return None
        try:
            return min(1.0, self._raw.tell() / self._size)
        except ValueError:  # closed at the end of the file
            return 1.0

    def __iter__(self) -> Iterator[dict[str, Any] | Failure]:
        self.number = 0
        try:
            for row in self._read():
                self.number += 1
                yield row
        except (OSError, EOFError, csv.Error) as error:
            message = str(error) or type(error).__name__
            raise CannotRun(f"{self.path}, after row {self.number}: cannot be read: {message}") from error

    def _read(self) -> Iterator[dict[str, Any] | Failure]:
        if self.path == STANDARD_INPUT:
            yield from _read_jsonl(sys.stdin.buffer, "standard input")
            return
        if self.path.startswith("hf:"):
            yield from _read_hub(self.path)
            return
        file = Path(self.path).expanduser()
        if (file / "state.json").is_file():
            yield from self._read_saved_dataset(file)
            return
        if not file.exists():
            raise CannotRun(f"no file {self.path!r}")
        if not file.is_file():
            raise CannotRun(f"{self.path!r} is not a file; give one of {SUPPORTED_FORMATS}")
        form = format_of(file.name)
        if form is None:
            raise CannotRun(f"{self.path!r}: unknown format; there are {SUPPORTED_FORMATS}")
        if form[0] == ".parquet":
            yield from self._read_parquet(file)
            return
        with open(file, "rb") as self._raw:
            self._size = file.stat().st_size
            stream = decompressed_stream(self._raw, form[1])
            yield from (_read_csv if form[0] == ".csv" else _read_jsonl)(stream, self.path)

    def _read_saved_dataset(self, folder: Path) -> Iterator[dict[str, Any]]:
        """Read a folder that `Dataset.save_to_disk` wrote."""
        from datasets import Dataset

        dataset = Dataset.load_from_disk(str(folder))
        for number, row in enumerate(dataset, start=1):
            self._rows = (number, len(dataset))
            yield dict(row)

    def _read_parquet(self, file: Path) -> Iterator[dict[str, Any] | Failure]:
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            with pq.ParquetFile(file) as parquet:
                count, read = parquet.metadata.num_rows, 0
                for batch in parquet.iter_batches(batch_size=256):
                    for row in _batch_rows(batch):
                        read += 1
                        self._rows = (read, count)
                        yield row
        except (pa.ArrowException, ValueError) as error:
            raise CannotRun(
                f"{file}, after row {self.number}: not a readable Parquet file: {str(error).splitlines()[0]}"
            ) from error


def _batch_rows(batch: Any) -> Iterator[dict[str, Any] | Failure]:
    """The rows of an Arrow batch. A value that Python cannot represent (the year 10000) fails only its row."""
    try:
        yield from batch.to_pylist()
    except (ValueError, OverflowError):
        for number in range(batch.num_rows):
            try:
                yield from batch.slice(number, 1).to_pylist()
            except (ValueError, OverflowError) as error:
                yield Failure("malformed", f"a value cannot be read: {error}")


def decompressed_stream(raw: IO[bytes], compression: str) -> IO[bytes]:
    """The decompressed content of a stream."""
    if compression == ".gz":
        return gzip.GzipFile(fileobj=raw)  # type: ignore[return-value]
    if compression == ".zst":
        import pyarrow as pa

        return io.BufferedReader(pa.CompressedInputStream(pa.PythonFile(raw, mode="r"), "zstd"), 1 << 16)
    return raw


def _lines(stream: IO[bytes]) -> Iterator[bytes | None]:
    """The lines of a stream; None for one of more than LINE_BYTES bytes, which is never held in memory."""
    while line := stream.readline(LINE_BYTES):
        if len(line) < LINE_BYTES or line.endswith(b"\n"):
            yield line
            continue
        while (more := stream.readline(LINE_BYTES)) and not more.endswith(b"\n"):
            pass
        yield None


def _read_jsonl(stream: IO[bytes], path: str) -> Iterator[dict[str, Any] | Failure]:
    first = True
    for line in _lines(stream):
        if line is None:
            yield Failure("malformed", f"the line is longer than {LINE_BYTES >> 20} MiB")
            continue
        if not line.strip():
            continue
        if first:
            first = False
            _check_signature(line, path)
            _check_one_object_per_line(line.removeprefix(codecs.BOM_UTF8).strip(), path)
        try:
            value = from_line(line)
        except UnicodeDecodeError as error:
            yield Failure("malformed", f"not UTF-8 at byte {error.start + 1} of the line")
            continue
        except RecursionError:
            yield Failure("malformed", f"lists and objects are nested more than {MAX_DEPTH} levels deep")
            continue
        except ValueError as error:
            yield Failure("malformed", f"not JSON: {error}")
            continue
        yield value if isinstance(value, dict) else Failure("malformed", "the line is not a JSON object")


def _check_signature(line: bytes, path: str) -> None:
    """Reject a file of another format with one error instead of one per line."""
    start = line[:2]
    if start in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE) or (b"\0" in start and start != b"\0\0"):
        raise CannotRun(f"{path}: the text is UTF-16; write it as UTF-8 (iconv -f UTF-16 -t UTF-8)")
    if line.startswith((b"\x1f\x8b", b"\x28\xb5\x2f\xfd")):
        raise CannotRun(f"{path}: the file is compressed; add .gz or .zst to its name, or decompress it first")
    if line.startswith(b"PK\x03\x04"):
        raise CannotRun(f"{path}: the file is a zip archive; unpack it first")
    if line.startswith(b"PAR1"):
        raise CannotRun(f"{path}: the file is Parquet; name it .parquet")


def _check_one_object_per_line(line: bytes, path: str) -> None:
    """Reject JSON that is not one object per line."""
    if line.startswith(b"["):
        raise CannotRun(f"{path}: the file is one JSON list; write one object per line (jq -c '.[]')")
    if line == b"{":
        raise CannotRun(f"{path}: an object spans several lines; write one object per line (jq -c .)")
    if b"}\r{" in line:
        raise CannotRun(f"{path}: its lines end in CR instead of LF; convert them (tr '\\r' '\\n')")


def _read_csv(stream: IO[bytes], path: str) -> Iterator[dict[str, Any] | Failure]:
    csv.field_size_limit(LINE_BYTES)
    text = _TextLines(stream, path)
    rows = csv.reader(text, strict=True)
    header: list[str] | None = None
    while True:
        first_line = text.number + 1
        try:
            cells = next(rows, None)
        except csv.Error as error:
            message = str(error)
            if "field larger" in message:
                message = f"a cell is longer than {LINE_BYTES >> 20} MiB"
                text.skip_cell()
            if text.ended:  # the number of rows inside the quote is unknown
                raise csv.Error(f"a quote that is opened on line {first_line} is never closed") from error
            if header is None:
                raise CannotRun(f"{path}, line {first_line}: the header cannot be read: {message}") from error
            where = f"line {first_line}" if first_line == text.number else f"lines {first_line} to {text.number}"
            yield Failure("malformed", f"{where}: {message}")
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
            yield Failure("malformed", f"line {first_line}: not UTF-8")
        else:
            yield dict(zip(header, cells, strict=True))


def _check_header(header: list[str], path: str) -> None:
    if any(_undecodable(name) for name in header):
        raise CannotRun(f"{path}: the header is not UTF-8")
    if repeated := sorted({name for name in header if header.count(name) > 1}):
        raise CannotRun(f"{path}: the header has {', '.join(map(repr, repeated))} twice; rename one")


class _TextLines:
    """The lines of a CSV file for the csv module: `number` counts them, `ended` is set after the last.

    A byte order mark is dropped. Bytes that are not UTF-8 become lone surrogates, which fail only their row, as does a
    line of more than LINE_BYTES characters, which is never held in memory.
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
            _check_signature(line.encode("utf-8", "surrogateescape"), self._path)
        if len(line) == LINE_BYTES and not line.endswith(("\n", "\r")):
            while (more := self._lines.readline(LINE_BYTES)) and not more.endswith(("\n", "\r")):
                pass
            raise csv.Error(f"it is longer than {LINE_BYTES >> 20} MiB")
        return line

    def skip_cell(self) -> None:
        """Skip the rest of a quoted cell, up to the end of the line that closes it."""
        while line := self._lines.readline(LINE_BYTES):
            self.number += 1
            if '"' in line.replace('""', ""):
                return
        self.ended = True


def _undecodable(text: str) -> bool:
    return not text.isascii() and any("\udc80" <= c <= "\udcff" for c in text)


def _read_hub(path: str) -> Iterator[dict[str, Any]]:
    """Stream `hf:OWNER/NAME`, `hf:OWNER/NAME:SPLIT` or `hf:OWNER/NAME/CONFIG:SPLIT`."""
    name, _, split = path.removeprefix("hf:").partition(":")
    owner, _, rest = name.partition("/")
    dataset, _, config = rest.partition("/")
    from datasets import load_dataset

    try:
        rows = load_dataset(f"{owner}/{dataset}", config or None, split=split or "train", streaming=True)
        for row in rows:
            yield dict(row)
    except (OSError, ValueError) as error:  # the errors of datasets and of the Hub are subclasses of these
        raise CannotRun(f"{path}: cannot be loaded: {str(error).splitlines()[0]}") from error
