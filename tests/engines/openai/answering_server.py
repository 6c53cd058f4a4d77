"""A local server whose answers a test decides: raw bytes, statuses and headers, in the order of the requests."""

from __future__ import annotations

import http.server
import json
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Reply:
    """What goes over the wire. `declared` is the content-length, where it is not that of the body."""

    body: bytes
    status: int = 200
    kind: str = "application/json"
    headers: dict[str, str] = field(default_factory=dict)
    declared: int | None = None


def reply(payload: Any, status: int = 200, **headers: str) -> Reply:
    return Reply(json.dumps(payload).encode(), status, headers=headers)


def completion(*texts: Any, finish: Any = "stop", **message: Any) -> dict[str, Any]:
    """A whole answer with a choice for each text."""
    choices = [
        {"index": i, "finish_reason": finish, "message": {"role": "assistant", "content": text, **message}}
        for i, text in enumerate(texts)
    ]
    usage = {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15}
    return {"id": "x", "object": "chat.completion", "created": 1, "model": "m", "choices": choices, "usage": usage}


class AnsweringServer:
    """Answers each chat completion with `answer(body, number)`, where `number` counts the requests from 0."""

    def __init__(self, answer: Callable[[dict[str, Any], int], Reply], models: Reply | None = None) -> None:
        self.answer = answer
        self.models = models or reply({"object": "list", "data": [{"id": "m", "object": "model"}]})
        self.requests: list[dict[str, Any]] = []
        self.times: list[float] = []
        self._lock = threading.Lock()
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            log_message = lambda *_: None  # noqa: E731

            def do_GET(self) -> None:
                self.send(outer.models)

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["content-length"])))
                with outer._lock:
                    number = len(outer.requests)
                    outer.requests.append(body)
                    outer.times.append(time.monotonic())
                self.send(outer.answer(body, number))

            def send(self, answer: Reply) -> None:
                with suppress(OSError):
                    self.send_response(answer.status)
                    self.send_header("content-type", answer.kind)
                    length = len(answer.body) if answer.declared is None else answer.declared
                    self.send_header("content-length", str(length))
                    for name, value in answer.headers.items():
                        self.send_header(name, value)
                    self.end_headers()
                    self.wfile.write(answer.body)
                    if answer.declared is not None:
                        self.close_connection = True

        class Listening(http.server.ThreadingHTTPServer):
            request_queue_size = 256
            daemon_threads = True
            block_on_close = False

        self._server = Listening(("127.0.0.1", 0), Handler)
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}/v1"

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def __enter__(self) -> AnsweringServer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
