"""transformers' Trainer for reward models: the collator, the loss, and metrics with equal weight for each prompt."""

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
from classic_rm.prefix_sharing import pack, split_prefix
from classic_rm.settings import TrainingSettings
from judges.errors import CannotRun

METRICS = ("loss", "accuracy", "margin", "chosen_reward", "rejected_reward")


@dataclass(frozen=True)
class TrainingExample:
    """An Example, the number of its row, and how often each head's bootstrap sample contains it."""

    row: int
    example: Example
    draws: tuple[float, ...]


class Collator:
    """Collates examples into a packed batch with shared prompts, or into padded rows.

    Beside the network's inputs, a batch has for its n comparisons: `comparisons` (n, 2), the indices of the chosen and
    of the rejected response; `owners` (n,), the index of the example; `weights` (n, heads); and `margins` (n,).
    """

    def __init__(self, pad: int, packed: bool) -> None:
        self._pad = pad
        self._packed = packed

    def __call__(self, batch: Sequence[TrainingExample]) -> dict[str, torch.Tensor]:
        examples = [item.example for item in batch]
        if self._packed:
            inputs = pack([split_prefix(example.responses) for example in examples])
        else:
            inputs = pad_rows([ids for example in examples for ids in example.responses], self._pad)
        comparisons: list[tuple[int, int]] = []
        owners: list[int] = []
        first = 0
        for index, example in enumerate(examples):
            comparisons += [(first + i, first + j) for i, j in example.comparisons]
            owners += [index] * len(example.comparisons)
            first += len(example.responses)
        counts = torch.tensor([float(len(example.comparisons)) for example in examples])
        owner = torch.tensor(owners, dtype=torch.long)
        draws = torch.tensor([item.draws for item in batch])
        return inputs | {
            "comparisons": torch.tensor(comparisons, dtype=torch.long).reshape(-1, 2),
            "owners": owner,
            "weights": draws[owner] / counts[owner][:, None],
            "margins": torch.tensor([examples[index].margin for index in owners]),
        }


class PromptMetricsTrainer(Trainer):
    """A Trainer whose subclasses compute a loss, and metrics for each prompt, from one forward pass.

    The metrics of training batches are averaged into the log; evaluation predicts the metrics of each prompt.
    """

    def __init__(self, *args: Any, settings: TrainingSettings, **kwargs: Any) -> None:
        super().__init__(*args, compute_metrics=lambda p: self.summarise([torch.as_tensor(p.predictions)]), **kwargs)
        self._settings = settings
        self._train_metrics: list[torch.Tensor] = []

    def forward_pass(self, model: Any, inputs: dict[str, Any]) -> tuple[torch.Tensor, ...]:
        """The network's outputs for a batch."""
        raise NotImplementedError

    def batch_loss(self, outputs: tuple[torch.Tensor, ...], inputs: dict[str, Any]) -> torch.Tensor:
        """The loss to minimise, a scalar."""
        raise NotImplementedError

    def batch_metrics(self, outputs: tuple[torch.Tensor, ...], inputs: dict[str, Any]) -> torch.Tensor:
        """The metrics of each prompt, shape (prompts, metrics), the loss first."""
        raise NotImplementedError

    def summarise(self, batches: list[torch.Tensor]) -> dict[str, float]:
        """The means of `batch_metrics` by name."""
        raise NotImplementedError

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        outputs = self.forward_pass(model, inputs)
        loss = self.batch_loss(outputs, inputs)
        if not torch.isfinite(loss):
            raise CannotRun(
                f"the loss is {loss.item()} at step {self.state.global_step + 1}; no checkpoint was replaced."
                " Try a lower learning rate, or look for rows without text"
            )
        with torch.no_grad():
            self._train_metrics.append(self.batch_metrics(outputs, inputs))
        return loss

    def prediction_step(self, model: Any, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        inputs = self._prepare_inputs(inputs)
        with torch.no_grad():
            metrics = self.batch_metrics(self.forward_pass(model, inputs), inputs)
        return None, metrics, metrics[:, 0]

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        if "loss" in logs and self._train_metrics:
            means = self.summarise(self._train_metrics)
            self._train_metrics.clear()
            logs |= {f"train_{name}": value for name, value in means.items()}
        super().log(logs, start_time)


class PairTrainer(PromptMetricsTrainer):
    """Minimises `losses.objective`. With `group_by_length`, rows of like length share a batch."""

    def __init__(self, *args: Any, group_by_length: bool, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._group_by_length = group_by_length

    def forward_pass(self, model: Any, inputs: dict[str, Any]) -> tuple[torch.Tensor, ...]:
        outputs: tuple[torch.Tensor, ...] = model(**network_inputs(inputs))
        return outputs

    def batch_loss(self, outputs: tuple[torch.Tensor, ...], inputs: dict[str, Any]) -> torch.Tensor:
        rewards, states = outputs
        settings = self._settings
        return objective(
            rewards,
            states,
            inputs,
            centre=settings.centring,
            smoothing=settings.smoothing,
            # The last batch of an epoch may have one comparison only.
            contrast=settings.contrast if len(inputs["comparisons"]) > 1 else 0.0,
            uncertainty=settings.uncertainty,
        )

    def batch_metrics(self, outputs: tuple[torch.Tensor, ...], inputs: dict[str, Any]) -> torch.Tensor:
        return prompt_metrics(outputs[0], inputs)

    def summarise(self, batches: list[torch.Tensor]) -> dict[str, float]:
        means = torch.stack([metrics.mean(0) for metrics in batches]).mean(0)
        return dict(zip(METRICS, means.tolist(), strict=True))

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        if not self._group_by_length:
            return super()._get_train_sampler(train_dataset)
        lengths = [max(map(len, item.example.responses)) for item in train_dataset or self.train_dataset]
        step = self.args.train_batch_size * self.args.gradient_accumulation_steps
        return _EpochSeededSampler(step, lengths, self.args.seed)


class _EpochSeededSampler(LengthGroupedSampler):
    """Length-grouped batches whose order depends on the seed and epoch alone, so that a resumed run repeats it."""

    def __init__(self, batch_size: int, lengths: list[int], seed: int) -> None:
        super().__init__(batch_size, lengths=lengths, generator=torch.Generator())
        self._seed = seed
        self.set_epoch(0)

    def set_epoch(self, epoch: int) -> None:
        self.generator.manual_seed(self._seed + epoch)


def network_inputs(batch: dict[str, Any]) -> dict[str, Any]:
    """The entries of a batch that the network takes."""
    names = ("input_ids", "attention_mask", "position_ids", "segments")
    return {name: batch[name] for name in names if name in batch}


def prompt_metrics(rewards: torch.Tensor, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """METRICS of each prompt, averaged over its comparisons, shape (prompts, 5), from rewards (responses, heads)."""
    mean = rewards.mean(-1)
    chosen, rejected = (mean[index] for index in batch["comparisons"].unbind(1))
    accuracy = (chosen > rejected).float() + 0.5 * (chosen == rejected).float()
    loss = bradley_terry(chosen, rejected, batch["margins"])
    metrics = torch.stack([loss, accuracy, chosen - rejected, chosen, rejected], dim=1)
    owners = batch["owners"]
    total = metrics.new_zeros(int(owners[-1]) + 1, len(METRICS)).index_add_(0, owners, metrics)
    return total / owners.bincount()[:, None]
