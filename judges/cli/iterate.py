"""`assay iterate`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from judges.batch.run import Summary
from judges.cli.progress import RowProgress
from judges.cli.score import is_judge, is_place
from judges.errors import CannotRun
from judges.preferences.rounds import Round, Told, iterate
from judges.preferences.rounds_config import Judge, Plan
from judges.preferences.rounds_report import REPORT, best, rows_of, write_report
from judges.scorer import parse_spec


def run(plan: Plan, folder: Path, quiet: bool) -> None:
    with _Shown(plan, folder, quiet) as told:
        rounds = iterate(plan, folder, told)
    if not quiet:
        tell(plan, rounds, folder / REPORT)


def judge_of(spec: str, policy: dict[str, Any]) -> Judge:
    """A judge that writes and names no model follows the policy, and runs where it runs."""
    name, settings = parse_spec(spec)
    if is_judge(name) and "model" not in settings:
        return Judge(name, {key: value for key, value in policy.items() if is_place(key)} | settings, follows=True)
    return Judge(name, settings)


def other_of(spec: str, model: str, policy: dict[str, Any]) -> Judge:
    """A scorer that only measures: one that writes and names no model is the first policy, throughout."""
    found = judge_of(spec, policy)
    return Judge(found.name, {**found.settings, "model": model}) if found.follows else found


def policy_of(spec: str) -> tuple[str, dict[str, Any]]:
    """A policy's model and its other settings."""
    model, settings = parse_spec(spec)
    if settings.get("engine") == "openai" or "base_url" in settings:
        raise CannotRun("assay iterate trains the policy, so it runs here: engine=vllm or transformers, no server")
    return model, settings


def tell(plan: Plan, rounds: list[Round], report: Path) -> None:
    shown = Table(box=None)
    shown.add_column("")
    for one in rounds:
        shown.add_column(f"M_{one.number}", justify="right")
    for row in rows_of(rounds):
        shown.add_row(*row)
    Console(width=None if sys.stdout.isatty() else 160).print(shown)
    if plan.stop and rounds[-1].stopped:
        print(f"stopped after round {rounds[-1].number}: {rounds[-1].stopped}; the best model is {best(plan, rounds)}")
    print(f"{report}, rounds.json; each round's data and model in {report.parent}/round-T")


class _Shown(Told):
    """Phases as lines, rows and training steps as progress."""

    def __init__(self, plan: Plan, folder: Path, quiet: bool) -> None:
        self._plan, self._folder, self._quiet = plan, folder, quiet
        self._rounds: list[Round] = []
        self._name = ""
        self._progress: RowProgress | None = None

    def note(self, text: str) -> None:
        if not self._quiet:
            print(text, file=sys.stderr, flush=True)

    def done(self, round: Round) -> None:
        self._rounds.append(round)
        write_report(self._plan, self._rounds, self._folder)

    def phase(self, round: int, name: str) -> None:
        self._end()
        self._name = f"round {round}, {name}"
        if not self._quiet:
            print(self._name, file=sys.stderr, flush=True)

    def rows(self, summary: Summary) -> None:
        now = summary.failed - summary.failed_before
        self._shown(None).at(summary.written, now, summary.usage, summary.share, summary.resumed)

    def step(self, step: int, of: int) -> None:
        from judges.types import Usage

        self._shown(of).at(step, 0, Usage(), None)

    def _shown(self, total: int | None) -> RowProgress:
        if self._progress is None:
            self._progress = RowProgress(self._name, total, self._quiet, "rows" if total is None else "steps")
            self._progress.__enter__()
        return self._progress

    def _end(self) -> None:
        if self._progress is not None:
            self._progress.__exit__()
            self._progress = None

    def __enter__(self) -> _Shown:
        return self

    def __exit__(self, *_: object) -> None:
        self._end()
