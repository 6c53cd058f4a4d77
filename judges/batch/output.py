"""The outputs of a run: for each shard a journal of its rows and the file that is written from it at the end."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from judges.batch.journal import Journal, StandardOutputJournal
from judges.data.readers import SUPPORTED_FORMATS, RecordReader, format_of
from judges.data.row_set import RowSet
from judges.data.rows import Row, read_rows
from judges.data.shards import Shard, is_folder, is_stream
from judges.data.writers import write_rows
from judges.errors import CannotRun


@dataclass(frozen=True, slots=True)
class ScoreOptions:
    """The options of `score_file`, apart from the scorer.

    `mapping`: the column of a field. `limit`: only the first rows; `sample`: this many rows drawn at random.
    `ordered`: the output in the order of the input. `format`: of a folder's outputs (".jsonl", ".csv", ".parquet"),
    by default the input's. `retry_failed`: score failed rows again. `reread`: read the stored completions of every row
    again, without a model. `max_failures`: stop when more rows fail in this run. `store`: a file of completions to use
    instead of the run's own.
    """

    mapping: Mapping[str, str] = field(default_factory=dict)
    limit: int | None = None
    sample: int | None = None
    ordered: bool = False
    format: str = ""
    retry_failed: bool = False
    reread: bool = False
    max_failures: int | None = None
    store: str = ""


class SkippedRows:
    """The row numbers of a shard that are not to be scored.

    They are those up to `shard.start`, those in `done` and, with `chosen`, all others than these. `stop` is the last
    row to score, or None; `any` is whether there is a row to skip before it.
    """

    def __init__(self, shard: Shard, done: RowSet, chosen: Container[int] | None, limit: int | None) -> None:
        self._start, self._done, self._chosen = shard.start, done, chosen
        ends = [shard.stop, limit, max(chosen, default=0) if isinstance(chosen, frozenset) else None]
        self.stop = min((end for end in ends if end is not None), default=None)
        self.any = bool(shard.start or len(done) or chosen is not None)

    def __contains__(self, number: object) -> bool:
        if not isinstance(number, int) or number <= self._start or number in self._done:
            return True
        return self._chosen is not None and number not in self._chosen


def plan_outputs(
    source: str, shards: Sequence[Shard], output: Path, run_folder: Path, options: ScoreOptions
) -> list[Output]:
    """The output of each shard. Raises CannotRun for an output that does not suit the source."""
    if options.format and format_of(f"a{options.format}") is None:
        raise CannotRun(f"--format {options.format}: unknown format; supported are {SUPPORTED_FORMATS}")
    folder = is_folder(source)
    if folder and format_of(output.name):
        raise CannotRun(f"{source!r} is a folder: its files go to a folder, so -o {output} cannot be a file")
    if not folder and not format_of(output.name):
        raise CannotRun(f"-o {output}: unknown format; supported are {SUPPORTED_FORMATS}")
    if not folder and output.is_dir():
        raise CannotRun(f"-o {output} is a folder")
    if not folder:
        file = Path(source).expanduser()
        if not is_stream(source) and output.exists() and file.exists() and output.samefile(file):
            raise CannotRun(f"-o {output} is the input itself; give another -o")
        direct = format_of(output.name) in ((".jsonl", ""), (".ndjson", "")) and not options.ordered
        target, journal = (None, output) if direct else (output, run_folder / "rows.jsonl")
        return [Output(shard, target, journal, _is_parquet(output), options, run_folder) for shard in shards]
    if output.exists() and not output.is_dir():
        raise CannotRun(f"{source!r} is a folder: its files go to a folder, and {output} is a file")
    if output.exists() and output.samefile(Path(source).expanduser()):
        raise CannotRun(f"-o {output} is the input itself; give another -o")
    output.mkdir(parents=True, exist_ok=True)
    names = [_with_format(shard.name, options.format) for shard in shards]
    if repeated := [name for name, count in Counter(names).items() if count > 1]:
        raise CannotRun(f"{source!r} has two files that would both become {repeated[0]}; rename one")
    return [
        Output(shard, output / name, run_folder / f"{shard.name}.jsonl", _is_parquet(output / name), options)
        for shard, name in zip(shards, names, strict=True)
    ]


def _is_parquet(target: Path) -> bool:
    return format_of(target.name) == (".parquet", "")


def _with_format(name: str, form: str) -> str:
    if not form:
        return name
    known = format_of(name)
    assert known is not None
    return name[: len(name) - len("".join(known))] + form


class Output:
    """The output of one shard: its journal, the file (`target`) that is written from it at the end, and its progress.

    Without a target the journal itself is the output. A ".done" file in `run_folder` records that a shard is finished.
    """

    def __init__(
        self,
        shard: Shard,
        target: Path | None,
        journal: Path,
        keep_nan: bool,
        options: ScoreOptions,
        run_folder: Path | None = None,
    ) -> None:
        self.shard, self._target, self.path, self.keep_nan, self._options = shard, target, journal, keep_nan, options
        self._done_file = (run_folder or journal.parent) / f"{journal.name}.done"
        self._selection = [options.limit, options.sample, options.ordered]
        self.records = RecordReader(shard.path)
        self._journal: Journal | None = None
        self._rereading = False
        self.rows_read = 0  # by this process
        self._at_end = False
        self.finishing = False

    @property
    def target(self) -> Path:
        """The output file that the user named."""
        return self._target or self.path

    @property
    def has_rows(self) -> bool:
        """Whether this process or an earlier one has written a row."""
        if self._journal is not None and self._journal.added:
            return True
        return self.path.exists() and self.path.stat().st_size > 0

    @property
    def _reread_path(self) -> Path:
        return self.path.with_name(f".{self.path.name}.again")

    @property
    def journal(self) -> Journal:
        """The journal, which is opened at first use."""
        if self._journal is None:
            path = self._reread_path if self._rereading else self.path
            self._journal = Journal(path, self.keep_nan, self._options.retry_failed)
        return self._journal

    def start_reread(self) -> None:
        """Score the existing rows again, into a second journal that replaces the first when all are written."""
        self._rereading = True
        self._reread_path.unlink(missing_ok=True)

    def earlier_result(self) -> tuple[int, Counter[str], int] | None:
        """What an earlier run finished: its rows, its failures by reason, and how many input rows it read.

        None where no earlier run finished this output with the same selection of rows, or where it is to be redone.
        """
        if self._rereading or not self._done_file.exists() or not self.target.exists():
            return None
        record = json.loads(self._done_file.read_text())
        failures = Counter(record["failures"])
        if record["asked"] != self._selection or record["size"] != self.target.stat().st_size:
            return None
        if failures and self._options.retry_failed:
            return None
        return int(record["rows"]), failures, int(record["read"])

    def rows(self, chosen: frozenset[int] | None, limit: int | None) -> Iterator[Row]:
        """The rows that remain to be scored, with numbers up to `limit`."""
        selected = Journal.read_numbers(self.path) if self._rereading else chosen
        skipped = SkippedRows(self.shard, self.journal.done, selected, limit)
        skip = skipped if skipped.any else ()
        for row in read_rows(self.records, self._options.mapping, skip, skipped.stop, self.shard.prefix):
            self.rows_read += 1
            yield row
        self._at_end = True

    @property
    def complete(self) -> bool:
        """Whether the shard was read to its end and every row of it is written."""
        return self._at_end and self.rows_read == self.journal.added

    def finish(self) -> None:
        """Write the output file from the journal, unless the journal is the output."""
        journal = self.journal
        journal.sync()
        if self._rereading:
            self._done_file.unlink(missing_ok=True)
            self._at_end = False  # rows that the output lacks remain to be scored
            journal.close()
            journal.path.replace(self.path)
            self._journal, self._rereading = None, False
            journal = self.journal
        if self._target is not None:
            like = None if is_stream(self.shard.path) else Path(self.shard.path)
            write_rows(lambda: journal.lines(self._options.ordered), self._target, like)
        if self._at_end:
            record = {
                "rows": len(journal.done),
                "failures": journal.failures,
                "asked": self._selection,
                "read": self.records.number,
                "size": self.target.stat().st_size,
            }
            part = self._done_file.with_name(f".{self._done_file.name}.part")
            part.write_text(json.dumps(record))
            part.replace(self._done_file)

    def close(self) -> None:
        if self._journal is not None:
            self._journal.close()


class StandardOutput(Output):
    """Standard output as an output: rows are printed as they finish, and nothing is stored."""

    def __init__(self, shard: Shard, options: ScoreOptions) -> None:
        super().__init__(shard, None, Path("standard output"), False, options)
        self._journal = StandardOutputJournal()

    @property
    def has_rows(self) -> bool:
        return False

    def earlier_result(self) -> None:
        return None

    def finish(self) -> None:
        self.journal.sync()
