"""Any OpenAI-compatible server: vllm serve, SGLang, llama.cpp, a hosted one."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Sequence
from typing import Any

from judges.engines.base import Completion, Engine, Generation, LogLikelihood, Request, RequestFailed, submit
from judges.errors import CannotRun
from judges.types import Message, Usage


class OpenAIEngine(Engine):
    """One server under `base_url`, or several of one model: a list of URLs, or a string with spaces between.

    `servers.py` says which of them is asked: `timeout` seconds for an answer, `retries` of 429 and 5xx,
    `patience` seconds for a server to come back when none is left.
    `choice` uses vLLM's `structured_outputs`, continuing an assistant turn its `continue_final_message`,
    and `log_likelihood` its `/tokenize` and `prompt_logprobs`; other servers may refuse those.
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
        **unknown: Any,
    ) -> None:
        if unknown:
            raise CannotRun(f"engine openai has no setting {', '.join(unknown)}")
        if not timeout > 0 or retries < 0 or patience < 0:
            raise CannotRun("engine openai: timeout is above 0 seconds, retries and patience are not below 0")
        self.model = model
        self.base_urls = server_urls(base_url or os.environ.get("OPENAI_BASE_URL", ""))
        from judges.engines.openai.server_pool import Servers  # the openai package takes a second to import

        key = api_key or os.environ.get("OPENAI_API_KEY") or "none"
        self._servers = Servers(model, self.base_urls, key, timeout, retries, patience)
        self._closed = False
        try:
            submit(self._servers.open()).result()
        except BaseException:
            self.close()
            raise

    async def complete(self, request: Request) -> Completion:
        messages: list[Any] = [dict(m) for m in request.messages]
        extra: dict[str, Any] = {}
        if request.prefix:
            messages.append({"role": "assistant", "content": request.prefix})
            extra |= {"continue_final_message": True, "add_generation_prompt": False}
        if request.choice:
            extra["structured_outputs"] = {"choice": list(request.choice)}
        if request.schema:
            form = {"name": "verdict", "schema": json.loads(request.schema), "strict": True}
            extra["response_format"] = {"type": "json_schema", "json_schema": form}
        given: dict[str, Any] = {"seed": request.seed, "stop": list(request.stop) or None}
        if request.logprobs is not None:
            given |= {"logprobs": True, "top_logprobs": request.logprobs}
        started = time.perf_counter()
        reply, url = await self._servers.ask(
            lambda client: client.chat.completions.create(
                model=self.model,
                messages=messages,
                n=request.n,
                temperature=request.temperature,
                top_p=request.top_p,
                max_tokens=request.max_tokens,
                extra_body=extra or None,
                **{key: value for key, value in given.items() if value is not None},
            ),
            _text(request.messages),
        )
        choices = tuple(
            Generation(
                text=choice.message.content or "",
                finish="length" if choice.finish_reason == "length" else "stop",
                logprobs=_logprobs(choice),
            )
            for choice in reply.choices or ()
        )
        if not choices:
            raise RequestFailed("server", f"{url} answered without a completion")
        if any(choice.finish_reason == "content_filter" for choice in reply.choices):
            raise RequestFailed("refused", "the server's content filter withheld the completion")
        return Completion(choices, _usage(reply, time.perf_counter() - started))

    async def log_likelihood(
        self, messages: tuple[Message, ...], prefix: str, continuation: str, partial: Generation | None = None
    ) -> LogLikelihood:
        before = await self._tokenize(messages, prefix)
        after = await self._tokenize(messages, prefix + continuation)
        ids = before + after[len(before) :] if after[: len(before)] == before else after
        return await self._likelihood(messages, before, ids)

    async def response_log_likelihood(self, messages: tuple[Message, ...], response: str) -> LogLikelihood:
        # The server tokenizes: a control string in the text is what the server takes it for.
        ids = await self._tokenize((*messages, {"role": "assistant", "content": response}), "", ended=True)
        before = await self._tokenize(messages, "")
        if ids[: len(before)] != before:  # some templates open the assistant's turn otherwise when asked to go on
            before = await self._tokenize(messages, "", ended=True)
        return await self._likelihood(messages, before, ids)

    async def _likelihood(self, messages: tuple[Message, ...], before: list[int], ids: list[int]) -> LogLikelihood:
        shared = next((i for i, (a, b) in enumerate(zip(before, ids, strict=False)) if a != b), len(before))
        if not shared:
            raise RequestFailed("malformed", "the chat template does not show where the response begins")
        started = time.perf_counter()
        reply, url = await self._servers.ask(
            lambda client: client.completions.create(
                model=self.model, prompt=ids, max_tokens=1, temperature=0, extra_body={"prompt_logprobs": 0}
            ),
            _text(messages),
        )
        rows = getattr(reply.choices[0], "prompt_logprobs", None)
        if not rows:
            raise RequestFailed("server", f"{url} does not return prompt_logprobs")
        total = sum(rows[place][str(ids[place])]["logprob"] for place in range(shared, len(ids)))
        return LogLikelihood(total, len(ids) - shared, _usage(reply, time.perf_counter() - started))

    async def _tokenize(self, messages: tuple[Message, ...], prefix: str, ended: bool = False) -> list[int]:
        turns: list[Any] = [dict(m) for m in messages]
        go_on = not prefix and not ended
        body: dict[str, Any] = {"model": self.model, "messages": turns, "add_generation_prompt": go_on}
        if prefix:
            turns.append({"role": "assistant", "content": prefix})
            body["continue_final_message"] = True
        reply, _ = await self._servers.ask(
            lambda client: client.post(_root(client, "tokenize"), cast_to=object, body=body), _text(messages)
        )
        return list(reply["tokens"])

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            submit(self._servers.close()).result()


def server_urls(given: str | Sequence[str]) -> tuple[str, ...]:
    """Base URLs in their order, each once, out of a list of them or a string with spaces between.

    >>> server_urls("http://a:1/v1 http://b:1/v1/ http://a:1/v1/")
    ('http://a:1/v1', 'http://b:1/v1')
    """
    texts = given.split() if isinstance(given, str) else [part for text in given for part in text.split()]
    if not texts:
        raise CannotRun("engine openai needs base_url=http://HOST:PORT/v1 (or OPENAI_BASE_URL)")
    for text in texts:
        if not text.startswith(("http://", "https://")) or text.count("://") > 1:
            raise CannotRun(f"base_url {text!r} is not http://HOST:PORT/v1 (several have spaces between them)")
    return tuple(dict.fromkeys(text.rstrip("/") for text in texts))


def _text(messages: tuple[Message, ...]) -> str:
    return "\n".join(message["content"] for message in messages)


def _root(client: Any, name: str) -> str:
    """A server's own endpoint, beside the API's."""
    return f"{str(client.base_url).rstrip('/').removesuffix('/v1')}/{name}"


def _usage(reply: Any, seconds: float) -> Usage:
    if reply.usage is None:
        return Usage(seconds=seconds)
    details = getattr(reply.usage, "prompt_tokens_details", None)
    cached = getattr(details, "cached_tokens", None) or 0
    return Usage(reply.usage.prompt_tokens, cached, reply.usage.completion_tokens or 0, seconds)


def _logprobs(choice: Any) -> tuple[dict[str, float], ...] | None:
    if choice.logprobs is None or choice.logprobs.content is None:
        return None
    return tuple({p.token: p.logprob, **{t.token: t.logprob for t in p.top_logprobs}} for p in choice.logprobs.content)
