"""Benchmarks by name, or a user's own file."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from difflib import get_close_matches
from importlib import import_module
from itertools import zip_longest
from pathlib import Path

from judges.data.items import to_item
from judges.errors import CannotRun
from judges.evaluation.benchmarks.base import Benchmark
from judges.evaluation.benchmarks.pairs import to_pair
from judges.evaluation.benchmarks.pointwise import to_pointwise
from judges.evaluation.benchmarks.rankings import to_ranking
from judges.evaluation.benchmarks.rows import Fields, read_items
from judges.evaluation.benchmarks.ties import to_tie
from judges.types import Failure, Item

NAMED = ("demo", "demo:train", "demo:test")  # those that the project carries itself
KNOWN: dict[str, str] = {
    "demo": "102 pairs written for this project; demo:train is its other half",
    "rewardbench": "RewardBench: chosen against rejected in four sections, two overall scores",
    "rewardbench-2": "RewardBench 2: best of four in five subsets, and Ties",
    "rm-bench": "RM-Bench: content against style; easy, normal and hard",
    "judgebench": "JudgeBench: pairs with an objectively correct side, judged in both orders",
    "llmbar": "LLMBar: instruction following, natural and adversarial",
    "mt-bench-human": "MT-Bench: pairs with ties, votes of experts and authors",
    "pandalm": "PandaLM's test set: pairs with ties, three annotators each (give its file)",
    "hh": "Anthropic HH, test split: helpful and harmless pairs",
    "hhh-alignment": "HHH-Alignment: helpful, honest, harmless and other pairs",
    "summeval": "SummEval: 16 summaries of each article, scored by experts",
    "topical-chat": "Topical-Chat with USR's annotations: replies scored by humans (give its file)",
}
# name -> the function that loads it, given a source or none; its module is imported when asked for.
REGISTRY: dict[str, str] = {
    "rewardbench": "judges.evaluation.benchmarks.rewardbench:load",
    "rewardbench-2": "judges.evaluation.benchmarks.rewardbench_2:load",
    "rm-bench": "judges.evaluation.benchmarks.rm_bench:load",
    "judgebench": "judges.evaluation.benchmarks.judgebench:load",
    "llmbar": "judges.evaluation.benchmarks.llmbar:load",
    "mt-bench-human": "judges.evaluation.benchmarks.ties:mt_bench_human",
    "pandalm": "judges.evaluation.benchmarks.ties:pandalm",
    "hh": "judges.evaluation.benchmarks.pairs:hh",
    "hhh-alignment": "judges.evaluation.benchmarks.pairs:hhh_alignment",
    "summeval": "judges.evaluation.benchmarks.rankings:summeval",
    "topical-chat": "judges.evaluation.benchmarks.pointwise:topical_chat",
}
WANTED = (
    "a benchmark row needs prompt and one of: chosen and rejected; response_a, response_b and label; "
    "responses and human_scores, scores, ranking or best_first; response and human_score"
)
_DEMO = Path(__file__).parent / "demo"


def load_benchmark(spec: str, limit: int | None = None) -> Benchmark:
    """The benchmark of `NAME`, `NAME:SOURCE` or a SOURCE alone, each with an optional `@SUBSET` at its end.

    NAME is one of KNOWN; without SOURCE it comes from the hub. SOURCE is a file, or `hf:OWNER/NAME[:SPLIT]`; alone
    it is the user's own, and each row's fields say what it is. `limit` takes rows from the subsets in turn, so that a
    short run sees all of them. A published benchmark that is cut says so in `differs`. Raises CannotRun for an
    unknown name or subset, and for a row of the wrong shape, with its number.

    >>> found = load_benchmark("demo@code", limit=3)
    >>> found.name, len(found.items), found.items[0].gold.chosen
    ('demo@code', 3, (0,))
    """
    whole, subset = _split(spec)
    found = _load(whole)
    if subset is not None:
        there = sorted({item.subset for item in found.items if item.subset})
        kept = tuple(item for item in found.items if item.subset == subset)
        if not kept:
            raise CannotRun(f"benchmark {whole!r} has no subset {subset!r}; there are {', '.join(there) or 'none'}")
        found = _cut(found, kept, f"only the subset {subset}")
        found = replace(found, name=f"{found.name}@{subset}", title=f"{found.title}, {subset}")
    return limited(found, limit)


def limited(benchmark: Benchmark, limit: int | None) -> Benchmark:
    """The benchmark cut to so many Items, from the subsets in turn; a published one then says so."""
    if limit is None or limit >= len(benchmark.items):
        return benchmark
    return _cut(benchmark, tuple(_in_turn(benchmark.items, limit)), "limited")


def named(spec: str) -> bool:
    """Whether a SPEC names a known benchmark, and is no file of the user's own."""
    return spec in NAMED or spec.partition("@")[0].partition(":")[0] in KNOWN


def describe(name: str) -> str:
    """One line on a known benchmark. Raises CannotRun for another name.

    >>> describe("llmbar")
    'LLMBar: instruction following, natural and adversarial'
    """
    if name not in KNOWN:
        raise _unknown(name)
    return KNOWN[name]


def read_row(name: str, fields: Fields) -> Item | Failure:
    """A row of a user's own file: its fields say whether it is a pair, a pair with ties, a ranking or a score."""
    if "responses" in fields:
        return to_ranking(name, fields)
    if "response_a" in fields or "response_b" in fields:
        return to_tie(name, fields)
    if "chosen" in fields or "rejected" in fields:
        return to_pair(name, fields)
    if "human_score" in fields or "score" in fields:
        return to_pointwise(name, fields)
    return Failure("malformed", WANTED)


def _split(spec: str) -> tuple[str, str | None]:
    """The benchmark and its subset: an @ inside a file's name is not one before a subset."""
    head, at, subset = spec.rpartition("@")
    name, _, rest = spec.partition(":")
    source = rest if name in REGISTRY else spec
    if not at or not subset or Path(source).expanduser().exists():
        return spec, None
    return head, subset


def _load(spec: str) -> Benchmark:
    if spec in NAMED:
        return Benchmark(spec, "Assay's demonstration set", tuple(_demo(spec.endswith("train"))), "assay")
    name, colon, source = spec.partition(":")
    if name in REGISTRY:
        module, _, function = REGISTRY[name].partition(":")
        load: Callable[..., Benchmark] = getattr(import_module(module), function)
        return load(source) if colon else load()
    if name in KNOWN:
        raise CannotRun(f"there is no {spec!r}; there are {', '.join(NAMED)}")
    if not spec.startswith("hf:") and not Path(spec).expanduser().exists():
        raise _unknown(spec)
    return _file(spec)


def _unknown(spec: str) -> CannotRun:
    close = get_close_matches(spec.partition(":")[0], KNOWN, n=1, cutoff=0.5)
    hint = f" (did you mean {close[0]}?)" if close else ""
    return CannotRun(f"no file and no benchmark {spec!r}{hint}; the benchmarks are {', '.join(KNOWN)}")


def _demo(train: bool) -> Iterator[Item]:
    for path in sorted(_DEMO.glob("*.jsonl")):
        with open(path, encoding="utf-8") as lines:
            for line in lines:
                row = json.loads(line)
                item = to_item(row["id"], row)
                if (row["split"] == "train") == train and isinstance(item, Item):
                    yield item


def _file(source: str) -> Benchmark:
    items = read_items(source, read_row)
    for number, item in enumerate(items, start=1):
        if _kind(item) != _kind(items[0]):
            raise CannotRun(
                f"{source}, row {number}: {_kind(item)} among {_kind(items[0])}; one file holds rows of one kind"
            )
    named = source.removeprefix("hf:").partition(":")[0].rpartition("/")[2] if source.startswith("hf:") else source
    stem = Path(named).name.partition(".jsonl")[0].partition(".csv")[0].removesuffix(".parquet").removesuffix(".json")
    # A file of the user's own is no published benchmark, whatever it is called.
    name = stem if stem not in KNOWN and stem not in NAMED else Path(named).name
    return Benchmark(name, name, items, source)


def _kind(item: Item) -> str:
    if item.gold is not None and (item.gold.tie or item.gold.chosen is not None):
        return "pairs"
    return "rankings" if len(item.responses) > 1 else "scored responses"


def _cut(found: Benchmark, kept: tuple[Item, ...], why: str) -> Benchmark:
    published = found.name.partition("@")[0] in REGISTRY
    said = (f"{why}: {len(kept):,} of {len(found.items):,} items",) if published else ()
    return replace(found, items=kept, differs=(*found.differs, *said))


def _in_turn(items: Sequence[Item], limit: int) -> list[Item]:
    """Items from the subsets in turn. Scored responses of one context stay together: as many whole contexts as
    fit, and part of the first one where not even that does."""
    by_subset: dict[str, dict[str, list[Item]]] = {}
    for item in items:
        context = str(item.meta["prompt"]) if len(item.responses) == 1 and "prompt" in item.meta else item.id
        by_subset.setdefault(item.subset or "", {}).setdefault(context, []).append(item)
    taken: list[Item] = []
    for turn in zip_longest(*(contexts.values() for contexts in by_subset.values())):
        for rows in turn:
            if rows is None:
                continue
            if len(taken) + len(rows) > limit:
                return taken or rows[:limit]
            taken += rows
    return taken
