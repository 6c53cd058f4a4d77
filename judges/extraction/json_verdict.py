"""Verdicts in JSON: the value under a key of the last JSON object in a text.

The last object that has the key at its top level decides, its case and a colon aside. A key that occurs twice with
different values, null, true, a list, and any incomplete JSON object are malformed, and nothing after an incomplete
object is read. A verdict in a string is read by the rules of `score` and `label`, and has to fill the string.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any

from judges.extraction.announcement import is_quoted
from judges.extraction.label import read_bare_label
from judges.extraction.normalize import normalize, visible_text
from judges.extraction.reading import Reading, missing_verdict
from judges.extraction.score import read_bare_number
from judges.extraction.thinking import THINK_END, THINK_TAG
from judges.types import Failure, Scale


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is not JSON")


_JSON = json.JSONDecoder(parse_int=float, parse_constant=_no_constant)
_COLON, _NEXT = re.compile(r"[ \t\n\r]*:[ \t\n\r]*"), re.compile(r"[ \t\n\r]*([,}])[ \t\n\r]*")


def read_json_score(text: str, scale: Scale, key: str) -> Reading | Failure:
    """The number on the scale under `key` of the generated JSON object, or a Failure.

    >>> read_json_score('{"why": "short", "score": 7}', Scale(1, 10, 1), "score")
    Reading(value=7.0, span=(26, 27))
    """
    found = _json_value(text, key)
    if isinstance(found, Failure):
        return found
    value, span = found
    if isinstance(value, str):
        reading = read_bare_number(normalize(value), scale)
        if reading is None:
            return Failure("malformed", f"{key!r} holds {value[:40]!r}, not a number")
        return reading if isinstance(reading, Failure) else Reading(reading.value, span)
    if not isinstance(value, float):
        return Failure("malformed", f"{key!r} holds {str(value)[:40]}, not a number")
    if value not in scale:
        return Failure("off-scale", f"{value:g} is not on the scale {scale}")
    return Reading(value + 0.0, span)


def read_json_label(text: str, labels: Sequence[str], key: str) -> Reading | Failure:
    """The label under `key` of the generated JSON object, or a Failure. A number may stand for a label of digits."""
    found = _json_value(text, key)
    if isinstance(found, Failure):
        return found
    value, span = found
    written = f"{value:g}" if isinstance(value, float) else normalize(value) if isinstance(value, str) else ""
    label = read_bare_label(written, labels)
    if label is None:
        return Failure("malformed", f"{key!r} holds {str(value)[:40]!r}, which is none of {', '.join(labels)}")
    return Reading(label, span)


def _json_value(text: str, key: str) -> tuple[Any, tuple[int, int]] | Failure:
    """(value, span) of a key of the last JSON object that has it; the span of a string is without its quotes."""
    visible = visible_text(text)
    if isinstance(visible, Failure):
        return visible
    name = _normalize_key(key)
    starts = re.compile(rf"{THINK_TAG.pattern}|\[\s*\{{|\{{\s*(?:[\"'}}]|{re.escape(name)}\s*:)", re.IGNORECASE)
    values: list[tuple[Any, tuple[int, int]]] = []
    position, start, has_object = 0, 0, False
    while (match := starts.search(text, position)) is not None:
        position = match.end()
        is_object = match["end"] is None  # else a thinking tag
        if is_object:
            has_object = True
            try:
                members, position = _json_members(text, match.start())
                found = [(value, span) for member, value, span in members if _normalize_key(member) == name]
                values, start = (found, match.start()) if found else (values, start)
                continue
            except (ValueError, RecursionError):
                pass  # malformed, unless an end tag further on makes it thinking
        elif match["end"]:
            values, has_object = [], False
            continue
        closing = THINK_END.search(text, position)
        if closing is None and is_object:
            return Failure("malformed", f"incomplete JSON object: {text[match.start() :][:40]!r}")
        if closing is None:
            break
        position = closing.end()
        if is_object:
            values, has_object = [], False
    if not values and has_object:
        return Failure("missing", f"no JSON object has {key!r}")
    if not values:
        return missing_verdict(visible, "no JSON object in the text")
    if is_quoted(text, start):
        return Failure("malformed", "the last JSON object is a quotation")
    if any((type(value), value) != (type(values[0][0]), values[0][0]) for value, _ in values):
        return Failure("malformed", f"{key!r} occurs twice, with different values")
    return values[-1]


def _normalize_key(name: str) -> str:
    return normalize(name).strip().rstrip(":").strip().lower()


def _json_members(text: str, start: int) -> tuple[list[tuple[str, Any, tuple[int, int]]], int]:
    """Every (name, value, span) of the object at `start`, and its end. Raises ValueError for an incomplete object."""
    members: list[tuple[str, Any, tuple[int, int]]] = []
    following = re.compile(r"\{[ \t\n\r]*(\})?").match(text, start)
    while following is not None and following[1] != "}":
        name, name_end = _JSON.raw_decode(text, following.end())
        colon = _COLON.match(text, name_end)
        if not isinstance(name, str) or colon is None:
            raise ValueError("no key")
        value, end = _JSON.raw_decode(text, colon.end())
        quote = int(isinstance(value, str))
        members.append((name, value, (colon.end() + quote, end - quote)))
        following = _NEXT.match(text, end)
    if following is None:
        raise ValueError("not a complete object")
    return members, following.end()
