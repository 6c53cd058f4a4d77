"""One scorer over one benchmark: every judgment on disk as it comes, resumable after any death."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from judges.errors import CannotRun
from judges.evaluation.benchmarks.base import Benchmark
from judges.scorer import Scorer
from judges.scorers.llm_judge import LLMJudge
from judges.types import Item, Scorecard, scorecard, to_plain


@dataclass(frozen=True, slots=True)
class Judged:
    """What one scorer said of a benchmark, or of the part that it was given.

    `cards` are by Item id; `seconds` is of judging, over all its sittings; `file` is where the cards lie, under
    the run's folder. `published` marks scores that were read, not made.
    """

    label: str
    scorer: str
    spec: str
    benchmark: Benchmark
    identity: Mapping[str, Any]
    cards: Mapping[str, Scorecard]
    seconds: float
    file: str
    published: bool = False


def judge(
    scorer: Scorer,
    label: str,
    spec: str,
    benchmark: Benchmark,
    folder: Path,
    on_card: Callable[[Scorecard], None] = lambda _: None,
    published: bool = False,
) -> Judged:
    """Judge every Item that is not judged yet, and write each card when it is there.

    Cards of earlier sittings are used again where scorer, settings, version and Item are the same. What does not
    belong to this benchmark is set aside under `judgments/earlier`, never thrown away. Raises CannotRun where
    the folder cannot be written or an earlier card cannot be read.
    """
    path = folder / "judgments" / f"{file_name(benchmark.name, spec)}.jsonl"
    identity = scorer.identity()
    seen = {item.id: seen_by_scorers(item) for item in benchmark.items}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        rows = _earlier(path, identity, benchmark.digest, seen)
        cards = {row["id"]: scorecard(row) for row in rows}
        seconds = max((row["seconds"] for row in rows), default=0.0)
        for card in cards.values():
            on_card(card)
        missing = [item for item in benchmark.items if item.id not in cards]
        if missing:
            if remember := getattr(scorer, "remember", None):
                remember(folder / "completions.sqlite")
            if isinstance(scorer, LLMJudge):
                _ = scorer.engine  # starting the engine is not judging time
            started = time.perf_counter() - seconds
            subsets = {item.id: item.subset for item in missing}
            with open(path, "a", encoding="utf-8", errors="backslashreplace") as out:
                for card in scorer.stream(iter(missing)):
                    cards[card.id] = card
                    seconds = time.perf_counter() - started
                    row: dict[str, Any] = {"benchmark": benchmark.name, "scorer": label, "subset": subsets[card.id]}
                    row |= {"item": seen[card.id], "seconds": round(seconds, 3), **to_plain(card)}
                    out.write(json.dumps(row, ensure_ascii=False) + "\n")
                    out.flush()
                    on_card(card)
    except OSError as error:
        raise CannotRun(f"{path}: {error.strerror}; what is judged is safe, run again") from error
    where = path.relative_to(folder).as_posix()
    return Judged(label, scorer.name, spec, benchmark, identity, cards, seconds, where, published)


def seen_by_scorers(item: Item) -> str:
    """A digest of all that a scorer is shown of an Item."""
    shown = [item.messages, item.responses, item.reference, item.rubric, item.comparisons]
    return hashlib.sha256(json.dumps(shown, ensure_ascii=False).encode()).hexdigest()[:16]


def _earlier(path: Path, identity: Mapping[str, Any], digest: str, seen: Mapping[str, str]) -> list[dict[str, Any]]:
    """The rows of earlier sittings that serve now, which the file then holds and nothing else.

    A line that a kill left unfinished is cut off.
    """
    beside = path.with_suffix(".manifest.json")
    mine = json.dumps({"identity": identity, "assay": version("assay")}, sort_keys=True, default=str)
    told = json.loads(beside.read_text(encoding="utf-8")) if beside.exists() else {}
    theirs = json.dumps({key: told.get(key) for key in ("identity", "assay")}, sort_keys=True)
    rows = _rows(path)
    aside = _aside(path, mine)
    found = {(row["id"], row["item"]): row for row in [*_rows(aside), *(rows if theirs == mine else [])]}
    kept = [found[key] for key in seen.items() if key in found]
    lost = [row for row in rows if theirs != mine or seen.get(row["id"]) != row["item"]]
    if lost:
        there = _aside(path, theirs)
        known = {(row["id"], row["item"]) for row in _rows(there)}
        there.parent.mkdir(exist_ok=True)
        with open(there, "a", encoding="utf-8", errors="backslashreplace") as out:
            out.writelines(_line(row) for row in lost if (row["id"], row["item"]) not in known)
    _write(path, "".join(map(_line, kept)))
    _write(beside, json.dumps({**json.loads(mine), "items": digest}, sort_keys=True, ensure_ascii=False))
    return kept


def _aside(path: Path, manifest: str) -> Path:
    """Where rows of a scorer's other sittings lie, by its identity."""
    return path.parent / "earlier" / f"{path.stem}-{hashlib.sha256(manifest.encode()).hexdigest()[:8]}.jsonl"


def _rows(path: Path) -> list[dict[str, Any]]:
    if not path.exists():
        return []
    found = []
    for number, line in enumerate(path.read_bytes().split(b"\n")[:-1], start=1):  # the last is unfinished or empty
        try:
            row = json.loads(line)
            scorecard(row)
            found.append({"item": "", "seconds": 0.0} | row)
        except (ValueError, KeyError, TypeError) as error:
            raise CannotRun(
                f"{path}, line {number}: not a judgment of this version; move the file away and run again"
            ) from error
    return found


def _line(row: Mapping[str, Any]) -> str:
    return json.dumps(row, ensure_ascii=False) + "\n"


def _write(path: Path, text: str) -> None:
    part = path.with_name(f"{path.name}.part")
    part.write_text(text, encoding="utf-8", errors="backslashreplace")
    part.replace(path)


def write_items(benchmark: Benchmark, folder: Path) -> str:
    """Write a benchmark's Items beside the judgments, so that a report needs nothing else; the file's place."""
    path = folder / "items" / f"{file_name(benchmark.name)}.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    _write(path, "".join(json.dumps(to_plain(i), ensure_ascii=False, default=str) + "\n" for i in benchmark.items))
    return path.relative_to(folder).as_posix()


def file_name(benchmark: str, spec: str = "") -> str:
    """A file's name that is readable, and no other benchmark's or scorer's."""
    shown = "--".join([Path(benchmark).stem, *([spec.split(",")[0]] if spec else [])])
    plain = "".join(c if c.isalnum() or c in "-_" else "-" for c in shown)[:80]
    return f"{plain}-{hashlib.sha256(f'{benchmark} {spec}'.encode()).hexdigest()[:6]}"
