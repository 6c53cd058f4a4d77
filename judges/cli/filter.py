"""`assay filter`: removes preference rows that are unfit for training."""

from __future__ import annotations

import sys
from collections import Counter, deque
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import typer
from rich.table import Table

from judges.cli.progress import RowProgress
from judges.cli.terminal import plain_table, stdout_console
from judges.data.items import parse_prompt
from judges.data.json_lines import to_line
from judges.data.quality import REASONS, Filters, Prompt, Removal, find_removals
from judges.data.rows import Row, read_rows
from judges.errors import CannotRun
from judges.evaluation.benchmarks import DEMO_SPECS, load_benchmark
from judges.types import Failure, Item

ADDED_COLUMNS = ("row", "reason", "why")  # of removed rows; an input column of the same name becomes "input.NAME"
PRINTED_ROWS = 5  # unreadable rows that are reported one by one; the others are in the file of removed rows


def run(
    file: str,
    kept: Path,
    removed: Path | None,
    mapping: dict[str, str],
    filters: Filters,
    against: list[str],
    quiet: bool,
) -> None:
    removed = removed or kept.with_name(kept.name.removesuffix(".jsonl") + ".taken.jsonl")
    _check_paths([file, *against], [kept, removed])
    excluded = {name: prompts_of(name) for name in against}
    counts: Counter[str] = Counter()
    with _atomic_file(kept) as kept_rows, _atomic_file(removed) as removed_rows:
        with RowProgress("filter", None, quiet) as progress:
            removals = find_removals(_readable_items(file, mapping, progress), filters, excluded)
        for row, removal in _with_removals(file, mapping, removals):
            if removal is None:
                counts["kept"] += 1
                kept_rows.write(to_line(row.columns))
                continue
            if isinstance(removal, Failure):
                reason, why = "unreadable", str(removal)
                _report_unreadable(row.number, why, counts[reason], removed)
            else:
                reason, why = removal.reason, removal.why
            counts[reason] += 1
            columns = {(f"input.{key}" if key in ADDED_COLUMNS else key): value for key, value in row.columns.items()}
            removed_rows.write(to_line({"row": row.number, "reason": reason, "why": why} | columns))
    if not quiet:
        stdout_console().print(filter_table(counts))
        print(f"The rows that pass are in {kept}, the removed rows and the reasons in {removed}.")
    if counts["unreadable"]:
        raise typer.Exit(1)


def filter_table(counts: Counter[str]) -> Table:
    table = plain_table("filter", "rows removed")
    for reason in ("unreadable", *REASONS):
        table.add_row(reason, f"{counts[reason]:,}")
    table.add_row("rows kept", f"{counts['kept']:,} of {counts.total():,}")
    return table


def _readable_items(file: str, mapping: dict[str, str], progress: RowProgress) -> Iterator[Item]:
    for row in read_rows(file, mapping):
        progress.add_row()
        if isinstance(row.item, Item):
            yield row.item


def _with_removals(
    file: str, mapping: dict[str, str], removals: list[Removal | None]
) -> Iterator[tuple[Row, Removal | Failure | None]]:
    """The rows of a file, read again, each with the reason to remove it or None."""
    left = deque(removals)
    for row in read_rows(file, mapping):
        if isinstance(row.item, Failure):
            yield row, row.item
        elif left:
            yield row, left.popleft()
        else:
            break
    else:
        if not left:
            return
    raise CannotRun(f"{file} changed while it was read; run again when it is finished")


def prompts_of(name: str) -> Iterator[Prompt]:
    """The prompts of a benchmark, or of a file whose rows need only a prompt."""
    if name.partition("@")[0] in DEMO_SPECS or not (name.startswith("hf:") or Path(name).expanduser().exists()):
        yield from (item.messages for item in load_benchmark(name).items)
        return
    for row in read_rows(name):
        prompt = row.columns.get("prompt") or row.columns.get("messages")
        found = row.item.messages if isinstance(row.item, Item) else parse_prompt(prompt)
        if isinstance(found, Failure):
            raise CannotRun(f"--against {name}, row {row.number}: {found.message}; correct or remove the row")
        yield found


def _check_paths(inputs: list[str], outputs: list[Path]) -> None:
    """Raises CannotRun for an output that is also an input, or whose name is not one of a JSONL file."""
    input_paths = {Path(name).expanduser().resolve() for name in inputs}
    for path in outputs:
        if path.resolve() in input_paths:
            raise CannotRun(f"{path} is an input of this run; give another name")
        if path.name.endswith((".csv", ".parquet", ".gz", ".zst")):
            raise CannotRun(f"{path}: rows are written as JSONL; give a name that ends in .jsonl")
    if len({path.resolve() for path in outputs}) < len(outputs):
        raise CannotRun("-o and --taken are the same file; give two names")


def _report_unreadable(number: int, why: str, reported: int, removed: Path) -> None:
    if reported < PRINTED_ROWS:
        print(f"row {number}: {why}", file=sys.stderr)
    elif reported == PRINTED_ROWS:
        print(f"more rows cannot be read: see {removed}", file=sys.stderr)


@contextmanager
def _atomic_file(path: Path) -> Iterator[BinaryIO]:
    """A file to write, which gets its name when it is complete."""
    part = path.with_name(path.name + ".part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(part, "wb") as file:
            try:
                yield file
                file.flush()
                part.replace(path)
            finally:
                part.unlink(missing_ok=True)
    except OSError as error:
        raise CannotRun(f"{path}: cannot be written: {error.strerror}") from error
