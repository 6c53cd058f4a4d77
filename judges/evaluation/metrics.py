"""Accuracy on preference pairs, with ties, failures and an interval."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from judges.types import Item, Scorecard

FEW_PROMPTS = 100  # below this a percentile bootstrap is too narrow


@dataclass(frozen=True, slots=True)
class Accuracy:
    """Shares in [0, 1] over pairs that were judged; a tie counts half, a failed pair not at all.

    `worst` and `best` count every failed pair as wrong and as right. All None when nothing was judged.
    """

    accuracy: float | None
    low: float | None
    high: float | None
    interval: str
    pairs: int
    ties: int
    failures: int
    worst: float | None
    best: float | None


def credit(item: Item, card: Scorecard) -> float | None:
    """1 when the chosen response scored higher than every other, ½ for a tie at the top, 0 below; None
    where a failure leaves it open. Raises ValueError for an Item without a chosen response."""
    if item.gold is None or item.gold.chosen is None:
        raise ValueError(f"item {item.id!r} has no chosen response")
    scores = [j.score for j in card.judgments]
    if any(s is None for s in scores):
        return None
    values = [s for s in scores if s is not None]
    chosen = max(values[i] for i in item.gold.chosen)
    others = [v for i, v in enumerate(values) if i not in item.gold.chosen]
    rival = max(others) if others else -math.inf
    return 1.0 if chosen > rival else 0.5 if chosen == rival else 0.0


def pair_accuracy(items: Sequence[Item], cards: Sequence[Scorecard], seed: int = 0) -> Accuracy:
    """Accuracy with a 95 % interval: bootstrap over prompts from 100 prompts up, Wilson below and at the
    edges. Items that share their prompt are drawn together."""
    by_id = {card.id: card for card in cards}
    credits = [credit(item, by_id[item.id]) for item in items]
    judged = [(repr(item.messages), c) for item, c in zip(items, credits, strict=True) if c is not None]
    failures = len(items) - len(judged)
    if not judged:
        low_high = (0.0, 1.0) if items else (None, None)
        return Accuracy(None, None, None, "none", len(items), 0, failures, *low_high)
    total = sum(c for _, c in judged)
    mean = total / len(judged)
    prompts: dict[str, list[float]] = {}
    for prompt, value in judged:
        prompts.setdefault(prompt, []).append(value)
    if len(prompts) < FEW_PROMPTS or mean in (0.0, 1.0):
        low, high = wilson(mean, len(prompts))
        interval = "Wilson over prompts"
    else:
        low, high = bootstrap(list(prompts.values()), seed)
        interval = "bootstrap over prompts, 2000 draws"
    return Accuracy(
        accuracy=mean,
        low=low,
        high=high,
        interval=interval,
        pairs=len(items),
        ties=sum(c == 0.5 for _, c in judged),
        failures=failures,
        worst=total / len(items),
        best=(total + failures) / len(items),
    )


def wilson(share: float, n: int, z: float = 1.959964) -> tuple[float, float]:
    """Wilson's 95 % score interval of a share seen over n prompts (Wilson 1927).

    >>> tuple(round(x, 3) for x in wilson(1.0, 28))
    (0.879, 1.0)
    """
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return max(0.0, centre - half), min(1.0, centre + half)


def bootstrap(groups: Sequence[Sequence[float]], seed: int, draws: int = 2000) -> tuple[float, float]:
    """The 95 % percentile interval of the mean over rows, drawing whole groups with replacement."""
    sums = np.array([sum(g) for g in groups])
    counts = np.array([len(g) for g in groups])
    picks = np.random.default_rng(seed).integers(0, len(groups), size=(draws, len(groups)))
    means = sums[picks].sum(axis=1) / counts[picks].sum(axis=1)
    low, high = np.quantile(means, [0.025, 0.975])
    return float(low), float(high)
