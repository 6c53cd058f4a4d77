"""`assay pairs`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import typer
from rich.console import Console
from rich.table import Table

from judges.batch.output import Options
from judges.batch.run import Summary
from judges.cli.filter import prompts_of
from judges.cli.progress import RowProgress
from judges.cli.score import judge_of, load_policy
from judges.data.json_lines import to_line
from judges.data.quality import Filters
from judges.data.readers import STANDARD_INPUT
from judges.data.rows import Row, read_rows
from judges.data.writers import write_rows
from judges.engines.policy import Policy
from judges.errors import CannotRun
from judges.preferences.export import WHY, Account, Recipe
from judges.preferences.hub import push
from judges.preferences.pairs import CANDIDATES, check_source, make_pairs, writing
from judges.preferences.selection import Rule
from judges.scorers.llm_judge import LLMJudge
from judges.types import Failure, Usage

PROMPTS = "prompts.jsonl"
FORMATS = {"parquet": ".parquet", "jsonl": ".jsonl"}
LOOKED_AT = 64  # rows, to see whether there is anything for a policy to write


@dataclass(frozen=True, slots=True)
class Asked:
    """What `assay pairs` was asked for, as it was written."""

    source: str
    folder: Path
    spec: str
    model: str | None
    base_urls: tuple[str, ...]
    policy: str | None
    candidates: int
    rule: Rule
    quality: bool
    against: tuple[str, ...]
    budget: int | None
    form: str
    options: Options
    push: str | None


def run(asked: Asked, instruct: int | None, quiet: bool) -> None:
    if asked.form not in FORMATS:
        raise CannotRun(f"--format is {' or '.join(FORMATS)}, not {asked.form!r}")
    check_source(asked.source, asked.folder)
    recipe = recipe_of(asked.rule, asked.quality, asked.against, asked.budget)
    with ExitStack() as stack:
        scorer, chosen = judge_of(asked.spec, asked.model, asked.base_urls, asked.policy)
        stack.enter_context(scorer)
        policy, source = None, asked.source
        if asked.policy or instruct is not None or isinstance(scorer, LLMJudge) or lacks_responses(asked):
            policy = stack.enter_context(load_policy(asked.policy, asked.candidates, scorer, chosen))
        if instruct is not None and policy is not None:
            source = made_prompts(asked, policy, instruct, quiet)
        progress = stack.enter_context(RowProgress(scorer.name, asked.options.limit, quiet))

        def told(summary: Summary) -> None:
            now = summary.failed - summary.failed_before
            progress.at(summary.written, now, summary.usage, summary.share, summary.resumed)

        account = make_pairs(source, scorer, policy, asked.folder, recipe, asked.options, FORMATS[asked.form], told)
    if not quiet:
        tell(account, asked.folder)
    if asked.push:
        print(push(asked.folder, asked.push), file=sys.stderr)
    if account.failures:
        raise typer.Exit(1)


def lacks_responses(asked: Asked) -> bool:
    """Whether some of the first rows is a prompt that a policy has to answer."""
    if asked.source == STANDARD_INPUT:
        return True
    return any(row.prompt is not None for row in islice(read_rows(asked.source, asked.options.mapping), LOOKED_AT))


def recipe_of(rule: Rule, quality: bool, against: Sequence[str], budget: int | None) -> Recipe:
    shared = {name: tuple(prompts_of(name)) for name in against}
    return Recipe(rule, Filters() if quality else None, shared, budget)


def made_prompts(asked: Asked, policy: Policy, count: int, quiet: bool) -> str:
    """A file of new prompts that the policy makes of the seeds in the source (self-instruct)."""
    from judges.preferences.self_instruct import Instruct, make_prompts

    target = asked.folder / PROMPTS
    if Path(asked.source).expanduser().resolve() == target.resolve():
        raise CannotRun(f"{asked.source}: the new prompts would be written over the seeds; give another -o")
    seeds = [seed_of(row, asked.source) for row in read_rows(asked.source, asked.options.mapping)]
    store = asked.options.store or asked.folder / f"{CANDIDATES}.run" / "candidates.sqlite"
    policy.remember(Path(store).expanduser())
    with RowProgress("prompts", count, quiet) as progress:
        made = make_prompts(
            seeds,
            policy.engine,
            Instruct(count, seed=policy.seed),
            lambda done, asked: progress.at(done, asked - done, Usage(), None),
        )
    lines = [to_line({"id": f"made-{n}", "prompt": text}) for n, text in enumerate(made.prompts, 1)]
    with writing(asked.folder):
        write_rows(lambda: lines, target)
    if not quiet:
        taken = ", ".join(f"{n:,} {reason}" for reason, n in made.rejected.most_common()) or "none"
        print(f"{target}: {len(lines):,} new prompts; not taken: {taken}", file=sys.stderr)
    return str(target)


def seed_of(row: Row, source: str) -> str:
    """The last user turn of a row."""
    said = row.prompt or row.item
    if isinstance(said, Failure):
        raise CannotRun(f"{source}, row {row.number}: {said.message}; a seed needs a prompt")
    return next((turn["content"] for turn in reversed(said.messages) if turn["role"] == "user"), "")


def tell(account: Account, folder: Path) -> None:
    """What became of every prompt, as a table."""
    shown = Table(box=None)
    shown.add_column("prompts")
    shown.add_column("", justify="right")
    shown.add_column("", overflow="fold")
    shown.add_row("gave pairs", f"{account.paired:,}", f"{account.pairs:,} pairs")
    for reason, why in WHY.items():
        if account.drops[reason]:
            shown.add_row(reason, f"{account.drops[reason]:,}", why)
    shown.add_row("all", f"{account.prompts:,}", f"{account.candidates:,} candidates")
    Console(width=None if sys.stdout.isatty() else 120).print(shown)
    if account.failures:
        print("without a score: " + ", ".join(f"{n:,} {why}" for why, n in account.failures.most_common()))
    print(f"{folder}: pairs, candidates.jsonl, account.json, README.md")
