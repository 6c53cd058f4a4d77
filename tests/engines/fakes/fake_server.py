"""A fake chat-completions server: it refuses what the real one refuses, and a scripted judge answers the rest."""

from __future__ import annotations

import json
import math
import threading
from collections.abc import Callable, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar, Self

Body = Mapping[str, Any]
LABELS = [str(n) for n in range(1, 11)]
CORE = frozenset({"model", "messages", "temperature", "top_p", "max_tokens", "stop", "stream", "n", "seed"})


class Refusal(Exception):
    """An error answer: HTTP status, message, code and the parameter that it is about."""

    def __init__(self, status: int, message: str, code: str | None = None, param: str | None = None) -> None:
        super().__init__(message)
        self.status, self.message, self.code, self.param = status, message, code, param


class FakeServer:
    """A context manager; `url` is its base URL, `requests` every body that was posted, `answered` those with a 200.

    `judge(messages)` writes the text. With a schema or a choice the first label of the text that is allowed is given.
    Subclasses state what a make accepts: `accepted` parameters, whether others are refused or ignored, and `check`.
    """

    page: ClassVar[str]  # the documentation that the fake follows
    model: ClassVar[str] = "small"
    accepted: ClassVar[frozenset[str]] = CORE
    refuses_unknown: ClassVar[bool] = False
    top_logprobs: ClassVar[int] = 0  # the largest number that is accepted; 0: log-probabilities are not given
    many: ClassVar[bool] = True  # whether n > 1 gives n choices
    continues: ClassVar[bool] = False  # whether a final assistant message is continued
    finish: ClassVar[str] = "stop"

    def __init__(self, judge: Callable[[list[Any]], str]) -> None:
        self.judge = judge
        self.requests: list[dict[str, Any]] = []
        self.answered: list[dict[str, Any]] = []
        self._lock = threading.Lock()

    # -- what a make overrides -----------------------------------------------------------------------------

    def check(self, body: Body) -> None:
        """Raise Refusal for a request that the real server refuses."""

    def error(self, refusal: Refusal) -> Any:
        """The body of an error."""
        kind = "invalid_request_error" if refusal.status < 500 else "server_error"
        return {"error": {"message": refusal.message, "type": kind, "param": refusal.param, "code": refusal.code}}

    def unknown(self, names: list[str]) -> Refusal:
        return Refusal(400, f"Unrecognized request argument{'s' * (len(names) > 1)} supplied: {', '.join(names)}")

    def models(self) -> Any:
        """The body of /models; a Refusal where there is none."""
        return {"object": "list", "data": [{"id": self.model, "object": "model", "created": 1, "owned_by": "fake"}]}

    def choices_of(self, body: Body) -> list[str] | None:
        """The labels to which the answer is limited, as this make is asked for it."""
        form = body.get("response_format") or {}
        if form.get("type") != "json_schema":
            return None
        return [str(v) for v in list(form["json_schema"]["schema"]["properties"].values())[-1]["enum"]]

    def message(self, text: str) -> dict[str, Any]:
        return {"role": "assistant", "content": text}

    # -- the server ----------------------------------------------------------------------------------------

    def reply(self, body: dict[str, Any]) -> Any:
        names = sorted(set(body) - self.accepted)
        if names and self.refuses_unknown:
            raise self.unknown(names)
        if body.get("model") != self.model:
            raise Refusal(404, f"The model `{body.get('model')}` does not exist", "model_not_found")
        if int(body.get("top_logprobs") or 0) > self.top_logprobs > 0:
            raise Refusal(400, f"top_logprobs must be at most {self.top_logprobs}", param="top_logprobs")
        self.check(body)
        text = self.judge(body["messages"])
        labels = self.choices_of(body)
        content = text
        if labels is not None:
            label = next((label for label in labels if label == text.rstrip("}").rsplit(" ", 1)[-1]), labels[0])
            schema = (body.get("response_format") or {}).get("json_schema")
            if schema:
                properties = schema["schema"]["properties"]
                written = {key: self._value(label, form.get("enum", [""])) for key, form in properties.items()}
                content = json.dumps(written)
            else:
                content = label
        elif self.continues and body["messages"][-1]["role"] == "assistant":
            content = text.rsplit(" ", 1)[-1]
        choice = {"index": 0, "finish_reason": self.finish, "message": self.message(content)}
        if body.get("logprobs") and self.top_logprobs:
            choice["logprobs"] = {"content": self._tokens(content, int(body.get("top_logprobs") or 0))}
        count = int(body.get("n") or 1) if self.many else 1
        return {
            "id": "fake",
            "object": "chat.completion",
            "created": 1,
            "model": self.model,
            "choices": [choice | {"index": k} for k in range(count)],
            "usage": {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15},
        }

    @staticmethod
    def _value(label: str, enum: list[Any]) -> Any:
        return int(label) if label.isdigit() and any(isinstance(value, int) for value in enum) else label

    def _tokens(self, content: str, top: int) -> list[dict[str, Any]]:
        """The tokens of a text: everything before its last word, and that word."""
        head, _, last = content.rpartition(" ")
        first = {"token": head + " ", "logprob": 0.0, "top_logprobs": [{"token": head + " ", "logprob": 0.0}]}
        return [*([first] if head else []), self._position(last, top)]

    def _position(self, content: str, top: int) -> dict[str, Any]:
        """The label with probability 0.6, the next lower and higher ones with 0.2."""
        here = LABELS.index(content) if content in LABELS else 0
        shares = {LABELS[here]: 0.6}
        for k in (here - 1, here + 1):
            if 0 <= k < len(LABELS):
                shares[LABELS[k]] = 0.2
        ranked = [{"token": t, "logprob": math.log(p), "bytes": list(t.encode())} for t, p in shares.items()]
        return ranked[0] | {"top_logprobs": ranked[:top]}

    def _handle(self, path: str, body: dict[str, Any]) -> tuple[int, Any]:
        try:
            if not path.endswith("/chat/completions"):
                raise Refusal(404, f"Unknown request URL: POST {path}")
            with self._lock:
                self.requests.append(body)
            answer = self.reply(body)
        except Refusal as refusal:
            return refusal.status, self.error(refusal)
        with self._lock:
            self.answered.append(body)
        return 200, answer

    def __enter__(self) -> Self:
        fake = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_: object) -> None:
                pass

            def _send(self, status: int, body: Any) -> None:
                raw = json.dumps(body).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(raw)))
                self.end_headers()
                self.wfile.write(raw)

            def do_GET(self) -> None:
                try:
                    self._send(200, fake.models())
                except Refusal as refusal:
                    self._send(refusal.status, fake.error(refusal))

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                self._send(*fake._handle(self.path.split("?")[0], body))

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self._server.server_port}/v1"
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
