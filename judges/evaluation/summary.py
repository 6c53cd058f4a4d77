"""One benchmark in sentences: which scorer leads, which it beats, and what a cheaper scorer would lose."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from judges.evaluation.results import Contrast, MetricValue
from judges.evaluation.statistics.significance import LEVEL, cheapest_not_worse, rounded


def summarize(
    title: str, headlines: Mapping[str, MetricValue], costs: Mapping[str, float], contrasts: Sequence[Contrast]
) -> str:
    """Sentences on the scorers of one benchmark; empty where fewer than two have a value.

    `headlines` are their headline numbers and `costs` (in one unit) those that are known, both by label. A difference
    is significant where its p-value is below 0.05 after Holm's correction.
    """
    values = {label: n.value for label, n in headlines.items() if n.value is not None}
    if len(values) < 2:
        return ""
    best = max(values, key=lambda label: values[label])
    leaders = [label for label in values if values[label] == values[best]]
    beaten, similar, better = [], [], []
    for contrast in contrasts:
        if best not in (contrast.first, contrast.second):
            continue
        opponent = contrast.second if contrast.first == best else contrast.first
        if opponent in leaders or opponent not in values:
            continue
        lead = contrast.difference if contrast.first == best else -contrast.difference
        if contrast.p_holm >= LEVEL:
            rows = (
                f" (significant with about {rounded(contrast.more_pairs):,} more rows)" if contrast.more_pairs else ""
            )
            similar.append(f"{opponent}{rows}")
        elif lead > 0:
            beaten.append(f"{opponent} by {100 * lead:.1f} ± {50 * (contrast.high - contrast.low):.1f}")
        else:
            better.append(f" On the rows that both have, {opponent} is better by {-100 * lead:.1f} points.")
    s = "s" if len(leaders) == 1 else ""
    sentences = f"{title}: {_enumerate(leaders)} lead{s} with {100 * values[best]:.1f}{_unit(headlines[best])}"
    if beaten:
        sentences += f" and beat{s} {_enumerate(beaten)} points"
    sentences += "."
    if similar:
        sentences += f" No significant difference from {_enumerate(similar)}."
    sentences += "".join(better)
    if similar or better:
        cheapest = cheapest_not_worse(costs, values, contrasts)
        if cheapest and not cheapest.startswith(best):
            sentences += f" {cheapest}"
    return sentences


def _unit(number: MetricValue) -> str:
    """Names a metric that is not a share: it is shown in hundredths as shares are."""
    return "" if number.metric in ("accuracy", "official") else f" ({number.metric}, in hundredths)"


def _enumerate(names: Sequence[str]) -> str:
    """
    >>> _enumerate(["a"]), _enumerate(["a", "b", "c"])
    ('a', 'a, b and c')
    """
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
