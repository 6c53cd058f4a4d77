"""The engine for any OpenAI-compatible server: vLLM, SGLang, llama.cpp, or a hosted one."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Sequence
from typing import Any

from judges.engines.base import Completion, Engine, Generation, LogLikelihood, Request, RequestFailed, submit
from judges.engines.openai.multiple_choices import MultipleChoices
from judges.engines.openai.responses import parse_completion, parse_likelihood, parse_tokens
from judges.errors import CannotRun, redact
from judges.plugins import unknown_name
from judges.types import Message


class OpenAIEngine(Engine):
    """One server at `base_url`, or several of one model: a list of URLs, or a string with spaces between them.

    `timeout` bounds one response, in seconds. `retries` is how often 408, 409, 5xx and answers that are not JSON are
    retried; a rate limit (429) is waited for. `requests_per_minute` and `tokens_per_minute` keep each server below a
    limit that is known. While all servers are down, requests wait for up to `patience` seconds.

    `choice` uses vLLM's `structured_outputs`,
    continuing an assistant turn its `continue_final_message`, and `log_likelihood` its `/tokenize` and
    `prompt_logprobs`; other servers may refuse those.
    """

    name = "openai"

    def __init__(
        self,
        model: str,
        base_url: str | Sequence[str] = "",
        api_key: str = "",
        timeout: float = 600.0,
        retries: int = 5,
        patience: float = 60.0,
        requests_per_minute: float = 0.0,
        tokens_per_minute: float = 0.0,
        **unknown: Any,
    ) -> None:
        if unknown:
            connection = ("base_url", "api_key", "timeout", "retries", "patience")
            known = (*connection, "requests_per_minute", "tokens_per_minute")
            raise CannotRun(unknown_name("engine openai has no setting", next(iter(unknown)), known, "It takes"))
        if not timeout > 0 or retries < 0 or patience < 0:
            raise CannotRun("engine openai: timeout must be above 0 seconds, retries and patience at least 0")
        if requests_per_minute < 0 or tokens_per_minute < 0:
            raise CannotRun("engine openai: requests_per_minute and tokens_per_minute are above 0, or 0 for no limit")
        self.model = model
        self.base_urls = server_urls(base_url or os.environ.get("OPENAI_BASE_URL", ""))
        from judges.engines.openai.server_pool import ServerPool  # the openai package takes a second to import

        key = api_key or os.environ.get("OPENAI_API_KEY") or "none"
        limits = (requests_per_minute, tokens_per_minute)
        self._pool = ServerPool(model, self.base_urls, key, timeout, retries, patience, *limits)
        self._choices = MultipleChoices()
        self._closed = False
        try:
            submit(self._pool.open()).result()
        except BaseException:
            self.close()
            raise

    async def complete(self, request: Request) -> Completion:
        return await self._choices.complete(request, self._complete)

    async def _complete(self, request: Request) -> Completion:
        """The completions that one request gives, which may be fewer than `request.n`. Raises RequestFailed."""
        messages: list[Any] = [dict(m) for m in request.messages]
        extra: dict[str, Any] = {}
        if request.prefix:
            messages.append({"role": "assistant", "content": request.prefix})
            extra |= {"continue_final_message": True, "add_generation_prompt": False}
        if request.choice:
            extra["structured_outputs"] = {"choice": list(request.choice)}
        if request.schema:
            schema = {"name": "verdict", "schema": json.loads(request.schema), "strict": True}
            extra["response_format"] = {"type": "json_schema", "json_schema": schema}
        optional: dict[str, Any] = {"seed": request.seed, "stop": list(request.stop) or None}
        body = {
            "model": self.model,
            "messages": messages,
            "n": request.n,
            "temperature": request.temperature,
            "top_p": request.top_p,
            "max_tokens": request.max_tokens,
            **{key: value for key, value in optional.items() if value is not None},
            **extra,
        }
        started = time.perf_counter()
        payload, url = await self._pool.send(
            lambda client: client.post("/chat/completions", cast_to=object, body=body),
            _joined_text(request.messages),
            request.n * request.max_tokens,
        )
        return parse_completion(payload, request.n, url, time.perf_counter() - started)

    async def log_likelihood(
        self, messages: tuple[Message, ...], prefix: str, continuation: str, partial: Generation | None = None
    ) -> LogLikelihood:
        before = await self._tokenize(messages, prefix)
        after = await self._tokenize(messages, prefix + continuation)
        ids = before + after[len(before) :] if after[: len(before)] == before else after
        return await self._likelihood(messages, before, ids)

    async def response_log_likelihood(self, messages: tuple[Message, ...], response: str) -> LogLikelihood:
        # The server tokenizes: it alone decides whether a string in the text is a control token.
        ids = await self._tokenize((*messages, {"role": "assistant", "content": response}), "", end_turn=True)
        before = await self._tokenize(messages, "")
        if ids[: len(before)] != before:  # some templates open a new assistant turn differently from a finished one
            before = await self._tokenize(messages, "", end_turn=True)
        return await self._likelihood(messages, before, ids)

    async def _likelihood(self, messages: tuple[Message, ...], before: list[int], ids: list[int]) -> LogLikelihood:
        shared = next((i for i, (a, b) in enumerate(zip(before, ids, strict=False)) if a != b), len(before))
        if not shared:
            raise RequestFailed("malformed", "the chat template does not show where the response begins")
        started = time.perf_counter()
        body = {"model": self.model, "prompt": ids, "max_tokens": 1, "temperature": 0, "prompt_logprobs": 0}
        payload, url = await self._pool.send(
            lambda client: client.post("/completions", cast_to=object, body=body), _joined_text(messages), 1
        )
        return parse_likelihood(payload, ids, shared, url, time.perf_counter() - started)

    async def _tokenize(self, messages: tuple[Message, ...], prefix: str, end_turn: bool = False) -> list[int]:
        turns: list[Any] = [dict(m) for m in messages]
        new_turn = not prefix and not end_turn
        body: dict[str, Any] = {"model": self.model, "messages": turns, "add_generation_prompt": new_turn}
        if prefix:
            turns.append({"role": "assistant", "content": prefix})
            body["continue_final_message"] = True
        payload, url = await self._pool.send(
            lambda client: client.post(_server_endpoint(client, "tokenize"), cast_to=object, body=body),
            _joined_text(messages),
        )
        return parse_tokens(payload, url)

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            submit(self._pool.close()).result()


def server_urls(base_url: str | Sequence[str]) -> tuple[str, ...]:
    """Distinct base URLs in their order, from a list of them or a string with spaces between them.

    >>> server_urls("http://a:1/v1 http://b:1/v1/ http://a:1/v1/")
    ('http://a:1/v1', 'http://b:1/v1')
    """
    texts = base_url.split() if isinstance(base_url, str) else [part for text in base_url for part in text.split()]
    if not texts:
        raise CannotRun("engine openai needs base_url=http://HOST:PORT/v1 (or OPENAI_BASE_URL)")
    for text in texts:
        if not text.startswith(("http://", "https://")) or text.count("://") > 1:
            raise CannotRun(f"base_url {redact(text)!r} is not http://HOST:PORT/v1 (several have spaces between them)")
    return tuple(dict.fromkeys(text.rstrip("/") for text in texts))


def _joined_text(messages: tuple[Message, ...]) -> str:
    return "\n".join(message["content"] for message in messages)


def _server_endpoint(client: Any, name: str) -> str:
    """The URL of an endpoint outside `/v1`."""
    return f"{str(client.base_url).rstrip('/').removesuffix('/v1')}/{name}"
