"""Length bias: how often a scorer prefers the longer response, and its accuracy at equal length (length control)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import optimize, stats
from scipy.special import expit, log_expit

from judges.evaluation.metrics.pair_verdicts import Pair, PairMeans, gold_pairs
from judges.evaluation.results import MetricValue
from judges.types import Item, Scorecard


def length_bias_numbers(
    items: Sequence[Item], cards: Mapping[str, Scorecard], seed: int = 0
) -> tuple[MetricValue, ...]:
    """Preference for the longer response over pairs that gold decides; lengths are in characters.

    - `length: longer is right`: the share of pairs in which gold prefers the longer response. A scorer is biased
      by as much as `length: longer preferred` exceeds it.
    - `length: accuracy where the longer is right` (and `wrong`): a tie counts half.
    - `length: controlled accuracy`: see `length_controlled`.

    Empty where no pair differs in length.
    """
    pairs = [pair for pair in gold_pairs(items, cards) if pair.gold == 1]
    unequal = [pair for pair in pairs if pair.length_difference]
    if not unequal:
        return ()
    means = PairMeans()
    for pair in unequal:
        right = pair.length_difference > 0
        means.add("length: longer is right", float(right), pair.name, pair.prompt)
        if pair.verdict != 0.5:
            preferred = None if pair.verdict is None else pair.verdict if right else 1 - pair.verdict
            means.add("length: longer preferred", preferred, pair.name, pair.prompt)
        metric = f"length: accuracy where the longer is {'right' if right else 'wrong'}"
        means.add(metric, pair.verdict, pair.name, pair.prompt)
    return (*means.metric_values(seed), _controlled_accuracy(pairs))


def _controlled_accuracy(pairs: Sequence[Pair]) -> MetricValue:
    metric = "length: controlled accuracy"
    scored = [pair for pair in pairs if pair.verdict is not None]
    prompts = [pair.prompt for pair in scored]
    left_out = len(pairs) - len(scored)
    if len(set(prompts)) < 2:
        return MetricValue(metric, "", None, left_out=left_out, note="fewer than two prompts have a verdict")
    right = np.array([pair.verdict for pair in scored], dtype=np.float64)
    differences = np.array([pair.length_difference for pair in scored], dtype=np.float64)
    return MetricValue(
        metric,
        "",
        *length_controlled(right, differences, prompts),
        "logistic regression, errors clustered by prompt",
        rows=len(scored),
        prompts=len(set(prompts)),
        left_out=left_out,
        ties=int(np.sum(right == 0.5)),
    )


def length_controlled(
    right: NDArray[np.float64], differences: NDArray[np.float64], prompts: Sequence[str]
) -> tuple[float, float, float]:
    """Accuracy between responses of equal length, with its 95 % interval (value, low, high), by logistic regression.

    For each pair, `right` is 1, ½ (a tie) or 0, and `differences` the characters of the preferred response minus
    those of the other. `prompts` must name two prompts or more. The model is P(right) = σ(θ + φ · tanh(d / s)), with
    s the standard deviation of `differences`; σ(θ) is returned. The idea and the tanh are from length-controlled
    AlpacaEval (Dubois et al. 2024, arXiv 2404.04475), which applies them to a model's win rate.

    θ and φ have a log-F(1, 1) prior each (Greenland and Mansournia 2015), equal to one further pair that is half
    right. So the fit exists for a scorer that follows length alone, or is never wrong, and is drawn towards one half
    by about 0.5 / n. Errors are clustered by prompt, with Student's t at one degree of freedom less than prompts, and
    never below those of independent pairs.
    """
    scale = float(np.std(differences)) or 1.0
    x = np.column_stack([np.ones_like(differences), np.tanh(differences / scale)])
    # The priors as data: for each coefficient alone, a pair that is half right and half wrong.
    x_all, y_all = np.vstack([x, np.eye(2)]), np.append(right, [0.5, 0.5])

    def loss(b: NDArray[np.float64]) -> float:
        eta = x_all @ b
        return -float(np.sum(y_all * log_expit(eta) + (1 - y_all) * log_expit(-eta)))

    def gradient(b: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.asarray(x_all.T @ (expit(x_all @ b) - y_all))

    def information(b: NDArray[np.float64]) -> NDArray[np.float64]:
        p = expit(x_all @ b)
        return np.asarray((x_all * (p * (1 - p))[:, None]).T @ x_all)

    b = optimize.minimize(loss, np.zeros(2), jac=gradient, hess=information, method="trust-exact").x
    bread = np.linalg.inv(information(b))
    names, group = np.unique(np.asarray(prompts, dtype=object).astype(str), return_inverse=True)
    errors = np.zeros((len(names), 2))
    np.add.at(errors, group, (right - expit(x @ b))[:, None] * x)
    clustered = bread @ (errors.T @ errors) @ bread * len(names) / (len(names) - 1)
    half = stats.t.ppf(0.975, len(names) - 1) * np.sqrt(max(clustered[0, 0], bread[0, 0]))
    value, low, high = expit([b[0], b[0] - half, b[0] + half])
    return float(value), float(low), float(high)
