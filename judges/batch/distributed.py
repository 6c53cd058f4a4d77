"""Many machines: a worker takes a shard at a time, judges it as one machine would, and commits it whole.

Ray Data deals the shards out and starts a dead worker's shard again. The rows that the worker had written are on the
shared disk, its completions on its own.
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
from judges.batch.output import Options, Output, outputs_of
from judges.batch.run import Run, Summary, check_manifest, too_many
from judges.data.shards import Shard, digest, is_folder, is_stream, ranges, shards_of
from judges.data.writers import write_rows
from judges.engines.policy import Policy
from judges.errors import CannotRun
from judges.scorer import load_scorer, plain
from judges.types import Usage


@dataclass(frozen=True, slots=True)
class Cluster:
    """Where workers run: a Ray address ("local" starts one on this machine), so many of them, and what each gets.

    `shard_rows` is how many rows of a single file one worker takes at once; the files of a folder are taken whole.
    """

    address: str
    workers: int = 1
    gpus: float = 0
    cpus: float = 1
    shard_rows: int = 10_000


@dataclass(frozen=True, slots=True)
class Work:
    """What every worker is told: a scorer by name and settings, and who writes candidates, if any do."""

    scorer: str
    settings: Mapping[str, Any]
    options: Options
    policy: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class _Part:
    """A shard with the places of its output, as a worker is sent it."""

    shard: Shard
    target: str | None
    journal: str
    keep_nan: bool

    def output(self, options: Options) -> Output:
        target = Path(self.target) if self.target else None
        return Output(self.shard, target, Path(self.journal), self.keep_nan, options)


def score_cluster(
    source: str,
    work: Work,
    output: Path,
    cluster: Cluster,
    on_progress: Callable[[Summary], None] = lambda _: None,
) -> Summary:
    """As `score_file`, by the workers of a cluster that all see the input and the output's folder.

    A folder's files and, of a single file, ranges of rows are the units: each is committed whole, and those that an
    earlier sitting committed are not judged again. Raises CannotRun when no shard could be judged, and at the end when
    some could not; the others are safe by then.
    """
    options = work.options
    _check(source, options)
    beside = output.with_name(output.name + ".run")
    whole = outputs_of(source, shards_of(source), output, beside, options)
    with manifest.alone(beside, str(output)):
        with load_scorer(work.scorer, **work.settings) as scorer:
            now: dict[str, Any] = {**digest(source), "mapping": dict(options.mapping), **plain(scorer.identity())}
        if work.policy is not None:
            with Policy(**work.policy) as policy:
                now["policy"] = plain(policy.identity())
        if not is_folder(source):
            now["shard_rows"] = cluster.shard_rows
        check_manifest(now, beside, output, whole, False, options)
        if is_folder(source):
            parts = [_part(out.shard, out.target, out.path, out.keep_nan) for out in whole]
        else:
            cut = ranges(whole[0].shard, cluster.shard_rows)
            parts = [_part(one, None, beside / one.name, whole[0].keep_nan) for one in cut]
        store = options.store or str(_store_of(now, output))
        summary = Summary()
        wrong = _judge(parts, work, cluster, store, summary, on_progress)
        if not is_folder(source) and not wrong and (summary.written or not output.exists()):
            _join([part.output(options) for part in parts], output, source, options.ordered)
    if wrong:
        more = f" (and {len(wrong) - 1} more shards)" if len(wrong) > 1 else ""
        raise CannotRun(f"{wrong[0]}{more}; the other shards are done, the same command goes on")
    if not summary.written and not summary.resumed:
        raise CannotRun(f"{source}: there are no rows in it")
    return summary


def _check(source: str, options: Options) -> None:
    if is_stream(source):
        raise CannotRun("--ray reads its input in many places: give a file or a folder that all workers see")
    if options.limit is not None or options.sample is not None or options.reread:
        raise CannotRun("--limit, --sample and --reread are for one machine: leave --ray out, or leave them out")


def _part(shard: Shard, target: Path | None, journal: Path, keep_nan: bool) -> _Part:
    """A part by absolute paths: workers have other working folders."""
    there = replace(shard, path=str(Path(shard.path).expanduser().absolute()))
    return _Part(there, None if target is None else str(target.absolute()), str(journal.absolute()), keep_nan)


def _store_of(now: Mapping[str, Any], output: Path) -> Path:
    """A place for completions on a worker's own disk: the same one for the same run, however often it is started."""
    name = hashlib.sha256(json.dumps([str(output.absolute()), now], sort_keys=True).encode()).hexdigest()[:16]
    return Path(tempfile.gettempdir()) / f"assay-{os.getuid()}" / name / "completions.sqlite"


def _judge(
    parts: Sequence[_Part],
    work: Work,
    cluster: Cluster,
    store: str,
    summary: Summary,
    on_progress: Callable[[Summary], None],
) -> list[str]:
    """Judge the parts that are not through; what went wrong with some, by the worker that met it."""
    left = []
    for part in parts:
        if (before := part.output(work.options).finished_before()) is None:
            left.append(part)
        else:
            summary.resumed += before[0]
            summary.failures.update(before[1])
            summary.failed_before += before[1].total()
    wrong: list[str] = []
    if not left:
        return wrong
    done = len(parts) - len(left)
    for told in _deal(left, work, cluster, store):
        done += 1
        summary.written += told["written"]
        summary.resumed += told["resumed"]
        summary.failures.update(told["failures"])
        summary.failed_before += told["failed_before"]
        summary.usage += Usage(**told["usage"])
        summary.share = done / len(parts)
        on_progress(summary)
        if told["error"]:
            if not summary.written:
                raise CannotRun(told["error"])
            wrong.append(told["error"])
        most, failed = work.options.max_failures, summary.failed - summary.failed_before
        if most is not None and failed > most:
            raise too_many(most, summary)
    return wrong


def _deal(parts: Sequence[_Part], work: Work, cluster: Cluster, store: str) -> Iterator[dict[str, Any]]:
    """What the workers say of each part, as they finish. Raises CannotRun where Ray is missing or does not answer."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # what goes wrong comes back as an error
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise CannotRun("--ray needs Ray: pip install 'assay[ray]'") from error
    started = not ray.is_initialized()
    if started:
        try:
            own: dict[str, Any] = {"include_dashboard": False} if cluster.address == "local" else {}
            ray.init(address=cluster.address, logging_level="ERROR", log_to_driver=False, **own)
        except (ConnectionError, RuntimeError, ValueError) as error:
            said = str(error).strip().splitlines() or [type(error).__name__]
            raise CannotRun(f"no Ray cluster answers at {cluster.address}: {said[0]}") from error
    try:
        _check_room(ray.cluster_resources(), cluster)
        context = ray.data.DataContext.get_current()
        context.enable_progress_bars = context.print_on_execution_start = False
        dealt = ray.data.from_items(
            [{"part": json.dumps(asdict(part))} for part in parts], override_num_blocks=len(parts)
        ).map_batches(
            _Worker,
            batch_size=1,
            zero_copy_batch=False,
            fn_constructor_args=(work, store),
            compute=ray.data.ActorPoolStrategy(size=min(cluster.workers, len(parts)), max_tasks_in_flight_per_actor=1),
            num_gpus=cluster.gpus or None,
            num_cpus=cluster.cpus,
        )
        for row in dealt.iter_batches(batch_size=1, prefetch_batches=0):
            yield json.loads(row["told"][0])
    except ray.exceptions.RayError as error:
        said = [line for line in str(error).strip().splitlines() if line.strip()] or [type(error).__name__]
        raise CannotRun(f"Ray: {said[-1].strip()}; shards that are through are safe, run the same command") from error
    finally:
        if started:
            ray.shutdown()


def _check_room(there: Mapping[str, float], cluster: Cluster) -> None:
    """A cluster that never has what is asked for would wait for it for ever, without a word."""
    asked = {"CPU": cluster.cpus * cluster.workers, "GPU": cluster.gpus * cluster.workers}
    for name, count in asked.items():
        if count > there.get(name, 0):
            raise CannotRun(
                f"{cluster.workers} workers ask for {count:g} {name}s, and the cluster has {there.get(name, 0):g}:"
                f" give fewer --workers, or less --{name.lower()}s for each"
            )


class _Worker:
    """A scorer on some machine; each call judges one part."""

    def __init__(self, work: Work, store: str) -> None:
        self._work = work
        self._scorer = load_scorer(work.scorer, **work.settings)
        self._policy = None if work.policy is None else Policy(**work.policy)
        if remember := getattr(self._scorer, "remember", None):
            remember(Path(store))
        if self._policy is not None:
            self._policy.remember(Path(store))

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        told = json.loads(batch["part"][0])
        part = _Part(Shard(**told["shard"]), told["target"], told["journal"], told["keep_nan"])
        return {"told": [json.dumps(self._judge(part))]}

    def _judge(self, part: _Part) -> dict[str, Any]:
        error = ""
        lock = Path(part.journal).with_name(f"{Path(part.journal).name}.lock")
        with open(lock, "w") as held:
            # A worker that was given up for dead may still write: wait for its end, then go on behind its rows.
            fcntl.flock(held, fcntl.LOCK_EX)
            outputs = [part.output(self._work.options)]
            with Run(self._scorer, self._work.options, lambda _: None, self._policy, outputs) as run:
                try:
                    run.judge()
                except CannotRun as reason:
                    error = str(reason)
        found = run.summary
        return {
            "written": found.written,
            "resumed": found.resumed,
            "failures": found.failures,
            "failed_before": found.failed_before,
            "usage": asdict(found.usage),
            "error": error,
        }


def _join(parts: Sequence[Output], output: Path, source: str, ordered: bool) -> None:
    """The output of a single file, out of its parts in their order."""

    def lines() -> Iterator[bytes]:
        for part in parts:
            yield from part.journal.lines(ordered)
            part.close()

    write_rows(lines, output, Path(source))
