"""`assay score --ray`: the rows of a source, scored by the workers of a Ray cluster."""

from __future__ import annotations

import typer

from judges.batch.ray_workers import Cluster, WorkerConfig, score_cluster
from judges.batch.run import STANDARD_OUTPUT
from judges.cli.progress import RowProgress, print_summary
from judges.cli.scorer_options import ScoreConfig, policy_settings
from judges.errors import CannotRun
from judges.scorer import load_scorer


def run(config: ScoreConfig, cluster: Cluster, quiet: bool) -> None:
    if config.output is None or config.output == STANDARD_OUTPUT:
        raise CannotRun("--ray writes to a file or a folder that all workers see, not to standard output")
    name, settings = config.scorer_settings()
    policy = None
    if config.candidates is not None:
        with load_scorer(name, **settings) as scorer:
            policy = policy_settings(config.policy, scorer, settings) | {"candidates": config.candidates}
    work = WorkerConfig(name, settings, config.options, policy)
    with RowProgress(f"{name} on {cluster.workers} workers", None, quiet) as progress:
        summary = score_cluster(config.source, work, config.output, cluster, progress.update)
    print_summary(summary, config.output, quiet)
    if summary.failed:
        raise typer.Exit(1)
