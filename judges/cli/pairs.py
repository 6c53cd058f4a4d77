"""`assay pairs`: DPO preference pairs of prompts and a policy."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import typer

from judges.batch.output import ScoreOptions
from judges.cli.filter import prompts_of
from judges.cli.progress import RowProgress
from judges.cli.scorer_options import load_judge, load_policy
from judges.cli.terminal import plain_table, stdout_console
from judges.data.json_lines import to_line
from judges.data.quality import Filters
from judges.data.readers import STANDARD_INPUT
from judges.data.rows import Row, read_rows
from judges.data.writers import write_rows
from judges.engines.policy import Policy
from judges.errors import CannotRun
from judges.preferences.export import DROP_DESCRIPTIONS, PairOptions, PairStatistics
from judges.preferences.hub import push_to_hub
from judges.preferences.pair_selection import SelectionRule
from judges.preferences.pairs import CANDIDATES, check_input, make_pairs, writable_folder
from judges.scorers.llm_judge import LLMJudge
from judges.types import Failure, Usage

PROMPTS = "prompts.jsonl"
FORMATS = {"parquet": ".parquet", "jsonl": ".jsonl"}
PROBE_ROWS = 64  # read to see whether a policy is needed


@dataclass(frozen=True, slots=True)
class PairsConfig:
    """The arguments of `assay pairs`, as they were written."""

    source: str
    folder: Path
    spec: str
    model: str | None
    base_urls: tuple[str, ...]
    policy: str | None
    candidates: int
    rule: SelectionRule
    quality: bool
    against: tuple[str, ...]
    budget: int | None
    form: str
    options: ScoreOptions
    push: str | None


def run(config: PairsConfig, instruct: int | None, quiet: bool) -> None:
    if config.form not in FORMATS:
        raise CannotRun(f"--format is {' or '.join(FORMATS)}, not {config.form!r}")
    check_input(config.source, config.folder)
    pair_options = build_pair_options(config.rule, config.quality, config.against, config.budget)
    with ExitStack() as stack:
        scorer, settings = load_judge(config.spec, config.model, config.base_urls, config.policy)
        stack.enter_context(scorer)
        policy, source = None, config.source
        if config.policy or instruct is not None or isinstance(scorer, LLMJudge) or lacks_responses(config):
            policy = stack.enter_context(load_policy(config.policy, config.candidates, scorer, settings))
        if instruct is not None and policy is not None:
            source = write_new_prompts(config, policy, instruct, quiet)
        progress = stack.enter_context(RowProgress(scorer.name, config.options.limit, quiet))
        suffix, update = FORMATS[config.form], progress.update
        statistics = make_pairs(source, scorer, policy, config.folder, pair_options, config.options, suffix, update)
    if not quiet:
        print_statistics(statistics, config.folder)
    if config.push:
        print(push_to_hub(config.folder, config.push), file=sys.stderr)
    if statistics.failures:
        raise typer.Exit(1)


def lacks_responses(config: PairsConfig) -> bool:
    """Whether one of the first rows is a prompt without responses."""
    if config.source == STANDARD_INPUT:
        return True
    rows = islice(read_rows(config.source, config.options.mapping), PROBE_ROWS)
    return any(row.prompt is not None for row in rows)


def build_pair_options(rule: SelectionRule, quality: bool, against: Sequence[str], budget: int | None) -> PairOptions:
    excluded = {name: tuple(prompts_of(name)) for name in against}
    return PairOptions(rule, Filters() if quality else None, excluded, budget)


def write_new_prompts(config: PairsConfig, policy: Policy, count: int, quiet: bool) -> str:
    """Let the policy write new prompts from the source's as seeds (self-instruct); returns their file."""
    from judges.preferences.self_instruct import SelfInstructSettings, make_prompts

    target = config.folder / PROMPTS
    if Path(config.source).expanduser().resolve() == target.resolve():
        raise CannotRun(f"{config.source}: the new prompts would be written over the seeds; give another -o")
    seeds = [seed_prompt(row, config.source) for row in read_rows(config.source, config.options.mapping)]
    store = config.options.store or config.folder / f"{CANDIDATES}.run" / "candidates.sqlite"
    policy.use_store(Path(store).expanduser())
    with RowProgress("prompts", count, quiet) as progress:
        generated = make_prompts(
            seeds,
            policy.engine,
            SelfInstructSettings(count, seed=policy.seed),
            lambda accepted, requested: progress.set(accepted, requested - accepted, Usage()),
        )
    lines = [to_line({"id": f"made-{n}", "prompt": text}) for n, text in enumerate(generated.prompts, 1)]
    with writable_folder(config.folder):
        write_rows(lambda: lines, target)
    if not quiet:
        reasons = ", ".join(f"{n:,} {reason}" for reason, n in generated.rejected.most_common()) or "none"
        print(f"{target}: {len(lines):,} new prompts; rejected: {reasons}", file=sys.stderr)
    return str(target)


def seed_prompt(row: Row, source: str) -> str:
    """The last user turn of a row."""
    conversation = row.prompt or row.item
    if isinstance(conversation, Failure):
        raise CannotRun(f"{source}, row {row.number}: {conversation.message}; a seed needs a prompt")
    return next((turn["content"] for turn in reversed(conversation.messages) if turn["role"] == "user"), "")


def print_statistics(statistics: PairStatistics, folder: Path) -> None:
    """Print how many prompts gave pairs, and why the others gave none."""
    table = plain_table("prompts", "")
    table.add_column("", overflow="fold")
    table.add_row("gave pairs", f"{statistics.paired:,}", f"{statistics.pairs:,} pairs")
    for reason, explanation in DROP_DESCRIPTIONS.items():
        if statistics.drops[reason]:
            table.add_row(reason, f"{statistics.drops[reason]:,}", explanation)
    table.add_row("all", f"{statistics.prompts:,}", f"{statistics.candidates:,} candidates")
    stdout_console(120).print(table)
    if statistics.failures:
        print("without a score: " + ", ".join(f"{n:,} {reason}" for reason, n in statistics.failures.most_common()))
    print(f"{folder}: pairs, candidates.jsonl, account.json, README.md")
