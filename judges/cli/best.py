"""`assay best`: the best of N candidates of each prompt, and the expected score of the best of n."""

from __future__ import annotations

import json
import sys
from collections import Counter
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path

import typer
from rich.table import Table

from judges.batch.output import ScoreOptions
from judges.batch.run import STANDARD_OUTPUT, score_file
from judges.cli.progress import RowProgress
from judges.cli.scorer_options import load_judge, load_policy
from judges.cli.terminal import escape_text, format_interval, plain_table, stdout_console
from judges.data.json_lines import to_line
from judges.data.readers import STANDARD_INPUT, SUPPORTED_FORMATS, format_of
from judges.data.rows import read_rows
from judges.data.shards import is_folder, is_stream, list_shards
from judges.data.writers import write_rows
from judges.engines.policy import Policy
from judges.errors import CannotRun
from judges.evaluation.report.markdown import escape_invisible
from judges.preferences.best_of_n import (
    BestOfNCurve,
    CandidateScores,
    candidate_scores,
    compute_curve,
    log2_ticks,
    read_best,
    write_plot,
)
from judges.scorer import Scorer, load_scorer, parse_spec
from judges.types import Item

PROBE_ROWS = 64  # read before anything is judged, to see whether there is something to choose from


@dataclass(frozen=True, slots=True)
class BestConfig:
    """The arguments of `assay best`, as they were written."""

    source: str
    spec: str
    output: Path
    measure: str | None
    candidates: int | None
    policy: str | None
    options: ScoreOptions


@dataclass(frozen=True, slots=True)
class Paths:
    """The files beside the output, named after it."""

    candidates: Path
    measured: Path
    numbers: Path
    plot: Path


@dataclass
class Outcome:
    """How many rows were written; `ties` have two different best responses, `partial` have unscored candidates."""

    rows: int = 0
    ties: int = 0
    partial: int = 0
    failures: Counter[str] = field(default_factory=Counter)


def run(config: BestConfig, quiet: bool) -> None:
    paths = output_paths(config)
    check_source(config)
    with ExitStack() as stack:
        scorer, settings = load_judge(config.spec, None, (), config.policy)
        stack.enter_context(scorer)
        policy = stored_policy = measure = None
        if config.candidates is not None:
            policy, stored_policy = (
                stack.enter_context(load_policy(config.policy, config.candidates, scorer, settings)) for _ in range(2)
            )
        if config.measure is not None:
            name, measure_settings = parse_spec(config.measure)
            measure = stack.enter_context(load_scorer(name, **measure_settings))
        score_candidates(config, scorer, policy, paths.candidates, quiet)
        outcome, scored = write_best(config, paths)
        measured: dict[int, CandidateScores] | None = None
        if measure is not None:
            scorer.close()  # frees its memory for the second scorer
            if policy is not None and stored_policy is not None:
                policy.close()
                # The same candidates, from the store: nothing is sampled twice.
                store = config.options.store or f"{paths.candidates}.run/candidates.sqlite"
                stored_policy.reread(Path(store).expanduser())
            score_candidates(config, measure, stored_policy, paths.measured, quiet)
            scores = (candidate_scores(best) for best, _ in read_best(paths.measured, config.options.mapping))
            measured = {score.row: score for score in scores}
    curve = compute_curve(scored, measured)
    print_outcome(outcome, config.output, quiet)
    report_curve(curve, ScorerNames(scorer.name, None if measure is None else measure.name), paths, quiet)
    if outcome.failures:
        raise typer.Exit(1)


def output_paths(config: BestConfig) -> Paths:
    """Raises CannotRun for an output that cannot be written, or that is not of `assay best`."""
    output = config.output
    form = format_of(output.name)
    if output == STANDARD_OUTPUT or form is None:
        raise CannotRun(f"-o {output}: it needs a file; there are {SUPPORTED_FORMATS}")
    stem = output.name[: -len("".join(form))]
    endings = (".candidates.jsonl", ".measured.jsonl", ".curve.json", ".curve.png")
    paths = Paths(*(output.with_name(f"{stem}{ending}") for ending in endings))
    for path in (output, paths.candidates, paths.measured):
        if not is_stream(config.source) and path.exists() and path.samefile(Path(config.source).expanduser()):
            raise CannotRun(f"{path} is the input itself; give another -o")
    if output.exists() and not paths.candidates.exists():
        raise CannotRun(
            f"{output} exists and is not of assay best ({paths.candidates.name} is not there); give another -o"
        )
    return paths


def check_source(config: BestConfig) -> None:
    """Raises CannotRun, before anything is judged, for a source that has nothing to choose from."""
    source, sampled = config.source, config.candidates is not None
    if config.policy and not sampled:
        raise CannotRun("--policy writes candidates: say how many with --candidates N")
    list_shards(source)
    if is_folder(source):
        raise CannotRun(f"{source!r} is a folder; give one of its files")
    if source == STANDARD_INPUT:
        if config.measure is not None:
            raise CannotRun("--measure reads the rows a second time: give a file in place of -")
        return
    first_rows = list(islice(read_rows(source, config.options.mapping), PROBE_ROWS))
    with_several = [row for row in first_rows if isinstance(row.item, Item) and len(row.item.responses) > 1]
    if with_several or (sampled and any(row.prompt is not None for row in first_rows)):
        return
    if any(row.prompt is not None for row in first_rows):
        raise CannotRun(f"{source}: its prompts have no responses; --candidates N lets a model write N to each")
    if any(isinstance(row.item, Item) for row in first_rows):
        raise CannotRun(
            f"{source}: one response a row, and the best is one of several: give rows with responses, a list"
            " (--map responses=COLUMN), or prompts without a response and --candidates N"
        )


def score_candidates(config: BestConfig, scorer: Scorer, policy: Policy | None, output: Path, quiet: bool) -> None:
    with RowProgress(scorer.name, config.options.limit, quiet) as progress:
        score_file(config.source, scorer, output, config.options, progress.update, policy)


def write_best(config: BestConfig, paths: Paths) -> tuple[Outcome, list[CandidateScores]]:
    """Write the best response of each prompt; returns the counts and the scores of all candidates."""
    mapping = config.options.mapping
    like = None if is_stream(config.source) else Path(config.source).expanduser()
    write_rows(lambda: (to_line(row) for _, row in read_best(paths.candidates, mapping)), config.output, like)
    outcome, scored = Outcome(), []
    for best, _ in read_best(paths.candidates, mapping):
        outcome.rows += 1
        outcome.ties += best.tied
        outcome.partial += best.index is not None and None in best.scores
        if best.failure is not None:
            outcome.failures[best.failure.reason] += 1
        scored.append(candidate_scores(best))
    return outcome, scored


def print_outcome(outcome: Outcome, output: Path, quiet: bool) -> None:
    if quiet:
        return
    failed = ", ".join(f"{count:,} {reason}" for reason, count in outcome.failures.most_common())
    best = outcome.rows - outcome.failures.total()
    lines = [escape_invisible(f"{output}: the best response for {best:,} of {outcome.rows:,} prompts")]
    if failed:
        lines.append(f"  no candidate has a score: {failed}; --retry-failed judges those prompts again")
    if outcome.partial:
        lines.append(f"  {outcome.partial:,} prompts have candidates without a score; the best of the others was taken")
    if outcome.ties:
        lines.append(f"  {outcome.ties:,} prompts have different responses with the best score; the first was taken")
    print("\n".join(lines), file=sys.stderr)


# -- the curve -----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ScorerNames:
    """The scorer that picks, and the one that measures the picked responses."""

    scorer: str
    measure: str | None


def report_curve(curve: BestOfNCurve | None, names: ScorerNames, paths: Paths, quiet: bool) -> None:
    """Write the curve's numbers and plot, and print some of its points."""
    for path in (paths.numbers, paths.plot):
        path.unlink(missing_ok=True)
    if curve is None:
        if not quiet:
            print("  no curve: there is no prompt whose candidates all have a score", file=sys.stderr)
        return
    paths.numbers.write_text(json.dumps(asdict(names) | asdict(curve), indent=2, ensure_ascii=False) + "\n", "utf-8")
    try:
        write_plot(curve, names.scorer, names.measure, paths.plot)
        written = f"{paths.numbers}, {paths.plot.name}"
    except CannotRun as error:
        written = f"{paths.numbers}; no plot: {error}"
    if quiet:
        return
    stdout_console(120).print(curve_table(curve, names))
    for reason, count in curve.left_out.items():
        print(f"  left out of the curve: {count:,} prompts, {reason}", file=sys.stderr)
    print(escape_invisible(f"  {written}"), file=sys.stderr)


def curve_table(curve: BestOfNCurve, names: ScorerNames) -> Table:
    columns = ["n", "KL at most, nats", escape_text(f"score by {names.scorer} (95 %)")]
    if names.measure is not None:
        columns.append(escape_text(f"score by {names.measure} (95 %)"))
    title = f"Expected score of the best of n, {curve.prompts:,} prompts"
    table = plain_table(*columns, left=0, title=title)
    for n in log2_ticks(curve.candidates):
        point = curve.points[n - 1]
        expected = [value for value in (point.picked, point.measured) if value is not None]
        cells = [escape_text(format_interval(value.value, value.low, value.high)) for value in expected]
        table.add_row(str(n), f"{point.kl:.2f}", *cells)
    return table
