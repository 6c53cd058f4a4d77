"""`assay best`."""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from judges.batch.output import Options
from judges.batch.run import STANDARD_OUTPUT, Summary, score_file
from judges.cli.progress import RowProgress
from judges.cli.score import judge_of, load_policy
from judges.data.json_lines import to_line
from judges.data.readers import SHOWN, STANDARD_INPUT, format_of
from judges.data.rows import read_rows
from judges.data.shards import is_folder, is_stream, shards_of
from judges.data.writers import write_rows
from judges.engines.policy import Policy
from judges.errors import CannotRun
from judges.evaluation.report.markdown import visible
from judges.preferences.best_of_n import Curve, Expected, Pick, Scored, curve_of, picks, scored_of
from judges.preferences.best_of_n_plot import ticks, write_plot
from judges.scorer import Scorer, load_scorer, parse_spec
from judges.types import Item

LOOKED_AT = 64  # rows, to see before anything is judged whether there is something to choose from


@dataclass(frozen=True, slots=True)
class Wanted:
    """What `assay best` was asked for, as it was written."""

    source: str
    spec: str
    output: Path
    measure: str | None
    candidates: int | None
    policy: str | None
    options: Options


@dataclass(frozen=True, slots=True)
class Paths:
    """Where everything beside the output lies: under its name."""

    candidates: Path
    measured: Path
    numbers: Path
    plot: Path


@dataclass
class Told:
    """What became of the rows: `level` have their best score twice, of `partly` some candidates have none."""

    rows: int = 0
    level: int = 0
    partly: int = 0
    failures: Counter[str] = field(default_factory=Counter)


def run(wanted: Wanted, quiet: bool) -> None:
    paths = paths_of(wanted)
    check_source(wanted)
    with ExitStack() as stack:
        scorer, chosen = judge_of(wanted.spec, None, (), wanted.policy)
        stack.enter_context(scorer)
        policy = again = measure = None
        if wanted.candidates is not None:
            policy, again = (
                stack.enter_context(load_policy(wanted.policy, wanted.candidates, scorer, chosen)) for _ in range(2)
            )
        if wanted.measure is not None:
            name, settings = parse_spec(wanted.measure)
            measure = stack.enter_context(load_scorer(name, **settings))
        judge(wanted, scorer, policy, paths.candidates, quiet)
        told, scored = write_best(wanted, paths)
        measured: dict[int, Scored] | None = None
        if measure is not None:
            scorer.close()  # its memory is free for the other
            if policy is not None and again is not None:
                policy.close()
                # The same candidates, out of the store: nothing is written twice.
                again.reread(Path(wanted.options.store or f"{paths.candidates}.run/candidates.sqlite").expanduser())
            judge(wanted, measure, again, paths.measured, quiet)
            measured = {one.row: one for one in (scored_of(pick) for pick, _ in judged(wanted, paths.measured))}
    curve = curve_of(scored, measured)
    tell(told, wanted.output, quiet)
    show(curve, Names(scorer.name, None if measure is None else measure.name), paths, quiet)
    if told.failures:
        raise typer.Exit(1)


def paths_of(wanted: Wanted) -> Paths:
    """Where it goes. Raises CannotRun where that cannot be, or where something else lies there."""
    output = wanted.output
    form = format_of(output.name)
    if output == STANDARD_OUTPUT or form is None:
        raise CannotRun(f"-o {output}: it needs a file; there are {SHOWN}")
    stem = output.name[: -len("".join(form))]
    made = Paths(*(output.with_name(f"{stem}{end}") for end in (
        ".candidates.jsonl", ".measured.jsonl", ".curve.json", ".curve.png"
    )))  # fmt: skip
    for path in (output, made.candidates, made.measured):
        if not is_stream(wanted.source) and path.exists() and path.samefile(Path(wanted.source).expanduser()):
            raise CannotRun(f"{path} is the input itself; give another -o")
    if output.exists() and not made.candidates.exists():
        raise CannotRun(f"{output} exists and is not of assay best ({made.candidates.name} is not there); give another")
    return made


def check_source(wanted: Wanted) -> None:
    """Raises CannotRun where there is nothing to choose from, before anything is judged."""
    source, drawn = wanted.source, wanted.candidates is not None
    if wanted.policy and not drawn:
        raise CannotRun("--policy writes candidates: say how many with --candidates N")
    shards_of(source)
    if is_folder(source):
        raise CannotRun(f"{source!r} is a folder; give one of its files")
    if source == STANDARD_INPUT:
        if wanted.measure is not None:
            raise CannotRun("--measure reads the rows a second time: give a file in place of -")
        return
    beginning = list(islice(read_rows(source, wanted.options.mapping), LOOKED_AT))
    several = [row for row in beginning if isinstance(row.item, Item) and len(row.item.responses) > 1]
    if several or (drawn and any(row.prompt is not None for row in beginning)):
        return
    if any(row.prompt is not None for row in beginning):
        raise CannotRun(f"{source}: its prompts have no responses; --candidates N lets a model write N to each")
    if any(isinstance(row.item, Item) for row in beginning):
        raise CannotRun(
            f"{source}: one response a row, and the best is one of several: give rows with responses, a list"
            " (--map responses=COLUMN), or prompts without a response and --candidates N"
        )


def judge(wanted: Wanted, scorer: Scorer, policy: Policy | None, output: Path, quiet: bool) -> None:
    with RowProgress(scorer.name, wanted.options.limit, quiet) as progress:

        def told(summary: Summary) -> None:
            now = summary.failed - summary.failed_before
            progress.at(summary.written, now, summary.usage, summary.share, summary.resumed)

        score_file(wanted.source, scorer, output, wanted.options, told, policy)


def judged(wanted: Wanted, path: Path) -> Iterator[tuple[Pick, dict[str, Any]]]:
    return picks(path, wanted.options.mapping)


def write_best(wanted: Wanted, paths: Paths) -> tuple[Told, list[Scored]]:
    like = None if is_stream(wanted.source) else Path(wanted.source).expanduser()
    write_rows(lambda: (to_line(row) for _, row in judged(wanted, paths.candidates)), wanted.output, like)
    told, scored = Told(), []
    for pick, _ in judged(wanted, paths.candidates):
        told.rows += 1
        told.level += pick.level
        told.partly += pick.place is not None and None in pick.scores
        if pick.failure is not None:
            told.failures[pick.failure.reason] += 1
        scored.append(scored_of(pick))
    return told, scored


def tell(told: Told, output: Path, quiet: bool) -> None:
    if quiet:
        return
    failed = ", ".join(f"{count:,} {reason}" for reason, count in told.failures.most_common())
    best = told.rows - told.failures.total()
    print(visible(f"{output}: the best of {best:,} of {told.rows:,} prompts"), file=sys.stderr)
    if failed:
        print(f"  no candidate has a score: {failed}; with --retry-failed those are judged again", file=sys.stderr)
    if told.partly:
        print(f"  {told.partly:,} prompts: some candidate has no score; the best of the others", file=sys.stderr)
    if told.level:
        line = f"  {told.level:,} prompts: different texts share the best score, so the scorer did not decide;"
        print(f"{line} the earliest was taken", file=sys.stderr)


# -- the curve -----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Names:
    """Who picks, and who measures."""

    scorer: str
    measure: str | None


def show(curve: Curve | None, names: Names, paths: Paths, quiet: bool) -> None:
    """Write the curve's numbers and plot, and print some of it."""
    for path in (paths.numbers, paths.plot):
        path.unlink(missing_ok=True)
    if curve is None:
        if not quiet:
            print("  no curve: there is no prompt of which all candidates have a score", file=sys.stderr)
        return
    paths.numbers.write_text(json.dumps(asdict(names) | asdict(curve), indent=2, ensure_ascii=False) + "\n", "utf-8")
    try:
        write_plot(curve, names.scorer, names.measure, paths.plot)
        written = f"{paths.numbers}, {paths.plot.name}"
    except CannotRun as error:
        written = f"{paths.numbers}; no plot: {error}"
    if quiet:
        return
    Console(width=None if sys.stdout.isatty() else 120).print(table(curve, names))
    for why, count in curve.left_out.items():
        print(f"  left out of the curve: {count:,} prompts, {why}", file=sys.stderr)
    print(visible(f"  {written}"), file=sys.stderr)


def table(curve: Curve, names: Names) -> Table:
    shown = Table(title=f"Best of n, {curve.prompts:,} prompts", title_justify="left", box=None)
    shown.add_column("n", justify="right")
    shown.add_column("KL at most, nats", justify="right")
    shown.add_column(escape(f"{names.scorer} picks (95 %)"), justify="right")
    if names.measure is not None:
        shown.add_column(escape(f"{names.measure} measures (95 %)"), justify="right")
    for n in ticks(curve.candidates):
        point = curve.points[n - 1]
        cells = [_told(one) for one in (point.picked, point.measured) if one is not None]
        shown.add_row(str(n), f"{point.kl:.2f}", *cells)
    return shown


def _told(one: Expected) -> str:
    if one.low is None or one.high is None:
        return f"{one.value:.4g}"
    return escape(f"{one.value:.4g} [{one.low:.4g}, {one.high:.4g}]")
