"""The tables that `assay compare` prints."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from judges.evaluation.benchmarks.base import Benchmark
from judges.evaluation.gate import Change
from judges.evaluation.references import Published
from judges.evaluation.report.markdown import visible
from judges.evaluation.results import Measurement, Number, Result


@dataclass(frozen=True, slots=True)
class Estimate:
    """What a scorer would cost on a benchmark: computed and generated tokens, hours, and failures among the few."""

    label: str
    items: int
    computed: int
    generated: int
    hours: float
    failed: int


def results(measured: Measurement, found: Sequence[Result], published: Sequence[Published]) -> Table:
    shown = Table(title=text(f"{measured.title}: {measured.items} rows"), title_justify="left", box=None)
    headline = f"{measured.headline.removeprefix('official ')} (95 %)"
    for column in ("scorer", headline, "ties", "failed", "worst case", "longer wins", "forced", "tokens", "seconds"):
        shown.add_column(text(column), justify="left" if column == "scorer" else "right", overflow="fold")
    for r in found:
        accuracy = r.number("accuracy") or r.main
        longer = r.number("length: longer preferred")
        part = f" ({r.main.rows + r.main.left_out} rows)" if r.digest != measured.digest else ""
        other = f" {r.headline[0]}" if " ".join(filter(None, r.headline)) != measured.headline else ""
        shown.add_row(
            text(f"{r.label}{part}{' (made elsewhere)' if r.published else ''}"),
            text(number(r.main) + other),
            str(accuracy.ties),
            _failed(accuracy),
            _percent(r.main.worst),
            _percent(longer.value if longer else None),
            str(r.reads.get("forced", 0)),
            f"{r.usage.prompt_tokens + r.usage.generated_tokens:,}",
            f"{r.seconds:.1f}",
        )
    for row in published:
        if row.section == measured.headline.removeprefix("official "):
            shown.add_row(text(f"{row.model} (published {row.date})"), f"{row.score:.1f}", *["-"] * 7)
    return shown


def subsets(measured: Measurement, found: Sequence[Result]) -> Table:
    shown = Table(title="by subset", title_justify="left", box=None)
    shown.add_column("subset")
    for r in found:
        shown.add_column(text(r.label), justify="right")
    metrics = ("official", "by the official rules", "accuracy", "kendall tau-b, per prompt")
    keys = [(n.metric, n.section) for metric in metrics for n in found[0].numbers if n.metric == metric and n.section]
    for metric, section in keys:
        row = [r.number(metric, section) for r in found]
        name = section if metric == "accuracy" else f"{metric}: {section}"
        shown.add_row(text(name), *(text("-" if n is None else number(n)) for n in row))
    return shown


def estimates(benchmark: Benchmark, found: Sequence[Estimate]) -> Table:
    shown = Table(
        title=text(f"{benchmark.shown_name}: estimated from a few rows that were judged now.")
        + "\nA full engine is faster than these few: take the hours as a bound from above.",
        title_justify="left",
        box=None,
    )
    for column in ("scorer", "rows", "prompt tokens computed", "tokens generated", "hours", "failed of the few"):
        shown.add_column(column, justify="left" if column == "scorer" else "right", no_wrap=True)
    for e in found:
        shown.add_row(
            text(e.label), f"{e.items:,}", f"{e.computed:,}", f"{e.generated:,}", f"{e.hours:.2g}", str(e.failed)
        )
    return shown


def changes(found: Sequence[Change], against: str) -> Table:
    """Each scorer now against the same in an earlier run; why, where it cannot be compared."""
    shown = Table(title=text(f"against {against}"), title_justify="left", box=None, show_header=False)
    for name in ("scorer", "change", "failures"):
        shown.add_column(name)
    for one in found:
        points = f"not compared: {one.why}"
        if one.contrast is not None:
            edges = f"[{100 * one.contrast.low:+.1f}, {100 * one.contrast.high:+.1f}]"
            points = f"{100 * one.contrast.difference:+.1f} {edges} points"
        lost = [f"{n.left_out} rows failed {when}" for n, when in ((one.before, "before"), (one.after, "now")) if n]
        shown.add_row(text(f"{one.label} on {one.benchmark}"), text(points), text(", ".join(lost)))
    return shown


def attacks(measured: Measurement, found: Sequence[Result]) -> Table | None:
    """How often a losing response wins under each attack; None where no pair could be attacked."""
    names = {n.section: None for r in found for n in r.numbers if n.metric == "attack: wins"}
    if not names:
        return None
    shown = Table(title=text(f"{measured.title}: wins of the losing response"), title_justify="left", box=None)
    shown.add_column("attack")
    for r in found:
        shown.add_column(text(r.label), justify="right")
    for name in names:
        cells = [r.number("attack: wins", name) for r in found]
        shown.add_row(text(name), *(text("-" if n is None else number(n)) for n in cells))
    return shown


def say(console: Console, sentence: str) -> None:
    console.print(text(sentence), soft_wrap=True, highlight=False)


def text(shown: str) -> str:
    """A name or sentence as text: no markup, no control characters of a terminal."""
    return escape(visible(shown))


def number(n: Number) -> str:
    """A value and its interval, shares and correlations alike in hundredths."""
    if n.value is None:
        return n.note or "none judged"
    if n.low is None or n.high is None:
        return f"{100 * n.value:.1f}"
    return f"{100 * n.value:.1f} [{100 * n.low:.1f}, {100 * n.high:.1f}]"


def _failed(n: Number) -> str:
    """The share of rows that a failure left out."""
    return f"{n.left_out / (n.rows + n.left_out):.0%}" if n.rows + n.left_out else "-"


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.1f}"
