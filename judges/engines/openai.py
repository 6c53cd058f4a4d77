"""Any OpenAI-compatible server: vllm serve, SGLang, llama.cpp, a hosted one."""

from __future__ import annotations

import json
import os
import time
from typing import Any

from judges.engines.base import Completion, Engine, Generated, LogLikelihood, Request, RequestFailed, submit
from judges.errors import CannotRun
from judges.types import Message, Usage


class OpenAIEngine(Engine):
    """A server under `base_url`. The client retries 429, 5xx and dropped connections with backoff.

    `choice` uses vLLM's `structured_outputs`, continuing an assistant turn its `continue_final_message`,
    and `log_likelihood` its `/tokenize` and `prompt_logprobs`; other servers may refuse those.
    """

    name = "openai"

    def __init__(
        self,
        model: str,
        base_url: str = "",
        api_key: str = "",
        timeout: float = 600.0,
        retries: int = 5,
        **unknown: Any,
    ) -> None:
        if unknown:
            raise CannotRun(f"engine openai has no setting {', '.join(unknown)}")
        self.base_url = base_url or os.environ.get("OPENAI_BASE_URL", "")
        if not self.base_url:
            raise CannotRun("engine openai needs base_url=http://HOST:PORT/v1 (or OPENAI_BASE_URL)")
        import openai

        self.model = model
        self._client = openai.AsyncOpenAI(
            base_url=self.base_url,
            api_key=api_key or os.environ.get("OPENAI_API_KEY") or "none",
            timeout=timeout,
            max_retries=retries,
        )
        self._closed = False
        submit(self._check()).result()

    async def _check(self) -> None:
        import openai

        first = self._client.with_options(max_retries=1, timeout=20)
        try:
            served = [m.id async for m in first.models.list()]
        except openai.AuthenticationError as error:
            raise CannotRun(f"{self.base_url} refuses the key (401): set OPENAI_API_KEY or api_key=…") from error
        except openai.PermissionDeniedError as error:
            raise CannotRun(f"{self.base_url} does not allow this key (403)") from error
        except openai.NotFoundError as error:
            raise CannotRun(f"{self.base_url} has no /models (404): does the base URL end in /v1?") from error
        except openai.APIConnectionError as error:
            raise CannotRun(f"no server answers at {self.base_url}: is it running?") from error
        except openai.APIStatusError as error:
            raise CannotRun(f"{self.base_url} answered {error.status_code} when asked for its models") from error
        if served and self.model not in served:
            raise CannotRun(f"{self.base_url} serves {', '.join(served[:10])}, not {self.model!r}")

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
        reply = await self._ask(
            self._client.chat.completions.create(
                model=self.model,
                messages=messages,
                n=request.n,
                temperature=request.temperature,
                top_p=request.top_p,
                max_tokens=request.max_tokens,
                extra_body=extra or None,
                **{key: value for key, value in given.items() if value is not None},
            )
        )
        choices = tuple(
            Generated(
                text=choice.message.content or "",
                finish="length" if choice.finish_reason == "length" else "stop",
                logprobs=_logprobs(choice),
            )
            for choice in reply.choices or ()
        )
        if not choices:
            raise RequestFailed("server", f"{self.base_url} answered without a completion")
        if any(choice.finish_reason == "content_filter" for choice in reply.choices):
            raise RequestFailed("refused", "the server's content filter withheld the completion")
        return Completion(choices, _usage(reply, time.perf_counter() - started))

    async def log_likelihood(
        self, messages: tuple[Message, ...], prefix: str, continuation: str, begun: Generated | None = None
    ) -> LogLikelihood:
        before = await self._tokenize(messages, prefix)
        after = await self._tokenize(messages, prefix + continuation)
        ids = before + after[len(before) :] if after[: len(before)] == before else after
        return await self._likelihood(before, ids)

    async def response_log_likelihood(self, messages: tuple[Message, ...], response: str) -> LogLikelihood:
        # The server tokenizes: a control string in the text is what the server takes it for.
        ids = await self._tokenize((*messages, {"role": "assistant", "content": response}), "", ended=True)
        before = await self._tokenize(messages, "")
        if ids[: len(before)] != before:  # some templates open the assistant's turn otherwise when asked to go on
            before = await self._tokenize(messages, "", ended=True)
        return await self._likelihood(before, ids)

    async def _likelihood(self, before: list[int], ids: list[int]) -> LogLikelihood:
        shared = next((i for i, (a, b) in enumerate(zip(before, ids, strict=False)) if a != b), len(before))
        if not shared:
            raise RequestFailed("malformed", "the chat template does not show where the response begins")
        started = time.perf_counter()
        reply = await self._ask(
            self._client.completions.create(
                model=self.model, prompt=ids, max_tokens=1, temperature=0, extra_body={"prompt_logprobs": 0}
            )
        )
        rows = getattr(reply.choices[0], "prompt_logprobs", None)
        if not rows:
            raise RequestFailed("server", f"{self.base_url} does not return prompt_logprobs")
        total = sum(rows[place][str(ids[place])]["logprob"] for place in range(shared, len(ids)))
        return LogLikelihood(total, len(ids) - shared, _usage(reply, time.perf_counter() - started))

    async def _tokenize(self, messages: tuple[Message, ...], prefix: str, ended: bool = False) -> list[int]:
        turns: list[Any] = [dict(m) for m in messages]
        go_on = not prefix and not ended
        body: dict[str, Any] = {"model": self.model, "messages": turns, "add_generation_prompt": go_on}
        if prefix:
            turns.append({"role": "assistant", "content": prefix})
            body["continue_final_message"] = True
        root = self.base_url.rstrip("/").removesuffix("/v1")
        reply = await self._ask(self._client.post(f"{root}/tokenize", cast_to=object, body=body))
        return list(reply["tokens"])

    async def _ask(self, call: Any) -> Any:
        import openai

        try:
            return await call
        except openai.APITimeoutError as error:
            raise RequestFailed("timeout", f"{self.base_url} did not answer in time") from error
        except openai.APIConnectionError as error:
            # Not this row's fault: failing every row that is left would be a file of failures.
            raise CannotRun(
                f"{self.base_url} went away; what is finished is safe, run the same command again"
            ) from error
        except openai.BadRequestError as error:
            text = str(error.message)
            long = "context length" in text or "maximum context" in text or "max_model_len" in text
            raise RequestFailed("too-long" if long else "server", text.splitlines()[0][:300]) from error
        except openai.APIStatusError as error:
            said = str(error.message).splitlines()[0][:300]
            raise RequestFailed("server", f"{self.base_url} answered {error.status_code}: {said}") from error

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            submit(self._client.close()).result()


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
