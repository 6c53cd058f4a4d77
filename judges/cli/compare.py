"""`assay compare`."""

from __future__ import annotations

import re
import sys
import time
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console
from rich.table import Table

from judges.cli.progress import RowProgress
from judges.errors import CannotRun
from judges.evaluation.benchmarks import load_benchmark
from judges.evaluation.compare import Result, run_one, write_results
from judges.evaluation.metrics import Accuracy
from judges.llm_judge import LLMJudge
from judges.scorer import Scorer, load_scorer, parse_spec

KEYS = {"benchmarks", "scorers", "limit"}


def run(
    config: Path | None,
    benchmarks: list[str],
    specs: list[str],
    output: Path,
    limit: int | None,
    subsets: bool,
    quiet: bool,
) -> None:
    if config is not None:
        told = _read_config(config)
        benchmarks = [*told.get("benchmarks", []), *benchmarks]
        specs = [*map(_spec, told.get("scorers", [])), *specs]
        limit = limit or told.get("limit")
    if not benchmarks or not specs:
        raise CannotRun("compare needs at least one --benchmark and one --scorer, or a config with both")
    data = {name: load_benchmark(name, limit=limit) for name in benchmarks}
    # All are built before any engine starts: a wrong spec is told at once, not after an hour.
    started = time.monotonic()
    scorers = [(spec, load_scorer(parse_spec(spec)[0], **parse_spec(spec)[1])) for spec in specs]
    shown = [_redacted(spec) for spec in specs]
    results: list[Result] = []
    try:
        for spec, scorer in scorers:
            for name, items in data.items():
                with RowProgress(f"{scorer.name} on {Path(name).stem}", len(items), quiet) as progress:
                    results.append(
                        run_one(
                            scorer,
                            spec,
                            name,
                            items,
                            output / "judgments",
                            lambda card: progress.row(card.usage),
                        )
                    )
                write_results(results, {"benchmarks": benchmarks, "scorers": shown, "limit": limit}, output)
            _close_done(scorers[: len(results) // len(data)], scorers[len(results) // len(data) :])
    finally:
        for _, scorer in scorers:
            scorer.close()
    console = Console(width=None if sys.stdout.isatty() else 140)
    for name in data:
        console.print(table(name, [r for r in results if r.benchmark == name]))
        if subsets:
            console.print(subset_table([r for r in results if r.benchmark == name]))
    took = f"{time.monotonic() - started:.0f} s"
    console.print(f"Numbers in {output}/results.json, judgments in {output}/judgments; {took}.", soft_wrap=True)


def table(benchmark: str, results: list[Result]) -> Table:
    shown = Table(title=f"{Path(benchmark).stem}: {results[0].overall.pairs} pairs", title_justify="left", box=None)
    for column in (
        "scorer",
        "accuracy (95 %)",
        "ties",
        "failed",
        "worst case",
        "longer wins",
        "forced",
        "tokens",
        "seconds",
    ):
        shown.add_column(column, justify="left" if column == "scorer" else "right", no_wrap=True)
    for r in results:
        a = r.overall
        shown.add_row(
            r.scorer,
            _accuracy(a),
            str(a.ties),
            f"{a.failures / a.pairs:.0%}" if a.pairs else "-",
            _percent(a.worst),
            _percent(r.longer_chosen),
            str(r.reads.get("forced", 0)),
            f"{r.usage.prompt_tokens + r.usage.generated_tokens:,}",
            f"{r.seconds:.1f}",
        )
    return shown


def subset_table(results: list[Result]) -> Table:
    shown = Table(title="by subset", title_justify="left", box=None)
    shown.add_column("subset")
    for r in results:
        shown.add_column(r.scorer, justify="right")
    for subset in results[0].subsets:
        shown.add_row(subset, *(_accuracy(r.subsets[subset]) for r in results))
    return shown


def _accuracy(a: Accuracy) -> str:
    if a.accuracy is None or a.low is None or a.high is None:
        return "none judged"
    return f"{100 * a.accuracy:.1f} [{100 * a.low:.1f}, {100 * a.high:.1f}]"


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.1f}"


def _redacted(spec: str) -> str:
    """A SPEC as it may be written to a file: without its key."""
    return re.sub(r"api_key=[^,]*", "api_key=***", spec)


def _close_done(done: list[tuple[str, Scorer]], to_come: list[tuple[str, Scorer]]) -> None:
    """Free the memory of those that are through; an engine that a later judge shares stays open."""
    wanted = {scorer.shares for _, scorer in to_come if isinstance(scorer, LLMJudge)}
    for _, scorer in done:
        if not (isinstance(scorer, LLMJudge) and scorer.shares in wanted):
            scorer.close()


def _spec(entry: Any) -> str:
    if isinstance(entry, str):
        return entry
    if isinstance(entry, dict) and "name" in entry:
        rest = {key: value for key, value in entry.items() if key != "name"}
        return ",".join([str(entry["name"]), *(f"{key}={value}" for key, value in rest.items())])
    raise CannotRun(f"a scorer in the config is a SPEC or has a name, not {entry!r}")


def _read_config(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise CannotRun(f"no config {str(path)!r}")
    try:
        told = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise CannotRun(f"{path}: not YAML: {error}") from error
    if not isinstance(told, dict) or set(told) - KEYS:
        raise CannotRun(f"{path}: a config has the keys {', '.join(sorted(KEYS))}")
    return told
