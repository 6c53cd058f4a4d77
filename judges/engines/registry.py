"""Opens engines by name; scorers with the same model and settings share one, which its last user closes."""

from __future__ import annotations

import atexit
import json
import threading
from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from types import MappingProxyType
from typing import Any

from judges.engines.base import Engine
from judges.engines.embedded import PREFIX, fingerprint, resolve_model, template_digest
from judges.errors import CannotRun
from judges.plugins import Registry, setting_names, unknown_name

ENGINE_PREFIX = "engine."  # of the settings that are passed on to the engine
ENGINES = Registry(
    "engine",
    "assay.engines",
    {
        "vllm": "judges.engines.vllm:VLLMEngine",
        "openai": "judges.engines.openai:OpenAIEngine",
        "transformers": "judges.engines.transformers:TransformersEngine",
    },
)
# Where, how long and how fast to ask a server. They do not change its completions, so a run resumes with other values.
CONNECTION_SETTINGS = (
    "base_url",
    "api_key",
    "timeout",
    "retries",
    "patience",
    "requests_per_minute",
    "tokens_per_minute",
)
_lock = threading.Lock()
_open: dict[str, tuple[Engine, int]] = {}


def default_engine() -> str:
    """vLLM where it is installed, else transformers."""
    return "vllm" if find_spec("vllm") else "transformers"


def open_engine(kind: str, model: str, **settings: Any) -> Engine:
    """An engine by name, built in or from the entry-point group `assay.engines`; hand it back with `release`.

    One that is open with the same model and settings is shared. Raises CannotRun where it cannot be opened.
    """
    key = json.dumps([kind, model, settings], sort_keys=True, default=str)
    with _lock:
        engine, users = _open.get(key, (None, 0))
        if engine is None:
            engine = _build(kind, model, settings)
        _open[key] = (engine, users + 1)
        return engine


def release(engine: Engine) -> None:
    """Count one user less of an engine; the last one closes it."""
    with _lock:
        for key, (opened, users) in list(_open.items()):
            if opened is engine:
                if users > 1:
                    _open[key] = (opened, users - 1)
                else:
                    del _open[key]
                    opened.close()


def _build(kind: str, model: str, settings: dict[str, Any]) -> Engine:
    engine_class = ENGINES.load(kind)
    if not isinstance(engine_class, type) or not issubclass(engine_class, Engine):
        raise ENGINES.error(kind, f"is {engine_class!r}, not a subclass of Engine")
    build: Callable[..., Engine] = engine_class  # an engine takes settings of its own
    return build(model, **settings)


class EngineHandle:
    """An owner's reference to a shared engine, which is opened when first needed and released by `close`.

    `owner` is what messages call the owner, `owner_class` its class, whose settings they list. `settings` are the
    `**settings` of the owner: each must be written `engine.KEY` and is passed to the engine as KEY. With a `store`,
    completions are kept in that file. Raises CannotRun for any other setting.
    """

    def __init__(
        self,
        owner: str,
        owner_class: type,
        model: str,
        kind: str = "",
        base_url: str | Sequence[str] = "",
        api_key: str = "",
        store: str = "",
        settings: Mapping[str, Any] = MappingProxyType({}),
    ) -> None:
        if unknown := [key for key in settings if not key.startswith(ENGINE_PREFIX)]:
            known = [*setting_names(owner_class), f"{ENGINE_PREFIX}KEY (a setting of the engine)"]
            raise CannotRun(unknown_name(f"{owner} has no setting", unknown[0], known, "It takes"))
        self.model, self.kind = model, kind or default_engine()
        self.settings = {key.removeprefix(ENGINE_PREFIX): value for key, value in settings.items()}
        self.settings |= {key: text for key, text in (("base_url", base_url), ("api_key", api_key)) if text}
        self._store, self._only_store = store, False
        self._engine: Engine | None = None
        self._stored_engine: Engine | None = None
        self._given_engine: Engine | None = None

    @property
    def engine(self) -> Engine:
        """The engine to send requests to; with a store, the one that looks there first."""
        if self._given_engine is not None:
            return self._given_engine
        if self._stored_engine is None and self._engine is None:
            if not self._only_store:
                server = self.kind == "openai"
                settings = {k: v for k, v in self.settings.items() if not (server and k == "revision")}
                self._engine = open_engine(self.kind, self.model, **settings)
            if self._store:
                from judges.engines.store import StoredEngine

                self._stored_engine = StoredEngine(self._engine, Path(self._store), self.identity())
        engine = self._stored_engine or self._engine
        assert engine is not None
        return engine

    def use_engine(self, engine: Engine) -> None:
        """Send requests to this engine until `close`, which does not close it."""
        self._given_engine = engine

    def use_store(self, path: Path) -> None:
        """Keep completions in the store at `path` and look there first. To be called before the engine is opened."""
        self._store = self._store or str(path)

    def reread(self, path: Path) -> None:
        """Take completions from the store at `path` alone. A request that is not there fails; no engine is opened."""
        self.use_store(path)
        self._only_store = True

    def identity(self) -> dict[str, Any]:
        """What determines the completions: model, revision, chat template, engine and its settings.

        `engine.revision=` names the checkpoint that a server has under the model's name.
        """
        return {
            "model": self.model,
            "revision": self._revision(),
            "engine": self.kind,
            "engine_settings": {key: value for key, value in self.settings.items() if key not in CONNECTION_SETTINGS},
        } | self._template_identity()

    def _revision(self) -> str | None:
        """What tells checkpoints of one name apart: a folder's fingerprint, or what the user says of a server's."""
        if self.kind == "openai":
            return str(self.settings["revision"]) if "revision" in self.settings else None
        return fingerprint(resolve_model(self.model))

    def _template_identity(self) -> dict[str, Any]:
        """The digest of a folder's chat template and generation settings, which `fingerprint` does not cover."""
        if self.kind == "openai" or self.model.startswith(PREFIX):
            return {}  # a server's are not known; an embedded model's never change
        digest = template_digest(resolve_model(self.model))
        return {} if digest is None else {"chat_template": digest}

    def close(self) -> None:
        """Release the engine. Safe to call twice."""
        stored_engine, engine = self._stored_engine, self._engine
        self._given_engine = self._stored_engine = self._engine = None
        if stored_engine is not None:
            stored_engine.close()
        if engine is not None:
            release(engine)


@atexit.register
def _close_all() -> None:
    with _lock:
        for engine, _ in _open.values():
            engine.close()
        _open.clear()
