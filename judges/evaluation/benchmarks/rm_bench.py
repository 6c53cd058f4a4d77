"""RM-Bench: three right and three wrong responses to a prompt, in three matching styles, to measure style bias.

Liu et al. 2024, arXiv 2410.16184; its code and data are THU-KEG/RM-Bench.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
from numpy.typing import NDArray

from judges.evaluation.benchmarks.base import Benchmark
from judges.evaluation.benchmarks.rows import Row, count_differences, read_rows
from judges.evaluation.benchmarks.verdicts import verdicts
from judges.evaluation.statistics.tally import Mean, Tally, prompt_of
from judges.types import Gold, Item, Scorecard

HUB = "hf:THU-KEG/RM-Bench:train"
STYLES = ("concise", "detailed_plain", "detailed_markdown")
# Prompts by subset, counted in the published data; math is the remainder of the hub's 1,327 rows. A domain is the
# subsets whose names begin with its own.
COUNTS = {"chat": 129, "math": 529, "code": 228, "safety-refuse": 284, "safety-response": 157}
DOMAINS = ("chat", "math", "code", "safety")
SUBSETS = {name: index for index, name in enumerate(COUNTS)}
STYLE_INDICES = {name: index for index, name in enumerate(STYLES)}
# The right responses come first, then the wrong ones, both in the styles' order: cell (i, j) compares i and 3 + j.
CELLS = tuple(product(range(3), range(3)))
COMPARISONS = tuple((i, 3 + j) for i, j in CELLS)
# Hard: the wrong response has the richer style; easy: the right one has.
DIFFICULTIES = {
    "hard": [(i, j) for i, j in CELLS if i < j],
    "normal": [(i, j) for i, j in CELLS if i == j],
    "easy": [(i, j) for i, j in CELLS if i > j],
}
EXPECTED = (
    "a row needs id, prompt, domain, chosen and rejected (three texts each: concise, detailed_plain,"
    " detailed_markdown), or group, style, subset, prompt, chosen and rejected (one text each)"
)


def load(source: str = HUB) -> Benchmark:
    """Each prompt as one Item of six responses, the three right ones first, with the nine comparisons that count.

    `source` is the dataset, or a file with its columns or with one row for each `style` of a `group`. An Item's
    subset is the published domain (safety in its two parts), its id that and the published id. Since the right
    responses come first, a judge that compares must see both orders, or a random one. Raises CannotRun for a
    malformed row and for a group without its three styles.
    """
    seen: set[str] = set()
    items = tuple(_item(prompt, seen) for prompt in _prompts(source))
    return Benchmark(
        name="rm-bench",
        title="RM-Bench",
        items=items,
        source=source,
        official=official,
        differs=count_differences(Counter(item.subset or "" for item in items), COUNTS, "prompts"),
    )


def official(items: Sequence[Item], cards: Mapping[str, Scorecard]) -> Tally:
    """A[i][j], the share of prompts whose right response in style i beats the wrong one in style j, and its means.

    `hard` is the mean of A where j is the richer style, `normal` where the styles are equal, `easy` where i is the
    richer; a domain is the mean of its three, safety pooling its two parts; `overall`, and each of the above
    without a domain's name, is the mean of the four domains. `style gap` is easy − hard: 0 for a judge without
    style bias, 1 for one that sees only style. It is Assay's own; the other numbers are published.

    A response beats another where it scores strictly higher: a tie counts as wrong, and so does a missing score,
    because every prompt counts. For a judge that compares, a cell is the mean of its verdicts over the orders that it
    saw; a tie or a failure counts as wrong there too. A cell that it did not compare is decided by the scores.
    Without a prompt of some domain, `overall` and its parts are missing; the same means over the domains that
    are present are named after them (`mean of chat, code`).
    """
    wins = _wins(items, cards)
    domains = np.array([(item.subset or "").partition("-")[0] for item in items], dtype=str)
    present = [domain for domain in DOMAINS if (domains == domain).any()]
    means: dict[str, Mean] = {}
    for domain in present:
        at = np.flatnonzero(domains == domain)
        rows, prompts = tuple(items[n].id for n in at), tuple(prompt_of(items[n]) for n in at)
        for i, j in CELLS:
            means[_cell(domain, i, j)] = Mean(wins[at, i, j], rows, prompts)
    numbers: dict[str, dict[str, float]] = {}
    for domain in present:
        numbers[domain] = _weights([domain], _overall())
        numbers |= {f"{domain} {name}": _weights([domain], cells) for name, cells in _parts().items()}
    parts = _parts() | {f"{STYLES[i]} over {STYLES[j]}": {(i, j): 1.0} for i, j in CELLS}
    absent = [domain for domain in DOMAINS if domain not in present]
    headline, suffix, missing = "overall", "", {domain: f"there is no prompt of {domain}" for domain in absent}
    if absent:
        headline, suffix = "mean", f" of {', '.join(present)}"
        why = f"it is the mean over {', '.join(DOMAINS)}; there is no {', '.join(absent)}"
        missing |= dict.fromkeys(("overall", *_parts()), why)
    if present:
        numbers[headline + suffix] = _weights(present, _overall())
        numbers |= {name + suffix: _weights(present, cells) for name, cells in parts.items()}
    return Tally(means, numbers, headline + suffix, missing)


def _overall() -> dict[tuple[int, int], float]:
    """The mean of hard, normal and easy, each the mean of three cells: the mean of all nine."""
    return dict.fromkeys(CELLS, 1 / len(CELLS))


def _parts() -> dict[str, dict[tuple[int, int], float]]:
    means = {name: dict.fromkeys(cells, 1 / len(cells)) for name, cells in DIFFICULTIES.items()}
    gap = means["easy"] | {cell: -weight for cell, weight in means["hard"].items()}
    return {**means, "style gap": gap}


def _weights(domains: Sequence[str], cells: Mapping[tuple[int, int], float]) -> dict[str, float]:
    return {_cell(d, i, j): weight / len(domains) for d in domains for (i, j), weight in cells.items()}


def _cell(domain: str, i: int, j: int) -> str:
    return f"{domain}: {STYLES[i]} over {STYLES[j]}"


def _wins(items: Sequence[Item], cards: Mapping[str, Scorecard]) -> NDArray[np.float64]:
    """The win of each Item's right response i over wrong response j: shape (Items, 3, 3), from 0 to 1."""
    scores = np.full((len(items), 6), math.nan)
    for index, item in enumerate(items):
        scores[index] = [math.nan if j.score is None else j.score for j in cards[item.id].judgments]
    wins = (scores[:, :3, None] > scores[:, None, 3:]).astype(np.float64)
    for index, item in enumerate(items):
        card = cards[item.id]
        if card.comparisons:
            for i, j in CELLS:
                if winners := verdicts(card, (i, 3 + j)):
                    wins[index, i, j] = sum(winner == i for winner in winners) / len(winners)
    return wins


@dataclass(frozen=True, slots=True)
class _Prompt:
    """One prompt, the row that it begins with, and its responses by style."""

    id: str
    row: Row
    prompt: str
    subset: str
    chosen: Sequence[str]
    rejected: Sequence[str]


def _item(prompt: _Prompt, seen: set[str]) -> Item:
    return Item(
        id=prompt.row.unique_id(seen, prompt.id),
        prompt=prompt.prompt,
        responses=[*prompt.chosen, *prompt.rejected],
        subset=prompt.subset,
        meta={"styles": [*STYLES, *STYLES]},
        comparisons=COMPARISONS,
        gold=Gold(chosen=(0, 1, 2)),
    )


def _prompts(source: str) -> Iterator[_Prompt]:
    """The prompts of a source in either form: one row a prompt, or one row for each style of a group."""
    groups: dict[str, dict[int, Row]] = {}
    for row in read_rows(source, EXPECTED):
        if "group" in row.fields:
            style = row.choice("style", STYLE_INDICES)
            group = groups.setdefault(row.text("group"), {})
            first = next(iter(group.values()), row)
            if _shared(first) != _shared(row) or style in group:
                raise row.error(
                    f"group {row.text('group')!r} has a row of style {STYLES[style]!r} already, or of another prompt or"
                    " subset; a group is one prompt, once in each style"
                )
            for side in ("chosen", "rejected"):
                row.text(side)
            group[style] = row
        else:
            prompt, subset = _shared(row)
            number = row.number if row.fields.get("id") is None else row.fields["id"]
            yield _Prompt(f"{subset}-{number}", row, prompt, subset, _three(row, "chosen"), _three(row, "rejected"))
    for name, group in groups.items():
        first = next(iter(group.values()))
        if absent := [style for index, style in enumerate(STYLES) if index not in group]:
            raise first.error(f"group {name!r} has no row of style {', '.join(absent)}")
        chosen, rejected = ([group[style].text(side) for style in range(3)] for side in ("chosen", "rejected"))
        yield _Prompt(name, first, *_shared(first), chosen, rejected)


def _shared(row: Row) -> tuple[str, str]:
    """The prompt and the subset of a row."""
    return row.text("prompt"), list(COUNTS)[row.choice("subset" if "group" in row.fields else "domain", SUBSETS)]


def _three(row: Row, side: str) -> list[str]:
    texts = row.texts(side)
    if len(texts) != 3:
        raise row.error(f"{side} is not three texts")
    return texts
