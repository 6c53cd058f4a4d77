"""The results of `assay compare` as dataclasses, and their file `results.json`.

DIR/results.json        a Run
DIR/items/NAME.jsonl    each Item of a benchmark, as types.to_dict
DIR/judgments/FILE      each Scorecard of one Result: benchmark, scorer, subset, and types.to_dict(card)
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
class MetricValue:
    """A metric's value with its 95 % interval.

    `metric` names it ("official", "accuracy", "kendall tau-b, per prompt", …) and `section` the part of the benchmark:
    "" for all of it, else a subset or a section. `value` is None where it could not be computed, and `note` then gives
    the reason. `low` and `high` are the interval, `method` its method; `rows` and `prompts` count what the value was
    computed over; `left_out` counts rows with a failure or without a defined value. `worst` and `best` count each of
    those as wrong and as right, where that applies.
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
    """One bin of a reliability curve: its mean confidence, its accuracy and its number of rows."""

    confidence: float
    accuracy: float
    rows: int


@dataclass(frozen=True, slots=True)
class BenchmarkInfo:
    """What a run records of a benchmark. Numbers are comparable where `digest`, of the Items, is equal."""

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

    `label` is the scorer's unique name in the run's tables; `digest` is of the Items that it was given, all or a part
    of the benchmark's; `identity` is everything that its judgments depend on. `reads` counts judgments by how the
    verdict was read, `failures` by reason. `headline` is the (metric, section) of the headline number. `curves` are
    reliability curves by name ("as it is", "after temperature"). `file` holds the judgments, relative to the run's
    folder. `published` marks scores that were made elsewhere.
    """

    label: str
    scorer: str
    spec: str
    benchmark: str
    digest: str
    identity: Mapping[str, Any]
    numbers: tuple[MetricValue, ...]
    headline: tuple[str, str]
    reads: Mapping[str, int]
    failures: Mapping[str, int]
    usage: Usage
    seconds: float
    file: str
    curves: Mapping[str, tuple[Bin, ...]] = field(default_factory=dict)
    published: bool = False

    def number(self, metric: str, section: str = "") -> MetricValue | None:
        """The number of this metric and section; None where it was not computed."""
        return next((n for n in self.numbers if (n.metric, n.section) == (metric, section)), None)

    @property
    def main(self) -> MetricValue:
        """The headline number."""
        number = self.number(*self.headline)
        assert number is not None, "a result has its headline number"
        return number


@dataclass(frozen=True, slots=True)
class Contrast:
    """Scorer `first` against `second` on the rows of one benchmark.

    `difference` is the headline of `first` minus that of `second`, with its paired interval. `p_mcnemar` and
    `p_bootstrap` are uncorrected, `p_holm` is corrected over all contrasts of the benchmark. `words` is a sentence.
    `more_pairs` is how many more pairs would make the difference significant; None where it is already, or is 0.
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
    """The results of a whole run.

    `between` holds, by benchmark, measures over two scorers (agreement), with both labels in `section` as "A | B".
    `summary` holds sentences. `made` is the time of writing, ISO 8601.
    """

    made: str
    versions: Mapping[str, str]
    machine: str
    settings: Mapping[str, Any]
    benchmarks: tuple[BenchmarkInfo, ...]
    results: tuple[Result, ...]
    contrasts: tuple[Contrast, ...] = ()
    between: Mapping[str, tuple[MetricValue, ...]] = field(default_factory=dict)
    summary: tuple[str, ...] = ()


def write_run(run: Run, folder: Path) -> None:
    """Write `results.json`, atomically."""
    folder.mkdir(parents=True, exist_ok=True)
    part = folder / "results.json.part"
    document = {"format": FORMAT, **asdict(run)}
    text = json.dumps(document, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    part.write_text(text, encoding="utf-8", errors="backslashreplace")
    part.replace(folder / "results.json")


def read_run(folder: Path) -> Run:
    """The Run in a folder. Raises CannotRun where there is none, or where its format is another version's."""
    path = folder / "results.json"
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise CannotRun(f"{folder} holds no results.json: give the -o folder of assay compare") from error
    except (OSError, ValueError) as error:
        raise CannotRun(f"{path}: cannot be read: {error}") from error
    found = document.get("format") if isinstance(document, dict) else None
    if found != FORMAT:
        raise CannotRun(f"{path} has format {found}, this version reads {FORMAT}: run compare again")
    try:
        return _parse_run(document)
    except (KeyError, TypeError, AttributeError) as error:
        raise CannotRun(f"{path} is damaged ({type(error).__name__}: {error}): run compare again") from error


def _parse_run(document: dict[str, Any]) -> Run:
    return Run(
        made=document["made"],
        versions=document["versions"],
        machine=document["machine"],
        settings=document["settings"],
        benchmarks=tuple(BenchmarkInfo(**{**b, "differs": tuple(b["differs"])}) for b in document["benchmarks"]),
        results=tuple(map(_parse_result, document["results"])),
        contrasts=tuple(Contrast(**c) for c in document["contrasts"]),
        between={name: _parse_numbers(numbers) for name, numbers in document["between"].items()},
        summary=tuple(document["summary"]),
    )


def _parse_result(fields: dict[str, Any]) -> Result:
    return Result(
        **{
            **fields,
            "numbers": _parse_numbers(fields["numbers"]),
            "headline": tuple(fields["headline"]),
            "usage": Usage(**fields["usage"]),
            "curves": {name: tuple(Bin(**b) for b in bins) for name, bins in fields["curves"].items()},
        }
    )


def _parse_numbers(rows: list[dict[str, Any]]) -> tuple[MetricValue, ...]:
    return tuple(MetricValue(**row) for row in rows)


def read_jsonl(path: Path) -> Iterator[dict[str, Any]]:
    """The rows of a JSONL file of the run, one at a time. Raises CannotRun for an unreadable file or line."""
    try:
        with open(path, "rb") as lines:
            for number, line in enumerate(lines, start=1):
                try:
                    row = json.loads(line)
                except ValueError as error:
                    raise CannotRun(f"{path}, line {number}: incomplete: run compare again") from error
                if not isinstance(row, dict):
                    raise CannotRun(f"{path}, line {number}: not a row of a run")
                yield row
    except OSError as error:
        raise CannotRun(f"{path}: {error.strerror}: run compare again") from error
