"""The built-in scorers, one file each, and what only scorers share. `load_scorer` finds them by name."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from judges.scorers.baselines import Length, Random
    from judges.scorers.calibrated import Calibrated
    from judges.scorers.critique_out_loud import CritiqueOutLoud
    from judges.scorers.implicit_reward import ImplicitReward
    from judges.scorers.llm_judge import LLMJudge
    from judges.scorers.pairwise import Pairwise
    from judges.scorers.panel import Panel
    from judges.scorers.rules import Rules
    from judges.scorers.self_rewarding import SelfRewarding

_MODULES = {
    "Calibrated": "calibrated",
    "CritiqueOutLoud": "critique_out_loud",
    "ImplicitReward": "implicit_reward",
    "LLMJudge": "llm_judge",
    "Length": "baselines",
    "Pairwise": "pairwise",
    "Panel": "panel",
    "Random": "baselines",
    "Rules": "rules",
    "SelfRewarding": "self_rewarding",
}

__all__ = [
    "Calibrated",
    "CritiqueOutLoud",
    "ImplicitReward",
    "LLMJudge",
    "Length",
    "Pairwise",
    "Panel",
    "Random",
    "Rules",
    "SelfRewarding",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
