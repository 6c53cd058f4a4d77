"""The Benchmark dataclass, and the contract for benchmarks that other distributions add.

A benchmark is a function `load(source, ...) -> Benchmark`, whose parameters all have defaults. `source` is what the
user writes after the name (`NAME:SOURCE`): a file, or `hf:OWNER/NAME[:SPLIT]`. A distribution adds its function through
the entry-point group `assay.benchmarks`, in its pyproject.toml:

    [project.entry-points."assay.benchmarks"]
    arithmetic = "my_package.arithmetic:load"

`assay compare --benchmark arithmetic` then runs it. `load` raises CannotRun where it cannot read its source. Without
`official`, accuracy (or a correlation, where gold is scores) is the headline:

>>> from judges import Item
>>> from judges.types import Gold
>>> def load(source: str = "") -> Benchmark:
...     items = [
...         Item(id=f"{a}+{b}", prompt=f"{a} + {b}?", responses=[str(a + b), "7"], gold=Gold(chosen=(0,)))
...         for a, b in ((1, 2), (2, 2))
...     ]
...     return Benchmark(name="arithmetic", title="Arithmetic", items=tuple(items), source=source or "generated")
>>> load().items[0].responses
('3', '7')
"""

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
    """Items in order, each with `gold` and a unique id.

    `official` computes the published scores from the Scorecards by Item id, of which every Item has one. `differs`
    has one sentence for each way in which the Items differ from the published set; where it is not empty, no number is
    called official. `source` is what was read: a hub name, a file, or "assay".
    """

    name: str
    title: str
    items: tuple[Item, ...]
    source: str
    official: Official | None = None
    differs: tuple[str, ...] = ()

    @property
    def digest(self) -> str:
        """A digest of all that a scorer sees and is measured by. Numbers are comparable where it is equal."""
        digest = hashlib.sha256()
        for item in self.items:
            digest.update(json.dumps(asdict(item), sort_keys=True, ensure_ascii=False, default=str).encode())
        return digest.hexdigest()[:16]

    @property
    def shown_name(self) -> str:
        """The title, with a note where the Items are not the published ones."""
        return f"{self.title} (not the published set)" if self.differs else self.title
