"""Classic Bradley–Terry reward models: training, scoring with transformers or vLLM, ensembles, doctor checks.

Names are imported when they are first used, since most of them need torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from classic_rm.bag_of_words import BagOfWords
    from classic_rm.ensemble import Ensemble
    from classic_rm.reward_model import RewardBackend, RewardModel
    from classic_rm.scorer import BradleyTerryScorer
    from classic_rm.settings import ModelSettings, TrainingSettings
    from classic_rm.training import TrainingResult, train
    from classic_rm.vllm_pooling import PoolingModel

_MODULES = {
    "BagOfWords": "bag_of_words",
    "BradleyTerryScorer": "scorer",
    "Ensemble": "ensemble",
    "ModelSettings": "settings",
    "PoolingModel": "vllm_pooling",
    "RewardBackend": "reward_model",
    "RewardModel": "reward_model",
    "TrainingResult": "training",
    "TrainingSettings": "settings",
    "train": "training",
}
__all__ = [
    "BagOfWords",
    "BradleyTerryScorer",
    "Ensemble",
    "ModelSettings",
    "PoolingModel",
    "RewardBackend",
    "RewardModel",
    "TrainingResult",
    "TrainingSettings",
    "train",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
