"""ASGI middleware: checks the token and the size of the body, and counts requests."""

from __future__ import annotations

import asyncio
import hmac
import time
from base64 import b64decode

from fastapi import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from judges.serving.metrics import Metrics
from judges.serving.responses import error_response, http_error

PUBLIC_ROUTES = ("/health", "/health/live")
ROUTES = ("/score", "/openrlhf", "/metrics", *PUBLIC_ROUTES)


class RequestMiddleware:
    """Pure ASGI, so that a request without a token is refused before its body is read."""

    def __init__(self, app: ASGIApp, metrics: Metrics, token: str, body_bytes: int) -> None:
        self._app, self._metrics, self._token, self._body_bytes = app, metrics, token.encode(), body_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = time.perf_counter()
        status = 0
        received = 0

        async def receive_counted() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > self._body_bytes:
                raise self._too_big()
            return message

        async def send_recorded(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        headers = dict(scope["headers"])
        try:
            if scope["path"] not in PUBLIC_ROUTES and not self._allowed(headers.get(b"authorization", b"")):
                refusal = http_error(401, "token", "this server requires a token: Authorization: Bearer TOKEN")
                await error_response(refusal)(scope, receive, send_recorded)
            elif _length(headers) > self._body_bytes:
                await error_response(self._too_big())(scope, receive, send_recorded)
            else:
                await self._app(scope, receive_counted, send_recorded)
        except asyncio.CancelledError:
            # The server stops while the client still sends its request or does not read the response.
            if not status:
                await error_response(http_error(503, "ended", "the server stopped before it had read the request"))(
                    scope, receive, send_recorded
                )
        finally:
            route = scope["path"] if scope["path"] in ROUTES else "other"
            self._metrics.count_request(route, status or 500, time.perf_counter() - started)

    def _too_big(self) -> HTTPException:
        return http_error(413, "too-big", f"the body is larger than {self._body_bytes} bytes")

    def _allowed(self, authorization: bytes) -> bool:
        """Accept the token as Bearer or as a password: OpenRLHF sends no header, but a URL can contain a password."""
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
