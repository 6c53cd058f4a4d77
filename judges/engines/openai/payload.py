"""A Request as the body of a chat completion, in the form that a make of server takes, and its log-probabilities."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from judges.engines.base import Completion, Request, TokenLogprobs
from judges.engines.capabilities import Capabilities, NotSupported
from judges.engines.openai.providers import CORRECTABLE, Provider
from judges.errors import CannotRun

EXTRA_BODY, TEMPLATE_KWARGS = "extra_body", "chat_template_kwargs"
RESERVED = ("model", "messages", "n", "stream")  # of a body: what a judge decides


def build_payload(provider: Provider, capabilities: Capabilities, model: str, request: Request) -> dict[str, Any]:
    """The body of a request. Raises NotSupported where it needs what the server cannot do."""
    messages: list[Any] = [dict(m) for m in request.messages]
    extra: dict[str, Any] = {}
    if request.prefix:
        if not capabilities.prefix_continuation:
            raise NotSupported("prefix_continuation", "the server does not go on with an assistant turn")
        messages.append({"role": "assistant", "content": request.prefix, **provider.prefix_field})
        extra |= provider.prefix
    if request.choice:
        if not capabilities.choice:
            raise NotSupported("choice", "the server does not limit a completion to given strings")
        extra["structured_outputs"] = {"choice": list(request.choice)}
    if request.schema and capabilities.json_schema:
        loaded = json.loads(request.schema)
        schema = {
            "name": "verdict",
            "schema": loaded if provider.name == "vllm" else with_types(loaded),
            "strict": True,
        }
        extra["response_format"] = {"type": "json_schema", "json_schema": schema}
    if request.top_logprobs:
        if not capabilities.top_logprobs:
            raise NotSupported("top_logprobs", "the server gives no log-probabilities")
        extra |= {"logprobs": True, "top_logprobs": min(request.top_logprobs, capabilities.top_logprobs)}
        extra |= provider.logprobs
    body: dict[str, Any] = {"model": model, "messages": messages}
    if request.n > 1 or provider.neutral_top_p:
        body["n"] = request.n
    if capabilities.temperature:
        body["temperature"] = request.temperature
    if (request.top_p != 1 and capabilities.top_p_with_temperature) or provider.neutral_top_p:
        body["top_p"] = request.top_p
    body[capabilities.max_tokens_name] = request.max_tokens
    if request.seed is not None and capabilities.seed:
        body[capabilities.seed_name] = request.seed
    if request.stop and capabilities.stop:
        body["stop"] = list(request.stop)
    return body | extra


def with_types(schema: Any) -> Any:
    """A JSON schema with `type` beside each `enum`, as OpenAI requires it.

    >>> with_types({"enum": [1, 2]}), with_types({"enum": ["A"]})
    ({'type': 'integer', 'enum': [1, 2]}, {'type': 'string', 'enum': ['A']})
    """
    if isinstance(schema, list):
        return [with_types(value) for value in schema]
    if not isinstance(schema, dict):
        return schema
    typed = {key: with_types(value) for key, value in schema.items()}
    if isinstance(schema.get("enum"), list) and "type" not in schema:
        kinds = {type(value) for value in schema["enum"]}
        name = (
            "string" if kinds == {str} else "integer" if kinds == {int} else "number" if kinds <= {int, float} else ""
        )
        return {"type": name, **typed} if name else typed
    return typed


def split_extra(settings: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """(settings of another kind, what is added to each body) of `extra_body.KEY` and `chat_template_kwargs.KEY`.

    >>> split_extra({"extra_body.top_k": 5, "chat_template_kwargs.enable_thinking": False})
    ({}, {'top_k': 5, 'chat_template_kwargs': {'enable_thinking': False}})
    """
    unknown: dict[str, Any] = {}
    extra: dict[str, Any] = {}
    template: dict[str, Any] = {}
    for key, value in settings.items():
        head, dot, rest = key.partition(".")
        if head == EXTRA_BODY and (rest or isinstance(value, Mapping)):
            extra |= {rest: value} if dot else dict(value)
        elif head == TEMPLATE_KWARGS and (rest or isinstance(value, Mapping)):
            template |= {rest: value} if dot else dict(value)
        else:
            unknown[key] = value
    if reserved := [key for key in RESERVED if key in extra]:
        raise CannotRun(f"engine openai: extra_body cannot hold {reserved[0]!r}, which a judge decides")
    return unknown, extra | ({TEMPLATE_KWARGS: template} if template else {})


def refused_key(extra: Mapping[str, Any], status: int, message: str) -> str | None:
    """The key of `extra` that an error names."""
    if status not in CORRECTABLE:
        return None
    return next((key for key in extra if re.search(rf"(?<!\w){re.escape(key)}(?!\w)", message)), None)


def with_logprobs(completion: Completion, payload: Mapping[str, Any]) -> Completion:
    """The completion of one choice with the log-probabilities that its answer lists; unchanged where it has none."""
    choices = payload.get("choices")
    if len(completion.choices) != 1 or not isinstance(choices, list) or len(choices) != 1:
        return completion
    logprobs = choices[0].get("logprobs")
    content = logprobs.get("content") if isinstance(logprobs, Mapping) else None
    if not isinstance(content, list):
        return completion
    positions = tuple(position for entry in content if (position := _position(entry)) is not None)
    if len(positions) != len(content):
        return completion
    return replace(completion, choices=(replace(completion.choices[0], logprobs=positions),))


def _position(entry: Any) -> TokenLogprobs | None:
    if not isinstance(entry, Mapping) or not isinstance(entry.get("token"), str):
        return None
    listed = entry.get("top_logprobs")
    tops = [pair for each in (listed if isinstance(listed, list) else []) if (pair := _pair(each)) is not None]
    return TokenLogprobs(entry["token"], tuple(tops)) if tops else None


def _pair(entry: Any) -> tuple[str, float] | None:
    if not isinstance(entry, Mapping) or not isinstance(entry.get("token"), str):
        return None
    value = entry.get("logprob")
    if isinstance(value, bool) or not isinstance(value, int | float) or math.isnan(value) or value > 1e-3:
        return None
    return entry["token"], float(value)
