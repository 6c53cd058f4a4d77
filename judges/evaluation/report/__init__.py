"""Reports of a run of `assay compare`: an HTML page, Markdown, CSV and plots, and the changes between two runs."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from judges.evaluation.report.changes import Changes, compare_runs, write_changes
    from judges.evaluation.report.html import write_report
    from judges.evaluation.report.markdown import render_csv, render_markdown
    from judges.evaluation.report.plots import write_plots

_MODULES = {
    "Changes": "changes",
    "compare_runs": "changes",
    "render_csv": "markdown",
    "render_markdown": "markdown",
    "write_changes": "changes",
    "write_plots": "plots",
    "write_report": "html",
}

__all__ = [
    "Changes",
    "compare_runs",
    "render_csv",
    "render_markdown",
    "write_changes",
    "write_plots",
    "write_report",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
