"""Accuracy by our own rules: what is right, what is a tie, what a failure leaves open."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from judges.evaluation.results import MetricValue
from judges.evaluation.statistics import intervals
from judges.evaluation.statistics.tally import Tally, mean_of
from judges.types import Gold, Item, Scorecard

ACCURACY = "accuracy"
THREE_WAY = "accuracy, ties are a class"
PAIRWISE = "pairwise accuracy"
BEST_OF_N = "best-of-n"


@dataclass(frozen=True, slots=True)
class Row:
    """An Item's comparisons with what humans said: `right` is the sum of their credits, `open` how many of the
    `of` comparisons a failure leaves open, `ties` how many the scorer tied."""

    item: Item
    right: float
    open: int
    of: int
    ties: int

    @property
    def value(self) -> float | None:
        """The mean credit of the comparisons that are not open; None where all are."""
        return self.right / (self.of - self.open) if self.of > self.open else None


def worth(gold: Gold, responses: int) -> tuple[float, ...]:
    """What humans hold of each response, higher is better: 1 or 0 by `chosen`, the score, or minus the rank.

    >>> worth(Gold(chosen=(1,)), 3), worth(Gold(ranking=(2, 1)), 2), worth(Gold(tie=True), 2)
    ((0.0, 1.0, 0.0), (-2, -1), (0.0, 0.0))
    """
    if gold.chosen is not None:
        return tuple(float(i in gold.chosen) for i in range(responses))
    if gold.ranking is not None:
        return tuple(-rank for rank in gold.ranking)
    return gold.scores if gold.scores is not None else (0.0,) * responses


def credit(item: Item, card: Scorecard) -> float | None:
    """1 when the chosen response scored higher than every other, ½ for a tie at the top, 0 below; None
    where a failure leaves it open. Raises ValueError for an Item without a chosen response."""
    if item.gold is None or item.gold.chosen is None:
        raise ValueError(f"item {item.id!r} has no chosen response")
    scores = [j.score for j in card.judgments]
    if any(s is None for s in scores):
        return None
    values = [s for s in scores if s is not None]
    chosen = max(values[i] for i in item.gold.chosen)
    others = [v for i, v in enumerate(values) if i not in item.gold.chosen]
    rival = max(others) if others else -math.inf
    return 1.0 if chosen > rival else 0.5 if chosen == rival else 0.0


def accuracy(items: Sequence[Item], cards: Mapping[str, Scorecard]) -> Tally | None:
    """Accuracy on the pairs that humans decided, as a whole ("") and by subset. None where no Item has `chosen`
    or `tie` as gold.

    A pair is one of the Item's comparisons with one chosen response and one that is not: 1 when the chosen
    scored higher, ½ for equal scores, 0 else; a pair with a failure counts not at all. A row is an Item: the
    mean over its pairs. A tie among humans is no pair here.

    >>> from judges.types import Judgment
    >>> item = Item(id="a", prompt="2 + 2?", responses=["4", "5"], gold=Gold(chosen=(0,)))
    >>> card = Scorecard("a", (Judgment(score=1.0), Judgment(score=1.0)))
    >>> accuracy([item], {"a": card}).value("")
    0.5
    """
    chosen = [item for item in items if item.gold and (item.gold.chosen is not None or item.gold.tie)]
    return _tally(_rows(chosen, cards, _pairs)) if chosen else None


def accuracy_numbers(
    items: Sequence[Item], cards: Mapping[str, Scorecard], seed: int = 0, draws: int = 1000
) -> tuple[MetricValue, ...]:
    """All accuracies that the Items' gold has, as a whole and by subset.

    "accuracy": see there. "accuracy, ties are a class": where humans called some pairs a tie; the scorer's
    verdict of three (a higher, b higher, equal scores) is theirs or is wrong, so a scorer without equal scores
    cannot be right on their ties. "pairwise accuracy": where humans gave scores or ranks; the comparisons
    whose responses they told apart. "best-of-n": of three responses and more; 1 when the humans' best has the
    highest score, h / k when k responses share it and h of them are best.

    `ties` and `left_out` count Items: with a comparison that the scorer tied, and without any that is not open.
    `worst` and `best` count every open comparison as wrong and as right.
    """
    chosen = [item for item in items if item.gold and (item.gold.chosen is not None or item.gold.tie)]
    ordered = [item for item in items if item.gold and (item.gold.scores or item.gold.ranking)]
    pairs = [item for item in chosen if len(item.responses) == 2]
    with_ties = pairs if any(item.gold and item.gold.tie for item in pairs) else []
    several = [item for item in items if item.gold and len(item.responses) > 2]
    kinds: tuple[tuple[str, Sequence[Item], Judge], ...] = (
        (ACCURACY, chosen, _pairs),
        (THREE_WAY, with_ties, _three_way),
        (PAIRWISE, ordered, _pairs),
        (BEST_OF_N, several, _best),
    )
    made: list[MetricValue] = []
    for metric, of, judge in kinds:
        rows = _rows(of, cards, judge)
        # Humans' ties alone leave a metric without rows; only accuracy, which every such set has, says so.
        if rows or (of and metric == ACCURACY):
            by_section = _sections(rows)
            for number in intervals.numbers(_tally(rows), metric, seed, draws):
                made.append(_counted(number, by_section.get(number.section, [])))
    return tuple(made)


Judge = Callable[[Item, tuple[float, ...], Sequence[float | None]], tuple[float, int, int, int]]


def _rows(items: Iterable[Item], cards: Mapping[str, Scorecard], judge: Judge) -> list[Row]:
    """One Row for each Item with a comparison."""
    made = []
    for item in items:
        assert item.gold is not None
        scores = [judgment.score for judgment in cards[item.id].judgments]
        right, left_open, of, ties = judge(item, worth(item.gold, len(item.responses)), scores)
        if of:
            made.append(Row(item, right, left_open, of, ties))
    return made


def _pairs(item: Item, human: tuple[float, ...], scores: Sequence[float | None]) -> tuple[float, int, int, int]:
    right, left_open, of, ties = 0.0, 0, 0, 0
    for i, j in item.pairs():
        if human[i] == human[j]:
            continue
        of += 1
        better, worse = (scores[i], scores[j]) if human[i] > human[j] else (scores[j], scores[i])
        if better is None or worse is None:
            left_open += 1
        elif better == worse:
            right += 0.5
            ties += 1
        else:
            right += better > worse
    return right, left_open, of, ties


def _three_way(_: Item, human: tuple[float, ...], scores: Sequence[float | None]) -> tuple[float, int, int, int]:
    a, b = scores
    if a is None or b is None:
        return 0.0, 1, 1, 0
    same = (a > b) == (human[0] > human[1]) and (a < b) == (human[0] < human[1])
    return float(same), 0, 1, int(a == b)


def _best(_: Item, human: tuple[float, ...], scores: Sequence[float | None]) -> tuple[float, int, int, int]:
    most = max(human)
    if all(value == most for value in human):
        return 0.0, 0, 0, 0
    values = [score for score in scores if score is not None]
    if len(values) < len(scores):
        return 0.0, 1, 1, 0
    top = [i for i, value in enumerate(values) if value == max(values)]
    return sum(human[i] == most for i in top) / len(top), 0, 1, int(len(top) > 1)


def _sections(rows: Sequence[Row]) -> dict[str, list[Row]]:
    sections: dict[str, list[Row]] = {"": list(rows)}
    for name in sorted({row.item.subset for row in rows if row.item.subset}):
        sections[name] = [row for row in rows if row.item.subset == name]
    return sections


def _tally(rows: Sequence[Row]) -> Tally:
    sections = _sections(rows)
    means = {name: mean_of((row.item, row.value) for row in of) for name, of in sections.items()}
    return Tally(
        means={name: mean for name, mean in means.items() if len(mean.values)},
        numbers={name: {name: 1.0} for name, mean in means.items() if len(mean.values)},
        headline="",
        missing={
            name: "a failure in every row" if sections[name] else "humans told no two responses apart"
            for name, mean in means.items()
            if not len(mean.values)
        },
    )


def _counted(number: MetricValue, rows: Sequence[Row]) -> MetricValue:
    if not rows:
        return number
    part = sum(0 < row.open < row.of for row in rows)
    return replace(
        noted(number, f"{part} rows miss some of their comparisons, through failures" if part else ""),
        ties=sum(row.ties > 0 for row in rows),
        left_out=sum(row.value is None for row in rows),
        worst=float(np.mean([row.right / row.of for row in rows])),
        best=float(np.mean([(row.right + row.open) / row.of for row in rows])),
    )


def noted(number: MetricValue, note: str) -> MetricValue:
    """The number with one more note."""
    return replace(number, note="; ".join(filter(None, (number.note, note))))
