"""transformers' Trainer on critiques: the Bradley–Terry loss at their ends and the LM loss of their tokens, in
one pass over both sides of a pair."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.functional import cross_entropy
from transformers import Trainer

from classic_rm.critiques.model import CritiqueNetwork
from classic_rm.losses import objective
from classic_rm.model import at_last
from classic_rm.settings import TrainingSettings
from classic_rm.trainer import MEASURES, Collator, Numbered, measures
from judges.errors import CannotRun


@dataclass(frozen=True)
class Critiqued(Numbered):
    """An Example whose responses' ids are whole conversations, each ending with a critique of the response;
    where each critique begins. Without comparisons only the critiques are learned."""

    starts: tuple[int, ...]


class CritiqueCollator(Collator):
    """Padded rows on the right, where each critique begins, and whose row it is."""

    def __init__(self, pad: int) -> None:
        super().__init__(pad, packed=False)

    def __call__(self, examples: Sequence[Any]) -> dict[str, torch.Tensor]:
        batch = super().__call__(examples)
        places = [place for place, one in enumerate(examples) for _ in one.starts]
        return batch | {
            "starts": torch.tensor([start for one in examples for start in one.starts]),
            "turn_owners": torch.tensor(places),
        }


class LearningNetwork(nn.Module):
    """A CritiqueNetwork in training: rewards, and how unlikely its critiques are to it, from one forward."""

    def __init__(self, network: CritiqueNetwork) -> None:
        super().__init__()
        self.network = network
        self.config = network.config
        # Tied weights are one tensor under two names, which a safetensors checkpoint refuses: written once.
        once = {name for name, _ in self.named_parameters()}
        self._tied = {name for name, _ in self.named_parameters(remove_duplicate=False)} - once
        self._keys_to_ignore_on_save = self._tied or None  # the Trainer asks for this when it reads one back
        self.register_state_dict_post_hook(_without_tied)

    def tie_weights(self) -> None:
        self.network.lm.tie_weights()

    def gradient_checkpointing_enable(self, **how: Any) -> None:
        self.network.lm.gradient_checkpointing_enable(**how)

    def forward(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor, starts: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        """Of rows padded on the right: (rewards (rows, 1), the states they are read from (rows, size), the summed
        −log P of each critique's tokens in nats (rows,), their number (rows,))."""
        first, length = int(starts.min()), input_ids.shape[1]
        # Logits of the prompts are not needed: those from the token before the first critique on are kept.
        output = self.network.lm(
            input_ids=input_ids,
            attention_mask=attention_mask,
            output_hidden_states=True,
            use_cache=False,
            logits_to_keep=length - first + 1,
        )
        states = at_last(output.hidden_states[-1], attention_mask)
        logits = output.logits[:, first - 1 - length : -1].float()
        each = cross_entropy(logits.transpose(1, 2), input_ids[:, first:], reduction="none")
        places = torch.arange(first, length, device=input_ids.device)
        written = (places >= starts[:, None]) & (attention_mask[:, first:] == 1)
        return self.network.head(states), states, (each * written).sum(1), written.sum(1)


def _without_tied(module: Any, state: dict[str, Any], prefix: str, _: Any) -> None:
    for name in module._tied:
        state.pop(prefix + name, None)


class CritiqueTrainer(Trainer):
    """Minimises L_BT + weight · L_LM, or L_LM alone where no row has a comparison. L_BT weighs each prompt as
    one; L_LM is the mean over the critiques' tokens of a batch."""

    def __init__(self, *args: Any, settings: TrainingSettings, weight: float, **kwargs: Any) -> None:
        super().__init__(*args, compute_metrics=lambda told: summary(told.predictions, weight), **kwargs)
        self._settings = settings
        self._weight = weight
        self._seen: list[torch.Tensor] = []

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        rewards, states, unlikely, tokens = model(**_ids(inputs))
        critiques = unlikely.sum() / tokens.sum()
        loss = critiques
        if len(inputs["comparisons"]):
            loss = objective(rewards, states, inputs, centre=self._settings.centring) + self._weight * critiques
        if not torch.isfinite(loss):
            raise CannotRun(
                f"the loss is {loss.item()} at step {self.state.global_step + 1}; nothing was saved over what is there."
                " Try a lower learning rate"
            )
        self._seen.append(_measured(inputs, rewards.detach(), unlikely.detach(), tokens))
        return loss

    def prediction_step(self, model: Any, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        inputs = self._prepare_inputs(inputs)
        with torch.no_grad():
            rewards, _, unlikely, tokens = model(**_ids(inputs))
        found = _measured(inputs, rewards, unlikely, tokens)
        return None, found, found[:, 0]

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        if "loss" in logs and self._seen:
            told = summary(torch.cat(self._seen).cpu().numpy(), self._weight)
            self._seen.clear()
            logs |= {f"train_{name}": value for name, value in told.items()}
        super().log(logs, start_time)


def _ids(inputs: dict[str, Any]) -> dict[str, Any]:
    return {name: inputs[name] for name in ("input_ids", "attention_mask", "starts")}


def _measured(
    inputs: dict[str, torch.Tensor], rewards: torch.Tensor, unlikely: torch.Tensor, tokens: torch.Tensor
) -> torch.Tensor:
    """Shape (prompts, 7): MEASURES (nan without comparisons), then −log P of the critiques and their tokens."""
    owners = inputs["turn_owners"]
    prompts = int(owners[-1]) + 1
    written = torch.stack([unlikely, tokens.to(unlikely.dtype)], dim=1)
    spent = written.new_zeros(prompts, 2).index_add_(0, owners, written)
    compared = len(inputs["comparisons"]) > 0
    told = measures(rewards, inputs) if compared else spent.new_full((prompts, len(MEASURES)), float("nan"))
    return torch.cat([told, spent], dim=1)


def summary(found: np.ndarray[Any, Any], weight: float) -> dict[str, float]:
    """The loss over many prompts: critiques by token, comparisons by prompt.

    >>> rows = np.array([[0.5, 1, 2, 1, -1, 30, 10], [0.7, 0, -2, -1, 1, 10, 10]])
    >>> told = summary(rows, 0.5)
    >>> told["critique_loss"], round(told["preference_loss"], 2), round(told["loss"], 2), told["accuracy"]
    (2.0, 0.6, 1.6, 0.5)
    """
    critiques = float(found[:, -2].sum() / found[:, -1].sum())
    if np.isnan(found[:, 0]).any():
        return {"loss": critiques, "critique_loss": critiques}
    means = dict(zip(MEASURES, found[:, : len(MEASURES)].mean(0).tolist(), strict=True))
    preference = means.pop("loss")
    loss = preference + weight * critiques
    return {"loss": loss, "preference_loss": preference, "critique_loss": critiques, **means}
