"""Items and Scorecards of two responses for the tests of bias."""

from judges import Failure, Item, Judgment, Scorecard
from judges.types import Comparison, Gold

FAILURE = Failure("missing", "no verdict")


def pair(name, right=0, lengths=(4, 4), **meta):
    return Item(id=name, prompt=name, responses=["x" * n for n in lengths], gold=Gold(chosen=(right,)), meta=meta)


def scored(name, *scores):
    judgments = [Judgment(failure=FAILURE) if s is None else Judgment(score=float(s)) for s in scores]
    return Scorecard(name, tuple(judgments))


def both_orders(name, given, swapped):
    """Outcomes as winners of the pair (0, 1), the second with response 1 shown first."""
    comparisons = (Comparison(0, 1, given), Comparison(0, 1, swapped, swapped=True))
    return Scorecard(name, (Judgment(score=1.0), Judgment(score=0.0)), comparisons)


def by_metric(measure, items, cards, *args):
    return {n.metric: n for n in measure(items, {card.id: card for card in cards}, *args)}


def values(measure, items, cards, *args):
    return {metric: n.value for metric, n in by_metric(measure, items, cards, *args).items()}
