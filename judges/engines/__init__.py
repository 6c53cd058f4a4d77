"""Engines complete text: vLLM, OpenAI-compatible servers and transformers, each with a store of completions."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from judges.engines.base import Completion, Engine, Generation, LogLikelihood, Request, RequestFailed
    from judges.engines.policy import Policy, PolicyOutput, Prompt
    from judges.engines.registry import open_engine, release
    from judges.engines.store import Store, StoredEngine

_MODULES = {
    "Completion": "base",
    "Engine": "base",
    "Generation": "base",
    "LogLikelihood": "base",
    "Policy": "policy",
    "PolicyOutput": "policy",
    "Prompt": "policy",
    "Request": "base",
    "RequestFailed": "base",
    "Store": "store",
    "StoredEngine": "store",
    "open_engine": "registry",
    "release": "registry",
}

__all__ = [
    "Completion",
    "Engine",
    "Generation",
    "LogLikelihood",
    "Policy",
    "PolicyOutput",
    "Prompt",
    "Request",
    "RequestFailed",
    "Store",
    "StoredEngine",
    "open_engine",
    "release",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
