"""`CannotRun`, the error that stops a run, and messages without secrets. What fails one row is a `Failure`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

_HIDDEN = "***"
_SECRET_NAME = re.compile(
    r"(^|[._-])(api_?key|api-key|access_token|auth_token|secret|password|authorization)$", re.IGNORECASE
)
_SECRETS = (
    # a setting in a SPEC or a message; a value in quotes may hold spaces
    (
        re.compile(
            r"((?:api[_-]?key|password|secret|auth_token|access_token)\s*=\s*)('[^']*'|\"[^\"]*\"|[^,\s]+)",
            re.IGNORECASE,
        ),
        rf"\g<1>{_HIDDEN}",
    ),
    # the user and password of a URL, and a key in its query
    (re.compile(r"(\b[a-z][a-z0-9+.-]*://)[^/\s@?#]+@", re.IGNORECASE), rf"\g<1>{_HIDDEN}@"),
    (re.compile(r"([?&](?:key|api[_-]?key|token|sig|signature)=)[^&\s#]+", re.IGNORECASE), rf"\g<1>{_HIDDEN}"),
    # a key that a server repeats in its message
    (re.compile(r"\b(?:Bearer\s+[\w.~+/-]{8,}=*|(?:sk|gsk|xai|pplx|hf|AIza)[-_]?[A-Za-z0-9_-]{20,})"), _HIDDEN),
)


class CannotRun(Exception):
    """Nothing can be scored: a wrong spec, a missing file, a server that is down. Commands exit with 2.

    The message is one line: what is wrong, where, and what to do.
    """


def is_secret(name: str) -> bool:
    """Whether a setting's value is a key or a password.

    >>> is_secret("api_key"), is_secret("engine.api_key"), is_secret("max_tokens")
    (True, True, False)
    """
    return _SECRET_NAME.search(name) is not None


def redact(text: str) -> str:
    """A text without the keys and passwords in it, to be printed or written.

    >>> redact("judge,engine.api_key=sk-1,base_url=http://me:word@host:1/v1")
    'judge,engine.api_key=***,base_url=http://***@host:1/v1'
    """
    for pattern, replacement in _SECRETS:
        text = pattern.sub(replacement, text)
    return text


def redact_settings(value: Any) -> Any:
    """Settings, nested as they may be, without keys and passwords: such a setting is left out.

    >>> redact_settings({"model": "m", "engine.api_key": "sk-1", "members": [{"base_url": "http://a:b@host"}]})
    {'model': 'm', 'members': [{'base_url': 'http://***@host'}]}
    """
    if isinstance(value, Mapping):
        return {key: redact_settings(entry) for key, entry in value.items() if not is_secret(str(key))}
    if isinstance(value, list | tuple):
        return [redact_settings(entry) for entry in value]
    return redact(value) if isinstance(value, str) else value
