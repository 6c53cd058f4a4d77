"""JSON lines: what a line says, and a row as a line.

orjson reads and writes nearly all of them at a tenth of the time; what it does not take (nan, integers of more than
64 bits, half a surrogate pair) goes through the standard library.
"""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Mapping
from datetime import date, time
from typing import Any

import orjson

DEPTH = 200  # of lists and objects in each other; orjson writes 254


def from_line(line: bytes | str) -> Any:
    """The value that a line holds. Raises ValueError; RecursionError for one of more than DEPTH levels.

    >>> from_line(b'{"a": 123456789012345678901, "b": NaN}')
    {'a': 123456789012345678901, 'b': nan}
    """
    try:
        value = orjson.loads(line)
    except ValueError:  # the library below takes more, and says better what is wrong
        value = json.loads(line.decode("utf-8-sig") if isinstance(line, bytes) else line)  # it guesses encodings
        _is_rounded(value)
        return value
    return json.loads(line) if _is_rounded(value) else value


def _is_rounded(value: Any, depth: int = DEPTH) -> bool:
    """Whether a float in it may have been an integer of more than 64 bits, which orjson makes a float.

    Looks at all of it. Raises RecursionError where it is deeper than it may be.
    """
    kind = type(value)
    if kind is not dict and kind is not list:
        return kind is float and not -(2**63) < value < 2**63
    if depth == 0:
        raise RecursionError
    found = False
    for one in value.values() if kind is dict else value:
        kind = type(one)
        # Texts are nearly all there is: they cost no call.
        if kind is not str and (kind is float or kind is dict or kind is list) and _is_rounded(one, depth - 1):
            found = True
    return found


def to_text(value: Any, keep_nan: bool = False) -> str:
    """A value as JSON. JSON has no nan: it becomes null, unless the text is for our own eyes.

    >>> to_text({"a": float("nan"), "b": b"xy"}), to_text(float("nan"), keep_nan=True)
    ('{"a":null,"b":"eHk="}', 'NaN')
    """
    return to_line(value, keep_nan)[:-1].decode()


def to_line(value: Any, keep_nan: bool = False) -> bytes:
    """The same, as a line of UTF-8."""
    if not keep_nan:
        try:
            return orjson.dumps(value, default=_plain, option=orjson.OPT_APPEND_NEWLINE)
        except TypeError:
            value = _finite(value)
    text = json.dumps(value, ensure_ascii=False, default=_plain, separators=(",", ":"))
    return text.encode("utf-8", "backslashreplace") + b"\n"


def _plain(value: Any) -> Any:
    """What JSON has no form for: bytes as base64, dates as ISO 8601, anything else as its text."""
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    if isinstance(value, date | time):  # datetimes are dates
        return value.isoformat()
    return str(value)


def _finite(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {str(key): _finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(inner) for inner in value]
    return value
