"""Odd answers, over HTTP: a Failure or the right score, never a traceback, and a store that stays right."""

from __future__ import annotations

import copy
import json
import threading
import time
from collections import Counter
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from answering_server import AnsweringServer, Reply, completion, reply
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from judges import CannotRun, Item, Judgment, load_scorer
from judges.engines.base import Completion, Request, RequestFailed, submit
from judges.engines.openai import retry
from judges.engines.openai.engine import OpenAIEngine
from judges.engines.policy import Policy, PolicyOutput, Prompt

GOOD = "It answers what was asked and is right.\n\nScore: 4"
# An answer in which the model itself said nothing to be read; it is kept.
SAID = ("missing", "empty", "truncated")


def judge(url: str, rows: int, store: Path | None = None, **more: Any) -> list[Judgment]:
    spec = {"engine": "openai", "model": "m", "base_url": url, "votes": 1, "force": False, **more}
    if store is not None:
        spec["store"] = str(store)
    items = [Item(id=str(i), prompt=f"question {i}.", responses=["an answer"]) for i in range(rows)]
    with load_scorer("self-rewarding", **spec) as scorer:
        return [card.judgments[0] for card in scorer.score(items)]


def request(**more: Any) -> Request:
    return Request(({"role": "user", "content": "Name a fruit."},), **more)


def complete(url: str, sent: Request, **engine: Any) -> Completion:
    opened = OpenAIEngine("m", base_url=url, **engine)
    try:
        return submit(opened.complete(sent)).result(timeout=60)
    finally:
        opened.close()


@pytest.fixture(autouse=True)
def short_backoff(monkeypatch):
    monkeypatch.setattr(retry, "FIRST_BACKOFF", 0.002)


# -- any shape --------------------------------------------------------------------------------------------------

STRINGS = ("", "x", "error", "length", "content_filter", "tool_calls", "text", "thinking", "\ud800")
LEAVES = st.one_of(
    st.none(), st.booleans(), st.integers(-5, 600), st.floats(), st.sampled_from(STRINGS), st.just([]), st.just({})
)
VALUES = st.recursive(
    LEAVES,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(("type", "text", "thinking", "message", "code", "refusal")), inner, max_size=3
        )
    ),
    max_leaves=4,
)
ERRORS = st.fixed_dictionaries(
    {"message": st.sampled_from(("Provider returned error", "busy", "")), "code": VALUES, "type": VALUES}
)


def paths(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Every place in a JSON value."""
    found = [path]
    entries = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, entry in entries:
        found += paths(entry, (*path, key))
    return found


@st.composite
def mutated_replies(draw: st.DrawFn) -> Reply:
    """A good answer with some of its parts replaced, removed or added, or broken as a whole."""
    more = draw(st.sampled_from(({}, {"refusal": None}, {"reasoning_content": "Maybe."}, {"tool_calls": None})))
    payload: Any = completion(GOOD, **copy.deepcopy(more))
    for _ in range(draw(st.integers(0, 3))):
        path = draw(st.sampled_from(paths(payload)))
        if not path:
            payload = draw(VALUES) if draw(st.booleans()) else payload
            if not isinstance(payload, dict):
                break
            continue
        parent = payload
        for key in path[:-1]:
            parent = parent[key]
        act = draw(st.sampled_from(("replace", "remove", "error", "duplicate")))
        if act == "replace":
            parent[path[-1]] = draw(VALUES)
        elif act == "remove":
            del parent[path[-1]]
        elif act == "error":
            payload["error"] = draw(ERRORS)
        elif isinstance(parent, list):
            parent.append(copy.deepcopy(parent[path[-1]]))
    body = json.dumps(payload).encode()
    result = Reply(body, headers={"retry-after": "0"})
    match draw(st.sampled_from(("whole",) * 6 + ("half", "cut", "page", "kind", "status", "bytes"))):
        case "half":
            result.body = body[: draw(st.integers(0, len(body)))]
        case "cut":
            result.declared = len(body) + 20
        case "page":
            result.body, result.kind = b"<html>come back later</html>", "text/html"
        case "kind":
            result.kind = draw(st.sampled_from(("text/plain", "text/html", "application/octet-stream", "")))
        case "status":
            result.status = draw(st.sampled_from((201, 204, 301, 400, 404, 408, 409, 413, 422, 429, 500, 503, 529)))
        case "bytes":
            result.body = draw(st.binary(max_size=40))
    return result


def check_mutated(replies: list[Reply]) -> None:
    asked: Counter[int] = Counter()
    lock = threading.Lock()

    def answer(body: dict[str, Any], _: int) -> Reply:
        text = json.dumps(body["messages"])
        row = next(i for i in range(len(replies)) if f"question {i}." in text)
        with lock:
            asked[row] += 1
            return replies[row] if asked[row] <= 3 else reply(completion(GOOD))

    with TemporaryDirectory() as folder, AnsweringServer(answer) as server:
        store = Path(folder) / "completions.sqlite"
        first = judge(server.url, len(replies), store, **{"engine.retries": 1})
        assert all(judgment.score in (None, 4.0) for judgment in first)
        server.answer = lambda body, number: reply(completion(GOOD))
        again = judge(server.url, len(replies), store)
    for before, after in zip(first, again, strict=True):
        kept = before.failure is not None and before.failure.reason in SAID
        assert after.score == 4.0 or (kept and after.failure is not None)


CHECKS = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large]


@settings(max_examples=30, deadline=None, suppress_health_check=CHECKS)
@given(st.lists(mutated_replies(), min_size=10, max_size=10))
def test_300_mutated_answers_give_a_failure_or_the_right_score(replies):
    check_mutated(replies)


@pytest.mark.slow
@settings(max_examples=500, deadline=None, suppress_health_check=CHECKS)
@given(st.lists(mutated_replies(), min_size=10, max_size=10))
def test_5000_mutated_answers_give_a_failure_or_the_right_score(replies):
    check_mutated(replies)


# -- one row, and the same command again ------------------------------------------------------------------------


def test_an_odd_answer_is_not_kept_and_costs_one_row_at_most(tmp_path):
    odd = completion(GOOD)
    odd["choices"][0]["message"] = None
    with AnsweringServer(lambda body, number: reply(odd if number == 0 else completion(GOOD))) as server:
        first = judge(server.url, 20, tmp_path / "store.sqlite")
        assert Counter(j.failure and j.failure.reason for j in first) == {None: 19, "server": 1}
        assert all(j.usage.generated_tokens == 5 for j in first), "a failed request keeps what it was billed for"
        assert [j.score for j in judge(server.url, 20, tmp_path / "store.sqlite")] == [4.0] * 20
        assert len(server.requests) == 21


@pytest.mark.parametrize(("code", "requests"), [(429, 2), (503, 2), ("429", 2), (403, 1), (400, 1), (None, 1)])
def test_an_error_inside_a_200_is_treated_as_its_status(code, requests):
    error = {"id": None, "choices": None, "error": {"message": "Provider returned error", "code": code}}
    with AnsweringServer(lambda body, number: reply(error if number == 0 else completion(GOOD))) as server:
        found = judge(server.url, 1)[0]
    assert len(server.requests) == requests
    assert found.score == 4.0 if requests == 2 else found.failure is not None and found.failure.reason == "server"


@pytest.mark.parametrize(
    "odd",
    [
        Reply(b"<html>busy</html>", kind="text/html"),
        Reply(b'{"choices": ['),
        Reply(b'{"choices": [', kind="text/plain"),
        Reply(b""),
        Reply(b'{"id"', declared=4000),
    ],
)
def test_a_page_or_half_a_body_is_retried_and_then_a_failure(odd):
    with AnsweringServer(lambda body, number: odd if number == 0 else reply(completion(GOOD))) as server:
        assert judge(server.url, 1, **{"engine.retries": 1})[0].score == 4.0
        server.answer = lambda body, number: odd
        failure = judge(server.url, 1, **{"engine.retries": 1})[0].failure
    assert failure is not None and failure.reason == "server"


def test_json_declared_as_text_is_an_answer():
    text = Reply(json.dumps(completion(GOOD)).encode(), kind="text/plain")
    with AnsweringServer(lambda body, number: text) as server:
        assert judge(server.url, 1)[0].score == 4.0


def test_a_verdict_that_broke_off_is_never_a_score():
    for finish in ("error", "abort"):
        with AnsweringServer(lambda body, number, f=finish: reply(completion("Well.\n\nScore: 1", finish=f))) as server:
            failure = judge(server.url, 1)[0].failure
        assert failure is not None and failure.reason == "server" and finish in failure.message


def test_thinking_that_used_all_tokens_is_truncated():
    cut = completion(None, finish="length", reasoning_content="Let me weigh this. Score: 2")
    with AnsweringServer(lambda body, number: reply(cut)) as server:
        for force in (False, True):
            failure = judge(server.url, 1, force=force)[0].failure
            assert failure is not None and failure.reason == "truncated" and "max_tokens" in failure.message


# -- several candidates -----------------------------------------------------------------------------------------


def test_a_server_that_ignores_n_is_asked_for_the_rest_with_other_seeds():
    with AnsweringServer(lambda body, number: reply(completion(f"{body['seed']}"))) as server:
        engine = OpenAIEngine("m", base_url=server.url)
        first = submit(engine.complete(request(n=4, temperature=1.0, seed=7))).result(timeout=60)
        asked = len(server.requests)
        second = submit(engine.complete(request(n=4, temperature=1.0, seed=7))).result(timeout=60)
        engine.close()
    assert first.choices == second.choices and asked == 4 and len(server.requests) == 8
    assert first.choices[0].text == "7" and len({choice.text for choice in first.choices}) == 4
    assert first.usage.generated_tokens == 20
    assert sorted(body["seed"] for body in server.requests[:4]) == sorted(int(c.text) for c in first.choices)


@pytest.mark.parametrize(
    "message",
    [
        "Only one completion choice is allowed",
        "Unsupported parameter: 'n'",
        "n must be 1",
        "Multiple candidates is not supported",
        "best_of: `n` is not supported",
    ],
)
def test_a_server_that_refuses_n_is_asked_one_at_a_time(message):
    def answer(body: dict[str, Any], number: int) -> Reply:
        if body.get("n", 1) > 1:
            return reply({"error": {"message": message, "code": None, "type": "invalid_request_error"}}, 400)
        return reply(completion(f"Candidate {body['seed']}"))

    with AnsweringServer(answer) as server:
        found = complete(server.url, request(n=3, temperature=1.0, seed=7))
    assert len({choice.text for choice in found.choices}) == 3 and len(server.requests) == 4


def test_a_filtered_candidate_does_not_lose_its_siblings_and_is_not_asked_for_again(tmp_path):
    payload = completion("a", "b", "c", "d")
    payload["choices"][1] |= {"finish_reason": "content_filter", "message": {"role": "assistant", "content": ""}}
    with AnsweringServer(lambda body, number: reply(payload)) as server:
        for _ in range(2):
            with Policy("m", engine="openai", base_url=server.url, store=str(tmp_path / "store.sqlite")) as policy:
                (output,) = policy.stream([Prompt("1", "Name a fruit.")])
            assert isinstance(output, PolicyOutput) and isinstance(output.item, Item)
            assert output.item.responses == ("a", "c", "d") and output.truncated == (False,) * 3
            assert [failure.reason for failure in output.failures] == ["refused"]
    assert len(server.requests) == 1, "it is kept as it is"


def test_a_candidate_that_failed_in_transit_is_asked_for_again_by_the_next_run(tmp_path):
    def answer(body: dict[str, Any], number: int) -> Reply:
        return reply({"error": {"message": "odd"}}, 400) if number == 1 else reply(completion(f"{number}"))

    with AnsweringServer(answer) as server:
        counts = []
        for _ in range(2):
            with Policy("m", 2, engine="openai", base_url=server.url, store=str(tmp_path / "store.sqlite")) as policy:
                (output,) = policy.stream([Prompt("1", "Name a fruit.")])
            assert isinstance(output, PolicyOutput) and isinstance(output.item, Item)
            counts.append(len(output.item.responses))
    assert counts == [1, 2]


def test_when_all_candidates_fail_the_request_fails_with_its_usage():
    payload = completion("", "", finish="content_filter")
    with AnsweringServer(lambda body, number: reply(payload)) as server, pytest.raises(RequestFailed) as caught:
        complete(server.url, request(n=2, temperature=1.0, seed=7))
    assert caught.value.failure.reason == "refused" and caught.value.usage.generated_tokens == 5


# -- the end of the run -----------------------------------------------------------------------------------------

FINAL = {
    "quota": (429, {"code": "insufficient_quota", "message": "You exceeded your current quota"}, "no quota left"),
    "key": (401, {"code": "invalid_api_key", "message": "Incorrect API key provided"}, "refuses the key"),
    "forbidden": (403, {"message": "Forbidden"}, "does not allow this key"),
    "model": (404, {"code": "model_not_found", "message": "The model `m` does not exist"}, "does not serve the model"),
}


@pytest.mark.parametrize("name", FINAL)
def test_what_cannot_pass_ends_the_run_and_the_same_command_goes_on(name, tmp_path):
    status, error, said = FINAL[name]
    store = tmp_path / "store.sqlite"

    def answer(body: dict[str, Any], number: int) -> Reply:
        return reply(completion(GOOD)) if number < 10 else reply({"error": error}, status)

    with AnsweringServer(answer) as server:
        with pytest.raises(CannotRun, match=f"{said}.*what is finished is safe") as caught:
            judge(server.url, 40, store, window=4)
        assert "\n" not in str(caught.value) and len(server.requests) < 20
        server.answer = lambda body, number: reply(completion(GOOD))
        before = len(server.requests)
        assert [j.score for j in judge(server.url, 40, store)] == [4.0] * 40
        again = len(server.requests) - before
        assert 30 <= again <= 33, "what was finished is kept; three that were in flight may be sent again"


# -- the list of models -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("models", "said"),
    [
        (reply({"error": {"message": "no such path"}}, 404), "has no list of models (404)"),
        (reply({"detail": "Method Not Allowed"}, 405), "has no list of models (405)"),
        (reply({"data": [{"id": "models/m"}]}), "lists 'models/m', not 'm'"),
        (reply({"data": [{"id": "m:latest"}]}), "lists 'm:latest', not 'm'"),
    ],
)
def test_a_missing_or_other_list_of_models_is_a_warning(models, said, capfd):
    with AnsweringServer(lambda body, number: reply(completion(GOOD)), models) as server:
        assert judge(server.url, 1)[0].score == 4.0
    assert capfd.readouterr().err.count(said) == 1


def test_a_variant_of_a_listed_model_is_asked(capfd):
    models = reply({"data": [{"id": "deepseek/r1"}, {"id": "other"}]})
    with AnsweringServer(lambda body, number: reply(completion(GOOD)), models) as server:
        engine = OpenAIEngine("deepseek/r1:nitro", base_url=server.url)
        submit(engine.complete(request())).result(timeout=60)
        engine.close()
        assert server.requests[0]["model"] == "deepseek/r1:nitro"
        with pytest.raises(CannotRun, match="serves deepseek/r1, other, not 'deepseek/r2'"):
            OpenAIEngine("deepseek/r2", base_url=server.url)


def test_without_a_list_of_models_a_wrong_url_ends_the_run_at_the_first_request():
    missing = reply({"detail": "Not Found"}, 404)
    with (
        AnsweringServer(lambda body, number: missing, missing) as server,
        pytest.raises(CannotRun, match=r"answered 404 .*end in /v1\?"),
    ):
        judge(server.url, 1)


# -- rate limits ------------------------------------------------------------------------------------------------


class Limit:
    """So many requests in any window of so many seconds; others get 429 with retry-after."""

    def __init__(self, count: int, seconds: float, latency: float = 0.02) -> None:
        self.count, self.seconds, self.latency = count, seconds, latency
        self.starts: list[float] = []
        self.lock = threading.Lock()

    def __call__(self, body: dict[str, Any], number: int) -> Reply:
        with self.lock:
            now = time.monotonic()
            self.starts = [start for start in self.starts if start > now - self.seconds]
            if len(self.starts) >= self.count:
                wait = self.starts[0] + self.seconds - now
                error = {"message": "Rate limit reached", "type": "rate_limit_error", "code": "rate_limit_exceeded"}
                return reply({"error": error}, 429, **{"retry-after": f"{wait + 0.001:.3f}"})
            self.starts.append(now)
        time.sleep(self.latency)
        return reply(completion(GOOD))


def check_rate_limit(seconds: float) -> None:
    with AnsweringServer(Limit(50, seconds)) as server:
        started = time.monotonic()
        found = judge(server.url, 80)
        took = time.monotonic() - started
    assert [j.score for j in found] == [4.0] * 80, "no row is lost"
    assert len(server.requests) <= 88, "at most a tenth above the minimum"
    assert took <= 1.2 * seconds + 3


def test_80_rows_at_50_requests_in_6_seconds():
    check_rate_limit(6.0)


@pytest.mark.slow
def test_80_rows_at_50_requests_a_minute():
    check_rate_limit(60.0)


def test_a_refusal_counts_against_no_retries():
    limited = reply({"error": {"message": "busy"}}, 429, **{"retry-after": "0.01"})
    with AnsweringServer(lambda body, number: limited if number < 9 else reply(completion(GOOD))) as server:
        assert judge(server.url, 1, **{"engine.retries": 0})[0].score == 4.0
    assert len(server.requests) == 10


def test_limits_that_are_set_are_no_part_of_the_identity_and_are_checked():
    specs = [{"engine": "openai", "model": "m"}, {"engine": "openai", "model": "m", "engine.requests_per_minute": 5}]
    plain, limited = (load_scorer("self-rewarding", **spec) for spec in specs)
    assert plain.identity() == limited.identity()
    with pytest.raises(CannotRun, match="requests_per_minute"):
        OpenAIEngine("m", base_url="http://127.0.0.1:9/v1", requests_per_minute=-1)


# -- keys -------------------------------------------------------------------------------------------------------


def test_a_password_in_a_url_is_in_no_message(capfd):
    with AnsweringServer(lambda body, number: reply({"error": {"message": "odd"}}, 418)) as server:
        url = server.url.replace("http://", "http://me:secret-word@")
        failure = judge(url, 1)[0].failure
        assert failure is not None and "127.0.0.1" in failure.message and "secret-word" not in failure.message
        with pytest.raises(CannotRun) as caught:
            OpenAIEngine("other", base_url=url)
    assert "secret-word" not in str(caught.value) + capfd.readouterr().err
