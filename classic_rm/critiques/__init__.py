"""Critique-out-loud: a causal LM that writes a critique, and a reward head that is read at its end.

Ankner et al. 2024, arXiv 2408.11791. Names are imported when they are first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from classic_rm.critiques.model import CritiqueNetwork, CritiqueRewardModel, PooledCritiqueRewardModel
    from classic_rm.critiques.training import CritiquePrompt, CritiqueTrainingResult, train_critiques

_MODULES = {
    "CritiqueNetwork": "model",
    "CritiquePrompt": "training",
    "CritiqueRewardModel": "model",
    "CritiqueTrainingResult": "training",
    "PooledCritiqueRewardModel": "model",
    "train_critiques": "training",
}
__all__ = [
    "CritiqueNetwork",
    "CritiquePrompt",
    "CritiqueRewardModel",
    "CritiqueTrainingResult",
    "PooledCritiqueRewardModel",
    "train_critiques",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
