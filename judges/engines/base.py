"""`Engine`, the interface of text completion, its requests and results, and the event loop that all engines run on."""

from __future__ import annotations

import asyncio
import threading
from abc import ABC, abstractmethod
from collections.abc import Coroutine
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, TypeVar

from judges.engines.capabilities import Capabilities
from judges.engines.thoughts import OPEN_THOUGHT, split_thinking
from judges.errors import CannotRun
from judges.types import Failure, FailureReason, Message, Usage

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class TokenLogprobs:
    """A generated token, and the most likely tokens at its position with their log-probabilities (natural)."""

    token: str
    top: tuple[tuple[str, float], ...]


@dataclass(frozen=True, slots=True)
class Generation:
    """One completion. `finish` is "stop" or "length"; `token_ids` is empty where the engine does not know them.

    `reasoning` is the thought that a server returned in a field of its own; it is no part of `text`. `in_thought`
    says that the text begins inside a thought, which the prompt opened: all up to the closing tag is thought, and a
    text without a closing tag is nothing else. `logprobs` has the tokens of the text where they were asked for.
    """

    text: str
    finish: str
    token_ids: tuple[int, ...] = ()
    reasoning: str = ""
    in_thought: bool = False
    logprobs: tuple[TokenLogprobs, ...] = ()

    @property
    def tagged_text(self) -> str:
        """The text with the opening tag that the prompt holds, so that its thought can be told from what was said.

        >>> Generation("Is it? 4", "length", in_thought=True).tagged_text
        '<think>Is it? 4'
        """
        return OPEN_THOUGHT + self.text if self.in_thought else self.text

    @property
    def answer(self) -> str:
        """What was said outside of thoughts.

        >>> Generation("Is it?</think>Yes.", "stop", in_thought=True).answer
        'Yes.'
        """
        return split_thinking(self.tagged_text)[1]

    @property
    def is_all_thought(self) -> bool:
        """Whether the model thought and said nothing."""
        return bool(self.text.strip() or self.reasoning) and not self.answer.strip()


@dataclass(frozen=True, slots=True)
class Request:
    """One prompt to complete: chat messages, and the text that the assistant's turn begins with.

    `prefix` is an unfinished assistant turn to continue. Where the model generated its beginning, `partial` is that
    generation: as far as the prefix repeats it, its token ids are sent again, so that the prefix cache has them.
    `choice` constrains the completion to one of these strings, `schema` to JSON of this schema (as text). `n`
    completions share the computation of the prompt. `seed` is for this request alone. `top_logprobs` asks for so many
    of the most likely tokens at each position.
    """

    messages: tuple[Message, ...]
    prefix: str = ""
    partial: Generation | None = None
    n: int = 1
    temperature: float = 0.0
    top_p: float = 1.0
    max_tokens: int = 256
    stop: tuple[str, ...] = ()
    choice: tuple[str, ...] | None = None
    schema: str | None = None
    seed: int | None = None
    top_logprobs: int = 0


@dataclass(frozen=True, slots=True)
class Sampling:
    """How tokens are drawn: greedily at temperature 0."""

    temperature: float = 0.0
    top_p: float = 1.0


def sampling_for(
    owner: str, name: str, count: int, temperature: float | None, top_p: float, default: float = 0.7
) -> Sampling:
    """How `count` samples of one prompt are drawn; `name` is the setting of their number ("votes").

    Without a temperature one sample is greedy, and several have the `default`. Raises CannotRun for fewer than one
    sample, and for several at temperature 0, which would all be the same.

    >>> sampling_for("a judge", "votes", 1, None, 0.9), sampling_for("a judge", "votes", 3, None, 0.9)
    (Sampling(temperature=0.0, top_p=1.0), Sampling(temperature=0.7, top_p=0.9))
    """
    if not isinstance(count, int) or count < 1:
        raise CannotRun(f"{owner}: {name} is a whole number from 1 up, not {count}")
    if temperature is None:
        temperature = 0.0 if count == 1 else default
    if count > 1 and temperature == 0:
        raise CannotRun(f"{owner}: {count} {name} at temperature 0 would all be the same; set a temperature above 0")
    return Sampling(temperature, top_p if temperature > 0 else 1.0)


@dataclass(frozen=True, slots=True)
class Completion:
    """The result of a Request: its generations and their cost.

    `failures` are those of the `n` that the engine paid for and withheld, such as one that a content filter removed;
    where all of them fail, the request fails.
    """

    choices: tuple[Generation, ...]
    usage: Usage
    failures: tuple[Failure, ...] = ()


@dataclass(frozen=True, slots=True)
class LogLikelihood:
    """log P(continuation | prompt), summed over its `tokens` tokens, in nats."""

    total: float
    tokens: int
    usage: Usage


class RequestFailed(Exception):
    """One request failed, with the `failure` of its row. Other requests are not affected.

    `usage` is what the server billed for it all the same.
    """

    def __init__(self, reason: FailureReason, message: str, usage: Usage = Usage()) -> None:
        super().__init__(message)
        self.failure = Failure(reason, message)
        self.usage = usage

    @classmethod
    def from_error(cls, error: Exception) -> RequestFailed:
        """The failure of an engine that raised `error`, with the first line of its message."""
        return cls("engine", (str(error) or type(error).__name__).splitlines()[0])


class Engine(ABC):
    """Completes text. Its coroutines run on the shared event loop (`submit`).

    `capabilities` is what it can do. A request for anything else raises NotSupported.
    """

    name: str
    model: str
    capabilities: Capabilities = Capabilities(top_logprobs=0)

    @abstractmethod
    async def complete(self, request: Request) -> Completion:
        """Generate `request.n` completions. Raises RequestFailed."""

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
        calls = (self.log_likelihood(messages, prefix, continuation, partial) for continuation in continuations)
        return list(await asyncio.gather(*calls))

    async def response_log_likelihood(self, messages: tuple[Message, ...], response: str) -> LogLikelihood:
        """log P(response | messages) of a finished conversation, with the chat template's end of turn.

        The conversation is tokenized at once, through the chat template. Raises RequestFailed, and CannotRun where
        the engine does not support this.
        """
        raise CannotRun(f"engine {self.name} has no log-likelihoods of whole responses; use vllm or transformers")

    def identity(self) -> dict[str, Any]:
        """What determines the completions: model, revision, precision."""
        return {"engine": self.name, "model": self.model}

    def token_ids(
        self, messages: tuple[Message, ...], prefix: str = "", partial: Generation | None = None
    ) -> list[int] | None:
        """The token ids of the prompt, where the engine tokenizes itself; else None."""
        return None

    async def find_label_scoring(self) -> None:
        """Find out, without a completion, whether given labels can be scored, where it is not known."""

    def begins_in_thought(self, request: Request) -> bool:
        """Whether what is generated for `request` begins inside a thought that its prompt opened."""
        return False

    def close(self) -> None:
        """Free memory and end all processes of the engine. Safe to call twice."""


_lock = threading.Lock()
_loop: asyncio.AbstractEventLoop | None = None


def event_loop() -> asyncio.AbstractEventLoop:
    """The event loop of all engines, on a thread of its own, started by the first call."""
    global _loop
    with _lock:
        if _loop is None:
            _loop = asyncio.new_event_loop()
            threading.Thread(target=_loop.run_forever, name="assay-engines", daemon=True).start()
        return _loop


def submit(coroutine: Coroutine[Any, Any, T]) -> Future[T]:
    """Schedule a coroutine on the engines' event loop, from any thread."""
    return asyncio.run_coroutine_threadsafe(coroutine, event_loop())
