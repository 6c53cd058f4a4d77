"""Engines are opened here and counted: scorers that name the same model and settings share one."""

from __future__ import annotations

import atexit
import json
import threading
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from types import MappingProxyType
from typing import Any

from judges.engines.base import Engine
from judges.engines.embedded import fingerprint, resolve_model
from judges.errors import CannotRun

ENGINE_PREFIX = "engine."  # of a setting that goes to the engine as it is
ENGINES = ("vllm", "openai", "transformers")
# Where and how patiently an engine is asked: no part of what it says, so a run goes on with another of each.
PLACES = ("base_url", "api_key", "timeout", "retries", "patience")
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
        from judges.engines.openai.engine import OpenAIEngine

        return OpenAIEngine(model, **settings)
    if kind == "transformers":
        from judges.engines.transformers import TransformersEngine

        return TransformersEngine(model, **settings)
    raise CannotRun(f"unknown engine {kind!r}; there are {', '.join(ENGINES)}")


class EngineHandle:
    """One user's hold on an engine: named when built, opened when first asked for, shared, given back by `close`.

    `settings` are the user's own beside its named ones: each is written `engine.KEY` and goes to the engine as
    KEY. With a store every completion is kept there. Raises CannotRun for a setting that is not the engine's.
    """

    def __init__(
        self,
        user: str,
        model: str,
        kind: str = "",
        base_url: str | Sequence[str] = "",
        api_key: str = "",
        store: str = "",
        settings: Mapping[str, Any] = MappingProxyType({}),
    ) -> None:
        if unknown := [key for key in settings if not key.startswith(ENGINE_PREFIX)]:
            raise CannotRun(
                f"{user} has no setting {', '.join(unknown)}"
                f" (the engine's own are written {ENGINE_PREFIX}{unknown[0]}=…)"
            )
        self.model, self.kind = model, kind or default_engine()
        self.settings = {key.removeprefix(ENGINE_PREFIX): value for key, value in settings.items()}
        self.settings |= {key: text for key, text in (("base_url", base_url), ("api_key", api_key)) if text}
        self._store, self._only_store = store, False
        self._opened: Engine | None = None
        self._stored: Engine | None = None
        self._instead: Engine | None = None

    @property
    def engine(self) -> Engine:
        """The engine to ask: the store before the engine where there is one."""
        if self._instead is not None:
            return self._instead
        if self._stored is None and self._opened is None:
            if not self._only_store:
                self._opened = open_engine(self.kind, self.model, **self.settings)
            if self._store:
                from judges.engines.store import StoredEngine

                self._stored = StoredEngine(self._opened, Path(self._store), self.identity())
        found = self._stored or self._opened
        assert found is not None
        return found

    def use(self, engine: Engine) -> None:
        """Ask this engine from now on, until `close`; it belongs to whoever made it."""
        self._instead = engine

    def remember(self, path: Path) -> None:
        """Keep every completion in this store, and read it from there (before the engine is opened)."""
        self._store = self._store or str(path)

    def reread(self, path: Path) -> None:
        """Answer from this store alone: no engine is opened, and what is not there fails."""
        self.remember(path)
        self._only_store = True

    def identity(self) -> dict[str, Any]:
        """What decides the text that comes out."""
        return {
            "model": self.model,
            "revision": None if self.kind == "openai" else fingerprint(resolve_model(self.model)),
            "engine": self.kind,
            "engine_settings": {key: value for key, value in self.settings.items() if key not in PLACES},
        }

    def close(self) -> None:
        """Give the engine back. Safe to call twice."""
        stored, opened = self._stored, self._opened
        self._instead = self._stored = self._opened = None
        if stored is not None:
            stored.close()
        if opened is not None:
            release(opened)


@atexit.register
def _close_all() -> None:
    with _lock:
        for engine, _ in _open.values():
            engine.close()
        _open.clear()
