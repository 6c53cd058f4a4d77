"""A benchmark: Items with gold, what published set they are, and how that set is officially scored."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass

from judges.evaluation.statistics.tally import Tally
from judges.types import Item, Scorecard

Official = Callable[[Sequence[Item], Mapping[str, Scorecard]], Tally]


@dataclass(frozen=True, slots=True)
class Benchmark:
    """Items in order, each with `gold`, its ids unique.

    `official` scores Scorecards by the published rules (cards by Item id; every Item has one). `differs` says,
    in sentences, how the Items differ from the published set: while it says anything, no number goes by
    the official name. `source` is what was read: a hub name, a file, or "assay".
    """

    name: str
    title: str
    items: tuple[Item, ...]
    source: str
    official: Official | None = None
    differs: tuple[str, ...] = ()

    @property
    def digest(self) -> str:
        """Of all that a scorer sees and all that it is measured by: equal digests, comparable numbers."""
        told = hashlib.sha256()
        for item in self.items:
            told.update(json.dumps(asdict(item), sort_keys=True, ensure_ascii=False, default=str).encode())
        return told.hexdigest()[:16]

    @property
    def shown_name(self) -> str:
        """The title, which says so where the Items are not the published ones."""
        return f"{self.title} (not the published set)" if self.differs else self.title
