"""Serves a scorer over HTTP (`assay serve`), and as the reward function of a trainer."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from judges.serving.app import Limits
    from judges.serving.reward_function import RewardFunction
    from judges.serving.server import ServerConfig, serve
    from judges.serving.service import Service

_MODULES = {
    "Limits": "app",
    "RewardFunction": "reward_function",
    "ServerConfig": "server",
    "Service": "service",
    "serve": "server",
}

__all__ = [
    "Limits",
    "RewardFunction",
    "ServerConfig",
    "Service",
    "serve",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
