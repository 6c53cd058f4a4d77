"""A scorer's verdicts on pairs of responses, and means over them for the measures of bias."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from judges.evaluation.results import MetricValue
from judges.evaluation.statistics.intervals import numbers
from judges.evaluation.statistics.tally import Mean, Tally, prompt_of
from judges.types import Comparison, Failure, Item, Scorecard

Orders = dict[tuple[int, int], dict[int, float | None]]  # by pair, then by the response shown first


@dataclass(frozen=True, slots=True)
class Pair:
    """Two responses of an Item with the gold label and the scorer's verdict; `prompt` as in `prompt_of`.

    Where gold prefers one response, it is `first` and `gold` is 1; where gold ties them, `gold` is ½. `verdict` is
    the scorer's: 1 if it prefers the first, 0 if the second, ½ for a tie, None after a failure.
    """

    item: Item
    first: int
    second: int
    gold: float
    verdict: float | None
    prompt: str

    @property
    def name(self) -> str:
        return f"{self.item.id}/{self.first}-{self.second}"

    @property
    def length_difference(self) -> int:
        """Characters of the first response minus those of the second."""
        return len(self.item.responses[self.first]) - len(self.item.responses[self.second])


def verdict(item: Item, card: Scorecard, first: int, second: int) -> float | None:
    """1 if the scorer prefers response `first` to `second`, 0 if the reverse, ½ for a tie, None after a failure.

    Items of two responses are decided by their scores. With more responses a score (a win rate) depends on the
    other responses too, so the comparisons of this pair decide where there are any; two orders that disagree are
    a tie.
    """
    orders = verdicts_by_order(card) if len(item.responses) > 2 else {}
    return _verdict(card, orders, first, second)


def _verdict(card: Scorecard, orders: Orders, first: int, second: int) -> float | None:
    if of_pair := orders.get(sorted_pair(first, second)):
        votes = [won if shown_first == first else opposite(won) for shown_first, won in of_pair.items()]
        if None in votes:
            return None
        return votes[0] if len(set(votes)) == 1 else 0.5
    a, b = card.judgments[first].score, card.judgments[second].score
    if a is None or b is None:
        return None
    return 1.0 if a > b else 0.5 if a == b else 0.0


def sorted_pair(a: int, b: int) -> tuple[int, int]:
    return (a, b) if a < b else (b, a)


def opposite(verdict: float | None) -> float | None:
    """The same verdict from the second response's side."""
    return None if verdict is None else 1 - verdict


def verdicts_by_order(card: Scorecard) -> Orders:
    """For each pair and each response shown first: 1 if that response won, ½ for a tie, 0 if it lost.

    Several votes on one order are aggregated by majority; None where all of them failed.
    """
    votes: dict[tuple[int, int], dict[int, list[float]]] = defaultdict(lambda: defaultdict(list))
    for comparison in card.comparisons:
        shown_first = comparison.second if comparison.swapped else comparison.first
        of_order = votes[sorted_pair(comparison.first, comparison.second)][shown_first]
        if (won := _vote(comparison, shown_first)) is not None:
            of_order.append(won)
    return {
        pair: {shown_first: _majority(won) for shown_first, won in orders.items()} for pair, orders in votes.items()
    }


def _vote(comparison: Comparison, response: int) -> float | None:
    if isinstance(comparison.outcome, Failure):
        return None
    if comparison.outcome == "tie":
        return 0.5
    return float(response == (comparison.first if comparison.outcome == "first" else comparison.second))


def _majority(votes: Sequence[float]) -> float | None:
    return float((np.sign(sum(votes) - len(votes) / 2) + 1) / 2) if votes else None


def gold_pairs(items: Sequence[Item], cards: Mapping[str, Scorecard]) -> Iterator[Pair]:
    """Every pair of responses that gold compares: one is preferred, or both are tied.

    Two chosen responses, or two that are not chosen, are not compared. Without a Scorecard the verdict is None.
    """
    for item in items:
        gold = item.gold
        if gold is None:
            continue
        card, prompt = cards.get(item.id), prompt_of(item)
        orders = verdicts_by_order(card) if card is not None and len(item.responses) > 2 else {}
        values: Sequence[float] | None = gold.scores or (gold.ranking and tuple(-rank for rank in gold.ranking))
        for i, j in item.pairs():
            if gold.chosen is not None:
                lead = float(i in gold.chosen) - float(j in gold.chosen)
                if not lead:
                    continue
            else:
                lead = values[i] - values[j] if values else 0.0
            first, second = (i, j) if lead >= 0 else (j, i)
            of_scorer = _verdict(card, orders, first, second) if card is not None else None
            yield Pair(item, first, second, 1.0 if lead else 0.5, of_scorer, prompt)


class PairMeans:
    """Collects the values of several metrics row by row, and computes each mean with its interval.

    Every metric gets a Tally of its own. In a shared one the bootstrap would stratify prompts by the metrics that
    they have rows in, but which pairs are decided, or differ in length, is part of what is measured.
    """

    def __init__(self) -> None:
        self._values: dict[str, list[tuple[float | None, str, str]]] = {}
        self._differences: dict[str, tuple[str, str]] = {}

    def add(self, metric: str, value: float | None, row: str, prompt: str) -> None:
        """Add one row to a mean; None is left out and counted."""
        self._values.setdefault(metric, []).append((value, row, prompt))

    def add_difference(self, metric: str, minuend: str, subtrahend: str) -> None:
        """Report `minuend` − `subtrahend` as `metric` in place of the two means, where both have rows."""
        if minuend in self._values and subtrahend in self._values:
            self._differences[metric] = (minuend, subtrahend)

    def metric_values(self, seed: int) -> Iterator[MetricValue]:
        """The means in the order they were added, then the differences."""
        hidden = {part for parts in self._differences.values() for part in parts}
        metrics = {metric: {metric: 1.0} for metric in self._values if metric not in hidden}
        metrics |= {metric: {a: 1.0, b: -1.0} for metric, (a, b) in self._differences.items()}
        for metric, weights in metrics.items():
            tally = Tally({part: self._mean(part) for part in weights}, {"": weights}, "")
            (number,) = numbers(tally, metric, seed, signed=metric in self._differences)
            left_out = sum(value is None for part in weights for value, _, _ in self._values[part])
            if self._same_rows(weights):
                left_out //= 2  # each row is left out of both means
            note = "no pair was decided" if number.value is None else number.note
            yield replace(number, left_out=left_out, note=note)

    def _same_rows(self, weights: Mapping[str, float]) -> bool:
        rows = [[row for _, row, _ in self._values[part]] for part in weights]
        return len(rows) == 2 and rows[0] == rows[1]

    def _mean(self, metric: str) -> Mean:
        known = [(value, row, prompt) for value, row, prompt in self._values[metric] if value is not None]
        values = np.array([value for value, _, _ in known], dtype=np.float64)
        return Mean(values, tuple(row for _, row, _ in known), tuple(prompt for _, _, prompt in known))
