"""OpenRLHF's remote reward: templated text in, one number for each out.

Its trainer posts {"query": […], "prompts": […], "labels": […]}. A query is what its tokenizer decodes of prompt and
response, control tokens included; a prompt is the text before, usually through the policy's chat template; a label
is what the dataset says beside it, most often the right answer. It reads `rewards`, `scores` (for its dynamic
filtering) and `extra_logs`, one entry a query.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from judges.data.items import to_item
from judges.types import Failure, Item

# What a policy ends its answer with. One is taken off: what stands before it, the policy wrote.
END_TOKENS = (
    *("<|im_end|>", "<|endoftext|>", "<|eot_id|>", "<|end_of_text|>", "<|eom_id|>", "</s>", "<eos>"),
    *("<end_of_turn>", "<|end|>", "<|return|>", "<｜end▁of▁sentence｜>"),
)
_BOS = r"\s*(?:<s>|<bos>|<\|begin_of_text\|>|<｜begin▁of▁sentence｜>)?\s*"
# Chat templates whose turns say their role: (before the role, roles, between role and text, what ends a turn).
_FAMILIES = (
    (r"<\|im_start\|>", "system|user|assistant", r"\n", r"<\|im_end\|>\n?"),
    (r"<\|start_header_id\|>", "system|user|assistant", r"<\|end_header_id\|>\n\n", r"<\|eot_id\|>"),
    (r"<start_of_turn>", "user|model", r"\n", r"<end_of_turn>\n?"),
    (r"<\|", "system|user|assistant", r"\|>\n?", r"(?:<\|end\|>|</s>|<\|endoftext\|>)\n?"),
)


def _turn(family: tuple[str, str, str, str]) -> re.Pattern[str]:
    opening, roles, between, end = family
    until = rf"({end}|(?={opening}(?:{roles}){between})|\Z)"
    return re.compile(rf"{opening}({roles}){between}(.*?){until}", re.DOTALL)


_TURNS = [_turn(family) for family in _FAMILIES]


def read_queries(queries: Sequence[str], prompts: Sequence[str], labels: Sequence[Any]) -> list[Item | Failure]:
    """An Item of one response for each query; its label, where it is text, is the Item's reference.

    >>> chat = "<|im_start|>user\\nHi<|im_end|>\\n<|im_start|>assistant\\n"
    >>> (item,) = read_queries([chat + "Hello!<|im_end|>"], [chat], [""])
    >>> item.prompt, item.responses
    (({'role': 'user', 'content': 'Hi'},), ('Hello!',))
    """
    asked: list[Item | Failure] = []
    for query, prompt, label in zip(queries, prompts, labels, strict=True):
        response = response_of(query, prompt)
        if isinstance(response, Failure):
            asked.append(response)
            continue
        turns, begun = untemplated(prompt)
        asked.append(to_item("", {"prompt": turns, "response": begun + response, "reference": label}))
    return asked


def response_of(query: str, prompt: str) -> str | Failure:
    """The query without its prompt and the one token that ends it.

    A query that does not begin with its prompt is a Failure: where the response begins would be a guess.

    >>> response_of("Hi there. Hello!</s>", "Hi there."), response_of("Hi", "Other").reason
    (' Hello!', 'malformed')
    """
    # Decoding adds or drops white space at the very beginning, with some tokenizers.
    whole, before = query.lstrip(), prompt.lstrip()
    if not before:
        return Failure("malformed", "the prompt is empty, so the response cannot be told from it")
    if not whole.startswith(before):
        return Failure(
            "malformed",
            "the query does not begin with its prompt; a trainer that cuts long prompts needs a longer prompt limit",
        )
    response = whole[len(before) :]
    end = next((token for token in END_TOKENS if response.endswith(token)), "")
    return response[: len(response) - len(end)]


def untemplated(prompt: str) -> tuple[str | list[dict[str, str]], str]:
    """The messages that a chat template wrote, and what it wrote at the beginning of the answer.

    Read are ChatML, Llama 3, Gemma, and the form of Zephyr and Phi. Any other text is one user message as it is.

    >>> untemplated("<start_of_turn>user\\nHi<end_of_turn>\\n<start_of_turn>model\\n")
    ([{'role': 'user', 'content': 'Hi'}], '')
    >>> untemplated("<|im_start|>user\\nHi<|im_end|>\\n<|im_start|>assistant\\n<think>\\n")[1]
    '<think>\\n'
    >>> untemplated("[INST] Hi [/INST]")
    ('[INST] Hi [/INST]', '')
    """
    start = re.match(_BOS, prompt)
    at = start.end() if start else 0
    for turn in _TURNS:
        found, is_open = _turns(turn, prompt, at)
        if not any(message["role"] == "user" for message in found):
            continue
        begun = found.pop()["content"] if is_open and found[-1]["role"] == "assistant" else ""
        kept = [message for message in found if message["content"].strip()]
        if kept:
            return kept, begun
    return prompt, ""


def _turns(turn: re.Pattern[str], prompt: str, at: int) -> tuple[list[dict[str, str]], bool]:
    """The turns from `at` to the end, none where the text is not made of such; and whether the last is open."""
    found: list[dict[str, str]] = []
    end = ""
    while at < len(prompt):
        match = turn.match(prompt, at)
        if match is None:
            return [], False
        role, text, end = match.groups()
        found.append({"role": "assistant" if role == "model" else role, "content": text})
        at = match.end()
    return found, not end
