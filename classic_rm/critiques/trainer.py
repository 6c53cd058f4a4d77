"""transformers' Trainer for critique-out-loud: the Bradley–Terry loss at the ends of critiques plus the LM loss of
their tokens, from one forward pass over both critiques of a pair."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn.functional import cross_entropy

from classic_rm.critiques.model import CritiqueNetwork
from classic_rm.losses import objective
from classic_rm.model import gather_last_attended
from classic_rm.trainer import METRICS, Collator, PromptMetricsTrainer, TrainingExample, prompt_metrics


@dataclass(frozen=True)
class CritiqueExample(TrainingExample):
    """An Example whose responses are conversations that each end with a critique of the response, as token ids.

    `starts` is the index of each critique's first token. An example without comparisons trains the LM loss alone."""

    starts: tuple[int, ...]


class CritiqueCollator(Collator):
    """Collates examples into rows padded on the right.

    Beside the entries of `Collator` a batch has for each row `starts`, the index of the critique's first token, and
    `row_owners`, the index of the example."""

    def __init__(self, pad: int) -> None:
        super().__init__(pad, packed=False)

    def __call__(self, batch: Sequence[Any]) -> dict[str, torch.Tensor]:
        owners = [index for index, item in enumerate(batch) for _ in item.starts]
        return super().__call__(batch) | {
            "starts": torch.tensor([start for item in batch for start in item.starts]),
            "row_owners": torch.tensor(owners),
        }


class TrainingNetwork(nn.Module):
    """A CritiqueNetwork in training: the rewards and the critiques' negative log-likelihoods from one forward pass."""

    def __init__(self, network: CritiqueNetwork) -> None:
        super().__init__()
        self.network = network
        self.config = network.config
        # Tied weights are one tensor under two names, which a safetensors checkpoint rejects: they are saved once.
        names = {name for name, _ in self.named_parameters()}
        self._tied = {name for name, _ in self.named_parameters(remove_duplicate=False)} - names
        self._keys_to_ignore_on_save = self._tied or None  # the Trainer reads this when it loads a checkpoint
        self.register_state_dict_post_hook(_drop_tied_weights)

    def tie_weights(self) -> None:
        self.network.lm.tie_weights()

    def gradient_checkpointing_enable(self, **options: Any) -> None:
        self.network.lm.gradient_checkpointing_enable(**options)

    def forward(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor, starts: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        """Compute, for rows padded on the right, (rewards, states, nll, tokens).

        `rewards` has the shape (rows, 1), `states` (rows, hidden size). `nll` is the sum of −log P over each critique's
        tokens in nats, `tokens` their number, both of shape (rows,)."""
        first, length = int(starts.min()), input_ids.shape[1]
        # Only the logits from the token before the first critique on are needed.
        output = self.network.lm(
            input_ids=input_ids,
            attention_mask=attention_mask,
            output_hidden_states=True,
            use_cache=False,
            logits_to_keep=length - first + 1,
        )
        states = gather_last_attended(output.hidden_states[-1], attention_mask)
        logits = output.logits[:, first - 1 - length : -1].float()
        token_nll = cross_entropy(logits.transpose(1, 2), input_ids[:, first:], reduction="none")
        indices = torch.arange(first, length, device=input_ids.device)
        in_critique = (indices >= starts[:, None]) & (attention_mask[:, first:] == 1)
        return self.network.head(states), states, (token_nll * in_critique).sum(1), in_critique.sum(1)


def _drop_tied_weights(module: Any, state: dict[str, Any], prefix: str, _: Any) -> None:
    for name in module._tied:
        state.pop(prefix + name, None)


class CritiqueTrainer(PromptMetricsTrainer):
    """Minimises L_BT + weight · L_LM, or L_LM alone for a batch without comparisons.

    L_BT has equal weight for each prompt; L_LM is the mean over the critiques' tokens of a batch."""

    def __init__(self, *args: Any, weight: float, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._weight = weight

    def forward_pass(self, model: Any, inputs: dict[str, Any]) -> tuple[torch.Tensor, ...]:
        names = ("input_ids", "attention_mask", "starts")
        outputs: tuple[torch.Tensor, ...] = model(**{name: inputs[name] for name in names})
        return outputs

    def batch_loss(self, outputs: tuple[torch.Tensor, ...], inputs: dict[str, Any]) -> torch.Tensor:
        rewards, states, nll, tokens = outputs
        critique_loss = nll.sum() / tokens.sum()
        if not len(inputs["comparisons"]):
            return critique_loss
        return objective(rewards, states, inputs, centre=self._settings.centring) + self._weight * critique_loss

    def batch_metrics(self, outputs: tuple[torch.Tensor, ...], inputs: dict[str, Any]) -> torch.Tensor:
        """Shape (prompts, 7): METRICS (nan without comparisons), the critiques' nll, and the number of their tokens."""
        rewards, _, nll, tokens = outputs
        owners = inputs["row_owners"]
        prompts = int(owners[-1]) + 1
        rows = torch.stack([nll, tokens.to(nll.dtype)], dim=1)
        critiques = rows.new_zeros(prompts, 2).index_add_(0, owners, rows)
        if len(inputs["comparisons"]):
            metrics = prompt_metrics(rewards, inputs)
        else:
            metrics = critiques.new_full((prompts, len(METRICS)), float("nan"))
        return torch.cat([metrics, critiques], dim=1)

    def summarise(self, batches: list[torch.Tensor]) -> dict[str, float]:
        return summarise_critique_metrics(torch.cat(batches), self._weight)


def summarise_critique_metrics(metrics: torch.Tensor, weight: float) -> dict[str, float]:
    """The losses over many prompts: the mean over tokens for critiques, the mean over prompts for comparisons.

    >>> rows = torch.tensor([[0.5, 1, 2, 1, -1, 30, 10], [0.7, 0, -2, -1, 1, 10, 10]])
    >>> means = summarise_critique_metrics(rows, 0.5)
    >>> means["critique_loss"], round(means["preference_loss"], 2), round(means["loss"], 2), means["accuracy"]
    (2.0, 0.6, 1.6, 0.5)
    """
    critique_loss = float(metrics[:, -2].sum() / metrics[:, -1].sum())
    if metrics[:, 0].isnan().any():
        return {"loss": critique_loss, "critique_loss": critique_loss}
    means = dict(zip(METRICS, metrics[:, : len(METRICS)].mean(0).tolist(), strict=True))
    preference_loss = means.pop("loss")
    loss = preference_loss + weight * critique_loss
    return {"loss": loss, "preference_loss": preference_loss, "critique_loss": critique_loss, **means}
