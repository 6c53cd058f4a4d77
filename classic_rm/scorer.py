"""`bradley-terry`: a reward model as a Scorer."""

from __future__ import annotations

import math
import queue
import statistics
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any, Literal

from classic_rm.data import Encoded
from classic_rm.ensemble import Ensemble, members_of
from classic_rm.model import read_statistics
from classic_rm.reward_model import RewardModel, Rewards
from classic_rm.vllm_pooling import PoolingModel
from judges.engines.embedded import fingerprint, resolve_model
from judges.errors import CannotRun
from judges.scorer import Scorer, softmax_preference
from judges.types import REAL_LINE, Failure, Item, Judgment, Scorecard, Usage


class BradleyTerryScorer(Scorer):
    """Raw rewards of prompt and response; preference by their softmax.

    An ensemble's reward is the members' mean less `conservative` times their deviation; its votes are the
    members' rewards. Reads what has arrived of the source, up to 16 batches, and scores it: a prompt is
    computed once for all its responses.
    """

    name = "bradley-terry"
    scale = REAL_LINE

    def __init__(
        self,
        model: str = "",
        engine: str = "transformers",
        batch_size: int = 16,
        max_length: int | None = None,
        dtype: str = "float32",
        padding_side: Literal["left", "right"] = "right",
        conservative: float = 0.0,
        temperature: float | None = None,
        remote_code: bool = False,
        share_prompts: bool = True,
        add_bos: bool = False,
    ) -> None:
        if not model:
            raise CannotRun("scorer 'bradley-terry' needs model=, a reward model: a folder, or a hub name")
        if engine not in ("transformers", "vllm"):
            raise CannotRun(f"bradley-terry's engine is transformers or vllm, not {engine!r}")
        if padding_side not in ("left", "right"):
            raise CannotRun(f"padding_side is left or right, not {padding_side!r}")
        if dtype not in ("float32", "bfloat16", "float16"):
            raise CannotRun(f"dtype is float32, bfloat16 or float16, not {dtype!r}")
        if batch_size < 1:
            raise CannotRun("batch_size is at least 1")
        # A wrong name is told now, the weights are loaded when first needed.
        members = members_of(model)
        path = model if members else resolve_model(model)
        if conservative and not members and read_statistics(path).get("heads", 1) < 2:
            raise CannotRun(f"conservative={conservative} needs an ensemble, and {model!r} holds one model")
        if temperature is not None and not temperature > 0:
            raise CannotRun(f"temperature is above 0, not {temperature}")

        def build(of: str) -> Rewards:
            if engine == "vllm":
                return PoolingModel(of, max_length, dtype, add_bos)
            return RewardModel(of, batch_size, max_length, dtype, padding_side, remote_code, share_prompts, add_bos)

        self._build: Callable[[], Rewards] = lambda: build(model)
        if members:
            means = [float(read_statistics(member).get("mean", 0.0)) for member in members]
            self._build = lambda: Ensemble([partial(build, str(member)) for member in members], means)
        self._model: Rewards | None = None
        self._window = 16 * batch_size
        kept = {} if members or conservative else read_statistics(path)
        self._statistics = (float(kept["mean"]), float(kept["deviation"])) if "deviation" in kept else None
        self._conservative = conservative
        fitted = 1.0 if members else float(read_statistics(path).get("temperature", 1.0))
        self._temperature = temperature or fitted
        self._settings = {
            "model": model,
            "revision": [fingerprint(str(member)) for member in members] or fingerprint(path),
            "engine": engine,
            "max_length": max_length,
            "dtype": dtype,
            "conservative": conservative,
            "temperature": self._temperature,
            "add_bos": add_bos,
        }

    @property
    def model(self) -> Rewards:
        """The reward model, loaded when first needed."""
        if self._model is None:
            self._model = self._build()
        return self._model

    def statistics(self) -> tuple[float, float] | None:
        """Mean and deviation of its rewards on held-out prompts, where the checkpoint keeps them."""
        return self._statistics

    def close(self) -> None:
        if self._model is not None:
            self._model.close()
        self._model = None

    def identity(self) -> dict[str, Any]:
        return {"scorer": self.name, **self._settings}

    def stream(self, items: Iterable[Item]) -> Iterator[Scorecard]:
        _ = self.model  # loaded before the clock of the first window runs
        for window in _arrived(items, self._window):
            yield from self._cards(window)

    def _cards(self, items: list[Item]) -> Iterator[Scorecard]:
        started = time.perf_counter()
        encoded = [[self._encode(item, response) for response in item.responses] for item in items]
        told = self.model.rewards([[e.ids for e in sides if isinstance(e, Encoded)] for sides in encoded])
        each = (time.perf_counter() - started) / max(1, sum(map(len, told)))
        for item, sides, group in zip(items, encoded, told, strict=True):
            rewards = iter(group)
            judgments = tuple(
                Judgment(failure=e) if isinstance(e, Failure) else self._judgment(next(rewards), len(e.ids), each)
                for e in sides
            )
            preference = softmax_preference(judgments, self._temperature)
            yield Scorecard(id=item.id, judgments=judgments, preference=preference)

    def _encode(self, item: Item, response: str) -> Encoded | Failure:
        if not response.strip():
            return Failure("empty", "the response is empty")
        return self.model.encode(item.messages, response)

    def _judgment(self, rewards: tuple[float, ...], tokens: int, seconds: float) -> Judgment:
        usage = Usage(prompt_tokens=tokens, seconds=seconds)
        if not all(map(math.isfinite, rewards)):
            return Judgment(failure=Failure("engine", f"the reward is {rewards[0]}"), usage=usage)
        score = statistics.fmean(rewards) - self._conservative * statistics.pstdev(rewards)
        return Judgment(score=score, votes=rewards, read="reward", usage=usage)


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
