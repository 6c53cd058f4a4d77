"""`assay report`."""

from __future__ import annotations

import sys
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from judges.errors import CannotRun
from judges.evaluation.report import compare_runs, write_changes, write_csv, write_markdown, write_plots, write_report
from judges.evaluation.report.caveats import caveats
from judges.evaluation.report.changes import HEAD, Changes, number_rows
from judges.evaluation.report.html import write_whole
from judges.evaluation.report.markdown import visible
from judges.evaluation.results import read_run


def run(folder: Path, later: Path | None, output: Path | None, quiet: bool) -> None:
    try:
        if later is None:
            _one(folder, output or folder, quiet)
        else:
            _two(folder, later, output or later, quiet)
    except OSError as error:
        raise CannotRun(f"{error.filename or output or folder}: {error.strerror}") from error


def _one(folder: Path, output: Path, quiet: bool) -> None:
    found = read_run(folder)
    output.mkdir(parents=True, exist_ok=True)
    page = write_report(folder, output=output)
    write_whole(output / "report.md", write_markdown(found))
    write_whole(output / "numbers.csv", write_csv(found))
    try:
        plots = f"{len(write_plots(found, output / 'plots'))} plots in {output / 'plots'}"
    except CannotRun as error:  # the report stands without them
        plots = f"no plots ({error})"
        print(f"assay: {error}", file=sys.stderr)
    for doubt in caveats(folder, found):  # told in quiet too: an error of what the page says
        print(visible(f"assay: {doubt}"), file=sys.stderr)
    if not quiet:
        print(f"{page} opens in a browser; report.md and numbers.csv are beside it; {plots}.")


def _two(before: Path, after: Path, output: Path, quiet: bool) -> None:
    changes = compare_runs(before, after)
    written = write_changes(changes, output)
    if quiet:
        return
    console = Console(width=None if sys.stdout.isatty() else 140)
    for name, differences in (("versions", changes.versions), ("settings", changes.settings)):
        for d in differences:
            console.print(f"{name}: {_shown(d.name)}: {_shown(d.before)} → {_shown(d.after)}", soft_wrap=True)
    console.print(table(changes))
    for r in changes.results:
        if r.why_not:
            console.print(_shown(f"{r.label} on {r.benchmark}: {r.why_not}."), soft_wrap=True)
    console.print(f"The flipped rows are in {escape(' and '.join(map(str, written)))}.", soft_wrap=True)


def table(changes: Changes) -> Table:
    shown = Table(box=None)
    for place, name in enumerate(HEAD):
        shown.add_column(name, justify="left" if place < 2 else "right")
    for row in number_rows(changes):
        shown.add_row(*map(_shown, row))
    return shown


def _shown(text: str | None) -> str:
    """A name of the run as text: no markup, no control characters of a terminal."""
    return "–" if text is None else escape(visible(text))
