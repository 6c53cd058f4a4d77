"""Where rows go: the journal of a shard, and the file that is made of it at the end."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from judges.batch.journal import Journal, Printing
from judges.data.readers import SHOWN, Records, format_of
from judges.data.row_set import RowSet
from judges.data.rows import Row, read_rows
from judges.data.shards import Shard, is_folder, is_stream
from judges.data.writers import write_rows
from judges.errors import CannotRun


@dataclass(frozen=True, slots=True)
class Options:
    """How rows are judged, beside by whom.

    `mapping`: which column holds a field. `limit`: only the first rows; `sample`: so many drawn at random. `ordered`:
    the output in the input's order. `format` of a folder's outputs (".jsonl", ".csv", ".parquet"), else the input's.
    `retry_failed`: judge failed rows again. `reread`: judge every row again from stored completions, without a
    model. `max_failures`: stop when more rows than that fail in this sitting. `store`: a file of completions to use
    in place of the run's own.
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


class Wanted:
    """Which rows of a shard are not to be judged (`in`), if `any`, and the last that is (`stop`)."""

    def __init__(self, shard: Shard, done: RowSet, chosen: Container[int] | None, most: int | None) -> None:
        self._start, self._done, self._chosen = shard.start, done, chosen
        ends = [shard.stop, most, max(chosen, default=0) if isinstance(chosen, frozenset) else None]
        self.stop = min((end for end in ends if end is not None), default=None)
        self.any = bool(shard.start or len(done) or chosen is not None)

    def __contains__(self, number: object) -> bool:
        if not isinstance(number, int) or number <= self._start or number in self._done:
            return True
        return self._chosen is not None and number not in self._chosen


def outputs_of(source: str, shards: Sequence[Shard], output: Path, beside: Path, options: Options) -> list[Output]:
    if options.format and format_of(f"a{options.format}") is None:
        raise CannotRun(f"--format {options.format}: there are {SHOWN}")
    folder = is_folder(source)
    if folder and format_of(output.name):
        raise CannotRun(f"{source!r} is a folder: its files go to a folder, so -o {output} cannot be a file")
    if not folder and not format_of(output.name):
        raise CannotRun(f"-o {output}: unknown format; there are {SHOWN}")
    if not folder and output.is_dir():
        raise CannotRun(f"-o {output} is a folder")
    if not folder:
        same = Path(source).expanduser()
        if not is_stream(source) and output.exists() and same.exists() and output.samefile(same):
            raise CannotRun(f"-o {output} is the input itself; give another -o")
        direct = format_of(output.name) in ((".jsonl", ""), (".ndjson", "")) and not options.ordered
        target, rows = (None, output) if direct else (output, beside / "rows.jsonl")
        return [Output(shard, target, rows, _is_parquet(output), options, beside) for shard in shards]
    if output.exists() and not output.is_dir():
        raise CannotRun(f"{source!r} is a folder: its files go to a folder, and {output} is a file")
    if output.exists() and output.samefile(Path(source).expanduser()):
        raise CannotRun(f"-o {output} is the input itself; give another -o")
    output.mkdir(parents=True, exist_ok=True)
    names = [_renamed(shard.name, options.format) for shard in shards]
    if twice := [name for name, count in Counter(names).items() if count > 1]:
        raise CannotRun(f"{source!r} has two files that would both become {twice[0]}; rename one")
    places = [(shard, output / name, beside / f"{shard.name}.jsonl") for shard, name in zip(shards, names, strict=True)]
    return [Output(shard, target, rows, _is_parquet(target), options) for shard, target, rows in places]


def _is_parquet(target: Path) -> bool:
    return format_of(target.name) == (".parquet", "")


def _renamed(name: str, form: str) -> str:
    if not form:
        return name
    known = format_of(name)
    assert known is not None
    return name[: len(name) - len("".join(known))] + form


class Output:
    """What comes of one shard: its journal, the file (`target`) that is made of it at the end, and how far it is.

    Without a target the journal is the output itself. A mark beside it (or in `beside`) tells that a shard is through.
    """

    def __init__(
        self,
        shard: Shard,
        target: Path | None,
        journal: Path,
        keep_nan: bool,
        options: Options,
        beside: Path | None = None,
    ) -> None:
        self.shard, self._target, self.path, self.keep_nan, self._options = shard, target, journal, keep_nan, options
        self._mark = (beside or journal.parent) / f"{journal.name}.done"
        self._asked = [options.limit, options.sample, options.ordered]
        self.records = Records(shard.path)
        self._journal: Journal | None = None
        self._again = False
        self.read = 0  # rows of this sitting
        self._ended = False
        self.finishing = False

    @property
    def target(self) -> Path:
        """What the user asked for."""
        return self._target or self.path

    @property
    def begun(self) -> bool:
        """Whether there are rows of it, of this sitting or an earlier one."""
        if self._journal is not None and self._journal.added:
            return True
        return self.path.exists() and self.path.stat().st_size > 0

    @property
    def journal(self) -> Journal:
        """Its rows, read when first asked for."""
        if self._journal is None:
            path = self.path.with_name(f".{self.path.name}.again") if self._again else self.path
            self._journal = Journal(path, self.keep_nan, self._options.retry_failed)
        return self._journal

    def begin_again(self) -> None:
        """Judge the rows that are there again: written beside them, to take their place when all are written."""
        self._again = True
        self.path.with_name(f".{self.path.name}.again").unlink(missing_ok=True)

    def finished_before(self) -> tuple[int, Counter[str], int] | None:
        """The rows and failures of an output that an earlier sitting finished, and how many rows it read for them;
        None for one that it did not."""
        if self._again or not self._mark.exists() or not self.target.exists():
            return None
        told = json.loads(self._mark.read_text())
        failures = Counter(told["failures"])
        if told["asked"] != self._asked or told["size"] != self.target.stat().st_size:
            return None
        if failures and self._options.retry_failed:
            return None
        return int(told["rows"]), failures, int(told["read"])

    def rows(self, chosen: frozenset[int] | None, most: int | None) -> Iterator[Row]:
        """The rows that are still to be judged; `most`: none behind this number."""
        only = Journal.numbers(self.path) if self._again else chosen
        wanted = Wanted(self.shard, self.journal.done, only, most)
        skip = wanted if wanted.any else ()
        for row in read_rows(self.records, self._options.mapping, skip, wanted.stop, self.shard.prefix):
            self.read += 1
            yield row
        self._ended = True

    @property
    def complete(self) -> bool:
        """Whether it was read to its end and every row of it is written."""
        return self._ended and self.read == self.journal.added

    def finish(self) -> None:
        """Make the output of the journal, where that is not the output itself."""
        journal = self.journal
        journal.sync()
        if self._again:
            self._mark.unlink(missing_ok=True)
            self._ended = False  # what the output lacked is still to be judged
            journal.close()
            journal.path.replace(self.path)
            self._journal, self._again = None, False
            journal = self.journal
        if self._target is not None:
            like = None if is_stream(self.shard.path) else Path(self.shard.path)
            write_rows(lambda: journal.lines(self._options.ordered), self._target, like)
        if self._ended:
            told = {"rows": len(journal.done), "failures": journal.failures, "asked": self._asked}
            told["read"] = self.records.number
            part = self._mark.with_name(f".{self._mark.name}.part")
            part.write_text(json.dumps(told | {"size": self.target.stat().st_size}))
            part.replace(self._mark)

    def close(self) -> None:
        if self._journal is not None:
            self._journal.close()


class Printed(Output):
    """An output that is standard output: rows as they finish, kept nowhere."""

    def __init__(self, shard: Shard, options: Options) -> None:
        super().__init__(shard, None, Path("standard output"), False, options)
        self._journal = Printing()

    @property
    def begun(self) -> bool:
        return False

    def finished_before(self) -> None:
        return None

    def finish(self) -> None:
        self.journal.sync()
