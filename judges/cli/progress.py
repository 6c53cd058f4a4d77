"""A progress bar in a terminal, a line now and then elsewhere."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import Any, Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from judges.evaluation.report.markdown import visible
from judges.types import Usage

EVERY_SECONDS = 15.0  # a plain line
_REDRAW_SECONDS = 0.1  # a bar; rows may come by the ten thousand a second


class RowProgress:
    """Rows done, how fast, what was cached, how many failed and the time left, in one line on standard error.

    Time is told from `total` rows, or from the `share` of the input that has been read.
    """

    def __init__(self, name: str, total: int | None, quiet: bool, unit: str = "rows") -> None:
        self._unit = unit
        self._name, self._quiet = visible(name), quiet
        self._of = self._total = total
        self._started = self._drawn = self._told = time.monotonic()
        self._rows = self._failed = 0
        self._usage = Usage()
        self._first: tuple[int, Usage, float | None] | None = None  # rows, usage and share where the clock began
        self._share: float | None = None
        self._bar: Progress | None = None
        if not quiet and sys.stderr.isatty():
            self._bar = Progress(
                TextColumn("{task.description}", markup=False),
                BarColumn(bar_width=20),
                TextColumn("{task.fields[state]}", markup=False),
                console=Console(stderr=True),
            )
            self._task = self._bar.add_task(self._name, total=total, state="")

    def __enter__(self) -> Self:
        if self._bar:
            self._bar.start()
        return self

    def row(self, usage: Usage | None = None, failed: bool = False) -> None:
        """One more row."""
        total = self._usage if usage is None else self._usage + usage
        self.at(self._rows + 1, self._failed + failed, total, None)

    def at(self, rows: int, failed: int, usage: Usage, share: float | None, before: int = 0) -> None:
        """So many rows in all, beside those of earlier sittings (`before`), which are part of the total."""
        if self._first is None:  # loading a model is not judging time
            self._first = (rows, usage, share)
            self._started = time.monotonic()
        self._rows, self._failed, self._usage, self._share = rows, failed, usage, share
        self._total = None if self._of is None else max(rows, self._of - before)
        now = time.monotonic()
        if self._bar:
            if now - self._drawn > _REDRAW_SECONDS:
                self._draw(now)
        elif not self._quiet and now - self._told > EVERY_SECONDS:
            self._told = now
            print(f"{self._name}: {self.line()}", file=sys.stderr, flush=True)

    def _draw(self, now: float) -> None:
        assert self._bar is not None
        self._drawn = now
        if self._total is not None:
            self._bar.update(self._task, total=self._total, completed=self._rows, state=self.line())
        elif self._share is not None:
            self._bar.update(self._task, total=1.0, completed=self._share, state=self.line())
        else:
            self._bar.update(self._task, state=self.line())

    def line(self) -> str:
        """The state in words, as far as each part is known."""
        seconds = time.monotonic() - self._started
        rows, before, _ = self._first or (0, Usage(), None)
        of = f"/{self._total:,}" if self._total else ""
        parts = [f"{self._rows:,}{of} {self._unit}"]
        if seconds > 0.5 and self._rows > rows:
            rate = (self._rows - rows) / seconds
            slow = f"{1 / rate:,.0f} s/{self._unit.removesuffix('s')}"
            parts.append(f"{rate:,.{0 if rate > 20 else 1}f} {self._unit}/s" if rate >= 0.1 else slow)
            if tokens := _computed(self._usage) - _computed(before):
                parts.append(f"{tokens / seconds:,.0f} tok/s")
        if self._usage.prompt_tokens:
            parts.append(f"{self._usage.cached_tokens / self._usage.prompt_tokens:.0%} cached")
        if self._failed:
            parts.append(f"{self._failed:,} failed")
        if left := self._left(seconds):
            parts.append(f"{duration(left)} left")
        return ", ".join(parts)

    def _left(self, seconds: float) -> float | None:
        rows, _, share = self._first or (0, Usage(), None)
        if self._total:
            begun, now = rows / self._total, self._rows / self._total
        elif self._share is not None:  # what an earlier sitting did was only read over
            begun, now = share or 0.0, self._share
        else:
            return None
        return seconds * (1 - now) / (now - begun) if begun < now < 1 and seconds > 0.5 else None

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> Any:
        if self._bar:
            self._draw(time.monotonic())
            self._bar.stop()


def _computed(usage: Usage) -> int:
    return usage.prompt_tokens - usage.cached_tokens + usage.generated_tokens


def duration(seconds: float) -> str:
    """A time in the two units that matter.

    >>> duration(42), duration(3700), duration(200000)
    ('42 s', '1 h 01 min', '2 d 07 h')
    """
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    if whole < 86400:
        return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
    return f"{whole // 86400} d {whole % 86400 // 3600:02d} h"
