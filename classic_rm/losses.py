"""What a reward model is trained on: functions of rewards, each with its source."""

from __future__ import annotations

import torch
from torch.nn.functional import logsigmoid, normalize


def bradley_terry(
    chosen: torch.Tensor,
    rejected: torch.Tensor,
    margin: torch.Tensor | float = 0.0,
    smoothing: float = 0.0,
) -> torch.Tensor:
    """−log σ(r_chosen − r_rejected − margin) of each comparison, in nats; shapes broadcast.

    The margin says how much better the chosen one was (Llama 2, Touvron et al. 2023, 3.2.2). With smoothing
    ε the label is wrong with probability ε: (1 − ε)·(−log σ(d)) + ε·(−log σ(−d)).

    >>> [round(x, 4) for x in bradley_terry(torch.tensor([0.0, 2.0]), torch.tensor([0.0, 0.0])).tolist()]
    [0.6931, 0.1269]
    """
    difference = chosen - rejected - margin
    loss = -logsigmoid(difference)
    return loss if smoothing == 0 else (1 - smoothing) * loss - smoothing * logsigmoid(-difference)


def centring(chosen: torch.Tensor, rejected: torch.Tensor) -> torch.Tensor:
    """(r_chosen + r_rejected)² of each comparison: keeps rewards around zero, which Bradley–Terry leaves
    free (arXiv 2312.09244, eq. 2, with weight 0.01)."""
    return (chosen + rejected) ** 2


def contrastive(chosen: torch.Tensor, rejected: torch.Tensor, temperature: float = 0.1) -> torch.Tensor:
    """Chosen responses attract each other and repel the rejected: the mean over chosen i and other chosen j of
    −log( exp(z_i·z_j/τ) / Σ_a exp(z_i·z_a/τ) ), a over all but i (Khosla et al. 2020, eq. 2), z of unit length.

    Embeddings of shape (pairs, size). Raises ValueError for fewer than two pairs: there is no positive then.
    """
    pairs = len(chosen)
    if pairs < 2:
        raise ValueError("the contrastive term needs two pairs or more in a batch: another chosen is the positive")
    anchors = normalize(chosen.float(), dim=-1)
    others = torch.cat([anchors, normalize(rejected.float(), dim=-1)])
    similarity = anchors @ others.T / temperature
    itself = torch.eye(pairs, len(others), dtype=torch.bool, device=similarity.device)
    log_share = similarity - similarity.masked_fill(itself, float("-inf")).logsumexp(1, keepdim=True)
    return -log_share[:, :pairs][~itself[:, :pairs]].mean()


def certainty(margins: torch.Tensor) -> torch.Tensor:
    """1 / (1 + variance over the ensemble) of each comparison, shape (comparisons,) from (comparisons, members).

    A weight for each pair, without a gradient: pairs on which the members disagree teach less.

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
    """The loss of a batch: each prompt weighs as one, whatever the number of its comparisons.

    `rewards` (responses, members), `embeddings` (responses, size). The batch holds `comparisons` (n, 2), the
    winner's and the loser's index, `weights` (n, members), which sum to one over a prompt's comparisons, and
    `margins` (n,).
    """
    won, lost = batch["comparisons"].unbind(1)
    chosen, rejected = rewards[won], rewards[lost]
    each = bradley_terry(chosen, rejected, batch["margins"][:, None], smoothing)
    if centre:
        each = each + centre * centring(chosen, rejected)
    weights = batch["weights"]
    prompts = weights.sum(0).clamp(min=1e-12)  # before uncertainty: that weight is a pair's own, not renormalised
    if uncertainty:
        weights = weights * certainty(chosen - rejected)[:, None]
    loss = ((weights * each).sum(0) / prompts).mean()
    if contrast:
        loss = loss + contrast * contrastive(embeddings[won], embeddings[lost])
    return loss
