"""`assay score --dry-run`: the first prompts as they would be sent, and an estimate of tokens and time."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from itertools import islice

from judges.cli.progress import RowProgress, format_duration
from judges.cli.scorer_options import ScoreConfig
from judges.data.readers import RecordReader
from judges.data.rows import Row, read_rows
from judges.data.shards import Shard, is_stream, list_shards
from judges.engines.policy import Policy
from judges.errors import CannotRun
from judges.evaluation.report.markdown import escape_invisible
from judges.scorer import Scorer, load_scorer
from judges.scorers.llm_judge import LLMJudge
from judges.types import Item

PRINTED_PROMPTS = 2
PROBE_ROWS = 8  # rows that are judged to measure tokens and time


def run(config: ScoreConfig, quiet: bool) -> None:
    if any(is_stream(shard.path) for shard in list_shards(config.source)):
        raise CannotRun("--dry-run reads its input twice, which cannot be done with this one; give a file")
    name, settings = config.scorer_settings()
    with ExitStack() as stack:
        scorer = stack.enter_context(load_scorer(name, **settings))
        policy = config.load_policy(scorer, settings)
        if policy is not None:
            stack.enter_context(policy)
        shards = list_shards(config.source)
        counts = [sum(1 for _ in RecordReader(shard.path)) for shard in shards]
        caps = [count for count in (config.options.limit, config.options.sample) if count is not None]
        total = min(sum(counts), *caps) if caps else sum(counts)
        rows = list(_probe_rows(config, shards, counts, total))
        bad = [row for row in rows if not isinstance(row.item, Item) and (policy is None or row.prompt is None)]
        for row in bad[:PRINTED_PROMPTS]:
            print(f"row {row.number}: {escape_invisible(str(row.item))}")
        items = [row.item for row in rows if isinstance(row.item, Item)]
        if policy is not None:
            items += _sample_candidates(policy, rows)
        if not items:
            raise CannotRun(f"{config.source}: none of the {len(rows)} rows that were looked at can be judged")
        _print_prompts(scorer, items)
        _print_estimate(scorer, items, total, quiet)


def _probe_rows(config: ScoreConfig, shards: Sequence[Shard], counts: Sequence[int], total: int) -> Iterator[Row]:
    """The first rows and some spread over the input, PROBE_ROWS at most."""
    end = sum(counts) if config.options.sample is not None else total  # a sample is drawn from all rows
    spread = (end * n // PROBE_ROWS for n in range(1, PROBE_ROWS))
    indices = sorted({*range(min(PRINTED_PROMPTS, end)), *spread})[:PROBE_ROWS]
    offset = 0
    for shard, count in zip(shards, counts, strict=True):
        numbers = {index - offset + 1 for index in indices if offset <= index < offset + count}
        if numbers:
            skip, stop = _Complement(numbers), max(numbers)
            rows = read_rows(shard.path, config.options.mapping, skip, stop, shard.prefix)
            yield from islice(rows, len(numbers))
        offset += count


class _Complement:
    """Every row number but these."""

    def __init__(self, numbers: set[int]) -> None:
        self._numbers = numbers

    def __contains__(self, number: object) -> bool:
        return number not in self._numbers


def _sample_candidates(policy: Policy, rows: Sequence[Row]) -> list[Item]:
    prompts = [row.prompt for row in rows if row.prompt is not None]
    outputs = [output for output in policy.stream(iter(prompts)) if not isinstance(output, Item)]
    return [output.item for output in outputs if isinstance(output.item, Item)]


def _print_prompts(scorer: Scorer, items: Sequence[Item]) -> None:
    for item in items[:PRINTED_PROMPTS]:
        print(f"=== item {escape_invisible(item.id)}, {len(item.responses)} responses")
        if not isinstance(scorer, LLMJudge):
            print(f"{scorer.name} reads the prompt and the response as they are")
            continue
        responses = range(min(2, len(item.responses))) if scorer.template.kind == "pairwise" else range(1)
        for message in scorer.template.render(item, tuple(responses)):
            print(f"--- {message['role']}:\n{escape_invisible(message['content'])}")


def _print_estimate(scorer: Scorer, items: Sequence[Item], total: int, quiet: bool) -> None:
    """Judge the items and print what `total` rows would cost at the same rate."""
    if isinstance(scorer, LLMJudge):
        _ = scorer.engine  # the time to start it is not part of the rate
    with RowProgress(f"{scorer.name}, to measure", len(items), quiet) as progress:
        started = time.perf_counter()
        cards = list(progress.count(scorer.stream(iter(items))))
        seconds = time.perf_counter() - started
    scale = total / len(items)
    prompt = sum(card.usage.prompt_tokens for card in cards)
    cached = sum(card.usage.cached_tokens for card in cards)
    generated = sum(card.usage.generated_tokens for card in cards)
    failed = sum(any(j.failure for j in card.judgments) for card in cards)
    print(f"=== {total:,} rows, estimated from {len(items)} that were judged ({failed} failed)")
    if prompt:
        print(f"prompt tokens       about {prompt * scale:,.0f}, of which {cached / prompt:.0%} cached")
        print(f"generated tokens    about {generated * scale:,.0f}")
    duration = format_duration(seconds * scale)
    print(f"time                at most about {duration}, without the start; a full batch is faster")
    print("nothing was written", file=sys.stderr)
