"""`assay score`: scores a file or folder of rows, resumes interrupted runs, on one machine or with Ray workers."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from judges.batch.output import ScoreOptions
    from judges.batch.ray_workers import Cluster, WorkerConfig, score_cluster
    from judges.batch.run import ScoreSummary, score_file

_MODULES = {
    "Cluster": "ray_workers",
    "ScoreOptions": "output",
    "ScoreSummary": "run",
    "WorkerConfig": "ray_workers",
    "score_cluster": "ray_workers",
    "score_file": "run",
}

__all__ = [
    "Cluster",
    "ScoreOptions",
    "ScoreSummary",
    "WorkerConfig",
    "score_cluster",
    "score_file",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
