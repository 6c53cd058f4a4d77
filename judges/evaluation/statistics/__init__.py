"""Confidence intervals, the bootstrap, paired significance tests, and prediction-powered inference."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from judges.evaluation.statistics.intervals import wilson
    from judges.evaluation.statistics.prediction_powered import Estimate, TooFewLabels, estimate
    from judges.evaluation.statistics.significance import contrasts, holm, mcnemar
    from judges.evaluation.statistics.tally import Mean, Tally

_MODULES = {
    "Estimate": "prediction_powered",
    "Mean": "tally",
    "Tally": "tally",
    "TooFewLabels": "prediction_powered",
    "contrasts": "significance",
    "estimate": "prediction_powered",
    "holm": "significance",
    "mcnemar": "significance",
    "wilson": "intervals",
}

__all__ = [
    "Estimate",
    "Mean",
    "Tally",
    "TooFewLabels",
    "contrasts",
    "estimate",
    "holm",
    "mcnemar",
    "wilson",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
