"""Losses over two vectors of rewards, shape (pairs,)."""

from __future__ import annotations

import torch
from torch.nn.functional import logsigmoid


def bradley_terry(
    chosen: torch.Tensor, rejected: torch.Tensor, margin: torch.Tensor | float = 0.0, centring: float = 0.0
) -> torch.Tensor:
    """Mean of −log σ(r_chosen − r_rejected − margin) + centring · (r_chosen + r_rejected)².

    The second term keeps rewards around zero, which the first leaves free (arXiv 2312.09244, eq. 2;
    0.01 there).

    >>> round(float(bradley_terry(torch.tensor([0.0]), torch.tensor([0.0]))), 4)
    0.6931
    """
    ranked = -logsigmoid(chosen - rejected - margin).mean()
    return ranked + centring * ((chosen + rejected) ** 2).mean()
