"""`assay calibrate`: temperature scaling of a scorer (Guo et al. 2017, arXiv 1706.04599)."""

from __future__ import annotations

import sys
from importlib.metadata import version
from pathlib import Path

import typer
from rich.table import Table

from judges.cli.progress import RowProgress
from judges.cli.terminal import escape_text, format_metric, plain_table, print_text, stdout_console
from judges.errors import CannotRun
from judges.evaluation.benchmarks import load_benchmark
from judges.evaluation.metrics.calibration import AFTER, fit_temperature, margins_of, measure
from judges.evaluation.results import MetricValue
from judges.scorer import json_round_trip, load_scorer, parse_spec
from judges.scorers.calibrated import (
    Calibrated,
    Calibration,
    ensure_writable,
    spec_mapping,
    untrusted_settings,
    write_calibration,
)

METRICS = ("ece, equal width", "ece, equal mass", "brier", "log loss")
FEW_PAIRS = 100  # below this number the temperature is uncertain


def run(file: str, spec: str, output: Path, limit: int | None, quiet: bool) -> None:
    benchmark = load_benchmark(file, limit=limit)
    if not any(item.gold is not None and item.gold.chosen is not None for item in benchmark.items):
        raise CannotRun(f"{file}: no row has a chosen response, which is needed to fit a temperature")
    name, settings = parse_spec(spec)
    with load_scorer(name, **settings) as scorer:
        if isinstance(scorer, Calibrated):
            raise CannotRun("a calibrated scorer has a temperature already: calibrate the scorer inside it")
        ensure_writable(output)
        scorer.use_store(output.with_name(output.name + ".run") / "completions.sqlite")
        with RowProgress(f"{name} on {benchmark.name}", len(benchmark.items), quiet) as progress:
            cards = {card.id: card for card in progress.count(scorer.stream(iter(benchmark.items)))}
        identity = json_round_trip(scorer.identity())
    pairs = margins_of(benchmark.items, cards)
    if not len(pairs.margins):
        raise CannotRun(f"{name} judged none of {pairs.left_out} pairs: there is nothing to fit")
    if pairs.unit != "scores":
        raise CannotRun(f"{name} gives no scores, only its {pairs.unit}: a temperature divides scores")
    numbers, _ = measure(benchmark.items, cards)
    fitted = fit_temperature(pairs.margins)
    if fitted is None:
        raise CannotRun(f"{name} gives both responses of every pair the same score: there is nothing to fit")
    console = stdout_console()
    console.print(calibration_table(f"{name} on {benchmark.name}", numbers))
    if fitted.why:
        raise CannotRun(f"no temperature can be fitted on {len(pairs.margins)} pairs: {fitted.why}")
    write_calibration(
        Calibration(
            temperature=fitted.value,
            rows=len(pairs.margins),
            benchmark=benchmark.name,
            data=benchmark.digest,
            scorer=spec_mapping(spec),
            identity=identity,
            assay=version("assay"),
        ),
        output,
    )
    if len(pairs.margins) < FEW_PAIRS:
        print(f"only {len(pairs.margins)} pairs: the temperature is uncertain", file=sys.stderr)
    use = "".join(f",{key}={value}" for key, value in untrusted_settings(spec_mapping(spec)).items())
    spec = f"calibrated,file={output}{use}"
    print_text(console, f"The temperature {fitted.value:.4g} is in {output}; use it as --scorer {spec}")
    if pairs.left_out:
        count = f"{pairs.left_out} of {pairs.left_out + len(pairs.margins)} pairs"
        print(f"{count} failed and were left out{f' ({pairs.beyond})' if pairs.huge else ''}", file=sys.stderr)
        raise typer.Exit(1)


def calibration_table(title: str, numbers: tuple[MetricValue, ...]) -> Table:
    by_metric = {number.metric: number for number in numbers}
    temperature = by_metric["temperature"]
    table = plain_table(
        *("95 % interval in brackets", "uncalibrated", "with a temperature fitted on other rows"),
        title=escape_text(f"{title}: {temperature.rows} pairs, {temperature.prompts} prompts"),
        no_wrap=True,
    )
    for metric in METRICS:
        table.add_row(metric, format_metric(by_metric[metric]), format_metric(by_metric.get(f"{metric}, {AFTER}")))
    table.add_row("temperature", "", format_metric(temperature))
    return table
