"""Benchmarks by name, the plugins of other distributions, and a user's own file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import zip_longest
from pathlib import Path

from judges.errors import CannotRun
from judges.evaluation.benchmarks.base import Benchmark
from judges.evaluation.benchmarks.demonstration import DEMO_SPECS
from judges.evaluation.benchmarks.pairs import to_pair
from judges.evaluation.benchmarks.pointwise import to_pointwise
from judges.evaluation.benchmarks.rankings import to_ranking
from judges.evaluation.benchmarks.rows import Fields, read_items
from judges.evaluation.benchmarks.ties import to_tie
from judges.plugins import Registry, unknown_name
from judges.types import Failure, Item

BENCHMARKS = Registry(
    "benchmark",
    "assay.benchmarks",
    {
        "demo": "judges.evaluation.benchmarks.demonstration:load",
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
    },
)
ROW_FORMS = (
    "a benchmark row needs prompt and one of: chosen and rejected; response_a, response_b and label; "
    "responses and human_scores, scores, ranking or best_first; response and human_score"
)


def load_benchmark(spec: str, limit: int | None = None) -> Benchmark:
    """The benchmark of `NAME`, `NAME:SOURCE` or a SOURCE alone, each with an optional `@SUBSET` at its end.

    NAME is one of `BENCHMARKS`; without SOURCE it comes from the hub. SOURCE is a file, or `hf:OWNER/NAME[:SPLIT]`;
    alone it is the user's own, and each row's fields say what kind of row it is. `limit` takes rows from the subsets in
    turn, so that a short run covers all of them. A published benchmark that is cut says so in `differs`. Raises
    CannotRun for an unknown name or subset, and for a malformed row, with its number.

    >>> benchmark = load_benchmark("demo@code", limit=3)
    >>> benchmark.name, len(benchmark.items), benchmark.items[0].gold.chosen
    ('demo@code', 3, (0,))
    """
    base_spec, subset = _split_subset(spec)
    benchmark = _load(base_spec)
    if subset is not None:
        subsets = sorted({item.subset for item in benchmark.items if item.subset})
        items = tuple(item for item in benchmark.items if item.subset == subset)
        if not items:
            known = ", ".join(subsets) or "none"
            raise CannotRun(f"benchmark {base_spec!r} has no subset {subset!r}; there are {known}")
        benchmark = _cut(benchmark, items, f"only the subset {subset}")
        benchmark = replace(benchmark, name=f"{benchmark.name}@{subset}", title=f"{benchmark.title}, {subset}")
    return limit_items(benchmark, limit)


def limit_items(benchmark: Benchmark, limit: int | None) -> Benchmark:
    """The benchmark with at most `limit` Items, taken from the subsets in turn."""
    if limit is None or limit >= len(benchmark.items):
        return benchmark
    return _cut(benchmark, tuple(_round_robin(benchmark.items, limit)), "limited")


def is_benchmark_name(spec: str) -> bool:
    """Whether a SPEC names a known benchmark, rather than a file."""
    return spec.partition("@")[0].partition(":")[0] in BENCHMARKS


def row_to_item(name: str, fields: Fields) -> Item | Failure:
    """A row of a user's own file: its fields say whether it is a pair, a pair that may tie, a ranking or a score."""
    if "responses" in fields:
        return to_ranking(name, fields)
    if "response_a" in fields or "response_b" in fields:
        return to_tie(name, fields)
    if "chosen" in fields or "rejected" in fields:
        return to_pair(name, fields)
    if "human_score" in fields or "score" in fields:
        return to_pointwise(name, fields)
    return Failure("malformed", ROW_FORMS)


def _split_subset(spec: str) -> tuple[str, str | None]:
    """The SPEC without its subset, and the subset. An @ in the name of an existing file does not begin a subset."""
    head, at, subset = spec.rpartition("@")
    name, _, rest = spec.partition(":")
    source = rest if name in BENCHMARKS else spec
    if not at or not subset or Path(source).expanduser().exists():
        return spec, None
    return head, subset


def _load(spec: str) -> Benchmark:
    name, colon, source = spec.partition(":")
    if name in BENCHMARKS:
        return _load_named(name, [source] if colon else [])
    if not spec.startswith("hf:") and not Path(spec).expanduser().exists():
        raise CannotRun(unknown_name("no file and no benchmark", name, BENCHMARKS.names(), "Known benchmarks"))
    return _load_file(spec)


def _load_named(name: str, source: list[str]) -> Benchmark:
    load = BENCHMARKS.load(name)
    if BENCHMARKS.distribution(name) is None:
        return load(*source)  # type: ignore[no-any-return]
    try:
        benchmark = load(*source)
    except CannotRun:
        raise
    except Exception as error:  # a plugin can raise anything
        raise BENCHMARKS.error(name, f"failed: {type(error).__name__}: {error}") from error
    if not isinstance(benchmark, Benchmark):
        raise BENCHMARKS.error(name, f"returned a {type(benchmark).__name__}, not a Benchmark")
    if not all(isinstance(item, Item) for item in benchmark.items):
        raise BENCHMARKS.error(name, "has items that are not of type Item")
    if len({item.id for item in benchmark.items}) < len(benchmark.items):
        raise BENCHMARKS.error(name, "has items with equal ids")
    return replace(benchmark, name=name, items=tuple(benchmark.items))


def _load_file(source: str) -> Benchmark:
    items = read_items(source, row_to_item)
    for number, item in enumerate(items, start=1):
        if _kind(item) != _kind(items[0]):
            raise CannotRun(
                f"{source}, row {number}: {_kind(item)} among {_kind(items[0])}; a file must hold rows of one kind"
            )
    path = source.removeprefix("hf:").partition(":")[0].rpartition("/")[2] if source.startswith("hf:") else source
    stem = Path(path).name.partition(".jsonl")[0].partition(".csv")[0].removesuffix(".parquet").removesuffix(".json")
    # A user's own file must not pass for a published benchmark, whatever it is called.
    name = Path(path).name if stem in BENCHMARKS else stem
    return Benchmark(name, name, items, source)


def _kind(item: Item) -> str:
    if item.gold is not None and (item.gold.tie or item.gold.chosen is not None):
        return "pairs"
    return "rankings" if len(item.responses) > 1 else "scored responses"


def _cut(benchmark: Benchmark, items: tuple[Item, ...], why: str) -> Benchmark:
    name = benchmark.name.partition("@")[0]
    published = name in BENCHMARKS and name not in DEMO_SPECS
    difference = (f"{why}: {len(items):,} of {len(benchmark.items):,} items",) if published else ()
    return replace(benchmark, items=items, differs=(*benchmark.differs, *difference))


def _round_robin(items: Sequence[Item], limit: int) -> list[Item]:
    """Items from the subsets in turn. Scored responses of one context stay together: as many complete contexts as
    fit, and a part of the first where not even that fits."""
    by_subset: dict[str, dict[str, list[Item]]] = {}
    for item in items:
        context = str(item.meta["prompt"]) if len(item.responses) == 1 and "prompt" in item.meta else item.id
        by_subset.setdefault(item.subset or "", {}).setdefault(context, []).append(item)
    selected: list[Item] = []
    for contexts in zip_longest(*(contexts.values() for contexts in by_subset.values())):
        for rows in contexts:
            if rows is None:
                continue
            if len(selected) + len(rows) > limit:
                return selected or rows[:limit]
            selected += rows
    return selected
