"""LLMBar: pairs of outputs for an instruction, of which one follows it and the other may look better.

Zeng et al. 2024 (ICLR), arXiv 2310.07641; its code and data are princeton-nlp/LLMBar.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from judges.errors import CannotRun
from judges.evaluation.benchmarks.base import Benchmark
from judges.evaluation.benchmarks.rows import Row, count_differences, read_rows
from judges.evaluation.benchmarks.verdicts import chosen_of_pair, higher_score, verdicts
from judges.evaluation.statistics.tally import Tally, mean_of
from judges.types import Gold, Item, Scorecard

# Pairs by subset [arXiv 2310.07641]: 419 in all. The five sets of its case study are not among them.
COUNTS = {"natural": 100, "neighbor": 134, "gptinst": 92, "gptout": 47, "manual": 46}
ADVERSARIAL = ("neighbor", "gptinst", "gptout", "manual")
# The file of each under Dataset/LLMBar of the repository.
FILES = {
    "natural": "Natural/dataset.json",
    "neighbor": "Adversarial/Neighbor/dataset.json",
    "gptinst": "Adversarial/GPTInst/dataset.json",
    "gptout": "Adversarial/GPTOut/dataset.json",
    "manual": "Adversarial/Manual/dataset.json",
}
EXPECTED = (
    "a row needs input, output_1, output_2, label (1 or 2) and subset, or prompt, chosen, rejected,"
    " original_winner_position (a or b) and subset"
)
# The hub's copy is a loading script, which `datasets` no longer runs.
SCRIPT = "hf:princeton-nlp/LLMBar"
LABELS = {1: 0, 2: 1, "1": 0, "2": 1}


def load(source: str = "") -> Benchmark:
    """The pairs in the order in which they were published: output 1, then 2; `gold.chosen` is the label's side.

    `source` is a copy of its repository (or of its folder Dataset/LLMBar), or a file with its columns and a
    `subset`, or with the winner's position beside `chosen` and `rejected`. Rows of the case study
    (`case-…`) are left out. Raises CannotRun without a source, and for a row of another shape.
    """
    if not source or source.startswith(SCRIPT):
        raise CannotRun(
            "llmbar is published as files, not as a dataset to load by name: clone"
            " https://github.com/princeton-nlp/LLMBar and give the folder, or give a file of which " + EXPECTED
        )
    seen: set[str] = set()
    counts: Counter[str] = Counter()
    items = []
    for row in _rows(source):
        subset = _subset(row)
        if subset is not None:
            items.append(_item(row, subset, counts[subset], seen))
            counts[subset] += 1
    if not items:
        raise CannotRun(f"{source}: no rows of {', '.join(COUNTS)}; {EXPECTED}")
    return Benchmark(
        name="llmbar",
        title="LLMBar",
        items=tuple(items),
        source=source,
        official=official,
        differs=count_differences(counts, COUNTS, "pairs"),
    )


def official(items: Sequence[Item], cards: Mapping[str, Scorecard]) -> Tally:
    """Accuracy and positional agreement of each subset, of `adversarial` (the unweighted mean of its four) and of
    `average` (the unweighted mean of all five).

    Accuracy is the mean over the two orders of the share that chose the right output; agreement the share of
    pairs with the same verdict in both. As in the published code: a judge that compares and gives no verdict,
    or a tie, is wrong in that order, and two orders without a verdict agree; a rating is right in both orders
    or in none, and equal ratings, or one that failed, are right in exactly one order and do not agree. A judge
    that compared in only one order has that order's accuracy and no agreement.

    The published code scores one subset at a time. The unweighted mean of four reproduces the paper's 82.8 for
    its best evaluator from that evaluator's published counts; `average` treats the five in the same way.
    """
    rates = {item.id: _accuracy_and_agreement(item, cards[item.id]) for item in items}
    subsets = {name: [item for item in items if item.subset == name] for name in COUNTS}
    present = [name for name in COUNTS if subsets[name]]
    means = {name: mean_of((item, rates[item.id][0]) for item in subsets[name]) for name in present}
    agreement = {name: mean_of((item, rates[item.id][1]) for item in subsets[name]) for name in present}
    means |= {f"{name} agreement": mean for name, mean in agreement.items() if len(mean.values)}
    numbers = {name: {name: 1.0} for name in means}
    missing = {name: f"there is no pair of {name}" for name in COUNTS if name not in present}
    missing |= {
        f"{name} agreement": "no pair was judged in both orders" for name in present if f"{name} agreement" not in means
    }
    average = "average" if len(present) == len(COUNTS) else f"average of {', '.join(present)}"
    for name, parts in (("adversarial", ADVERSARIAL), ("average", tuple(COUNTS)), (average, tuple(present))):
        for suffix in ("", " agreement"):
            absent = [part for part in parts if part + suffix not in means]
            if absent:
                missing[name + suffix] = f"it is the mean over {', '.join(parts)}; there is no {', '.join(absent)}"
            else:
                numbers[name + suffix] = {part + suffix: 1 / len(parts) for part in parts}
    return Tally(means, numbers, average, missing)


def _accuracy_and_agreement(item: Item, card: Scorecard) -> tuple[float, float | None]:
    """The share of the orders that are right, and whether they agree (None where only one was judged)."""
    right = chosen_of_pair(item)
    winners = verdicts(card, (0, 1))
    if winners:
        agreement = float(winners[0] == winners[1]) if len(winners) == 2 else None
        return sum(winner == right for winner in winners) / len(winners), agreement
    winner = higher_score(card, (0, 1))
    return (0.5, 0.0) if winner is None else (float(winner == right), 1.0)


def _rows(source: str) -> Iterator[Row]:
    folder = Path(source).expanduser()
    if not folder.is_dir() or (folder / "state.json").is_file():
        yield from read_rows(source, EXPECTED)
        return
    inner = folder / "Dataset" / "LLMBar"
    folder = inner if inner.is_dir() else folder
    paths = {subset: folder / file for subset, file in FILES.items() if (folder / file).is_file()}
    if not paths:
        raise CannotRun(f"{source}: none of {', '.join(FILES.values())} is in this folder")
    for subset, path in paths.items():
        for row in read_rows(str(path), EXPECTED):
            yield replace(row, fields={**row.fields, "subset": subset})


def _subset(row: Row) -> str | None:
    """A row's subset, also by the names that other copies use (`adver-GPTInst`); None for the case study."""
    given = row.text("subset")
    *before, last = re.split(r"[-_/ ]", given.lower())
    if last in COUNTS:
        return last
    if "case" in (*before, last):
        return None
    raise row.error(f"subset is {given!r}, not one of {', '.join(COUNTS)}")


def _item(row: Row, subset: str, index: int, seen: set[str]) -> Item:
    prompt, responses, right = row.published_pair("input", ("output_1", "output_2"), LABELS)
    return Item(
        id=row.unique_id(seen, row.fields.get("id") or f"{subset}-{index}"),
        prompt=prompt,
        responses=responses,
        subset=subset,
        gold=Gold(chosen=(right,)),
    )
