"""The trained reward head of critique-out-loud, which reads the rewards of finished critiques in batches."""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module
from pathlib import Path
from typing import Any

from judges.engines.base import RequestFailed
from judges.engines.concurrency import Batcher
from judges.errors import CannotRun
from judges.template import load_template
from judges.types import Failure, Message, Usage

HEAD_ENGINES = ("transformers", "vllm")
_Critique = tuple[str, list[int]]  # what identifies the prompt, and the token ids of prompt and critique


class TrainedHead:
    """The head of a folder of `assay train --kind critique-out-loud`: the reward at the end of a critique.

    It is a second copy of the engine's weights; a warning states its memory when it is opened. Critiques that finish
    at about the same time are one batch, in which the critiques of one prompt share its computation.
    """

    def __init__(self, model: str, engine: str = "transformers") -> None:
        if engine not in HEAD_ENGINES:
            raise CannotRun(f"head_engine is {' or '.join(HEAD_ENGINES)}, not {engine!r}")
        self.engine = engine
        self._folder = Path(model).expanduser()
        self._module: Any = import_module(
            "classic_rm.critiques.model"
        )  # by name, as the registry does: an import would be circular
        self.about: dict[str, Any] = self._module.read_critique_config(self._folder)
        statistics = import_module("classic_rm.model").read_statistics(self._folder)
        self.temperature = float(statistics.get("temperature", 1.0))
        self._model: Any = None
        self._thread: ThreadPoolExecutor | None = None
        self._batches: Batcher[_Critique, float] | None = None

    def settings(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """A judge's settings, completed by those of the head's training.

        Raises CannotRun for another template: the head has not been trained on critiques of another prompt.
        """
        template = str(self._folder / "template.md")
        other = given.get("template")
        if other and load_template(str(other)).digest != load_template(template).digest:
            raise CannotRun(
                f"template={other!r} is not the one that the head of {self._folder.name!r} was trained with:"
                " leave template= out, or read the score in another way (read=expected)"
            )
        return {"max_tokens": self.about["max_tokens"], **given, "template": template, "read": "head"}

    def open(self) -> None:
        """Load the weights, once."""
        if self._model is None:
            gib = self._module.weights_size(self._folder) / 2**30
            copy, cache = ("engine on", ", and its cache") if self.engine == "vllm" else ("copy of", "")
            warnings.warn(f"the reward head opens a second {copy} the same weights: {gib:.1f} GiB{cache}", stacklevel=2)
            self._model = self._module.load_critique_reward_model(str(self._folder), self.engine)
            self._thread = ThreadPoolExecutor(1, thread_name_prefix="assay-head")
            self._batches = Batcher(self._read, self._thread, delay=0.005)

    async def reward(self, messages: tuple[Message, ...], critique: str) -> tuple[float, Usage]:
        """The raw reward at the end of a critique that answers `messages`. Raises RequestFailed."""
        assert self._batches is not None  # `open` comes first
        encoded = self._model.encode(messages, critique)
        if isinstance(encoded, Failure):
            raise RequestFailed(encoded.reason, encoded.message)
        started = time.perf_counter()
        try:
            value = await self._batches.submit((repr(messages), encoded.ids))
        except CannotRun:
            raise
        except Exception as error:
            raise RequestFailed.from_error(error) from error
        if not math.isfinite(value):
            raise RequestFailed("engine", f"the reward is {value}")
        return value, Usage(prompt_tokens=len(encoded.ids), seconds=time.perf_counter() - started)

    def _read(self, batch: list[_Critique]) -> list[float]:
        groups: dict[str, list[int]] = {}
        for i, (prompt, _) in enumerate(batch):
            groups.setdefault(prompt, []).append(i)
        rewards = self._model.rewards([[batch[i][1] for i in indices] for indices in groups.values()])
        values = [0.0] * len(batch)
        for indices, of_prompt in zip(groups.values(), rewards, strict=True):
            for i, (reward,) in zip(indices, of_prompt, strict=True):
                values[i] = float(reward)
        return values

    def close(self) -> None:
        """Free the weights. Safe to call twice."""
        if self._model is not None and self.engine == "vllm":
            self._model.close()  # ends the running batch without waiting for a restart of the engine
        if self._thread is not None:
            self._thread.shutdown()
        if self._model is not None:
            self._model.close()
        self._model = self._thread = None


def has_head(model: str) -> bool:
    """Whether a model is a folder with a trained reward head."""
    return (Path(model).expanduser() / "head.safetensors").is_file()
