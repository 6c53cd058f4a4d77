"""`BradleyTerryScorer`, the scorer `bradley-terry`: a reward model or an ensemble of them as a Scorer."""

from __future__ import annotations

import math
import queue
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from statistics import fmean, pstdev
from typing import Any, Literal

from classic_rm.data import EncodedResponse
from classic_rm.ensemble import Ensemble, ensemble_members
from classic_rm.model import read_statistics
from classic_rm.reward_model import RewardBackend, RewardModel
from classic_rm.vllm_pooling import PoolingModel
from judges.engines.embedded import fingerprint, resolve_model
from judges.errors import CannotRun
from judges.scorer import Scorer, softmax_preference
from judges.types import REAL_LINE, Failure, Item, Judgment, Scorecard, Usage


class BradleyTerryScorer(Scorer):
    """Scores each response with a reward model's raw reward; the preference is the softmax of the rewards.

    An ensemble's score is the mean of its members' rewards minus `conservative` times their standard deviation; the
    members' rewards are the votes. Batches are formed from the items that the source has delivered so far, at most 16
    batches of them, and a prompt is computed once for all its responses.
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
            raise CannotRun(f"engine of bradley-terry must be transformers or vllm, not {engine!r}")
        if padding_side not in ("left", "right"):
            raise CannotRun(f"padding_side must be left or right, not {padding_side!r}")
        if dtype not in ("float32", "bfloat16", "float16"):
            raise CannotRun(f"dtype must be float32, bfloat16 or float16, not {dtype!r}")
        if batch_size < 1:
            raise CannotRun(f"batch_size must be at least 1, not {batch_size}")
        # A wrong name fails now; the weights are loaded when first needed.
        members = ensemble_members(model)
        path = model if members else resolve_model(model)
        if conservative and not members and read_statistics(path).get("heads", 1) < 2:
            raise CannotRun(f"conservative={conservative} needs an ensemble; {model!r} is one model")
        if temperature is not None and not temperature > 0:
            raise CannotRun(f"temperature must be above 0, not {temperature}")

        def load(name: str) -> RewardBackend:
            if engine == "vllm":
                return PoolingModel(name, max_length, dtype, add_bos)
            return RewardModel(name, batch_size, max_length, dtype, padding_side, remote_code, share_prompts, add_bos)

        self._load: Callable[[], RewardBackend] = partial(load, model)
        statistics = {} if members else read_statistics(path)
        if members:
            means = [float(read_statistics(member).get("mean", 0.0)) for member in members]
            self._load = lambda: Ensemble([partial(load, str(member)) for member in members], means)
        self._model: RewardBackend | None = None
        self._window = 16 * batch_size
        self._statistics = None
        if "deviation" in statistics and not conservative:
            self._statistics = (float(statistics["mean"]), float(statistics["deviation"]))
        self._conservative = conservative
        self._temperature = temperature or float(statistics.get("temperature", 1.0))
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
    def model(self) -> RewardBackend:
        """The reward model, loaded when first needed."""
        if self._model is None:
            self._model = self._load()
        return self._model

    def statistics(self) -> tuple[float, float] | None:
        """Mean and standard deviation of the rewards on held-out prompts; None where the checkpoint has none."""
        return self._statistics

    def close(self) -> None:
        if self._model is not None:
            self._model.close()
        self._model = None

    def identity(self) -> dict[str, Any]:
        return {"scorer": self.name, **self._settings}

    def stream(self, items: Iterable[Item]) -> Iterator[Scorecard]:
        _ = self.model  # load it before the first batch is timed
        for batch in _batch_arrived(items, self._window):
            yield from self._score_batch(batch)

    def _score_batch(self, items: list[Item]) -> Iterator[Scorecard]:
        started = time.perf_counter()
        encoded = [[self._encode(item, response) for response in item.responses] for item in items]
        groups = self.model.rewards(
            [[e.ids for e in responses if isinstance(e, EncodedResponse)] for responses in encoded]
        )
        seconds = (time.perf_counter() - started) / max(1, sum(map(len, groups)))
        for item, responses, group in zip(items, encoded, groups, strict=True):
            rewards = iter(group)
            judgments = tuple(
                Judgment(failure=e) if isinstance(e, Failure) else self._judgment(next(rewards), len(e.ids), seconds)
                for e in responses
            )
            preference = softmax_preference(judgments, self._temperature)
            yield Scorecard(id=item.id, judgments=judgments, preference=preference)

    def _encode(self, item: Item, response: str) -> EncodedResponse | Failure:
        if not response.strip():
            return Failure("empty", "the response is empty")
        return self.model.encode(item.messages, response)

    def _judgment(self, rewards: tuple[float, ...], tokens: int, seconds: float) -> Judgment:
        usage = Usage(prompt_tokens=tokens, seconds=seconds)
        if not all(map(math.isfinite, rewards)):
            return Judgment(failure=Failure("engine", f"the reward is {rewards[0]}"), usage=usage)
        score = fmean(rewards) - self._conservative * pstdev(rewards)
        return Judgment(score=score, votes=rewards, read="reward", usage=usage)


def _batch_arrived(items: Iterable[Item], limit: int) -> Iterator[list[Item]]:
    """Yield lists of what the source has delivered so far, at most `limit` items; wait only for the first."""
    arrived: queue.Queue[Item | None] = queue.Queue(maxsize=2 * limit)
    stopped = threading.Event()
    errors: list[BaseException] = []

    def put(item: Item | None) -> None:
        while not stopped.is_set():
            try:
                arrived.put(item, timeout=0.2)
            except queue.Full:
                continue
            return

    def read_source() -> None:
        try:
            for item in items:
                put(item)
                if stopped.is_set():
                    return
        except BaseException as error:
            errors.append(error)
        put(None)

    threading.Thread(target=read_source, name="assay-feed", daemon=True).start()
    try:
        ended = False
        while not ended:
            window = [arrived.get()]
            while len(window) < limit and window[-1] is not None:
                try:
                    window.append(arrived.get(timeout=0.01))
                except queue.Empty:
                    break
            ended = window[-1] is None
            if batch := [item for item in window if item is not None]:
                yield batch
        if errors:
            raise errors[0]
    finally:
        stopped.set()
