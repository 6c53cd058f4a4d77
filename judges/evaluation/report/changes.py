"""Changes between two runs: versions, settings, headline numbers, and the rows whose outcome changed."""

from __future__ import annotations

import html
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from judges.evaluation.report.caveats import stale_reason
from judges.evaluation.report.data import format_value
from judges.evaluation.report.html import content_security_policy, read_page_file, write_atomically
from judges.evaluation.report.markdown import escape_cell, escape_invisible, markdown_table
from judges.evaluation.report.outcomes import OutcomeKind, classify_outcome
from judges.evaluation.results import MetricValue, Result, Run, read_jsonl, read_run

INTERVAL_NOTE = (
    "Each number has its own 95 % interval. assay compare --against gives the paired interval of the difference."
)
MAX_FLIPS = 20  # changed rows of a result in changes.md; changes.html has all of them


@dataclass(frozen=True, slots=True)
class Difference:
    """A version, a setting or a part of a scorer's identity that differs; None where a run does not have it."""

    name: str
    before: str | None
    after: str | None


@dataclass(frozen=True, slots=True)
class Flip:
    """One row whose outcome changed. `prompt` is the beginning of its prompt."""

    id: str
    before: OutcomeKind
    after: OutcomeKind
    prompt: str


@dataclass(frozen=True, slots=True)
class ResultChange:
    """One scorer on one benchmark in both runs.

    `rows` counts the rows that both runs judged. `skip_reason` is why the two are not compared, "" where they are.
    """

    benchmark: str
    label: str
    before: MetricValue | None
    after: MetricValue | None
    skip_reason: str = ""
    rows: int = 0
    flips: tuple[Flip, ...] = ()
    settings: tuple[Difference, ...] = ()

    @property
    def difference(self) -> float | None:
        """The headline number after minus before; None where the two are not compared."""
        if self.skip_reason or self.before is None or self.after is None:
            return None
        if self.before.value is None or self.after.value is None:
            return None
        return self.after.value - self.before.value

    def count_transitions(self) -> Mapping[tuple[OutcomeKind, OutcomeKind], int]:
        """The number of changed rows by (outcome before, outcome after)."""
        return Counter((flip.before, flip.after) for flip in self.flips)


@dataclass(frozen=True, slots=True)
class Changes:
    """The changes from the run `before` to the run `after`, each named by its folder and the time of writing."""

    before: str
    after: str
    versions: tuple[Difference, ...]
    settings: tuple[Difference, ...]
    results: tuple[ResultChange, ...]


def compare_runs(before: Path, after: Path) -> Changes:
    """Compare the run in the folder `after` with the earlier one in `before`.

    Scorers are matched by their label, benchmarks by their name. Rows are compared only where both runs used the
    same Items (equal digests). Raises CannotRun where a folder holds no run.
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
            _compare_results(titles[benchmark], label, a, b, (before, old), (after, new))
            for (benchmark, label), a, b in pairs
        ),
    )


def _compare_results(
    title: str, label: str, a: Result | None, b: Result | None, old: tuple[Path, Run], new: tuple[Path, Run]
) -> ResultChange:
    if a is None or b is None:
        only = "only in the later run" if a is None else "only in the earlier run"
        return ResultChange(title, label, a.main if a else None, b.main if b else None, only)
    settings = _differences(a.identity, b.identity)
    if a.digest != b.digest:
        why = f"different rows (digest {a.digest} before, {b.digest} after), so the two are not compared"
        return ResultChange(title, label, a.main, b.main, why, settings=settings)
    if a.headline != b.headline:
        names = [" ".join(part for part in r.headline if part) for r in (a, b)]
        why = f"different headline numbers ({names[0]} before, {names[1]} after), so the two are not compared"
        return ResultChange(title, label, a.main, b.main, why, settings=settings)
    for which, (folder, run), result in (("earlier", old, a), ("later", new, b)):
        if (folder / result.file).is_file() and (reason := stale_reason(folder, run, result)):
            return ResultChange(title, label, a.main, b.main, f"in the {which} run, {reason}", settings=settings)
    rows, flips = _find_flips(a, b, old, new)
    why = "" if rows else "judgments are missing from a folder, so no row is compared"
    return ResultChange(title, label, a.main, b.main, why, rows, tuple(flips), settings)


def _find_flips(a: Result, b: Result, old: tuple[Path, Run], new: tuple[Path, Run]) -> tuple[int, list[Flip]]:
    """The number of rows that both runs judged, and those whose outcome changed, in the order of the Items."""
    file = next(m.file for m in new[1].benchmarks if m.name == b.benchmark)
    paths = (old[0] / a.file, new[0] / b.file, new[0] / file)
    if not all(path.is_file() for path in paths):
        return 0, []
    items = {item["id"]: item for item in read_jsonl(paths[2])}
    before, after = _read_outcomes(paths[0], items), _read_outcomes(paths[1], items)
    common = [key for key in items if key in before and key in after]
    flips = [
        Flip(key, before[key], after[key], _prompt_excerpt(items[key])) for key in common if before[key] != after[key]
    ]
    return len(common), flips


def _read_outcomes(path: Path, items: Mapping[str, Any]) -> dict[str, OutcomeKind]:
    return {
        card["id"]: classify_outcome(items[card["id"]], card).kind for card in read_jsonl(path) if card["id"] in items
    }


def _prompt_excerpt(item: Mapping[str, Any]) -> str:
    prompt = item["prompt"]
    text = prompt if isinstance(prompt, str) else prompt[-1]["content"]
    line = " ".join(text.split())
    return line if len(line) <= 100 else line[:99] + "…"


def _differences(before: Mapping[str, Any], after: Mapping[str, Any]) -> tuple[Difference, ...]:
    names = dict.fromkeys([*before, *after])
    return tuple(
        Difference(name, _format_setting(before, name), _format_setting(after, name))
        for name in names
        if _format_setting(before, name) != _format_setting(after, name)
    )


def _format_setting(values: Mapping[str, Any], name: str) -> str | None:
    if name not in values:
        return None
    value = values[name]
    return value if isinstance(value, str) else json.dumps(value, sort_keys=True, ensure_ascii=False, default=str)


def write_changes(changes: Changes, folder: Path) -> list[Path]:
    """Write changes.md and changes.html into `folder` and return their paths."""
    pages = {"changes.md": render_changes_markdown(changes), "changes.html": render_changes_html(changes)}
    for name, text in pages.items():
        write_atomically(folder / name, text)
    return [folder / name for name in pages]


def change_rows(changes: Changes) -> list[tuple[str, ...]]:
    """One row for each result, in the columns of CHANGE_COLUMNS."""
    rows: list[tuple[str, ...]] = []
    for r in changes.results:
        transitions = r.count_transitions()
        lost, won = transitions.get(("right", "wrong"), 0), transitions.get(("wrong", "right"), 0)
        flips = (str(lost), str(won), str(len(r.flips) - lost - won)) if r.rows else ("–",) * 3
        difference = "–" if r.difference is None or r.after is None else _format_signed(r.difference, r.after)
        rows.append((r.benchmark, r.label, format_value(r.before), format_value(r.after), difference, *flips))
    return rows


CHANGE_COLUMNS = ("benchmark", "scorer", "before", "after", "difference", "right→wrong", "wrong→right", "other changes")


def _format_signed(difference: float, number: MetricValue) -> str:
    shown = format_value(MetricValue(number.metric, "", difference))
    return shown if difference < 0 else f"+{shown}"


def render_changes_markdown(changes: Changes) -> str:
    """The changes in Markdown, with at most MAX_FLIPS changed rows of each result."""
    lines = [
        "# Changes between two runs",
        "",
        f"Before: {escape_cell(changes.before)}  ",
        f"After: {escape_cell(changes.after)}",
        "",
    ]
    lines += [INTERVAL_NOTE, "", *markdown_table(CHANGE_COLUMNS, change_rows(changes), texts=2)]
    lines += ["", *(f"- {escape_cell(_not_compared(r))}" for r in changes.results if r.skip_reason)]
    for title, rows in _difference_tables(changes):
        lines += ["", f"## {escape_cell(title)}", "", *markdown_table(("", "before", "after"), rows, texts=3)]
    for r in changes.results:
        if r.flips:
            lines += [
                "",
                f"## {escape_cell(r.label)} on {escape_cell(r.benchmark)}: {len(r.flips)} of {r.rows} rows changed",
                "",
            ]
            lines += markdown_table(("row", "before", "after", "prompt"), _flip_rows(r.flips[:MAX_FLIPS]), texts=4)
            if len(r.flips) > MAX_FLIPS:
                lines += ["", f"{len(r.flips) - MAX_FLIPS} more: see changes.html."]
    return "\n".join([*lines, ""])


def render_changes_html(changes: Changes) -> str:
    """The changes as an HTML page without scripts, with every changed row."""
    style = read_page_file("style.css")
    body = [f'<p class="facts">Before: {_escape_html(changes.before)}<br>After: {_escape_html(changes.after)}</p>']
    body += [_html_table(INTERVAL_NOTE, CHANGE_COLUMNS, change_rows(changes))]
    body += [f'<p class="note">{_escape_html(_not_compared(r))}</p>' for r in changes.results if r.skip_reason]
    for title, rows in _difference_tables(changes):
        body += [f"<h2>{_escape_html(title)}</h2>", _html_table(title, ("", "before", "after"), rows)]
    for r in changes.results:
        if r.flips:
            title = _flip_title(r)
            body += [
                f"<h2>{_escape_html(title)}</h2>",
                _html_table(title, ("row", "before", "after", "prompt"), _flip_rows(r.flips)),
            ]
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{content_security_policy(style)}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark"><title>Assay: changes between two runs</title>\n'
        f'<link rel="icon" href="data:,"><style>{style}</style></head>\n'
        "<body><main><section><h1>Changes between two runs</h1>\n"
        f"{chr(10).join(body)}\n</section></main></body></html>\n"
    )


def _not_compared(r: ResultChange) -> str:
    return f"{r.label} on {r.benchmark}: {r.skip_reason}."


def _difference_tables(changes: Changes) -> list[tuple[str, list[tuple[str, str, str]]]]:
    of_scorers = [
        (f"{r.label} on {r.benchmark}: {d.name}", d.before or "–", d.after or "–")
        for r in changes.results
        for d in r.settings
    ]
    tables = [(title, [(d.name, d.before or "–", d.after or "–") for d in found])
              for title, found in (("Versions", changes.versions), ("Settings", changes.settings))]  # fmt: skip
    return [(title, rows) for title, rows in (*tables, ("Scorers", of_scorers)) if rows]


def _flip_title(r: ResultChange) -> str:
    return f"{r.label} on {r.benchmark}: {len(r.flips)} of {r.rows} rows changed"


def _flip_rows(flips: Sequence[Flip]) -> list[tuple[str, ...]]:
    return [(flip.id, flip.before, flip.after, flip.prompt) for flip in flips]


def _html_table(caption: str, columns: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    cells = "".join(f'<th scope="col">{_escape_html(name)}</th>' for name in columns)
    lines = "\n".join(
        "<tr>" + "".join(f"<td><bdi>{_escape_html(value)}</bdi></td>" for value in row) + "</tr>" for row in rows
    )
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{_escape_html(caption)}"><table>'
        f"<caption>{_escape_html(caption)}</caption><thead><tr>{cells}</tr></thead><tbody>{lines}</tbody></table></div>"
    )


def _escape_html(text: str) -> str:
    return html.escape(escape_invisible(text))
