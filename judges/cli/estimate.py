"""`assay estimate`: a mean or rate from a judge's verdicts and human labels (prediction-powered inference)."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import typer
from rich.table import Table

from judges.cli.terminal import escape_text, format_interval, format_share, plain_table, stdout_console
from judges.data.readers import read_records
from judges.errors import CannotRun
from judges.evaluation.report.markdown import escape_invisible
from judges.evaluation.results import MetricValue
from judges.evaluation.statistics.prediction_powered import LARGEST, Estimate, TooFewLabels, by_group, estimate
from judges.types import Failure

PRINTED_ROWS = 5  # rows without a verdict that are reported one by one
TRUTH_VALUES = {"true": 1.0, "false": 0.0}


@dataclass
class _Rows:
    verdicts: list[float] = field(default_factory=list)
    labels: list[float | None] = field(default_factory=list)
    groups: list[str] = field(default_factory=list)
    prompts: list[str] = field(default_factory=list)
    without_verdict: int = 0


def run(file: str, verdict: str, label: str, group: str | None, prompt: str | None, quiet: bool) -> None:
    rows = _read(file, verdict, label, group, prompt, quiet)
    if not rows.verdicts:
        raise CannotRun(f"{file}: no row has a verdict in {verdict!r}")
    prompts = rows.prompts if prompt is not None else None
    try:
        overall = estimate(rows.verdicts, rows.labels, prompts)
    except TooFewLabels as few:
        raise CannotRun(f"{file}: {few}") from few
    estimates: dict[str, Estimate | TooFewLabels] = {"": overall}
    if group is not None:
        estimates |= by_group(rows.verdicts, rows.labels, rows.groups, prompts)
    stdout_console().print(estimate_table(estimates, group or ""))
    print(overall.words)
    for name, found in estimates.items():
        for note in (str(found),) if isinstance(found, TooFewLabels) else found.notes:
            print(f"{escape_invisible(name)}: {note}" if name else f"Note: {note}.")
    if not quiet:
        print("The estimate is valid if the labelled rows are a random sample of all rows.")
    if rows.without_verdict or any(isinstance(found, TooFewLabels) for found in estimates.values()):
        raise typer.Exit(1)


def estimate_table(estimates: Mapping[str, Estimate | TooFewLabels], group: str) -> Table:
    columns = (
        *("labelled rows", "corrected (95 %)", "labels alone", "verdicts alone", "Rogan-Gladen"),
        "labels to halve the interval",
    )
    table = plain_table(*([escape_text(group)] if group else []), *columns, left=1 if group else 0, no_wrap=True)
    for name, found in estimates.items():
        first = [escape_text(name) or "all"] if group else []
        if isinstance(found, TooFewLabels):
            table.add_row(*first, "too few", *["-"] * 5)
        else:
            values = [_format(number, found.rate) for number in found.numbers]
            more = "-" if found.more_labels is None else f"{found.more_labels:,} more"
            table.add_row(*first, f"{found.labelled:,} of {found.rows:,}", *values, more)
    return table


def _format(number: MetricValue, rate: bool) -> str:
    if number.low is None or number.high is None:
        return "-"
    if rate:
        return format_share(number.value, number.low, number.high).replace(" [", " % [")
    return format_interval(number.value, number.low, number.high, ".3g")


def _read(file: str, verdict: str, label: str, group: str | None, prompt: str | None, quiet: bool) -> _Rows:
    rows = _Rows()
    seen: set[str] = set()
    for number, columns in enumerate(read_records(file), start=1):
        where = f"{file}, row {number}"
        if isinstance(columns, Failure):
            raise CannotRun(f"{where}: {columns.message}")
        seen |= columns.keys()
        for option, column in (("--verdict", verdict), ("--group", group), ("--prompt", prompt)):
            if column is not None and column not in columns:
                raise CannotRun(f"{where}: no column {column!r} ({option})")
        value = _number(columns[verdict], f"{where}, {verdict}")
        if value is None:
            if rows.without_verdict < PRINTED_ROWS and not quiet:
                print(f"row {number}: no verdict, left out", file=sys.stderr)
            rows.without_verdict += 1
            continue
        rows.verdicts.append(value)
        rows.labels.append(_number(columns.get(label), f"{where}, {label}"))
        rows.groups.append(_name(columns, group, f"{where}, {group} (--group)"))
        rows.prompts.append(_name(columns, prompt, f"{where}, {prompt} (--prompt)"))
    if seen and label not in seen:
        raise CannotRun(f"{file}: no row has a column {label!r} (--label)")
    if rows.without_verdict:
        count = f"{rows.without_verdict} of {rows.without_verdict + len(rows.verdicts)} rows"
        print(f"{count} have no verdict: the estimate is of the other rows only", file=sys.stderr)
    return rows


def _name(columns: Mapping[str, Any], column: str | None, where: str) -> str:
    """The value of a group or prompt column; "" without a column. Raises CannotRun for an empty value."""
    if column is None:
        return ""
    value = columns[column]
    if value is None or value != value or not str(value).strip():  # Parquet files may have NaN for a missing value
        raise CannotRun(f"{where}: it is empty; every row with a verdict needs a value")
    return str(value)


def _number(value: Any, where: str) -> float | None:
    """A verdict or label as a number; None where there is none. Raises CannotRun for any other text."""
    if value is None or (isinstance(value, str) and not value.strip()):
        return None
    if isinstance(value, str) and value.strip().lower() in TRUTH_VALUES:
        return TRUTH_VALUES[value.strip().lower()]
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        number = math.inf
    if math.isnan(number) and not isinstance(value, str):
        return None  # a missing value of a Parquet file
    if not abs(number) <= LARGEST:
        needed = f"a number within ±{LARGEST:g} (for example 0 for lost, 1 for won) or nothing is needed"
        raise CannotRun(f"{where}: {needed}; not {value!r:.60}")
    return number
