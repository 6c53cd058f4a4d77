"""What one scorecard says beside its gold: right, wrong, a tie, partly right, or why not.

All here works on rows as they lie on disk (`types.to_dict` of an Item and of a Scorecard): a report reads
hundreds of thousands of them. It is for finding rows to read. Numbers come from the run.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

Row = Mapping[str, Any]
Pair = tuple[int, int]
Said = Literal["right", "wrong", "tie", "partly", "failed", "no gold"]
SAID: tuple[Said, ...] = ("right", "wrong", "tie", "partly", "failed", "no gold")
CREDIT = {"first": 1.0, "second": 0.0, "tie": 0.5}


@dataclass(frozen=True, slots=True)
class Outcome:
    """`said` in one word; `share` of the decided gold pairs that were right, a tie half (None without one);
    `failures` of judgments and comparisons; `prefers` the credit of `i` over `j` for each pair that is decided."""

    said: Said
    share: float | None
    failures: int
    prefers: Mapping[Pair, float]


def outcome(item: Row, card: Row) -> Outcome:
    """One Scorecard against its Item.

    >>> item = {"responses": ["4", "5"], "comparisons": None, "gold": {"chosen": [0]}}
    >>> outcome(item, {"judgments": [{"score": 2.0}, {"score": 1.0}], "comparisons": []}).said
    'right'
    >>> failed = {"score": None, "failure": {"reason": "missing", "message": "no verdict"}}
    >>> outcome(item, {"judgments": [{"score": 2.0}, failed], "comparisons": []}).said
    'failed'
    """
    prefers = preferences(item, card)
    failures = sum(j.get("failure") is not None for j in card["judgments"])
    failures += sum(not isinstance(c["outcome"], str) for c in card["comparisons"])
    wanted = gold_pairs(item)
    credits = [_credit(prefers[pair], goal) for pair, goal in wanted.items() if pair in prefers]
    if not wanted:
        return Outcome("failed" if failures and not prefers else "no gold", None, failures, prefers)
    if not credits:
        return Outcome("failed", None, failures, prefers)
    share = sum(credits) / len(credits)
    if all(credit == 0.5 for credit in credits):
        return Outcome("tie", share, failures, prefers)
    said: Said = "right" if share == 1 else "wrong" if share == 0 else "partly"
    return Outcome(said, share, failures, prefers)


def preferences(item: Row, card: Row) -> dict[Pair, float]:
    """How far `i` beats `j`, i < j: 1 it does, 0 it loses, 0.5 a tie. Pairs that a failure leaves open are not there.

    As `bias.verdict` has it: the scores decide between two responses alone; of more, the comparisons of a pair
    do where it was compared, the votes of each order joined, and two orders that disagree are a tie.
    """
    scores = [j.get("score") for j in card["judgments"]]
    orders: dict[Pair, dict[bool, list[Any]]] = {}
    if len(scores) > 2:
        for c in card["comparisons"]:
            i, j = c["first"], c["second"]
            shown = (j if c["swapped"] else i) < (i if c["swapped"] else j)
            credit = None
            if isinstance(c["outcome"], str):
                credit = CREDIT[c["outcome"]] if i < j else 1 - CREDIT[c["outcome"]]
            orders.setdefault((min(i, j), max(i, j)), {}).setdefault(shown, []).append(credit)
    prefers: dict[Pair, float] = {}
    for i, j in _pairs(item):
        if (i, j) in orders:
            sides = [_majority(votes) for votes in orders[i, j].values()]
            if None not in sides:
                prefers[i, j] = sides[0] if len(set(sides)) == 1 else 0.5  # type: ignore[assignment]
        elif scores[i] is not None and scores[j] is not None:
            prefers[i, j] = 0.5 if scores[i] == scores[j] else float(scores[i] > scores[j])
    return prefers


def gold_pairs(item: Row) -> dict[Pair, float]:
    """What gold says of the pairs that matter: 1 the first is better, 0 the second, 0.5 neither.

    Two responses that gold holds equal say nothing, except where gold is a tie.
    """
    gold = item.get("gold") or {}
    pairs = _pairs(item)
    if gold.get("tie"):
        return dict.fromkeys(pairs, 0.5)
    if gold.get("chosen") is not None:
        values = [float(i in gold["chosen"]) for i in range(len(item["responses"]))]
    elif gold.get("ranking") is not None:
        values = [-rank for rank in gold["ranking"]]
    elif gold.get("scores") is not None:
        values = list(gold["scores"])
    else:
        return {}
    return {(i, j): float(values[i] > values[j]) for i, j in pairs if values[i] != values[j]}


def disagree(all_of_them: Iterable[Mapping[Pair, float]]) -> bool:
    """Whether of some pair one scorer prefers one side and another scorer the other."""
    sides: dict[Pair, set[float]] = {}
    for prefers in all_of_them:
        for pair, credit in prefers.items():
            if credit != 0.5:
                sides.setdefault(pair, set()).add(credit)
    return any(len(side) > 1 for side in sides.values())


def _pairs(item: Row) -> list[Pair]:
    pairs = item.get("comparisons")
    if pairs is None:
        return list(itertools.combinations(range(len(item["responses"])), 2))
    return sorted({(min(pair), max(pair)) for pair in pairs})


def _credit(prefers: float, goal: float) -> float:
    if goal == 0.5:  # gold is a tie: only a tie is right
        return float(prefers == 0.5)
    return prefers if goal == 1 else 1 - prefers


def _majority(votes: list[float | None]) -> float | None:
    told = [vote for vote in votes if vote is not None]
    if not told:
        return None
    mean = sum(told) / len(told)
    return 1.0 if mean > 0.5 else 0.0 if mean < 0.5 else 0.5
