"""Runs of `assay score`: score every row of a file or folder, and resume after an interruption."""

from __future__ import annotations

import shutil
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any, Self

from judges.batch import manifest
from judges.batch.output import Output, ScoreOptions, StandardOutput, plan_outputs
from judges.data.output_row import failure_reason, output_row
from judges.data.rows import Row
from judges.data.shards import input_fingerprint, is_folder, is_stream, list_shards, sample_rows
from judges.engines.policy import Policy, PolicyOutput, Prompt
from judges.errors import CannotRun
from judges.scorer import Scorer, json_round_trip
from judges.types import Failure, Item, Scorecard, Usage

STANDARD_OUTPUT = Path("-")
PROGRESS_SECONDS = 0.05  # least time between reports of progress; there may be ten thousand rows per second
_NO_USAGE = Usage()
_WITHOUT_COMPLETION = ("engine", "empty", "needs-two")  # failures for which no completion was read


@dataclass
class ScoreSummary:
    """The result of a run, and its progress while it lasts.

    `written` and `resumed` count the rows that this run and earlier ones wrote. `failures` counts the failed rows of
    the output by reason, including the `failed_before` rows of earlier runs; failed rows are written like all others.
    `usage` is that of this run. `truncated` and `truncated_candidates` count its rows with a completion of the scorer,
    or a candidate of the policy, that the token limit cut off. `share` is the fraction of the input that has been read,
    0 to 1, or None where it is unknown.
    """

    written: int = 0
    resumed: int = 0
    failures: Counter[str] = field(default_factory=Counter)
    failed_before: int = 0
    usage: Usage = Usage()
    truncated: int = 0
    truncated_candidates: int = 0
    share: float | None = None

    @property
    def failed(self) -> int:
        return self.failures.total()


def score_file(
    source: str,
    scorer: Scorer,
    output: Path,
    options: ScoreOptions = ScoreOptions(),
    on_progress: Callable[[ScoreSummary], None] = lambda _: None,
    policy: Policy | None = None,
) -> ScoreSummary:
    """Score every row of a source and write the rows in the order in which they finish.

    A file is written to a file, a folder to a folder with one output per file; "-" is standard input or output. JSON
    lines are appended as rows finish. Other formats, and ordered outputs, are written at the end from a journal in the
    folder `OUTPUT.run`. With a `policy`, a row that has a prompt and no response gets candidates, which are scored.

    A run that was interrupted resumes: rows that the output already has are not scored again.

    Raises CannotRun when the output was made with another input, scorer, policy, model or template; when another run
    is writing it; when the input cannot be read to its end (the rows before that are scored first); and when more than
    `max_failures` rows fail.
    """
    if output == STANDARD_OUTPUT:
        return _score_to_standard_output(source, scorer, options, on_progress, policy)
    run_folder = output.with_name(output.name + ".run")
    outputs = plan_outputs(source, list_shards(source), output, run_folder, options)
    with manifest.lock_run_folder(run_folder, str(output)), ExitStack() as stack:
        current = {**input_fingerprint(source), "mapping": dict(options.mapping), **json_round_trip(scorer.identity())}
        if policy is not None:
            current["policy"] = json_round_trip(policy.identity())
        check_manifest(current, run_folder, output, outputs, is_stream(source), options)
        if options.reread:
            for out in outputs:
                out.start_reread()
        _attach_store(scorer, policy, run_folder, options)
        run = stack.enter_context(Run(scorer, options, on_progress, policy, outputs))
        run.execute()
        if options.reread:
            manifest.write(run_folder / "manifest.json", current)
    return run.summary


def _attach_store(scorer: Scorer, policy: Policy | None, run_folder: Path, options: ScoreOptions) -> None:
    """Give the scorer and the policy the file of stored completions."""
    store = Path(options.store).expanduser() if options.store else run_folder / "completions.sqlite"
    if options.reread:
        if not store.exists():
            raise CannotRun(f"--reread: there is no file of completions {store}")
        scorer.reread(store)
    else:
        scorer.use_store(store)
    if policy is not None:
        candidates = store if options.store else run_folder / "candidates.sqlite"
        (policy.reread if options.reread else policy.use_store)(candidates)


def check_manifest(
    current: Mapping[str, Any],
    run_folder: Path,
    output: Path,
    outputs: Sequence[Output],
    stream: bool,
    options: ScoreOptions,
) -> None:
    """Write the manifest of a new output, or compare it with the existing one. Raises CannotRun where they differ."""
    path = run_folder / "manifest.json"
    if manifest.check(path, current, str(output), options.reread):
        if stream and any(out.has_rows for out in outputs) and not options.reread:
            raise CannotRun(f"{output} has rows, and a stream cannot be compared with the earlier one; give another -o")
        return
    if options.reread:
        raise CannotRun(f"--reread: {output} has no manifest in {run_folder}")
    for out in outputs:
        if out.target.exists() and (out.target.stat().st_size or out.target.is_dir()):
            raise CannotRun(f"{out.target} exists and has no manifest beside it; give another -o or remove it")
    manifest.write(path, current)


def too_many_failures(limit: int, summary: ScoreSummary) -> CannotRun:
    reasons = ", ".join(f"{count} {reason}" for reason, count in summary.failures.most_common())
    return CannotRun(f"stopped: more than --max-failures {limit} rows failed ({reasons}); written rows are safe")


def _score_to_standard_output(
    source: str,
    scorer: Scorer,
    options: ScoreOptions,
    on_progress: Callable[[ScoreSummary], None],
    policy: Policy | None,
) -> ScoreSummary:
    """Print rows as JSON lines as they finish, or at the end where they are ordered.

    Nothing is stored for a later run except the completions, where `store` names a file.
    """
    if options.retry_failed or options.reread:
        raise CannotRun("--retry-failed and --reread need an output that is a file")
    if is_folder(source):
        raise CannotRun(f"{source!r} is a folder: its files go to a folder; give -o FOLDER")
    if options.ordered:
        with tempfile.TemporaryDirectory(prefix="assay-") as folder:
            target = Path(folder) / "rows.jsonl"
            try:
                return score_file(source, scorer, target, options, on_progress, policy)
            finally:  # rows before the point where the input cannot be read
                if target.exists():
                    with open(target, "rb") as lines:
                        shutil.copyfileobj(lines, sys.stdout.buffer)
                    sys.stdout.buffer.flush()
    if options.store:
        store = Path(options.store).expanduser()
        scorer.use_store(store)
        if policy is not None:
            policy.use_store(store)
    with Run(scorer, options, on_progress, policy, [StandardOutput(list_shards(source)[0], options)]) as run:
        run.execute()
    return run.summary


class Run:
    """One pass over the outputs: rows are read on the scorer's feeding thread and written as Scorecards arrive."""

    def __init__(
        self,
        scorer: Scorer,
        options: ScoreOptions,
        on_progress: Callable[[ScoreSummary], None],
        policy: Policy | None,
        outputs: Sequence[Output],
    ) -> None:
        self.summary = ScoreSummary()
        self._scorer, self._options, self._on_progress, self._policy = scorer, options, on_progress, policy
        self._outputs = outputs
        # A row that cannot be scored is written where it is read, on the feeding thread.
        self._changed = threading.Condition()
        self._pending: dict[str, tuple[Row, Output]] = {}
        self._sampled: dict[str, PolicyOutput] = {}
        self._new_failures = 0
        self._read_errors: list[CannotRun] = []  # of files that could not be read to their end
        self._found_completion = False
        self._closed = self._reader_waits = False
        self._reported = time.monotonic()
        self._finisher = ThreadPoolExecutor(1, thread_name_prefix="assay-output")
        self._finishing: list[Future[None]] = []

    def execute(self) -> None:
        """Score every row that is not scored yet. Raises CannotRun."""
        try:
            items = self._items()
            # Without a row to score, no model is loaded.
            if (first := next(items, None)) is not None:
                cards = self._scorer.stream(chain([first], items))
                try:
                    for card in cards:
                        self._write(*self._pending[card.id], card, self._sampled.pop(card.id, None))
                finally:  # cancels requests in flight
                    getattr(cards, "close", lambda: None)()
            self._finish()
            self._on_progress(self.summary)
        except BrokenPipeError:
            raise
        except OSError as error:
            target = self._outputs[0].target if self._outputs else "output"
            raise CannotRun(f"{target}: {error.strerror or error}; written rows are safe, run again") from error
        if self._read_errors:
            more = f"; and {len(self._read_errors) - 1} more files" if len(self._read_errors) > 1 else ""
            raise CannotRun(f"{self._read_errors[0]}{more}") from self._read_errors[0]
        if not self.summary.written and not self.summary.resumed:
            raise CannotRun(f"{self._outputs[0].shard.path}: there are no rows in it")

    def _rows_to_score(self) -> Iterator[Item | Prompt]:
        """Items to score, and prompts that need candidates first; a row that is neither is written at once."""
        sample, left = self._options.sample, self._options.limit
        shards = [out.shard for out in self._outputs]
        chosen: Sequence[frozenset[int] | None]
        chosen = [None] * len(shards) if sample is None else sample_rows(shards, sample)
        for index, (out, numbers) in enumerate(zip(self._outputs, chosen, strict=True)):
            if left is not None and left <= 0:
                return
            earlier = out.earlier_result()
            if earlier is not None:
                rows, failures, rows_read = earlier
                self._count_earlier(rows, failures)
                out.finishing = True
                left = None if left is None else left - rows_read
                continue
            self._count_earlier(len(out.journal.done), out.journal.failures)
            for row in self._readable(out.rows(numbers, left)):
                if out.rows_read % 64 == 0:
                    share = out.records.share
                    self.summary.share = None if share is None else (index + share) / len(self._outputs)
                ready = row.prompt if self._policy is not None and row.prompt is not None else row.item
                if isinstance(ready, Failure):
                    self._write(row, out, ready)
                    continue
                with self._changed:
                    while row.id in self._pending and not self._closed:  # two files of a folder share an id
                        self._reader_waits = True
                        self._changed.wait()
                    self._reader_waits = False
                    self._pending[row.id] = (row, out)
                yield ready
            if out.complete:
                self._finish_later(out)
            left = None if left is None else left - out.records.number

    def _readable(self, rows: Iterator[Row]) -> Iterator[Row]:
        """The rows up to a read error, which is raised after the other files of a folder have been scored."""
        try:
            yield from rows
        except CannotRun as error:
            self._read_errors.append(error)

    def _count_earlier(self, rows: int, failures: Counter[str]) -> None:
        self.summary.resumed += rows
        self.summary.failures.update(failures)
        self.summary.failed_before += failures.total()

    def _items(self) -> Iterator[Item]:
        """The Items to score: rows with responses, and prompts with their sampled candidates."""
        rows = self._rows_to_score()
        for ready in rows if self._policy is None else self._policy.stream(rows):
            if isinstance(ready, Item):
                yield ready
            elif isinstance(ready, PolicyOutput):
                if isinstance(ready.item, Failure):
                    self._write(*self._pending[ready.prompt.id], ready.item, ready)
                else:
                    self._sampled[ready.item.id] = ready
                    yield ready.item

    def _write(self, row: Row, out: Output, card: Scorecard | Failure, sampled: PolicyOutput | None = None) -> None:
        out.journal.write(output_row(row, card, sampled))
        reason = failure_reason(card)
        summary = self.summary
        with self._changed:
            if self._pending.get(row.id, (None,))[0] is row:  # a row of another file may have the same id
                del self._pending[row.id]
                if self._reader_waits:
                    self._changed.notify_all()
            summary.written += 1
            summary.truncated_candidates += sampled is not None and any(sampled.truncated)
            if isinstance(card, Scorecard):
                summary.truncated += any(judgment.truncated for judgment in card.judgments)
                for judgment in card.judgments:
                    if judgment.failure is None or judgment.failure.reason not in _WITHOUT_COMPLETION:
                        self._found_completion = True
                    if judgment.usage != _NO_USAGE:
                        summary.usage += judgment.usage
            if sampled is not None:
                summary.usage += sampled.usage
            if reason is not None:
                summary.failures[reason] += 1
                out.journal.failures[reason] += 1
                self._new_failures += 1
            now = time.monotonic()
            if now - self._reported > PROGRESS_SECONDS:
                self._reported = now
                self._on_progress(summary)
        if out.complete:
            self._finish_later(out)
        limit = self._options.max_failures
        if limit is not None and self._new_failures > limit:
            raise too_many_failures(limit, summary)

    def _finish_later(self, out: Output) -> None:
        """Write a shard's output file once, on another thread, so that the engine does not wait for it."""
        with self._changed:
            if out.finishing:
                return
            out.finishing = True
        if not self._options.reread:
            self._finishing.append(self._finisher.submit(out.finish))

    def _finish(self) -> None:
        for future in self._finishing:
            future.result()
        if self._options.reread:
            if self.summary.failures["engine"] and not self._found_completion:
                raise CannotRun("--reread: no stored completion matches; a template with other prompts needs a new run")
            for out in self._outputs:
                out.finish()
            return
        for out in self._outputs:  # those that a limit or a read error left incomplete
            if not out.finishing and out.has_rows:
                out.finish()

    def close(self) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._finisher.shutdown(wait=True, cancel_futures=True)
        for out in self._outputs:
            out.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
