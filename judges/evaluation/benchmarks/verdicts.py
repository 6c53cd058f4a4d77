"""What a Scorecard says of one pair of responses, for official rules that read verdicts in each order."""

from __future__ import annotations

from judges.types import Item, Scorecard


def verdicts(card: Scorecard, pair: tuple[int, int]) -> tuple[int | None, ...]:
    """The winner in each order that a comparing judge saw: the order (a, b) first, then (b, a).

    None is a tie or a failure. Several votes in one order make one verdict, by majority. Empty where the card does
    not compare the two.

    >>> from judges.types import Comparison
    >>> both = (Comparison(0, 1, "first"), Comparison(0, 1, "second", swapped=True))
    >>> verdicts(Scorecard("a", (), both), (0, 1)), verdicts(Scorecard("a", ()), (0, 1))
    ((0, 1), ())
    """
    a, b = pair
    margins: dict[int, int] = {}  # by the response shown first: votes for a minus votes for b
    for comparison in card.comparisons:
        first, second = comparison.first, comparison.second
        if {first, second} != {a, b}:
            continue
        shown_first = second if comparison.swapped else first
        winner = first if comparison.outcome == "first" else second if comparison.outcome == "second" else None
        margins[shown_first] = margins.get(shown_first, 0) + (0 if winner is None else 1 if winner == a else -1)
    return tuple(a if margins[i] > 0 else b if margins[i] < 0 else None for i in pair if i in margins)


def higher_score(card: Scorecard, pair: tuple[int, int]) -> int | None:
    """The response of the two with the higher score; None for equal scores or a missing one."""
    a, b = (card.judgments[side].score for side in pair)
    if a is None or b is None or a == b:
        return None
    return pair[0] if a > b else pair[1]


def chosen_of_pair(item: Item) -> int:
    """The chosen response of a pair. Raises ValueError for an Item that is not a pair with one chosen response."""
    if len(item.responses) != 2 or item.gold is None or item.gold.chosen is None or len(item.gold.chosen) != 1:
        raise ValueError(f"item {item.id!r} is not a pair with one chosen response")
    return item.gold.chosen[0]
