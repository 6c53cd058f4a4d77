"""Metrics of one scorer on one benchmark, and of several scorers on the same rows."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from judges.evaluation.metrics.accuracy import accuracy_numbers
    from judges.evaluation.metrics.agreement import agreement_numbers
    from judges.evaluation.metrics.correlation import correlation_numbers
    from judges.evaluation.metrics.length_bias import length_bias_numbers
    from judges.evaluation.metrics.position_bias import position_bias_numbers
    from judges.evaluation.metrics.ranking import ranking_numbers
    from judges.evaluation.metrics.scorer_agreement import scorer_agreement_numbers
    from judges.evaluation.metrics.style_bias import author_bias_numbers, style_bias_numbers

_MODULES = {
    "accuracy_numbers": "accuracy",
    "agreement_numbers": "agreement",
    "author_bias_numbers": "style_bias",
    "correlation_numbers": "correlation",
    "length_bias_numbers": "length_bias",
    "position_bias_numbers": "position_bias",
    "ranking_numbers": "ranking",
    "scorer_agreement_numbers": "scorer_agreement",
    "style_bias_numbers": "style_bias",
}

__all__ = [
    "accuracy_numbers",
    "agreement_numbers",
    "author_bias_numbers",
    "correlation_numbers",
    "length_bias_numbers",
    "position_bias_numbers",
    "ranking_numbers",
    "scorer_agreement_numbers",
    "style_bias_numbers",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
