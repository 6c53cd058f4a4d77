"""`assay score --dry-run`: the first prompts as they would be sent, and what the whole would cost."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from itertools import islice

from judges.cli.progress import RowProgress, duration
from judges.cli.score import Wanted, scorer_settings, writer_of
from judges.data.readers import Records
from judges.data.rows import Row, read_rows
from judges.data.shards import Shard, is_stream, shards_of
from judges.engines.policy import Policy
from judges.errors import CannotRun
from judges.evaluation.report.markdown import visible
from judges.scorer import Scorer, load_scorer
from judges.scorers.llm_judge import LLMJudge
from judges.types import Item, Scorecard

SHOWN = 2  # prompts
MEASURED = 8  # rows


def run(wanted: Wanted, quiet: bool) -> None:
    if any(is_stream(shard.path) for shard in shards_of(wanted.source)):
        raise CannotRun("--dry-run reads its input twice, which cannot be done with this one; give a file")
    name, chosen = scorer_settings(wanted)
    with ExitStack() as stack:
        scorer = stack.enter_context(load_scorer(name, **chosen))
        policy = writer_of(wanted, scorer, chosen)
        if policy is not None:
            stack.enter_context(policy)
        shards = shards_of(wanted.source)
        counts = [sum(1 for _ in Records(shard.path)) for shard in shards]
        total = min(sum(counts), *(n for n in (wanted.options.limit, wanted.options.sample) if n is not None), 1 << 62)
        rows = list(_spread(wanted, shards, counts, total))
        bad = [row for row in rows if not isinstance(row.item, Item) and (policy is None or row.prompt is None)]
        for row in bad[:SHOWN]:
            print(f"row {row.number}: {visible(str(row.item))}")
        items = [row.item for row in rows if isinstance(row.item, Item)]
        if policy is not None:
            items += _written(policy, rows)
        if not items:
            raise CannotRun(f"{wanted.source}: none of the {len(rows)} rows that were looked at can be judged")
        _show(scorer, items)
        _measure(wanted, scorer, items, total, quiet)


def _spread(wanted: Wanted, shards: tuple[Shard, ...], counts: list[int], total: int) -> Iterator[Row]:
    """The first rows and some spread over the input, MEASURED of them at most."""
    several = sum(counts) > total and wanted.options.sample is None  # a limit: rows beyond it are not asked for
    reach = total if several else sum(counts)
    places = sorted({*range(min(SHOWN, reach)), *(reach * n // MEASURED for n in range(1, MEASURED))})[:MEASURED]
    begin = 0
    for shard, count in zip(shards, counts, strict=True):
        here = {place - begin + 1 for place in places if begin <= place < begin + count}
        if here:
            skip = _Others(here)
            yield from islice(read_rows(shard.path, wanted.options.mapping, skip, max(here), shard.prefix), len(here))
        begin += count


class _Others:
    """Every row number but these."""

    def __init__(self, numbers: set[int]) -> None:
        self._numbers = numbers

    def __contains__(self, number: object) -> bool:
        return number not in self._numbers


def _written(policy: Policy, rows: list[Row]) -> list[Item]:
    prompts = [row.prompt for row in rows if row.prompt is not None]
    drawn = policy.stream(iter(prompts))
    return [one.item for one in drawn if not isinstance(one, Item) and isinstance(one.item, Item)]


def _show(scorer: Scorer, items: list[Item]) -> None:
    for item in items[:SHOWN]:
        print(f"=== item {visible(item.id)}, {len(item.responses)} responses")
        if not isinstance(scorer, LLMJudge):
            print(f"{scorer.name} reads the prompt and the response as they are")
            continue
        several = range(min(2, len(item.responses))) if scorer.template.kind == "pairwise" else range(1)
        for message in scorer.template.render(item, tuple(several)):
            print(f"--- {message['role']}:\n{visible(message['content'])}")


def _measure(wanted: Wanted, scorer: Scorer, items: list[Item], total: int, quiet: bool) -> None:
    if isinstance(scorer, LLMJudge):
        _ = scorer.engine  # starting it is told apart
    with RowProgress(f"{scorer.name}, to measure", len(items), quiet) as progress:
        started = time.perf_counter()
        cards: list[Scorecard] = []
        for card in scorer.stream(iter(items)):
            progress.row(card.usage)
            cards.append(card)
        seconds = time.perf_counter() - started
    each = total / len(items)
    prompt = sum(card.usage.prompt_tokens for card in cards)
    cached = sum(card.usage.cached_tokens for card in cards)
    generated = sum(card.usage.generated_tokens for card in cards)
    failed = sum(any(j.failure for j in card.judgments) for card in cards)
    print(f"=== {total:,} rows, told from {len(items)} that were judged ({failed} failed)")
    if prompt:
        print(f"tokens of prompts   about {prompt * each:,.0f}, of which {cached / prompt:.0%} were cached")
        print(f"tokens generated    about {generated * each:,.0f}")
    print(f"time                at most about {duration(seconds * each)}, starting apart; a full window is faster")
    print("nothing was written", file=sys.stderr)
