"""Evaluation of any scorer on any benchmark: benchmarks, metrics, statistics, attacks, and reports.

>>> from judges import load_scorer
>>> from judges.evaluation import load_benchmark
>>> benchmark = load_benchmark("demo", limit=8)
>>> cards = {card.id: card for card in load_scorer("length").score(benchmark.items)}
>>> len(cards)
8
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from judges.evaluation.benchmark_run import BenchmarkRun, run_benchmark
    from judges.evaluation.benchmarks import Benchmark, load_benchmark
    from judges.evaluation.compute_results import compute_result
    from judges.evaluation.recorded_judgments import RecordedJudgments
    from judges.evaluation.results import MetricValue, Result, Run, read_run
    from judges.evaluation.robustness import measure_robustness

_MODULES = {
    "Benchmark": "benchmarks",
    "BenchmarkRun": "benchmark_run",
    "MetricValue": "results",
    "RecordedJudgments": "recorded_judgments",
    "Result": "results",
    "Run": "results",
    "compute_result": "compute_results",
    "load_benchmark": "benchmarks",
    "measure_robustness": "robustness",
    "read_run": "results",
    "run_benchmark": "benchmark_run",
}

__all__ = [
    "Benchmark",
    "BenchmarkRun",
    "MetricValue",
    "RecordedJudgments",
    "Result",
    "Run",
    "compute_result",
    "load_benchmark",
    "measure_robustness",
    "read_run",
    "run_benchmark",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
