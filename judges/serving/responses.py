"""HTTP responses as JSON: scores as `assay score` writes them, and one form of error for everything else."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from fastapi import HTTPException, Response
from starlette.exceptions import HTTPException as StarletteHTTPException

from judges.types import Failure, to_dict


class JSONResponse(Response):
    """JSON as `assay score` writes it: a lone surrogate in a row is escaped and does not raise."""

    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        return json.dumps(content, ensure_ascii=False, allow_nan=False).encode("utf-8", "backslashreplace")


def http_error(status: int, reason: str, message: str, **more: Any) -> HTTPException:
    """An error whose body is {"error": {"reason": …, "message": …}}."""
    return HTTPException(status, {"error": {"reason": reason, "message": message, **more}})


def reward_error(failures: Sequence[tuple[int, Failure]], count: int) -> HTTPException:
    """Failures as an HTTP error: 504 or 502 where a retry may succeed, 422 where it would fail again.

    `failures` are pairs of the index in the request and the Failure; `count` is the number of rewards requested.
    """
    first = failures[0][1]
    status = {"timeout": 504, "server": 502, "engine": 502}.get(first.reason, 422)
    message = f"{len(failures)} of {count} responses have no reward; the first: {first.message}"
    listed = [{"index": index, **to_dict(failure)} for index, failure in failures]
    return http_error(status, first.reason, message, failures=listed)


def error_response(error: StarletteHTTPException) -> Response:
    detail: Any = error.detail
    content = detail if isinstance(detail, dict) else {"error": {"reason": "http", "message": str(detail)}}
    headers = {"Retry-After": "1"} if error.status_code in (429, 503) else {}
    if error.status_code == 401:
        headers["WWW-Authenticate"] = "Bearer"
    return JSONResponse(content, error.status_code, headers | dict(error.headers or {}))
