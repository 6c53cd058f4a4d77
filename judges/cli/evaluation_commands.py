"""The options of `assay compare`, `report`, `attack`, `calibrate`, `estimate` and `explain`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from typer import Argument, Option

from judges.cli import options as opt

PAIR_FILE = "Rows of prompt, chosen, rejected, or a benchmark as for compare."


def compare(
    config: Annotated[Path | None, Argument(help="YAML file: benchmarks, scorers, judgments, limit …")] = None,
    benchmark: Annotated[
        list[str] | None,
        Option(help="NAME, NAME:SOURCE or your own file; @SUBSET at its end selects a subset. Repeatable."),
    ] = None,
    scorer: Annotated[list[str] | None, Option(help="Scorer to compare. Repeatable.", metavar="SPEC")] = None,
    judgments: Annotated[
        list[str] | None, Option(help="File of scores or verdicts from another tool. Repeatable.")
    ] = None,
    output: opt.OutputFolder = Path("runs/compare"),
    limit: opt.SubsetLimit = None,
    attacks: Annotated[int | None, Option(min=1, help="Attack the losing responses of so many pairs as well.")] = None,
    against: Annotated[Path | None, Option(help="Folder of an earlier run to compare with.")] = None,
    fail_if_worse: Annotated[
        float | None, Option(min=0, help="Exit 1 if a headline number fell by more than so many points.")
    ] = None,
    dry_run: Annotated[
        bool, Option("--dry-run", help="Judge a few rows, estimate tokens and hours, write nothing.")
    ] = False,
    subsets: Annotated[bool, Option(help="Print a table by subset as well.")] = False,
    references: Annotated[
        bool, Option("--references", help="Show published results of the benchmark in the same table.")
    ] = False,
    quiet: opt.Quiet = False,
) -> None:
    """Compare scorers on benchmarks: prints a table, writes a report, results.json and every judgment."""
    from judges.cli.compare import run
    from judges.cli.compare_config import CompareConfig, merge_config

    flags = CompareConfig(tuple(benchmark or ()), tuple(scorer or ()), tuple(judgments or ()), limit, attacks)
    run(merge_config(config, flags), output, against, fail_if_worse, dry_run, subsets, references, quiet)


def report(
    folder: Annotated[Path, Argument(help="Output folder of assay compare.")],
    later: Annotated[Path | None, Argument(help="A second run: report what changed from the first run.")] = None,
    output: Annotated[
        Path | None,
        Option("-o", "--output", help="Folder to write to.", show_default="the folder of the last run"),
    ] = None,
    quiet: opt.Quiet = False,
) -> None:
    """Write report.html, report.md, numbers.csv and plots of a run, or what changed between two runs."""
    from judges.cli.report import run

    run(folder, later, output, quiet)


def attack(
    file: Annotated[str, Argument(help=PAIR_FILE)],
    scorer: opt.ScorerSpec,
    output: opt.OutputFolder,
    attack: Annotated[
        list[str] | None, Option(help="Run only this attack and the harmless change. Repeatable.")
    ] = None,
    limit: opt.SubsetLimit = None,
    quiet: opt.Quiet = False,
) -> None:
    """Measure how often a losing response wins after each attack on the judge, such as a prompt injection."""
    from judges.cli.attack import run

    run(file, scorer, attack or [], output, limit, quiet)


def calibrate(
    file: Annotated[str, Argument(help=PAIR_FILE)],
    scorer: opt.ScorerSpec,
    output: Annotated[Path, Option("-o", "--output", help="JSON file for the temperature.")],
    limit: opt.SubsetLimit = None,
    quiet: opt.Quiet = False,
) -> None:
    """Fit the temperature that turns score margins into probabilities, for --scorer calibrated,file=…"""
    from judges.cli.calibrate import run

    run(file, scorer, output, limit, quiet)


def estimate(
    file: Annotated[str, Argument(help="JSONL, CSV or Parquet: a verdict in every row, a human label in some.")],
    verdict: Annotated[str, Option(help="Column of the judge's verdicts: numbers, or true and false.")],
    label: Annotated[str, Option(help="Column of the human labels, empty where there is none.")],
    group: Annotated[str | None, Option(help="Column to group by: one more estimate per group.")] = None,
    prompt: Annotated[str | None, Option(help="Column of the prompt: rows that share it are not independent.")] = None,
    quiet: opt.Quiet = False,
) -> None:
    """Estimate a mean or rate from a judge's verdicts, corrected by human labels, with a confidence interval."""
    from judges.cli.estimate import run

    run(file, verdict, label, group, prompt, quiet)


def explain(
    file: Annotated[str, Argument(help="JSONL, CSV or Parquet file, or demo.")],
    scorer: opt.ScorerSpec,
    row: Annotated[int, Option(min=1, help="Number of the row; the first is 1.")] = 1,
) -> None:
    """Show how one row is judged: the messages sent, the completions, and where the score was read."""
    from judges.cli.explain import run

    run(file, scorer, row)
