"""Scorers and functions for the tests of resumed runs."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from judges import Failure, Item, Judgment, Scorecard
from judges.batch.output import ScoreOptions
from judges.batch.run import ScoreSummary, score_file
from judges.scorers.baselines import Length


class RecordingScorer(Length):
    """`length`, which records the ids it scores, raises after `stop_after` cards, and fails the ids in `failing`."""

    def __init__(self, stop_after: int | None = None, failing: Iterable[str] = ()) -> None:
        self.stop_after, self.failing = stop_after, set(failing)
        self.scored: list[str] = []

    def stream(self, items: Iterable[Item]) -> Iterator[Scorecard]:
        for card in super().stream(items):
            if self.stop_after is not None and len(self.scored) == self.stop_after:
                raise RuntimeError("stopped")
            self.scored.append(card.id)
            failed = Judgment(failure=Failure("timeout", "no answer"))
            yield Scorecard(card.id, (failed,)) if card.id in self.failing else card


class UnusedScorer(Length):
    """A scorer that must not be called."""

    def stream(self, items: Iterable[Item]) -> Iterator[Scorecard]:
        raise AssertionError("there was nothing left to score")


def rows(count: int, width: int = 1) -> str:
    """Rows 1 to count, whose responses are `width` times as long as their number."""
    return "".join(json.dumps({"prompt": f"p{n}", "response": "x" * (n * width)}) + "\n" for n in range(1, count + 1))


def written(file: Path) -> list[dict[str, Any]]:
    if file.suffix == ".parquet":
        return pq.read_table(file).to_pylist()
    if file.suffix == ".csv":
        return list(csv.DictReader(io.StringIO(file.read_text(), newline="")))
    return [json.loads(line) for line in file.read_bytes().splitlines()]


def scores(file: Path) -> dict[int, float]:
    """The scores by row number; no row may occur twice."""
    numbers = [(int(r["row"]), float(r["score"])) for r in written(file)]
    assert len(dict(numbers)) == len(numbers)
    return dict(sorted(numbers))


def score(source: Path, output: Path, scorer: Any = None, **options: Any) -> ScoreSummary:
    return score_file(str(source), scorer or Length(), output, ScoreOptions(**options))


def interrupted_score(source: Path, output: Path, after: int, **options: Any) -> None:
    with pytest.raises(RuntimeError, match="stopped"):
        score(source, output, RecordingScorer(after), **options)


def state(folder: Path) -> dict[str, tuple[int, int]]:
    """Every file except the lock, with its inode and the time of its last change."""
    files = [file for file in folder.rglob("*") if file.is_file() and file.name != "lock"]
    return {str(file): (file.stat().st_ino, file.stat().st_mtime_ns) for file in files}


def write_source(folder: Path) -> Path:
    """A file of 20 rows."""
    (folder / "in.jsonl").write_text(rows(20))
    return folder / "in.jsonl"


def write_shards(folder: Path) -> Path:
    """A folder of three files of eight rows each."""
    shards = folder / "shards"
    shards.mkdir()
    for name in "abc":
        (shards / f"{name}.jsonl").write_text(rows(8))
    return shards
