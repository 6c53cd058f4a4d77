"""What the page shows, as one JSON-ready value: the run's numbers, and its judgments or a sample of them."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from judges.evaluation.references import PublishedScore, published_scores
from judges.evaluation.report.caveats import caveats
from judges.evaluation.report.outcomes import SAID, Outcome, disagree, outcome
from judges.evaluation.results import MetricValue, Result, Run, read_jsonl

MOST_JUDGMENTS = 20_000
MOST_BYTES = 24_000_000  # of judgments and Items on the page
LONGEST_TEXT = 20_000  # characters of one text on the page; the whole is in the run's folder
# Metrics that are shares of rows, or differences of such: shown in per cent. All others are shown as they are.
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


def shown_value(number: MetricValue | None, places: int = 1) -> str:
    """A value with its interval, as the tables of Markdown and changes have it.

    >>> shown_value(MetricValue("accuracy", "", 0.5, 0.4, 0.6))
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
    """JSON for inside a script element: no text in it can end the element or open a comment.

    >>> script_json({"text": "</script><!--"})
    '{"text":"\\\\u003c/script\\\\u003e\\\\u003c!--"}'
    """
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    for character, escape in UNSAFE.items():
        text = text.replace(character, escape)
    return SURROGATE.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def published(run: Run) -> tuple[PublishedScore, ...]:
    """The published scores to show beside a run that asked for them (`settings["references"]`).

    They are of the benchmarks that were measured whole: a cut or otherwise different set has none.
    """
    if run.settings.get("references") is not True:
        return ()
    return tuple(row for m in run.benchmarks if not m.differs for row in published_scores(m.name))


def page_data(folder: Path, run: Run) -> dict[str, Any]:
    """All that report.html is made of: `run` and `explorer`."""
    told: dict[str, Any] = asdict(run)
    for result in told["results"]:
        result["numbers"] = [_slim(n) for n in result["numbers"]]
    told["between"] = {name: [_slim(n) for n in numbers] for name, numbers in told["between"].items()}
    metrics = {n.metric for r in run.results for n in r.numbers} | {n.metric for ns in run.between.values() for n in ns}
    told["shares"] = sorted(filter(is_share, metrics))
    told["references"] = [
        {name: getattr(r, name) for name in ("model", "benchmark", "section", "score", "source", "date")}
        for r in published(run)
    ]
    told["caveats"] = caveats(folder, run)
    return {"run": told, "explorer": Judgments(folder, run).embedded()}


def _slim(number: dict[str, Any]) -> dict[str, Any]:
    """A MetricValue without what is not known; a count of nothing and an empty text go without saying."""
    return {k: v for k, v in number.items() if v is not None and (k == "section" or v != DEFAULTS.get(k))}


@dataclass(slots=True)
class _Read:
    """An Item and what the scorers said of it: `said` by result, `cost` in bytes on the page."""

    benchmark: int
    item: dict[str, Any]
    cost: int
    said: dict[int, Outcome] = field(default_factory=dict)
    differs: bool = False


class Judgments:
    """The judgments of a run, read in two passes: one to weigh them, one to take those that fit.

    An Item goes with the judgments of all its scorers. Where not all fit, those with a failure or a disagreement
    between scorers go first, then the others, in an order drawn by `seed`.
    """

    def __init__(self, folder: Path, run: Run, most: int = MOST_JUDGMENTS, size: int = MOST_BYTES, seed: int = 0):
        self._folder, self._run, self._most, self._size, self._seed = folder, run, most, size, seed

    def embedded(self) -> dict[str, Any]:
        weighed = self._weigh()
        taken = self._take(weighed)
        places = {(r.benchmark, r.item["id"]): place for place, r in enumerate(taken)}
        items = [{"b": r.benchmark, **r.item, "d": int(r.differs)} for r in taken]
        cards = []
        for s, result in enumerate(self._run.results):
            b = self._benchmark(result)
            for card in self._lines(result.file):
                if (place := places.get((b, card["id"]))) is not None:
                    cards.append(_card(place, s, card, taken[place].said[s]))
        total = sum(len(r.said) for r in weighed)
        return {
            "items": items,
            "cards": sorted(cards, key=lambda card: (card["i"], card["s"])),
            "total": total,
            "said": SAID,
            "flagged": {
                "shown": sum(_first(r) for r in taken),
                "all": sum(_first(r) for r in weighed),
            },
        }

    def _weigh(self) -> list[_Read]:
        found: dict[tuple[int, str], _Read] = {}
        for b, benchmark in enumerate(self._run.benchmarks):
            for item in self._lines(benchmark.file):
                kept = _item(item)
                found[b, item["id"]] = _Read(b, kept, _bytes(kept))
        for s, result in enumerate(self._run.results):
            b = self._benchmark(result)
            for card in self._lines(result.file):
                if (read := found.get((b, card["id"]))) is not None:
                    read.said[s] = outcome(read.item, card)
                    read.cost += _bytes(_card(0, s, card, read.said[s]))
        for read in found.values():
            read.differs = disagree(said.prefers for said in read.said.values())
        return list(found.values())

    def _take(self, weighed: list[_Read]) -> list[_Read]:
        order = list(range(len(weighed)))
        random.Random(self._seed).shuffle(order)
        order.sort(key=lambda place: not _first(weighed[place]))
        taken, judgments, size = [], 0, 0
        for place in order:
            read = weighed[place]
            if judgments + len(read.said) > self._most or size + read.cost > self._size:
                continue
            taken.append(place)
            judgments += len(read.said)
            size += read.cost
        return [weighed[place] for place in sorted(taken)]

    def _benchmark(self, result: Result) -> int:
        return next(b for b, m in enumerate(self._run.benchmarks) if m.name == result.benchmark)

    def _lines(self, file: str) -> Iterator[dict[str, Any]]:
        """The rows of a file of the run; none where it was taken away: the numbers stand without it."""
        path = self._folder / file
        return read_jsonl(path) if path.is_file() else iter(())


def _first(read: _Read) -> bool:
    return read.differs or any(said.failures for said in read.said.values())


def _bytes(value: Any) -> int:
    return len(script_json(value).encode())


def _item(item: dict[str, Any]) -> dict[str, Any]:
    """An Item as the page has it: without what nothing was said of."""
    prompt = item["prompt"]
    turns = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
    if item.get("system") is not None:
        turns = [{"role": "system", "content": item["system"]}, *turns]
    kept = {
        "id": item["id"],
        "messages": [{"role": turn["role"], "content": _clipped(turn["content"])} for turn in turns],
        "responses": [_clipped(response) for response in item["responses"]],
        "comparisons": item.get("comparisons"),
        "gold": {k: v for k, v in (item.get("gold") or {}).items() if v not in (None, False)},
        "subset": item.get("subset"),
        "reference": _clipped(item.get("reference")),
        "rubric": _clipped(item.get("rubric")),
        "meta": {key: _clipped(str(value)) for key, value in (item.get("meta") or {}).items()},
    }
    return {key: value for key, value in kept.items() if value not in (None, {})}


def _card(place: int, s: int, card: dict[str, Any], said: Outcome) -> dict[str, Any]:
    """A Scorecard as the page has it. `i` is its Item, `s` its result, `o` and `share` how it stands to gold."""
    kept: dict[str, Any] = {"i": place, "s": s, "o": SAID.index(said.said), "f": said.failures}
    if said.share not in (None, 0, 1):
        kept["share"] = round(said.share or 0, 3)
    kept["judgments"] = [_judgment(judgment) for judgment in card["judgments"]]
    if card["comparisons"]:
        kept["comparisons"] = [
            [c["first"], c["second"], _flat(c["outcome"]), c["swapped"]] for c in card["comparisons"]
        ]
    if card["preference"]:
        kept["preference"] = [round(p, 4) for p in card["preference"]]
    return kept


def _judgment(judgment: dict[str, Any]) -> dict[str, Any]:
    completions = list(judgment["completions"])
    if completions == [judgment["critique"]]:
        completions = []  # the critique says it already
    usage = judgment["usage"]
    kept = {
        "score": judgment["score"],
        "failure": _flat(judgment["failure"]),
        "votes": [_flat(vote) for vote in judgment["votes"]],
        "critique": _clipped(judgment["critique"]),
        "completions": [_clipped(completion) for completion in completions],
        "read": judgment["read"],
        "truncated": judgment["truncated"],
        "readings": {name: _flat(value) for name, value in judgment["readings"].items()},
        "mass": judgment["mass"],
        "tokens": [usage["prompt_tokens"], usage["cached_tokens"], usage["generated_tokens"]],
    }
    return {k: v for k, v in kept.items() if v is not None and v not in ([], {}, [0, 0, 0]) and v is not False}


def _flat(value: Any) -> Any:
    """A Failure as [reason, message]; all else as it is."""
    return [value["reason"], _clipped(value["message"])] if isinstance(value, dict) else value


def _clipped(text: str | None) -> str | dict[str, Any] | None:
    """A text as it is, or its beginning and its whole length where it is very long."""
    if text is None or len(text) <= LONGEST_TEXT:
        return text
    return {"beginning": text[:LONGEST_TEXT], "length": len(text)}
