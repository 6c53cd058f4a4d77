"""An engine and a scorer that return given values, for tests of other things."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable

from judges.engines.base import Completion, Engine, Generation, LogLikelihood, Request
from judges.scorer import Scorer
from judges.types import REAL_LINE, Failure, Judgment, Scorecard, Usage


class FakeEngine(Engine):
    name = "fake"
    model = "fake"

    def __init__(
        self,
        answer: Callable[[Request], str | Generation],
        delay: float = 0.0,
        likelihood: Callable[[str], float] | None = None,
    ):
        self.answer, self.delay, self.likelihood = answer, delay, likelihood
        self.requests: list[Request] = []
        self.most = self.now = 0

    async def complete(self, request: Request) -> Completion:
        self.requests.append(request)
        self.now += 1
        self.most = max(self.most, self.now)
        try:
            await asyncio.sleep(self.delay)
            text = self.answer(request)
        finally:
            self.now -= 1
        written = text if isinstance(text, Generation) else Generation(text, "stop")
        return Completion((written,), Usage(10, 0, 5, self.delay))

    async def log_likelihood(self, messages, prefix, continuation, partial=None) -> LogLikelihood:
        value = self.likelihood(continuation) if self.likelihood else -math.log(10)
        return LogLikelihood(value, len(continuation), Usage(10, 8, 1, 0.0))


def use(judge, engine):
    """A judge or a policy on a given engine."""
    judge.use_engine(engine)
    return judge


class FixedScorer(Scorer):
    """Gives every Item the same scores (or Failures); `wait` is called with each Item before its card."""

    scale = REAL_LINE

    def __init__(self, *scores, name="fixed", version=1, statistics=None, wait=lambda item: None):
        self.scores, self.name, self.version, self.wait = scores, name, version, wait
        self.statistics = lambda: statistics
        self.items, self.closed, self.stores = [], 0, []

    def identity(self):
        return {"scorer": self.name, "version": self.version, "ways": ("a", "b")}

    def use_store(self, path):
        self.stores.append(path)

    def close(self):
        self.closed += 1

    def stream(self, items):
        for item in items:
            self.items.append(item.id)
            self.wait(item)
            usage = Usage(prompt_tokens=3, generated_tokens=2, seconds=0.5)
            judgments = tuple(
                Judgment(failure=s, usage=usage) if isinstance(s, Failure) else Judgment(score=s, usage=usage)
                for s in self.scores[: len(item.responses)]
            )
            yield Scorecard(item.id, judgments)
