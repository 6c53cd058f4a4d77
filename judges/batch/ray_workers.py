"""Ray workers: `assay score --ray` scores the shards of an input on many machines.

Ray Data assigns one shard at a time to a worker, and restarts the shard of a worker that died. A worker scores its
shard like a single machine would. Its rows are on the shared disk, its stored completions on its own.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import logging
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from judges.batch import manifest
from judges.batch.output import Output, ScoreOptions, plan_outputs
from judges.batch.run import Run, ScoreSummary, check_manifest, too_many_failures
from judges.data.shards import Shard, input_fingerprint, is_folder, is_stream, list_shards, split_shard
from judges.data.writers import write_rows
from judges.engines.policy import Policy
from judges.errors import CannotRun
from judges.scorer import json_round_trip, load_scorer
from judges.types import Usage


@dataclass(frozen=True, slots=True)
class Cluster:
    """The Ray cluster: its address ("local" starts one on this machine), and the resources.

    `workers` is the number of workers; `gpus` and `cpus` are those of each. `shard_rows` is the number of rows per
    shard of a single file; in a folder each file is a shard.
    """

    address: str
    workers: int = 1
    gpus: float = 0
    cpus: float = 1
    shard_rows: int = 10_000


@dataclass(frozen=True, slots=True)
class WorkerConfig:
    """What a worker needs: the scorer's name and settings, the options and, optionally, the policy's settings."""

    scorer: str
    settings: Mapping[str, Any]
    options: ScoreOptions
    policy: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class _Task:
    """A shard with the paths of its output, as it is sent to a worker."""

    shard: Shard
    target: str | None
    journal: str
    keep_nan: bool

    def output(self, options: ScoreOptions) -> Output:
        target = Path(self.target) if self.target else None
        return Output(self.shard, target, Path(self.journal), self.keep_nan, options)


def score_cluster(
    source: str,
    work: WorkerConfig,
    output: Path,
    cluster: Cluster,
    on_progress: Callable[[ScoreSummary], None] = lambda _: None,
) -> ScoreSummary:
    """Like `score_file`, by the workers of a Ray cluster, which all need access to the input and the output's folder.

    A shard is a file of a folder, or a range of rows of a single file. Shards that an earlier run finished are not
    scored again. Raises CannotRun when no shard can be scored, and at the end when some failed; the others are then
    written.
    """
    options = work.options
    _check(source, options)
    run_folder = output.with_name(output.name + ".run")
    outputs = plan_outputs(source, list_shards(source), output, run_folder, options)
    with manifest.lock_run_folder(run_folder, str(output)):
        with load_scorer(work.scorer, **work.settings) as scorer:
            current: dict[str, Any] = {**input_fingerprint(source), "mapping": dict(options.mapping)}
            current |= json_round_trip(scorer.identity())
        if work.policy is not None:
            with Policy(**work.policy) as policy:
                current["policy"] = json_round_trip(policy.identity())
        if not is_folder(source):
            current["shard_rows"] = cluster.shard_rows
        check_manifest(current, run_folder, output, outputs, False, options)
        if is_folder(source):
            tasks = [_make_task(out.shard, out.target, out.path, out.keep_nan) for out in outputs]
        else:
            shards = split_shard(outputs[0].shard, cluster.shard_rows)
            tasks = [_make_task(shard, None, run_folder / shard.name, outputs[0].keep_nan) for shard in shards]
        store = options.store or str(_store_path(current, output))
        summary = ScoreSummary()
        errors = _score_tasks(tasks, work, cluster, store, summary, on_progress)
        if not is_folder(source) and not errors and (summary.written or not output.exists()):
            _join([task.output(options) for task in tasks], output, source, options.ordered)
    if errors:
        more = f" (and {len(errors) - 1} more shards)" if len(errors) > 1 else ""
        raise CannotRun(f"{errors[0]}{more}; the other shards are finished; the same command resumes")
    if not summary.written and not summary.resumed:
        raise CannotRun(f"{source}: there are no rows in it")
    return summary


def _check(source: str, options: ScoreOptions) -> None:
    if is_stream(source):
        raise CannotRun("--ray cannot read a stream: give a file or a folder that all workers can access")
    if options.limit is not None or options.sample is not None or options.reread:
        raise CannotRun("--limit, --sample and --reread do not work with --ray; remove one or the other")


def _make_task(shard: Shard, target: Path | None, journal: Path, keep_nan: bool) -> _Task:
    """A task with absolute paths, because workers have other working folders."""
    shard = replace(shard, path=str(Path(shard.path).expanduser().absolute()))
    return _Task(shard, None if target is None else str(target.absolute()), str(journal.absolute()), keep_nan)


def _store_path(current: Mapping[str, Any], output: Path) -> Path:
    """The file of completions on a worker's own disk, which is the same whenever the same run is started."""
    key = json.dumps([str(output.absolute()), current], sort_keys=True)
    name = hashlib.sha256(key.encode()).hexdigest()[:16]
    return Path(tempfile.gettempdir()) / f"assay-{os.getuid()}" / name / "completions.sqlite"


def _score_tasks(
    tasks: Sequence[_Task],
    work: WorkerConfig,
    cluster: Cluster,
    store: str,
    summary: ScoreSummary,
    on_progress: Callable[[ScoreSummary], None],
) -> list[str]:
    """Score the tasks that are not finished, and update `summary`. Returns the errors of the workers."""
    unfinished = []
    for task in tasks:
        if (earlier := task.output(work.options).earlier_result()) is None:
            unfinished.append(task)
        else:
            summary.resumed += earlier[0]
            summary.failures.update(earlier[1])
            summary.failed_before += earlier[1].total()
    errors: list[str] = []
    if not unfinished:
        return errors
    finished = len(tasks) - len(unfinished)
    for result in _run_workers(unfinished, work, cluster, store):
        finished += 1
        summary.written += result["written"]
        summary.resumed += result["resumed"]
        summary.failures.update(result["failures"])
        summary.failed_before += result["failed_before"]
        summary.usage += Usage(**result["usage"])
        summary.share = finished / len(tasks)
        on_progress(summary)
        if result["error"]:
            if not summary.written:
                raise CannotRun(result["error"])
            errors.append(result["error"])
        limit, new_failures = work.options.max_failures, summary.failed - summary.failed_before
        if limit is not None and new_failures > limit:
            raise too_many_failures(limit, summary)
    return errors


def _run_workers(tasks: Sequence[_Task], work: WorkerConfig, cluster: Cluster, store: str) -> Iterator[dict[str, Any]]:
    """The result of each task, as it finishes. Raises CannotRun where Ray is not installed or does not answer."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # errors are raised here
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise CannotRun("--ray needs Ray: pip install 'assay[ray]'") from error
    started = not ray.is_initialized()
    if started:
        try:
            local: dict[str, Any] = {"include_dashboard": False} if cluster.address == "local" else {}
            ray.init(address=cluster.address, logging_level="ERROR", log_to_driver=False, **local)
        except (ConnectionError, RuntimeError, ValueError) as error:
            message = str(error).strip().splitlines() or [type(error).__name__]
            raise CannotRun(f"no Ray cluster answers at {cluster.address}: {message[0]}") from error
    try:
        _check_resources(ray.cluster_resources(), cluster)
        context = ray.data.DataContext.get_current()
        context.enable_progress_bars = context.print_on_execution_start = False
        results = ray.data.from_items(
            [{"task": json.dumps(asdict(task))} for task in tasks], override_num_blocks=len(tasks)
        ).map_batches(
            _Worker,
            batch_size=1,
            zero_copy_batch=False,
            fn_constructor_args=(work, store),
            compute=ray.data.ActorPoolStrategy(size=min(cluster.workers, len(tasks)), max_tasks_in_flight_per_actor=1),
            num_gpus=cluster.gpus or None,
            num_cpus=cluster.cpus,
        )
        for row in results.iter_batches(batch_size=1, prefetch_batches=0):
            yield json.loads(row["result"][0])
    except ray.exceptions.RayError as error:
        lines = [line for line in str(error).strip().splitlines() if line.strip()] or [type(error).__name__]
        raise CannotRun(f"Ray: {lines[-1].strip()}; finished shards are safe, run the same command") from error
    finally:
        if started:
            ray.shutdown()


def _check_resources(available: Mapping[str, float], cluster: Cluster) -> None:
    """Raise CannotRun where the cluster is too small, because Ray would wait for resources forever."""
    needed = {"CPU": cluster.cpus * cluster.workers, "GPU": cluster.gpus * cluster.workers}
    for name, count in needed.items():
        if count > available.get(name, 0):
            raise CannotRun(
                f"{cluster.workers} workers need {count:g} {name}s, and the cluster has {available.get(name, 0):g}:"
                f" give fewer --workers, or less --{name.lower()}s for each"
            )


class _Worker:
    """A scorer in a Ray actor; each call scores one task."""

    def __init__(self, work: WorkerConfig, store: str) -> None:
        self._work = work
        self._scorer = load_scorer(work.scorer, **work.settings)
        self._policy = None if work.policy is None else Policy(**work.policy)
        self._scorer.use_store(Path(store))
        if self._policy is not None:
            self._policy.use_store(Path(store))

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        fields = json.loads(batch["task"][0])
        task = _Task(**{**fields, "shard": Shard(**fields["shard"])})
        return {"result": [json.dumps(self._score(task))]}

    def _score(self, task: _Task) -> dict[str, Any]:
        error = ""
        lock = Path(task.journal).with_name(f"{Path(task.journal).name}.lock")
        with open(lock, "w") as lock_file:
            # A worker that Ray considers dead may still write: wait until it ends, then resume after its rows.
            fcntl.flock(lock_file, fcntl.LOCK_EX)
            outputs = [task.output(self._work.options)]
            with Run(self._scorer, self._work.options, lambda _: None, self._policy, outputs) as run:
                try:
                    run.execute()
                except CannotRun as reason:
                    error = str(reason)
        summary = run.summary
        return {
            "written": summary.written,
            "resumed": summary.resumed,
            "failures": summary.failures,
            "failed_before": summary.failed_before,
            "usage": asdict(summary.usage),
            "error": error,
        }


def _join(parts: Sequence[Output], output: Path, source: str, ordered: bool) -> None:
    """Write the output of a single file from the journals of its shards, in their order."""

    def lines() -> Iterator[bytes]:
        for part in parts:
            yield from part.journal.lines(ordered)
            part.close()

    write_rows(lines, output, Path(source))
