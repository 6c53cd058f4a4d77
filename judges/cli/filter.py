"""`assay filter`."""

from __future__ import annotations

import sys
from collections import Counter, deque
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import typer
from rich.console import Console
from rich.table import Table

from judges.cli.progress import RowProgress
from judges.data.items import conversation
from judges.data.json_lines import to_line
from judges.data.quality import REASONS, Filters, Prompt, Taken, decide
from judges.data.rows import Row, read_rows
from judges.errors import CannotRun
from judges.evaluation.benchmarks import NAMED, load_benchmark
from judges.types import Failure, Item

OURS = ("row", "reason", "why")  # what a taken row adds; an input column of the same name is kept as "input.NAME"
TOLD = 5  # unreadable rows told one by one; the others are in the file of what was taken


def run(
    file: str,
    kept: Path,
    taken: Path | None,
    mapping: dict[str, str],
    filters: Filters,
    against: list[str],
    quiet: bool,
) -> None:
    taken = taken or kept.with_name(kept.name.removesuffix(".jsonl") + ".taken.jsonl")
    _check_paths([file, *against], [kept, taken])
    shared = {name: prompts_of(name) for name in against}
    counts: Counter[str] = Counter()
    with _whole_file(kept) as kept_rows, _whole_file(taken) as taken_rows:
        with RowProgress("filter", None, quiet) as progress:
            verdicts = decide(_readable(file, mapping, progress), filters, shared)
        for row, verdict in _judged(file, mapping, verdicts):
            if verdict is None:
                counts["kept"] += 1
                kept_rows.write(to_line(row.columns))
                continue
            if isinstance(verdict, Failure):
                reason, why = "unreadable", str(verdict)
                _tell(row.number, why, counts[reason], taken)
            else:
                reason, why = verdict.reason, verdict.why
            counts[reason] += 1
            columns = {(f"input.{key}" if key in OURS else key): value for key, value in row.columns.items()}
            taken_rows.write(to_line({"row": row.number, "reason": reason, "why": why} | columns))
    if not quiet:
        console = Console(width=None if sys.stdout.isatty() else 140)
        console.print(table(counts))
        print(f"Kept rows in {kept}, the others with their reasons in {taken}.")
    if counts["unreadable"]:
        raise typer.Exit(1)


def table(counts: Counter[str]) -> Table:
    shown = Table(box=None)
    shown.add_column("filter")
    shown.add_column("rows taken", justify="right")
    for reason in ("unreadable", *REASONS):
        shown.add_row(reason, f"{counts[reason]:,}")
    shown.add_row("rows kept", f"{counts['kept']:,} of {counts.total():,}")
    return shown


def _readable(file: str, mapping: dict[str, str], progress: RowProgress) -> Iterator[Item]:
    for row in read_rows(file, mapping):
        progress.row()
        if isinstance(row.item, Item):
            yield row.item


def _judged(
    file: str, mapping: dict[str, str], verdicts: list[Taken | None]
) -> Iterator[tuple[Row, Taken | Failure | None]]:
    """The rows of a file, read again, each with what was said of it."""
    left = deque(verdicts)
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
    """The prompts of a benchmark, or of a file whose rows need nothing else."""
    if name.partition("@")[0] in NAMED or not (name.startswith("hf:") or Path(name).expanduser().exists()):
        yield from (item.messages for item in load_benchmark(name).items)
        return
    for row in read_rows(name):
        prompt = row.columns.get("prompt") or row.columns.get("messages")
        found = row.item.messages if isinstance(row.item, Item) else conversation(prompt)
        if isinstance(found, Failure):
            raise CannotRun(f"--against {name}, row {row.number}: {found.message}; mend or remove it")
        yield found


def _check_paths(inputs: list[str], outputs: list[Path]) -> None:
    """Nothing that is read is written over, and nothing is called what it is not."""
    read = {Path(name).expanduser().resolve() for name in inputs}
    for path in outputs:
        if path.resolve() in read:
            raise CannotRun(f"{path} is read in this run; give another name")
        if path.name.endswith((".csv", ".parquet", ".gz", ".zst")):
            raise CannotRun(f"{path}: rows are written as JSONL; give a name that ends in .jsonl")
    if len({path.resolve() for path in outputs}) < len(outputs):
        raise CannotRun("-o and --taken are one file; give two names")


def _tell(number: int, why: str, told: int, taken: Path) -> None:
    if told < TOLD:
        print(f"row {number}: {why}", file=sys.stderr)
    elif told == TOLD:
        print(f"more rows that cannot be read: see {taken}", file=sys.stderr)


@contextmanager
def _whole_file(path: Path) -> Iterator[BinaryIO]:
    """A file that is there when all of it is written, and not before."""
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
