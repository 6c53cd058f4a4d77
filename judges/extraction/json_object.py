"""A JSON object in the midst of a text, with the span of each of its values."""

from __future__ import annotations

import json
import re
from typing import Any


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is not JSON")


_JSON = json.JSONDecoder(parse_int=float, parse_constant=_no_constant)
_COLON, _NEXT = re.compile(r"[ \t\n\r]*:[ \t\n\r]*"), re.compile(r"[ \t\n\r]*([,}])[ \t\n\r]*")


def json_members(text: str, start: int) -> tuple[list[tuple[str, Any, tuple[int, int]]], int]:
    """Every (name, value, span) of the object that begins here, and where it ends. Raises ValueError if not whole."""
    members: list[tuple[str, Any, tuple[int, int]]] = []
    following = re.compile(r"\{[ \t\n\r]*(\})?").match(text, start)
    while following is not None and following[1] != "}":
        name, at = _JSON.raw_decode(text, following.end())
        colon = _COLON.match(text, at)
        if not isinstance(name, str) or colon is None:
            raise ValueError("no key")
        value, end = _JSON.raw_decode(text, colon.end())
        inside = int(isinstance(value, str))
        members.append((name, value, (colon.end() + inside, end - inside)))
        following = _NEXT.match(text, end)
    if following is None:
        raise ValueError("not an object, or not whole")
    return members, following.end()
