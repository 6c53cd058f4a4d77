"""LLMBar: two outputs for an instruction, of which one follows it; the other may look better.

Zeng et al. 2024 (ICLR), arXiv 2310.07641; its code and data are princeton-nlp/LLMBar.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from judges.errors import CannotRun
from judges.evaluation.benchmarks.base import Benchmark
from judges.evaluation.benchmarks.rows import (
    Place,
    choice_of,
    differences,
    in_given_order,
    numbered,
    text_of,
    unique,
    wrong,
)
from judges.evaluation.benchmarks.verdicts import by_score, label_of, verdicts
from judges.evaluation.statistics.tally import Tally, mean_of
from judges.types import Gold, Item, Scorecard

# Pairs by subset [arXiv 2310.07641]: 419 in all. The five sets of its case study are not among them.
COUNTS = {"natural": 100, "neighbor": 134, "gptinst": 92, "gptout": 47, "manual": 46}
ADVERSARIAL = ("neighbor", "gptinst", "gptout", "manual")
# Where each lies under Dataset/LLMBar of the repository.
FILES = {
    "natural": "Natural/dataset.json",
    "neighbor": "Adversarial/Neighbor/dataset.json",
    "gptinst": "Adversarial/GPTInst/dataset.json",
    "gptout": "Adversarial/GPTOut/dataset.json",
    "manual": "Adversarial/Manual/dataset.json",
}
WANTED = (
    "a row has input, output_1, output_2, label (1 or 2) and subset, or prompt, chosen, rejected,"
    " original_winner_position (a or b) and subset"
)
# The hub's copy is a loading script, which `datasets` runs no more.
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
            " https://github.com/princeton-nlp/LLMBar and give the folder, or give a file of which " + WANTED
        )
    seen: set[str] = set()
    counted: Counter[str] = Counter()
    items = []
    for where, columns in _rows(source):
        subset = _subset(columns, where)
        if subset is not None:
            items.append(_item(columns, where, subset, counted[subset], seen))
            counted[subset] += 1
    if not items:
        raise CannotRun(f"{source}: no rows of {', '.join(COUNTS)}; {WANTED}")
    return Benchmark(
        name="llmbar",
        title="LLMBar",
        items=tuple(items),
        source=source,
        official=official,
        differs=differences(counted, COUNTS, "pairs"),
    )


def official(items: Sequence[Item], cards: Mapping[str, Scorecard]) -> Tally:
    """Accuracy and positional agreement of each subset, of `adversarial` (the plain mean of its four) and of `average`
    (the plain mean of all five).

    Accuracy is the mean over the two orders of the share that chose the right output; agreement the share of
    pairs with the same verdict in both. As in the published code: a judge that compares and gives no verdict,
    or a tie, is wrong in that order, and two orders without a verdict agree; a rating is right in both orders
    or in none, and equal ratings, or one that failed, are right in exactly one order and do not agree. A judge
    that compared in one order alone has that order's accuracy and no agreement.

    The published code scores one subset at a time. The plain mean of four is what gives the paper's 82.8 for
    its best evaluator out of that evaluator's published counts; `average` treats the five in the same way.
    """
    both = {item.id: _orders(item, cards[item.id]) for item in items}
    of = {name: [item for item in items if item.subset == name] for name in COUNTS}
    present = [name for name in COUNTS if of[name]]
    means = {name: mean_of((item, both[item.id][0]) for item in of[name]) for name in present}
    agreement = {name: mean_of((item, both[item.id][1]) for item in of[name]) for name in present}
    means |= {f"{name} agreement": mean for name, mean in agreement.items() if len(mean.values)}
    numbers = {name: {name: 1.0} for name in means}
    missing = {name: f"there is no pair of {name}" for name in COUNTS if name not in present}
    missing |= {
        f"{name} agreement": "no pair was judged in both orders" for name in present if f"{name} agreement" not in means
    }
    average = "average" if len(present) == len(COUNTS) else f"average of {', '.join(present)}"
    for name, parts in (("adversarial", ADVERSARIAL), ("average", tuple(COUNTS)), (average, tuple(present))):
        for behind in ("", " agreement"):
            lacking = [part for part in parts if part + behind not in means]
            if lacking:
                missing[name + behind] = f"it is the mean over {', '.join(parts)}; there is no {', '.join(lacking)}"
            else:
                numbers[name + behind] = {part + behind: 1 / len(parts) for part in parts}
    return Tally(means, numbers, average, missing)


def _orders(item: Item, card: Scorecard) -> tuple[float, float | None]:
    """The share of the orders that are right, and whether they agree."""
    right = label_of(item)
    said = verdicts(card, (0, 1))
    if said:
        agree = float(said[0] == said[1]) if len(said) == 2 else None
        return sum(winner == right for winner in said) / len(said), agree
    winner = by_score(card, (0, 1))
    return (0.5, 0.0) if winner is None else (float(winner == right), 1.0)


def _rows(source: str) -> Iterator[tuple[Place, dict[str, Any]]]:
    folder = Path(source).expanduser()
    if not folder.is_dir() or (folder / "state.json").is_file():
        for number, row in numbered(source):
            yield (source, number), row
        return
    inner = folder / "Dataset" / "LLMBar"
    folder = inner if inner.is_dir() else folder
    there = {subset: folder / file for subset, file in FILES.items() if (folder / file).is_file()}
    if not there:
        raise CannotRun(f"{source}: none of {', '.join(FILES.values())} is in this folder")
    for subset, path in there.items():
        for number, row in numbered(str(path)):
            yield (str(path), number), {**row, "subset": subset}


def _subset(columns: Mapping[str, Any], where: Place) -> str | None:
    """A row's subset, also by the names that others gave it (`adver-GPTInst`); None for the case study."""
    given = text_of(columns, "subset", where, WANTED)
    *before, last = re.split(r"[-_/ ]", given.lower())
    if last in COUNTS:
        return last
    if "case" in (*before, last):
        return None
    raise wrong(*where, f"subset is {given!r}, which is none of {', '.join(COUNTS)}")


def _item(columns: Mapping[str, Any], where: Place, subset: str, number: int, seen: set[str]) -> Item:
    if "input" in columns:
        prompt = text_of(columns, "input", where, WANTED)
        responses = (text_of(columns, "output_1", where, WANTED), text_of(columns, "output_2", where, WANTED))
        right = choice_of(columns, "label", LABELS, where, WANTED)
    else:
        prompt = text_of(columns, "prompt", where, WANTED)
        responses, right = in_given_order(columns, where, WANTED)
    return Item(
        id=unique(columns.get("id") or f"{subset}-{number}", where[1], seen),
        prompt=prompt,
        responses=responses,
        subset=subset,
        gold=Gold(chosen=(right,)),
    )
