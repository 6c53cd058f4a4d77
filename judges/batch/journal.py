"""The journal of a run: finished rows as lines on disk, from which the next run of the same command resumes."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from judges.data.json_lines import from_line, to_line
from judges.data.output_row import written_failure_reason
from judges.data.row_set import RowSet
from judges.errors import CannotRun

FLUSH_SECONDS = 0.05  # longest time until a finished row is written; there may be ten thousand rows per second
FLUSH_BYTES = 1 << 15
SYNC_SECONDS = 2.0  # a power failure loses at most the rows of this time, whose completions are in the store


class Journal:
    """An append-only file of scored rows, one line each. A killed process leaves at most one incomplete last line.

    Opening the journal reads existing rows: `done` has their numbers, and `failures` counts the failed rows by reason.
    An incomplete last line is cut off. With `retry`, failed rows are removed from the file. `added` counts the rows
    that this process has written. Raises CannotRun for a file that is not a journal.
    """

    def __init__(self, path: Path, keep_nan: bool = False, retry: bool = False) -> None:
        self.path, self._keep_nan = path, keep_nan
        self.done = RowSet()
        self.failures: Counter[str] = Counter()
        self.added = 0
        self._lock = threading.Lock()
        self._buffer: list[bytes] = []
        self._buffered = 0
        self._failed: Exception | None = None
        self._closed = threading.Event()
        self._flusher: threading.Thread | None = None
        if path.exists():
            self._read(retry)
        self._out = open(path, "ab", buffering=0)
        self._synced = time.monotonic()

    def _read(self, retry: bool) -> None:
        complete_bytes = 0
        part = self.path.with_name(f".{self.path.name}.part")
        rewritten = open(part, "wb") if retry else None
        with open(self.path, "rb") as lines:
            for number, line in enumerate(lines, start=1):
                if not line.endswith(b"\n") or b"\0" in line:  # a power failure leaves zeros
                    break
                try:
                    columns = from_line(line)
                    row, reason = columns["row"], written_failure_reason(columns)
                except (ValueError, KeyError, TypeError, AttributeError) as error:
                    raise CannotRun(
                        f"{self.path}, line {number}: not a row of a scored file; give another -o"
                    ) from error
                complete_bytes += len(line)
                if retry and reason is not None:
                    continue
                if rewritten is not None:
                    rewritten.write(line)
                self.done.add(row)
                if reason is not None:
                    self.failures[reason] += 1
        if rewritten is not None:
            rewritten.flush()
            os.fsync(rewritten.fileno())
            rewritten.close()
            part.replace(self.path)
        elif complete_bytes < self.path.stat().st_size:
            os.truncate(self.path, complete_bytes)

    @classmethod
    def read_numbers(cls, path: Path) -> RowSet:
        """The row numbers in a journal file."""
        journal = cls(path)
        journal.close()
        return journal.done

    def write(self, columns: Mapping[str, Any]) -> None:
        """Append a row. Raises OSError, and CannotRun where the disk is full; complete lines stay in the file."""
        data = to_line(columns, self._keep_nan)
        with self._lock:
            if self._failed is not None:
                raise self._failed
            self._buffer.append(data)
            self._buffered += len(data)
            self.done.add(columns["row"])
            self.added += 1
            if self._buffered >= FLUSH_BYTES:
                self._flush()
            if self._flusher is None:
                self._flusher = threading.Thread(target=self._flush_periodically, name="assay-journal", daemon=True)
                self._flusher.start()

    def _flush(self) -> None:
        """Write the buffered lines. The caller holds the lock."""
        if self._buffer:
            data = b"".join(self._buffer)
            self._buffer.clear()
            self._buffered = 0
            if (written := self._out.write(data)) != len(data):
                self._out.truncate(self._out.tell() - written + data.rfind(b"\n", 0, written) + 1)
                raise CannotRun(f"{self.path}: the disk is full; written rows are safe; free some space and run again")
        if time.monotonic() - self._synced > SYNC_SECONDS:
            self._synced = time.monotonic()
            os.fsync(self._out.fileno())

    def _flush_periodically(self) -> None:
        while not self._closed.wait(FLUSH_SECONDS):
            with self._lock:
                try:
                    self._flush()
                except (OSError, CannotRun) as error:  # raised by the next call of `write` or `sync`
                    self._failed = error
                    return

    def lines(self, ordered: bool = False) -> Iterator[bytes]:
        """The rows as lines of JSON, in the order in which they finished or by their numbers."""
        if ordered:
            yield from self._by_number()
            return
        with open(self.path, "rb") as lines:
            yield from lines

    def _by_number(self) -> Iterator[bytes]:
        # The offset of each row's line goes to a temporary file of eight bytes per row.
        offsets = self.path.with_name(f".{self.path.name}.places")
        try:
            with open(offsets, "w+b") as index, open(self.path, "rb") as lines:
                start, last = 0, 0
                for line in lines:
                    number = from_line(line)["row"]
                    os.pwrite(index.fileno(), (start + 1).to_bytes(8), 8 * number)
                    start, last = start + len(line), max(last, number)
                index.seek(8)
                for _ in range(last):
                    if offset := int.from_bytes(index.read(8)):
                        lines.seek(offset - 1)
                        yield lines.readline()
        finally:
            offsets.unlink(missing_ok=True)

    def sync(self) -> None:
        """Write all rows through to the disk. Raises the errors of `write`."""
        with self._lock:
            if self._failed is not None:
                raise self._failed
            self._flush()
            os.fsync(self._out.fileno())

    def close(self) -> None:
        """Write the buffered rows and close the file. A second call does nothing."""
        self._closed.set()
        with self._lock:
            if self._out.closed:
                return
            try:
                if self._failed is None:
                    self._flush()
            finally:
                self._out.close()


class StandardOutputJournal(Journal):
    """Writes rows as lines to standard output and stores nothing."""

    def __init__(self) -> None:
        self.path, self.done, self.failures, self.added = Path("-"), RowSet(), Counter(), 0
        self._lock = threading.Lock()

    def write(self, columns: Mapping[str, Any]) -> None:
        with self._lock:
            sys.stdout.buffer.write(to_line(columns))
            sys.stdout.buffer.flush()  # the reader of a pipe gets each row at once
            self.added += 1

    def sync(self) -> None:
        sys.stdout.buffer.flush()

    def close(self) -> None:
        pass
