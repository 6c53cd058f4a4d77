"""`assay calibrate`."""

from __future__ import annotations

import sys
from importlib.metadata import version
from pathlib import Path

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from judges.cli.progress import RowProgress
from judges.errors import CannotRun
from judges.evaluation.benchmarks import load_benchmark
from judges.evaluation.metrics.calibration import AFTER, fit_temperature, margins_of, measure
from judges.evaluation.report.markdown import visible
from judges.evaluation.results import Number
from judges.scorer import load_scorer, parse_spec, plain
from judges.scorers.calibrated import (
    Calibrated,
    Calibration,
    as_mapping,
    check_writable,
    own_say,
    write_calibration,
)

METRICS = ("ece, equal width", "ece, equal mass", "brier", "log loss")
FEW = 100  # pairs, below which a temperature is a guess


def run(file: str, spec: str, output: Path, limit: int | None, quiet: bool) -> None:
    benchmark = load_benchmark(file, limit=limit)
    if not any(item.gold is not None and item.gold.chosen is not None for item in benchmark.items):
        raise CannotRun(f"{file}: no row has a chosen response, which a temperature is fitted on")
    name, settings = parse_spec(spec)
    with load_scorer(name, **settings) as scorer:
        if isinstance(scorer, Calibrated):
            raise CannotRun("a calibrated scorer has its temperature: calibrate the one inside")
        check_writable(output)
        if remember := getattr(scorer, "remember", None):  # the store makes its folder when it is first used
            remember(output.with_name(output.name + ".run") / "completions.sqlite")
        cards = {}
        with RowProgress(_shown(f"{name} on {benchmark.name}"), len(benchmark.items), quiet) as progress:
            for card in scorer.stream(iter(benchmark.items)):
                cards[card.id] = card
                progress.row(card.usage)
        identity = plain(scorer.identity())
    pairs = margins_of(benchmark.items, cards)
    if not len(pairs.margins):
        raise CannotRun(f"{name} judged none of {pairs.left_out} pairs: nothing to fit")
    if pairs.unit != "scores":
        raise CannotRun(f"{name} gives no scores, only its {pairs.unit}: there is nothing that a temperature divides")
    numbers, _ = measure(benchmark.items, cards)
    fitted = fit_temperature(pairs.margins)
    if fitted is None:
        raise CannotRun(f"{name} scores both responses of every pair alike: there is nothing to fit")
    console = Console(width=None if sys.stdout.isatty() else 140)
    console.print(table(f"{name} on {benchmark.name}", numbers))
    if fitted.why:
        raise CannotRun(f"no temperature of {len(pairs.margins)} pairs: {fitted.why}")
    write_calibration(
        Calibration(
            temperature=fitted.value,
            rows=len(pairs.margins),
            benchmark=benchmark.name,
            data=benchmark.digest,
            scorer=as_mapping(spec),
            identity=identity,
            assay=version("assay"),
        ),
        output,
    )
    if len(pairs.margins) < FEW:
        print(f"only {len(pairs.margins)} pairs: the temperature is a guess", file=sys.stderr)
    use = "".join(f",{key}={value}" for key, value in own_say(as_mapping(spec)).items())
    told = f"Temperature {fitted.value:.4g} in {output}; use it as --scorer calibrated,file={output}{use}"
    console.print(_shown(told), soft_wrap=True)
    if pairs.left_out:
        of = f"{pairs.left_out} of {pairs.left_out + len(pairs.margins)} pairs"
        print(f"{of} failed and were left out{f' ({pairs.beyond})' if pairs.huge else ''}", file=sys.stderr)
        raise typer.Exit(1)


def table(title: str, numbers: tuple[Number, ...]) -> Table:
    found = {number.metric: number for number in numbers}
    whole = found["temperature"]
    title = _shown(f"{title}: {whole.rows} pairs, {whole.prompts} prompts")
    shown = Table(title=title, title_justify="left", box=None)
    for column in ("95 % interval in brackets", "as it is", "after a temperature fitted on other rows"):
        shown.add_column(column, justify="left" if column[0] == "9" else "right", no_wrap=True)
    for metric in METRICS:
        shown.add_row(metric, _told(found[metric]), _told(found.get(f"{metric}, {AFTER}")))
    shown.add_row("temperature", "", _told(whole))
    return shown


def _shown(text: str) -> str:
    """Text with names of files in it: no markup, no control characters of a terminal."""
    return escape(visible(text))


def _told(number: Number | None) -> str:
    if number is None or number.value is None:
        return "-"
    if number.low is None or number.high is None:
        return f"{number.value:.4g}"
    return f"{number.value:.4g} [{number.low:.4g}, {number.high:.4g}]"
