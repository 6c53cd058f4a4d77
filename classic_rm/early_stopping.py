"""Early stopping: when the held-out loss is measured, when training ends, and which step is used.

Shared by all training on transformers' Trainer. The loss on held-out prompts is measured several times an epoch; the
training ends after `patience` evaluations without an improvement, and the step with the lowest loss is loaded.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from transformers import EarlyStoppingCallback, Trainer, TrainerCallback, TrainingArguments
from transformers.trainer_callback import PrinterCallback

from classic_rm.checkpoints import run_trainer
from classic_rm.settings import TrainingSettings

# Receives an event's name ("begin", "step", "evaluation", …) and its values.
ProgressReport = Callable[[str, dict[str, Any]], None]


class ProgressCallback(TrainerCallback):
    """Reports steps and evaluations."""

    def __init__(self, report: ProgressReport) -> None:
        self._report = report

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.is_world_process_zero:
            self._report("step", {"step": state.global_step, "of": state.max_steps})

    def on_evaluate(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.is_world_process_zero and (rows := evaluations(state.log_history)):
            self._report("evaluation", dict(rows[-1]))


def training_arguments(settings: TrainingSettings, scratch: Path, rows: int, seed: int) -> TrainingArguments:
    """The Trainer's arguments to train on so many rows, with checkpoints in `scratch`."""
    bf16 = torch.cuda.is_available() and torch.cuda.is_bf16_supported()
    batches = math.ceil(rows / (settings.batch_size * PartialState().num_processes))
    steps = max(1, math.ceil(settings.epochs * math.ceil(batches / settings.accumulation)))
    interval = math.ceil(steps / max(1, round(settings.epochs * settings.evaluations)))
    # At least 20 steps, since fewer hardly change the held-out loss, but never less often than once an epoch.
    interval = max(1, interval, min(20, steps // max(1, math.ceil(settings.epochs))))
    arguments = TrainingArguments(
        output_dir=str(scratch),
        num_train_epochs=settings.epochs,
        learning_rate=settings.learning_rate,
        per_device_train_batch_size=settings.batch_size,
        per_device_eval_batch_size=settings.batch_size,
        gradient_accumulation_steps=settings.accumulation,
        gradient_checkpointing=settings.checkpointing,
        weight_decay=settings.weight_decay,
        warmup_steps=settings.warmup_share,
        lr_scheduler_type="cosine",
        max_grad_norm=1.0,
        bf16=bf16,
        eval_strategy="steps",
        eval_steps=interval,
        save_strategy="steps",
        save_steps=interval,
        save_total_limit=2,
        load_best_model_at_end=True,
        metric_for_best_model="eval_loss",
        greater_is_better=False,
        restore_callback_states_from_checkpoint=True,
        logging_strategy="steps",
        logging_steps=interval,
        report_to=list(settings.log_to) or "none",
        disable_tqdm=True,
        remove_unused_columns=False,
        seed=seed,
        data_seed=seed,
        dataloader_pin_memory=torch.cuda.is_available(),
    )
    arguments._n_gpu = min(1, arguments.n_gpu)  # several GPUs are several processes: a packed row cannot be scattered
    return arguments


def train_with_early_stopping(
    trainer: Trainer, settings: TrainingSettings, scratch: Path, resume: Path | None, report: ProgressReport
) -> list[dict[str, float]]:
    """Train, from the checkpoint `resume` if given, and load the step with the lowest held-out loss.

    Returns the history of `evaluations`. Raises CannotRun for errors that the user can fix."""
    trainer.remove_callback(PrinterCallback)
    trainer.add_callback(EarlyStoppingCallback(settings.patience))
    trainer.add_callback(ProgressCallback(report))
    run_trainer(trainer, resume, scratch, settings.batch_size, settings.max_length)
    return evaluations(trainer.state.log_history)


def evaluations(log_history: Sequence[dict[str, Any]]) -> list[dict[str, float]]:
    """The Trainer's log as one row for each evaluation, with the training metrics since the one before."""
    rows: dict[int, dict[str, float]] = {}
    for entry in log_history:
        if "train_runtime" in entry:  # the Trainer's summary of the run
            continue
        row = rows.setdefault(int(entry["step"]), {"step": float(entry["step"])})
        row |= {key: value for key, value in entry.items() if isinstance(value, int | float)}
    return [row for row in rows.values() if "eval_loss" in row]
