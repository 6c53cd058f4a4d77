"""Published benchmarks of reward models and judges, users' own files, and the plugins of other distributions."""

from judges.evaluation.benchmarks.base import Benchmark, Official
from judges.evaluation.benchmarks.demonstration import DEMO_SPECS
from judges.evaluation.benchmarks.registry import BENCHMARKS, is_benchmark_name, limit_items, load_benchmark

__all__ = [
    "BENCHMARKS",
    "DEMO_SPECS",
    "Benchmark",
    "Official",
    "is_benchmark_name",
    "limit_items",
    "load_benchmark",
]
