"""What changed between two runs: versions, settings, numbers, and the rows that flipped."""

from __future__ import annotations

import html
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from judges.evaluation.report.caveats import stale
from judges.evaluation.report.data import shown_value
from judges.evaluation.report.html import page_file, policy, write_whole
from judges.evaluation.report.markdown import cell, table, visible
from judges.evaluation.report.outcomes import Said, outcome
from judges.evaluation.results import MetricValue, Result, Run, read_jsonl, read_run

INTERVALS = (
    "Each number has its own 95 % interval; that of the difference, row by row, is told by assay compare --against."
)
SHOWN_FLIPS = 20  # rows of one kind that are named; the page and the file hold all


@dataclass(frozen=True, slots=True)
class Difference:
    """A version, a setting or a scorer's identity that is not the same; None where one run has none."""

    name: str
    before: str | None
    after: str | None


@dataclass(frozen=True, slots=True)
class Flip:
    """One row of which the scorer says something else now. `prompt` is its beginning."""

    id: str
    before: Said
    after: Said
    prompt: str


@dataclass(frozen=True, slots=True)
class ResultChange:
    """One scorer on one benchmark in both runs.

    `rows` were judged in both. `why_not` says why rows and numbers are not compared, "" where they are.
    """

    benchmark: str
    label: str
    before: MetricValue | None
    after: MetricValue | None
    why_not: str = ""
    rows: int = 0
    flips: tuple[Flip, ...] = ()
    settings: tuple[Difference, ...] = ()

    @property
    def difference(self) -> float | None:
        """After minus before of the headline; None where the two are not to be compared."""
        if self.why_not or self.before is None or self.after is None:
            return None
        if self.before.value is None or self.after.value is None:
            return None
        return self.after.value - self.before.value

    def kinds(self) -> Mapping[tuple[Said, Said], int]:
        """How many rows went from what to what."""
        return Counter((flip.before, flip.after) for flip in self.flips)


@dataclass(frozen=True, slots=True)
class Changes:
    before: str
    after: str
    versions: tuple[Difference, ...]
    settings: tuple[Difference, ...]
    results: tuple[ResultChange, ...]


def compare_runs(before: Path, after: Path) -> Changes:
    """The run in `after` against the earlier one in `before`. Raises CannotRun where a folder holds no run.

    Scorers are matched by their label, benchmarks by their name. Rows are compared only where both were given
    the same Items (equal digests).
    """
    old, new = read_run(before), read_run(after)
    earlier = {(r.benchmark, r.label): r for r in old.results}
    later = {(r.benchmark, r.label): r for r in new.results}
    titles = {b.name: b.title for run in (old, new) for b in run.benchmarks}
    pairs = [(key, earlier.get(key), later.get(key)) for key in dict.fromkeys([*later, *earlier])]
    return Changes(
        before=f"{before} ({old.made})",
        after=f"{after} ({new.made})",
        versions=_differences({**old.versions, "machine": old.machine}, {**new.versions, "machine": new.machine}),
        settings=_differences(old.settings, new.settings),
        results=tuple(
            _change(titles[benchmark], label, a, b, (before, old), (after, new)) for (benchmark, label), a, b in pairs
        ),
    )


def _change(
    title: str, label: str, a: Result | None, b: Result | None, old: tuple[Path, Run], new: tuple[Path, Run]
) -> ResultChange:
    if a is None or b is None:
        there = "the later" if a is None else "the earlier"
        return ResultChange(title, label, a.main if a else None, b.main if b else None, f"only in {there} run")
    settings = _differences(a.identity, b.identity)
    if a.digest != b.digest:
        why = f"not the same rows (digest {a.digest} before, {b.digest} after), so nothing is compared"
        return ResultChange(title, label, a.main, b.main, why, settings=settings)
    if a.headline != b.headline:
        names = [" ".join(part for part in r.headline if part) for r in (a, b)]
        why = f"another headline ({names[0]} before, {names[1]} after), so the two are not compared"
        return ResultChange(title, label, a.main, b.main, why, settings=settings)
    for when, (folder, run), result in (("earlier", old, a), ("later", new, b)):
        if (folder / result.file).is_file() and (doubt := stale(folder, run, result)):
            return ResultChange(title, label, a.main, b.main, f"of the {when} run {doubt}", settings=settings)
    rows, flips = _flips(a, b, old, new)
    why = "" if rows else "its judgments are not in the folders, so no row is compared"
    return ResultChange(title, label, a.main, b.main, why, rows, tuple(flips), settings)


def _flips(a: Result, b: Result, old: tuple[Path, Run], new: tuple[Path, Run]) -> tuple[int, list[Flip]]:
    """How many rows both runs judged, and those that the scorer says something else of, in the Items' order."""
    file = next(m.file for m in new[1].benchmarks if m.name == b.benchmark)
    paths = (old[0] / a.file, new[0] / b.file, new[0] / file)
    if not all(path.is_file() for path in paths):
        return 0, []
    items = {item["id"]: item for item in read_jsonl(paths[2])}
    was = _said(paths[0], items)
    now = _said(paths[1], items)
    both = [name for name in items if name in was and name in now]
    flips = [Flip(name, was[name], now[name], _beginning(items[name])) for name in both if was[name] != now[name]]
    return len(both), flips


def _said(path: Path, items: Mapping[str, Any]) -> dict[str, Said]:
    return {card["id"]: outcome(items[card["id"]], card).said for card in read_jsonl(path) if card["id"] in items}


def _beginning(item: Mapping[str, Any]) -> str:
    prompt = item["prompt"]
    text = prompt if isinstance(prompt, str) else prompt[-1]["content"]
    line = " ".join(text.split())
    return line if len(line) <= 100 else line[:99] + "…"


def _differences(before: Mapping[str, Any], after: Mapping[str, Any]) -> tuple[Difference, ...]:
    names = dict.fromkeys([*before, *after])
    return tuple(
        Difference(name, _told(before, name), _told(after, name))
        for name in names
        if _told(before, name) != _told(after, name)
    )


def _told(values: Mapping[str, Any], name: str) -> str | None:
    if name not in values:
        return None
    value = values[name]
    return value if isinstance(value, str) else json.dumps(value, sort_keys=True, ensure_ascii=False, default=str)


def write_changes(changes: Changes, folder: Path) -> list[Path]:
    """Write changes.md and changes.html; their paths."""
    pages = {"changes.md": changes_markdown(changes), "changes.html": changes_html(changes)}
    for name, text in pages.items():
        write_whole(folder / name, text)
    return [folder / name for name in pages]


def number_rows(changes: Changes) -> list[tuple[str, ...]]:
    """A row for each result: benchmark, scorer, before, after, difference, right→wrong, wrong→right, other flips."""
    rows: list[tuple[str, ...]] = []
    for r in changes.results:
        kinds = r.kinds()
        lost, won = kinds.get(("right", "wrong"), 0), kinds.get(("wrong", "right"), 0)
        flips = (str(lost), str(won), str(len(r.flips) - lost - won)) if r.rows else ("–",) * 3
        told = "–" if r.difference is None or r.after is None else _signed(r.difference, r.after)
        rows.append((r.benchmark, r.label, shown_value(r.before), shown_value(r.after), told, *flips))
    return rows


HEAD = ("benchmark", "scorer", "before", "after", "difference", "right→wrong", "wrong→right", "other flips")


def _signed(difference: float, number: MetricValue) -> str:
    shown = shown_value(MetricValue(number.metric, "", difference))
    return shown if difference < 0 else f"+{shown}"


def changes_markdown(changes: Changes) -> str:
    told = ["# What changed", "", f"Before: {cell(changes.before)}  ", f"After: {cell(changes.after)}", ""]
    told += [INTERVALS, "", *table(HEAD, number_rows(changes), texts=2)]
    told += ["", *(f"- {cell(_not_compared(r))}" for r in changes.results if r.why_not)]
    for title, rows in _difference_tables(changes):
        told += ["", f"## {cell(title)}", "", *table(("", "before", "after"), rows, texts=3)]
    for r in changes.results:
        if r.flips:
            told += ["", f"## {cell(r.label)} on {cell(r.benchmark)}: {len(r.flips)} of {r.rows} rows flipped", ""]
            told += table(("row", "before", "after", "prompt"), _flip_rows(r.flips[:SHOWN_FLIPS]), texts=4)
            if len(r.flips) > SHOWN_FLIPS:
                told += ["", f"{len(r.flips) - SHOWN_FLIPS} more: see changes.html."]
    return "\n".join([*told, ""])


def changes_html(changes: Changes) -> str:
    """The same as a page, with every flipped row. It has no script at all."""
    style = page_file("style.css")
    body = [f'<p class="facts">Before: {_text(changes.before)}<br>After: {_text(changes.after)}</p>']
    body += [_html_table(INTERVALS, HEAD, number_rows(changes))]
    body += [f'<p class="note">{_text(_not_compared(r))}</p>' for r in changes.results if r.why_not]
    for title, rows in _difference_tables(changes):
        body += [f"<h2>{_text(title)}</h2>", _html_table(title, ("", "before", "after"), rows)]
    for r in changes.results:
        if r.flips:
            title = f"{r.label} on {r.benchmark}: {len(r.flips)} of {r.rows} rows flipped"
            body += [
                f"<h2>{_text(title)}</h2>",
                _html_table(title, ("row", "before", "after", "prompt"), _flip_rows(r.flips)),
            ]
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy(style)}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark"><title>Assay: what changed</title>\n'
        f'<link rel="icon" href="data:,"><style>{style}</style></head>\n'
        f"<body><main><section><h1>What changed</h1>\n{chr(10).join(body)}\n</section></main></body></html>\n"
    )


def _not_compared(r: ResultChange) -> str:
    return f"{r.label} on {r.benchmark}: {r.why_not}."


def _difference_tables(changes: Changes) -> list[tuple[str, list[tuple[str, str, str]]]]:
    of_scorers = [
        (f"{r.label} on {r.benchmark}: {d.name}", d.before or "–", d.after or "–")
        for r in changes.results
        for d in r.settings
    ]
    tables = [(title, [(d.name, d.before or "–", d.after or "–") for d in found])
              for title, found in (("Versions", changes.versions), ("Settings", changes.settings))]  # fmt: skip
    return [(title, rows) for title, rows in (*tables, ("Scorers", of_scorers)) if rows]


def _flip_rows(flips: Sequence[Flip]) -> list[tuple[str, ...]]:
    return [(flip.id, flip.before, flip.after, flip.prompt) for flip in flips]


def _html_table(caption: str, head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    heads = "".join(f'<th scope="col">{_text(name)}</th>' for name in head)
    lines = "\n".join(
        "<tr>" + "".join(f"<td><bdi>{_text(value)}</bdi></td>" for value in row) + "</tr>" for row in rows
    )
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{_text(caption)}"><table>'
        f"<caption>{_text(caption)}</caption><thead><tr>{heads}</tr></thead><tbody>{lines}</tbody></table></div>"
    )


def _text(text: str) -> str:
    return html.escape(visible(text))
