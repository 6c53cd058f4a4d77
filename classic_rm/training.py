"""A training from rows to a checkpoint: prepared, run on the Trainer, resumed, measured, saved."""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
import statistics
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from scipy.optimize import minimize_scalar
from transformers import EarlyStoppingCallback, Trainer, TrainerCallback, TrainingArguments
from transformers.trainer_callback import PrinterCallback

from classic_rm.checkpoints import last_checkpoint, run_trainer, whole_folder
from classic_rm.data import Counts, Example, encode_items, split_by_prompt, with_foreign_rejected
from classic_rm.model import RewardNetwork, begin, max_length_of, save_model, write_statistics
from classic_rm.prefix_sharing import allow_sharing
from classic_rm.reward_model import RewardModel
from classic_rm.settings import TrainingSettings
from classic_rm.trainer import MEASURES, Collator, Numbered, PairTrainer
from judges.errors import CannotRun
from judges.types import Failure, Item

Rows = Sequence[tuple[int, Item | Failure]]
Tell = Callable[[str, dict[str, Any]], None]


@dataclass(frozen=True)
class Trained:
    """What came of a training. `history` has a row for each evaluation: step, epoch, loss and the measures
    of `MEASURES` on held-out prompts; `best_step` is the one that was kept."""

    counts: Counts
    train_prompts: int
    held_rows: tuple[int, ...]
    history: list[dict[str, float]] = field(repr=False)
    best_step: int
    validation_loss: float
    validation_accuracy: float
    shares_prompts: str


class Report(TrainerCallback):
    """Steps and evaluations to whoever watches."""

    def __init__(self, tell: Tell) -> None:
        self._tell = tell

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.is_world_process_zero:
            self._tell("step", {"step": state.global_step, "of": state.max_steps})

    def on_evaluate(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.is_world_process_zero and (rows := evaluations(state.log_history)):
            self._tell("evaluation", dict(rows[-1]))


def evaluations(log_history: Sequence[dict[str, Any]]) -> list[dict[str, float]]:
    """The Trainer's log as one row for each evaluation, with the training measures since the one before."""
    found: dict[int, dict[str, float]] = {}
    for entry in log_history:
        if "train_runtime" in entry:  # the Trainer's summary of the whole run
            continue
        row = found.setdefault(int(entry["step"]), {"step": float(entry["step"])})
        row |= {key: value for key, value in entry.items() if isinstance(value, int | float)}
    return [row for row in found.values() if "eval_loss" in row]


def train(
    rows: Rows,
    settings: TrainingSettings,
    output: Path,
    tell: Tell = lambda kind, values: None,
    finish: Callable[[Path, Trained], None] = lambda folder, trained: None,
    member: int = 0,
) -> Trained:
    """Train on numbered rows and save a plain checkpoint at `output`.

    The step with the lowest loss on held-out prompts is kept. A run that was killed goes on from its last
    checkpoint beside `output`. `finish` may add to the checkpoint's folder before it gets its name. `member`
    makes another model of an ensemble: other head, other order, the same split.

    Raises CannotRun with fewer than two usable rows, when the loss is not a number, and out of memory.
    """
    model, tokenizer = begin(settings.start, settings.seed + member)
    limit = min(settings.max_length, max_length_of(model, tokenizer))
    prepared = _prepare(rows, tokenizer, settings, limit, member)
    network = RewardNetwork(model, settings.start.dropout)
    why_not = "asked not to" if not settings.share_prompts else "it is an encoder"
    if settings.share_prompts and network.decoder:
        why_not = allow_sharing(network.plain, limit) or ""
    processes = PartialState()
    if processes.is_main_process:
        sizes = {"train": len(prepared.train), "held": len(prepared.held)}
        tell("begin", {"counts": str(prepared.counts), "why_not": why_not, **sizes})

    scratch = output.with_name(f"{output.name}.training")
    with processes.main_process_first():
        resume = last_checkpoint(scratch, _fingerprint(prepared, settings, member))
    if "tensorboard" in settings.log_to:  # beside the output: the scratch folder goes when the run ends
        os.environ.setdefault("TENSORBOARD_LOGGING_DIR", str(output.with_name(f"{output.name}.logs")))
    trainer = PairTrainer(
        model=network,
        args=arguments(settings, scratch, len(prepared.train), settings.seed + member),
        train_dataset=prepared.train,
        eval_dataset=prepared.held,
        data_collator=Collator(tokenizer.pad_token_id, packed=not why_not),
        compute_metrics=lambda told: dict(zip(MEASURES, told.predictions.mean(0).tolist(), strict=True)),
        callbacks=[EarlyStoppingCallback(settings.patience), Report(tell)],
        settings=settings,
        group=bool(why_not),
    )
    trainer.remove_callback(PrinterCallback)
    run_trainer(trainer, resume, scratch, settings.batch_size, settings.max_length)
    trained = _trained(trainer, prepared, why_not)
    # FSDP holds a model in pieces: all processes together make it whole.
    state = trainer.accelerator.get_state_dict(trainer.model_wrapped) if trainer.is_fsdp_enabled else None
    if trainer.is_world_process_zero():
        _save(state, trainer, tokenizer, settings, output, trained, [one.example for one in prepared.held], finish)
        shutil.rmtree(scratch, ignore_errors=True)
    processes.wait_for_everyone()
    return trained


@dataclass(frozen=True)
class _Prepared:
    counts: Counts
    train: list[Numbered]
    held: list[Numbered]


def _prepare(rows: Rows, tokenizer: Any, settings: TrainingSettings, limit: int, member: int) -> _Prepared:
    """Rows as token ids, split by prompt. Raises CannotRun with fewer than two prompts."""
    if settings.foreign_rejected:
        rows = list(with_foreign_rejected(rows, settings.seed))
    examples, counts = encode_items(tokenizer, rows, limit)
    if len({example.prompt for example in examples}) < 2:
        raise CannotRun(f"training needs usable preference rows of two prompts or more; there are {counts}")
    dropped = {row for taken in counts.dropped.values() for row in taken}
    numbers = [number for number, _ in rows if number not in dropped]
    draws = _bootstrap(len(examples), settings.start.heads, settings.seed + member)
    kept, _ = split_by_prompt(examples, settings.validation_share, settings.seed)
    learned = {id(example) for example in kept}
    numbered = [Numbered(n, e, d) for n, e, d in zip(numbers, examples, draws, strict=True)]
    return _Prepared(
        counts,
        [one for one in numbered if id(one.example) in learned],
        [one for one in numbered if id(one.example) not in learned],
    )


def _trained(trainer: Trainer, prepared: _Prepared, why_not: str) -> Trained:
    history = evaluations(trainer.state.log_history)
    best = min(history, key=lambda row: row["eval_loss"])
    return Trained(
        counts=prepared.counts,
        train_prompts=len(prepared.train),
        held_rows=tuple(one.row for one in prepared.held),
        history=history,
        best_step=int(best["step"]),
        validation_loss=best["eval_loss"],
        validation_accuracy=best["eval_accuracy"],
        shares_prompts=why_not,
    )


def arguments(settings: TrainingSettings, scratch: Path, rows: int, seed: int) -> TrainingArguments:
    capable = torch.cuda.is_available() and torch.cuda.is_bf16_supported()
    batches = math.ceil(rows / (settings.batch_size * PartialState().num_processes))
    steps = max(1, math.ceil(settings.epochs * math.ceil(batches / settings.accumulation)))
    every = math.ceil(steps / max(1, round(settings.epochs * settings.evaluations)))
    # Not after a handful of steps, which teach nothing about the held-out loss, but once an epoch at least.
    every = max(1, every, min(20, steps // max(1, math.ceil(settings.epochs))))
    made = TrainingArguments(
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
        bf16=capable,
        eval_strategy="steps",
        eval_steps=every,
        save_strategy="steps",
        save_steps=every,
        save_total_limit=2,
        load_best_model_at_end=True,
        metric_for_best_model="eval_loss",
        greater_is_better=False,
        restore_callback_states_from_checkpoint=True,
        logging_strategy="steps",
        logging_steps=every,
        report_to=list(settings.log_to) or "none",
        disable_tqdm=True,
        remove_unused_columns=False,
        seed=seed,
        data_seed=seed,
        dataloader_pin_memory=torch.cuda.is_available(),
    )
    made._n_gpu = min(1, made.n_gpu)  # several GPUs are several processes; a packed row cannot be scattered
    return made


def _bootstrap(rows: int, heads: int, seed: int) -> list[tuple[float, ...]]:
    """How often each head's bootstrap sample holds each row; one head sees every row once.

    Poisson(1) draws are the bootstrap's limit (Oza and Russell 2001), and let heads share every batch.
    """
    if heads == 1:
        return [(1.0,)] * rows
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.poisson(torch.ones(rows, heads), generator=generator)
    return [tuple(row) for row in drawn.tolist()]


def _fingerprint(prepared: _Prepared, settings: TrainingSettings, member: int) -> str:
    digest = hashlib.sha256(json.dumps([asdict(settings), member], sort_keys=True).encode())
    for one in [*prepared.train, *prepared.held]:
        digest.update(repr((one.row, one.example.comparisons, one.example.margin)).encode())
        for ids in one.example.responses:
            digest.update(bytes(memoryview(ids)))  # type: ignore[arg-type]
    return digest.hexdigest()


def _save(
    state: dict[str, torch.Tensor] | None,
    trainer: Trainer,
    tokenizer: Any,
    settings: TrainingSettings,
    output: Path,
    trained: Trained,
    held: Sequence[Example],
    finish: Callable[[Path, Trained], None],
) -> None:
    """Write the checkpoint, read it back, and measure on held-out prompts what its rewards are."""
    network = trainer.accelerator.unwrap_model(trainer.model)
    if state is not None:
        model, _ = begin(settings.start, settings.seed)
        network = RewardNetwork(model, 0.0)
        network.load_state_dict(state)
    about = {"heads": settings.start.heads, "settings": asdict(settings)}
    with whole_folder(output) as folder:
        save_model(network.model.to("cpu").eval(), tokenizer, folder, about)
        measured = measure(RewardModel(str(folder), batch_size=settings.batch_size), held)
        write_statistics(folder, about | measured)
        finish(folder, trained)


def measure(model: RewardModel, examples: Sequence[Example]) -> dict[str, float]:
    """Mean and deviation of the rewards, and the temperature T under which σ(margin / T) is the likeliest."""
    rewards = [[statistics.fmean(heads) for heads in group] for group in model.rewards([e.responses for e in examples])]
    every = [reward for group in rewards for reward in group]
    margins = torch.tensor(
        [group[i] - group[j] for group, e in zip(rewards, examples, strict=True) for i, j in e.comparisons]
    )
    fitted = minimize_scalar(
        lambda log_t: float(torch.nn.functional.softplus(-margins / math.exp(log_t)).mean()),
        bounds=(-5, 5),
        method="bounded",
    )
    return {
        "mean": statistics.fmean(every),
        "deviation": statistics.pstdev(every),
        "temperature": math.exp(fitted.x),
        "responses": len(every),
    }
