"""`LocalEngine`: what engines share that have the model's tokenizer in this process."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from functools import cached_property
from types import MappingProxyType
from typing import Any

from judges.engines.base import Engine, Generation, LogLikelihood, Request, RequestFailed
from judges.engines.chat_template import chat_ids, conversation_ids, opens_thought, plain_ids
from judges.engines.thoughts import ends_in_thinking
from judges.types import Message

TEMPLATE_KWARGS = "chat_template_kwargs"


class LocalEngine(Engine):
    """An engine that tokenizes itself. Subclasses implement `likelihood`, on token ids.

    `template_kwargs` are variables of the chat template besides the messages, such as `enable_thinking`.
    """

    _tokenizer: Any
    template_kwargs: Mapping[str, Any] = MappingProxyType({})

    @abstractmethod
    async def likelihood(self, before: list[int], after: list[int]) -> LogLikelihood:
        """log P(after | before) of token ids. Raises RequestFailed."""

    @cached_property
    def opens_thought(self) -> bool:
        """Whether the model's chat template opens a thought, so that what is generated begins inside it."""
        return opens_thought(self._tokenizer, self.template_kwargs)

    def begins_in_thought(self, request: Request) -> bool:
        if request.partial is not None:
            tag = "<think>" if request.partial.in_thought else ""
            return ends_in_thinking(tag + request.prefix)
        return self.opens_thought and not (request.prefix or request.choice or request.schema)

    def token_ids(
        self,
        messages: tuple[Message, ...],
        prefix: str = "",
        partial: Generation | None = None,
        answer: bool = False,
    ) -> list[int]:
        """The token ids of the prompt. Where an `answer` is to follow, a thought that the template opened is closed."""
        return chat_ids(self._tokenizer, messages, prefix, partial, self.template_kwargs, answer)

    def request_ids(self, request: Request) -> list[int]:
        """The token ids of a request's prompt. A completion that is constrained holds no thought."""
        constrained = request.choice is not None or request.schema is not None
        return self.token_ids(request.messages, request.prefix, request.partial, answer=constrained)

    async def log_likelihood(
        self, messages: tuple[Message, ...], prefix: str, continuation: str, partial: Generation | None = None
    ) -> LogLikelihood:
        before = self.token_ids(messages, prefix, partial, answer=True)
        return await self.likelihood(before, plain_ids(self._tokenizer, continuation))

    async def response_log_likelihood(self, messages: tuple[Message, ...], response: str) -> LogLikelihood:
        before, after = conversation_ids(self._tokenizer, messages, response)
        if not before:
            raise RequestFailed("malformed", "the chat template does not show where the response begins")
        return await self.likelihood(before, after)


def split_template_kwargs(settings: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """(settings of the engine, variables of the chat template) out of an engine's settings.

    >>> split_template_kwargs({"dtype": "auto", "chat_template_kwargs.enable_thinking": False})
    ({'dtype': 'auto'}, {'enable_thinking': False})
    """
    own = {key: value for key, value in settings.items() if key.split(".")[0] != TEMPLATE_KWARGS}
    kwargs = dict(settings.get(TEMPLATE_KWARGS) or {})
    prefix = TEMPLATE_KWARGS + "."
    kwargs |= {key.removeprefix(prefix): value for key, value in settings.items() if key.startswith(prefix)}
    return own, kwargs


def next_token_sets(continuations: list[tuple[int, ...]]) -> dict[tuple[int, ...], set[int]]:
    """For each distinct beginning of some continuations, as token ids, the ids that follow it: one request each.

    >>> next_token_sets([(1,), (1, 0), (2,)])
    {(): {1, 2}, (1,): {0}}
    """
    following: dict[tuple[int, ...], set[int]] = {}
    for ids in continuations:
        for i in range(len(ids)):
            following.setdefault(ids[:i], set()).add(ids[i])
    return following
