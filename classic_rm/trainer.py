"""transformers' Trainer with our batches, our loss, and measures of which each prompt is one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import Trainer
from transformers.trainer_pt_utils import LengthGroupedSampler

from classic_rm.data import Example
from classic_rm.losses import bradley_terry, objective
from classic_rm.model import pad_rows
from classic_rm.prefix_sharing import pack, share
from classic_rm.settings import TrainingSettings
from judges.errors import CannotRun

MEASURES = ("loss", "accuracy", "margin", "chosen_reward", "rejected_reward")


@dataclass(frozen=True)
class Numbered:
    """An Example, which row it was, and for each head how often its bootstrap sample holds it."""

    row: int
    example: Example
    draws: tuple[float, ...]


class Collator:
    """Examples to a batch: packed with shared prompts, or padded rows."""

    def __init__(self, pad: int, packed: bool) -> None:
        self._pad = pad
        self._packed = packed

    def __call__(self, examples: Sequence[Numbered]) -> dict[str, torch.Tensor]:
        held = [one.example for one in examples]
        if self._packed:
            batch = pack([share(example.responses) for example in held])
        else:
            batch = pad_rows([ids for example in held for ids in example.responses], self._pad)
        pairs: list[tuple[int, int]] = []
        owners: list[int] = []
        first = 0
        for place, example in enumerate(held):
            pairs += [(first + i, first + j) for i, j in example.comparisons]
            owners += [place] * len(example.comparisons)
            first += len(example.responses)
        counts = torch.tensor([float(len(example.comparisons)) for example in held])
        owner = torch.tensor(owners, dtype=torch.long)
        draws = torch.tensor([one.draws for one in examples])
        return batch | {
            "comparisons": torch.tensor(pairs, dtype=torch.long).reshape(-1, 2),
            "owners": owner,
            "weights": draws[owner] / counts[owner][:, None],
            "margins": torch.tensor([held[place].margin for place in owners]),
        }


class PairTrainer(Trainer):
    """Trainer with our loss; evaluation gives the measures of each prompt, so that each weighs as one."""

    def __init__(self, *args: Any, settings: TrainingSettings, group: bool, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._settings = settings
        self._group = group
        self._seen: list[torch.Tensor] = []

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        rewards, states = model(**network_inputs(inputs))
        s = self._settings
        loss = objective(
            rewards,
            states,
            inputs,
            centre=s.centring,
            smoothing=s.smoothing,
            contrast=s.contrast if len(inputs["comparisons"]) > 1 else 0.0,  # an epoch's last batch may hold one
            uncertainty=s.uncertainty,
        )
        if not torch.isfinite(loss):
            raise CannotRun(
                f"the loss is {loss.item()} at step {self.state.global_step + 1}; nothing was saved over what is there."
                " Try a lower learning rate, or look for rows without text"
            )
        self._seen.append(measures(rewards.detach(), inputs).mean(0))
        return loss

    def prediction_step(self, model: Any, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        inputs = self._prepare_inputs(inputs)
        with torch.no_grad():
            rewards, _ = model(**network_inputs(inputs))
        found = measures(rewards, inputs)
        return None, found, found[:, 0]

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        if "loss" in logs and self._seen:
            means = torch.stack(self._seen).mean(0).tolist()
            self._seen.clear()
            logs |= {f"train_{name}": value for name, value in zip(MEASURES, means, strict=True)}
        super().log(logs, start_time)

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        if not self._group:
            return super()._get_train_sampler(train_dataset)
        lengths = [max(map(len, one.example.responses)) for one in train_dataset or self.train_dataset]
        step = self.args.train_batch_size * self.args.gradient_accumulation_steps
        return _LengthGrouped(step, lengths, self.args.seed)


class _LengthGrouped(LengthGroupedSampler):
    """An epoch's order depends on the epoch alone, so that a resumed run sees the batches it would have seen."""

    def __init__(self, batch_size: int, lengths: list[int], seed: int) -> None:
        super().__init__(batch_size, lengths=lengths, generator=torch.Generator())
        self._seed = seed
        self.set_epoch(0)

    def set_epoch(self, epoch: int) -> None:
        self.generator.manual_seed(self._seed + epoch)


def network_inputs(batch: dict[str, Any]) -> dict[str, Any]:
    names = ("input_ids", "attention_mask", "position_ids", "segments")
    return {name: batch[name] for name in names if name in batch}


def measures(rewards: torch.Tensor, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """Shape (prompts, 5): for each the means of MEASURES over its comparisons, rewards averaged over heads."""
    mean = rewards.mean(-1)
    won, lost = batch["comparisons"].unbind(1)
    chosen, rejected = mean[won], mean[lost]
    right = (chosen > rejected).float() + 0.5 * (chosen == rejected).float()
    loss = bradley_terry(chosen, rejected, batch["margins"])
    each = torch.stack([loss, right, chosen - rejected, chosen, rejected], dim=1)
    owners = batch["owners"]
    total = each.new_zeros(int(owners[-1]) + 1, len(MEASURES)).index_add_(0, owners, each)
    return total / owners.bincount()[:, None]
