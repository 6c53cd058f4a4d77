"""`assay serve` as a process: addresses, tokens, draining and exit codes."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading

import httpx
import pytest
from serving_scorers import ASSAY, Server, wait_until

from judges.errors import CannotRun
from judges.serving.server import ServerConfig, is_loopback


def rows(*responses: str) -> dict:
    return {"rows": [{"prompt": "p", "response": response} for response in responses]}


def queued(client: httpx.Client) -> float:
    text = client.get("/metrics").text
    return sum(
        float(line.split()[-1])
        for line in text.splitlines()
        if line.startswith(("assay_queue_waiting ", "assay_queue_in_flight "))
    )


def in_background(work):
    results = []
    thread = threading.Thread(target=lambda: results.append(work()))
    thread.start()
    return thread, results


def test_it_serves_on_loopback_and_exits_0_on_ctrl_c(tmp_path):
    with Server("length") as server, server.client() as client:
        assert server.url.startswith("http://127.0.0.1:")
        assert client.get("/health").json() == {"status": "ready", "scorer": "length"}
        assert [row["score"] for row in client.post("/score", json=rows("a", "bb")).json()["rows"]] == [1, 2]
        server.send_signal(signal.SIGINT)
        assert server.end() == (0, f"serving length at {server.url}\n")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_refuses_new_requests_finishes_admitted_ones_and_exits_0(tmp_path, number):
    gate = tmp_path / "gate"
    with Server("gated", "--set", f"gate={gate}") as server, server.client() as client, server.client() as other:
        waiting = [in_background(lambda n=n: httpx.post(f"{server.url}/score", json=rows("x" * n))) for n in (3, 4, 5)]
        wait_until(lambda: queued(client) == 3)
        server.send_signal(number)
        wait_until(lambda: client.get("/health").status_code == 503)
        assert client.get("/health").json()["status"] == "draining"
        late = other.post("/score", json=rows("late"))
        assert late.status_code == 503 and late.json()["error"]["reason"] == "draining"
        assert server.process.poll() is None
        gate.touch()
        for thread, _ in waiting:
            thread.join(60)
        assert [results[0].json()["rows"][0]["score"] for _, results in waiting] == [3, 4, 5]
        code, output = server.end()
        assert code == 0 and "draining 3 responses" in output
        with pytest.raises(httpx.ConnectError):
            httpx.get(f"{server.url}/health")


@pytest.mark.parametrize("opens", [True, False])
def test_while_the_scorer_opens_the_server_is_alive_not_ready_and_can_be_stopped(tmp_path, opens):
    gate = tmp_path / "gate"
    with socket.create_server(("127.0.0.1", 0)) as free:
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
    command = [sys.executable, "-c", ASSAY, "serve", "gated", "--set", f"opens={gate}", "--port", url.split(":")[-1]]
    environment = os.environ | {"PYTHONPATH": os.path.dirname(__file__)}
    process = subprocess.Popen([*command, "--set", f"gate={gate}"], stderr=subprocess.PIPE, text=True, env=environment)
    try:
        wait_until(lambda: answers(url))
        assert httpx.get(f"{url}/health").json()["status"] == "opening"
        assert httpx.get(f"{url}/health/live").status_code == 200
        early = httpx.post(f"{url}/score", json=rows("a"))
        assert (early.status_code, early.json()["error"]["reason"]) == (503, "opening")
        if opens:
            gate.touch()
            wait_until(lambda: httpx.get(f"{url}/health").status_code == 200)
            assert httpx.post(f"{url}/score", json=rows("a")).status_code == 200
        process.send_signal(signal.SIGTERM)
        output = process.stderr.read()
        assert process.wait(60) == 0 and output == (f"serving gated at {url}\n" if opens else "")
    finally:
        process.kill()
        process.stderr.close()


def answers(url: str) -> bool:
    try:
        return httpx.get(f"{url}/health/live").status_code == 200
    except httpx.ConnectError:
        return False


def test_the_command_has_help_with_an_example():
    result = subprocess.run(
        [sys.executable, "-c", ASSAY, "serve", "--help"], capture_output=True, text=True, timeout=120
    )
    assert result.returncode == 0 and "Example: assay serve" in result.stdout and "ASSAY_TOKEN" in result.stdout


def test_it_listens_on_ipv6_where_there_is_one():
    if not socket.has_ipv6 or not is_loopback("::1"):
        pytest.skip("no IPv6 on this machine")
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        pytest.skip("no IPv6 on this machine")
    with Server("length", "--host", "::1") as server, server.client() as client:
        assert server.url.startswith("http://[::1]:") and client.get("/health").status_code == 200


def test_responses_unfinished_after_draining_are_reported_to_client_and_shell(tmp_path):
    with Server("gated", "--set", f"gate={tmp_path / 'never'}", "--drain-seconds", 0.3) as server:
        thread, results = in_background(lambda: httpx.post(f"{server.url}/score", json=rows("a", "b"), timeout=60))
        with server.client() as client:
            wait_until(lambda: queued(client) == 2)
        server.send_signal()
        thread.join(60)
        assert results[0].status_code == 503 and results[0].json()["error"]["reason"] == "ended"
        code, output = server.end()
        assert code == 1 and "2 responses were not judged in time" in output


def test_a_second_signal_ends_the_draining(tmp_path):
    with Server("gated", "--set", f"gate={tmp_path / 'never'}", "--drain-seconds", 600) as server:
        thread, results = in_background(lambda: httpx.post(f"{server.url}/score", json=rows("a"), timeout=60))
        with server.client() as client:
            wait_until(lambda: queued(client) == 1)
            server.send_signal()
            wait_until(lambda: client.get("/health").status_code == 503)
        server.send_signal()
        thread.join(60)
        assert results[0].status_code == 503
        assert server.end()[0] == 1


def test_the_items_of_a_disconnected_client_leave_the_queue(tmp_path):
    gate = tmp_path / "gate"
    with Server("gated", "--set", f"gate={gate}", "--queue", 5) as server, server.client() as client:
        host, port = server.url.removeprefix("http://").split(":")
        for count in (5, 4, 4):  # the first response of the first request stays, because it is in flight
            body = json.dumps(rows(*"12345"[:count])).encode()
            head = f"POST /score HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: {len(body)}"
            with socket.create_connection((host, int(port))) as connection:
                connection.sendall(head.encode() + b"\r\n\r\n" + body)
                wait_until(lambda: queued(client) == 5)
                assert client.post("/score", json=rows("1")).status_code == 429
            wait_until(lambda: queued(client) == 1)
        gate.touch()
        wait_until(lambda: queued(client) == 0)
        assert client.post("/score", json=rows(*"12345")).status_code == 200
        server.send_signal()
        assert server.end()[0] == 0


def test_only_clients_with_the_token_are_served(tmp_path):
    with Server("length", token="s3cret") as server, server.client() as client:
        assert client.post("/score", json=rows("a")).status_code == 401
        assert client.get("/health").status_code == 200
        assert client.post("/score", json=rows("a"), headers={"authorization": "Bearer s3cret"}).status_code == 200
        # OpenRLHF's client sends no header, but it accepts a URL with a password.
        with_password = server.url.replace("http://", "http://any:s3cret@") + "/openrlhf"
        response = httpx.post(with_password, json={"query": ["p abc"], "prompts": ["p "], "labels": [""]})
        assert response.json()["rewards"] == [3.0]


def test_a_failed_scorer_makes_the_server_unhealthy_and_its_exit_code_2(tmp_path):
    gate = tmp_path / "gate"
    gate.touch()
    with Server("gated", "--set", f"gate={gate}") as server, server.client() as client:
        response = client.post("/score", json=rows("a", "boom", "c"))
        assert response.status_code == 503 and response.json()["error"]["message"] == "the model has gone"
        assert client.get("/health/live").status_code == 503
        assert client.post("/score", json=rows("a")).json()["error"]["reason"] == "failed"
        server.send_signal()
        code, output = server.end()
        assert code == 2 and "assay: the model has gone" in output


HOSTILE = [
    b"\x00\x01\x02\x1b[31m\r\n\r\n",
    b"GET / HTTP/9.9\r\n\r\n",
    b"POST /score HTTP/1.1\r\nhost: x\r\ncontent-length: -5\r\n\r\n",
    b"POST /score HTTP/1.1\r\nhost: x\r\ncontent-length: 99999999999999999999999\r\n\r\n",
    b"POST /score HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\nzzz\r\n",
    b"POST /score HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: 50\r\n\r\n{",
    b"GET /" + b"a" * 200_000 + b" HTTP/1.1\r\nhost: x\r\n\r\n",
    b"GET /%00%ff/../../etc/passwd?\x1b HTTP/1.1\r\nhost: x\r\n\r\n",
]


def test_invalid_http_does_not_affect_other_clients(tmp_path):
    with Server("length") as server, server.client() as client:
        host, port = server.url.removeprefix("http://").split(":")
        for sent in HOSTILE:
            with socket.create_connection((host, int(port))) as connection:
                connection.sendall(sent)
            assert client.post("/score", json=rows("fine")).json()["rows"][0]["score"] == 4
        # A client that stops in the middle of a body does not delay the exit.
        with socket.create_connection((host, int(port))) as connection:
            connection.sendall(HOSTILE[5])
            wait_until(lambda: client.get("/health").status_code == 200)
            server.send_signal()
            reply = b"".join(iter(lambda: connection.recv(1000), b""))  # headers and body may arrive separately
            code, output = server.end()
        assert reply.startswith(b"HTTP/1.1 503") and b"stopped before it had read the request" in reply
        assert code == 0 and "\x1b" not in output and "\x00" not in output and "Traceback" not in output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["length", "--host", "0.0.0.0"], "give a token"),
        (["length", "--host", "::"], "give a token"),
        (["length", "--host", "no.such.host.invalid"], "give a token"),
        (["length", "--token", "two words"], "printable ASCII"),
        (["length", "--host", "no.such.host.invalid", "--token", "t"], "cannot listen"),
        (["no-such-scorer"], "unknown scorer"),
        (["length", "--set", "seed=1"], "has no setting 'seed'"),
        (["length", "--drain-seconds", "nan"], "--drain-seconds"),
        (["self-rewarding,engine=openai,model=x,base_url=http://127.0.0.1:9/v1"], "127.0.0.1:9"),
    ],
)
def test_a_server_that_cannot_start_exits_2_with_the_reason(arguments, message):
    command = [sys.executable, "-c", ASSAY, "serve", *arguments, "--port", "0"]
    environment = {key: value for key, value in os.environ.items() if key != "ASSAY_TOKEN"}
    environment["PYTHONPATH"] = os.path.dirname(__file__)
    result = subprocess.run(command, capture_output=True, text=True, timeout=120, env=environment)
    assert result.returncode == 2 and message in result.stderr and "Traceback" not in result.stderr
    assert "serving" not in result.stderr


def test_a_port_in_use_is_reported_before_a_model_is_loaded():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        command = [sys.executable, "-c", ASSAY, "serve", "length", "--port", str(port)]
        result = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert result.returncode == 2 and f"cannot listen at 127.0.0.1:{port}" in result.stderr


def test_a_missing_extra_is_one_clear_line():
    block = "import sys; sys.modules['prometheus_client'] = None\n"
    result = subprocess.run(
        [sys.executable, "-c", block + ASSAY, "serve", "length"], capture_output=True, text=True, timeout=120
    )
    assert result.returncode == 2
    assert result.stderr == "assay: prometheus_client is not installed: pip install 'assay[serve]'\n"


def test_loopback_hosts():
    assert all(map(is_loopback, ("127.0.0.1", "127.8.9.1", "::1", "localhost")))
    assert not any(map(is_loopback, ("0.0.0.0", "::", "", "10.0.0.1", "192.0.2.1", "\x00", "a" * 300)))
    with pytest.raises(CannotRun):
        ServerConfig("0.0.0.0")
    assert ServerConfig("0.0.0.0", token="t").token == "t"
