"""What a model thinks before it speaks: `<think>` blocks, kept apart from what it says."""

from __future__ import annotations

import re

THINK_END = re.compile(r"</think(?:ing)?>", re.IGNORECASE)
THINK_TAG = re.compile(r"<(?P<end>/?)think(?:ing)?>", re.IGNORECASE)


def split_thinking(text: str) -> tuple[str, str]:
    """What a model thought, and what it then said.

    >>> split_thinking("<think>Is it?</think>It is.")
    ('<think>Is it?</think>', 'It is.')
    """
    spans = thoughts(text)
    edges = [0, *(edge for span in spans for edge in span), len(text)]
    said = "".join(text[edges[i] : edges[i + 1]] for i in range(0, len(edges), 2))
    return "".join(text[start:end] for start, end in spans), said


def thoughts(text: str) -> list[tuple[int, int]]:
    """The spans of thinking, in order. A block that a template opened in the prompt has only its end here."""
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


def thinking(text: str) -> bool:
    """Whether the text ends within a thought.

    >>> thinking("<think>Is it"), thinking("<think>Is it?</think>It is.")
    (True, False)
    """
    tags = list(THINK_TAG.finditer(text))
    return bool(tags) and not tags[-1]["end"]
