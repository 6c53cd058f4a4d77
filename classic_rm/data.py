"""Preference rows to token ids, once, through the chat template where the model has one."""

from __future__ import annotations

import random
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from judges.data.quality import preferences
from judges.engines.base import RequestFailed
from judges.engines.chat_template import conversation_ids, plain_ids
from judges.types import Failure, Item, Message


@dataclass(frozen=True, slots=True)
class Encoded:
    """Token ids of a prompt and its response. `cut` counts the prompt tokens that were taken from the left."""

    ids: list[int]
    cut: int = 0


@dataclass(frozen=True, slots=True)
class Example:
    """One prompt's responses, tokenized, and its comparisons (the winner's index, the loser's).

    `prompt` is the text that train and validation are split by; `margin` is in units of reward.
    """

    prompt: str
    responses: list[Sequence[int]]
    comparisons: list[tuple[int, int]]
    margin: float = 0.0
    subset: str | None = None


@dataclass
class Counts:
    """What became of the rows: `dropped` holds the numbers of the rows that each reason took."""

    rows: int = 0
    comparisons: int = 0
    cut: int = 0
    dropped: dict[str, list[int]] = field(default_factory=dict)

    def drop(self, reason: str, row: int) -> None:
        self.dropped.setdefault(reason, []).append(row)

    def __str__(self) -> str:
        """
        >>> str(Counts(5, 3, 1, {"equal sides": [2, 4]}))
        '5 rows, 3 comparisons, 1 prompt cut; dropped 2: equal sides (row 2, 4)'
        """
        text = f"{self.rows} rows, {self.comparisons} comparisons, {self.cut} prompt{'s' * (self.cut != 1)} cut"
        for reason, rows in self.dropped.items():
            shown = ", ".join(map(str, rows[:5])) + (", …" if len(rows) > 5 else "")
            text += f"; dropped {len(rows)}: {reason} (row {shown})"
        return text


def encode(
    tokenizer: Any, messages: tuple[Message, ...], response: str, max_length: int, add_bos: bool = False
) -> Encoded | Failure:
    """Ids of a conversation that ends with `response`, at most `max_length` of them.

    Too long: the prompt is cut from the left, behind the tokens that open every sequence. A response that
    is too long by itself is a Failure. `add_bos` opens with BOS where the chat template writes none: some
    models were trained on the template's text tokenized once more, which adds it.
    """
    try:
        before, prompt, answer = _parts(tokenizer, messages, response)
    except RequestFailed as error:
        return error.failure
    if add_bos and tokenizer.bos_token_id is not None and before[:1] != [tokenizer.bos_token_id]:
        before = [tokenizer.bos_token_id, *before]
    room = max_length - len(before) - len(answer)
    if room < 0:
        size = len(before) + len(answer)
        return Failure("too-long", f"the response alone takes {size} tokens, the model reads {max_length}")
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


def compared(item: Item | Failure) -> list[tuple[int, int]] | str:
    """The comparisons (the winner's index, the loser's) of responses that differ, or why there are none.

    >>> from judges.types import Gold
    >>> compared(Item(id="a", prompt="Hi", responses=["Hello!", "Hello!"], gold=Gold(chosen=(0,))))
    'both sides are equal'
    """
    if isinstance(item, Failure):
        return item.message
    told = preferences(item)
    if not told:
        unsaid = "it needs chosen and rejected, or responses with scores or ranking"
        return unsaid if item.gold is None else "no response is said to be better"
    apart = [(i, j) for i, j in told if item.responses[i] != item.responses[j]]
    return apart or "both sides are equal"


def encode_items(
    tokenizer: Any, rows: Iterable[tuple[int, Item | Failure]], max_length: int
) -> tuple[list[Example], Counts]:
    """Examples of numbered rows, and what became of the others, with their numbers."""
    examples: list[Example] = []
    counts = Counts()
    for number, item in rows:
        counts.rows += 1
        apart = compared(item)
        if isinstance(item, Failure) or isinstance(apart, str):
            counts.drop(str(apart), number)
            continue
        sides = [encode(tokenizer, item.messages, text, max_length) for text in item.responses]
        fits = [i for i, side in enumerate(sides) if isinstance(side, Encoded) and item.responses[i].strip()]
        kept = [(i, j) for i, j in apart if i in fits and j in fits]
        if not kept:
            empty = any(not text.strip() for text in item.responses)
            counts.drop("a response is empty" if empty else "a response is too long", number)
            continue
        used = sorted({i for pair in kept for i in pair})
        ids = {i: side for i, side in enumerate(sides) if isinstance(side, Encoded)}
        counts.cut += any(ids[i].cut for i in used)
        counts.comparisons += len(kept)
        examples.append(
            Example(
                prompt=repr(item.messages),
                responses=[array("i", ids[i].ids) for i in used],
                comparisons=[(used.index(i), used.index(j)) for i, j in kept],
                margin=float(item.meta.get("margin", 0.0)),
                subset=item.subset,
            )
        )
    return examples, counts


def with_foreign_rejected(
    rows: Iterable[tuple[int, Item | Failure]], seed: int
) -> Iterator[tuple[int, Item | Failure]]:
    """Give each pair a third response, another prompt's chosen one, as a second rejected: what does not
    answer the question loses, however good it sounds (Liu et al. 2024, arXiv 2409.13156)."""
    held = list(rows)
    pool = [
        (repr(item.messages), item.responses[item.gold.chosen[0]])
        for _, item in held
        if isinstance(item, Item) and item.gold is not None and item.gold.chosen
    ]
    draw = random.Random(seed)
    several = len({prompt for prompt, _ in pool}) > 1
    for number, item in held:
        if isinstance(item, Item) and several and len(item.responses) == 2 and item.gold and item.gold.chosen:
            prompt, text = draw.choice(pool)
            while prompt == repr(item.messages):
                prompt, text = draw.choice(pool)
            item = replace(item, responses=[*item.responses, text])
        yield number, item


def split_by_prompt(examples: Sequence[Example], share: float, seed: int) -> tuple[list[Example], list[Example]]:
    """(train, validation): a prompt's rows all fall on one side, and neither side is empty where there are
    two prompts."""
    held = held_prompts((example.prompt for example in examples), share, seed)
    return [e for e in examples if e.prompt not in held], [e for e in examples if e.prompt in held]


def held_prompts(prompts: Iterable[str], share: float, seed: int) -> set[str]:
    """The prompts to hold out: that share of those that differ, one at least, and never all of two or more."""
    known = sorted(set(prompts))
    random.Random(seed).shuffle(known)
    return set(known[: min(max(1, round(len(known) * share)), len(known) - 1)])
