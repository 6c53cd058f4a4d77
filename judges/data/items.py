"""Converts the fields of a row to an Item: prompt and responses, preference pairs, messages, and gold labels."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

from judges.engines.policy import Prompt
from judges.types import Failure, Gold, Item, Message

_TURN = re.compile(r"(?:\A|\n\n)(Human|Assistant): ?")
FIELDS = (
    "id",
    "prompt",
    "response",
    "responses",
    "chosen",
    "rejected",
    "messages",
    "system",
    "reference",
    "rubric",
    "subset",
    "scores",
    "ranking",
    "margin",
    "agreement",
    "votes",
)
NO_RESPONSE = Failure("empty", "no response: the row needs response, responses, or chosen and rejected")


def to_item(name: str, fields: Mapping[str, Any]) -> Item | Failure:
    """An Item from `prompt`+`response`, `prompt`+`responses`, `prompt`+`chosen`+`rejected`, or `messages`.

    `chosen` and `rejected` may be conversations that include the prompt. `responses` may come with `scores` (higher is
    better) or `ranking` (1 is best). `margin`, `agreement` and `votes` go to `meta`. A row that is not an Item is a
    Failure, "empty" or "malformed".

    >>> to_item("a", {"prompt": "Hi", "chosen": "Hello!", "rejected": "No."}).gold.chosen
    (0,)
    >>> to_item("a", {"prompt": "Hi"}).message
    'no response: the row needs response, responses, or chosen and rejected'
    """
    parsed = to_item_or_prompt(name, fields)
    return NO_RESPONSE if isinstance(parsed, Prompt) else parsed


def to_item_or_prompt(name: str, fields: Mapping[str, Any]) -> Item | Prompt | Failure:
    """Like `to_item`, but a row with a prompt and no response is a Prompt.

    An empty string is a response. A missing field, null and an empty list of `responses` are not.

    >>> to_item_or_prompt("a", {"prompt": "Hi"}).id, to_item_or_prompt("a", {"prompt": "Hi", "response": ""}).responses
    ('a', ('',))
    """
    messages, response = fields.get("messages"), fields.get("response")
    prompt = fields.get("prompt")
    gold: Gold | None = None
    if prompt is None and isinstance(fields.get("chosen"), str | list):
        prompt = _shared_turns(fields.get("chosen"), fields.get("rejected"))
        if isinstance(prompt, Failure):
            return prompt
    if isinstance(messages, list) and messages:
        *before, last = messages
        if isinstance(last, dict) and last.get("role") == "assistant":
            prompt, response = before, last.get("content")
        else:
            prompt = messages
    prompt = parse_prompt(prompt)
    if isinstance(prompt, Failure):
        return prompt
    if isinstance(fields.get("responses"), list):
        responses = fields["responses"]
        labels = _gold(fields, len(responses))
        if isinstance(labels, Failure):
            return labels
        gold = labels
    elif "chosen" in fields or "rejected" in fields:
        sides = [_last_turn(fields.get("chosen")), _last_turn(fields.get("rejected"))]
        if any(side is None for side in sides):
            return Failure("empty", "a preference row needs both chosen and rejected as text")
        responses, gold = sides, Gold(chosen=(0,))
    elif response is None and fields.get("responses") is not None:
        return Failure("malformed", "responses is not a list of texts")
    else:
        responses = [] if response is None else [response]
    if not all(isinstance(r, str) for r in responses):
        return Failure("malformed", "a response is not text")
    texts: dict[str, Any] = {}
    for key in ("system", "reference", "rubric"):
        value = fields.get(key)
        if isinstance(value, str) and value.strip():
            texts[key] = value
    if (subset := subset_name(fields.get("subset"))) is not None:
        texts["subset"] = subset
    turns = (prompt,) if isinstance(prompt, str) else [turn["content"] for turn in prompt]
    if not all(map(_is_text, (*turns, *responses, *texts.values()))):
        return Failure("malformed", "the row contains a lone surrogate (half of a surrogate pair), which is not text")
    meta = _meta(fields)
    if isinstance(meta, Failure):
        return meta
    if not responses:
        return Prompt(id=name, prompt=prompt, meta=meta, **texts)
    return Item(id=name, prompt=prompt, responses=responses, gold=gold, meta=meta, **texts)


def _gold(fields: Mapping[str, Any], count: int) -> Gold | Failure | None:
    """The human labels of a list of responses: `scores` or `ranking`, one number per response."""
    for name in ("scores", "ranking"):
        values = fields.get(name)
        if values is None:
            continue
        if not isinstance(values, list) or len(values) != count:
            return Failure("malformed", f"{name} is not a list with one number for each of the {count} responses")
        if not all(isinstance(v, int | float) and _is_finite(v) for v in values):
            return Failure("malformed", f"{name} contains a value that is not a number, or one that is too large")
        return Gold(scores=tuple(values)) if name == "scores" else Gold(ranking=tuple(values))
    return None


def subset_name(value: Any) -> str | None:
    """The name of a subset: a string, or the digits of a number; None for anything else.

    >>> subset_name(2020), subset_name(2020.0), subset_name(" "), subset_name(float("nan"))
    ('2020', '2020', None, None)
    """
    if value is None:
        return None
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, int | float) and not isinstance(value, bool) and _is_finite(value):
        return str(value)
    return value if isinstance(value, str) and value.strip() else None


def _is_text(text: str) -> bool:
    if text.isascii():
        return True
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _is_finite(number: float) -> bool:
    try:
        return math.isfinite(number)
    except OverflowError:  # an integer beyond the range of floats
        return False


def _meta(fields: Mapping[str, Any]) -> dict[str, Any] | Failure:
    meta: dict[str, Any] = {}
    for name in ("margin", "agreement"):
        value = fields.get(name)
        if value is None or value == "":
            continue
        try:
            meta[name] = float(value)
        except (TypeError, ValueError):
            return Failure("malformed", f"{name} is not a number: {value!r}")
        except OverflowError:
            return Failure("malformed", f"{name} is too large")
        if not math.isfinite(meta[name]):
            return Failure("malformed", f"{name} is not a finite number: {value!r}")
    if isinstance(fields.get("votes"), list):
        meta["votes"] = fields["votes"]
    return meta


def _shared_turns(chosen: Any, rejected: Any) -> list[Message] | Failure:
    """The turns that two conversations share, provided that they differ only in the last turn."""
    sides = [parse_prompt(chosen), parse_prompt(rejected)]
    if any(not isinstance(side, list) or len(side) < 2 for side in sides):
        return Failure("empty", "the row has no prompt, and chosen and rejected are not conversations that include it")
    first, second = (side for side in sides if isinstance(side, list))
    if first[:-1] != second[:-1] or first[-1]["role"] != "assistant" or second[-1]["role"] != "assistant":
        return Failure("malformed", "chosen and rejected differ in more than the last assistant turn")
    return first[:-1]


def parse_prompt(prompt: Any) -> str | list[Message] | Failure:
    """A prompt as text or as messages; a "Human: … Assistant: …" transcript becomes messages.

    >>> [m["role"] for m in parse_prompt("Human: Hi\\n\\nAssistant: Yes?\\n\\nHuman: Bye")]
    ['user', 'assistant', 'user']
    """
    if isinstance(prompt, str) and prompt.strip():
        parts = _TURN.split(prompt) if "Human:" in prompt else []
        if len(parts) > 3 and not parts[0].strip() and parts[1] == "Human":
            roles = {"Human": "user", "Assistant": "assistant"}
            turns = zip(parts[1::2], parts[2::2], strict=True)
            messages: list[Message] = [
                {"role": roles[who], "content": text.strip()}  # type: ignore[typeddict-item]
                for who, text in turns
                if text.strip()
            ]
            return messages or Failure("empty", "the row's transcript is empty")
        return prompt
    if isinstance(prompt, list) and prompt:
        for turn in prompt:
            if not isinstance(turn, dict) or not isinstance(turn.get("content"), str):
                return Failure("malformed", "a message is not {'role': …, 'content': text}")
            if turn.get("role") not in ("system", "user", "assistant"):
                return Failure("malformed", f"a message's role is {turn.get('role')!r}")
        return [{"role": turn["role"], "content": turn["content"]} for turn in prompt]
    return Failure("empty", "the row has no prompt")


def _last_turn(side: Any) -> str | None:
    if isinstance(side, str) and side.startswith("\n\nHuman:"):
        side = parse_prompt(side)
    if isinstance(side, list) and side and isinstance(side[-1], dict):
        side = side[-1].get("content")
    return side if isinstance(side, str) else None
