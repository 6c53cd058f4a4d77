"""`LocalEngine`: what engines share that have the model's tokenizer in this process."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

from judges.engines.base import Engine, Generation, LogLikelihood, RequestFailed
from judges.engines.chat_template import chat_ids, conversation_ids, plain_ids
from judges.types import Message


class LocalEngine(Engine):
    """An engine that tokenizes itself. Subclasses implement `likelihood`, on token ids."""

    _tokenizer: Any

    @abstractmethod
    async def likelihood(self, before: list[int], after: list[int]) -> LogLikelihood:
        """log P(after | before) of token ids. Raises RequestFailed."""

    def token_ids(
        self, messages: tuple[Message, ...], prefix: str = "", partial: Generation | None = None
    ) -> list[int]:
        return chat_ids(self._tokenizer, messages, prefix, partial)

    async def log_likelihood(
        self, messages: tuple[Message, ...], prefix: str, continuation: str, partial: Generation | None = None
    ) -> LogLikelihood:
        return await self.likelihood(
            self.token_ids(messages, prefix, partial), plain_ids(self._tokenizer, continuation)
        )

    async def response_log_likelihood(self, messages: tuple[Message, ...], response: str) -> LogLikelihood:
        before, after = conversation_ids(self._tokenizer, messages, response)
        if not before:
            raise RequestFailed("malformed", "the chat template does not show where the response begins")
        return await self.likelihood(before, after)
