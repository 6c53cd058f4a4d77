"""A run as Markdown and as CSV."""

from __future__ import annotations

import csv
import io
import json
import re
import unicodedata
from collections.abc import Iterable, Sequence

from judges.evaluation.references import PublishedScore
from judges.evaluation.report.data import format_value, published_references
from judges.evaluation.results import BenchmarkInfo, MetricValue, Result, Run

METRICS_BY_SECTION = ("official", "by the official rules", "accuracy")
# The beginning of a cell that a spreadsheet would run as a formula.
FORMULA = re.compile(r"[\s]*[=+\-@＝＋－＠]|[\t\r\n]")
CSV_COLUMNS = (
    *("benchmark", "digest", "scorer", "made_elsewhere", "metric", "section", "headline", "value", "low", "high"),
    *("method", "rows", "prompts", "left_out", "ties", "worst", "best", "note"),
)


def render_markdown(run: Run) -> str:
    """The run in Markdown: summary, a table for each benchmark, subsets, contrasts, versions and settings."""
    lines = ["# Assay report", "", f"Written {escape_cell(run.made)} on {escape_cell(run.machine)}.", ""]
    lines += [f"- {escape_cell(sentence)}" for sentence in run.summary]
    for benchmark in run.benchmarks:
        results = [r for r in run.results if r.benchmark == benchmark.name]
        lines += ["", f"## {escape_cell(benchmark.title)}", "", *_benchmark(benchmark, results)]
        lines += _references([row for row in published_references(run) if row.benchmark == benchmark.name])
        lines += [f"- {escape_cell(c.words)}" for c in run.contrasts if c.benchmark == benchmark.name]
    settings = json.dumps(run.settings, ensure_ascii=False, default=str)
    lines += ["", "## Versions and settings", "", *markdown_table(("package", "version"), run.versions.items())]
    lines += ["", f"Settings: {escape_cell(settings)}", ""]
    return "\n".join(lines)


def _benchmark(benchmark: BenchmarkInfo, results: Sequence[Result]) -> list[str]:
    lines = [f"{benchmark.items:,} rows of {benchmark.prompts:,} prompts, digest {escape_cell(benchmark.digest)}."]
    lines += [f"Differs from the published set: {escape_cell(sentence)}" for sentence in benchmark.differs]
    rows = []
    for r in results:
        accuracy = r.number("accuracy") or r.main
        worst = format_value(MetricValue(r.main.metric, "", r.main.worst))
        tokens = r.usage.prompt_tokens + r.usage.generated_tokens
        name = f"{r.label} (made elsewhere)" if r.published else r.label
        failed = ", ".join(f"{reason} {count}" for reason, count in r.failures.items()) or "0"
        own_headline = " ".join(part for part in r.headline if part)
        note = f" ({own_headline})" if own_headline != benchmark.headline else ""
        headline = format_value(r.main) + note
        rows.append((name, headline, accuracy.ties, failed, worst, f"{tokens:,}", f"{r.seconds:.1f}"))
    head = ("scorer", f"{benchmark.headline} (95 % interval)", "ties", "failures", "worst case", "tokens", "seconds")
    lines += ["", *markdown_table(head, rows)]
    by_section = [n for r in results for n in r.numbers if n.metric in METRICS_BY_SECTION and n.section]
    keys = dict.fromkeys((n.metric, n.section) for n in by_section)
    if keys:
        parts = [(f"{m}: {s}", *(format_value(r.number(m, s)) for r in results)) for m, s in keys]
        lines += ["", *markdown_table(("part", *(r.label for r in results)), parts)]
    return [*lines, ""]


def _references(rows: Sequence[PublishedScore]) -> list[str]:
    if not rows:
        return []
    shown = [(f"{r.model} (published {r.date})", r.section, r.source, f"{r.score:.1f}") for r in rows]
    head = ("model", "part", "source", "score")
    title = "Published by others; not measured in this run and not ranked:"
    return [title, "", *markdown_table(head, shown, texts=3), ""]


def markdown_table(head: Iterable[object], rows: Iterable[Iterable[object]], texts: int = 1) -> list[str]:
    """The lines of a Markdown table. The first `texts` columns are aligned left, the others right.

    >>> markdown_table(("a", "b"), [("x|y", 1)])
    ['| a | b |', '|:--|--:|', '| x\\\\|y | 1 |']
    """
    names = [escape_cell(name) for name in head]
    lines = ["| " + " | ".join(names) + " |", "|" + ":--|" * texts + "--:|" * (len(names) - texts)]
    return lines + ["| " + " | ".join(map(escape_cell, row)) + " |" for row in rows]


def escape_cell(value: object) -> str:
    """Escape a value so that Markdown and HTML show it as text, on one line.

    >>> escape_cell("a|b\\n<i>")
    'a\\\\|b &lt;i&gt;'
    """
    text = escape_invisible(" ".join(str(value).split()))
    text = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    # Mentions, links and issue numbers in a text of the run must not become active.
    return re.sub(r"([\\`*_\[\]|~#!@$])", r"\\\1", text)


def escape_invisible(text: str) -> str:
    """Replace control and direction characters by their code points. The joiners that some scripts need stay.

    >>> escape_invisible("a\u202eb")
    'a[U+202E]b'
    """
    hidden = ("Cc", "Cf", "Cs")
    return "".join(
        f"[U+{ord(c):04X}]" if unicodedata.category(c) in hidden and c not in "\n\t\u200c\u200d" else c for c in text
    )


def render_csv(run: Run) -> str:
    """The run as CSV, one row for each MetricValue of each result.

    A text that a spreadsheet would run as a formula is prefixed with an apostrophe.
    """
    out = io.StringIO(newline="")
    rows = csv.writer(out)
    rows.writerow(CSV_COLUMNS)
    digests = {b.name: b.digest for b in run.benchmarks}
    for r in run.results:
        for n in r.numbers:
            is_headline = "yes" if (n.metric, n.section) == r.headline else ""
            made_elsewhere = "yes" if r.published else ""
            values = (
                *(r.benchmark, digests[r.benchmark], r.label, made_elsewhere, n.metric, n.section, is_headline),
                *(n.value, n.low, n.high, n.method, n.rows, n.prompts, n.left_out, n.ties, n.worst, n.best, n.note),
            )
            rows.writerow([_escape_formula(value) for value in values])
    return out.getvalue()


def _escape_formula(value: object) -> object:
    if not isinstance(value, str):
        return value
    text = escape_invisible(value)
    return f"'{text}" if FORMULA.match(text) else text
