"""`assay report`: the report of a run, or of the changes between two runs."""

from __future__ import annotations

import sys
from pathlib import Path

from rich.table import Table

from judges.cli.terminal import escape_text, plain_table, print_text, stdout_console
from judges.errors import CannotRun
from judges.evaluation.report import compare_runs, render_csv, render_markdown, write_changes, write_plots, write_report
from judges.evaluation.report.caveats import find_caveats
from judges.evaluation.report.changes import CHANGE_COLUMNS, Changes, change_rows
from judges.evaluation.report.html import write_atomically
from judges.evaluation.report.markdown import escape_invisible
from judges.evaluation.results import read_run


def run(folder: Path, later: Path | None, output: Path | None, quiet: bool) -> None:
    try:
        if later is None:
            _report_run(folder, output or folder, quiet)
        else:
            _report_changes(folder, later, output or later, quiet)
    except OSError as error:
        raise CannotRun(f"{error.filename or output or folder}: {error.strerror}") from error


def _report_run(folder: Path, output: Path, quiet: bool) -> None:
    found = read_run(folder)
    output.mkdir(parents=True, exist_ok=True)
    page = write_report(folder, output=output)
    write_atomically(output / "report.md", render_markdown(found))
    write_atomically(output / "numbers.csv", render_csv(found))
    try:
        plots = f"{len(write_plots(found, output / 'plots'))} plots in {output / 'plots'}"
    except CannotRun as error:  # the report needs no plots
        plots = f"no plots ({error})"
        print(f"assay: {error}", file=sys.stderr)
    for caveat in find_caveats(folder, found):  # printed with --quiet too: they limit what the report says
        print(escape_invisible(f"assay: {caveat}"), file=sys.stderr)
    if not quiet:
        print(f"The report is {page}, to open in a browser; report.md and numbers.csv are beside it; {plots}.")


def _report_changes(before: Path, after: Path, output: Path, quiet: bool) -> None:
    changes = compare_runs(before, after)
    written = write_changes(changes, output)
    if quiet:
        return
    console = stdout_console()
    for name, differences in (("versions", changes.versions), ("settings", changes.settings)):
        for difference in differences:
            before_after = f"{_or_dash(difference.before)} → {_or_dash(difference.after)}"
            print_text(console, f"{name}: {difference.name}: {before_after}")
    console.print(changes_table(changes))
    for result in changes.results:
        if result.skip_reason:
            print_text(console, f"{result.label} on {result.benchmark}: {result.skip_reason}.")
    print_text(console, f"The rows whose outcome changed are in {' and '.join(map(str, written))}.")


def changes_table(changes: Changes) -> Table:
    table = plain_table(*CHANGE_COLUMNS, left=2)
    for row in change_rows(changes):
        table.add_row(*(escape_text(_or_dash(cell)) for cell in row))
    return table


def _or_dash(text: str | None) -> str:
    return "–" if text is None else text
