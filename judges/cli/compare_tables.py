"""The tables that `assay compare` prints."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rich.table import Table

from judges.cli.terminal import escape_text, format_share, plain_table
from judges.evaluation.benchmarks.base import Benchmark
from judges.evaluation.gate import Change
from judges.evaluation.references import PublishedScore
from judges.evaluation.results import BenchmarkInfo, MetricValue, Result

LEGEND = """In brackets: 95 % confidence interval. failed: rows without a verdict. worst case: these counted as wrong.
longer wins: share of pairs in which the longer response was preferred. forced: verdicts that the judge was made to
give because its text had none."""


@dataclass(frozen=True, slots=True)
class CostEstimate:
    """The cost of a scorer on a benchmark: prompt tokens to compute, tokens to generate, hours.

    `failed` counts failures among the few Items that were judged to estimate it.
    """

    label: str
    items: int
    computed: int
    generated: int
    hours: float
    failed: int


def result_table(info: BenchmarkInfo, results: Sequence[Result], published: Sequence[PublishedScore]) -> Table:
    headline = info.headline.removeprefix("official ")
    table = plain_table(title=escape_text(f"{info.title}: {info.items} rows"))
    columns = (f"{headline} (95 %)", "ties", "failed", "worst case", "longer wins", "forced", "tokens", "seconds")
    table.add_column("scorer", overflow="fold")
    for column in columns:
        table.add_column(escape_text(column), justify="right", overflow="fold")
    for result in results:
        accuracy = result.number("accuracy") or result.main
        longer = result.number("length: longer preferred")
        part = f" ({result.main.rows + result.main.left_out} rows)" if result.digest != info.digest else ""
        other_headline = f" {result.headline[0]}" if " ".join(filter(None, result.headline)) != info.headline else ""
        table.add_row(
            escape_text(f"{result.label}{part}{' (recorded)' if result.published else ''}"),
            escape_text(format_number(result.main) + other_headline),
            str(accuracy.ties),
            _failed_share(accuracy),
            format_share(result.main.worst, None, None),
            format_share(longer.value if longer else None, None, None),
            str(sum(count for read, count in result.reads.items() if read.startswith("forced"))),
            f"{result.usage.prompt_tokens + result.usage.generated_tokens:,}",
            f"{result.seconds:.1f}",
        )
    for row in published:
        if row.section == headline:
            name = escape_text(f"{row.model} (published {row.date})")
            table.add_row(name, f"{row.score:.1f}", *["-"] * (len(columns) - 1))
    return table


def subset_table(results: Sequence[Result]) -> Table:
    table = plain_table("subset", *(escape_text(result.label) for result in results), title="by subset")
    metrics = ("official", "by the official rules", "accuracy", "kendall tau-b, per prompt")
    numbers = results[0].numbers
    for metric in metrics:
        for section in (number.section for number in numbers if number.metric == metric and number.section):
            name = section if metric == "accuracy" else f"{metric}: {section}"
            table.add_row(escape_text(name), *_cells(results, metric, section))
    return table


def cost_table(benchmark: Benchmark, estimates: Sequence[CostEstimate]) -> Table:
    table = plain_table(
        *("scorer", "rows", "prompt tokens computed", "tokens generated", "hours", "failed in the sample"),
        title=escape_text(f"{benchmark.shown_name}: estimated from a sample of rows that were judged now.")
        + "\nThe hours are an upper bound: an engine is faster with a full batch than with a few rows.",
        no_wrap=True,
    )
    for estimate in estimates:
        table.add_row(
            escape_text(estimate.label),
            f"{estimate.items:,}",
            f"{estimate.computed:,}",
            f"{estimate.generated:,}",
            f"{estimate.hours:.2g}",
            str(estimate.failed),
        )
    return table


def change_table(changes: Sequence[Change], against: str) -> Table:
    """The change of each scorer since an earlier run, or the reason why the runs cannot be compared."""
    table = plain_table("scorer", "change", "failures", left=3, title=escape_text(f"against {against}"))
    table.show_header = False
    for change in changes:
        points = f"not compared: {change.why}"
        if change.contrast is not None:
            interval = f"[{100 * change.contrast.low:+.1f}, {100 * change.contrast.high:+.1f}]"
            points = f"{100 * change.contrast.difference:+.1f} {interval} points"
        both = ((change.before, "before"), (change.after, "now"))
        failed = [f"{number.left_out} rows failed {when}" for number, when in both if number]
        name = escape_text(f"{change.label} on {change.benchmark}")
        table.add_row(name, escape_text(points), escape_text(", ".join(failed)))
    return table


def attack_table(info: BenchmarkInfo, results: Sequence[Result]) -> Table | None:
    """How often a losing response wins after each attack; None where no pair could be attacked."""
    metric = "attack: wins"
    attacks = {n.section: None for result in results for n in result.numbers if n.metric == metric}
    if not attacks:
        return None
    title = escape_text(f"{info.title}: % of attacked pairs in which the losing response wins")
    table = plain_table("attack", *(escape_text(result.label) for result in results), title=title)
    for attack in attacks:
        table.add_row(escape_text(attack), *_cells(results, metric, attack))
    return table


def _cells(results: Sequence[Result], metric: str, section: str) -> list[str]:
    numbers = [result.number(metric, section) for result in results]
    return [escape_text("-" if number is None else format_number(number)) for number in numbers]


def format_number(number: MetricValue) -> str:
    """A value and its interval in hundredths, for shares and correlations alike."""
    return format_share(number.value, number.low, number.high, missing=number.note or "none judged")


def _failed_share(number: MetricValue) -> str:
    total = number.rows + number.left_out
    return f"{number.left_out / total:.0%}" if total else "-"
