"""The trained reward head of critique-out-loud, beside the engine that writes: asked in batches."""

from __future__ import annotations

import asyncio
import math
import time
import warnings
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module
from pathlib import Path
from typing import Any

from judges.engines.base import RequestFailed
from judges.errors import CannotRun
from judges.template import load_template
from judges.types import Failure, Message, Usage

HEAD_ENGINES = ("transformers", "vllm")
Waiting = tuple[str, list[int], "asyncio.Future[float]"]


class TrainedHead:
    """A folder of `assay train --kind critique-out-loud`, whose head reads a reward at a critique's end.

    It is a second copy of the engine's weights; its memory is told when it is opened. Critiques that finish at
    about the same time run as one batch, in which those of one response share their prompt.
    """

    def __init__(self, model: str, engine: str = "transformers") -> None:
        if engine not in HEAD_ENGINES:
            raise CannotRun(f"head_engine is {' or '.join(HEAD_ENGINES)}, not {engine!r}")
        self.engine = engine
        self._folder = Path(model).expanduser()
        self._module: Any = import_module("classic_rm.critiques.model")  # found by name, as the registry does
        self.about: dict[str, Any] = self._module.read_about(self._folder)
        statistics = import_module("classic_rm.model").read_statistics(self._folder)
        self.temperature = float(statistics.get("temperature", 1.0))
        self._model: Any = None
        self._thread: ThreadPoolExecutor | None = None
        self._waiting: list[Waiting] = []
        self._drains: asyncio.Task[None] | None = None

    def settings(self, asked: Mapping[str, Any]) -> dict[str, Any]:
        """A judge's settings with what the head was trained with. Raises CannotRun for another prompt: its
        critiques end in states that the head never saw."""
        trained = str(self._folder / "template.md")
        other = asked.get("template")
        if other and load_template(str(other)).digest != load_template(trained).digest:
            raise CannotRun(
                f"the head of {self._folder.name!r} was trained with the template that lies beside it, not with"
                f" {other!r}: leave template= out, or read the score another way (read=expected)"
            )
        return {"max_tokens": self.about["max_tokens"], **asked, "template": trained, "read": "head"}

    def open(self) -> None:
        """Load the weights, once."""
        if self._model is None:
            gib = self._module.weights_size(self._folder) / 2**30
            what, more = ("engine on", ", and its cache") if self.engine == "vllm" else ("copy of", "")
            warnings.warn(f"the reward head opens a second {what} the same weights: {gib:.1f} GiB{more}", stacklevel=2)
            self._model = self._module.open_head(str(self._folder), self.engine)
            self._thread = ThreadPoolExecutor(1, thread_name_prefix="assay-head")

    async def reward(self, messages: tuple[Message, ...], critique: str) -> tuple[float, Usage]:
        """The raw reward at the end of a critique that answers `messages`. Raises RequestFailed."""
        encoded = self._model.encode(messages, critique)
        if isinstance(encoded, Failure):
            raise RequestFailed(encoded.reason, encoded.message)
        started = time.perf_counter()
        done: asyncio.Future[float] = asyncio.get_running_loop().create_future()
        self._waiting.append((repr(messages), encoded.ids, done))
        if self._drains is None or self._drains.done():
            self._drains = asyncio.get_running_loop().create_task(self._drain())
        value = await done
        if not math.isfinite(value):
            raise RequestFailed("engine", f"the reward is {value}")
        return value, Usage(prompt_tokens=len(encoded.ids), seconds=time.perf_counter() - started)

    async def _drain(self) -> None:
        while self._waiting:
            await asyncio.sleep(0.005)  # critiques that finish together are read together
            batch, self._waiting = self._waiting, []
            try:
                values = await asyncio.get_running_loop().run_in_executor(self._thread, self._read, batch)
            except Exception as error:  # whatever it is, those who wait must hear of it
                failed = error
                if not isinstance(error, CannotRun):
                    failed = RequestFailed("engine", (str(error) or type(error).__name__).splitlines()[0])
                for _, _, done in batch:
                    if not done.done():
                        done.set_exception(failed)
                continue
            for (_, _, done), value in zip(batch, values, strict=True):
                if not done.done():
                    done.set_result(value)

    def _read(self, batch: list[Waiting]) -> list[float]:
        groups: dict[str, list[int]] = {}
        for place, (prompt, _, _) in enumerate(batch):
            groups.setdefault(prompt, []).append(place)
        told = self._model.rewards([[batch[place][1] for place in places] for places in groups.values()])
        values = [0.0] * len(batch)
        for places, rewards in zip(groups.values(), told, strict=True):
            for place, (reward,) in zip(places, rewards, strict=True):
                values[place] = float(reward)
        return values

    def close(self) -> None:
        """Free the weights. Safe to call twice."""
        if self._model is not None and self.engine == "vllm":
            self._model.close()  # what is being read ends: a restart of its engine is not waited for
        if self._thread is not None:
            self._thread.shutdown()
        if self._model is not None:
            self._model.close()
        self._model = self._thread = None


def has_head(model: str) -> bool:
    """Whether a model is a folder with a trained reward head in it."""
    return (Path(model).expanduser() / "head.safetensors").is_file()
