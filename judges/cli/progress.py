"""Progress of a run on standard error (a bar in a terminal, else a line now and then), and its summary."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from judges.batch.run import STANDARD_OUTPUT, ScoreSummary
from judges.evaluation.report.markdown import escape_invisible
from judges.types import Scorecard, Usage

LINE_SECONDS = 15.0  # between two plain lines
_REDRAW_SECONDS = 0.1  # between two states of a bar: there may be tens of thousands of rows a second


class RowProgress:
    """Rows done, rows and tokens a second, cache hits, failures and the time left, in one line on standard error.

    The time left is estimated from `total`, the number of rows, or else from the share of the input that has been
    read. `unit` is the plural of what is counted.
    """

    def __init__(self, name: str, total: int | None, quiet: bool, unit: str = "rows") -> None:
        self._unit = unit
        self._name, self._quiet = escape_invisible(name), quiet
        self._limit = self._total = total
        self._started = self._drawn = self._printed = time.monotonic()
        self._rows = self._failed = 0
        self._usage = Usage()
        self._first: tuple[int, Usage, float | None] | None = None  # rows, usage and share when the clock started
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

    def add_row(self, usage: Usage | None = None, failed: bool = False) -> None:
        """Count one more row."""
        total = self._usage if usage is None else self._usage + usage
        self.set(self._rows + 1, self._failed + failed, total)

    def count(self, cards: Iterable[Scorecard]) -> Iterator[Scorecard]:
        """Yield the Scorecards, counting each."""
        for card in cards:
            self.add_row(card.usage)
            yield card

    def update(self, summary: ScoreSummary) -> None:
        """Show the state of a batch run. Rows of an earlier start are not counted, nor are their failures."""
        failed = summary.failed - summary.failed_before
        self.set(summary.written, failed, summary.usage, summary.share, summary.resumed)

    def set(self, rows: int, failed: int, usage: Usage, share: float | None = None, before: int = 0) -> None:
        """Show so many rows in all. Rows of an earlier start (`before`) are part of the total, but not of `rows`."""
        if self._first is None:  # the clock starts with the first row: loading a model is not judging time
            self._first = (rows, usage, share)
            self._started = time.monotonic()
        self._rows, self._failed, self._usage, self._share = rows, failed, usage, share
        self._total = None if self._limit is None else max(rows, self._limit - before)
        now = time.monotonic()
        if self._bar:
            if now - self._drawn > _REDRAW_SECONDS:
                self._draw(now)
        elif not self._quiet and now - self._printed > LINE_SECONDS:
            self._printed = now
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
        """The state in words; what is not known is left out."""
        seconds = time.monotonic() - self._started
        first_rows, first_usage, _ = self._first or (0, Usage(), None)
        of = f"/{self._total:,}" if self._total else ""
        parts = [f"{self._rows:,}{of} {self._unit}"]
        if seconds > 0.5 and self._rows > first_rows:
            rate = (self._rows - first_rows) / seconds
            slow = f"{1 / rate:,.0f} s/{self._unit.removesuffix('s')}"
            parts.append(f"{rate:,.{0 if rate > 20 else 1}f} {self._unit}/s" if rate >= 0.1 else slow)
            if tokens := _computed_tokens(self._usage) - _computed_tokens(first_usage):
                parts.append(f"{tokens / seconds:,.0f} tok/s")
        if self._usage.prompt_tokens:
            parts.append(f"{self._usage.cached_tokens / self._usage.prompt_tokens:.0%} cached")
        if self._failed:
            parts.append(f"{self._failed:,} failed")
        if left := self._seconds_left(seconds):
            parts.append(f"{format_duration(left)} left")
        return ", ".join(parts)

    def _seconds_left(self, seconds: float) -> float | None:
        rows, _, share = self._first or (0, Usage(), None)
        if self._total:
            start, now = rows / self._total, self._rows / self._total
        elif self._share is not None:  # rows of an earlier start were only skipped
            start, now = share or 0.0, self._share
        else:
            return None
        return seconds * (1 - now) / (now - start) if start < now < 1 and seconds > 0.5 else None

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> Any:
        if self._bar:
            self._draw(time.monotonic())
            self._bar.stop()


def _computed_tokens(usage: Usage) -> int:
    return usage.prompt_tokens - usage.cached_tokens + usage.generated_tokens


def print_summary(summary: ScoreSummary, output: Path, quiet: bool) -> None:
    """Print on standard error what a batch run wrote, its failures by reason, and its tokens."""
    if quiet:
        return
    to_stdout = output == STANDARD_OUTPUT
    reasons = ", ".join(f"{count:,} {reason}" for reason, count in summary.failures.most_common()) or "none"
    name = "standard output" if to_stdout else escape_invisible(str(output))
    line = f"{name}: {summary.written:,} rows written, {summary.resumed:,} already there, failed: {reasons}"
    print(line, file=sys.stderr)
    usage = summary.usage
    if tokens := usage.prompt_tokens + usage.generated_tokens:
        print(
            f"  {tokens:,} tokens ({usage.prompt_tokens:,} of prompts, of which {usage.cached_tokens:,} cached;"
            f" {usage.generated_tokens:,} generated)",
            file=sys.stderr,
        )
    for cut, owner in ((summary.truncated, "judge"), (summary.truncated_candidates, "policy")):
        if 2 * cut > summary.written:
            print(
                f"  {cut:,} of {summary.written:,} rows have a completion of the {owner} that its token limit cut off:"
                f" raise the {owner}'s max_tokens (a reasoning model also needs them for its thoughts)",
                file=sys.stderr,
            )
    if summary.failed and not to_stdout:
        print("  the same command with --retry-failed judges the failed rows again", file=sys.stderr)


def format_duration(seconds: float) -> str:
    """A time in the two units that matter.

    >>> format_duration(42), format_duration(3700), format_duration(200000)
    ('42 s', '1 h 01 min', '2 d 07 h')
    """
    rounded = round(seconds)
    if rounded < 60:
        return f"{rounded} s"
    if rounded < 3600:
        return f"{rounded // 60} min {rounded % 60:02d} s"
    if rounded < 86400:
        return f"{rounded // 3600} h {rounded % 3600 // 60:02d} min"
    return f"{rounded // 86400} d {rounded % 86400 // 3600:02d} h"
