"""A regression gate: a run of `assay compare` against an earlier one, after a change of a judge's prompt or model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from judges.errors import CannotRun
from judges.evaluation.benchmark_run import BenchmarkRun
from judges.evaluation.compute_results import headline_tally
from judges.evaluation.results import Contrast, MetricValue, Result, Run, read_jsonl, read_run
from judges.evaluation.statistics.significance import change
from judges.types import Scorecard, scorecard_from_dict

Key = tuple[str, str]  # a benchmark's name and a scorer's label
NEW_SCORER = "not in the earlier run"


@dataclass(frozen=True, slots=True)
class Baseline:
    """An earlier run with its judgments in memory, because the new run may overwrite them on disk."""

    run: Run
    cards: Mapping[Key, Mapping[str, Scorecard]]


@dataclass(frozen=True, slots=True)
class Change:
    """The difference of one scorer on one benchmark between the two runs.

    `contrast` is None where the runs cannot be compared, and `why` then gives the reason. `before` and `after` are
    the accuracies; their `worst` counts every failure as wrong.
    """

    label: str
    benchmark: str
    contrast: Contrast | None
    before: MetricValue | None = None
    after: MetricValue | None = None
    why: str = ""


def read_baseline(folder: Path, output: Path) -> Baseline:
    """Read the run to compare with. Raises CannotRun where there is none, or where it is the run to be written."""
    if folder.resolve() == output.resolve():
        raise CannotRun(f"--against {folder} is this run's own folder: give another -o")
    run = read_run(folder)
    cards: dict[Key, dict[str, Scorecard]] = {}
    for result in run.results:
        path = folder / result.file
        try:
            cards[result.benchmark, result.label] = {row["id"]: scorecard_from_dict(row) for row in read_jsonl(path)}
        except (KeyError, TypeError, ValueError) as error:
            raise CannotRun(f"{path}: not judgments of assay compare: {error}") from error
    return Baseline(run, cards)


def compare_with_baseline(baseline: Baseline, runs: Sequence[BenchmarkRun], results: Sequence[Result]) -> list[Change]:
    """Each result against the baseline's result of the same scorer on the same Items, paired by row.

    The contrast's `difference` is the new headline minus the baseline's. Scorers that only the baseline has follow,
    without a contrast.
    """
    before = {(r.benchmark, r.label): r for r in baseline.run.results}
    after = {(r.benchmark, r.label): r for r in results}
    changes = [_change(baseline, before, run, after[run.benchmark.name, run.label]) for run in runs]
    removed = [key for key in before if key not in after]
    return changes + [Change(label, name, None, why="only in the earlier run") for name, label in removed]


def _change(baseline: Baseline, before: Mapping[Key, Result], run: BenchmarkRun, result: Result) -> Change:
    label, name = run.label, run.benchmark.name
    old = before.get((name, label))
    if old is None:
        return Change(label, name, None, why=NEW_SCORER)
    numbers = _accuracy(old), _accuracy(result)
    if old.digest != run.benchmark.digest:
        return Change(label, name, None, *numbers, "its rows have changed since")
    cards = baseline.cards[name, label]
    old_run = BenchmarkRun(label, old.scorer, old.spec, run.benchmark, old.identity, cards, 0.0, old.file)
    if any(item.id not in cards for item in run.benchmark.items):
        return Change(label, name, None, *numbers, "the earlier run's judgments are not those of its numbers")
    old_tally, tally = headline_tally(old_run), headline_tally(run)
    if old_tally is None or tally is None:
        return Change(label, name, None, *numbers, "its headline is not a mean over rows")
    try:
        return Change(label, name, change(name, label, old_tally, tally), *numbers)
    except ValueError as error:  # a part of the benchmark has a value in only one of the runs
        return Change(label, name, None, *numbers, str(error))


def _accuracy(result: Result) -> MetricValue:
    return result.number("accuracy") or result.main


def regressions(changes: Sequence[Change], points: float) -> list[str]:
    """The reasons to fail the gate, a sentence each; empty where it passes.

    It fails where a headline fell by more than `points` percentage points, where failures could hide such a fall (the
    accuracy with every failure counted as wrong fell by more), and where a scorer of this run cannot be compared.
    """
    reasons = []
    for entry in changes:
        name, before, after = f"{entry.label} on {entry.benchmark}", entry.before, entry.after
        if entry.contrast is None:
            if after is not None or entry.why == NEW_SCORER:
                reasons.append(f"{name}: not compared: {entry.why}.")
        elif 100 * entry.contrast.difference < -points:
            reasons.append(f"{entry.contrast.words} That is more than {points:g} points worse.")
        elif before and after and before.worst is not None and after.worst is not None:
            fall = 100 * (before.worst - after.worst)
            if fall > points:
                reasons.append(
                    f"{name}: with every failure counted as wrong, the accuracy fell by {fall:.1f} points, more than"
                    f" {points:g}: {after.left_out} rows failed, {before.left_out} did before."
                )
    return reasons
