"""Means over rows and weighted sums of means: the form of every number of a benchmark before its interval."""

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

    `values` has one float for each row; rows without a value are left out beforehand. `rows` names each row (unique
    within the mean, the same for all scorers), `prompts` the prompt it belongs to: rows of one prompt are not
    independent and are resampled together.
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

    `numbers` gives each number its weights over `means`: a number is Σ weight · mean. Subsets, sections and overall
    scores all have this form, so one bootstrap over prompts serves them together. `missing` gives the reason for
    each number that the benchmark defines but that has no value. `headline` names the main number.

    >>> chat = Mean(np.array([1.0, 0.0]), ("1", "2"), ("a", "b"))
    >>> Tally({"chat": chat}, {"overall": {"chat": 1.0}}, "overall").value("overall")
    0.5
    """

    means: Mapping[str, Mean]
    numbers: Mapping[str, Mapping[str, float]]
    headline: str
    missing: Mapping[str, str] = field(default_factory=dict)

    def value(self, number: str) -> float:
        """The value of a number; nan where one of its means has no row."""
        return sum(weight * self.means[mean].value for mean, weight in self.numbers[number].items())


def mean_of(rows: Iterable[tuple[Item, float | None]]) -> Mean:
    """A Mean over Items; those without a value (None or nan) are left out."""
    known = [(item, value) for item, value in rows if value is not None and not math.isnan(value)]
    values = np.array([value for _, value in known], dtype=np.float64)
    return Mean(values, tuple(item.id for item, _ in known), tuple(prompt_of(item) for item, _ in known))


def prompt_of(item: Item) -> str:
    """The name of an Item's prompt, the unit of resampling: `meta["prompt"]` where there is one, else the
    conversation itself."""
    named = item.meta.get("prompt")
    return str(named) if named is not None else repr(item.messages)
