"""`assay estimate`."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from judges.data.readers import records
from judges.errors import CannotRun
from judges.evaluation.report.markdown import visible
from judges.evaluation.results import Number
from judges.evaluation.statistics.prediction_powered import LARGEST, Estimate, TooFewLabels, by_group, estimate
from judges.types import Failure

TOLD = 5  # rows without a verdict that are told one by one
TRUTHS = {"true": 1.0, "false": 0.0}


@dataclass
class _Rows:
    verdicts: list[float] = field(default_factory=list)
    labels: list[float | None] = field(default_factory=list)
    groups: list[str] = field(default_factory=list)
    prompts: list[str] = field(default_factory=list)
    without: int = 0  # rows that have no verdict, or cannot be read


def run(file: str, verdict: str, label: str, group: str | None, prompt: str | None, quiet: bool) -> None:
    rows = _read(file, verdict, label, group, prompt, quiet)
    if not rows.verdicts:
        raise CannotRun(f"{file}: no row has a verdict in {verdict!r}")
    prompts = rows.prompts if prompt is not None else None
    try:
        whole = estimate(rows.verdicts, rows.labels, prompts)
    except TooFewLabels as few:
        raise CannotRun(f"{file}: {few}") from few
    made: dict[str, Estimate | TooFewLabels] = {"": whole}
    if group is not None:
        made |= by_group(rows.verdicts, rows.labels, rows.groups, prompts)
    console = Console(width=None if sys.stdout.isatty() else 140)
    console.print(table(made, group or ""))
    print(whole.words)
    for name, one in made.items():
        for note in (str(one),) if isinstance(one, TooFewLabels) else one.notes:
            print(f"{visible(name)}: {note}" if name else f"Note: {note}.")
    if not quiet:
        print("This holds where the labelled rows were drawn at random from all of them.")
    if rows.without or any(isinstance(one, TooFewLabels) for one in made.values()):
        raise typer.Exit(1)


def table(made: Mapping[str, Estimate | TooFewLabels], group: str) -> Table:
    shown = Table(box=None)
    if group:
        shown.add_column(_shown(group))
    shown.add_column("labels of rows", justify="right")
    for column in ("corrected (95 %)", "labels alone", "verdicts alone", "Rogan-Gladen"):
        shown.add_column(column, justify="right", no_wrap=True)
    shown.add_column("labels to halve it", justify="right", no_wrap=True)
    for name, one in made.items():
        first = [_shown(name) or "all"] if group else []
        if isinstance(one, TooFewLabels):
            shown.add_row(*first, "too few", *["-"] * 5)
        else:
            told = [_told(number, one.rate) for number in one.numbers]
            more = "-" if one.more_labels is None else f"{one.more_labels:,} more"
            shown.add_row(*first, f"{one.labelled:,} of {one.rows:,}", *told, more)
    return shown


def _shown(name: str) -> str:
    """A name of the file as text: no markup, no control characters of a terminal."""
    return escape(visible(name))


def _told(number: Number, rate: bool) -> str:
    if number.value is None or number.low is None or number.high is None:
        return "-"
    if rate:
        return f"{100 * number.value:.1f} % [{100 * number.low:.1f}, {100 * number.high:.1f}]"
    return f"{number.value:.3g} [{number.low:.3g}, {number.high:.3g}]"


def _read(file: str, verdict: str, label: str, group: str | None, prompt: str | None, quiet: bool) -> _Rows:
    rows = _Rows()
    seen: set[str] = set()
    for number, columns in enumerate(records(file), start=1):
        where = f"{file}, row {number}"
        if isinstance(columns, Failure):
            raise CannotRun(f"{where}: {columns.message}")
        seen |= columns.keys()
        for option, column in (("--verdict", verdict), ("--group", group), ("--prompt", prompt)):
            if column is not None and column not in columns:
                raise CannotRun(f"{where}: no column {column!r} ({option})")
        said = _number(columns[verdict], f"{where}, {verdict}")
        if said is None:
            if rows.without < TOLD and not quiet:
                print(f"row {number}: no verdict, left out", file=sys.stderr)
            rows.without += 1
            continue
        rows.verdicts.append(said)
        rows.labels.append(_number(columns.get(label), f"{where}, {label}"))
        rows.groups.append(_name(columns, group, f"{where}, {group} (--group)"))
        rows.prompts.append(_name(columns, prompt, f"{where}, {prompt} (--prompt)"))
    if seen and label not in seen:
        raise CannotRun(f"{file}: no row has a column {label!r} (--label)")
    if rows.without:
        said_rows = f"{rows.without} of {rows.without + len(rows.verdicts)} rows have no verdict"
        print(f"{said_rows}: the estimate is of the others only", file=sys.stderr)
    return rows


def _name(columns: Mapping[str, Any], column: str | None, where: str) -> str:
    """What a column names; "" without a column. Raises CannotRun where it is empty: such rows are not of one kind."""
    if column is None:
        return ""
    value = columns[column]
    if value is None or value != value or not str(value).strip():  # Parquet may hold nan where there was no value
        raise CannotRun(f"{where}: it is empty; every row with a verdict needs a name here")
    return str(value)


def _number(value: Any, where: str) -> float | None:
    """A verdict or label as a number; None where there is none. Raises CannotRun for any other text."""
    if value is None or (isinstance(value, str) and not value.strip()):
        return None
    if isinstance(value, str) and value.strip().lower() in TRUTHS:
        return TRUTHS[value.strip().lower()]
    try:
        told = float(value)
    except (TypeError, ValueError, OverflowError):
        told = math.inf
    if math.isnan(told) and not isinstance(value, str):
        return None  # what Parquet holds where a table had no value
    if not abs(told) <= LARGEST:
        wanted = f"a number is needed (0 and 1 for lost and won; within ±{LARGEST:g}), or nothing"
        raise CannotRun(f"{where}: {wanted}; not {value!r:.60}")
    return told
