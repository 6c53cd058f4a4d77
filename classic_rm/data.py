"""Preference rows to token ids, once, through the chat template where the model has one."""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from judges.engines.base import RequestFailed
from judges.engines.chat import conversation_ids, plain_ids
from judges.types import Failure, Item, Message


@dataclass(frozen=True, slots=True)
class Encoded:
    """Token ids of a prompt and its response. `cut` counts the prompt tokens that were taken from the left."""

    ids: list[int]
    cut: int = 0


@dataclass(frozen=True, slots=True)
class Pair:
    """One preference row, tokenized. `prompt` is the text that train and validation are split by."""

    prompt: str
    chosen: list[int]
    rejected: list[int]


def encode(
    tokenizer: Any, messages: tuple[Message, ...], response: str, max_length: int, cut_response: bool = False
) -> Encoded | Failure:
    """Ids of a conversation that ends with `response`, at most `max_length` of them.

    Too long: the prompt is cut from the left, behind the tokens that open every sequence. A response that
    is too long by itself is a Failure, unless it may be cut, at its left end too.
    """
    try:
        before, prompt, answer = _parts(tokenizer, messages, response)
    except RequestFailed as error:
        return error.failure
    room = max_length - len(before) - len(answer)
    if room < 0 and not cut_response:
        size = len(before) + len(answer)
        return Failure("too-long", f"the response alone takes {size} tokens, the model reads {max_length}")
    if room < 0:
        return Encoded(before + answer[-(max_length - len(before)) :], len(prompt))
    kept = prompt[-room:] if room else []
    return Encoded(before + kept + answer, len(prompt) - len(kept))


def _parts(tokenizer: Any, messages: tuple[Message, ...], response: str) -> tuple[list[int], list[int], list[int]]:
    """(what opens every sequence, the prompt, the response with its end), as ids."""
    if getattr(tokenizer, "chat_template", None):
        prompt, answer = conversation_ids(tokenizer, messages, response)
        opening = 1 if tokenizer.bos_token_id is not None and prompt[:1] == [tokenizer.bos_token_id] else 0
        return prompt[:opening], prompt[opening:], answer
    text = (
        messages[0]["content"] if len(messages) == 1 else "\n\n".join(f"{m['role']}: {m['content']}" for m in messages)
    )
    # No template: the tokenizer's own pair form, "[CLS] prompt [SEP] response [SEP]" for BERT-like models.
    first, second = plain_ids(tokenizer, text), plain_ids(tokenizer, response)
    opening_ids = _one(tokenizer.cls_token_id, tokenizer.bos_token_id)
    between = _one(tokenizer.sep_token_id, None)
    ending = _one(tokenizer.sep_token_id, tokenizer.eos_token_id)
    return opening_ids, first, between + second + ending


def _one(first: int | None, second: int | None) -> list[int]:
    token = first if first is not None else second
    return [] if token is None else [token]


def encode_pairs(tokenizer: Any, items: Iterable[Item], max_length: int) -> tuple[list[Pair], dict[str, int]]:
    """Training pairs, and how many rows were cut, dropped as too long, or dropped as having equal sides."""
    pairs: list[Pair] = []
    counts = {"rows": 0, "cut": 0, "too long": 0, "equal sides": 0}
    for item in items:
        counts["rows"] += 1
        chosen, rejected = item.responses[0], item.responses[1]
        if chosen == rejected:
            counts["equal sides"] += 1
            continue
        sides = [encode(tokenizer, item.messages, text, max_length) for text in (chosen, rejected)]
        if any(isinstance(side, Failure) for side in sides):
            counts["too long"] += 1
            continue
        kept = [side for side in sides if isinstance(side, Encoded)]
        counts["cut"] += any(side.cut for side in kept)
        pairs.append(Pair(repr(item.messages), kept[0].ids, kept[1].ids))
    return pairs, counts


def split_by_prompt(pairs: Sequence[Pair], share: float, seed: int) -> tuple[list[Pair], list[Pair]]:
    """(train, validation): a prompt's rows all fall on one side."""
    prompts = sorted({pair.prompt for pair in pairs})
    random.Random(seed).shuffle(prompts)
    held = set(prompts[: round(len(prompts) * share)])
    return [p for p in pairs if p.prompt not in held], [p for p in pairs if p.prompt in held]
