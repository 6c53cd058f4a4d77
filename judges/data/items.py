"""Columns to Items: what the fields of a row mean."""

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
NO_RESPONSE = Failure("empty", "no response: it needs response, responses, or chosen and rejected")


def to_item(name: str, fields: Mapping[str, Any]) -> Item | Failure:
    """An Item from `prompt`+`response`, `prompt`+`responses`, `prompt`+`chosen`+`rejected`, or `messages`.

    `chosen` and `rejected` may be whole conversations that hold the prompt. `responses` may come with `scores`
    (higher is better) or `ranking` (1 is best). `margin`, `agreement` and `votes` are kept in `meta`.

    >>> to_item("a", {"prompt": "Hi", "chosen": "Hello!", "rejected": "No."}).gold.chosen
    (0,)
    >>> to_item("a", {"prompt": "Hi"}).message
    'no response: it needs response, responses, or chosen and rejected'
    """
    read = read_fields(name, fields)
    return NO_RESPONSE if isinstance(read, Prompt) else read


def read_fields(name: str, fields: Mapping[str, Any]) -> Item | Prompt | Failure:
    """As `to_item`, but a row that has a prompt and no response is a Prompt.

    An empty response is a response; no field for it, null and an empty list of `responses` are none.

    >>> read_fields("a", {"prompt": "Hi"}).id, read_fields("a", {"prompt": "Hi", "response": ""}).responses
    ('a', ('',))
    """
    messages, response = fields.get("messages"), fields.get("response")
    prompt = fields.get("prompt")
    gold: Gold | None = None
    if prompt is None and isinstance(fields.get("chosen"), str | list):
        whole = _conversations(fields.get("chosen"), fields.get("rejected"))
        if isinstance(whole, Failure):
            return whole
        prompt = whole
    if isinstance(messages, list) and messages:
        *before, last = messages
        if isinstance(last, dict) and last.get("role") == "assistant":
            prompt, response = before, last.get("content")
        else:
            prompt = messages
    prompt = conversation(prompt)
    if isinstance(prompt, Failure):
        return prompt
    if isinstance(fields.get("responses"), list):
        responses = fields["responses"]
        order = _order(fields, len(responses))
        if isinstance(order, Failure):
            return order
        gold = order
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
    if (subset := name_of_subset(fields.get("subset"))) is not None:
        texts["subset"] = subset
    said = (prompt,) if isinstance(prompt, str) else [turn["content"] for turn in prompt]
    if not all(map(_is_text, (*said, *responses, *texts.values()))):
        return Failure("malformed", "the row holds half of a surrogate pair, which is not text")
    meta = _meta(fields)
    if isinstance(meta, Failure):
        return meta
    if not responses:
        return Prompt(id=name, prompt=prompt, meta=meta, **texts)
    return Item(id=name, prompt=prompt, responses=responses, gold=gold, meta=meta, **texts)


def _order(fields: Mapping[str, Any], count: int) -> Gold | Failure | None:
    """What humans said of a list of responses: `scores` or `ranking`, one for each."""
    for name in ("scores", "ranking"):
        values = fields.get(name)
        if values is None:
            continue
        if not isinstance(values, list) or len(values) != count:
            return Failure("malformed", f"{name} is a list with one number for each of the {count} responses")
        if not all(isinstance(v, int | float) and _is_finite(v) for v in values):
            return Failure("malformed", f"{name} holds something that is no number, or one too large")
        return Gold(scores=tuple(values)) if name == "scores" else Gold(ranking=tuple(values))
    return None


def name_of_subset(value: Any) -> str | None:
    """A subset's name: a text, or a number by its digits; None for anything else.

    >>> name_of_subset(2020), name_of_subset(2020.0), name_of_subset(" "), name_of_subset(float("nan"))
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
    except OverflowError:  # an integer that no float holds
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
            return Failure("malformed", f"{name} is a number, not {value!r}")
        except OverflowError:
            return Failure("malformed", f"{name} is too large")
        if not math.isfinite(meta[name]):
            return Failure("malformed", f"{name} is a finite number, not {value!r}")
    if isinstance(fields.get("votes"), list):
        meta["votes"] = fields["votes"]
    return meta


def _conversations(chosen: Any, rejected: Any) -> list[Message] | Failure:
    """The turns that two whole conversations share, where they differ in their last turn alone."""
    sides = [conversation(chosen), conversation(rejected)]
    if any(not isinstance(side, list) or len(side) < 2 for side in sides):
        return Failure("empty", "the row has no prompt, and chosen and rejected are not whole conversations")
    first, second = (side for side in sides if isinstance(side, list))
    if first[:-1] != second[:-1] or first[-1]["role"] != "assistant" or second[-1]["role"] != "assistant":
        return Failure("malformed", "chosen and rejected differ in more than an assistant's last turn")
    return first[:-1]


def conversation(prompt: Any) -> str | list[Message] | Failure:
    """A prompt as text or messages; a "Human: … Assistant: …" transcript becomes messages.

    >>> [m["role"] for m in conversation("Human: Hi\\n\\nAssistant: Yes?\\n\\nHuman: Bye")]
    ['user', 'assistant', 'user']
    """
    if isinstance(prompt, str) and prompt.strip():
        parts = _TURN.split(prompt) if "Human:" in prompt else []
        if len(parts) > 3 and not parts[0].strip() and parts[1] == "Human":
            roles = {"Human": "user", "Assistant": "assistant"}
            turns = zip(parts[1::2], parts[2::2], strict=True)
            spoken: list[Message] = [
                {"role": roles[who], "content": text.strip()}  # type: ignore[typeddict-item]
                for who, text in turns
                if text.strip()
            ]
            return spoken or Failure("empty", "the row's transcript is empty")
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
        side = conversation(side)
    if isinstance(side, list) and side and isinstance(side[-1], dict):
        side = side[-1].get("content")
    return side if isinstance(side, str) else None
