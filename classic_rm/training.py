"""Training a Bradley–Terry reward model: rows to a checkpoint with the statistics of its rewards."""

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

from classic_rm.checkpoints import atomic_folder, last_checkpoint
from classic_rm.data import Example, RowCounts, add_foreign_rejected, encode_items, split_by_prompt
from classic_rm.early_stopping import ProgressReport, train_with_early_stopping, training_arguments
from classic_rm.model import RewardNetwork, context_length, initialise_model, save_model, write_statistics
from classic_rm.prefix_sharing import enable_prefix_sharing
from classic_rm.reward_model import RewardModel
from classic_rm.settings import TrainingSettings
from classic_rm.trainer import Collator, PairTrainer, TrainingExample
from judges.errors import CannotRun
from judges.types import Failure, Item

Rows = Sequence[tuple[int, Item | Failure]]


@dataclass(frozen=True)
class TrainingResult:
    """What a training did.

    `history` has a row for each evaluation: step, epoch, and the loss and `METRICS` on training and held-out prompts.
    `best_step` is the step with the lowest held-out loss, which was saved, with its `validation_loss` (in nats) and
    `validation_accuracy`. `held_out_rows` are row numbers. `unshared_reason` is empty where each prompt was computed
    once for its responses.
    """

    counts: RowCounts
    train_rows: int
    held_out_rows: tuple[int, ...]
    history: list[dict[str, float]] = field(repr=False)
    best_step: int
    validation_loss: float
    validation_accuracy: float
    unshared_reason: str


def train(
    rows: Rows,
    settings: TrainingSettings,
    output: Path,
    report: ProgressReport = lambda event, values: None,
    finish: Callable[[Path, TrainingResult], None] = lambda folder, result: None,
    member: int = 0,
) -> TrainingResult:
    """Train on numbered rows and save a transformers checkpoint at `output`.

    Training stops early and saves the step with the lowest loss on held-out prompts. A killed run resumes from its last
    checkpoint in `OUTPUT.training`. `report` receives progress events. `finish` may add files to the checkpoint's
    folder before it is renamed to `output`. `member` is the index in an ensemble: members differ in the head and the
    order of the rows, and share the held-out prompts.

    Raises CannotRun with usable rows of fewer than two prompts, when the loss is not finite, and out of memory.
    """
    model, tokenizer = initialise_model(settings.start, settings.seed + member)
    max_length = min(settings.max_length, context_length(model, tokenizer))
    dataset = _prepare(rows, tokenizer, settings, max_length, member)
    network = RewardNetwork(model, settings.start.dropout)
    unshared_reason = "share_prompts is off" if not settings.share_prompts else "it is an encoder"
    if settings.share_prompts and network.decoder:
        unshared_reason = enable_prefix_sharing(network.pretrained, max_length) or ""
    processes = PartialState()
    if processes.is_main_process:
        sizes = {"train": len(dataset.train), "held": len(dataset.held_out)}
        report("begin", {"counts": str(dataset.counts), "unshared_reason": unshared_reason, **sizes})

    scratch = output.with_name(f"{output.name}.training")
    with processes.main_process_first():
        resume = last_checkpoint(scratch, _fingerprint(dataset, settings, member))
    if "tensorboard" in settings.log_to:  # beside the output, since the scratch folder is deleted at the end
        os.environ.setdefault("TENSORBOARD_LOGGING_DIR", str(output.with_name(f"{output.name}.logs")))
    trainer = PairTrainer(
        model=network,
        args=training_arguments(settings, scratch, len(dataset.train), settings.seed + member),
        train_dataset=dataset.train,
        eval_dataset=dataset.held_out,
        data_collator=Collator(tokenizer.pad_token_id, packed=not unshared_reason),
        settings=settings,
        group_by_length=bool(unshared_reason),
    )
    history = train_with_early_stopping(trainer, settings, scratch, resume, report)
    best = min(history, key=lambda row: row["eval_loss"])
    result = TrainingResult(
        counts=dataset.counts,
        train_rows=len(dataset.train),
        held_out_rows=tuple(item.row for item in dataset.held_out),
        history=history,
        best_step=int(best["step"]),
        validation_loss=best["eval_loss"],
        validation_accuracy=best["eval_accuracy"],
        unshared_reason=unshared_reason,
    )
    # FSDP shards the weights: all processes take part in gathering them.
    state = trainer.accelerator.get_state_dict(trainer.model_wrapped) if trainer.is_fsdp_enabled else None
    if trainer.is_world_process_zero():
        network = trainer.accelerator.unwrap_model(trainer.model)
        if state is not None:
            network = RewardNetwork(initialise_model(settings.start, settings.seed)[0], 0.0)
            network.load_state_dict(state)
        training_info = {"heads": settings.start.heads, "settings": asdict(settings)}
        with atomic_folder(output) as folder:
            save_model(network.model.to("cpu").eval(), tokenizer, folder, training_info)
            saved = RewardModel(str(folder), batch_size=settings.batch_size)
            measured = measure_rewards(saved, [item.example for item in dataset.held_out])
            write_statistics(folder, training_info | measured)
            finish(folder, result)
        shutil.rmtree(scratch, ignore_errors=True)
    processes.wait_for_everyone()
    return result


@dataclass(frozen=True)
class _Dataset:
    counts: RowCounts
    train: list[TrainingExample]
    held_out: list[TrainingExample]


def _prepare(rows: Rows, tokenizer: Any, settings: TrainingSettings, max_length: int, member: int) -> _Dataset:
    """Encode the rows and split them by prompt. Raises CannotRun with fewer than two prompts."""
    if settings.foreign_rejected:
        rows = list(add_foreign_rejected(rows, settings.seed))
    examples, counts = encode_items(tokenizer, rows, max_length)
    if len({example.prompt for example in examples}) < 2:
        raise CannotRun(f"training needs usable preference rows of two prompts or more; there are {counts}")
    dropped = {row for dropped_rows in counts.dropped.values() for row in dropped_rows}
    numbers = [number for number, _ in rows if number not in dropped]
    draws = _bootstrap(len(examples), settings.start.heads, settings.seed + member)
    train_ids = {id(example) for example in split_by_prompt(examples, settings.validation_share, settings.seed)[0]}
    items = [TrainingExample(n, e, d) for n, e, d in zip(numbers, examples, draws, strict=True)]
    return _Dataset(
        counts,
        [item for item in items if id(item.example) in train_ids],
        [item for item in items if id(item.example) not in train_ids],
    )


def _bootstrap(rows: int, heads: int, seed: int) -> list[tuple[float, ...]]:
    """How often each head's bootstrap sample contains each row; a single head has every row once.

    Poisson(1) counts are the limit of the bootstrap (Oza and Russell 2001), and let the heads share every batch.
    """
    if heads == 1:
        return [(1.0,)] * rows
    generator = torch.Generator().manual_seed(seed)
    counts = torch.poisson(torch.ones(rows, heads), generator=generator)
    return [tuple(row) for row in counts.tolist()]


def _fingerprint(dataset: _Dataset, settings: TrainingSettings, member: int) -> str:
    digest = hashlib.sha256(json.dumps([asdict(settings), member], sort_keys=True).encode())
    for item in [*dataset.train, *dataset.held_out]:
        digest.update(repr((item.row, item.example.comparisons, item.example.margin)).encode())
        for ids in item.example.responses:
            digest.update(bytes(memoryview(ids)))  # type: ignore[arg-type]
    return digest.hexdigest()


def measure_rewards(model: RewardModel, examples: Sequence[Example]) -> dict[str, float]:
    """Statistics of the rewards: `mean`, `deviation` (the population standard deviation), the number of `responses`,
    and the `temperature` T that maximises the likelihood of the comparisons under P(chosen) = σ(margin / T)."""
    groups = [[statistics.fmean(heads) for heads in group] for group in model.rewards([e.responses for e in examples])]
    rewards = [reward for group in groups for reward in group]
    margins = torch.tensor(
        [group[i] - group[j] for group, e in zip(groups, examples, strict=True) for i, j in e.comparisons]
    )
    log_temperature = minimize_scalar(
        lambda log_t: float(torch.nn.functional.softplus(-margins / math.exp(log_t)).mean()),
        bounds=(-5, 5),
        method="bounded",
    ).x
    return {
        "mean": statistics.fmean(rewards),
        "deviation": statistics.pstdev(rewards),
        "temperature": math.exp(log_temperature),
        "responses": len(rewards),
    }
