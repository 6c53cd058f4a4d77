"""What in a run's folder does not belong together: numbers of one sitting beside judgments of another."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from judges.evaluation.results import Result, Run, read_jsonl

STALE = "the judgments are not those of the numbers: run compare again"


def caveats(folder: Path, run: Run) -> tuple[str, ...]:
    """A sentence for each file that is missing or does not fit. Raises CannotRun for one that is not whole."""
    told = [
        f"{m.title}: its rows are not in the folder ({m.file}), so none can be read"
        for m in run.benchmarks
        if not (folder / m.file).is_file()
    ]
    titles = {m.name: m.title for m in run.benchmarks}
    for r in run.results:
        name = f"{r.label} on {titles[r.benchmark]}"
        if not (folder / r.file).is_file():
            told.append(f"{name}: its judgments are not in the folder ({r.file})")
        elif why := stale(folder, run, r):
            told.append(f"{name}: {why}")
    return tuple(told)


def stale(folder: Path, run: Run, result: Result) -> str:
    """Why a result's file of judgments is not what its numbers were made of; "" where it is.

    Rows are counted where the scorer was given the whole benchmark; failures by their reason always are.
    """
    rows = 0
    failures: Counter[str] = Counter()
    for card in read_jsonl(folder / result.file):
        rows += 1
        failures.update(j["failure"]["reason"] for j in card["judgments"] if j.get("failure") is not None)
    measured = next(m for m in run.benchmarks if m.name == result.benchmark)
    if result.digest == measured.digest and rows != measured.items:
        return f"{rows:,} judged rows are in the folder, {measured.items:,} in the numbers; {STALE}"
    if dict(failures) != dict(result.failures):
        here, there = (sum(counts.values()) for counts in (failures, result.failures))
        return f"{here:,} failures are in the folder, {there:,} in the numbers; {STALE}"
    return ""
