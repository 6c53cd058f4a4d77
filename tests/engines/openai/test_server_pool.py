"""Many servers behind one engine: real local HTTP servers that die, hang, refuse and come back."""

from __future__ import annotations

import asyncio
import http.server
import json
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from real_server import RealServer

from judges import Item, load_scorer
from judges.engines.base import Request, RequestFailed, submit
from judges.engines.openai.engine import OpenAIEngine
from judges.engines.openai.server_pool import AFFINITY_SLACK
from judges.errors import CannotRun

DROP, HANG = "drop", "hang"  # what a server may do beside answering with a status


class Local:
    """A server on a port of its own that answers each prompt with the prompt; `acts` may say otherwise.

    `acts(prompt)` gives a status with headers, DROP or HANG; None answers. `gate` holds answers back.
    """

    def __init__(self, acts: Callable[[str], object] = lambda _: None) -> None:
        self.acts, self.model, self.models_status, self.page = acts, "m", 200, ""
        self.asked: list[str] = []
        self.answered: list[str] = []
        self.gate = threading.Event()
        self.gate.set()
        self.arrived = threading.Condition()
        self.connections: set[socket.socket] = set()
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    def start(self) -> None:
        local = self

        class Answers(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            log_message = lambda *_: None  # noqa: E731

            def setup(self):
                super().setup()
                local.connections.add(self.connection)

            def finish(self):
                local.connections.discard(self.connection)
                with suppress(OSError):
                    super().finish()

            def do_GET(self):
                if local.acts("/models") == HANG:
                    local.halt.wait(60)
                data = [{"id": local.model, "object": "model", "created": 0, "owned_by": "x"}]
                self.reply(local.models_status, {"object": "list", "data": data})

            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["content-length"])))
                prompt = body["messages"][-1]["content"]
                with local.arrived:
                    local.asked.append(prompt)
                    local.arrived.notify_all()
                local.gate.wait(60)
                act = local.acts(prompt)
                if act == HANG:
                    local.halt.wait(60)
                if act in (DROP, HANG):
                    self.close_connection = True
                    self.connection.shutdown(socket.SHUT_RDWR)
                    return
                if act is not None:
                    status, headers = act
                    self.reply(status, {"error": {"message": f"told {status}"}}, headers)
                    return
                choice = {"index": 0, "message": {"role": "assistant", "content": prompt}, "finish_reason": "stop"}
                usage = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}
                head = {"id": "1", "object": "chat.completion", "created": 0, "model": "m"}
                local.answered.append(prompt)
                self.reply(200, head | {"choices": [choice], "usage": usage})

            def reply(self, status, body, headers=()):
                data = (local.page or json.dumps(body)).encode()
                with suppress(OSError):
                    self.send_response(status)
                    self.send_header("content-type", "text/html" if local.page.startswith("<") else "application/json")
                    self.send_header("content-length", str(len(data)))
                    for name, value in dict(headers).items():
                        self.send_header(name, value)
                    self.end_headers()
                    self.wfile.write(data)

        class Listening(http.server.ThreadingHTTPServer):
            request_queue_size = 256
            daemon_threads = True
            block_on_close = False
            handle_error = lambda *_: None  # noqa: E731

        self.halt = threading.Event()
        self.server = Listening(("127.0.0.1", self.port), Answers)
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()

    def die(self) -> None:
        """As by SIGKILL: nothing listens, and every connection ends."""
        self.server.shutdown()
        self.server.server_close()
        self.halt.set()
        for connection in list(self.connections):
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def wait_for(self, count: int) -> None:
        with self.arrived:
            assert self.arrived.wait_for(lambda: len(self.asked) >= count, 60)


@pytest.fixture
def local() -> Iterator[Callable[..., Local]]:
    made: list[Local] = []

    def make(acts: Callable[[str], object] = lambda _: None) -> Local:
        made.append(Local(acts))
        return made[-1]

    yield make
    for one in made:
        one.gate.set()
        one.die()


@pytest.fixture
def engine() -> Iterator[Callable[..., OpenAIEngine]]:
    made: list[OpenAIEngine] = []

    def make(*servers: Local, **settings: float) -> OpenAIEngine:
        made.append(OpenAIEngine("m", base_url=[server.url for server in servers], **settings))
        return made[-1]

    yield make
    for one in made:
        one.close()


def ask(prompt: str) -> Request:
    return Request(messages=({"role": "user", "content": prompt},))


async def told(engine: OpenAIEngine, prompt: str) -> str:
    """What the caller gets for one prompt: the text, or the reason of its failure."""
    try:
        return (await engine.complete(ask(prompt))).choices[0].text
    except RequestFailed as error:
        return f"failed: {error.failure.reason}"


def partial(engine: OpenAIEngine, prompts: list[str]):
    async def all_of_them() -> list[str]:
        return await asyncio.gather(*(told(engine, prompt) for prompt in prompts))

    return submit(all_of_them())


def one(engine: OpenAIEngine, prompt: str) -> str:
    return submit(told(engine, prompt)).result(timeout=60)


def until(holds: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < end, "it never came to hold"
        time.sleep(0.02)


# -- load -------------------------------------------------------------------------------------------------


def test_requests_in_flight_are_spread_evenly_and_each_is_sent_once(local, engine):
    servers = [local() for _ in range(3)]
    for server in servers:
        server.gate.clear()
    prompts = [f"p{i}" for i in range(60)]
    answers = partial(engine(*servers), prompts)
    for server in servers:
        server.wait_for(20)
        server.gate.set()
    assert answers.result(timeout=60) == prompts
    assert [len(server.asked) for server in servers] == [20, 20, 20]
    assert Counter(prompt for server in servers for prompt in server.asked) == Counter(prompts)


def test_one_after_the_other_the_servers_take_turns(local, engine):
    servers = [local(), local()]
    both = engine(*servers)
    for i in range(10):
        assert one(both, f"p{i}") == f"p{i}"
    assert [len(server.asked) for server in servers] == [5, 5]


def test_a_slow_server_gets_fewer_requests(local, engine):
    slow, fast = local(), local()
    slow.gate.clear()
    both = engine(slow, fast)
    held = partial(both, ["a", "b"])
    until(lambda: sorted(server.in_flight for server in both._pool._servers) == [0, 1] and len(slow.asked) == 1)
    for i in range(10):
        assert one(both, f"p{i}") == f"p{i}"
    assert len(slow.asked) == 1 and len(fast.asked) == 11
    slow.gate.set()
    assert held.result(timeout=60) == ["a", "b"]


LONG = "What is the longest river of the continent, and where does it end? " * 6


def test_prompts_with_one_prefix_go_to_one_server_while_loads_are_about_equal(local, engine):
    servers = [local(), local()]
    both = engine(*servers)
    prompts = [f"{i} {LONG} {vote}" for vote in range(4) for i in range(7)]
    for prompt in prompts:
        assert one(both, prompt) == prompt
    for i in range(7):
        of = [sum(prompt.startswith(f"{i} ") for prompt in server.asked) for server in servers]
        assert sorted(of) == [0, 4], "each question's votes find its computation cached"
    assert sorted(len(server.asked) for server in servers) == [12, 16]


def test_a_prefix_that_all_prompts_share_leaves_the_load_even(local, engine):
    servers = [local(), local()]
    both = engine(*servers)
    for i in range(20):
        assert one(both, f"{LONG} {i}")
    for server in servers:
        server.asked.clear()
        server.gate.clear()
    answers = partial(both, [f"{LONG} {i}" for i in range(40)])
    until(lambda: sum(len(server.asked) for server in servers) == 40)
    assert abs(len(servers[0].asked) - len(servers[1].asked)) <= AFFINITY_SLACK + 1
    for server in servers:
        server.gate.set()
    assert len(answers.result(timeout=60)) == 40


# -- servers that go and come -------------------------------------------------------------------------------


def test_a_server_that_dies_in_the_middle_loses_nothing(local, engine):
    dying, other = local(), local()
    both = engine(dying, other)
    dying.gate.clear()
    prompts = [f"p{i}" for i in range(120)]
    answers = partial(both, prompts)
    dying.wait_for(10)
    dying.die()
    assert answers.result(timeout=60) == prompts, "every prompt has its own answer"
    assert dying.answered == [] and Counter(other.answered) == Counter(prompts)


def test_a_server_that_is_up_again_gets_requests_again(local, engine, capsys):
    first, second = local(), local()
    both = engine(first, second)
    first.die()
    assert [one(both, f"p{i}") for i in range(6)] == [f"p{i}" for i in range(6)]
    until(lambda: f"no server answers at {first.url}" in capsys.readouterr().err)
    before = len(first.asked)
    first.start()
    until(lambda: one(both, "again") == "again" and len(first.asked) > before)
    assert f"{first.url} answers again" in capsys.readouterr().err


def test_a_server_that_is_up_again_with_another_model_stays_down(local, engine, capsys):
    first, second = local(), local()
    both = engine(first, second)
    first.die()
    assert [one(both, f"p{i}") for i in range(4)] == [f"p{i}" for i in range(4)]
    first.model = "other"
    seen = []
    get = first.acts
    first.acts = lambda what: seen.append(what) or get(what)
    first.start()
    until(lambda: seen.count("/models") >= 2)
    asked = len(first.asked)
    assert [one(both, f"q{i}") for i in range(6)] == [f"q{i}" for i in range(6)]
    assert len(first.asked) == asked


@pytest.mark.parametrize("count", [1, 2])
def test_all_servers_down_for_less_than_patience_lose_nothing(local, engine, count):
    servers = [local() for _ in range(count)]
    all_of_them = engine(*servers, patience=60, retries=0)
    for server in servers:
        server.gate.clear()
    prompts = [f"p{i}" for i in range(30)]
    answers = partial(all_of_them, prompts)
    until(lambda: sum(len(server.asked) for server in servers) == 30)
    for server in servers:
        server.die()
        server.gate.set()
    until(lambda: all(server.down for server in all_of_them._pool._servers))
    assert not answers.done()
    servers[0].start()
    assert answers.result(timeout=60) == prompts
    assert one(all_of_them, "later") == "later"


@pytest.mark.parametrize("count", [1, 2])
def test_all_servers_down_for_longer_than_patience_end_the_run(local, engine, count):
    servers = [local() for _ in range(count)]
    all_of_them = engine(*servers, patience=0.5)
    for server in servers:
        server.die()
    with pytest.raises(
        CannotRun, match=r"no server has answered for .* seconds .*; what is finished is safe"
    ) as caught:
        submit(all_of_them.complete(ask("p"))).result(timeout=60)
    assert all(server.url in str(caught.value) for server in servers)


def test_a_prompt_that_breaks_every_connection_fails_alone(local, engine):
    servers = [local(lambda prompt: DROP if prompt == "poison" else None) for _ in range(2)]
    both = engine(*servers, retries=2)
    prompts = [f"p{i}" for i in range(20)]
    answers = partial(both, [*prompts[:10], "poison", *prompts[10:]]).result(timeout=60)
    assert answers == [*prompts[:10], "failed: server", *prompts[10:]]
    assert sum(server.asked.count("poison") for server in servers) == 5


# -- servers that hang or refuse ------------------------------------------------------------------------------


def test_a_server_that_hangs_costs_no_row(local, engine):
    hanging, other = local(lambda _: HANG), local()
    hanging.acts = lambda _: None
    both = engine(hanging, other, timeout=0.7)
    hanging.acts = lambda _: HANG
    prompts = [f"p{i}" for i in range(20)]
    assert partial(both, prompts).result(timeout=60) == prompts
    asked = len(hanging.asked)
    assert [one(both, f"q{i}") for i in range(6)] == [f"q{i}" for i in range(6)]
    assert len(hanging.asked) == asked, "it is left out"


def test_a_row_that_is_slow_everywhere_is_a_timeout_after_two_servers(local, engine):
    servers = [local(lambda prompt: HANG if prompt == "slow" else None) for _ in range(3)]
    three = engine(*servers, timeout=0.7)
    prompts = [f"p{i}" for i in range(9)]
    answers = partial(three, ["slow", *prompts]).result(timeout=60)
    assert answers == ["failed: timeout", *prompts]
    assert sum(server.asked.count("slow") for server in servers) == 2


def test_a_server_that_refuses_everything_costs_no_row_and_cools_down(local, engine):
    broken, other = local(lambda prompt: (500, {}) if prompt != "/models" else None), local()
    both = engine(broken, other)
    prompts = [f"p{i}" for i in range(30)]
    assert [one(both, prompt) for prompt in prompts] == prompts
    assert 1 <= len(broken.asked) <= 10, "a wait of its own after each refusal, not one request in two"


def test_a_busy_server_is_retried_up_to_retries_times(local, engine):
    busy = [(status, {"retry-after": "0"}) for status in (408, 409, 502, 500, 503)]
    refusals = iter(busy + busy)
    server = local(lambda prompt: next(refusals, None) if prompt != "/models" else None)
    alone = engine(server, retries=4)
    assert one(alone, "p") == "failed: server" and server.asked == ["p"] * 5
    assert one(alone, "q") == "failed: server" and server.asked[5:] == ["q"] * 5
    refusals = iter(busy[:4])
    assert one(alone, "r") == "r" and server.asked[10:] == ["r"] * 5


def test_a_retry_goes_to_another_server(local, engine):
    busy = lambda prompt: (429, {"retry-after": "0.05"}) if prompt != "/models" else None  # noqa: E731
    first, second, third = local(busy), local(busy), local()
    assert partial(engine(first, second, third, retries=3), ["p"]).result(timeout=60) == ["p"]
    assert len(first.asked) <= 1 and len(second.asked) <= 1 and third.asked == ["p"]


def test_where_all_are_busy_a_request_does_not_return_to_the_one_that_refused_it_last(local, engine):
    let_go = threading.Event()
    busy = lambda prompt: (503, {"retry-after": "0"}) if prompt == "p" else None  # noqa: E731
    idle, loaded = local(busy), local(lambda prompt: let_go.wait(60) and None if prompt == "held" else busy(prompt))
    both = engine(idle, loaded, retries=3)
    held = []
    while "held" not in loaded.asked:
        held.append(partial(both, ["held"]))
        until(lambda: "held" in loaded.asked or held[-1].done())
    assert one(both, "p") == "failed: server"
    let_go.set()
    assert [server.asked.count("p") for server in (idle, loaded)] == [2, 2]
    assert all(answer.result(timeout=60) == ["held"] for answer in held)


def test_a_rate_limit_that_is_too_long_ends_the_run_unless_another_server_is_free(local, engine):
    quota = local(lambda prompt: (429, {"retry-after": "3600"}) if prompt != "/models" else None)
    with pytest.raises(CannotRun, match=r"no more requests for 3600 seconds .*what is finished is safe"):
        one(engine(quota), "p")
    assert quota.asked == ["p"]
    other = local()
    both = engine(quota, other)
    assert [one(both, f"p{i}") for i in range(8)] == [f"p{i}" for i in range(8)]
    assert len(quota.asked) == 2, "it asked to be left alone"


def test_a_bad_request_is_not_retried_and_fails_its_row(local, engine):
    bad = {f"bad {status}": (status, {}) for status in (400, 404, 405, 422)}
    servers = [local(bad.get), local(bad.get)]
    answers = partial(engine(*servers), ["a", *bad, "b"]).result(timeout=60)
    assert answers == ["a", *["failed: server"] * len(bad), "b"]
    assert Counter(prompt for server in servers for prompt in server.asked) == Counter(["a", *bad, "b"])


def test_a_page_instead_of_json_fails_its_row(local, engine):
    server = local()
    alone = engine(server, retries=1)
    for page in ("<html>come back later</html>", "{", "[]", '"busy"'):
        server.page = page
        server.asked.clear()
        assert one(alone, "p") == "failed: server"
        assert server.asked == ["p", "p"], "it is retried as a 503 is"
    server.page = ""
    assert one(alone, "p") == "p"


ACTS = st.sampled_from([None, None, None, DROP, (429, {"retry-after": "0"}), (500, {"retry-after": "0"}), (400, {})])


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.lists(ACTS, max_size=25), min_size=1, max_size=3), st.integers(1, 25))
def test_whatever_servers_do_each_request_ends_once_with_its_own_answer_or_a_reason(scripts, count):
    made = []
    for script in scripts:
        acts = iter(script)
        made.append(Local(lambda prompt, acts=acts: None if prompt == "/models" else next(acts, None)))
    try:
        engine = OpenAIEngine("m", base_url=[server.url for server in made], retries=3)
        try:
            prompts = [f"p{i}" for i in range(count)]
            answers = partial(engine, prompts).result(timeout=60)
            loads = [server.in_flight for server in engine._pool._servers]
        finally:
            engine.close()
    finally:
        for server in made:
            server.die()
    assert all(answer in (prompt, "failed: server") for prompt, answer in zip(prompts, answers, strict=True))
    good = [prompt for prompt, answer in zip(prompts, answers, strict=True) if answer == prompt]
    assert Counter(p for server in made for p in server.answered) == Counter(good), "no answer is lost or paid twice"
    bad = sum(act is not None for script in scripts for act in script)
    assert len(prompts) - len(good) <= bad
    assert loads == [0] * len(made)


# -- start and end --------------------------------------------------------------------------------------------


def test_a_server_that_does_not_answer_at_the_start_is_named_and_comes_in_later(local, engine, capsys):
    there, absent = local(), local()
    absent.die()
    both = engine(there, absent)
    until(lambda: f"no server answers at {absent.url}" in capsys.readouterr().err)
    assert [one(both, f"p{i}") for i in range(4)] == [f"p{i}" for i in range(4)]
    absent.start()
    until(lambda: one(both, "p") == "p" and absent.asked != [])


def test_a_server_that_can_never_serve_is_an_error_at_the_start(local, engine):
    there, wrong = local(), local()
    told = {401: r"refuses the key \(401\)", 403: r"does not allow this key \(403\)"}
    for wrong.models_status, said in told.items():
        with pytest.raises(CannotRun, match=f"{wrong.url}.*{said}"):
            engine(there, wrong)
    wrong.models_status, wrong.model = 200, "large"
    with pytest.raises(CannotRun, match=f"{wrong.url} serves large, not 'm'"):
        engine(there, wrong)


def test_without_any_server_each_is_named(local, engine):
    gone, loading = local(), local()
    gone.die()
    loading.models_status = 503
    with pytest.raises(CannotRun, match=f"no server answers at {gone.url}.*{loading.url} answered 503"):
        engine(gone, loading)


def test_a_page_instead_of_the_models_is_an_error_at_the_start(local, engine):
    server = local()
    for page in ("<html>", "{", "[]", '{"data": ["m"]}'):
        server.page = page
        with pytest.raises(CannotRun, match=f"{server.url}/models is no list of models"):
            engine(server)


@pytest.mark.parametrize("given", ["", "  ", [], "localhost:8000/v1", "http://a/v1,http://b/v1"])
def test_an_invalid_base_url_is_reported(monkeypatch, given):
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    with pytest.raises(CannotRun, match=r"base_url"):
        OpenAIEngine("m", base_url=given)


@pytest.mark.parametrize("wrong", [{"timeout": 0}, {"retries": -1}, {"patience": -1}])
def test_invalid_settings_are_reported(wrong):
    with pytest.raises(CannotRun, match="patience at least 0"):
        OpenAIEngine("m", base_url="http://127.0.0.1:9/v1", **wrong)


def test_closing_ends_every_connection(local, engine):
    servers = [local(), local()]
    both = engine(*servers)
    assert partial(both, ["a", "b", "c", "d"]).result(timeout=60) == ["a", "b", "c", "d"]
    assert all(server.connections for server in servers)
    both.close()
    both.close()
    until(lambda: not any(server.connections for server in servers))


def test_closing_fails_the_requests_that_wait_for_a_server(local, engine):
    server = local()
    alone = engine(server, patience=600)
    server.die()
    waiting = partial(alone, ["late"])
    until(lambda: alone._pool._servers[0].down)
    alone.close()
    assert waiting.result(timeout=60) == ["failed: engine"]
    assert not alone._pool._health_checks, "nobody looks for it any more"


def test_a_cancelled_request_no_longer_counts_as_load(local, engine):
    server = local()
    server.gate.clear()
    alone = engine(server)
    held = partial(alone, ["a", "b", "c"])
    server.wait_for(3)
    held.cancel()
    until(lambda: alone._pool._servers[0].in_flight == 0)


def test_a_judge_reads_through_several_servers_and_one_may_die(local):
    servers = [local(), local()]
    spec = {"engine": "openai", "model": "m", "base_url": " ".join(server.url for server in servers)}
    rows = [Item(id=str(i), prompt=f"q{i}", responses=["r"]) for i in range(60)]
    with load_scorer("self-rewarding", votes=1, **spec) as scorer:
        cards = scorer.stream(rows)
        seen = [next(cards).id]
        servers[0].die()
        seen += [card.id for card in cards]
    assert sorted(seen) == sorted(item.id for item in rows)
    assert sum(len(server.answered) for server in servers) >= 60


@pytest.mark.engine
@pytest.mark.slow
def test_one_of_two_real_servers_is_killed_in_the_middle_of_assay_score(tmp_path):
    source, out, script = tmp_path / "in.jsonl", tmp_path / "out.jsonl", tmp_path / "assay.py"
    source.write_text(
        "".join(json.dumps({"prompt": f"What is {i} + 1?", "response": f"It is {i + 1}."}) + "\n" for i in range(200))
    )
    script.write_text("from judges.cli import main\nif __name__ == '__main__': main()")
    servers = [RealServer(cores="0"), RealServer(cores="1")]
    try:
        for server in servers:
            server.wait()
        urls = " ".join(server.url for server in servers)
        spec = f"self-rewarding,votes=1,max_tokens=32,window=16,engine=openai,model=small,base_url={urls}"
        command = [sys.executable, script, "score", source, "--scorer", spec, "-o", out, "--quiet"]
        run = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        until(lambda: rows_of(out) >= 60 or run.poll() is not None)
        assert run.poll() is None and rows_of(out) < 200, "it is killed in the middle"
        servers[0].kill()
        said = run.communicate(timeout=400)[1]
    finally:
        for server in servers:
            server.close()
    assert run.returncode in (0, 1), said
    assert f"no server answers at {servers[0].url}" in said
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert sorted(row["row"] for row in rows) == list(range(1, 201)), "none is missing, none is there twice"
    assert all((row["score"] is None) != (row["failure"] is None) for row in rows)
    reasons = Counter(row["failure"]["reason"] for row in rows if row["failure"])
    print(dict(reasons), sum(row["score"] is not None for row in rows), "scores")
    assert not reasons.keys() & {"server", "timeout", "engine"}


def rows_of(path) -> int:
    return path.read_bytes().count(b"\n") if path.exists() else 0
