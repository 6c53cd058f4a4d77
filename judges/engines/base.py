"""What every engine does, and the one loop that all of them run on."""

from __future__ import annotations

import asyncio
import threading
from abc import ABC, abstractmethod
from collections.abc import Coroutine
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, TypeVar

from judges.errors import CannotRun
from judges.types import Failure, FailureReason, Message, Usage

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Generation:
    """One completion. `finish` is "stop" or "length"; `logprobs` a {token text: logprob} per position."""

    text: str
    finish: str
    token_ids: tuple[int, ...] = ()
    logprobs: tuple[dict[str, float], ...] | None = None


@dataclass(frozen=True, slots=True)
class Request:
    """One prompt to complete: chat messages, and text that the assistant's turn already holds.

    `prefix` continues an unfinished assistant turn; where the model itself began it, `partial` is what it wrote:
    as far as the prefix repeats that, its own token ids are sent again, and find their computation cached.
    `choice` constrains the completion to one of these strings, `schema` to JSON of this schema (as text).
    `logprobs` asks for that many alternatives at each generated position. `n` completions share the prompt's
    computation; each request has a seed of its own.
    """

    messages: tuple[Message, ...]
    prefix: str = ""
    partial: Generation | None = None
    n: int = 1
    temperature: float = 0.0
    top_p: float = 1.0
    max_tokens: int = 256
    stop: tuple[str, ...] = ()
    logprobs: int | None = None
    choice: tuple[str, ...] | None = None
    schema: str | None = None
    seed: int | None = None


@dataclass(frozen=True, slots=True)
class Completion:
    """What came back for a Request: `n` texts and what they cost."""

    choices: tuple[Generation, ...]
    usage: Usage


@dataclass(frozen=True, slots=True)
class LogLikelihood:
    """log P(continuation | prompt), summed over its `tokens` tokens, in nats."""

    total: float
    tokens: int
    usage: Usage


class RequestFailed(Exception):
    """This request has no completion; the others go on. Carries the Failure of its row."""

    def __init__(self, reason: FailureReason, message: str) -> None:
        super().__init__(message)
        self.failure = Failure(reason, message)


class Engine(ABC):
    """Completes text. Its coroutines run on the shared loop (`submit`)."""

    name: str
    model: str

    @abstractmethod
    async def complete(self, request: Request) -> Completion:
        """Raises RequestFailed when this request cannot be completed."""

    @abstractmethod
    async def log_likelihood(
        self, messages: tuple[Message, ...], prefix: str, continuation: str, partial: Generation | None = None
    ) -> LogLikelihood:
        """log P(continuation | messages, prefix). Raises RequestFailed."""

    async def log_likelihoods(
        self,
        messages: tuple[Message, ...],
        prefix: str,
        continuations: tuple[str, ...],
        partial: Generation | None = None,
    ) -> list[LogLikelihood]:
        """log P of each of several short continuations of one prefix. Raises RequestFailed."""
        each = (self.log_likelihood(messages, prefix, continuation, partial) for continuation in continuations)
        return list(await asyncio.gather(*each))

    async def response_log_likelihood(self, messages: tuple[Message, ...], response: str) -> LogLikelihood:
        """log P(response | messages) of a finished conversation, the template's end of turn included.

        Tokenized once, through the chat template. Raises RequestFailed."""
        raise CannotRun(f"engine {self.name} cannot tell how likely a finished response is; use vllm or transformers")

    def identity(self) -> dict[str, Any]:
        """What decides the text that comes out: model, revision, precision."""
        return {"engine": self.name, "model": self.model}

    def token_ids(
        self, messages: tuple[Message, ...], prefix: str = "", partial: Generation | None = None
    ) -> list[int] | None:
        """The ids that are sent, where the engine knows them."""
        return None

    def close(self) -> None:
        """Free everything, leave no process. Safe to call twice."""


_lock = threading.Lock()
_loop: asyncio.AbstractEventLoop | None = None


def loop() -> asyncio.AbstractEventLoop:
    """The one event loop, on a thread of its own, started when first asked for."""
    global _loop
    with _lock:
        if _loop is None:
            _loop = asyncio.new_event_loop()
            threading.Thread(target=_loop.run_forever, name="assay-engines", daemon=True).start()
        return _loop


def submit(coroutine: Coroutine[Any, Any, T]) -> Future[T]:
    """Run a coroutine on the engines' loop, from any thread."""
    return asyncio.run_coroutine_threadsafe(coroutine, loop())
