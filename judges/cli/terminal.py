"""What the commands share to print tables: a console, escaped text, numbers with their confidence intervals."""

from __future__ import annotations

import sys

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from judges.evaluation.report.markdown import escape_invisible
from judges.evaluation.results import MetricValue


def stdout_console(width: int = 140) -> Console:
    """A console on standard output; `width` is the line length where that is no terminal."""
    return Console(width=None if sys.stdout.isatty() else width)


def escape_text(text: str) -> str:
    """Text from a user's file, for rich: without markup and without control characters of a terminal."""
    return escape(escape_invisible(text))


def print_text(console: Console, text: str) -> None:
    """Print a sentence that may contain names from a user's file, without wrapping or colouring it."""
    console.print(escape_text(text), soft_wrap=True, highlight=False)


def plain_table(*columns: str, left: int = 1, title: str | None = None, no_wrap: bool = False) -> Table:
    """A table without a frame; its first `left` columns are aligned to the left, the others to the right."""
    table = Table(title=title, title_justify="left", box=None)
    for index, column in enumerate(columns):
        table.add_column(column, justify="left" if index < left else "right", no_wrap=no_wrap)
    return table


def format_interval(
    value: float | None, low: float | None, high: float | None, spec: str = ".4g", missing: str = "-"
) -> str:
    """A value and its interval; the value alone where it has none, `missing` where there is no value.

    >>> format_interval(1.5, 1.0, 2.25), format_interval(1.5, None, None), format_interval(None, None, None)
    ('1.5 [1, 2.25]', '1.5', '-')
    """
    if value is None:
        return missing
    if low is None or high is None:
        return f"{value:{spec}}"
    return f"{value:{spec}} [{low:{spec}}, {high:{spec}}]"


def format_metric(number: MetricValue | None) -> str:
    """A metric and its interval; "-" where there is none."""
    return "-" if number is None else format_interval(number.value, number.low, number.high)


def format_share(value: float | None, low: float | None, high: float | None, missing: str = "-") -> str:
    """A share and its interval, in percent.

    >>> format_share(0.5, 0.25, 0.75)
    '50.0 [25.0, 75.0]'
    """
    scaled = [None if share is None else 100 * share for share in (value, low, high)]
    return format_interval(scaled[0], scaled[1], scaled[2], ".1f", missing)
