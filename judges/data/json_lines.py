"""Parses and writes JSON lines: `from_line`, `to_line` and `to_text`.

orjson handles nearly all lines, in a tenth of the time. What it does not support (NaN, integers of more than 64 bits,
lone surrogates) goes through the standard library.
"""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Mapping
from datetime import date, time
from typing import Any

import orjson

MAX_DEPTH = 200  # of nested lists and objects; orjson writes at most 254


def from_line(line: bytes | str) -> Any:
    """Parse one line of JSON. Raises ValueError, and RecursionError for more than MAX_DEPTH nested levels.

    >>> from_line(b'{"a": 123456789012345678901, "b": NaN}')
    {'a': 123456789012345678901, 'b': nan}
    """
    try:
        value = orjson.loads(line)
    except ValueError:  # the standard library accepts more, and its messages are clearer
        # Bytes are decoded first, because json.loads would guess their encoding.
        value = json.loads(line.decode("utf-8-sig") if isinstance(line, bytes) else line)
        _may_be_rounded(value)
        return value
    return json.loads(line) if _may_be_rounded(value) else value


def _may_be_rounded(value: Any, depth: int = MAX_DEPTH) -> bool:
    """Whether a float in the value may have been an integer of more than 64 bits, which orjson parses as a float.

    Visits the entire value, so that it raises RecursionError wherever the nesting is too deep.
    """
    kind = type(value)
    if kind is not dict and kind is not list:
        return kind is float and not -(2**63) < value < 2**63
    if depth == 0:
        raise RecursionError
    found = False
    for element in value.values() if kind is dict else value:
        kind = type(element)
        # Most elements are strings; they must not cost a call.
        if kind is not str and (kind is float or kind is dict or kind is list) and _may_be_rounded(element, depth - 1):
            found = True
    return found


def to_text(value: Any, keep_nan: bool = False) -> str:
    """A value as JSON. NaN, which JSON does not have, becomes null unless `keep_nan` is set.

    >>> to_text({"a": float("nan"), "b": b"xy"}), to_text(float("nan"), keep_nan=True)
    ('{"a":null,"b":"eHk="}', 'NaN')
    """
    return to_line(value, keep_nan)[:-1].decode()


def to_line(value: Any, keep_nan: bool = False) -> bytes:
    """A value as one line of JSON in UTF-8, with its line break."""
    if not keep_nan:
        try:
            return orjson.dumps(value, default=_to_json_type, option=orjson.OPT_APPEND_NEWLINE)
        except TypeError:
            value = _replace_nonfinite(value)
    text = json.dumps(value, ensure_ascii=False, default=_to_json_type, separators=(",", ":"))
    return text.encode("utf-8", "backslashreplace") + b"\n"


def _to_json_type(value: Any) -> Any:
    """Convert a type that JSON lacks: bytes to base64, dates and times to ISO 8601, anything else to `str`."""
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    if isinstance(value, date | time):  # a datetime is a date
        return value.isoformat()
    return str(value)


def _replace_nonfinite(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {str(key): _replace_nonfinite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_replace_nonfinite(inner) for inner in value]
    return value
