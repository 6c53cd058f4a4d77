"""What a row of a file says of an Item, and where each of its sides stands in the Item."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from judges.errors import CannotRun
from judges.types import Comparison, Item, Judgment, Scorecard


@dataclass(frozen=True, slots=True)
class RecordedCard:
    """What one row says of one Item, before it is known which of its sides stands where in the Item.

    `order` is "given" (the row's sides are the Item's responses in order), "gold" (the right one first), or a
    digest of each side's text. `right` is the side that the row itself calls right. `benchmark` and `item`, the
    digest of what was shown, are in the rows of `assay compare`.
    """

    id: str
    where: str
    judgments: tuple[Judgment, ...]
    comparisons: tuple[Comparison, ...] = ()
    preference: tuple[float, ...] | None = None
    order: Literal["given", "gold"] | tuple[bytes, ...] = "given"
    right: int | None = None
    subset: str | None = None
    model: str | None = None
    benchmark: str | None = None
    item: str | None = None


def shown(value: Any) -> str:
    """A value as an error may show it: escaped, and not too long."""
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def digest(text: str) -> bytes:
    """Of a text's words: copies of a benchmark differ in white space at the ends and in line breaks."""
    return hashlib.blake2b(" ".join(text.split()).encode("utf-8", "backslashreplace"), digest_size=8).digest()


def placed(said: RecordedCard, item: Item) -> Scorecard:
    """The row's Scorecard of an Item, its judgments in the responses' order. Raises CannotRun where it does not fit."""
    count, judgments = len(item.responses), said.judgments
    if len(judgments) == 1 and judgments[0].failure is not None:
        judgments = judgments * count  # a row that failed as a whole
    if len(judgments) != count:
        raise CannotRun(f"{said.where}: {len(judgments)} judgments, and item {shown(item.id)} has {count} responses")
    if said.subset is not None and item.subset is not None and said.subset != item.subset:
        raise CannotRun(
            f"{said.where}: subset {shown(said.subset)}, and item {shown(item.id)} is of {shown(item.subset)}"
        )
    place = _places(said, item)
    chosen = item.gold.chosen if item.gold is not None else None
    if said.right is not None and chosen is not None and place[said.right] not in chosen:
        raise CannotRun(f"{said.where}: its label is not the gold of item {shown(item.id)}")
    if place == tuple(range(count)):
        return Scorecard(item.id, judgments, said.comparisons, said.preference)
    side = {where: k for k, where in enumerate(place)}
    return Scorecard(
        id=item.id,
        judgments=tuple(judgments[side[i]] for i in range(count)),
        comparisons=tuple(_moved(made, place) for made in said.comparisons),
        preference=None if said.preference is None else tuple(said.preference[side[i]] for i in range(count)),
    )


def _places(said: RecordedCard, item: Item) -> tuple[int, ...]:
    """Where each side of the row stands in the Item."""
    count = len(item.responses)
    if said.order == "given":
        return tuple(range(count))
    if said.order == "gold":
        chosen = item.gold.chosen if item.gold is not None else None
        if count != 2 or chosen is None or len(chosen) != 1:
            raise CannotRun(
                f"{said.where}: chosen and rejected, and item {shown(item.id)} has no one chosen response of two"
            )
        return (chosen[0], 1 - chosen[0])
    texts = [digest(response) for response in item.responses]
    free = list(range(count))
    found = []
    for text in said.order:
        where = next((i for i in free if texts[i] == text), None)
        if where is None:
            raise CannotRun(f"{said.where}: its responses are not those of item {shown(item.id)}")
        free.remove(where)
        found.append(where)
    return tuple(found)


def _moved(made: Comparison, place: Sequence[int]) -> Comparison:
    """The same verdict on the Item's responses, the lower index first as in `Item.pairs`."""
    first, second = place[made.first], place[made.second]
    if first < second:
        return Comparison(first, second, made.outcome, made.swapped)
    outcome = made.outcome
    if outcome == "first" or outcome == "second":
        outcome = "second" if outcome == "first" else "first"
    return Comparison(second, first, outcome, not made.swapped)
