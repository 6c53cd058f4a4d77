"""`assay iterate`: self-rewarding rounds."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, Self

from judges.batch.run import ScoreSummary
from judges.cli.progress import RowProgress
from judges.cli.scorer_options import engine_settings, is_llm_judge
from judges.cli.terminal import plain_table, stdout_console
from judges.errors import CannotRun
from judges.preferences.iterate import IterateObserver, RoundResult, iterate
from judges.preferences.iterate_config import IterateConfig, JudgeConfig
from judges.preferences.iterate_report import REPORT, best_model, table_rows, write_report
from judges.scorer import parse_spec
from judges.types import Usage


def run(config: IterateConfig, folder: Path, quiet: bool) -> None:
    with _TerminalObserver(config, folder, quiet) as observer:
        rounds = iterate(config, folder, observer)
    if not quiet:
        print_rounds(config, rounds, folder / REPORT)


def parse_judge(spec: str, policy: dict[str, Any]) -> JudgeConfig:
    """The judge of a SPEC. An LLM judge that names no model is the policy of each round, with its engine settings."""
    name, settings = parse_spec(spec)
    if is_llm_judge(name) and "model" not in settings:
        return JudgeConfig(name, engine_settings(policy) | settings, follows=True)
    return JudgeConfig(name, settings)


def parse_other_scorer(spec: str, model: str, policy: dict[str, Any]) -> JudgeConfig:
    """A scorer for evaluation only. An LLM judge that names no model is the first policy in all rounds."""
    judge = parse_judge(spec, policy)
    return JudgeConfig(judge.name, {**judge.settings, "model": model}) if judge.follows else judge


def parse_policy(spec: str) -> tuple[str, dict[str, Any]]:
    """A policy's model and its other settings."""
    model, settings = parse_spec(spec)
    if settings.get("engine") == "openai" or "base_url" in settings:
        raise CannotRun("assay iterate trains the policy on this machine: use engine=vllm or transformers, no server")
    return model, settings


def print_rounds(config: IterateConfig, rounds: list[RoundResult], report: Path) -> None:
    table = plain_table("", *(f"M_{round.number}" for round in rounds))
    for row in table_rows(rounds):
        table.add_row(*row)
    stdout_console(160).print(table)
    last = rounds[-1]
    if config.stop and last.stopped:
        print(f"stopped after round {last.number}: {last.stopped}; the best model is {best_model(config, rounds)}")
    print(f"{report}, rounds.json; each round's data and model are in {report.parent}/round-T")


class _TerminalObserver(IterateObserver):
    """Prints phases as lines, and rows and training steps as progress."""

    def __init__(self, config: IterateConfig, folder: Path, quiet: bool) -> None:
        self._config, self._folder, self._quiet = config, folder, quiet
        self._rounds: list[RoundResult] = []
        self._name = ""
        self._progress: RowProgress | None = None

    def on_message(self, text: str) -> None:
        if not self._quiet:
            print(text, file=sys.stderr, flush=True)

    def on_round_end(self, round: RoundResult) -> None:
        self._rounds.append(round)
        write_report(self._config, self._rounds, self._folder)

    def on_phase(self, round: int, name: str) -> None:
        self._close_progress()
        self._name = f"round {round}, {name}"
        if not self._quiet:
            print(self._name, file=sys.stderr, flush=True)

    def on_rows(self, summary: ScoreSummary) -> None:
        self._open_progress(None).update(summary)

    def on_step(self, step: int, total: int) -> None:
        self._open_progress(total).set(step, 0, Usage())

    def _open_progress(self, total: int | None) -> RowProgress:
        if self._progress is None:
            self._progress = RowProgress(self._name, total, self._quiet, "rows" if total is None else "steps")
            self._progress.__enter__()
        return self._progress

    def _close_progress(self) -> None:
        if self._progress is not None:
            self._progress.__exit__()
            self._progress = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._close_progress()
