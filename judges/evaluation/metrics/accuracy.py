"""Accuracy on pairs, with ties as a class, on human scores or ranks, and best-of-n."""

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
    """An Item's comparisons with human preferences: `right` is the sum of their credits (1, ½ or 0), `open` how many
    of the `of` comparisons have no verdict because of a failure, `ties` how many the scorer tied."""

    item: Item
    right: float
    open: int
    of: int
    ties: int

    @property
    def value(self) -> float | None:
        """The mean credit of the comparisons with a verdict; None without one."""
        return self.right / (self.of - self.open) if self.of > self.open else None


def human_values(gold: Gold, responses: int) -> tuple[float, ...]:
    """The human value of each response, higher is better: 1 or 0 by `chosen`, the score, or minus the rank.

    >>> human_values(Gold(chosen=(1,)), 3), human_values(Gold(ranking=(2, 1)), 2), human_values(Gold(tie=True), 2)
    ((0.0, 1.0, 0.0), (-2, -1), (0.0, 0.0))
    """
    if gold.chosen is not None:
        return tuple(float(i in gold.chosen) for i in range(responses))
    if gold.ranking is not None:
        return tuple(-rank for rank in gold.ranking)
    return gold.scores if gold.scores is not None else (0.0,) * responses


def credit(item: Item, card: Scorecard) -> float | None:
    """1 where the chosen response scores higher than every other, ½ for a tie at the top, else 0; None after
    a failure. Raises ValueError for an Item without a chosen response."""
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
    """Accuracy on the pairs with a human preference, overall ("") and by subset. None where no Item has `chosen` or
    `tie` as gold.

    A pair is one of the Item's comparisons with one chosen response and one that is not: 1 when the chosen
    scored higher, ½ for equal scores, 0 else; a pair with a failure does not count. A row is an Item: the
    mean over its pairs. Human ties are left out.

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
    """All accuracies that the Items' gold allows, overall and by subset.

    - "accuracy": see `accuracy`.
    - "accuracy, ties are a class", where some pairs are human ties: the verdict (a higher, b higher, equal scores)
      must equal the human one, so a scorer without equal scores is wrong on every human tie.
    - "pairwise accuracy", where gold is scores or ranks: over the comparisons that are no human ties.
    - "best-of-n", for three responses or more: 1 where the humans' best has the highest score, h / k where k
      responses share it and h of them are best.

    `ties` counts Items with a comparison that the scorer tied, `left_out` Items without any verdict. `worst` and
    `best` count every comparison without a verdict as wrong and as right.
    """
    chosen = [item for item in items if item.gold and (item.gold.chosen is not None or item.gold.tie)]
    ordered = [item for item in items if item.gold and (item.gold.scores or item.gold.ranking)]
    pairs = [item for item in chosen if len(item.responses) == 2]
    with_ties = pairs if any(item.gold and item.gold.tie for item in pairs) else []
    several = [item for item in items if item.gold and len(item.responses) > 2]
    kinds: tuple[tuple[str, Sequence[Item], RowRule], ...] = (
        (ACCURACY, chosen, _pairs),
        (THREE_WAY, with_ties, _three_way),
        (PAIRWISE, ordered, _pairs),
        (BEST_OF_N, several, _best),
    )
    results: list[MetricValue] = []
    for metric, of, rule in kinds:
        rows = _rows(of, cards, rule)
        # A set of human ties has no rows; only accuracy, which every such set has, reports that.
        if rows or (of and metric == ACCURACY):
            by_section = _sections(rows)
            for number in intervals.numbers(_tally(rows), metric, seed, draws):
                results.append(_counted(number, by_section.get(number.section, [])))
    return tuple(results)


RowRule = Callable[[Item, tuple[float, ...], Sequence[float | None]], tuple[float, int, int, int]]


def _rows(items: Iterable[Item], cards: Mapping[str, Scorecard], rule: RowRule) -> list[Row]:
    """One Row for each Item with a comparison."""
    results = []
    for item in items:
        assert item.gold is not None
        scores = [judgment.score for judgment in cards[item.id].judgments]
        right, unknown, of, ties = rule(item, human_values(item.gold, len(item.responses)), scores)
        if of:
            results.append(Row(item, right, unknown, of, ties))
    return results


def _pairs(item: Item, human: tuple[float, ...], scores: Sequence[float | None]) -> tuple[float, int, int, int]:
    right, unknown, of, ties = 0.0, 0, 0, 0
    for i, j in item.pairs():
        if human[i] == human[j]:
            continue
        of += 1
        better, worse = (scores[i], scores[j]) if human[i] > human[j] else (scores[j], scores[i])
        if better is None or worse is None:
            unknown += 1
        elif better == worse:
            right += 0.5
            ties += 1
        else:
            right += better > worse
    return right, unknown, of, ties


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
            name: "a failure in every row" if sections[name] else "humans tied all responses"
            for name, mean in means.items()
            if not len(mean.values)
        },
    )


def _counted(number: MetricValue, rows: Sequence[Row]) -> MetricValue:
    if not rows:
        return number
    partial = sum(0 < row.open < row.of for row in rows)
    return replace(
        with_note(number, f"{partial} rows lack some of their comparisons because of failures" if partial else ""),
        ties=sum(row.ties > 0 for row in rows),
        left_out=sum(row.value is None for row in rows),
        worst=float(np.mean([row.right / row.of for row in rows])),
        best=float(np.mean([(row.right + row.open) / row.of for row in rows])),
    )


def with_note(number: MetricValue, note: str) -> MetricValue:
    """The number with a further note."""
    return replace(number, note="; ".join(filter(None, (number.note, note))))
