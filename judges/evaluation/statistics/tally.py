"""What every number of a benchmark is made of: means over rows, and weighted sums of them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from judges.types import Item


@dataclass(frozen=True, slots=True)
class Mean:
    """A mean over rows: a subset's accuracy, one cell of a matrix, one term of a score.

    `values` has one float for each row that counts: the others were left out before. `rows` names each
    (unique here, equal over scorers), `prompts` the prompt it belongs to: rows of one prompt are not
    independent and are drawn together.
    """

    values: NDArray[np.float64]
    rows: tuple[str, ...]
    prompts: tuple[str, ...]

    def __post_init__(self) -> None:
        if not len(self.values) == len(self.rows) == len(self.prompts):
            raise ValueError(f"{len(self.values)} values, {len(self.rows)} rows and {len(self.prompts)} prompts")

    @property
    def value(self) -> float:
        """The mean; nan without a row."""
        return float(np.mean(self.values)) if len(self.values) else math.nan


@dataclass(frozen=True, slots=True)
class Tally:
    """A scorer's numbers on a benchmark, before their intervals.

    `numbers` gives each its weights over `means`: a number is Σ weight · mean. Sums, sections and overall
    scores are all of this form, so one bootstrap over prompts serves them together. `missing` says why a
    number that the benchmark defines is not here. `headline` names the number that stands for the whole.

    >>> chat = Mean(np.array([1.0, 0.0]), ("1", "2"), ("a", "b"))
    >>> Tally({"chat": chat}, {"overall": {"chat": 1.0}}, "overall").value("overall")
    0.5
    """

    means: Mapping[str, Mean]
    numbers: Mapping[str, Mapping[str, float]]
    headline: str
    missing: Mapping[str, str] = field(default_factory=dict)

    def value(self, number: str) -> float:
        """nan where one of its means has no row."""
        return sum(weight * self.means[mean].value for mean, weight in self.numbers[number].items())


def mean_of(rows: Iterable[tuple[Item, float | None]]) -> Mean:
    """A Mean over Items, those without a value (None or nan) left out."""
    kept = [(item, value) for item, value in rows if value is not None and not math.isnan(value)]
    values = np.array([value for _, value in kept], dtype=np.float64)
    return Mean(values, tuple(item.id for item, _ in kept), tuple(prompt_of(item) for item, _ in kept))


def prompt_of(item: Item) -> str:
    """What rows must share to be drawn together: `meta["prompt"]` where the benchmark names it, else the
    conversation itself."""
    named = item.meta.get("prompt")
    return str(named) if named is not None else repr(item.messages)
