"""The openai engine against a real `vllm serve` of the embedded model, and against a server that misbehaves."""

from __future__ import annotations

import http.server
import json
import threading
import time
from collections.abc import Iterator

import pytest
from real_server import RealServer

from judges import Item, load_scorer
from judges.engines.base import Request, RequestFailed, submit
from judges.engines.openai.engine import OpenAIEngine
from judges.errors import CannotRun


def run(coroutine):
    return submit(coroutine).result(timeout=200)


def ask(text, **settings):
    return Request(messages=({"role": "user", "content": text},), **settings)


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    real = RealServer(["--api-key", "secret"])
    try:
        real.wait()
        yield real.url
    finally:
        real.close()


@pytest.mark.slow
@pytest.mark.engine
def test_against_a_real_server(server):
    engine = OpenAIEngine("small", base_url=server, api_key="secret")
    completion = run(engine.complete(ask("Tell me a long story about the sea.", max_tokens=8)))
    assert completion.choices[0].text and completion.usage.generated_tokens == 8
    assert completion.choices[0].finish == "length"
    forced = run(engine.complete(ask("Rate it.", prefix="Score: ", choice=("1", "2", "3"), max_tokens=4)))
    assert forced.choices[0].text in ("1", "2", "3")
    seeded = ask("Name an animal.", temperature=0.9, seed=7, max_tokens=8)
    assert run(engine.complete(seeded)).choices == run(engine.complete(seeded)).choices
    with pytest.raises(RequestFailed) as caught:
        run(engine.complete(ask("word " * 4000)))
    assert caught.value.failure.reason == "too-long"
    likelihood = run(engine.log_likelihood(ask("Rate it.").messages, "", "Score"))
    assert likelihood.total < 0 and likelihood.tokens >= 1
    engine.close()
    spec = {"engine": "openai", "model": "small", "base_url": server, "api_key": "secret", "max_tokens": 24}
    with load_scorer("self-rewarding", votes=2, **spec) as scorer:
        cards = scorer.score([Item(id=str(i), prompt=f"{i}?", responses=["a", "b"]) for i in range(3)])
    assert all(j.score is not None or j.failure is not None for c in cards for j in c.judgments)
    assert all(j.usage.prompt_tokens > 0 for c in cards for j in c.judgments)
    with pytest.raises(CannotRun, match="serves small, not 'large'"):
        OpenAIEngine("large", base_url=server, api_key="secret")
    with pytest.raises(CannotRun, match="401"):
        OpenAIEngine("small", base_url=server, api_key="wrong")
    with pytest.raises(CannotRun, match="end in /v1"):
        OpenAIEngine("small", base_url=server.removesuffix("/v1"), api_key="secret")


class _Moody(http.server.BaseHTTPRequestHandler):
    """Fails twice with 429 and 503, then answers; a word in the prompt asks for a fault."""

    statuses: list[int] = []  # noqa: RUF012
    log_message = lambda *_: None  # noqa: E731

    def do_GET(self):
        self._reply(200, {"object": "list", "data": [{"id": "m", "object": "model", "created": 0, "owned_by": "x"}]})

    def do_POST(self):
        body = self.rfile.read(int(self.headers["content-length"])).decode()
        if "slow" in body:
            time.sleep(3)
        if "broken" in body:
            return self._reply(500, {"error": {"message": "broken"}})
        if self.statuses:
            return self._reply(self.statuses.pop(), {"error": {"message": "busy"}})
        if "endless" in body:
            return self._reply(400, {"error": {"message": "This model's maximum context length is 10 tokens"}})
        said = "" if "silent" in body else "Score: 4"
        choice = {"index": 0, "message": {"role": "assistant", "content": said}, "finish_reason": "stop"}
        usage = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}
        if "withheld" in body:
            choice["finish_reason"] = "content_filter"
        choices = [] if "nothing" in body else [choice]
        self._reply(
            200,
            {"id": "1", "object": "chat.completion", "created": 0, "model": "m", "choices": choices, "usage": usage},
        )

    def _reply(self, status, body):
        data = json.dumps(body).encode()
        try:
            self.send_response(status)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)
        except OSError:
            return


class _Server(http.server.ThreadingHTTPServer):
    request_queue_size = 128  # the default of 5 resets connections that arrive together


@pytest.fixture
def moody() -> Iterator[str]:
    server = _Server(("127.0.0.1", 0), _Moody)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/v1"
    server.shutdown()


def test_busy_answers_are_retried_and_a_broken_row_is_only_its_own(moody):
    _Moody.statuses = [503, 429]
    with load_scorer(
        "self-rewarding", votes=1, engine="openai", model="m", base_url=moody, **{"engine.retries": 2}
    ) as scorer:
        cards = scorer.score([Item(id=p, prompt=p, responses=["r"]) for p in ("fine", "broken", "good")])
    assert [c.judgments[0].score for c in cards] == [4, None, 4]
    assert cards[1].judgments[0].failure.reason == "server" and "500" in cards[1].judgments[0].failure.message


FAULTS = {
    "broken": "server",
    "slow": "timeout",
    "silent": "empty",
    "endless": "too-long",
    "nothing": "server",
    "withheld": "refused",
}


def test_an_error_in_one_row_fails_that_row_only(moody):
    rows = [word for fault in FAULTS for word in (f"fine {len(fault)}{fault[:2]}", fault)]
    settings = {"engine": "openai", "model": "m", "base_url": moody, "engine.retries": 0, "engine.timeout": 1.5}
    with load_scorer("self-rewarding", votes=2, temperature=0.5, **settings) as scorer:
        cards = scorer.score([Item(id=p, prompt=p, responses=["r"]) for p in rows])
    told = {card.id: card.judgments[0] for card in cards}
    assert {p: told[p].failure and told[p].failure.reason for p in rows} == {p: FAULTS.get(p) for p in rows}
    assert all(told[p].score == 4 and told[p].votes == (4, 4) for p in rows if p not in FAULTS)
    assert all(len(told[p].votes) == 2 for p in FAULTS)


def test_no_answer_in_time_is_a_timeout(moody):
    engine = OpenAIEngine("m", base_url=moody, timeout=0.3, retries=0)
    with pytest.raises(RequestFailed) as caught:
        run(engine.complete(ask("slow")))
    assert caught.value.failure.reason == "timeout"
    engine.close()
