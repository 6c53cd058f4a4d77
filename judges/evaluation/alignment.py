"""Recorded judgments aligned with an Item: which side of a file's row is which response."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any, Literal

from judges.errors import CannotRun
from judges.types import Comparison, Failure, Item, Judgment, Scorecard

Order = Literal["given", "gold"] | tuple[bytes, ...]
Outcome = Literal["first", "second", "tie"] | Failure


@dataclass(frozen=True, slots=True)
class RecordedCard:
    """The judgments that one row of a file holds, in the row's own order.

    `order` says how the row's sides map to the Item's responses: "given" (the same order), "gold" (the chosen
    response first), or the `text_digest` of each side's text. `label` is the index of the side that the row itself
    calls right. `benchmark` and `item` (the digest of what the scorer was shown) are in rows of `assay compare`.
    """

    id: str
    where: str
    judgments: tuple[Judgment, ...]
    comparisons: tuple[Comparison, ...] = ()
    preference: tuple[float, ...] | None = None
    order: Order = "given"
    label: int | None = None
    subset: str | None = None
    model: str | None = None
    benchmark: str | None = None
    item: str | None = None


def abbreviate(value: Any) -> str:
    """A value for an error message: its repr, cut to 80 characters."""
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def text_digest(text: str) -> bytes:
    """A digest that ignores white space, in which copies of a benchmark differ at line breaks and ends."""
    return hashlib.blake2b(" ".join(text.split()).encode("utf-8", "backslashreplace"), digest_size=8).digest()


def mirror(outcome: Outcome) -> Outcome:
    """The same verdict with the two responses swapped; a tie or a Failure stays as it is."""
    return "second" if outcome == "first" else "first" if outcome == "second" else outcome


def align(recorded: RecordedCard, item: Item) -> Scorecard:
    """The row's Scorecard with its judgments in the order of the Item's responses.

    Raises CannotRun where the row does not fit the Item: another number of responses, another subset, other
    texts, or a label that contradicts the gold.
    """
    where, count, judgments = recorded.where, len(item.responses), recorded.judgments
    if len(judgments) == 1 and judgments[0].failure is not None:
        judgments = judgments * count  # the failure of the row is that of each response
    if len(judgments) != count:
        raise CannotRun(
            f"{where}: the row has {len(judgments)} judgments, and item {abbreviate(item.id)} has {count} responses"
        )
    if recorded.subset is not None and item.subset is not None and recorded.subset != item.subset:
        raise CannotRun(
            f"{where}: the row has subset {abbreviate(recorded.subset)},"
            f" and item {abbreviate(item.id)} has {abbreviate(item.subset)}"
        )
    indices = _response_indices(recorded, item)
    chosen = item.gold.chosen if item.gold is not None else None
    if recorded.label is not None and chosen is not None and indices[recorded.label] not in chosen:
        raise CannotRun(f"{where}: the row's label is not the gold of item {abbreviate(item.id)}")
    if indices == tuple(range(count)):
        return Scorecard(item.id, judgments, recorded.comparisons, recorded.preference)
    sides = [indices.index(response) for response in range(count)]
    return Scorecard(
        id=item.id,
        judgments=tuple(judgments[side] for side in sides),
        comparisons=tuple(_reindex(comparison, indices) for comparison in recorded.comparisons),
        preference=None if recorded.preference is None else tuple(recorded.preference[side] for side in sides),
    )


def _response_indices(recorded: RecordedCard, item: Item) -> tuple[int, ...]:
    """For each side of the row, the index of its response in the Item."""
    count = len(item.responses)
    if recorded.order == "given":
        return tuple(range(count))
    if recorded.order == "gold":
        chosen = item.gold.chosen if item.gold is not None else None
        if count != 2 or chosen is None or len(chosen) != 1:
            raise CannotRun(
                f"{recorded.where}: the row scores a chosen and a rejected response,"
                f" and item {abbreviate(item.id)} has no single chosen response of two"
            )
        return (chosen[0], 1 - chosen[0])
    unmatched = dict(enumerate(map(text_digest, item.responses)))
    indices = []
    for digest in recorded.order:
        index = next((i for i, response in unmatched.items() if response == digest), None)
        if index is None:
            raise CannotRun(f"{recorded.where}: the row's responses are not those of item {abbreviate(item.id)}")
        del unmatched[index]
        indices.append(index)
    return tuple(indices)


def _reindex(comparison: Comparison, indices: tuple[int, ...]) -> Comparison:
    """The same verdict on the Item's responses, the lower index first as in `Item.pairs`."""
    first, second = indices[comparison.first], indices[comparison.second]
    if first < second:
        return Comparison(first, second, comparison.outcome, comparison.swapped)
    return Comparison(second, first, mirror(comparison.outcome), not comparison.swapped)
