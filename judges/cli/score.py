"""`assay score`."""

from __future__ import annotations

import os
import sys
from contextlib import ExitStack
from typing import TYPE_CHECKING

import typer

from judges.batch.run import score_file
from judges.cli.progress import RowProgress, print_summary
from judges.cli.scorer_options import ScoreConfig
from judges.data.shards import list_shards
from judges.errors import CannotRun
from judges.scorer import load_scorer

if TYPE_CHECKING:
    from judges.batch.ray_workers import Cluster


def run(config: ScoreConfig, dry_run: bool, cluster: Cluster | None, quiet: bool) -> None:
    if config.policy and config.candidates is None:
        raise CannotRun("--policy writes candidates: say how many with --candidates N")
    if config.options.retry_failed and config.options.reread:
        raise CannotRun("--reread judges every row again, the failed ones too: leave --retry-failed out")
    if config.options.reread and (config.options.limit or config.options.sample):
        raise CannotRun("--reread judges the rows that the output has: leave --limit and --sample out")
    list_shards(config.source)  # a wrong path is reported before a missing output
    if config.output is None and not dry_run:
        raise CannotRun("no output is given: -o FILE writes a file, -o - prints the rows")
    if dry_run:
        from judges.cli.score_dry_run import run as run_dry

        run_dry(config, quiet)
        return
    if cluster is not None:
        from judges.cli.score_ray import run as run_ray

        run_ray(config, cluster, quiet)
        return
    assert config.output is not None
    name, settings = config.scorer_settings()
    with ExitStack() as stack:
        scorer = stack.enter_context(load_scorer(name, **settings))
        policy = config.load_policy(scorer, settings)
        if policy is not None:
            stack.enter_context(policy)
        progress = stack.enter_context(RowProgress(name, config.options.limit or config.options.sample, quiet))
        try:
            summary = score_file(config.source, scorer, config.output, config.options, progress.update, policy)
        except BrokenPipeError:  # the reader of a pipe has closed it: exit silently, as other programs do
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise typer.Exit(141) from None
    print_summary(summary, config.output, quiet)
    if summary.failed:
        raise typer.Exit(1)
