"""A run for a README or a pull request, and for a spreadsheet."""

from __future__ import annotations

import csv
import io
import json
import re
import unicodedata
from collections.abc import Iterable, Sequence

from judges.evaluation.references import PublishedScore
from judges.evaluation.report.data import published, shown_value
from judges.evaluation.results import BenchmarkInfo, MetricValue, Result, Run

SECTIONED = ("official", "by the official rules", "accuracy")
# What a spreadsheet would take for a formula when it begins a cell.
FORMULA = re.compile(r"[\s]*[=+\-@＝＋－＠]|[\t\r\n]")
COLUMNS = (
    *("benchmark", "digest", "scorer", "made_elsewhere", "metric", "section", "headline", "value", "low", "high"),
    *("method", "rows", "prompts", "left_out", "ties", "worst", "best", "note"),
)


def write_markdown(run: Run) -> str:
    """The run in Markdown: summary, a table for each benchmark, subsets, contrasts, what it was made with."""
    told = ["# Assay report", "", f"Made {cell(run.made)} on {cell(run.machine)}.", ""]
    told += [f"- {cell(sentence)}" for sentence in run.summary]
    for benchmark in run.benchmarks:
        results = [r for r in run.results if r.benchmark == benchmark.name]
        told += ["", f"## {cell(benchmark.title)}", "", *_benchmark(benchmark, results)]
        told += _published([row for row in published(run) if row.benchmark == benchmark.name])
        told += [f"- {cell(c.words)}" for c in run.contrasts if c.benchmark == benchmark.name]
    settings = json.dumps(run.settings, ensure_ascii=False, default=str)
    told += ["", "## Made with", "", *table(("package", "version"), run.versions.items())]
    told += ["", f"Settings: {cell(settings)}", ""]
    return "\n".join(told)


def _benchmark(benchmark: BenchmarkInfo, results: Sequence[Result]) -> list[str]:
    told = [f"{benchmark.items:,} rows of {benchmark.prompts:,} prompts, digest {cell(benchmark.digest)}."]
    told += [f"Not as published: {cell(sentence)}" for sentence in benchmark.differs]
    rows = []
    for r in results:
        accuracy = r.number("accuracy") or r.main
        worst = shown_value(MetricValue(r.main.metric, "", r.main.worst))
        tokens = r.usage.prompt_tokens + r.usage.generated_tokens
        name = f"{r.label} (judged elsewhere)" if r.published else r.label
        failed = ", ".join(f"{reason} {count}" for reason, count in r.failures.items()) or "0"
        other = " ".join(part for part in r.headline if part)
        headline = shown_value(r.main) + (f" ({other})" if other != benchmark.headline else "")
        rows.append((name, headline, accuracy.ties, failed, worst, f"{tokens:,}", f"{r.seconds:.1f}"))
    head = ("scorer", f"{benchmark.headline} (95 % interval)", "ties", "failures", "worst case", "tokens", "seconds")
    told += ["", *table(head, rows)]
    keys = {(n.metric, n.section): None for r in results for n in r.numbers if n.metric in SECTIONED and n.section}
    if keys:
        parts = [(f"{m}: {s}", *(shown_value(r.number(m, s)) for r in results)) for m, s in keys]
        told += ["", *table(("part", *(r.label for r in results)), parts)]
    return [*told, ""]


def _published(rows: Sequence[PublishedScore]) -> list[str]:
    if not rows:
        return []
    shown = [(f"{r.model} (published {r.date})", r.section, r.source, f"{r.score:.1f}") for r in rows]
    head = ("model", "part", "source", "score")
    return ["Published by others, not measured here, and in no ranking:", "", *table(head, shown, texts=3), ""]


def table(head: Iterable[object], rows: Iterable[Iterable[object]], texts: int = 1) -> list[str]:
    """A Markdown table: the first `texts` columns to the left, the others to the right.

    >>> table(("a", "b"), [("x|y", 1)])
    ['| a | b |', '|:--|--:|', '| x\\\\|y | 1 |']
    """
    named = [cell(name) for name in head]
    lines = ["| " + " | ".join(named) + " |", "|" + ":--|" * texts + "--:|" * (len(named) - texts)]
    return lines + ["| " + " | ".join(map(cell, row)) + " |" for row in rows]


def cell(value: object) -> str:
    """A text on one line that Markdown and HTML read as text and nothing else.

    >>> cell("a|b\\n<i>")
    'a\\\\|b &lt;i&gt;'
    """
    text = visible(" ".join(str(value).split()))
    text = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    # A mention, a link or an issue number of a text is none of ours.
    return re.sub(r"([\\`*_\[\]|~#!@$])", r"\\\1", text)


def visible(text: str) -> str:
    """Characters that hide or turn the reading direction by their numbers; joiners that scripts need stay.

    >>> visible("a\u202eb")
    'a[U+202E]b'
    """
    hidden = ("Cc", "Cf", "Cs")
    return "".join(
        f"[U+{ord(c):04X}]" if unicodedata.category(c) in hidden and c not in "\n\t\u200c\u200d" else c for c in text
    )


def write_csv(run: Run) -> str:
    """One row for each MetricValue of each result. A text that a spreadsheet would run begins with an apostrophe."""
    out = io.StringIO(newline="")
    rows = csv.writer(out)
    rows.writerow(COLUMNS)
    digests = {b.name: b.digest for b in run.benchmarks}
    for r in run.results:
        for n in r.numbers:
            key = "yes" if (n.metric, n.section) == r.headline else ""
            made = "yes" if r.published else ""
            values = (
                r.benchmark,
                digests[r.benchmark],
                r.label,
                made,
                n.metric,
                n.section,
                key,
                n.value,
                n.low,
                n.high,
            )
            more = (n.method, n.rows, n.prompts, n.left_out, n.ties, n.worst, n.best, n.note)
            rows.writerow([_guarded(value) for value in (*values, *more)])
    return out.getvalue()


def _guarded(value: object) -> object:
    if not isinstance(value, str):
        return value
    text = visible(value)
    return f"'{text}" if FORMULA.match(text) else text
