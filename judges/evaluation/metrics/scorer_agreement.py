"""Agreement of scorers on the same rows, and the stability of a scorer over seeds and batch sizes."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from judges.evaluation.metrics.pair_verdicts import gold_pairs, verdict
from judges.evaluation.results import MetricValue
from judges.evaluation.statistics.intervals import numbers, resampled
from judges.evaluation.statistics.tally import Mean, Tally, prompt_of
from judges.types import Item, Scorecard

Floats = NDArray[np.float64]
Rows = NDArray[np.intp]
Statistic = Callable[[Rows], float]
Cards = Mapping[str, Scorecard]
Row = tuple[str, str]

NONE_SHARED = "no row has a verdict or score from both"
SEEDS = frozenset(("seed", "seeds"))
# Settings of how many requests run together, not of their content.
BATCHES = frozenset(
    (
        "window",
        "batch_size",
        "max_num_seqs",
        "max_num_batched_tokens",
        "max_num_partial_prefills",
        "enable_chunked_prefill",
        "enable_prefix_caching",
    )
)


def scorer_agreement_numbers(
    items: Sequence[Item], cards_by_label: Mapping[str, Cards], identities: Mapping[str, Mapping[str, Any]]
) -> tuple[MetricValue, ...]:
    """Each scorer against each other on one benchmark, the labels in `section` as "A | B".

    - `agreement: same verdict`, the share of pairs of responses with equal verdicts (first, second or tie), and
      `agreement: cohen kappa` of them, over pairs with a verdict from both.
    - `agreement: spearman of margins`, of the differences between a pair's scores, each taken in both directions,
      so that the order of the responses does not matter; for Items of one response `agreement: spearman of scores`.
    - `stability over seeds: …` and `stability over batch size: …` for two that differ in nothing else:
      the share of equal verdicts, the mean absolute difference of scores, and the spread of their accuracies.
    """
    columns = {label: _columns(items, cards) for label, cards in cards_by_label.items()}
    results: list[MetricValue] = []
    for label_a, label_b in combinations(cards_by_label, 2):
        section, a, b = f"{label_a} | {label_b}", columns[label_a], columns[label_b]
        results += _coefficients(a, b, section)
        if a.pairs:
            results.append(_same("agreement: same verdict", section, a, b))
        what = only_in(identities.get(label_a, {}), identities.get(label_b, {}))
        if what is not None:
            results += _stability(f"stability over {what}", section, a, b)
    return tuple(results)


@dataclass(frozen=True, slots=True)
class Column:
    """The verdicts and scores of one scorer; nan after a failure and where there is no Scorecard.

    `verdicts` (1 the first, 0 the second, ½ a tie) and `margins` are of every pair of responses, `right` (1, 0 or ½)
    of every pair that gold decides, `scores` of every response; beside each the (row, prompt) it belongs to.
    """

    verdicts: Floats
    margins: Floats
    pairs: Sequence[Row]
    right: Floats
    decided: Sequence[Row]
    scores: Floats
    responses: Sequence[Row]


def _columns(items: Sequence[Item], cards: Cards) -> Column:
    verdicts: list[float | None] = []
    margins: list[float] = []
    pairs: list[Row] = []
    scores: list[float] = []
    responses: list[Row] = []
    for item in items:
        card, prompt = cards.get(item.id), prompt_of(item)
        judgments = card.judgments if card is not None else (None,) * len(item.responses)
        values = [math.nan if j is None or j.score is None else float(j.score) for j in judgments]
        scores += values
        responses += [(f"{item.id}/{i}", prompt) for i in range(len(values))]
        for first, second in item.pairs():
            verdicts.append(verdict(item, card, first, second) if card is not None else None)
            margins.append(values[first] - values[second])
            pairs.append((f"{item.id}/{first}-{second}", prompt))
    decided = [pair for pair in gold_pairs(items, cards) if pair.gold == 1]
    return Column(
        verdicts=np.array(verdicts, dtype=np.float64),  # None is nan
        margins=np.array(margins, dtype=np.float64),
        pairs=pairs,
        right=np.array([pair.verdict for pair in decided], dtype=np.float64),
        decided=[(pair.name, pair.prompt) for pair in decided],
        scores=np.array(scores, dtype=np.float64),
        responses=responses,
    )


def _mean(
    metric: str, section: str, rows: Sequence[Row], values: NDArray[Any], known: Floats, less: Floats | None = None
) -> MetricValue:
    """The mean of `values`, or of those minus the mean of `less`, over the rows where `known` is a number."""
    both = np.flatnonzero(~np.isnan(known))
    names, prompts = tuple(rows[i][0] for i in both), tuple(rows[i][1] for i in both)
    means = {"more": Mean(np.asarray(values[both], dtype=np.float64), names, prompts)}
    weights = {"more": 1.0}
    if less is not None:
        means["less"], weights["less"] = Mean(less[both], names, prompts), -1.0
    (number,) = numbers(Tally(means, {"": weights}, ""), metric)
    note = NONE_SHARED if number.value is None else number.note
    mean = replace(number, section=section, left_out=len(rows) - len(both), note=note)
    return mean if less is None else _unsigned(mean)


def _coefficients(a: Column, b: Column, section: str) -> Iterator[MetricValue]:
    if not a.pairs:
        statistic = spearman(a.scores, b.scores)
        yield _over(statistic, a.scores + b.scores, a.responses, "agreement: spearman of scores", section)
        return
    kappa = cohen_kappa(a.verdicts, b.verdicts)
    yield _over(kappa, a.verdicts + b.verdicts, a.pairs, "agreement: cohen kappa", section)
    margins = spearman(a.margins, b.margins, both_ways=True)
    yield _over(margins, a.margins + b.margins, a.pairs, "agreement: spearman of margins", section)


def _over(statistic: Statistic, known: Floats, rows: Sequence[Row], metric: str, section: str) -> MetricValue:
    """A statistic of the rows that both have, with its interval, or a note with the reason why it is not defined."""
    both = np.flatnonzero(~np.isnan(known))
    left_out = len(rows) - len(both)
    if not len(both):
        return MetricValue(metric, section, None, left_out=left_out, note=NONE_SHARED)
    if math.isnan(statistic(both)):
        note = "not defined: the values of one scorer are all equal"
        return MetricValue(metric, section, None, rows=len(both), left_out=left_out, note=note)
    number = resampled([rows[i][1] for i in both], lambda drawn: statistic(both[drawn]), metric, section)
    return replace(number, left_out=left_out)


def cohen_kappa(a: Floats, b: Floats) -> Statistic:
    """Cohen's κ of verdicts that are 1, ½ or 0: agreement beyond chance.

    As a function of the rows that count; nan where all verdicts of both are equal.

    >>> cohen_kappa(np.array([1.0, 1.0, 0.0, 0.0]), np.array([1.0, 0.0, 0.0, 0.0]))(np.arange(4))
    0.5
    """
    cells = np.nan_to_num(a * 6 + b * 2).astype(np.intp)

    def kappa(rows: Rows) -> float:
        table = np.bincount(cells[rows], minlength=9).reshape(3, 3) / len(rows)
        chance = float(table.sum(axis=0) @ table.sum(axis=1))
        return (float(np.trace(table)) - chance) / (1 - chance) if chance < 1 else math.nan

    return kappa


def spearman(values_a: Floats, values_b: Floats, both_ways: bool = False) -> Statistic:
    """Spearman's ρ, ties at their mean rank, as a function of the rows that count; nan where one side is constant.

    With `both_ways` each row counts twice, unchanged and with both signs reversed.
    """
    ranks = [_ranks(column, both_ways) for column in (values_a, values_b)]

    def rho(rows: Rows) -> float:
        times = np.bincount(rows, minlength=len(values_a)).astype(np.float64)
        a, b = (rank(times) for rank in ranks)
        size = math.sqrt(float(times @ (a * a)) * float(times @ (b * b)))
        return float(times @ (a * b)) / size if size else math.nan

    return rho


def _ranks(values: Floats, both_ways: bool) -> Callable[[Floats], Floats]:
    """Mean ranks about their middle, doubled, of values that each count so many times; sorted once for all draws."""
    sign = np.sign(values) if both_ways else np.ones_like(values)
    _, code = np.unique(np.abs(values) if both_ways else values, return_inverse=True)

    def ranks(times: Floats) -> Floats:
        # Those below minus those above. Both ways round, a smaller |value| has both of its copies below, an
        # equal one has one of them below and one beside, and a larger one has one on either side.
        counts = np.bincount(code, weights=times)
        middle = 2 * np.cumsum(counts) - counts - (0 if both_ways else counts.sum())
        found: Floats = np.nan_to_num(sign * middle[code])
        return found

    return ranks


def only_in(one: Mapping[str, Any], other: Mapping[str, Any]) -> str | None:
    """ "seeds" or "batch size" where two identities differ in that and in nothing else, else None.

    >>> only_in({"model": "m", "seed": 0}, {"model": "m", "seed": 1})
    'seeds'
    >>> only_in({"engine_args": {"max_num_seqs": 8}}, {"engine_args": {"max_num_seqs": 64}})
    'batch size'
    """
    differ = set(_differences(one, other))
    if differ and differ <= SEEDS:
        return "seeds"
    return "batch size" if differ and differ <= BATCHES else None


def _differences(left: Any, right: Any) -> Iterator[str]:
    """The innermost keys under which two identities differ."""
    if isinstance(left, Mapping) and isinstance(right, Mapping):
        for key in left.keys() | right.keys():
            a, b = left.get(key), right.get(key)
            if isinstance(a, Mapping | list) and type(a) is type(b):
                yield from _differences(a, b)
            elif a != b:
                yield str(key)
    elif isinstance(left, list) and isinstance(right, list) and len(left) == len(right):
        for a, b in zip(left, right, strict=True):
            yield from _differences(a, b)
    elif left != right:
        yield ""


def _same(metric: str, section: str, a: Column, b: Column) -> MetricValue:
    return _mean(metric, section, a.pairs, a.verdicts == b.verdicts, a.verdicts + b.verdicts)


def _stability(name: str, section: str, a: Column, b: Column) -> Iterator[MetricValue]:
    if a.pairs:
        yield _same(f"{name}: same verdict", section, a, b)
    distance = np.abs(a.scores - b.scores)
    yield _mean(f"{name}: mean absolute difference of scores", section, a.responses, distance, distance)
    if a.decided:
        known = a.right + b.right
        yield _mean(f"{name}: spread of accuracy", section, a.decided, a.right, known, b.right)


def _unsigned(number: MetricValue) -> MetricValue:
    """|x| with the interval that follows from that of x; it starts at 0 where that of x includes 0."""
    if number.value is None or number.low is None or number.high is None:
        return number
    edges = abs(number.low), abs(number.high)
    low = 0.0 if number.low <= 0 <= number.high else min(edges)
    return replace(number, value=abs(number.value), low=low, high=max(edges))
