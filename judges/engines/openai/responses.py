"""What a server answered, as a Completion or as the RequestFailed of its row; servers answer in many odd shapes."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from judges.engines.base import Completion, Generation, LogLikelihood, RequestFailed
from judges.errors import redact
from judges.types import Failure, Usage

# Every spelling is compared in lower case.
WHOLE = ("stop", "eos", "eos_token", "stop_sequence", "end_turn")
CUT = ("length", "model_length", "max_tokens", "max_output_tokens")
WITHHELD = ("content_filter", "safety", "recitation", "blocklist", "prohibited_content", "spii", "refusal")
TEXT_PARTS = ("text", "output_text")
THOUGHT_PARTS = ("thinking", "reasoning", "reasoning_text", "redacted_thinking")


def to_payload(response: Any, url: str) -> dict[str, Any]:
    """The JSON object of an answer, from whatever form the client gives it in. Raises RequestFailed.

    The client returns an answer that is not declared to be JSON as text, which may be JSON all the same.
    """
    if isinstance(response, str | bytes):
        try:
            response = json.loads(response)
        except ValueError as error:
            raise not_json(url) from error
    elif hasattr(response, "to_dict"):
        response = response.to_dict(warnings=False)
    if not isinstance(response, dict):
        raise not_json(url)
    return response


def not_json(url: str) -> RequestFailed:
    """The failure of a request whose answer is a page or half a body."""
    return RequestFailed("server", f"{url} answered something that is not a JSON object")


def parse_completion(payload: Mapping[str, Any], n: int, url: str, seconds: float) -> Completion:
    """The generations in an answer to a request for `n`, which may be fewer.

    A choice that was withheld or broke off is among `failures`; its siblings remain. Raises RequestFailed, with the
    usage that was billed, where no choice is left.
    """
    usage = parse_usage(payload.get("usage"), seconds)
    choices = payload.get("choices")
    if not isinstance(choices, list) or not choices:
        raise RequestFailed("server", f"{url} answered without a completion", usage)
    results = [_parse_choice(choice, url) for choice in choices[:n]]
    generations = tuple(result for result in results if isinstance(result, Generation))
    failures = tuple(result for result in results if isinstance(result, Failure))
    if not generations:
        raise RequestFailed(failures[0].reason, failures[0].message, usage)
    return Completion(generations, usage, failures)


def _parse_choice(choice: Any, url: str) -> Generation | Failure:
    message = choice.get("message") if isinstance(choice, dict) else None
    if not isinstance(message, dict):
        return Failure("server", f"{url} answered with a choice that has no message")
    finish = choice.get("finish_reason")
    reason = finish.lower() if isinstance(finish, str) else ""
    if refusal := message.get("refusal") or _refusal_part(message.get("content")):
        return Failure("refused", f"the model refused: {_first_line(refusal)}")
    if reason in WITHHELD:
        return Failure("refused", "the server's content filter withheld the completion")
    if choice.get("error"):
        return Failure("server", f"{url} broke the completion off: {error_message(choice['error'])}")
    if reason not in WHOLE and reason not in CUT:
        ended = f"finish_reason {finish!r}" if finish else "no finish_reason"
        return Failure("server", f"{url} ended the completion with {ended:.100}: it may not be whole")
    if message.get("tool_calls") and not message.get("content"):
        return Failure("server", f"{url} answered with tool calls, not with text")
    parts = _split_parts(message.get("content"))
    if parts is None:
        return Failure("server", f"{url} answered with content that is not text")
    text, thought = parts
    reasoning = _reasoning_field(message) or thought
    if not text and reason in WHOLE and (reasoning or message.get("content") != ""):
        return Failure("empty", f"{url} answered without text{', only with a thought' if reasoning else ''}")
    return Generation(text, "length" if reason in CUT else "stop", reasoning=reasoning)


def _split_parts(content: Any) -> tuple[str, str] | None:
    """(text, thought) of a message's content: a string, null, or a list of parts; None for any other."""
    if content is None:
        return "", ""
    if isinstance(content, str):
        return content, ""
    if isinstance(content, dict):
        content = [content]
    if not isinstance(content, list):
        return None
    texts: list[str] = []
    thoughts: list[str] = []
    for part in content:
        if isinstance(part, str):
            texts.append(part)
            continue
        kind = part.get("type", "text") if isinstance(part, dict) else None
        if kind in TEXT_PARTS and isinstance(part.get("text"), str):
            texts.append(part["text"])
        elif kind in THOUGHT_PARTS:
            thoughts.append(_thought(part))
        elif kind != "reference":  # a citation that Mistral puts between two texts
            return None
    return "".join(texts), "".join(thoughts)


def _refusal_part(content: Any) -> str:
    parts = content if isinstance(content, list) else []
    refusals = [part for part in parts if isinstance(part, Mapping) and part.get("type") == "refusal"]
    return str(refusals[0].get("refusal") or "no reason given") if refusals else ""


def _thought(part: Mapping[str, Any]) -> str:
    """The text of a thinking part, which is a string or again a list of parts."""
    for key in ("thinking", "reasoning", "text"):
        value = part.get(key)
        if isinstance(value, str):
            return value
        if isinstance(value, list):
            texts = [inner.get("text") if isinstance(inner, Mapping) else inner for inner in value]
            return "".join(text for text in texts if isinstance(text, str))
    return ""


def _reasoning_field(message: Mapping[str, Any]) -> str:
    for key in ("reasoning_content", "reasoning", "thinking"):
        value = message.get(key)
        if isinstance(value, str) and value:
            return value
    return ""


def parse_usage(usage: Any, seconds: float) -> Usage:
    """The tokens that were billed. What the server does not say, or not as a count, is 0.

    >>> parse_usage({"prompt_tokens": "12", "completion_tokens": None, "prompt_tokens_details": []}, 1.5)
    Usage(prompt_tokens=12, cached_tokens=0, generated_tokens=0, seconds=1.5, saved_tokens=0)
    """
    if not isinstance(usage, Mapping):
        return Usage(seconds=seconds)
    details = usage.get("prompt_tokens_details")
    cached = details.get("cached_tokens") if isinstance(details, Mapping) else None
    return Usage(_count(usage.get("prompt_tokens")), _count(cached), _count(usage.get("completion_tokens")), seconds)


def _count(value: Any) -> int:
    if isinstance(value, str) and value.strip().isdecimal():
        value = int(value[:18])
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return 0
    return max(0, int(value))


def parse_tokens(payload: Mapping[str, Any], url: str) -> list[int]:
    """The token ids in an answer of `/tokenize`. Raises RequestFailed."""
    tokens = payload.get("tokens")
    if not isinstance(tokens, list) or not all(isinstance(t, int) and not isinstance(t, bool) for t in tokens):
        raise RequestFailed("server", f"{url} answered /tokenize without token ids")
    return tokens


def parse_likelihood(
    payload: Mapping[str, Any], ids: Sequence[int], start: int, url: str, seconds: float
) -> LogLikelihood:
    """log P of the tokens `ids[start:]`, from the `prompt_logprobs` of a completion of `ids`. Raises RequestFailed."""
    usage = parse_usage(payload.get("usage"), seconds)
    choices = payload.get("choices")
    choice = choices[0] if isinstance(choices, list) and choices else None
    rows = choice.get("prompt_logprobs") if isinstance(choice, dict) else None
    if not rows:
        raise RequestFailed("server", f"{url} does not return prompt_logprobs", usage)
    try:
        total = float(sum(rows[i][str(ids[i])]["logprob"] for i in range(start, len(ids))))
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise RequestFailed("server", f"{url} returned prompt_logprobs that lack some tokens", usage) from error
    if math.isnan(total) or total > 1e-3:
        raise RequestFailed("server", f"{url} returned prompt_logprobs that are no log-probabilities", usage)
    return LogLikelihood(total, len(ids) - start, usage)


def error_message(error: Any) -> str:
    """The first line of an error object, of at most 300 characters."""
    if isinstance(error, Mapping):
        metadata = error.get("metadata")
        raw = metadata.get("raw") if isinstance(metadata, Mapping) else None
        parts = [str(part) for part in (error.get("message"), raw) if part]
        error = ": ".join(parts) or json.dumps(error, default=str)
    return _first_line(error)


def _first_line(text: Any) -> str:
    return redact((str(text).splitlines() or [""])[0][:300])
