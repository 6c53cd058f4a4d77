"""Checks that the files in a run's folder are complete and belong to its numbers."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from judges.evaluation.results import Result, Run, read_jsonl

STALE = "the judgments are not those that the numbers were computed from: run compare again"


def find_caveats(folder: Path, run: Run) -> tuple[str, ...]:
    """A sentence for each file that is missing or does not match the numbers.

    Raises CannotRun for a file that cannot be read to its end.
    """
    found = [
        f"{benchmark.title}: its rows are not in the folder ({benchmark.file}), so the report cannot show them"
        for benchmark in run.benchmarks
        if not (folder / benchmark.file).is_file()
    ]
    titles = {benchmark.name: benchmark.title for benchmark in run.benchmarks}
    for result in run.results:
        name = f"{result.label} on {titles[result.benchmark]}"
        if not (folder / result.file).is_file():
            found.append(f"{name}: its judgments are not in the folder ({result.file})")
        elif reason := stale_reason(folder, run, result):
            found.append(f"{name}: {reason}")
    return tuple(found)


def stale_reason(folder: Path, run: Run, result: Result) -> str:
    """Why the judgments in a result's file are not those that its numbers were computed from; "" where they are.

    Failures are always counted by reason. Rows are counted only where the scorer was given the whole benchmark.
    """
    rows = 0
    failures: Counter[str] = Counter()
    for card in read_jsonl(folder / result.file):
        rows += 1
        failures.update(j["failure"]["reason"] for j in card["judgments"] if j.get("failure") is not None)
    benchmark = next(b for b in run.benchmarks if b.name == result.benchmark)
    if result.digest == benchmark.digest and rows != benchmark.items:
        return f"the folder has {rows:,} judged rows, the numbers have {benchmark.items:,}; {STALE}"
    if dict(failures) != dict(result.failures):
        return (
            f"the folder has {failures.total():,} failures, the numbers have {sum(result.failures.values()):,}; {STALE}"
        )
    return ""
