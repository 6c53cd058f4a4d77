"""The expected score: the mean of a scale's labels, weighted by their probabilities after the announcement.

A judge that is asked for a number from 1 to 10 has a probability for each of the ten; their mean uses all of them where
the greedy label uses only the largest (G-Eval: Liu et al. 2023, arXiv 2303.16634).
"""

from __future__ import annotations

import math
from collections.abc import Mapping


def expected_score(probabilities: Mapping[str, float]) -> float:
    """The expectation over labels that are numbers; the probabilities sum to 1.

    >>> expected_score({"1": 0.25, "5": 0.75})
    4.0
    """
    return sum(float(label) * p for label, p in probabilities.items())


def label_probabilities(
    log_likelihoods: Mapping[str, float], tokens: Mapping[str, int]
) -> tuple[dict[str, float], float]:
    """(probabilities, mass): P of each whole label, renormalised over the labels, and the sum before that, from 0 to 1.

    `log_likelihoods` has log P(label | prefix) in nats, summed over the label's tokens, whose numbers are in `tokens`.
    Where the tokens of "1" begin those of "10", P("1") is that of all continuations that begin with "1"; the part of
    the longer label is subtracted. Below a mass of 1e-6 the probabilities are empty: they would be noise.

    By hand: P("1") = 0.5 contains P("10") = 0.2, P("7") is 0.3. So the labels have 0.3, 0.2 and 0.3; their mass is 0.8.

    >>> logs = {"1": math.log(0.5), "10": math.log(0.2), "7": math.log(0.3)}
    >>> probabilities, mass = label_probabilities(logs, {"1": 1, "10": 2, "7": 1})
    >>> {label: round(p, 6) for label, p in probabilities.items()}, round(mass, 6)
    ({'1': 0.375, '10': 0.25, '7': 0.375}, 0.8)
    """
    p = {label: math.exp(value) for label, value in log_likelihoods.items()}
    p = {label: max(0.0, p[label] - sum(p[longer] for longer in _next_longer(label, tokens))) for label in p}
    mass = sum(p.values())
    return ({} if mass < 1e-6 else {label: share / mass for label, share in p.items()}), mass


def _next_longer(label: str, tokens: Mapping[str, int]) -> list[str]:
    """The labels whose tokens begin with those of `label`, without any that begin with another of these.

    >>> _next_longer("1", {"1": 1, "10": 2, "100": 3, "2": 1}), _next_longer("1", {"1": 1, "10": 1})
    (['10'], [])
    >>> _next_longer("1", {"1": 1, "1.5": 3, "2": 1})
    ['1.5']
    """
    longer = [other for other in tokens if other.startswith(label) and tokens[other] > tokens[label]]
    return [o for o in longer if not any(m != o and o.startswith(m) and tokens[m] < tokens[o] for m in longer)]
