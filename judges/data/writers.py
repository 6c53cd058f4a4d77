"""Writes output rows as JSON lines, CSV or Parquet, each optionally compressed, with one atomic rename."""

from __future__ import annotations

import csv
import gzip
import io
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import IO, Any

from judges.data.json_lines import from_line, to_text
from judges.data.output_row import OUTPUT_COLUMNS
from judges.data.parquet import write_parquet
from judges.data.readers import format_of


def write_rows(lines: Callable[[], Iterable[bytes]], target: Path, like: Path | None = None) -> None:
    """Write rows to a file in the format that its name says. An interrupted call leaves no partial file.

    `lines` returns the rows as lines of JSON; it may be called more than once. Columns of a Parquet input (`like`)
    keep their types in a Parquet output.
    """
    form = format_of(target.name)
    assert form is not None
    part = target.with_name(f".{target.name}.part")
    try:
        with open(part, "wb") as raw:
            if form[0] == ".parquet":
                write_parquet(lines, raw, like)
            else:
                with _compressed_stream(raw, form[1]) as out:
                    if form[0] == ".csv":
                        _write_csv(lines, out)
                    else:
                        for line in lines():
                            out.write(line)
            raw.flush()
            os.fsync(raw.fileno())
    except BaseException:  # frees the space where the disk is full
        part.unlink(missing_ok=True)
        raise
    part.replace(target)


def _compressed_stream(raw: IO[bytes], compression: str) -> Any:
    """A stream that compresses into `raw`; closing it leaves `raw` open."""
    if compression == ".gz":
        return gzip.GzipFile(filename="", fileobj=raw, mode="wb", mtime=0)
    if compression == ".zst":
        import pyarrow as pa

        return pa.CompressedOutputStream(pa.PythonFile(_Unclosed(raw), mode="w"), "zstd")
    return _Unclosed(raw)


class _Unclosed:
    """A stream whose `close` does nothing."""

    closed = False

    def __init__(self, raw: IO[bytes]) -> None:
        self.write, self.flush = raw.write, raw.flush

    def close(self) -> None:
        pass

    def __enter__(self) -> _Unclosed:
        return self

    def __exit__(self, *_: object) -> None:
        pass


def _columns(lines: Iterable[bytes]) -> list[str]:
    """The columns of all rows in order of first appearance, those that scoring adds last."""
    names: dict[str, None] = {}
    for line in lines:
        names.update(dict.fromkeys(from_line(line)))
    return sorted(names, key=OUTPUT_COLUMNS.__contains__)


def _write_csv(lines: Callable[[], Iterable[bytes]], out: Any) -> None:
    """Write rows as CSV: lists and objects are JSON in their cells, null is an empty cell."""
    names = _columns(lines())
    text = io.StringIO(newline="")
    rows = csv.writer(text)
    rows.writerow(names)
    for line in lines():
        columns = from_line(line)
        rows.writerow([_cell(columns.get(name)) for name in names])
        out.write(text.getvalue().encode("utf-8", "backslashreplace"))
        text.seek(0)
        text.truncate()
    out.write(text.getvalue().encode())


def _cell(value: Any) -> Any:
    if value is None:
        return ""
    if isinstance(value, dict | list | bool):
        return to_text(value)
    return value
