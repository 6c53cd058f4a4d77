"""Progress of a training: a bar of steps and a row for each evaluation; plain lines where there is no terminal."""

from __future__ import annotations

import sys
import time
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

LINE_SECONDS = 60.0  # between two lines where there is no terminal

Columns = tuple[tuple[str, str, str], ...]  # key of an evaluation, heading, format
REWARD_COLUMNS: Columns = (
    ("step", "step", "{:>7.0f}"),
    ("epoch", "epoch", "{:>6.2f}"),
    ("train_loss", "loss", "{:>7.4f}"),
    ("eval_loss", "held-out", "{:>8.4f}"),
    ("eval_accuracy", "accuracy", "{:>8.3f}"),
    ("eval_margin", "margin", "{:>8.3f}"),
    ("eval_chosen_reward", "chosen", "{:>8.3f}"),
    ("eval_rejected_reward", "rejected", "{:>8.3f}"),
    ("learning_rate", "rate", "{:>9.2e}"),
)
CRITIQUE_COLUMNS: Columns = (
    ("step", "step", "{:>7.0f}"),
    ("epoch", "epoch", "{:>6.2f}"),
    ("train_loss", "loss", "{:>7.4f}"),
    ("eval_loss", "held-out", "{:>8.4f}"),
    ("eval_critique_loss", "critiques", "{:>9.4f}"),
    ("eval_preference_loss", "preference", "{:>10.4f}"),
    ("eval_accuracy", "accuracy", "{:>8.3f}"),
    ("eval_margin", "margin", "{:>8.3f}"),
    ("learning_rate", "rate", "{:>9.2e}"),
)


class TrainingProgress:
    """Prints the events of a training (`begin`, `step`, `evaluation`) on standard error."""

    def __init__(self, quiet: bool, columns: Columns = REWARD_COLUMNS) -> None:
        self._quiet, self._columns = quiet, columns
        self._console = Console(stderr=True, width=None if sys.stderr.isatty() else 120, highlight=False)
        self._bar: Progress | None = None
        self._header_printed = False
        self._first_step: float | None = None
        self._last_line = 0.0

    def __call__(self, event: str, values: dict[str, Any]) -> None:
        if self._quiet:
            return
        if event == "begin":
            unshared_reason = values["unshared_reason"]
            sharing = (
                f"prompts are not shared: {unshared_reason}" if unshared_reason else "each prompt is computed once"
            )
            self._print(f"{values['counts']}")
            self._print(f"{values['train']} rows to train on, {values['held']} held out; {sharing}")
        elif event == "step":
            self._show_step(values["step"], values["of"])
        elif event == "evaluation":
            widths = [len(form.format(0)) for _, _, form in self._columns]
            if not self._header_printed:
                titles = zip(self._columns, widths, strict=True)
                self._print(" ".join(title.rjust(width) for (_, title, _), width in titles))
                self._header_printed = True
            self._print(
                " ".join(
                    form.format(values[key]) if key in values else "-".rjust(width)
                    for (key, _, form), width in zip(self._columns, widths, strict=True)
                )
            )

    def _print(self, line: str) -> None:
        self._console.print(line, soft_wrap=True)

    def _show_step(self, step: int, of: int) -> None:
        if not self._console.is_terminal:
            now = time.monotonic()
            if self._first_step is None:
                self._first_step = self._last_line = now
            elif now - self._last_line > LINE_SECONDS and step > 1:
                self._last_line = now
                left = (now - self._first_step) / (step - 1) * (of - step)
                self._print(f"step {step} of {of}, about {left / 60:.0f} min left")
            return
        if self._bar is None:
            self._bar = Progress(
                TextColumn("training"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), console=self._console
            )
            self._bar.start()
            self._bar.add_task("training", total=of)
        self._bar.update(self._bar.task_ids[0], completed=step)
        if step >= of:
            self._bar.stop()
