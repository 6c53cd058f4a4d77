"""Answers as JSON, and everything that is not a score as one form of error."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from fastapi import HTTPException, Response
from starlette.exceptions import HTTPException as AnyHTTPException

from judges.types import Failure, to_plain


class JSON(Response):
    """JSON as `assay score` writes it: what a hostile row held of half a character is escaped, not an error."""

    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        return json.dumps(content, ensure_ascii=False, allow_nan=False).encode("utf-8", "backslashreplace")


def error(status: int, reason: str, message: str, **more: Any) -> HTTPException:
    """What a client is told of an error: {"error": {"reason": …, "message": …}}."""
    return HTTPException(status, {"error": {"reason": reason, "message": message, **more}})


def failed(failures: Sequence[tuple[int, Failure]], count: int) -> HTTPException:
    """A Failure as an HTTP error: 504 and 502 where asking again may help, 422 where the answer will be the same."""
    first = failures[0][1]
    status = {"timeout": 504, "server": 502, "engine": 502}.get(first.reason, 422)
    message = f"{len(failures)} of {count} responses have no reward; the first: {first.message}"
    listed = [{"index": index, **to_plain(failure)} for index, failure in failures]
    return error(status, first.reason, message, failures=listed)


def answer(error: AnyHTTPException) -> Response:
    detail: Any = error.detail
    content = detail if isinstance(detail, dict) else {"error": {"reason": "http", "message": str(detail)}}
    headers = {"Retry-After": "1"} if error.status_code in (429, 503) else {}
    if error.status_code == 401:
        headers["WWW-Authenticate"] = "Bearer"
    return JSON(content, error.status_code, headers | dict(error.headers or {}))
