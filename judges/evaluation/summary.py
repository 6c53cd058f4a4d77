"""One benchmark in plain words: who leads, whom it beats, who is level with it, what is cheaper."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from judges.evaluation.results import Contrast, Number
from judges.evaluation.statistics.significance import LEVEL, cheapest_not_worse, rounded


def summary(title: str, values: Mapping[str, Number], costs: Mapping[str, float], contrasts: Sequence[Contrast]) -> str:
    """Sentences on the scorers of one benchmark; empty for fewer than two with a value.

    `values` are their headlines by label, `costs` (any unit, one for all) of those that have one; contrasts are
    told apart at p below 0.05 after Holm's correction.
    """
    known = {label: n.value for label, n in values.items() if n.value is not None}
    if len(known) < 2:
        return ""
    best = max(known, key=lambda label: known[label])
    top = [label for label in known if known[label] == known[best]]
    beaten, level = [], []
    for one in contrasts:
        if best not in (one.first, one.second):
            continue
        other = one.second if one.first == best else one.first
        if other in top or other not in known:
            continue
        ahead = one.difference if one.first == best else -one.difference
        if one.p_holm < LEVEL and ahead > 0:
            beaten.append(f"{other} by {100 * ahead:.1f} ± {50 * (one.high - one.low):.1f}")
        elif one.p_holm < LEVEL:
            level.append(f"{other} (ahead of it by {-100 * ahead:.1f} points on the rows that both have)")
        else:
            more = f" (about {rounded(one.more_pairs):,} more rows would)" if one.more_pairs else ""
            level.append(f"{other}{more}")
    told = [f"{title}: {_and(top)} lead{'s' if len(top) == 1 else ''} with {100 * known[best]:.1f}{_of(values[best])}"]
    if beaten:
        told.append(f" and beat{'s' if len(top) == 1 else ''} {_and(beaten)} points")
    told.append(".")
    if level:
        told.append(f" Not told apart from it at this size: {', '.join(level)}.")
        cheapest = cheapest_not_worse(costs, known, contrasts)
        if cheapest and not cheapest.startswith(best):
            told.append(f" {cheapest}")
    return "".join(told)


def _of(number: Number) -> str:
    """What a number is, where it is no share: those are shown in hundredths like the shares."""
    return "" if number.metric in ("accuracy", "official") else f" ({number.metric}, in hundredths)"


def _and(names: Sequence[str]) -> str:
    """
    >>> _and(["a"]), _and(["a", "b", "c"])
    ('a', 'a, b and c')
    """
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
