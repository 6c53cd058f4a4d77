"""The outcome of one scorecard against its gold: right, wrong, a tie, partly right, failed, or without gold.

The functions take rows as they are on disk (`types.to_dict` of an Item and of a Scorecard), because a report reads
hundreds of thousands of them. Outcomes serve to find rows to read; the metrics are computed in
`judges.evaluation.metrics`.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

Record = Mapping[str, Any]
Pair = tuple[int, int]
OutcomeKind = Literal["right", "wrong", "tie", "partly", "failed", "no gold"]
OUTCOME_KINDS: tuple[OutcomeKind, ...] = ("right", "wrong", "tie", "partly", "failed", "no gold")
CREDIT = {"first": 1.0, "second": 0.0, "tie": 0.5}


@dataclass(frozen=True, slots=True)
class Outcome:
    """The outcome of a scorecard.

    `share` is the share of the decided gold pairs that were right, a tie counting half; None without such a pair.
    `failures` counts failed judgments and comparisons. `preferences` holds the credit of response `i` over `j` for
    each decided pair.
    """

    kind: OutcomeKind
    share: float | None
    failures: int
    preferences: Mapping[Pair, float]


def classify_outcome(item: Record, card: Record) -> Outcome:
    """The outcome of a Scorecard against the gold of its Item.

    >>> item = {"responses": ["4", "5"], "comparisons": None, "gold": {"chosen": [0]}}
    >>> classify_outcome(item, {"judgments": [{"score": 2.0}, {"score": 1.0}], "comparisons": []}).kind
    'right'
    >>> failed = {"score": None, "failure": {"reason": "missing", "message": "no verdict"}}
    >>> classify_outcome(item, {"judgments": [{"score": 2.0}, failed], "comparisons": []}).kind
    'failed'
    """
    preferences = pair_preferences(item, card)
    failures = sum(j.get("failure") is not None for j in card["judgments"])
    failures += sum(not isinstance(c["outcome"], str) for c in card["comparisons"])
    gold = gold_preferences(item)
    credits = [_credit(preferences[pair], value) for pair, value in gold.items() if pair in preferences]
    if not gold:
        return Outcome("failed" if failures and not preferences else "no gold", None, failures, preferences)
    if not credits:
        return Outcome("failed", None, failures, preferences)
    share = sum(credits) / len(credits)
    if all(credit == 0.5 for credit in credits):
        return Outcome("tie", share, failures, preferences)
    kind: OutcomeKind = "right" if share == 1 else "wrong" if share == 0 else "partly"
    return Outcome(kind, share, failures, preferences)


def pair_preferences(item: Record, card: Record) -> dict[Pair, float]:
    """The credit of response `i` over `j`, i < j: 1 for a win, 0 for a loss, 0.5 for a tie.

    Pairs that a failure leaves undecided are left out. The rule is that of the bias metrics. The scores decide
    between two responses. Among more, a pair that was compared is decided by the majority vote of each order, and is
    a tie where the two orders disagree; a pair that was not compared is decided by the scores.
    """
    scores = [j.get("score") for j in card["judgments"]]
    votes_by_order: dict[Pair, dict[bool, list[float | None]]] = {}
    if len(scores) > 2:
        for c in card["comparisons"]:
            i, j = c["first"], c["second"]
            in_order = (i < j) != c["swapped"]  # whether the judge saw the lower index first
            credit = None
            if isinstance(c["outcome"], str):
                credit = CREDIT[c["outcome"]] if i < j else 1 - CREDIT[c["outcome"]]
            votes_by_order.setdefault((min(i, j), max(i, j)), {}).setdefault(in_order, []).append(credit)
    preferences: dict[Pair, float] = {}
    for i, j in _pairs(item):
        if (i, j) in votes_by_order:
            verdicts = [_majority(votes) for votes in votes_by_order[i, j].values()]
            if None not in verdicts:
                preferences[i, j] = verdicts[0] if len(set(verdicts)) == 1 else 0.5  # type: ignore[assignment]
        elif scores[i] is not None and scores[j] is not None:
            preferences[i, j] = 0.5 if scores[i] == scores[j] else float(scores[i] > scores[j])
    return preferences


def gold_preferences(item: Record) -> dict[Pair, float]:
    """The credit of response `i` over `j` by the gold label: 1, 0, or 0.5 where gold is a tie.

    Pairs of responses that a ranking or scores hold equal are left out.
    """
    gold = item.get("gold") or {}
    if gold.get("tie"):
        return dict.fromkeys(_pairs(item), 0.5)
    if gold.get("chosen") is not None:
        values = [float(i in gold["chosen"]) for i in range(len(item["responses"]))]
    elif gold.get("ranking") is not None:
        values = [-rank for rank in gold["ranking"]]
    elif gold.get("scores") is not None:
        values = gold["scores"]
    else:
        return {}
    return {(i, j): float(values[i] > values[j]) for i, j in _pairs(item) if values[i] != values[j]}


def scorers_disagree(preferences: Iterable[Mapping[Pair, float]]) -> bool:
    """Whether two scorers prefer opposite responses of some pair."""
    credits: dict[Pair, set[float]] = {}
    for of_scorer in preferences:
        for pair, credit in of_scorer.items():
            if credit != 0.5:
                credits.setdefault(pair, set()).add(credit)
    return any(len(found) > 1 for found in credits.values())


def _pairs(item: Record) -> list[Pair]:
    pairs = item.get("comparisons")
    if pairs is None:
        return list(itertools.combinations(range(len(item["responses"])), 2))
    return sorted({(min(pair), max(pair)) for pair in pairs})


def _credit(preference: float, gold: float) -> float:
    if gold == 0.5:  # gold is a tie: only a tie is right
        return float(preference == 0.5)
    return preference if gold == 1 else 1 - preference


def _majority(votes: list[float | None]) -> float | None:
    decided = [vote for vote in votes if vote is not None]
    if not decided:
        return None
    mean = sum(decided) / len(decided)
    return 1.0 if mean > 0.5 else 0.0 if mean < 0.5 else 0.5
