"""Engines are opened here and counted: scorers that name the same model and settings share one."""

from __future__ import annotations

import atexit
import json
import threading
from importlib.util import find_spec
from typing import Any

from judges.engines.base import Engine
from judges.errors import CannotRun

ENGINES = ("vllm", "openai", "transformers")
_lock = threading.Lock()
_open: dict[str, tuple[Engine, int]] = {}


def default_engine() -> str:
    """vLLM where it is installed, else transformers."""
    return "vllm" if find_spec("vllm") else "transformers"


def open_engine(kind: str, model: str, **settings: Any) -> Engine:
    """An engine, shared with whoever opened the same before. Give it back with `release`."""
    key = json.dumps([kind, model, settings], sort_keys=True, default=str)
    with _lock:
        engine, users = _open.get(key, (None, 0))
        if engine is None:
            engine = _build(kind, model, settings)
        _open[key] = (engine, users + 1)
        return engine


def release(engine: Engine) -> None:
    """Give an engine back; the last user closes it."""
    with _lock:
        for key, (held, users) in list(_open.items()):
            if held is engine:
                if users > 1:
                    _open[key] = (held, users - 1)
                else:
                    del _open[key]
                    held.close()


def _build(kind: str, model: str, settings: dict[str, Any]) -> Engine:
    if kind == "vllm":
        from judges.engines.vllm import VLLMEngine

        return VLLMEngine(model, **settings)
    if kind == "openai":
        from judges.engines.openai import OpenAIEngine

        return OpenAIEngine(model, **settings)
    if kind == "transformers":
        from judges.engines.transformers import TransformersEngine

        return TransformersEngine(model, **settings)
    raise CannotRun(f"unknown engine {kind!r}; there are {', '.join(ENGINES)}")


@atexit.register
def _close_all() -> None:
    with _lock:
        for engine, _ in _open.values():
            engine.close()
        _open.clear()
