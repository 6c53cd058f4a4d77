"""The OpenRLHF remote reward endpoint: converts its queries, which are text in a chat template, to Items.

The trainer posts {"query": […], "prompts": […], "labels": […]}. A query is the decoded prompt and response, including
control tokens. A prompt is the text before the response, usually in the policy's chat template. A label comes from the
dataset, and is most often the correct answer. The trainer reads `rewards`, `scores` (for its dynamic filtering) and
`extra_logs`, with one entry per query.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from judges.data.items import to_item
from judges.types import Failure, Item

# The tokens that end a response. Only the last one is removed, because the policy wrote what precedes it.
END_TOKENS = (
    *("<|im_end|>", "<|endoftext|>", "<|eot_id|>", "<|end_of_text|>", "<|eom_id|>", "</s>", "<eos>"),
    *("<end_of_turn>", "<|end|>", "<|return|>", "<｜end▁of▁sentence｜>"),
)
_BOS = r"\s*(?:<s>|<bos>|<\|begin_of_text\|>|<｜begin▁of▁sentence｜>)?\s*"
# Chat templates whose turns state their role: (before the role, roles, between role and text, end of a turn).
_FAMILIES = (
    (r"<\|im_start\|>", "system|user|assistant", r"\n", r"<\|im_end\|>\n?"),
    (r"<\|start_header_id\|>", "system|user|assistant", r"<\|end_header_id\|>\n\n", r"<\|eot_id\|>"),
    (r"<start_of_turn>", "user|model", r"\n", r"<end_of_turn>\n?"),
    (r"<\|", "system|user|assistant", r"\|>\n?", r"(?:<\|end\|>|</s>|<\|endoftext\|>)\n?"),
)


def _turn_pattern(family: tuple[str, str, str, str]) -> re.Pattern[str]:
    opening, roles, between, end = family
    until = rf"({end}|(?={opening}(?:{roles}){between})|\Z)"
    return re.compile(rf"{opening}({roles}){between}(.*?){until}", re.DOTALL)


_TURN_PATTERNS = [_turn_pattern(family) for family in _FAMILIES]


def queries_to_items(queries: Sequence[str], prompts: Sequence[str], labels: Sequence[Any]) -> list[Item | Failure]:
    """An Item of one response for each query; a label that is text is the Item's reference.

    >>> chat = "<|im_start|>user\\nHi<|im_end|>\\n<|im_start|>assistant\\n"
    >>> (item,) = queries_to_items([chat + "Hello!<|im_end|>"], [chat], [""])
    >>> item.prompt, item.responses
    (({'role': 'user', 'content': 'Hi'},), ('Hello!',))
    """
    items: list[Item | Failure] = []
    for query, prompt, label in zip(queries, prompts, labels, strict=True):
        response = response_of(query, prompt)
        if isinstance(response, Failure):
            items.append(response)
            continue
        turns, prefill = parse_chat_template(prompt)
        items.append(to_item("", {"prompt": turns, "response": prefill + response, "reference": label}))
    return items


def response_of(query: str, prompt: str) -> str | Failure:
    """The query without its prompt and its final end token.

    A query that does not begin with its prompt is a Failure, because the start of the response is unknown.

    >>> response_of("Hi there. Hello!</s>", "Hi there."), response_of("Hi", "Other").reason
    (' Hello!', 'malformed')
    """
    # Some tokenizers add or drop white space at the beginning when they decode.
    query, prompt = query.lstrip(), prompt.lstrip()
    if not prompt:
        return Failure("malformed", "the prompt is empty, so the start of the response is unknown")
    if not query.startswith(prompt):
        return Failure(
            "malformed",
            "the query does not begin with its prompt; if the trainer truncates long prompts, raise its prompt limit",
        )
    response = query[len(prompt) :]
    end = next((token for token in END_TOKENS if response.endswith(token)), "")
    return response[: len(response) - len(end)]


def parse_chat_template(prompt: str) -> tuple[str | list[dict[str, str]], str]:
    """The messages of a prompt in a chat template, and the beginning of the answer that the template adds.

    Recognises the templates of ChatML, Llama 3, Gemma, Zephyr and Phi. Any other text becomes one user message.

    >>> parse_chat_template("<start_of_turn>user\\nHi<end_of_turn>\\n<start_of_turn>model\\n")
    ([{'role': 'user', 'content': 'Hi'}], '')
    >>> parse_chat_template("<|im_start|>user\\nHi<|im_end|>\\n<|im_start|>assistant\\n<think>\\n")[1]
    '<think>\\n'
    >>> parse_chat_template("[INST] Hi [/INST]")
    ('[INST] Hi [/INST]', '')
    """
    start = re.match(_BOS, prompt)
    position = start.end() if start else 0
    for pattern in _TURN_PATTERNS:
        messages, is_open = _parse_turns(pattern, prompt, position)
        if not any(message["role"] == "user" for message in messages):
            continue
        prefill = messages.pop()["content"] if is_open and messages[-1]["role"] == "assistant" else ""
        if nonempty := [message for message in messages if message["content"].strip()]:
            return nonempty, prefill
    return prompt, ""


def _parse_turns(pattern: re.Pattern[str], prompt: str, position: int) -> tuple[list[dict[str, str]], bool]:
    """The turns from `position` to the end, and whether the last is open; no turns for text of another form."""
    turns: list[dict[str, str]] = []
    end = ""
    while position < len(prompt):
        match = pattern.match(prompt, position)
        if match is None:
            return [], False
        role, text, end = match.groups()
        turns.append({"role": "assistant" if role == "model" else role, "content": text})
        position = match.end()
    return turns, not end
