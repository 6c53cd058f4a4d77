"""Training of a Bradley–Terry reward model on transformers' Trainer."""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import EarlyStoppingCallback, Trainer, TrainerCallback, TrainingArguments

from classic_rm.data import Pair, encode_pairs, split_by_prompt
from classic_rm.losses import bradley_terry
from classic_rm.model import load_model, max_length_of, pad_rows, rewards_of, save_model
from judges.errors import CannotRun
from judges.types import Item


@dataclass(frozen=True)
class TrainingSettings:
    """`centring` is the weight of the term that keeps rewards around zero."""

    base: str = "embedded:minilm"
    epochs: float = 1
    learning_rate: float = 1e-5
    batch_size: int = 16
    max_length: int = 512
    weight_decay: float = 0.01
    warmup_share: float = 0.1
    centring: float = 0.01
    validation_share: float = 0.1
    patience: int = 3
    seed: int = 0


@dataclass(frozen=True)
class Trained:
    """What came of a training: counts of rows, and loss and accuracy on held-out prompts."""

    counts: dict[str, int]
    train_pairs: int
    validation_pairs: int
    history: list[dict[str, float]]
    validation_loss: float
    validation_accuracy: float


class _PairTrainer(Trainer):
    def __init__(self, *args: Any, centring: float, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._centring = centring

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        inputs = {key: value for key, value in inputs.items() if key != "labels"}
        rewards = rewards_of(model, **inputs)
        chosen, rejected = rewards.chunk(2)
        loss = bradley_terry(chosen, rejected, centring=self._centring)
        return (loss, {"rewards": torch.stack([chosen, rejected], dim=1)}) if return_outputs else loss

    def prediction_step(self, model: Any, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        with torch.no_grad():
            loss, outputs = self.compute_loss(model, self._prepare_inputs(inputs), return_outputs=True)
        return loss, outputs["rewards"], torch.zeros(len(outputs["rewards"]))


class _Report(TrainerCallback):
    def __init__(self, tell: Any) -> None:
        self._tell = tell

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        self._tell({"epoch": state.epoch or 0.0, "step": state.global_step, **(logs or {})})


def train(items: Sequence[Item], settings: TrainingSettings, output: Path, tell: Any = lambda _: None) -> Trained:
    """Train on Items of two responses, the chosen one first, and save a checkpoint at `output`.

    Raises CannotRun with fewer than two usable rows. The checkpoint with the lowest loss on held-out
    prompts is kept.
    """
    torch.manual_seed(settings.seed)
    model, tokenizer = load_model(settings.base, fresh_head=True, seed=settings.seed)
    limit = min(settings.max_length, max_length_of(model, tokenizer))
    pairs, counts = encode_pairs(tokenizer, items, limit)
    if len(pairs) < 2:
        raise CannotRun(f"fewer than two usable preference rows ({counts}); training needs more")
    kept, held = split_by_prompt(pairs, settings.validation_share, settings.seed)
    if not held or not kept:
        kept, held = pairs[1:], pairs[:1]
    pad = tokenizer.pad_token_id

    def collate(batch: list[Pair]) -> dict[str, torch.Tensor]:
        ids, mask = pad_rows([p.chosen for p in batch] + [p.rejected for p in batch], pad)
        return {"input_ids": ids, "attention_mask": mask, "labels": torch.zeros(len(batch))}

    with tempfile.TemporaryDirectory(prefix="assay-train-") as scratch:
        arguments = TrainingArguments(
            output_dir=scratch,
            num_train_epochs=settings.epochs,
            learning_rate=settings.learning_rate,
            per_device_train_batch_size=settings.batch_size,
            per_device_eval_batch_size=settings.batch_size,
            weight_decay=settings.weight_decay,
            warmup_steps=settings.warmup_share,
            lr_scheduler_type="cosine",
            max_grad_norm=1.0,
            eval_strategy="epoch",
            save_strategy="epoch",
            save_total_limit=2,
            load_best_model_at_end=True,
            metric_for_best_model="eval_loss",
            greater_is_better=False,
            logging_strategy="epoch",
            report_to=[],
            disable_tqdm=True,
            remove_unused_columns=False,
            label_names=["labels"],
            seed=settings.seed,
            dataloader_pin_memory=torch.cuda.is_available(),
        )
        trainer = _PairTrainer(
            model=model,
            args=arguments,
            train_dataset=kept,
            eval_dataset=held,
            data_collator=collate,
            compute_metrics=_accuracy,
            callbacks=[EarlyStoppingCallback(settings.patience), _Report(tell)],
            centring=settings.centring,
        )
        trainer.remove_callback(_PRINTER)
        trainer.train()
        measured = trainer.evaluate()
        rewards = _rewards(trainer, kept)
    result = Trained(
        counts=counts,
        train_pairs=len(kept),
        validation_pairs=len(held),
        history=trainer.state.log_history,
        validation_loss=measured["eval_loss"],
        validation_accuracy=measured["eval_accuracy"],
    )
    save_model(
        trainer.model.eval(),
        tokenizer,
        output,
        {
            "mean": statistics.fmean(rewards),
            "deviation": statistics.pstdev(rewards),
            "settings": asdict(settings),
            "result": {key: value for key, value in asdict(result).items() if key != "history"},
        },
    )
    return result


def _accuracy(predicted: Any) -> dict[str, float]:
    chosen, rejected = predicted.predictions[:, 0], predicted.predictions[:, 1]
    return {"accuracy": float(((chosen > rejected) + 0.5 * (chosen == rejected)).mean())}


def _rewards(trainer: Trainer, pairs: Sequence[Pair]) -> list[float]:
    values = trainer.predict(pairs).predictions  # type: ignore[arg-type]
    return [float(v) for v in values.reshape(-1)]


def _printer() -> Any:
    from transformers.trainer_callback import PrinterCallback

    return PrinterCallback


_PRINTER = _printer()
