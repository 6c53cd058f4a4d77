"""What stands before the routes: the token, the size of a body, the count of what was answered."""

from __future__ import annotations

import asyncio
import hmac
import time
from base64 import b64decode

from fastapi import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from judges.serving.metrics import Metrics
from judges.serving.responses import answer, error

OPEN_TO_ALL = ("/health", "/health/live")
ROUTES = ("/score", "/openrlhf", "/metrics", *OPEN_TO_ALL)


class Gate:
    """Plain ASGI, so that who has no token is turned away before a byte of the body is read."""

    def __init__(self, app: ASGIApp, metrics: Metrics, token: str, body_bytes: int) -> None:
        self._app, self._metrics, self._token, self._most = app, metrics, token.encode(), body_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = time.perf_counter()
        status = 0
        read = 0

        async def counted() -> Message:
            nonlocal read
            message = await receive()
            read += len(message.get("body", b""))
            if read > self._most:
                raise self._too_big()
            return message

        async def told(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        headers = dict(scope["headers"])
        try:
            if scope["path"] not in OPEN_TO_ALL and not self._allowed(headers.get(b"authorization", b"")):
                refusal = error(401, "token", "this server asks for a token: Authorization: Bearer TOKEN")
                await answer(refusal)(scope, receive, told)
            elif _length(headers) > self._most:
                await answer(self._too_big())(scope, receive, told)
            else:
                await self._app(scope, counted, told)
        except asyncio.CancelledError:
            # The server's end, for one who is still sending, or whose answer nobody reads.
            if not status:
                await answer(error(503, "ended", "the server stopped before it had read this"))(scope, receive, told)
        finally:
            route = scope["path"] if scope["path"] in ROUTES else "other"
            self._metrics.answered(route, status or 500, time.perf_counter() - started)

    def _too_big(self) -> HTTPException:
        return error(413, "too-big", f"the body is larger than {self._most} bytes")

    def _allowed(self, authorization: bytes) -> bool:
        """By the token as Bearer, or as a password: OpenRLHF sends no header of its own, a URL may hold a password."""
        if not self._token:
            return True
        kind, _, given = authorization.strip().partition(b" ")
        given = given.strip()
        if kind.lower() == b"basic":
            try:
                given = b64decode(given, validate=True).partition(b":")[2]
            except ValueError:
                return False
        elif kind.lower() != b"bearer":
            return False
        return hmac.compare_digest(given, self._token)


def _length(headers: dict[bytes, bytes]) -> int:
    given = headers.get(b"content-length", b"")
    return int(given) if given.isdigit() else 0
