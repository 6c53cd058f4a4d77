"""The engine for any OpenAI-compatible server: vLLM, SGLang, llama.cpp, or a hosted one."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

from judges.engines.base import Completion, Engine, Generation, LogLikelihood, Request, RequestFailed, submit
from judges.engines.capabilities import Capabilities, NotSupported
from judges.engines.openai.multiple_choices import MultipleChoices
from judges.engines.openai.open_thought import OpenThought, without_thought
from judges.engines.openai.payload import build_payload, refused_key, split_extra, with_logprobs
from judges.engines.openai.providers import UNKNOWN, Correction, find_provider, lacking, learn
from judges.engines.openai.responses import parse_completion, parse_likelihood, parse_tokens
from judges.errors import CannotRun, redact
from judges.plugins import unknown_name
from judges.types import Message

MOST_CORRECTIONS = 8  # forms in which one request is sent before it fails
NO_SUCH_PAGE = (404, 405, 501)
_NO_LIKELIHOODS = (
    "{} gives no log-likelihoods of whole responses; use a vLLM server, engine=vllm or engine=transformers"
)


class OpenAIEngine(Engine):
    """One server at `base_url`, or several of one model: a list of URLs, or a string with spaces between them.

    `timeout` bounds one response, in seconds. `retries` is how often 408, 409, 5xx and answers that are not JSON are
    retried; a rate limit (429) is waited for. `requests_per_minute` and `tokens_per_minute` keep each server below a
    limit that is known. While all servers are down, requests wait for up to `patience` seconds.

    `provider` is the make of the server (a name in `providers.PROVIDERS`); by default it is recognised. What a server
    of no known make refuses is learned: see `providers.learn`. `extra_body.KEY`, `chat_template_kwargs.KEY` and
    `reasoning_effort` are sent in every request.
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
        provider: str = "",
        reasoning_effort: str = "",
        **settings: Any,
    ) -> None:
        unknown, self._extra = split_extra(settings)
        if reasoning_effort:
            self._extra["reasoning_effort"] = reasoning_effort
        if unknown:
            connection = ("base_url", "api_key", "timeout", "retries", "patience")
            further = ("provider", "reasoning_effort", "extra_body.KEY", "chat_template_kwargs.KEY")
            known = (*connection, "requests_per_minute", "tokens_per_minute", *further)
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
        self._finding, self._label_scoring_found = asyncio.Lock(), False
        self._closed = False
        try:
            submit(self._pool.open()).result()
            self.provider = find_provider(self.base_urls, model, sorted(self._pool.owners), provider)
        except BaseException:
            self.close()
            raise
        self.capabilities = self.provider.capabilities
        if not self._pool.models_listed and self.provider is UNKNOWN:
            self.capabilities = replace(self.capabilities, label_logprobs=False)
        self._choices.one_at_a_time = not self.capabilities.n
        self._thought = OpenThought(self._show_prompt if self.provider.name == "vllm" else None)

    async def _show_prompt(self) -> dict[str, Any]:
        """vLLM's answer about the prompt of a new turn, with the strings of its tokens. Raises RequestFailed."""
        kwargs = self._extra.get("chat_template_kwargs")
        body = {"model": self.model, "messages": [{"role": "user", "content": "Hi"}], "return_token_strs": True}
        body |= {"chat_template_kwargs": kwargs} if kwargs else {}
        payload, _ = await self._pool.send(
            lambda client: client.post(_server_endpoint(client, "tokenize"), cast_to=object, body=body), "Hi"
        )
        return payload

    async def complete(self, request: Request) -> Completion:
        request = replace(request, prefix=without_thought(request.prefix))
        return await self._choices.complete(request, self._complete)

    async def _complete(self, request: Request) -> Completion:
        """The completions that one request gives, which may be fewer than `request.n`. Raises RequestFailed."""
        started = time.perf_counter()
        for _ in range(MOST_CORRECTIONS):
            capabilities = self.capabilities
            body = build_payload(self.provider, capabilities, self.model, request) | self._extra
            try:
                payload, url = await self._send_chat(body, request)
            except RequestFailed as error:
                if not self._learn(capabilities, body, error):
                    raise
            else:
                completion = parse_completion(payload, request.n, url, time.perf_counter() - started)
                completion = await self._thought.mark(request, with_logprobs(completion, payload))
                return self._check_ignored(request, completion)
        raise RequestFailed("server", f"{' '.join(self.base_urls)} refuses the request in every form")

    async def _send_chat(self, body: dict[str, Any], request: Request) -> tuple[dict[str, Any], str]:
        return await self._pool.send(
            lambda client: client.post("/chat/completions", cast_to=object, body=body),
            _joined_text(request.messages),
            request.n * request.max_tokens,
        )

    def _learn(self, used: Capabilities, body: dict[str, Any], error: RequestFailed) -> bool:
        """Whether a refusal teaches something, so that the request is worth asking again in another form.

        Raises CannotRun where the server refuses what the user wants to be sent.
        """
        refused = error.__cause__
        if refused is None or not hasattr(refused, "error") or error.failure.reason != "server":
            return False
        message, status = str(refused.error.message), int(refused.error.status)
        correction = learn(used, body, status, message)
        if correction is not None:
            self._correct(used, correction)
            return True
        if key := refused_key(self._extra, status, message):
            raise CannotRun(f"{' '.join(self.base_urls)} refuses {key!r}, which the settings send: {message}")
        return False

    def _correct(self, used: Capabilities, correction: Correction) -> None:
        if self.capabilities is used:  # else another request has taught something, and this one is asked again first
            self.capabilities = correction.capabilities
            print(f"assay: {' '.join(self.base_urls)}: {correction.action}", file=sys.stderr, flush=True)

    def _check_ignored(self, request: Request, completion: Completion) -> Completion:
        """The completion, unless the server took `choice` and ignored it. Raises NotSupported."""
        used = self.capabilities
        if request.top_logprobs and used.top_logprobs and not any(c.logprobs for c in completion.choices):
            self._correct(used, lacking(used, "top_logprobs"))
        ignored = all(c.text not in (request.choice or ()) and c.finish == "stop" for c in completion.choices)
        if request.choice and ignored and self.provider.name != "vllm":
            self._correct(used, lacking(used, "choice"))
            raise NotSupported("choice", "the server ignores the labels that it is given", completion.usage)
        return completion

    async def find_label_scoring(self) -> None:
        if self.provider is UNKNOWN and self.capabilities.label_logprobs and not self._label_scoring_found:
            async with self._finding:
                if not self._label_scoring_found:
                    with suppress(NotSupported, RequestFailed):
                        await self._tokenize(({"role": "user", "content": "Hi"},), "")
                    self._label_scoring_found = True

    async def log_likelihood(
        self, messages: tuple[Message, ...], prefix: str, continuation: str, partial: Generation | None = None
    ) -> LogLikelihood:
        if not self.capabilities.label_logprobs:
            raise NotSupported("label_logprobs", "the server does not score given labels")
        prefix = without_thought(prefix)
        before = await self._tokenize(messages, prefix)
        after = await self._tokenize(messages, prefix + continuation)
        ids = before + after[len(before) :] if after[: len(before)] == before else after
        return await self._likelihood(messages, before, ids)

    async def response_log_likelihood(self, messages: tuple[Message, ...], response: str) -> LogLikelihood:
        if not self.capabilities.label_logprobs:
            raise CannotRun(_NO_LIKELIHOODS.format(" ".join(self.base_urls)))
        try:
            return await self._response_log_likelihood(messages, response)
        except NotSupported as error:
            raise CannotRun(_NO_LIKELIHOODS.format(" ".join(self.base_urls))) from error

    async def _response_log_likelihood(self, messages: tuple[Message, ...], response: str) -> LogLikelihood:
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
        payload, url = await self._send_scoring(
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
        payload, url = await self._send_scoring(
            lambda client: client.post(_server_endpoint(client, "tokenize"), cast_to=object, body=body),
            _joined_text(messages),
        )
        return parse_tokens(payload, url)

    async def _send_scoring(
        self, call: Callable[[Any], Awaitable[Any]], text: str, max_tokens: int = 0
    ) -> tuple[dict[str, Any], str]:
        """`ServerPool.send` of what only vLLM has. Raises NotSupported where a server turns out not to have it."""
        used = self.capabilities
        try:
            return await self._pool.send(call, text, max_tokens)
        except RequestFailed as error:
            refused = error.__cause__
            status = getattr(getattr(refused, "error", None), "status", None)
            if self.provider.name == "vllm" or status not in NO_SUCH_PAGE:
                raise
            self._correct(used, lacking(used, "label_logprobs"))
            raise NotSupported("label_logprobs", "the server does not score given labels") from error

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
