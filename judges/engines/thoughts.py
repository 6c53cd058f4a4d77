"""Thoughts of reasoning models: the tags around them, and what was said outside of them."""

from __future__ import annotations

import re

THINK_END = re.compile(r"</think(?:ing)?>", re.IGNORECASE)
THINK_TAG = re.compile(r"<(?P<end>/?)think(?:ing)?>", re.IGNORECASE)
OPEN_THOUGHT = "<think>"
CLOSE_THOUGHT = "\n</think>\n\n"  # as the templates of these models close an empty thought


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


def split_leading_thought(text: str) -> tuple[str, str]:
    """(thought, rest) of a response: only a thought that it begins with, or one whose end tag has no start tag.

    A tag further on is what the response says: it may explain how tags are written.

    >>> split_leading_thought("<think>Is it?</think>It is."), split_leading_thought("Write <think> first.")
    (('<think>Is it?</think>', 'It is.'), ('', 'Write <think> first.'))
    """
    opening = THINK_TAG.search(text)
    if opening is None or (not opening["end"] and text[: opening.start()].strip()):
        return "", text
    end = THINK_END.search(text)
    return (text, "") if end is None else (text[: end.end()], text[end.end() :])


def split_turn(text: str) -> tuple[str, str] | None:
    """(thought, answer) of an assistant turn that is one thought in `<think>` tags and the answer after it; else None.

    >>> split_turn("<think>\\nIs it?\\n</think>\\n\\nIt is.")
    ('\\nIs it?\\n', '\\n\\nIt is.')
    >>> split_turn("It is <think>"), split_turn("<think>a</think>b</think>c")
    (None, None)
    """
    match = re.fullmatch(r"\s*<think>(.*?)</think>(.*)", text, re.DOTALL)
    if match is None or THINK_TAG.search(match[1]) or THINK_TAG.search(match[2]):
        return None
    return match[1], match[2]
