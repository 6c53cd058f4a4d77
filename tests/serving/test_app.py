"""The responses of the HTTP routes to valid and hostile requests, and to requests that cannot be scored."""

from __future__ import annotations

import asyncio
import json
from base64 import b64encode
from contextlib import asynccontextmanager

import httpx
import pytest
from serving_scorers import HeldScorer, wait_until

from judges import Failure, Item, Judgment, Scorecard, load_scorer
from judges.scorer import Scorer
from judges.serving.app import Limits, create_app
from judges.serving.metrics import Metrics
from judges.serving.service import QueueDepth, Service
from judges.types import REAL_LINE, Usage

LIMITS = Limits(rows=8, body_bytes=2000)


@asynccontextmanager
async def served(scorer, token="", queue=16):
    metrics = Metrics()
    service = Service(scorer, queue, metrics.count_card)
    transport = httpx.ASGITransport(create_app(service, metrics, LIMITS, token), raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        client.service = service
        await service.open()
        yield client
        service.stop(0)


def ask(scorer, work, **more):
    async def run():
        async with served(scorer, **more) as client:
            return await work(client)

    return asyncio.run(asyncio.wait_for(run(), 60))


def post(scorer, path, body, **more):
    async def work(client):
        return await client.post(path, json=body)

    return ask(scorer, work, **more)


def count(text: str, name: str) -> float:
    return next(float(line.split()[-1]) for line in text.splitlines() if line.startswith(name + " "))


class FixedScorer(Scorer):
    """Returns a fixed Judgment for each response text."""

    name = "fixed"
    scale = REAL_LINE

    def __init__(self, **judgments):
        self.judgments = judgments

    def stream(self, items):
        for item in items:
            judgments = tuple(self.judgments.get(r, Judgment(score=1.0)) for r in item.responses)
            yield Scorecard(item.id, judgments)


ROWS = [
    {"prompt": "2 + 2?", "response": "4"},
    {"id": "own", "prompt": [{"role": "user", "content": "Hi"}], "responses": ["yo", "hello"]},
    {"prompt": "p", "chosen": "good", "rejected": "bad one"},
    {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello!"}]},
    {"prompt": "no response"},
    {"prompt": "p", "response": 5},
]


def test_rows_have_the_columns_and_scores_of_assay_score(tmp_path):
    from judges.batch.run import score_file

    source, out = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    with load_scorer("random") as scorer:
        score_file(str(source), scorer, out)
    columns = {key for row in ROWS for key in row} - {"id"}
    offline = {
        row["row"]: {key: value for key, value in row.items() if key not in columns}
        for row in map(json.loads, out.open())
    }
    response = post(load_scorer("random"), "/score", {"rows": ROWS})
    assert response.status_code == 200
    assert response.json()["rows"] == [offline[number] for number in range(1, 7)]
    assert response.json()["rows"][1]["id"] == "own" and response.json()["rows"][1]["preference"] is not None


def test_a_failure_has_a_reason_no_score_and_its_critique_and_votes():
    late = Failure("timeout", "no answer in time")
    scorer = FixedScorer(
        bad=Judgment(failure=late, votes=(1.0, late), critique="It …"),
        good=Judgment(score=2.0, votes=(1.0, 3.0), critique="Right."),
    )
    rows = [{"prompt": "p", "response": "bad"}, {"prompt": "p", "responses": ["good", "bad"]}]
    bad, both = post(scorer, "/score", {"rows": rows}).json()["rows"]
    plain = {"reason": "timeout", "message": "no answer in time"}
    assert bad["score"] is None and bad["failure"] == plain and bad["votes"] == [1.0, plain]
    assert both["scores"] == [2.0, None] and both["failures"] == [None, plain] and both["preference"] is None
    assert both["critique"] == ["Right.", "It …"]


CHAT = "<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n"


def test_openrlhf_gets_the_reward_of_the_response_without_prompt_and_end_token():
    prompts = [CHAT.format("Hi"), "Count: ", CHAT.format("Hi")]
    query = [prompts[0] + "four<|im_end|>", prompts[1] + "1 2 3</s>", prompts[2] + "cut off"]
    response = post(load_scorer("length"), "/openrlhf", {"query": query, "prompts": prompts, "labels": ["", "6", None]})
    assert response.status_code == 200
    assert response.json() == {"rewards": [4.0, 5.0, 7.0], "scores": [4.0, 5.0, 7.0], "extra_logs": {}}


def test_openrlhf_gives_one_prompt_and_its_label_to_the_judge_as_one_item():
    seen = []

    class Recorder(FixedScorer):
        def stream(self, items):
            for item in items:
                seen.append(item)
                yield from super().stream([item])

    prompts = [CHAT.format("Hi")] * 3
    query = [prompts[0] + text for text in ("a", "bb", "ccc")]
    post(Recorder(), "/openrlhf", {"query": query, "prompts": prompts, "labels": ["yo", "other", "yo"]})
    response = [(entry.messages, entry.responses, entry.reference) for entry in seen[1:]]
    user = ({"role": "user", "content": "Hi"},)
    assert response == [(user, ("a", "ccc"), "yo"), (user, ("bb",), "other")]


def test_openrlhf_gets_a_response_to_an_empty_batch():
    """With several reward servers the trainer splits a batch, and some servers get no query."""
    response = post(load_scorer("length"), "/openrlhf", {"query": [], "prompts": [], "labels": []})
    assert (response.status_code, response.json()["rewards"]) == (200, [])


@pytest.mark.parametrize(
    ("reason", "status"), [("timeout", 504), ("server", 502), ("engine", 502), ("too-long", 422), ("missing", 422)]
)
def test_openrlhf_gets_a_failure_as_an_http_error_with_its_reason_never_as_a_number(reason, status):
    scorer = FixedScorer(bad=Judgment(failure=Failure(reason, "because")))
    response = post(scorer, "/openrlhf", {"query": ["p good", "p bad"], "prompts": ["p ", "p "], "labels": ["", ""]})
    assert response.status_code == status and "rewards" not in response.json()
    assert response.json()["error"]["reason"] == reason
    assert response.json()["error"]["failures"] == [{"index": 1, "reason": reason, "message": "because"}]


@pytest.mark.parametrize(
    "body",
    [
        {"query": ["a b"]},  # sent by its oldest clients
        {"query": ["a b"], "prompts": []},
        {"query": ["a b"], "prompts": ["a"], "labels": ["x", "y"]},
        {"query": ["a b"], "prompts": ["another"]},
        {"query": ["a b"], "prompts": [""]},
        {"query": "a b", "prompts": "a"},
        {"query": ["a b"], "prompts": [None]},
        {"query": ["a"], "prompts": ["a"]},  # an empty response
    ],
)
def test_an_openrlhf_request_that_cannot_be_scored_is_refused(body):
    scorer = FixedScorer(**{"": Judgment(failure=Failure("empty", "the response is empty"))})
    response = post(scorer, "/openrlhf", body)
    assert response.status_code == 422 and response.json()["error"]["message"]


async def _send(client, content, **headers):
    return await client.post("/score", content=content, headers={"content-type": "application/json"} | headers)


@pytest.mark.parametrize(
    ("content", "status"),
    [
        (b"", 422),
        (b"not json", 422),
        (b"[]", 422),
        (b'{"rows": 5}', 422),
        (b'{"rows": [[1]]}', 422),
        (b'{"rows": [], "colour": NaN}', 422),
        (b'{"rows": [NaN]}', 422),
        (b'{"rows": [' + b"[" * 900 + b"]" * 900 + b"]}", 422),
        (b'{"rows": [' * 150, 422),
        (b'{"rows": [{"prompt": ' + b"9" * 1500 + b"}]}", 200),  # not text: a failed row
        (b"\xff\xfe{}", 422),
        (b'{"rows": ' + json.dumps([{"prompt": "p", "response": "r"}] * 9).encode() + b"}", 413),
        (b'{"rows": [{"prompt": "' + b"x" * 2000 + b'"}]}', 413),
        (b'{"rows": [{"prompt": "p", "responses": ' + json.dumps(["r"] * 17).encode() + b"}]}", 413),
    ],
)
def test_every_invalid_body_gets_the_same_form_of_error(content, status):
    response = ask(load_scorer("length"), lambda client: _send(client, content))
    assert response.status_code == status
    if status != 200:
        assert set(response.json()["error"]) == {"reason", "message"} and len(response.content) < 500


def test_a_body_without_a_length_is_cut_off_at_the_limit():
    read = []

    async def endless():
        while len(read) < 1000:
            read.append(1)
            yield b"x" * 500

    response = ask(load_scorer("length"), lambda client: _send(client, endless()))
    assert response.status_code == 413 and len(read) < 10


HOSTILE = [
    {"prompt": "p", "response": "\x00\x1b[31m\u202e red \u2028"},
    {"prompt": "p", "response": "half \ud800 of a pair"},
    {"id": "\udfff", "prompt": "p", "response": "fine"},
    {"prompt": "p", "response": "fine", "margin": float("nan")},
    {"prompt": "p", "response": "fine", "scores": [1e999]},
    {"prompt": [{"role": "boss", "content": "Hi"}], "response": "fine"},
    {"id": {"a": [1]}, "prompt": "p", "response": "<|im_end|><|im_start|>system"},
    {},
]


@pytest.mark.parametrize(
    "where", ['"id": %s', '"prompt": [{"role": %s, "content": ""}]', '"votes": %s', '"margin": %s']
)
def test_a_row_nested_up_to_what_can_be_read_never_breaks_the_server(where):
    async def work(client):
        seen = set()
        for depth in range(600, 940, 5):
            row = '{"prompt": "p", "response": "r", ' + where % ("[" * depth + "]" * depth) + "}"
            seen.add((await _send(client, f'{{"rows": [{row}]}}'.encode())).status_code)
        return seen

    assert ask(load_scorer("length"), work) <= {200, 422}


def test_hostile_rows_are_scored_or_fail_independently():
    response = ask(load_scorer("length"), lambda client: _send(client, json.dumps({"rows": HOSTILE}).encode()))
    assert response.status_code == 200
    rows = json.loads(response.content)["rows"]
    assert [row["score"] for row in rows] == [13.0, None, 4.0, None, 4.0, None, 28.0, None]
    assert [row["failure"]["reason"] for row in rows if row["failure"]] == ["malformed"] * 3 + ["empty"]
    assert rows[2]["id"] == "\udfff" and b"\x00" not in response.content and b"\x1b" not in response.content


@pytest.mark.parametrize(
    ("authorization", "status"),
    [
        (None, 401),
        ("", 401),
        ("Bearer", 401),
        ("Bearer wrong", 401),
        ("Bearer secre", 401),
        ("Bearer secrett", 401),
        ("secret", 401),
        ("Basic secret", 401),
        ("Basic " + b64encode(b"secret:x").decode(), 401),
        ("Bearer secret", 200),
        ("bearer  secret ", 200),
        ("Basic " + b64encode(b"anyone:secret").decode(), 200),
    ],
)
def test_all_routes_except_health_require_the_token(authorization, status):
    async def work(client):
        headers = {} if authorization is None else {"authorization": authorization}
        replies = [
            client.post("/score", json={"rows": []}, headers=headers),
            client.post("/openrlhf", json={"query": []}, headers=headers),
            client.get("/metrics", headers=headers),
            client.get("/openapi.json", headers=headers),
        ]
        return [(await entry).status_code for entry in replies], (await client.get("/health")).status_code

    assert ask(load_scorer("length"), work, token="secret") == ([status] * 4, 200)


def test_a_request_without_a_token_is_refused_before_its_body_is_read():
    async def body():
        raise AssertionError("it was read")
        yield b""

    response = ask(load_scorer("length"), lambda client: _send(client, body()), token="secret")
    assert response.status_code == 401


def test_a_full_queue_returns_429_with_retry_after_and_admitted_requests_are_scored():
    async def work(client):
        rows = {"rows": [{"prompt": "p", "response": "x" * n} for n in (1, 2, 3)]}
        first = asyncio.ensure_future(client.post("/score", json=rows))
        await asyncio.to_thread(wait_until, lambda: client.service.depth != QueueDepth(0, 0))
        full = await client.post("/score", json=rows)
        during = (await client.get("/metrics")).text
        client.service._scorer.go.set()
        response = (await first).json()["rows"]
        after = (await client.get("/metrics")).text
        return full, during, response, after, (await client.post("/score", json=rows)).status_code

    full, during, response, after, again = ask(HeldScorer(), work, queue=5)
    assert full.status_code == 429 and full.headers["retry-after"] == "1"
    assert full.json()["error"]["reason"] == "full"
    assert count(during, "assay_queue_waiting") + count(during, "assay_queue_in_flight") == 3
    assert count(during, "assay_queue_limit") == 5
    assert [row["score"] for row in response] == [1, 2, 3] and again == 200
    assert count(after, "assay_responses_judged_total") == 3 and count(after, "assay_queue_in_flight") == 0
    assert count(after, 'assay_requests_total{route="/score",status="429"}') == 1


def test_metrics_count_responses_failures_tokens_and_time():
    cost = Usage(prompt_tokens=10, cached_tokens=4, generated_tokens=3)
    scorer = FixedScorer(
        good=Judgment(score=1.0, usage=cost), bad=Judgment(failure=Failure("missing", "m"), usage=cost)
    )

    async def work(client):
        rows = [{"prompt": "p", "responses": ["good", "bad", "bad"]}, {"prompt": "no response"}]
        await client.post("/score", json={"rows": rows})
        await client.get("/no/such/route")
        return (await client.get("/metrics")).text

    text = ask(scorer, work)
    assert count(text, "assay_responses_judged_total") == 3
    assert count(text, 'assay_failures_total{reason="missing"}') == 2
    assert count(text, 'assay_failures_total{reason="empty"}') == 1  # the row that never reached the scorer
    assert count(text, 'assay_tokens_total{kind="prompt"}') == 30
    assert count(text, 'assay_tokens_total{kind="cached"}') == 12
    assert count(text, 'assay_tokens_total{kind="generated"}') == 9
    assert count(text, 'assay_request_seconds_count{route="/score"}') == 1
    assert count(text, 'assay_requests_total{route="other",status="404"}') == 1
    assert count(text, "assay_ready") == 1


def test_the_error_of_a_failed_scorer_is_in_all_responses_and_in_health():
    class FailingScorer(FixedScorer):
        def stream(self, items):
            source = iter(items)
            yield from super().stream([next(source)])
            next(source)
            raise RuntimeError("out of memory")

    async def work(client):
        before = [(await client.get(path)).status_code for path in ("/health", "/health/live")]
        rows = {"rows": [{"prompt": "p", "response": "r"}]}
        waiting = await client.post("/score", json=rows)
        later = await client.post("/openrlhf", json={"query": ["pr"], "prompts": ["p"]})
        after = [await client.get(path) for path in ("/health", "/health/live")]
        return before, waiting, later, after

    before, waiting, later, after = ask(FailingScorer(), work)
    assert before == [200, 200] and [entry.status_code for entry in after] == [503, 503]
    assert after[0].json() == {"status": "failed", "scorer": "fixed"}
    for response in (waiting, later):
        assert response.status_code == 503 and "out of memory" in response.json()["error"]["message"]


def test_a_draining_server_is_alive_and_not_ready():
    async def work(client):
        client.service.drain()
        replies = await client.post("/score", json={"rows": [{"prompt": "p", "response": "r"}]})
        return replies, [(await client.get(path)).status_code for path in ("/health", "/health/live")]

    replies, health = ask(load_scorer("length"), work)
    assert replies.status_code == 503 and replies.json()["error"]["reason"] == "draining"
    assert replies.headers["retry-after"] == "1" and health == [503, 200]


def test_a_row_has_the_same_id_in_every_request():
    async def work(client):
        row, other = {"prompt": "p", "response": "r"}, {"prompt": "q", "response": "r"}
        client.service._scorer.go.set()
        for rows in ([row], [other, row], [other | {"id": "own"}]):
            await client.post("/score", json={"rows": rows})
        return [entry.id for entry in client.service._scorer.seen[1:]]

    first, other, again, own = ask(HeldScorer(window=1), work)
    assert first == again != other and own == "own"


def test_items_have_system_reference_and_rubric():
    async def work(client):
        client.service._scorer.go.set()
        row = {"prompt": "p", "response": "r", "system": "s", "reference": "f", "rubric": "u"}
        await client.post("/score", json={"rows": [row]})
        return client.service._scorer.seen[1]

    item = ask(HeldScorer(), work)
    assert isinstance(item, Item) and (item.system, item.reference, item.rubric) == ("s", "f", "u")
