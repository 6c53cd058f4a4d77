"""Losses of reward model training: Bradley–Terry with its margin and smoothing, centring, contrastive, uncertainty."""

from __future__ import annotations

import torch
from torch.nn.functional import logsigmoid, normalize


def bradley_terry(
    chosen: torch.Tensor,
    rejected: torch.Tensor,
    margin: torch.Tensor | float = 0.0,
    smoothing: float = 0.0,
) -> torch.Tensor:
    """The Bradley–Terry loss −log σ(r_chosen − r_rejected − margin) of each comparison, in nats; shapes broadcast.

    The margin is how much better the chosen response is, in units of reward (Llama 2, Touvron et al. 2023, 3.2.2).
    With smoothing ε the label is wrong with probability ε: (1 − ε)·(−log σ(d)) + ε·(−log σ(−d)).

    >>> [round(x, 4) for x in bradley_terry(torch.tensor([0.0, 2.0]), torch.tensor([0.0, 0.0])).tolist()]
    [0.6931, 0.1269]
    """
    difference = chosen - rejected - margin
    loss = -logsigmoid(difference)
    return loss if smoothing == 0 else (1 - smoothing) * loss - smoothing * logsigmoid(-difference)


def centring(chosen: torch.Tensor, rejected: torch.Tensor) -> torch.Tensor:
    """The centring penalty (r_chosen + r_rejected)² of each comparison.

    It keeps the rewards around zero, since the Bradley–Terry loss does not fix their mean (arXiv 2312.09244, eq. 2,
    with weight 0.01)."""
    return (chosen + rejected) ** 2


def contrastive(chosen: torch.Tensor, rejected: torch.Tensor, temperature: float = 0.1) -> torch.Tensor:
    """The supervised contrastive loss (Khosla et al. 2020, eq. 2) with the chosen responses as positives.

    It is the mean over chosen i and other chosen j of −log( exp(z_i·z_j/τ) / Σ_a exp(z_i·z_a/τ) ), where a runs over
    all responses but i, and z are the embeddings scaled to unit length. `chosen` and `rejected` have the shape
    (pairs, size). Raises ValueError for fewer than two pairs, which have no positive.
    """
    pairs = len(chosen)
    if pairs < 2:
        raise ValueError("the contrastive term needs two pairs or more in a batch: another chosen is the positive")
    anchors = normalize(chosen.float(), dim=-1)
    candidates = torch.cat([anchors, normalize(rejected.float(), dim=-1)])
    similarity = anchors @ candidates.T / temperature
    is_anchor = torch.eye(pairs, len(candidates), dtype=torch.bool, device=similarity.device)
    log_share = similarity - similarity.masked_fill(is_anchor, float("-inf")).logsumexp(1, keepdim=True)
    return -log_share[:, :pairs][~is_anchor[:, :pairs]].mean()


def certainty(margins: torch.Tensor) -> torch.Tensor:
    """Uncertainty weights 1 / (1 + variance over the members), shape (comparisons,) from (comparisons, members).

    They have no gradient, and reduce the weight of pairs on which the ensemble's members disagree.

    >>> certainty(torch.tensor([[1.0, 1.0], [0.0, 2.0]])).tolist()
    [1.0, 0.5]
    """
    return 1 / (1 + margins.detach().var(dim=-1, correction=0))


def objective(
    rewards: torch.Tensor,
    embeddings: torch.Tensor,
    batch: dict[str, torch.Tensor],
    *,
    centre: float = 0.0,
    smoothing: float = 0.0,
    contrast: float = 0.0,
    uncertainty: bool = False,
) -> torch.Tensor:
    """The training loss of a batch, a scalar in nats. Each prompt has the same weight, however many comparisons it has.

    `rewards` has the shape (responses, members), `embeddings` (responses, size). The batch has `comparisons` (n, 2),
    the indices of the chosen and of the rejected response; `weights` (n, members), which sum to one over a prompt's
    comparisons; and `margins` (n,). `centre` and `contrast` are the weights of the centring and contrastive terms.
    """
    chosen_index, rejected_index = batch["comparisons"].unbind(1)
    chosen, rejected = rewards[chosen_index], rewards[rejected_index]
    losses = bradley_terry(chosen, rejected, batch["margins"][:, None], smoothing)
    if centre:
        losses = losses + centre * centring(chosen, rejected)
    weights = batch["weights"]
    prompts = weights.sum(0).clamp(min=1e-12)  # before the uncertainty weights, which are not renormalised
    if uncertainty:
        weights = weights * certainty(chosen - rejected)[:, None]
    loss = ((weights * losses).sum(0) / prompts).mean()
    if contrast:
        loss = loss + contrast * contrastive(embeddings[chosen_index], embeddings[rejected_index])
    return loss
