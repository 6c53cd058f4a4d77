"""A run of `assay compare` on disk: what was measured, and what a report is made of.

DIR/results.json        a Run
DIR/items/NAME.jsonl    each Item of a benchmark, as types.to_plain
DIR/judgments/FILE      each Scorecard of one Result: benchmark, scorer, subset, and types.to_plain(card)
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from judges.errors import CannotRun
from judges.types import Usage

FORMAT = 2


@dataclass(frozen=True, slots=True)
class Number:
    """One number with its 95 % interval.

    `metric` says what it is ("official", "accuracy", "kendall tau-b, per prompt", …), `section` of what part:
    "" for the whole, else a subset's or a section's name. `value` is None where nothing could be measured,
    and `note` then says why. `low` and `high` are the interval, `method` how it was made; `rows` and
    `prompts` what it was computed over; `left_out` how many rows had a failure or no defined value.
    `worst` and `best` count each of those as wrong and as right, where that means something.
    """

    metric: str
    section: str
    value: float | None
    low: float | None = None
    high: float | None = None
    method: str = ""
    rows: int = 0
    prompts: int = 0
    left_out: int = 0
    ties: int = 0
    worst: float | None = None
    best: float | None = None
    note: str = ""


@dataclass(frozen=True, slots=True)
class Bin:
    """One bin of a reliability curve: mean confidence, share that was right, rows."""

    confidence: float
    accuracy: float
    rows: int


@dataclass(frozen=True, slots=True)
class Measurement:
    """A benchmark as it was measured. `digest` is of its Items: equal digests, comparable numbers."""

    name: str
    title: str
    source: str
    digest: str
    items: int
    prompts: int
    file: str
    headline: str
    differs: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Result:
    """One scorer on one benchmark.

    `label` is the scorer's name in tables, unique in a run; `digest` is of the Items that it was given, all or a
    part of the benchmark's; `identity` all that decides its judgments;
    `reads` and `failures` count judgments by how they were read and by reason; `headline` is (metric, section)
    of the number that stands for the whole. `curves` are reliability curves by name ("as it is",
    "after temperature"). `file` holds its judgments, under the run's folder. `published` marks scores that
    were made elsewhere and only read here.
    """

    label: str
    scorer: str
    spec: str
    benchmark: str
    digest: str
    identity: Mapping[str, Any]
    numbers: tuple[Number, ...]
    headline: tuple[str, str]
    reads: Mapping[str, int]
    failures: Mapping[str, int]
    usage: Usage
    seconds: float
    file: str
    curves: Mapping[str, tuple[Bin, ...]] = field(default_factory=dict)
    published: bool = False

    def number(self, metric: str, section: str = "") -> Number | None:
        """The number of this metric and section, if it was measured."""
        return next((n for n in self.numbers if (n.metric, n.section) == (metric, section)), None)

    @property
    def main(self) -> Number:
        """The headline number."""
        found = self.number(*self.headline)
        assert found is not None, "a result has its headline number"
        return found


@dataclass(frozen=True, slots=True)
class Contrast:
    """Scorer `first` against `second` on the rows of one benchmark.

    `difference` is first − second of the headline, with its paired interval; `p_mcnemar` and `p_bootstrap` are
    raw, `p_holm` corrected over all contrasts of the benchmark; `words` says it plainly; `more_pairs` how many
    further pairs would tell them apart, None where they are or where the difference is 0.
    """

    benchmark: str
    first: str
    second: str
    difference: float
    low: float
    high: float
    p_bootstrap: float
    p_mcnemar: float | None
    p_holm: float
    words: str
    more_pairs: int | None = None


@dataclass(frozen=True, slots=True)
class Run:
    """All of one run. `between` holds measures over several scorers (agreement), by benchmark, with the
    labels of both in `section` as "A | B"; `summary` sentences in plain words."""

    made: str
    versions: Mapping[str, str]
    machine: str
    settings: Mapping[str, Any]
    benchmarks: tuple[Measurement, ...]
    results: tuple[Result, ...]
    contrasts: tuple[Contrast, ...] = ()
    between: Mapping[str, tuple[Number, ...]] = field(default_factory=dict)
    summary: tuple[str, ...] = ()


def write_run(run: Run, folder: Path) -> None:
    """Write `results.json`, whole or not at all."""
    folder.mkdir(parents=True, exist_ok=True)
    part = folder / "results.json.part"
    document = {"format": FORMAT, **asdict(run)}
    told = json.dumps(document, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    part.write_text(told, encoding="utf-8", errors="backslashreplace")
    part.replace(folder / "results.json")


def read_run(folder: Path) -> Run:
    """The Run in a folder. Raises CannotRun where there is none, or one of another format."""
    path = folder / "results.json"
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise CannotRun(f"{folder} holds no results.json: give the -o folder of assay compare") from error
    except (OSError, ValueError) as error:
        raise CannotRun(f"{path}: cannot be read: {error}") from error
    written = told.get("format") if isinstance(told, dict) else None
    if written != FORMAT:
        raise CannotRun(f"{path} is of format {written}, this version reads {FORMAT}: run compare again")
    try:
        return _run(told)
    except (KeyError, TypeError, AttributeError) as error:
        raise CannotRun(f"{path} is damaged ({type(error).__name__}: {error}): run compare again") from error


def _run(told: dict[str, Any]) -> Run:
    return Run(
        made=told["made"],
        versions=told["versions"],
        machine=told["machine"],
        settings=told["settings"],
        benchmarks=tuple(Measurement(**{**b, "differs": tuple(b["differs"])}) for b in told["benchmarks"]),
        results=tuple(map(_result, told["results"])),
        contrasts=tuple(Contrast(**c) for c in told["contrasts"]),
        between={name: tuple(Number(**n) for n in numbers) for name, numbers in told["between"].items()},
        summary=tuple(told["summary"]),
    )


def _result(told: dict[str, Any]) -> Result:
    return Result(
        **{
            **told,
            "numbers": tuple(Number(**n) for n in told["numbers"]),
            "headline": tuple(told["headline"]),
            "usage": Usage(**told["usage"]),
            "curves": {name: tuple(Bin(**b) for b in bins) for name, bins in told["curves"].items()},
        }
    )


def read_lines(path: Path) -> Iterator[dict[str, Any]]:
    """The rows of a JSONL file of the run, one at a time. Raises CannotRun for a file or a line that is not whole."""
    try:
        with open(path, "rb") as lines:
            for number, line in enumerate(lines, start=1):
                try:
                    row = json.loads(line)
                except ValueError as error:
                    raise CannotRun(f"{path}, line {number}: not whole: run compare again") from error
                if not isinstance(row, dict):
                    raise CannotRun(f"{path}, line {number}: not a row of a run")
                yield row
    except OSError as error:
        raise CannotRun(f"{path}: {error.strerror}: run compare again") from error
