"""The data of the HTML page as JSON-ready values: the run's numbers, and its judgments or a sample of them."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from judges.evaluation.references import PublishedScore, published_scores
from judges.evaluation.report.caveats import find_caveats
from judges.evaluation.report.outcomes import OUTCOME_KINDS, Outcome, classify_outcome, scorers_disagree
from judges.evaluation.results import MetricValue, Result, Run, read_jsonl

MAX_JUDGMENTS = 20_000
MAX_BYTES = 24_000_000  # of judgments and Items on the page
MAX_TEXT_LENGTH = 20_000  # characters of one text on the page; the run's folder has the full text
# Metrics that are shares of rows, or differences of shares. They are shown in per cent.
SHARES = re.compile(
    r"(official|by the official rules|accuracy|best-of|attack: |position: |length: |style: |author: |self-preference)"
    r"|.*: (same verdict|spread of accuracy)$"
)
DEFAULTS = {"method": "", "note": "", "rows": 0, "prompts": 0, "left_out": 0, "ties": 0}
UNSAFE = {"<": "\\u003c", ">": "\\u003e", "&": "\\u0026", "\u2028": "\\u2028", "\u2029": "\\u2029"}
SURROGATE = re.compile("[\ud800-\udfff]")


def is_share(metric: str) -> bool:
    """Whether a metric is shown in per cent.

    >>> is_share("accuracy"), is_share("length: longer preferred"), is_share("kendall tau-b, per prompt")
    (True, True, False)
    """
    return SHARES.match(metric) is not None


def format_value(number: MetricValue | None, places: int = 1) -> str:
    """A value with its interval, as in the tables of report.md and changes.md.

    >>> format_value(MetricValue("accuracy", "", 0.5, 0.4, 0.6))
    '50.0 (40.0 to 60.0)'
    """
    if number is None or number.value is None:
        return "–"
    times, digits = (100, places) if is_share(number.metric) else (1, places + 2)
    value = f"{number.value * times:.{digits}f}"
    if number.low is None or number.high is None:
        return value
    return f"{value} ({number.low * times:.{digits}f} to {number.high * times:.{digits}f})"


def script_json(value: Any) -> str:
    """JSON to embed in a script element: no text in it can end the element or open a comment.

    >>> script_json({"text": "</script><!--"})
    '{"text":"\\\\u003c/script\\\\u003e\\\\u003c!--"}'
    """
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    for character, escape in UNSAFE.items():
        text = text.replace(character, escape)
    return SURROGATE.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def published_references(run: Run) -> tuple[PublishedScore, ...]:
    """The published scores to show beside a run that requested them (`settings["references"]`).

    A benchmark that was cut or that otherwise differs from the published set has none.
    """
    if run.settings.get("references") is not True:
        return ()
    return tuple(row for m in run.benchmarks if not m.differs for row in published_scores(m.name))


def page_data(folder: Path, run: Run) -> dict[str, Any]:
    """The data of report.html: `run` holds the numbers, `explorer` the judgments."""
    page_run: dict[str, Any] = asdict(run)
    for result in page_run["results"]:
        result["numbers"] = [_drop_defaults(n) for n in result["numbers"]]
    page_run["between"] = {name: [_drop_defaults(n) for n in numbers] for name, numbers in page_run["between"].items()}
    metrics = {n.metric for r in run.results for n in r.numbers} | {n.metric for ns in run.between.values() for n in ns}
    page_run["shares"] = sorted(filter(is_share, metrics))
    page_run["references"] = [
        {name: getattr(r, name) for name in ("model", "benchmark", "section", "score", "source", "date")}
        for r in published_references(run)
    ]
    page_run["caveats"] = find_caveats(folder, run)
    return {"run": page_run, "explorer": JudgmentSample(folder, run).select()}


def _drop_defaults(number: dict[str, Any]) -> dict[str, Any]:
    """A MetricValue without None and without the fields at their DEFAULTS, which the page fills in."""
    return {k: v for k, v in number.items() if v is not None and (k == "section" or v != DEFAULTS.get(k))}


@dataclass(slots=True)
class _Entry:
    """An Item with the outcomes of its judgments.

    `outcomes` is by the result's index, `size` the bytes of all of it on the page, `differs` whether scorers disagree.
    """

    benchmark: int
    item: dict[str, Any]
    size: int
    outcomes: dict[int, Outcome] = field(default_factory=dict)
    differs: bool = False


class JudgmentSample:
    """The judgments of a run that fit on the page.

    An Item comes with the judgments of all its scorers. Where not all fit, Items with a failure or a disagreement
    between scorers come first, then the others, in an order drawn by `seed`. The files are read twice, once to
    measure and once to select, so that the judgments are never all in memory.
    """

    def __init__(
        self,
        folder: Path,
        run: Run,
        max_judgments: int = MAX_JUDGMENTS,
        max_bytes: int = MAX_BYTES,
        seed: int = 0,
    ):
        self._folder, self._run, self._seed = folder, run, seed
        self._max_judgments, self._max_bytes = max_judgments, max_bytes

    def select(self) -> dict[str, Any]:
        """The selected Items and cards, with how many there are in all."""
        entries = self._read_entries()
        selected = self._select_entries(entries)
        indices = {(entry.benchmark, entry.item["id"]): index for index, entry in enumerate(selected)}
        cards = []
        for s, result in enumerate(self._run.results):
            benchmark = self._benchmark_index(result)
            for card in self._read_rows(result.file):
                if (index := indices.get((benchmark, card["id"]))) is not None:
                    cards.append(_page_card(index, s, card, selected[index].outcomes[s]))
        return {
            "items": [{"b": entry.benchmark, **entry.item, "d": int(entry.differs)} for entry in selected],
            "cards": sorted(cards, key=lambda card: (card["i"], card["s"])),
            "total": sum(len(entry.outcomes) for entry in entries),
            "outcomes": OUTCOME_KINDS,
            "flagged": {"shown": sum(map(_is_flagged, selected)), "all": sum(map(_is_flagged, entries))},
        }

    def _read_entries(self) -> list[_Entry]:
        entries: dict[tuple[int, str], _Entry] = {}
        for b, benchmark in enumerate(self._run.benchmarks):
            for row in self._read_rows(benchmark.file):
                item = _page_item(row)
                entries[b, row["id"]] = _Entry(b, item, _json_size(item))
        for s, result in enumerate(self._run.results):
            b = self._benchmark_index(result)
            for card in self._read_rows(result.file):
                if (entry := entries.get((b, card["id"]))) is not None:
                    entry.outcomes[s] = classify_outcome(entry.item, card)
                    entry.size += _json_size(_page_card(0, s, card, entry.outcomes[s]))
        for entry in entries.values():
            entry.differs = scorers_disagree(found.preferences for found in entry.outcomes.values())
        return list(entries.values())

    def _select_entries(self, entries: list[_Entry]) -> list[_Entry]:
        order = list(range(len(entries)))
        random.Random(self._seed).shuffle(order)
        order.sort(key=lambda index: not _is_flagged(entries[index]))
        selected, judgments, size = [], 0, 0
        for index in order:
            entry = entries[index]
            if judgments + len(entry.outcomes) > self._max_judgments or size + entry.size > self._max_bytes:
                continue
            selected.append(index)
            judgments += len(entry.outcomes)
            size += entry.size
        return [entries[index] for index in sorted(selected)]

    def _benchmark_index(self, result: Result) -> int:
        return next(b for b, benchmark in enumerate(self._run.benchmarks) if benchmark.name == result.benchmark)

    def _read_rows(self, file: str) -> Iterator[dict[str, Any]]:
        """The rows of a file of the run; none where the file was removed, since the numbers do not need it."""
        path = self._folder / file
        return read_jsonl(path) if path.is_file() else iter(())


def _is_flagged(entry: _Entry) -> bool:
    return entry.differs or any(outcome.failures for outcome in entry.outcomes.values())


def _json_size(value: Any) -> int:
    """Bytes of the value on the page."""
    return len(script_json(value).encode())


def _page_item(item: dict[str, Any]) -> dict[str, Any]:
    """An Item as the page has it, without empty fields."""
    prompt = item["prompt"]
    turns = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
    if item.get("system") is not None:
        turns = [{"role": "system", "content": item["system"]}, *turns]
    fields = {
        "id": item["id"],
        "messages": [{"role": turn["role"], "content": _clip(turn["content"])} for turn in turns],
        "responses": [_clip(response) for response in item["responses"]],
        "comparisons": item.get("comparisons"),
        "gold": {k: v for k, v in (item.get("gold") or {}).items() if v not in (None, False)},
        "subset": item.get("subset"),
        "reference": _clip(item.get("reference")),
        "rubric": _clip(item.get("rubric")),
        "meta": {key: _clip(str(value)) for key, value in (item.get("meta") or {}).items()},
    }
    return {key: value for key, value in fields.items() if value not in (None, {})}


def _page_card(item: int, result: int, card: dict[str, Any], outcome: Outcome) -> dict[str, Any]:
    """A Scorecard as the page has it.

    `i` and `s` are the indices of its Item and its result, `o` and `share` its outcome, `f` counts failures.
    """
    fields: dict[str, Any] = {"i": item, "s": result, "o": OUTCOME_KINDS.index(outcome.kind), "f": outcome.failures}
    if outcome.share not in (None, 0, 1):
        fields["share"] = round(outcome.share or 0, 3)
    fields["judgments"] = [_page_judgment(judgment) for judgment in card["judgments"]]
    if card["comparisons"]:
        fields["comparisons"] = [
            [c["first"], c["second"], _flatten_failure(c["outcome"]), c["swapped"]] for c in card["comparisons"]
        ]
    if card["preference"]:
        fields["preference"] = [round(p, 4) for p in card["preference"]]
    return fields


def _page_judgment(judgment: dict[str, Any]) -> dict[str, Any]:
    completions = list(judgment["completions"])
    if completions == [judgment["critique"]]:
        completions = []  # the critique is the same text
    usage = judgment["usage"]
    fields = {
        "score": judgment["score"],
        "failure": _flatten_failure(judgment["failure"]),
        "votes": [_flatten_failure(vote) for vote in judgment["votes"]],
        "critique": _clip(judgment["critique"]),
        "completions": [_clip(completion) for completion in completions],
        "read": judgment["read"],
        "truncated": judgment["truncated"],
        "readings": {name: _flatten_failure(value) for name, value in judgment["readings"].items()},
        "mass": judgment["mass"],
        "tokens": [usage["prompt_tokens"], usage["cached_tokens"], usage["generated_tokens"]],
    }
    return {k: v for k, v in fields.items() if v is not None and v not in ([], {}, [0, 0, 0]) and v is not False}


def _flatten_failure(value: Any) -> Any:
    """A Failure as [reason, message]; any other value unchanged."""
    return [value["reason"], _clip(value["message"])] if isinstance(value, dict) else value


def _clip(text: str | None) -> str | dict[str, Any] | None:
    """The text, or its beginning and its full length where it is longer than MAX_TEXT_LENGTH."""
    if text is None or len(text) <= MAX_TEXT_LENGTH:
        return text
    return {"beginning": text[:MAX_TEXT_LENGTH], "length": len(text)}
