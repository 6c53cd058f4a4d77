"""Preference data from a policy and a scorer: pairs for DPO, new prompts, best of N, and rounds of self-rewarding.

The rounds are in `judges.preferences.iterate`: `from judges.preferences.iterate import iterate`.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from judges.preferences.dpo import DPOSettings
    from judges.preferences.export import PairOptions, PairStatistics
    from judges.preferences.iterate_config import IterateConfig, JudgeConfig
    from judges.preferences.pair_selection import SelectionRule, select_pairs
    from judges.preferences.pairs import make_pairs
    from judges.preferences.self_instruct import SelfInstructSettings, make_prompts

_MODULES = {
    "DPOSettings": "dpo",
    "IterateConfig": "iterate_config",
    "JudgeConfig": "iterate_config",
    "PairOptions": "export",
    "PairStatistics": "export",
    "SelectionRule": "pair_selection",
    "SelfInstructSettings": "self_instruct",
    "make_pairs": "pairs",
    "make_prompts": "self_instruct",
    "select_pairs": "pair_selection",
}

__all__ = [
    "DPOSettings",
    "IterateConfig",
    "JudgeConfig",
    "PairOptions",
    "PairStatistics",
    "SelectionRule",
    "SelfInstructSettings",
    "make_pairs",
    "make_prompts",
    "select_pairs",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
