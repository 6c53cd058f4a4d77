"""`assay score`."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from judges.batch.output import Options
from judges.batch.run import STANDARD_OUTPUT, Summary, score_file
from judges.cli.progress import RowProgress
from judges.data.shards import shards_of
from judges.engines.policy import Policy
from judges.engines.registry import ENGINE_PREFIX
from judges.errors import CannotRun
from judges.evaluation.report.markdown import visible
from judges.scorer import Scorer, find_scorer, load_scorer, parse_spec, read_value
from judges.scorers.llm_judge import LLMJudge

if TYPE_CHECKING:
    from judges.batch.distributed import Cluster

_PLACE = ("engine", "base_url", "api_key")  # where a model runs


@dataclass(frozen=True, slots=True)
class Wanted:
    """What `assay score` was asked for, as it was written."""

    source: str
    spec: str
    output: Path | None
    model: str | None
    base_urls: tuple[str, ...]
    settings: tuple[str, ...]
    candidates: int | None
    policy: str | None
    options: Options


def run(wanted: Wanted, dry_run: bool, ray: Cluster | None, quiet: bool) -> None:
    if wanted.policy and wanted.candidates is None:
        raise CannotRun("--policy writes candidates: say how many with --candidates N")
    if wanted.options.retry_failed and wanted.options.reread:
        raise CannotRun("--reread judges every row again, the failed ones too: leave --retry-failed out")
    if wanted.options.reread and (wanted.options.limit or wanted.options.sample):
        raise CannotRun("--reread judges the rows that the output has: leave --limit and --sample out")
    shards_of(wanted.source)  # a wrong path is told before anything else
    if wanted.output is None and not dry_run:
        raise CannotRun("where to? -o FILE, or -o - to print")
    if dry_run:
        from judges.cli.score_dry_run import run as run_dry

        run_dry(wanted, quiet)
        return
    if ray is not None:
        from judges.cli.score_ray import run as run_ray

        run_ray(wanted, ray, quiet)
        return
    assert wanted.output is not None
    name, chosen = scorer_settings(wanted)
    with ExitStack() as stack:
        scorer = stack.enter_context(load_scorer(name, **chosen))
        policy = writer_of(wanted, scorer, chosen)
        if policy is not None:
            stack.enter_context(policy)
        progress = stack.enter_context(RowProgress(name, wanted.options.limit or wanted.options.sample, quiet))

        def told(summary: Summary) -> None:
            now = summary.failed - summary.failed_before
            progress.at(summary.written, now, summary.usage, summary.share, summary.resumed)

        try:
            summary = score_file(wanted.source, scorer, wanted.output, wanted.options, told, policy)
        except BrokenPipeError:  # whoever read the rows has enough: as every program in a pipe, end without a word
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise typer.Exit(141) from None
    tell(wanted, summary, quiet)


def scorer_settings(wanted: Wanted) -> tuple[str, dict[str, Any]]:
    """The scorer's name and its settings, from the SPEC and the options beside it."""
    name, chosen = parse_spec(wanted.spec)
    given = read_pairs("--set", wanted.settings)
    chosen |= {key.replace("-", "_"): read_value(value, "--set") for key, value in given.items()}
    return name, placed(chosen, wanted.model, wanted.base_urls)


def placed(chosen: Mapping[str, Any], model: str | None, base_urls: Sequence[str]) -> dict[str, Any]:
    """A scorer's settings with what --model and --base-url stand for."""
    given: dict[str, Any] = {"model": model} if model else {}
    if base_urls:
        given["base_url"] = base_urls[0] if len(base_urls) == 1 else list(base_urls)
        return {"engine": "openai", **chosen, **given}
    return {**chosen, **given}


def writer_of(wanted: Wanted, scorer: Scorer, chosen: Mapping[str, Any]) -> Policy | None:
    """What writes candidates, where some are asked for."""
    return None if wanted.candidates is None else load_policy(wanted.policy, wanted.candidates, scorer, chosen)


def tell(wanted: Wanted, summary: Summary, quiet: bool) -> None:
    """Sum a run up; exit 1 where a row of the output failed."""
    if not quiet:
        where = "standard output" if wanted.output == STANDARD_OUTPUT else str(wanted.output)
        failed = ", ".join(f"{count:,} {reason}" for reason, count in summary.failures.most_common()) or "none"
        line = f"{where}: {summary.written:,} rows written, {summary.resumed:,} there before, failed: {failed}"
        print(visible(line), file=sys.stderr)
        usage = summary.usage
        if tokens := usage.prompt_tokens + usage.generated_tokens:
            print(
                f"  {tokens:,} tokens ({usage.prompt_tokens:,} of prompts, of which {usage.cached_tokens:,} cached;"
                f" {usage.generated_tokens:,} generated)",
                file=sys.stderr,
            )
        if summary.failed and wanted.output != STANDARD_OUTPUT:
            print("  the same command with --retry-failed judges those again", file=sys.stderr)
    if summary.failed:
        raise typer.Exit(1)


def judge_of(
    spec: str, model: str | None, base_urls: Sequence[str], policy: str | None
) -> tuple[Scorer, dict[str, Any]]:
    """The scorer and its settings. A judge that names no model is the policy's own: it rewards itself."""
    name, chosen = parse_spec(spec)
    chosen = placed(chosen, model, base_urls)
    if policy and "model" not in chosen and is_judge(name):
        writer, settings = parse_spec(policy)
        chosen = {key: value for key, value in settings.items() if is_place(key)} | chosen | {"model": writer}
    return load_scorer(name, **chosen), chosen


def is_judge(name: str) -> bool:
    """Whether the scorer of a name is a model that writes."""
    found = find_scorer(name)
    return isinstance(found, type) and issubclass(found, LLMJudge)


def load_policy(spec: str | None, candidates: int, scorer: Scorer, chosen: Mapping[str, Any]) -> Policy:
    """The policy of `--policy MODEL[,key=value …]`; without one, the model that the scorer judges with."""
    settings = policy_settings(spec, scorer, chosen)
    try:
        return Policy(candidates=candidates, **settings)
    except TypeError as error:
        raise CannotRun(f"--policy: a setting has a wrong value: {error}") from error


def policy_settings(spec: str | None, scorer: Scorer, chosen: Mapping[str, Any]) -> dict[str, Any]:
    """A policy's settings, its model among them.

    The judge's own model runs with the judge's engine and its settings (`chosen`), so both share one.
    """
    model, settings = parse_spec(spec) if spec else ("", {})
    if isinstance(scorer, LLMJudge) and model in ("", scorer.model):
        model = scorer.model
        shared = {key: value for key, value in chosen.items() if is_place(key)}
        settings = shared | settings
    if not model:
        raise CannotRun(f"scorer {scorer.name!r} writes no candidates: name a model that does with --policy MODEL")
    return {"model": model, **settings}


def is_place(key: str) -> bool:
    return key in _PLACE or key.startswith(ENGINE_PREFIX)


def read_pairs(option: str, given: Sequence[str]) -> dict[str, str]:
    pairs = {}
    for text in given:
        key, equals, value = text.partition("=")
        if not equals or not key:
            raise CannotRun(f"{option} {text!r} is not key=value")
        pairs[key] = value
    return pairs


def cluster(address: str | None, workers: int, gpus: float, cpus: float, shard_rows: int) -> Cluster | None:
    """Where workers run, and with what; None where no address is given."""
    if address is None:
        return None
    from judges.batch.distributed import Cluster

    return Cluster(address, workers, gpus, cpus, shard_rows)
