"""`assay score`."""

from __future__ import annotations

import sys
from dataclasses import fields
from pathlib import Path

import typer

from judges.batch.run import Summary, score_file
from judges.cli.progress import RowProgress
from judges.errors import CannotRun
from judges.scorer import load_scorer, parse_spec, read_value
from judges.types import Usage


def run(
    file: str,
    spec: str,
    output: Path,
    model: str | None,
    settings: list[str],
    mapping: list[str],
    limit: int | None,
    quiet: bool,
) -> None:
    if not Path(file).expanduser().is_file():
        raise CannotRun(f"no file {file!r}")
    name, chosen = parse_spec(spec)
    chosen |= {key: read_value(value, "--set") for key, value in read_pairs("--set", settings).items()}
    if model:
        chosen["model"] = model
    fields = read_pairs("--map", mapping)
    with load_scorer(name, **chosen) as scorer, RowProgress(name, limit, quiet) as progress:
        seen = [Usage()]

        def told(summary: Summary) -> None:
            before, seen[0] = seen[0], summary.usage
            progress.row(_difference(summary.usage, before))

        summary = score_file(file, scorer, output, fields, limit, told)
    if not quiet:
        failed = ", ".join(f"{count} {reason}" for reason, count in summary.failures.most_common()) or "none"
        print(
            f"{output}: {summary.written} rows written, {summary.resumed} there before, failed: {failed}",
            file=sys.stderr,
        )
    if summary.failed:
        raise typer.Exit(1)


def _difference(now: Usage, before: Usage) -> Usage:
    return Usage(**{f.name: getattr(now, f.name) - getattr(before, f.name) for f in fields(Usage)})


def read_pairs(option: str, given: list[str]) -> dict[str, str]:
    pairs = {}
    for text in given:
        key, equals, value = text.partition("=")
        if not equals or not key:
            raise CannotRun(f"{option} {text!r} is not key=value")
        pairs[key] = value
    return pairs
