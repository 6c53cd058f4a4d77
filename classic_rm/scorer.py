"""`bradley-terry`: a reward model as a Scorer."""

from __future__ import annotations

import math
import queue
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Literal

from classic_rm.data import Encoded
from classic_rm.reward_model import RewardModel
from judges.engines.embedded import fingerprint, resolve_model
from judges.errors import CannotRun
from judges.scorer import Scorer, softmax_preference
from judges.types import REAL_LINE, Failure, Item, Judgment, Scorecard, Usage


class BradleyTerryScorer(Scorer):
    """Raw rewards of prompt and response; preference by their softmax.

    Reads what has arrived of the source, up to 16 batches, orders it by length and scores it.
    """

    name = "bradley-terry"
    scale = REAL_LINE

    def __init__(
        self,
        model: str = "",
        batch_size: int = 16,
        max_length: int | None = None,
        dtype: str = "float32",
        padding_side: Literal["left", "right"] = "right",
    ) -> None:
        if not model:
            raise CannotRun("scorer 'bradley-terry' needs model=, a reward model: a folder, or a hub name")
        if padding_side not in ("left", "right"):
            raise CannotRun(f"padding_side is left or right, not {padding_side!r}")
        if dtype not in ("float32", "bfloat16", "float16"):
            raise CannotRun(f"dtype is float32, bfloat16 or float16, not {dtype!r}")
        if batch_size < 1:
            raise CannotRun("batch_size is at least 1")
        path = resolve_model(model)  # a wrong name is told now, the weights are loaded when first needed
        self._build: Callable[[], RewardModel] = lambda: RewardModel(model, batch_size, max_length, dtype, padding_side)
        self._model: RewardModel | None = None
        self._settings = {
            "model": model,
            "revision": fingerprint(path),
            "max_length": max_length,
            "dtype": dtype,
        }

    @property
    def model(self) -> RewardModel:
        """The reward model, loaded when first needed."""
        if self._model is None:
            self._model = self._build()
        return self._model

    def close(self) -> None:
        self._model = None

    def identity(self) -> dict[str, Any]:
        return {"scorer": self.name, **self._settings}

    def stream(self, items: Iterable[Item]) -> Iterator[Scorecard]:
        for window in _arrived(items, 16 * self.model.batch_size):
            yield from self._cards(window)

    def _cards(self, items: list[Item]) -> Iterator[Scorecard]:
        started = time.perf_counter()
        encoded = [[self._encode(item, response) for response in item.responses] for item in items]
        rows = [e.ids for sides in encoded for e in sides if isinstance(e, Encoded)]
        rewards = iter(self.model.rewards(rows))
        each = (time.perf_counter() - started) / max(1, len(rows))
        for item, sides in zip(items, encoded, strict=True):
            judgments = tuple(
                Judgment(failure=e) if isinstance(e, Failure) else _judgment(next(rewards), len(e.ids), each)
                for e in sides
            )
            yield Scorecard(id=item.id, judgments=judgments, preference=softmax_preference(judgments))

    def _encode(self, item: Item, response: str) -> Encoded | Failure:
        if not response.strip():
            return Failure("empty", "the response is empty")
        return self.model.encode(item.messages, response)


def _judgment(reward: float, tokens: int, seconds: float) -> Judgment:
    usage = Usage(prompt_tokens=tokens, seconds=seconds)
    if not math.isfinite(reward):
        return Judgment(failure=Failure("engine", f"the reward is {reward}"), usage=usage)
    return Judgment(score=reward, votes=(reward,), read="reward", usage=usage)


def _arrived(items: Iterable[Item], most: int) -> Iterator[list[Item]]:
    """Lists of what the source has given so far, at most `most`; waits only when there is nothing."""
    waiting: queue.Queue[Item | None] = queue.Queue(maxsize=2 * most)
    stopped = threading.Event()
    failed: list[BaseException] = []

    def put(item: Item | None) -> None:
        while not stopped.is_set():
            try:
                waiting.put(item, timeout=0.2)
            except queue.Full:
                continue
            return

    def feed() -> None:
        try:
            for item in items:
                put(item)
                if stopped.is_set():
                    return
        except BaseException as error:
            failed.append(error)
        put(None)

    threading.Thread(target=feed, name="assay-feed", daemon=True).start()
    try:
        ended = False
        while not ended:
            window = [waiting.get()]
            while len(window) < most and window[-1] is not None:
                try:
                    window.append(waiting.get(timeout=0.01))
                except queue.Empty:
                    break
            ended = window[-1] is None
            kept = [item for item in window if item is not None]
            if kept:
                yield kept
        if failed:
            raise failed[0]
    finally:
        stopped.set()
