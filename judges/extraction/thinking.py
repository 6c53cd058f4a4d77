"""Thinking blocks (`<think>…</think>`) of reasoning models, separated from the answer."""

from __future__ import annotations

import re

THINK_END = re.compile(r"</think(?:ing)?>", re.IGNORECASE)
THINK_TAG = re.compile(r"<(?P<end>/?)think(?:ing)?>", re.IGNORECASE)


def split_thinking(text: str) -> tuple[str, str]:
    """(thinking, answer) of a generated text. The tags belong to the thinking.

    >>> split_thinking("<think>Is it?</think>It is.")
    ('<think>Is it?</think>', 'It is.')
    """
    spans = thinking_spans(text)
    edges = [0, *(edge for span in spans for edge in span), len(text)]
    answer = "".join(text[edges[i] : edges[i + 1]] for i in range(0, len(edges), 2))
    return "".join(text[start:end] for start, end in spans), answer


def thinking_spans(text: str) -> list[tuple[int, int]]:
    """The (start, end) of each thinking block, in order.

    A block that the chat template opened in the prompt has only an end tag: it starts at 0. One that is not closed
    ends with the text.
    """
    spans: list[tuple[int, int]] = []
    opened: int | None = None
    for tag in THINK_TAG.finditer(text):
        if not tag["end"]:
            opened = tag.start() if opened is None else opened
        elif opened is None:
            spans = [(0, tag.end())]
        else:
            spans.append((opened, tag.end()))
            opened = None
    return spans if opened is None else [*spans, (opened, len(text))]


def ends_in_thinking(text: str) -> bool:
    """Whether the text ends inside a thinking block.

    >>> ends_in_thinking("<think>Is it"), ends_in_thinking("<think>Is it?</think>It is.")
    (True, False)
    """
    tags = list(THINK_TAG.finditer(text))
    return bool(tags) and not tags[-1]["end"]
