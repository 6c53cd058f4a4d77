"""The verdict of one comparison, and what it means for each response in the order they were presented in."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from judges.scorers.llm_judge import WAYS, Labels, Verdict
from judges.scorers.tournament import Pair
from judges.types import Comparison, Failure, Usage

Order = tuple[int, ...]  # the indices of some responses, as they are presented to the judge


@dataclass(frozen=True, slots=True)
class ComparisonVerdict:
    """A verdict on responses that were presented in this order.

    `labels` has the label that means each of them, in that order; one more label means a tie of all.
    """

    order: Order
    labels: Labels
    verdict: Verdict

    def win_shares(self, method: str = "") -> dict[int, float] | Failure:
        """The share of the win of each response, by index: the shares sum to 1, and a tie is split equally.

        `method` is one way of reading the verdict ("text"); by default the one that gave its value.
        """
        value = self._value(method)
        if isinstance(value, Failure):
            return value
        labels = [value] if value in self.labels else most_likely(self.verdict.probabilities or {})
        return self._shares({label: 1 / len(labels) for label in labels})

    def win_probabilities(self, method: str = "") -> dict[int, float] | Failure:
        """P(best) of each response from the labels' probabilities; the same as `win_shares` where there are none."""
        probabilities = self.verdict.probabilities
        if probabilities is None or method not in ("", "expected") or isinstance(self._value(method), Failure):
            return self.win_shares(method)
        return self._shares(probabilities)

    def comparison(self, pair: Pair, method: str = "") -> Comparison | None:
        """What the verdict means for two of the responses; None where a third one won, which says nothing of them."""
        swapped = self.order.index(pair[1]) < self.order.index(pair[0])
        shares = self.win_shares(method)
        if isinstance(shares, Failure):
            return Comparison(*pair, shares, swapped)
        first, second = shares[pair[0]], shares[pair[1]]
        if first == second == 0:
            return None
        return Comparison(*pair, "tie" if first == second else "first" if first > second else "second", swapped)

    def usage_share(self, index: int) -> Usage:
        """A response's part of the usage; the parts of all responses add up to it."""
        position, count, usage = self.order.index(index), len(self.order), self.verdict.usage
        tokens = (usage.prompt_tokens, usage.cached_tokens, usage.generated_tokens)
        prompt, cached, generated = (n // count + (position < n % count) for n in tokens)
        return Usage(prompt, cached, generated, usage.seconds / count)

    def _value(self, method: str) -> float | str | Failure:
        # After a request that failed, the methods that should have followed have no reading.
        readings = self.verdict.readings
        return next((readings[way] for way in WAYS.get(method, (method,)) if way in readings), self.verdict.value)

    def _shares(self, weights: Mapping[str, float]) -> dict[int, float]:
        shares = dict.fromkeys(self.order, 0.0)
        for label, weight in weights.items():
            position = self.labels.index(label)
            winners = self.order[position : position + 1] or self.order
            for index in winners:
                shares[index] += weight / len(winners)
        return shares


def most_likely(probabilities: Mapping[str, float]) -> list[str]:
    """The labels with the highest probability: several where they are exactly equal."""
    highest = max(probabilities.values())
    return [label for label, p in probabilities.items() if p == highest]
