"""`assay score`: rows in, the same rows with scores out, resumable after any death."""

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
from judges.batch.output import Options, Output, Printed, outputs_of
from judges.data.rows import Row
from judges.data.shards import digest, drawn, is_folder, is_stream, shards_of
from judges.data.writers import output_row, reason_of
from judges.engines.policy import Policy, PolicyOutput, Prompt
from judges.errors import CannotRun
from judges.scorer import Scorer, plain, reread_from
from judges.types import Failure, Item, Scorecard, Usage

STANDARD_OUTPUT = Path("-")
TELL_SECONDS = 0.05  # progress is told no more often; rows may come by the ten thousand a second
_FREE = Usage()
_UNASKED = ("engine", "empty", "needs-two")  # failures for which no completion was read


@dataclass
class Summary:
    """What a run did. `failures` counts the output's failed rows by reason, those of earlier sittings
    (`failed_before`) too; they are written like the others.

    `share` is how much of the input has been read, where that is known.
    """

    written: int = 0
    resumed: int = 0
    failures: Counter[str] = field(default_factory=Counter)
    failed_before: int = 0
    usage: Usage = Usage()
    share: float | None = None

    @property
    def failed(self) -> int:
        return self.failures.total()


def score_file(
    source: str,
    scorer: Scorer,
    output: Path,
    options: Options = Options(),
    on_progress: Callable[[Summary], None] = lambda _: None,
    policy: Policy | None = None,
) -> Summary:
    """Score every row of a source and write it, in the order of finishing.

    A file goes to a file, a folder of files to a folder with one output for each, "-" is standard input or output.
    JSON lines are appended as rows finish; other formats and ordered ones are written at the end, from rows that lie
    beside the output (`OUTPUT.run`) till then. With a `policy`, a row that has a prompt and no response gets
    candidates from it, and those are scored. Rows that are in the output already are not judged again. Raises
    CannotRun when the output was made with another input, scorer, policy, model or template, or is being written by
    another run; when the input breaks off (its rows before that are judged first); and past `max_failures`.
    """
    if output == STANDARD_OUTPUT:
        return _to_standard_output(source, scorer, options, on_progress, policy)
    beside = output.with_name(output.name + ".run")
    outputs = outputs_of(source, shards_of(source), output, beside, options)
    with manifest.alone(beside, str(output)), ExitStack() as stack:
        now = {**digest(source), "mapping": dict(options.mapping), **plain(scorer.identity())}
        if policy is not None:
            now["policy"] = plain(policy.identity())
        check_manifest(now, beside, output, outputs, is_stream(source), options)
        if options.reread:
            for out in outputs:
                out.begin_again()
        _remember(scorer, policy, beside, options)
        run = stack.enter_context(Run(scorer, options, on_progress, policy, outputs))
        run.judge()
        if options.reread:
            manifest.write(beside / "manifest.json", now)
    return run.summary


def _remember(scorer: Scorer, policy: Policy | None, beside: Path, options: Options) -> None:
    """Tell who judges and who writes where completions are kept."""
    kept = Path(options.store).expanduser() if options.store else beside / "completions.sqlite"
    if options.reread:
        if not kept.exists():
            raise CannotRun(f"--reread: no completions at {kept}")
        reread_from(scorer, kept)
    elif remember := getattr(scorer, "remember", None):
        remember(kept)
    if policy is not None:
        written = kept if options.store else beside / "candidates.sqlite"
        (policy.reread if options.reread else policy.remember)(written)


def check_manifest(
    now: Mapping[str, Any],
    beside: Path,
    output: Path,
    outputs: Sequence[Output],
    stream: bool,
    options: Options,
) -> None:
    """Refuse an output that something else made; note what this one is made with. Raises CannotRun."""
    path = beside / "manifest.json"
    if manifest.check(path, now, str(output), options.reread):
        if stream and any(out.begun for out in outputs) and not options.reread:
            raise CannotRun(f"{output} has rows, and a stream cannot be told from another one; give another -o")
        return
    if options.reread:
        raise CannotRun(f"--reread: {output} was not made by a run whose manifest lies in {beside}")
    for out in outputs:
        if out.target.exists() and (out.target.stat().st_size or out.target.is_dir()):
            raise CannotRun(f"{out.target} exists and has no manifest beside it; give another -o or remove it")
    manifest.write(path, now)


def too_many(most: int, summary: Summary) -> CannotRun:
    told = ", ".join(f"{count} {why}" for why, count in summary.failures.most_common())
    return CannotRun(f"stopped: more than --max-failures {most} rows failed ({told}); what is written is safe")


def _to_standard_output(
    source: str,
    scorer: Scorer,
    options: Options,
    on_progress: Callable[[Summary], None],
    policy: Policy | None,
) -> Summary:
    """Rows as lines on standard output, as they finish; ordered ones at the end. Nothing is kept for another sitting
    but completions, where `store` says where."""
    if options.retry_failed or options.reread:
        raise CannotRun("--retry-failed and --reread need an output that is a file")
    if is_folder(source):
        raise CannotRun(f"{source!r} is a folder: its files go to a folder; give -o FOLDER")
    if options.ordered:
        with tempfile.TemporaryDirectory(prefix="assay-") as folder:
            target = Path(folder) / "rows.jsonl"
            try:
                return score_file(source, scorer, target, options, on_progress, policy)
            finally:  # an input that breaks off has rows before that
                if target.exists():
                    with open(target, "rb") as lines:
                        shutil.copyfileobj(lines, sys.stdout.buffer)
                    sys.stdout.buffer.flush()
    if options.store:
        kept = Path(options.store).expanduser()
        if remember := getattr(scorer, "remember", None):
            remember(kept)
        if policy is not None:
            policy.remember(kept)
    with Run(scorer, options, on_progress, policy, [Printed(shards_of(source)[0], options)]) as run:
        run.judge()
    return run.summary


class Run:
    """One sitting: rows are read on the scorer's feeding thread, and written as their cards come."""

    def __init__(
        self,
        scorer: Scorer,
        options: Options,
        on_progress: Callable[[Summary], None],
        policy: Policy | None,
        outputs: Sequence[Output],
    ) -> None:
        self.summary = Summary()
        self._scorer, self._options, self._on_progress, self._policy = scorer, options, on_progress, policy
        self._outputs = outputs
        # A row that cannot be judged is written where it is read, on the feeding thread.
        self._changed = threading.Condition()
        self._pending: dict[str, tuple[Row, Output]] = {}
        self._sampled: dict[str, PolicyOutput] = {}
        self._failed_now = 0
        self._broken: list[CannotRun] = []  # files that cannot be read on from some row
        self._read_again = False  # whether a stored completion was there
        self._left = self._held = False
        self._told = time.monotonic()
        self._finisher = ThreadPoolExecutor(1, thread_name_prefix="assay-output")
        self._finishing: list[Future[None]] = []

    def judge(self) -> None:
        """Judge every row that is not judged yet. Raises CannotRun."""
        try:
            items = self._items()
            # Where nothing is left to judge, no model is loaded.
            if (first := next(items, None)) is not None:
                cards = self._scorer.stream(chain([first], items))
                try:
                    for card in cards:
                        self._write(*self._pending[card.id], card, self._sampled.pop(card.id, None))
                finally:  # cancel what is in flight, where the scorer has something in flight
                    getattr(cards, "close", lambda: None)()
            self._finish()
            self._on_progress(self.summary)
        except BrokenPipeError:
            raise
        except OSError as error:
            where = self._outputs[0].target if self._outputs else "output"
            raise CannotRun(f"{where}: {error.strerror or error}; what is written is safe, run again") from error
        if self._broken:
            more = f"; and {len(self._broken) - 1} more files" if len(self._broken) > 1 else ""
            raise CannotRun(f"{self._broken[0]}{more}") from self._broken[0]
        if not self.summary.written and not self.summary.resumed:
            raise CannotRun(f"{self._outputs[0].shard.path}: there are no rows in it")

    def _asked(self) -> Iterator[Item | Prompt]:
        """What is to be judged, or answered first; a row that is neither is written as it is read."""
        sample, left = self._options.sample, self._options.limit
        shards = [out.shard for out in self._outputs]
        chosen: Sequence[frozenset[int] | None] = [None] * len(shards) if sample is None else drawn(shards, sample)
        for place, (out, numbers) in enumerate(zip(self._outputs, chosen, strict=True)):
            if left is not None and left <= 0:
                return
            before = out.finished_before()
            if before is not None:
                rows, failures, read = before
                self._count_before(rows, failures)
                out.finishing = True
                left = None if left is None else left - read
                continue
            self._count_before(len(out.journal.done), out.journal.failures)
            for row in self._readable(out.rows(numbers, left)):
                if out.read % 64 == 0:
                    share = out.records.share
                    self.summary.share = None if share is None else (place + share) / len(self._outputs)
                ready = row.prompt if self._policy is not None and row.prompt is not None else row.item
                if isinstance(ready, Failure):
                    self._write(row, out, ready)
                    continue
                with self._changed:
                    while row.id in self._pending and not self._left:  # two files of a folder share an id
                        self._held = True
                        self._changed.wait()
                    self._held = False
                    self._pending[row.id] = (row, out)
                yield ready
            if out.complete:
                self._finish_later(out)
            left = None if left is None else left - out.records.number

    def _readable(self, rows: Iterator[Row]) -> Iterator[Row]:
        """Rows as far as their file can be read; the other files of a folder do not wait for it."""
        try:
            yield from rows
        except CannotRun as error:
            self._broken.append(error)

    def _count_before(self, rows: int, failures: Counter[str]) -> None:
        self.summary.resumed += rows
        self.summary.failures.update(failures)
        self.summary.failed_before += failures.total()

    def _items(self) -> Iterator[Item]:
        """What is to be judged: rows with responses, and prompts with the candidates that were drawn."""
        for one in self._asked() if self._policy is None else self._policy.stream(self._asked()):
            if isinstance(one, Item):
                yield one
            elif isinstance(one, PolicyOutput):
                if isinstance(one.item, Failure):
                    self._write(*self._pending[one.prompt.id], one.item, one)
                else:
                    self._sampled[one.item.id] = one
                    yield one.item

    def _write(self, row: Row, out: Output, card: Scorecard | Failure, sampled: PolicyOutput | None = None) -> None:
        out.journal.write(output_row(row, card, sampled))
        reason = reason_of(card)
        summary = self.summary
        with self._changed:
            if self._pending.get(row.id, (None,))[0] is row:  # a row of another file may have the same id
                del self._pending[row.id]
                if self._held:
                    self._changed.notify_all()
            summary.written += 1
            if isinstance(card, Scorecard):
                for judgment in card.judgments:
                    if judgment.failure is None or judgment.failure.reason not in _UNASKED:
                        self._read_again = True
                    if judgment.usage != _FREE:
                        summary.usage += judgment.usage
            if sampled is not None:
                summary.usage += sampled.usage
            if reason is not None:
                summary.failures[reason] += 1
                out.journal.failures[reason] += 1
                self._failed_now += 1
            now = time.monotonic()
            if now - self._told > TELL_SECONDS:
                self._told = now
                self._on_progress(summary)
        if out.complete:
            self._finish_later(out)
        most = self._options.max_failures
        if most is not None and self._failed_now > most:
            raise too_many(most, summary)

    def _finish_later(self, out: Output) -> None:
        """Make a shard's output aside, once: the engine does not wait for it."""
        with self._changed:
            if out.finishing:
                return
            out.finishing = True
        if not self._options.reread:
            self._finishing.append(self._finisher.submit(out.finish))

    def _finish(self) -> None:
        for future in self._finishing:
            future.result()
        failures = self.summary.failures
        if self._options.reread:
            if failures["engine"] and not self._read_again:
                raise CannotRun(
                    "--reread: none of the completions is there; a template that asks otherwise needs a run"
                )
            for out in self._outputs:
                out.finish()
            return
        for out in self._outputs:  # what a limit or a broken input left unfinished
            if not out.finishing and out.begun:
                out.finish()

    def close(self) -> None:
        with self._changed:
            self._left = True
            self._changed.notify_all()
        self._finisher.shutdown(wait=True, cancel_futures=True)
        for out in self._outputs:
            out.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
