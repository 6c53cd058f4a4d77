"""An engine that answers from a function: for tests in which the engine is not what is tested."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable

from judges.engines.base import Completion, Engine, Generation, LogLikelihood, Request
from judges.types import Usage


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
    judge.use(engine)
    return judge
