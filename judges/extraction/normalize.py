"""Generated text in plain characters with its thinking blanked. The length stays the same, so that spans stay valid."""

from __future__ import annotations

import unicodedata
from functools import lru_cache

from judges.extraction.thinking import thinking_spans
from judges.types import Failure


def normalize(text: str) -> str:
    """The text with full-width, small and mathematical characters as plain ones, and those of no width as spaces.

    >>> normalize("Ｓcore：４")
    'Score:4'
    """
    return text if text.isascii() else "".join(map(_normalize_character, text))


@lru_cache(maxsize=4096)
def _normalize_character(character: str) -> str:
    if character in "−∶":
        return "-" if character == "−" else ":"
    if unicodedata.category(character) == "Cf":
        return " "
    form, _, code = unicodedata.decomposition(character).partition(" ")
    return chr(int(code, 16)) if form in ("<wide>", "<narrow>", "<font>", "<small>") and " " not in code else character


def visible_text(text: str) -> str | Failure:
    """The normalized text with spaces in place of its thinking, or a Failure ("empty") where nothing remains."""
    normalized = normalize(text)
    parts, position = [], 0
    for start, end in thinking_spans(text):
        parts += [normalized[position:start], " " * (end - start)]
        position = end
    visible = "".join(parts) + normalized[position:]
    if visible.strip():
        return visible
    return Failure("empty", "only a thinking block was generated" if text.strip() else "the judge generated nothing")
