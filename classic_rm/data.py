"""Training data: preference rows to token ids through the chat template, truncation, and the split by prompt."""

from __future__ import annotations

import random
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from judges.data.quality import preferred_pairs
from judges.engines.base import RequestFailed
from judges.engines.chat_template import conversation_ids, plain_ids
from judges.types import Failure, Item, Message


@dataclass(frozen=True, slots=True)
class EncodedResponse:
    """Token ids of a prompt and its response. `cut` is the number of prompt tokens that were removed on the left."""

    ids: list[int]
    cut: int = 0


@dataclass(frozen=True, slots=True)
class Example:
    """The responses to one prompt as token ids of whole conversations, and their comparisons.

    A comparison is (index of the chosen response, index of the rejected one). `prompt` identifies the prompt in the
    split into training and validation. `margin` is in units of reward.
    """

    prompt: str
    responses: list[Sequence[int]]
    comparisons: list[tuple[int, int]]
    margin: float = 0.0
    subset: str | None = None

    @classmethod
    def from_item(cls, item: Item, responses: dict[int, list[int]], comparisons: list[tuple[int, int]]) -> Example:
        """An example of an Item's responses by index; comparisons refer to the Item's responses."""
        indices = list(responses)
        return cls(
            prompt=repr(item.messages),
            responses=[array("i", ids) for ids in responses.values()],
            comparisons=[(indices.index(i), indices.index(j)) for i, j in comparisons],
            margin=float(item.meta.get("margin", 0.0)),
            subset=item.subset,
        )


@dataclass
class RowCounts:
    """How many rows and comparisons are used, how many prompts are cut, and the row numbers dropped by reason."""

    rows: int = 0
    comparisons: int = 0
    cut: int = 0
    dropped: dict[str, list[int]] = field(default_factory=dict)

    def drop(self, reason: str, row: int) -> None:
        self.dropped.setdefault(reason, []).append(row)

    def __str__(self) -> str:
        """
        >>> str(RowCounts(5, 3, 1, {"equal sides": [2, 4]}))
        '5 rows, 3 comparisons, 1 prompt cut; dropped 2: equal sides (row 2, 4)'
        """
        text = f"{self.rows} rows, {self.comparisons} comparisons, {self.cut} prompt{'s' * (self.cut != 1)} cut"
        for reason, rows in self.dropped.items():
            numbers = ", ".join(map(str, rows[:5])) + (", …" if len(rows) > 5 else "")
            text += f"; dropped {len(rows)}: {reason} (row {numbers})"
        return text


def encode(
    tokenizer: Any, messages: tuple[Message, ...], response: str, max_length: int, add_bos: bool = False
) -> EncodedResponse | Failure:
    """Token ids of a conversation that ends with `response`, at most `max_length` of them.

    A conversation that is too long loses tokens from the left of the prompt, after the tokens that open every sequence.
    A response that is too long by itself is a Failure. `add_bos` adds BOS where the chat template writes none: some
    models were trained on the template's text tokenized again, which adds it.
    """
    try:
        opening, prompt, answer = _encode_parts(tokenizer, messages, response)
    except RequestFailed as error:
        return error.failure
    if add_bos and tokenizer.bos_token_id is not None and opening[:1] != [tokenizer.bos_token_id]:
        opening = [tokenizer.bos_token_id, *opening]
    room = max_length - len(opening) - len(answer)
    if room < 0:
        size = len(opening) + len(answer)
        return Failure("too-long", f"the response alone takes {size} tokens, the model reads {max_length}")
    prompt_end = prompt[-room:] if room else []
    return EncodedResponse(opening + prompt_end + answer, len(prompt) - len(prompt_end))


def _encode_parts(
    tokenizer: Any, messages: tuple[Message, ...], response: str
) -> tuple[list[int], list[int], list[int]]:
    """Token ids of the opening of every sequence, of the prompt, and of the response with its end."""
    if getattr(tokenizer, "chat_template", None):
        prompt, answer = conversation_ids(tokenizer, messages, response)
        bos = 1 if tokenizer.bos_token_id is not None and prompt[:1] == [tokenizer.bos_token_id] else 0
        return prompt[:bos], prompt[bos:], answer
    text = (
        messages[0]["content"] if len(messages) == 1 else "\n\n".join(f"{m['role']}: {m['content']}" for m in messages)
    )
    # Without a template the tokenizer's form of pairs: "[CLS] prompt [SEP] response [SEP]" for models like BERT.
    opening = _first_token(tokenizer.cls_token_id, tokenizer.bos_token_id)
    separator = _first_token(tokenizer.sep_token_id)
    ending = _first_token(tokenizer.sep_token_id, tokenizer.eos_token_id)
    return opening, plain_ids(tokenizer, text), separator + plain_ids(tokenizer, response) + ending


def _first_token(*tokens: int | None) -> list[int]:
    """The first of these tokens that the tokenizer has, in a list."""
    return [token for token in tokens if token is not None][:1]


def distinct_comparisons(item: Item | Failure) -> list[tuple[int, int]] | str:
    """The comparisons (chosen index, rejected index) between different responses, or the reason why there are none.

    >>> from judges.types import Gold
    >>> distinct_comparisons(Item(id="a", prompt="Hi", responses=["Hello!", "Hello!"], gold=Gold(chosen=(0,))))
    'both sides are equal'
    """
    if isinstance(item, Failure):
        return item.message
    comparisons = preferred_pairs(item)
    if not comparisons:
        if item.gold is None:
            return "it needs chosen and rejected, or responses with scores or ranking"
        return "no response is preferred"
    distinct = [(i, j) for i, j in comparisons if item.responses[i] != item.responses[j]]
    return distinct or "both sides are equal"


def encode_items(
    tokenizer: Any, rows: Iterable[tuple[int, Item | Failure]], max_length: int
) -> tuple[list[Example], RowCounts]:
    """Encode numbered rows. Returns the examples, and counts with the numbers of the rows that were dropped."""
    examples: list[Example] = []
    counts = RowCounts()
    for number, item in rows:
        counts.rows += 1
        distinct = distinct_comparisons(item)
        if isinstance(item, Failure) or isinstance(distinct, str):
            counts.drop(str(distinct), number)
            continue
        encoded = [encode(tokenizer, item.messages, text, max_length) for text in item.responses]
        fitting = {
            i: response
            for i, response in enumerate(encoded)
            if isinstance(response, EncodedResponse) and item.responses[i].strip()
        }
        comparisons = [(i, j) for i, j in distinct if i in fitting and j in fitting]
        if not comparisons:
            empty = any(not text.strip() for text in item.responses)
            counts.drop("a response is empty" if empty else "a response is too long", number)
            continue
        used = sorted({i for pair in comparisons for i in pair})
        counts.cut += any(fitting[i].cut for i in used)
        counts.comparisons += len(comparisons)
        examples.append(Example.from_item(item, {i: fitting[i].ids for i in used}, comparisons))
    return examples, counts


def add_foreign_rejected(rows: Iterable[tuple[int, Item | Failure]], seed: int) -> Iterator[tuple[int, Item | Failure]]:
    """Add to each pair a third response, which is the chosen one of another prompt, as a second rejected response.

    It teaches that a response that does not answer the prompt loses, however good it is (Liu et al. 2024, arXiv
    2409.13156)."""
    numbered = list(rows)
    pool = [
        (repr(item.messages), item.responses[item.gold.chosen[0]])
        for _, item in numbered
        if isinstance(item, Item) and item.gold is not None and item.gold.chosen
    ]
    rng = random.Random(seed)
    several_prompts = len({prompt for prompt, _ in pool}) > 1
    for number, item in numbered:
        if isinstance(item, Item) and several_prompts and len(item.responses) == 2 and item.gold and item.gold.chosen:
            prompt, text = rng.choice(pool)
            while prompt == repr(item.messages):
                prompt, text = rng.choice(pool)
            item = replace(item, responses=[*item.responses, text])
        yield number, item


def split_by_prompt(examples: Sequence[Example], share: float, seed: int) -> tuple[list[Example], list[Example]]:
    """Split into (train, validation) by prompt; neither is empty where there are two prompts or more."""
    held_out = choose_held_out_prompts((example.prompt for example in examples), share, seed)
    return [e for e in examples if e.prompt not in held_out], [e for e in examples if e.prompt in held_out]


def choose_held_out_prompts(prompts: Iterable[str], share: float, seed: int) -> set[str]:
    """A random `share` of the distinct prompts: at least one, and never all of two or more."""
    distinct = sorted(set(prompts))
    random.Random(seed).shuffle(distinct)
    return set(distinct[: min(max(1, round(len(distinct) * share)), len(distinct) - 1)])
