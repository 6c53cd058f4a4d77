"""`assay score --ray`: the same by the workers of a cluster."""

from __future__ import annotations

from judges.batch.distributed import Cluster, Work, score_cluster
from judges.batch.run import STANDARD_OUTPUT, Summary
from judges.cli.progress import RowProgress
from judges.cli.score import Wanted, policy_settings, scorer_settings, tell
from judges.errors import CannotRun
from judges.scorer import load_scorer


def run(wanted: Wanted, cluster: Cluster, quiet: bool) -> None:
    if wanted.output is None or wanted.output == STANDARD_OUTPUT:
        raise CannotRun("--ray writes to a file or a folder that all workers see, not to standard output")
    name, chosen = scorer_settings(wanted)
    policy = None
    if wanted.candidates is not None:
        with load_scorer(name, **chosen) as scorer:
            policy = policy_settings(wanted.policy, scorer, chosen) | {"candidates": wanted.candidates}
    work = Work(name, chosen, wanted.options, policy)
    with RowProgress(f"{name} on {cluster.workers} workers", None, quiet) as progress:

        def told(summary: Summary) -> None:
            progress.at(summary.written, summary.failed - summary.failed_before, summary.usage, summary.share)

        summary = score_cluster(wanted.source, work, wanted.output, cluster, told)
    tell(wanted, summary, quiet)
