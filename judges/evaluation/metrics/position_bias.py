"""Position bias: how a judge's verdict depends on which response is shown first."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from judges.evaluation.metrics.pair_verdicts import PairMeans, gold_pairs, opposite, sorted_pair, verdicts_by_order
from judges.evaluation.results import MetricValue
from judges.evaluation.statistics.tally import prompt_of
from judges.types import Item, Scorecard


def position_bias_numbers(
    items: Sequence[Item], cards: Mapping[str, Scorecard], seed: int = 0
) -> tuple[MetricValue, ...]:
    """Consistency, preference for the first slot and accuracy by slot, over pairs compared in both orders.

    - `position: consistency`: the share of pairs with the same verdict in both orders.
    - `position: first slot preferred`: the share of decided verdicts for the response shown first.
    - `position: accuracy, right one shown first` (and `second`): a tie counts half.

    Empty where no pair was compared in both orders.
    """
    means = PairMeans()
    for item in items:
        preferred = {sorted_pair(p.first, p.second): p.first for p in gold_pairs([item], cards) if p.gold == 1}
        for (i, j), orders in verdicts_by_order(cards[item.id]).items():
            if len(orders) < 2:
                continue
            name, prompt = f"{item.id}/{i}-{j}", prompt_of(item)
            # A pair counts with both orders or not at all: otherwise a preferred response that happens to be shown
            # first more often would look like a bias.
            known = orders[i] is not None and orders[j] is not None
            means.add("position: consistency", float(orders[i] == opposite(orders[j])) if known else None, name, prompt)
            for shown_first, won in orders.items():
                if not known or won != 0.5:
                    row = f"{name}/{shown_first} first"
                    means.add("position: first slot preferred", won if known else None, row, prompt)
            if (i, j) in preferred:
                better = preferred[i, j]
                worse = j if better == i else i
                by_slot = {"first": orders[better], "second": opposite(orders[worse])}
                for slot, won in by_slot.items():
                    metric = f"position: accuracy, right one shown {slot}"
                    means.add(metric, won if known else None, name, prompt)
    return tuple(means.metric_values(seed))
