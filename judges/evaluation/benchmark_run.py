"""One scorer over one benchmark: each judgment is written to disk as it arrives, and a run can be resumed."""

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
from judges.types import Item, Scorecard, scorecard_from_dict, to_dict


@dataclass(frozen=True, slots=True)
class BenchmarkRun:
    """The judgments of one scorer on a benchmark, or on a part of it.

    `cards` are by Item id; `seconds` is the judging time, summed over all sessions; `file` is where the cards are,
    relative to the run's folder. `published` marks judgments that were read from a file, not made here.
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


def run_benchmark(
    scorer: Scorer,
    label: str,
    spec: str,
    benchmark: Benchmark,
    folder: Path,
    on_card: Callable[[Scorecard], None] = lambda _: None,
    published: bool = False,
) -> BenchmarkRun:
    """Judge every Item that has no judgment yet, and write each card to `folder/judgments` as it arrives.

    Cards of earlier sessions are reused where scorer, settings, version and Item are the same. Judgments that do not
    belong to this benchmark or scorer are moved to `judgments/earlier`, never deleted. `on_card` is called with
    every card, reused ones first. Raises CannotRun where the folder cannot be written or an earlier card cannot be
    read.
    """
    path = folder / "judgments" / f"{file_name(benchmark.name, spec)}.jsonl"
    identity = scorer.identity()
    digests = {item.id: scorer_input_digest(item) for item in benchmark.items}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        rows = _reuse_rows(path, identity, benchmark.digest, digests)
        cards = {row["id"]: scorecard_from_dict(row) for row in rows}
        seconds = max((row["seconds"] for row in rows), default=0.0)
        for card in cards.values():
            on_card(card)
        missing = [item for item in benchmark.items if item.id not in cards]
        if missing:
            if remember := getattr(scorer, "remember", None):
                remember(folder / "completions.sqlite")
            if isinstance(scorer, LLMJudge):
                _ = scorer.engine  # the time to start the engine is not judging time
            started = time.perf_counter() - seconds
            subsets = {item.id: item.subset for item in missing}
            with open(path, "a", encoding="utf-8", errors="backslashreplace") as out:
                for card in scorer.stream(iter(missing)):
                    cards[card.id] = card
                    seconds = time.perf_counter() - started
                    row: dict[str, Any] = {"benchmark": benchmark.name, "scorer": label, "subset": subsets[card.id]}
                    row |= {"item": digests[card.id], "seconds": round(seconds, 3), **to_dict(card)}
                    out.write(_line(row))
                    out.flush()
                    on_card(card)
    except OSError as error:
        raise CannotRun(f"{path}: {error.strerror}; the judgments so far are safe, run again") from error
    file = path.relative_to(folder).as_posix()
    return BenchmarkRun(label, scorer.name, spec, benchmark, identity, cards, seconds, file, published)


def scorer_input_digest(item: Item) -> str:
    """A digest of every field of an Item that a scorer sees."""
    fields = [item.messages, item.responses, item.reference, item.rubric, item.comparisons]
    return hashlib.sha256(json.dumps(fields, ensure_ascii=False).encode()).hexdigest()[:16]


def _reuse_rows(
    path: Path, identity: Mapping[str, Any], digest: str, digests: Mapping[str, str]
) -> list[dict[str, Any]]:
    """The rows of earlier sessions that this run can reuse; afterwards the file holds exactly these.

    The other rows go to `judgments/earlier`. A line that a kill left unfinished is dropped.
    """
    manifest = path.with_suffix(".manifest.json")
    current = json.dumps({"identity": identity, "assay": version("assay")}, sort_keys=True, default=str)
    stored = json.loads(manifest.read_text(encoding="utf-8")) if manifest.exists() else {}
    previous = json.dumps({key: stored.get(key) for key in ("identity", "assay")}, sort_keys=True)
    rows = _read_rows(path)
    candidates = [*_read_rows(_archive(path, current)), *(rows if previous == current else [])]
    by_key = {(row["id"], row["item"]): row for row in candidates}
    reused = [by_key[key] for key in digests.items() if key in by_key]
    obsolete = [row for row in rows if previous != current or digests.get(row["id"]) != row["item"]]
    if obsolete:
        archive = _archive(path, previous)
        archived = {(row["id"], row["item"]) for row in _read_rows(archive)}
        archive.parent.mkdir(exist_ok=True)
        with open(archive, "a", encoding="utf-8", errors="backslashreplace") as out:
            out.writelines(_line(row) for row in obsolete if (row["id"], row["item"]) not in archived)
    _write(path, "".join(map(_line, reused)))
    _write(manifest, json.dumps({**json.loads(current), "items": digest}, sort_keys=True, ensure_ascii=False))
    return reused


def _archive(path: Path, manifest: str) -> Path:
    """The file of earlier rows that were made by the scorer with this manifest."""
    return path.parent / "earlier" / f"{path.stem}-{hashlib.sha256(manifest.encode()).hexdigest()[:8]}.jsonl"


def _read_rows(path: Path) -> list[dict[str, Any]]:
    if not path.exists():
        return []
    rows = []
    for number, line in enumerate(path.read_bytes().split(b"\n")[:-1], start=1):  # the last is unfinished or empty
        try:
            row = json.loads(line)
            scorecard_from_dict(row)
            rows.append({"item": "", "seconds": 0.0} | row)
        except (ValueError, KeyError, TypeError) as error:
            raise CannotRun(
                f"{path}, line {number}: not a judgment of this version; move the file away and run again"
            ) from error
    return rows


def _line(row: Mapping[str, Any]) -> str:
    return json.dumps(row, ensure_ascii=False) + "\n"


def _write(path: Path, text: str) -> None:
    part = path.with_name(f"{path.name}.part")
    part.write_text(text, encoding="utf-8", errors="backslashreplace")
    part.replace(path)


def write_items(benchmark: Benchmark, folder: Path) -> str:
    """Write a benchmark's Items to `folder/items`, where reports read them. Returns the path relative to `folder`."""
    path = folder / "items" / f"{file_name(benchmark.name)}.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    _write(path, "".join(json.dumps(to_dict(i), ensure_ascii=False, default=str) + "\n" for i in benchmark.items))
    return path.relative_to(folder).as_posix()


def file_name(benchmark: str, spec: str = "") -> str:
    """A readable file name, unique to the benchmark and the scorer's SPEC."""
    names = "--".join([Path(benchmark).stem, *([spec.split(",")[0]] if spec else [])])
    safe = "".join(c if c.isalnum() or c in "-_" else "-" for c in names)[:80]
    return f"{safe}-{hashlib.sha256(f'{benchmark} {spec}'.encode()).hexdigest()[:6]}"
