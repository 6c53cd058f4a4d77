"""The rows of a run as they finish: whole lines on disk, read back by the next sitting."""

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
from judges.data.row_set import RowSet
from judges.data.writers import reason_told
from judges.errors import CannotRun

FLUSH_SECONDS = 0.05  # a row waits no longer to be on disk; rows may come by the ten thousand a second
FLUSH_BYTES = 1 << 15
SYNC_SECONDS = 2.0  # a power cut costs the rows of that long, whose completions the store has


class Journal:
    """A file of judged rows, each one write of one line, so a kill leaves at most one unfinished last line.

    A line that the disk took only a part of is taken back.

    Opening it reads what is there: `done` has the numbers of its rows, `failures` counts those that failed; an
    unfinished end is cut off. `retry` takes the failed rows out first. Raises CannotRun for a file of something else.
    """

    def __init__(self, path: Path, keep_nan: bool = False, retry: bool = False) -> None:
        self.path, self._keep_nan = path, keep_nan
        self.done = RowSet()
        self.failures: Counter[str] = Counter()
        self.added = 0  # rows of this sitting
        self._lock = threading.Lock()
        self._waiting: list[bytes] = []
        self._bytes = 0
        self._failed: Exception | None = None
        self._closed = threading.Event()
        self._flusher: threading.Thread | None = None
        if path.exists():
            self._read(retry)
        self._out = open(path, "ab", buffering=0)
        self._synced = time.monotonic()

    def _read(self, retry: bool) -> None:
        whole = 0
        part = self.path.with_name(f".{self.path.name}.part")
        kept = open(part, "wb") if retry else None
        with open(self.path, "rb") as lines:
            for number, line in enumerate(lines, start=1):
                if not line.endswith(b"\n") or b"\0" in line:  # a power cut leaves zeros
                    break
                try:
                    columns = from_line(line)
                    row, reason = columns["row"], reason_told(columns)
                except (ValueError, KeyError, TypeError, AttributeError) as error:
                    raise CannotRun(
                        f"{self.path}, line {number}: not a row of a scored file; give another -o"
                    ) from error
                whole += len(line)
                if retry and reason is not None:
                    continue
                if kept is not None:
                    kept.write(line)
                self.done.add(row)
                if reason is not None:
                    self.failures[reason] += 1
        if kept is not None:
            kept.flush()
            os.fsync(kept.fileno())
            kept.close()
            part.replace(self.path)
        elif whole < self.path.stat().st_size:
            os.truncate(self.path, whole)

    @classmethod
    def numbers(cls, path: Path) -> RowSet:
        """The numbers of the rows in a file of them."""
        journal = cls(path)
        journal.close()
        return journal.done

    def write(self, columns: Mapping[str, Any]) -> None:
        """Append a row. Raises OSError, and CannotRun where the disk took only a part of what there was."""
        data = to_line(columns, self._keep_nan)
        with self._lock:
            if self._failed is not None:
                raise self._failed
            self._waiting.append(data)
            self._bytes += len(data)
            self.done.add(columns["row"])
            self.added += 1
            if self._bytes >= FLUSH_BYTES:
                self._flush()
            if self._flusher is None:
                self._flusher = threading.Thread(target=self._flush_now_and_then, name="assay-journal", daemon=True)
                self._flusher.start()

    def _flush(self) -> None:
        """Write what waits, as whole lines; the lock is held."""
        if self._waiting:
            data = b"".join(self._waiting)
            self._waiting.clear()
            self._bytes = 0
            if (taken := self._out.write(data)) != len(data):
                self._out.truncate(self._out.tell() - taken + data.rfind(b"\n", 0, taken) + 1)
                raise CannotRun(f"{self.path}: no room for a row; what is written is safe, make room and run again")
        if time.monotonic() - self._synced > SYNC_SECONDS:
            self._synced = time.monotonic()
            os.fsync(self._out.fileno())

    def _flush_now_and_then(self) -> None:
        while not self._closed.wait(FLUSH_SECONDS):
            with self._lock:
                try:
                    self._flush()
                except (OSError, CannotRun) as error:  # whoever writes next must hear of it
                    self._failed = error
                    return

    def lines(self, ordered: bool = False) -> Iterator[bytes]:
        """Its rows as lines: as they finished, or by their numbers."""
        if ordered:
            yield from self._by_number()
            return
        with open(self.path, "rb") as lines:
            yield from lines

    def _by_number(self) -> Iterator[bytes]:
        # Where each row's line begins is kept on disk, eight bytes a row.
        places = self.path.with_name(f".{self.path.name}.places")
        try:
            with open(places, "w+b") as index, open(self.path, "rb") as lines:
                begin, last = 0, 0
                for line in lines:
                    number = from_line(line)["row"]
                    os.pwrite(index.fileno(), (begin + 1).to_bytes(8), 8 * number)
                    begin, last = begin + len(line), max(last, number)
                index.seek(8)
                for _ in range(last):
                    if place := int.from_bytes(index.read(8)):
                        lines.seek(place - 1)
                        yield lines.readline()
        finally:
            places.unlink(missing_ok=True)

    def sync(self) -> None:
        """Have all of it on disk. Raises as `write`."""
        with self._lock:
            if self._failed is not None:
                raise self._failed
            self._flush()
            os.fsync(self._out.fileno())

    def close(self) -> None:
        """Write what waits, and close. Safe to call twice."""
        self._closed.set()
        with self._lock:
            if self._out.closed:
                return
            try:
                if self._failed is None:
                    self._flush()
            finally:
                self._out.close()


class Printing(Journal):
    """Rows as lines on standard output, kept nowhere."""

    def __init__(self) -> None:
        self.path, self.done, self.failures, self.added = Path("-"), RowSet(), Counter(), 0
        self._lock = threading.Lock()

    def write(self, columns: Mapping[str, Any]) -> None:
        with self._lock:
            sys.stdout.buffer.write(to_line(columns))
            sys.stdout.buffer.flush()  # whoever reads the pipe sees each row as it comes
            self.added += 1

    def sync(self) -> None:
        sys.stdout.buffer.flush()

    def close(self) -> None:
        pass
