"""A benchmark is an iterator of Items with gold."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from judges.batch.readers import read_rows, to_item
from judges.errors import CannotRun
from judges.types import Item

NAMED = ("demo", "demo:train", "demo:test")
_DEMO = Path(__file__).parent / "demo"


def load_benchmark(name: str, subset: str | None = None, limit: int | None = None) -> list[Item]:
    """Items of a named benchmark, or of a file of prompt, chosen, rejected rows.

    `name` may end in `@SUBSET` to keep one subset. With a limit, the rows are taken from the subsets in
    turn, so that a short run sees all of them. Raises CannotRun for a row without gold, with its number.
    """
    name, _, kept = name.partition("@")
    subset = kept or subset
    if name in NAMED:
        items = list(_demo("train" if name.endswith("train") else "test"))
    else:
        items = list(_file(name))
    if subset is not None:
        known = sorted({item.subset or "" for item in items})
        items = [item for item in items if item.subset == subset]
        if not items:
            raise CannotRun(f"benchmark {name!r} has no subset {subset!r}; there are {', '.join(known)}")
    return _in_turn(items, limit) if limit is not None else items


def _demo(split: str) -> Iterator[Item]:
    for path in sorted(_DEMO.glob("*.jsonl")):
        with open(path, encoding="utf-8") as lines:
            for line in lines:
                row = json.loads(line)
                item = to_item(row["id"], row)
                if row["split"] == split and isinstance(item, Item):
                    yield item


def _file(path: str) -> Iterator[Item]:
    found = False
    for row in read_rows(path):
        found = True
        if not isinstance(row.item, Item):
            raise CannotRun(f"{path}, row {row.number}: {row.item.message}")
        if row.item.gold is None or row.item.gold.chosen is None:
            raise CannotRun(f"{path}, row {row.number}: a benchmark row needs prompt, chosen and rejected")
        yield row.item
    if not found:
        raise CannotRun(f"{path}: the file has no rows")


def _in_turn(items: list[Item], limit: int) -> list[Item]:
    by_subset: dict[str, list[Item]] = {}
    for item in items:
        by_subset.setdefault(item.subset or "", []).append(item)
    rounds = max((len(rows) for rows in by_subset.values()), default=0)
    turns = (rows[i] for i in range(rounds) for rows in by_subset.values() if i < len(rows))
    return list(islice(turns, limit))
