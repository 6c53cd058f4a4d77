"""A run against an earlier one: the gate for a change of a judge's prompt or model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from judges.errors import CannotRun
from judges.evaluation.judging import Judged
from judges.evaluation.measure import headline_tally
from judges.evaluation.results import Contrast, Number, Result, Run, read_lines, read_run
from judges.evaluation.statistics.significance import change
from judges.types import Scorecard, scorecard

Key = tuple[str, str]  # a benchmark's name and a scorer's label


@dataclass(frozen=True, slots=True)
class Earlier:
    """An earlier run with its judgments in memory: this run may write to the same disk."""

    run: Run
    cards: Mapping[Key, Mapping[str, Scorecard]]


@dataclass(frozen=True, slots=True)
class Change:
    """One scorer on one benchmark, now against then. `contrast` is None, and `why` says why, where they cannot be
    compared; `before` and `after` are the accuracies, whose `worst` counts every failure as wrong."""

    label: str
    benchmark: str
    contrast: Contrast | None
    before: Number | None = None
    after: Number | None = None
    why: str = ""


def read_earlier(folder: Path, output: Path) -> Earlier:
    """The run to compare with, whole. Raises CannotRun where it is not there, or is the one to be written."""
    if folder.resolve() == output.resolve():
        raise CannotRun(f"--against {folder} is this run's own folder: give another -o")
    run = read_run(folder)
    cards: dict[Key, dict[str, Scorecard]] = {}
    for result in run.results:
        path = folder / result.file
        try:
            cards[result.benchmark, result.label] = {row["id"]: scorecard(row) for row in read_lines(path)}
        except (KeyError, TypeError, ValueError) as error:
            raise CannotRun(f"{path}: not judgments of assay compare: {error}") from error
    return Earlier(run, cards)


def changes(earlier: Earlier, judged: Sequence[Judged], results: Sequence[Result]) -> list[Change]:
    """Each result of this run against the earlier one of the same scorer on the same Items, paired by row.

    The contrast's `difference` is this run's headline minus the earlier one's. Scorers of the earlier run that
    are not in this one follow, without a contrast.
    """
    before = {(r.benchmark, r.label): r for r in earlier.run.results}
    now = {(r.benchmark, r.label): r for r in results}
    found = [_change(earlier, before, one, now[one.benchmark.name, one.label]) for one in judged]
    gone = [key for key in before if key not in now]
    return found + [Change(label, name, None, why="only in the earlier run") for name, label in gone]


def _change(earlier: Earlier, before: Mapping[Key, Result], one: Judged, result: Result) -> Change:
    label, name = one.label, one.benchmark.name
    old = before.get((name, label))
    if old is None:
        return Change(label, name, None, why="not in the earlier run")
    numbers = _accuracy(old), _accuracy(result)
    if old.digest != one.benchmark.digest:
        return Change(label, name, None, *numbers, "its rows have changed since")
    then = Judged(label, old.scorer, old.spec, one.benchmark, old.identity, earlier.cards[name, label], 0.0, old.file)
    if any(item.id not in then.cards for item in one.benchmark.items):
        return Change(label, name, None, *numbers, "the earlier run's judgments are not those of its numbers")
    was, is_now = headline_tally(then), headline_tally(one)
    if was is None or is_now is None:
        return Change(label, name, None, *numbers, "its headline is no mean over rows")
    try:
        return Change(label, name, change(name, label, was, is_now), *numbers)
    except ValueError as error:  # a part of the benchmark has a value in one of the runs alone
        return Change(label, name, None, *numbers, str(error))


def _accuracy(result: Result) -> Number:
    return result.number("accuracy") or result.main


def worse(found: Sequence[Change], points: float) -> list[str]:
    """Why the gate is shut, in sentences; empty where it is open.

    It is shut by a headline that fell by more than so many points, by failures that could have hidden such a fall
    (the accuracy with every failure counted as wrong), and by a scorer of this run that could not be compared.
    """
    told = []
    for one in found:
        where = f"{one.label} on {one.benchmark}"
        if one.contrast is None:
            if one.after is not None or one.why == "not in the earlier run":
                told.append(f"{where}: not compared: {one.why}.")
        elif 100 * one.contrast.difference < -points:
            told.append(f"{one.contrast.words} That is more than {points:g} points worse.")
        elif one.before and one.after and one.before.worst is not None and one.after.worst is not None:
            fall = 100 * (one.before.worst - one.after.worst)
            if fall > points:
                told.append(
                    f"{where}: with every failure counted as wrong it fell by {fall:.1f} points, more than {points:g}:"
                    f" {one.after.left_out} rows failed, {one.before.left_out} did before."
                )
    return told
