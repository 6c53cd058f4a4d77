"""What an engine said is paid for once: it is on disk before it is used, and can be read again without the engine."""

from __future__ import annotations

import asyncio
import math
import random
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fakes import FakeEngine
from typer.testing import CliRunner

from judges.cli.app import app
from judges.engines.base import Generation, Request, RequestFailed, submit
from judges.engines.store import Store, StoredEngine, request_digest
from judges.errors import CannotRun
from judges.types import Usage, usage_to_dict


def asked(text: str, **more: Any) -> Request:
    return Request(({"role": "user", "content": text},), **more)


def said(request: Request) -> str:
    return f"answer to {request.messages[-1]['content']}"


def complete(engine: Any, *requests: Request) -> list[str]:
    async def all_of_them() -> list[Any]:
        return await asyncio.gather(*(engine.complete(request) for request in requests))

    return [completion.choices[0].text for completion in submit(all_of_them()).result(timeout=60)]


@pytest.fixture
def stored(tmp_path) -> Iterator[Any]:
    """Stores on one file, each with an engine of its own."""
    opened: list[StoredEngine] = []

    def make(answer: Any = said, path: Path = tmp_path / "kept.sqlite", **identity: Any) -> StoredEngine:
        engine = StoredEngine(FakeEngine(answer), path, {"model": "fake"} | identity)
        opened.append(engine)
        return engine

    yield make
    for engine in opened:
        engine.close()


# -- paid once -------------------------------------------------------------------------------------------------


def test_the_same_request_is_sent_once_even_by_two_engines_of_the_same_identity(stored):
    first, later = stored(), stored(lambda request: "another answer")
    assert complete(first, asked("a")) == complete(first, asked("a")) == complete(later, asked("a")) == ["answer to a"]
    assert len(first.engine.requests) == 1 and later.engine.requests == []
    assert (first.hits, first.misses, later.hits) == (1, 1, 1)


BASE = asked("a", temperature=0.5, seed=1)
OTHERS = [
    asked("b", temperature=0.5, seed=1),
    Request(({"role": "system", "content": "a"},), temperature=0.5, seed=1),
    Request(({"role": "user", "content": "a"}, {"role": "user", "content": ""}), temperature=0.5, seed=1),
    replace(BASE, prefix="x"),
    replace(BASE, partial=Generation("x", "stop", (1,))),
    replace(BASE, n=2),
    replace(BASE, temperature=0.6),
    replace(BASE, top_p=0.9),
    replace(BASE, max_tokens=255),
    replace(BASE, stop=("x",)),
    replace(BASE, choice=("x",)),
    replace(BASE, schema="{}"),
    replace(BASE, seed=2),
]


def test_the_keys_of_existing_stores_stay_valid():
    messages = ({"role": "user", "content": "h\u00e9llo \ud83d"},)
    base = Request(messages)
    sampled = replace(base, n=3, temperature=0.7, top_p=0.9, stop=("\n",), choice=("1", "2"), seed=3)
    continued = replace(base, prefix="x", partial=Generation("a", "stop", (1, 2)))
    assert [request_digest(request)[:16] for request in (base, continued, sampled, replace(base, schema="{}"))] == [
        "66c46f9864d51825",
        "b2f8f1ede3e6bb77",
        "26629e85f00eaa02",
        "e3b1f353e570ee95",
    ]


def test_a_completion_that_was_stored_with_logprobs_is_read(stored):
    engine = stored()
    usage = usage_to_dict(Usage(1, 0, 1, 0.1))
    value = {"choices": [{"text": "t", "finish": "stop", "token_ids": [1], "logprobs": [{"t": -0.1}]}], "usage": usage}
    key = engine._key(request_digest(BASE))
    submit(engine.store.put(key, engine._engine_id, value)).result(timeout=60)
    assert complete(engine, BASE) == ["t"]
    assert engine.engine.requests == []


@pytest.mark.parametrize("place", range(len(OTHERS)))
def test_a_request_that_differs_in_anything_is_sent_again(stored, place):
    engine = stored()
    complete(engine, BASE, OTHERS[place])
    assert len(engine.engine.requests) == 2
    complete(engine, BASE, OTHERS[place])
    assert len(engine.engine.requests) == 2


def test_a_request_to_another_model_or_revision_is_sent_again(stored):
    for identity in ({}, {"model": "other"}, {"revision": "1"}, {"revision": "2"}):
        engine = stored(**identity)
        complete(engine, asked("a"))
        assert len(engine.engine.requests) == 1


def test_likelihoods_come_back_to_the_last_bit_and_a_probability_of_0_stays_one(stored):
    values = {"a": -0.1 - 0.2, "b": -math.inf, "c": -1e-300}
    first, later = stored(), stored()
    first.engine.likelihood = values.__getitem__
    later.engine.likelihood = lambda text: 1 / 0
    messages = ({"role": "user", "content": "q"},)

    async def ask(engine: StoredEngine) -> list[Any]:
        one = await engine.log_likelihood(messages, "", "a")
        several = await engine.log_likelihoods(messages, "", ("b", "c"))
        return [one, *several]

    told = submit(ask(first)).result(timeout=60)
    assert [answer.total for answer in told] == list(values.values())
    assert submit(ask(later)).result(timeout=60) == told


def test_a_failure_is_not_stored(stored):
    fails = [True]

    def answer(request: Request) -> str:
        if fails.pop() if fails else False:
            raise RequestFailed("timeout", "too slow")
        return "well"

    engine = stored(answer)
    with pytest.raises(RequestFailed):
        complete(engine, asked("a"))
    assert complete(engine, asked("a")) == ["well"]


ODD = ["\ud83d half a pair", "\0", "\u2028\x85", "\U0001f600", "null", "NaN", "x" * 1_000_000, ""]


def test_texts_come_back_as_they_were_written(stored):
    requests = [asked(str(place)) for place in range(len(ODD))]
    answer = lambda request: ODD[int(request.messages[0]["content"])]  # noqa: E731
    assert complete(stored(answer), *requests) == ODD
    later = stored()
    assert complete(later, *requests) == ODD and later.engine.requests == []


def test_a_request_that_continues_half_a_surrogate_pair_has_a_key(stored):
    engine = stored()
    assert complete(engine, asked("a", prefix="\ud83d")) == complete(engine, asked("a", prefix="\ud83d"))
    assert len(engine.engine.requests) == 1


# -- on disk ---------------------------------------------------------------------------------------------------


def test_values_that_are_ready_together_are_one_transaction(stored):
    engine = stored()
    partial: list[str] = []
    engine.store._writer.set_trace_callback(lambda text: partial.append(text) if text.startswith("BEGIN") else None)
    complete(engine, *(asked(str(n)) for n in range(400)))
    assert 1 <= len(partial) <= 20
    with sqlite3.connect(engine.store.path) as db:
        assert db.execute("SELECT COUNT(*) FROM completions").fetchone() == (400,)


KILLED = """
import asyncio, os, signal, sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from fakes import FakeEngine
from judges.engines.base import Request, submit
from judges.engines.store import StoredEngine

engine = StoredEngine(FakeEngine(lambda r: "to " + r.messages[0]["content"], delay=0.001), Path(sys.argv[1]), {})
returned = []

async def one(n):
    await asyncio.sleep(n / 10_000)
    await engine.complete(Request(({"role": "user", "content": str(n)},)))
    returned.append(n)
    os.write(1, f"{n}\\n".encode())
    if len(returned) == 40:
        os.kill(os.getpid(), signal.SIGKILL)

async def all_of_them():
    await asyncio.gather(*map(one, range(300)))

submit(all_of_them()).result()
"""
TESTS = Path(__file__).parent.parent


def test_what_was_returned_is_there_after_a_kill(tmp_path, stored):
    path = tmp_path / "kept.sqlite"
    run = subprocess.run([sys.executable, "-c", KILLED, path, TESTS], capture_output=True, text=True, timeout=120)
    returned = [int(line) for line in run.stdout.splitlines()]
    assert run.returncode == -9 and len(returned) == 40, run.stderr
    engine = StoredEngine(None, path, {})
    assert complete(engine, *(asked(str(n)) for n in returned)) == [f"to {n}" for n in returned]
    engine.close()


TWO = """
import asyncio, sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from fakes import FakeEngine
from judges.engines.base import Request, submit
from judges.engines.store import StoredEngine

print("ready", flush=True)
sys.stdin.readline()
first = int(sys.argv[3])
engine = StoredEngine(FakeEngine(lambda r: "to " + r.messages[0]["content"], delay=0.001), Path(sys.argv[1]), {})

async def one(n):
    await asyncio.sleep(n % 50 / 500)
    await engine.complete(Request(({"role": "user", "content": str(n)},)))

async def all_of_them():
    await asyncio.gather(*map(one, range(first, first + 200)))

submit(all_of_them()).result()
engine.close()
"""


def test_processes_write_one_store_at_once_from_its_first_moment(tmp_path):
    path = tmp_path / "kept.sqlite"
    runs = [
        subprocess.Popen(
            [sys.executable, "-c", TWO, path, TESTS, str(first)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for first in (0, 100, 200)
    ]
    for run in runs:
        assert run.stdout.readline() == "ready\n"
    for run in runs:
        run.stdin.write("\n")
        run.stdin.flush()
    for run in runs:
        told = run.communicate(timeout=120)[1]
        assert run.returncode == 0, told
    engine = StoredEngine(None, path, {})
    assert complete(engine, *(asked(str(n)) for n in range(400))) == [f"to {n}" for n in range(400)]
    assert sum(one.completions for one in engine.store.summaries()) == 400
    engine.close()


def test_a_new_store_may_be_opened_by_many_at_once(tmp_path):
    for turn in range(5):
        path, failed = tmp_path / f"{turn}.sqlite", []

        def opened(path: Path = path, failed: list[Any] = failed) -> None:
            try:
                Store(path).close()
            except CannotRun as error:
                failed.append(error)

        threads = [threading.Thread(target=opened) for _ in range(12)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert failed == []


# -- broken ----------------------------------------------------------------------------------------------------


def test_a_file_that_is_not_a_store_is_reported(tmp_path):
    for name, data in (("text", b"no database at all, " * 200), ("head", b"SQLite format 3\0" + b"x" * 5000)):
        path = tmp_path / name
        path.write_bytes(data)
        with pytest.raises(CannotRun, match=f"store .*{name}: .*move it away to begin a new one"):
            Store(path)
        assert path.read_bytes() == data
    (tmp_path / "folder").mkdir()
    with pytest.raises(CannotRun, match=r"store .*folder: "):
        Store(tmp_path / "folder")


def test_a_store_with_a_broken_page_is_reported_when_it_is_read(tmp_path, stored):
    path = tmp_path / "kept.sqlite"
    engine = StoredEngine(FakeEngine(lambda request: "x" * 3000), path, {"model": "fake"})
    complete(engine, *(asked(str(n)) for n in range(100)))
    engine.close()
    data = path.read_bytes()
    path.write_bytes(data[:8192] + random.Random(0).randbytes(len(data) - 16384) + data[-8192:])
    with pytest.raises(CannotRun, match=r"store .*kept\.sqlite: .*malformed; move it away"):
        complete(stored(path=path), *(asked(str(n)) for n in range(100)))
    for what in ("show", "export"):
        result = CliRunner().invoke(app, ["cache", what, str(path)])
        assert isinstance(result.exception, CannotRun) and "kept.sqlite: " in str(result.exception)


ODD_ENTRIES = [
    '{"choices": [{"text": [{"type": "text"}], "finish": "stop", "token_ids": []}], "usage": {}}',
    '{"choices": [{"text": null, "finish": "stop", "token_ids": []}], "usage": {}}',
    '{"choices": [{"text": "x", "finish": "error", "token_ids": []}], "usage": {}}',
    '{"choices": [{"text": "x", "finish": "stop", "token_ids": ["a"]}], "usage": {}}',
    '{"choices": [{"text": "x", "finish": "stop", "token_ids": []}], "usage": {"prompt_tokens": "10"}}',
    '{"choices": [{"text": "x", "finish": "stop", "token_ids": []}], "usage": {"tokens": 1}}',
    '{"choices": [{"text": "x", "finish": "stop", "token_ids": []}]}',
    '{"choices": [], "usage": {}}',
    '{"choices": "x", "usage": {}}',
    "[1]",
    "null",
    "3",
    "{",
    "",
]


@pytest.mark.parametrize("odd", ODD_ENTRIES)
def test_an_entry_that_cannot_be_read_is_asked_for_again_and_replaced(tmp_path, stored, odd):
    path = tmp_path / "kept.sqlite"
    first = stored(path=path)
    assert complete(first, asked("a"), asked("b")) == ["answer to a", "answer to b"]
    with sqlite3.connect(path) as db:
        key = first._key(request_digest(asked("a")))
        db.execute("UPDATE completions SET value = ? WHERE key = ?", (odd, key))
    db.close()
    assert len(list(first.store.rows())) == 2, "assay cache export shows it"
    again = stored(path=path)
    assert complete(again, asked("a"), asked("b")) == ["answer to a", "answer to b"]
    assert [request.messages[-1]["content"] for request in again.engine.requests] == ["a"]
    healed = stored(path=path)
    assert complete(healed, asked("a")) == ["answer to a"] and healed.engine.requests == []


def test_a_count_that_a_server_did_not_say_does_not_lose_a_stored_text(tmp_path, stored):
    path = tmp_path / "kept.sqlite"
    first = stored(path=path)
    complete(first, asked("a"))
    with sqlite3.connect(path) as db:
        db.execute("UPDATE completions SET value = REPLACE(value, '\"prompt_tokens\":10', '\"prompt_tokens\":null')")
    db.close()
    again = stored(path=path)
    completion = submit(again.complete(asked("a"))).result(timeout=60)
    assert completion.usage.prompt_tokens == 0 and again.engine.requests == []


# -- equal requests in flight ------------------------------------------------------------------------------------


def together(engine: StoredEngine, *requests: Request) -> list[Any]:
    async def all_of_them() -> list[Any]:
        return await asyncio.gather(*(engine.complete(request) for request in requests), return_exceptions=True)

    return submit(all_of_them()).result(timeout=60)


def test_equal_requests_in_flight_are_sent_once(stored):
    engine = stored()
    engine.engine.delay = 0.05
    results = together(engine, *[asked("a", seed=1)] * 5, asked("a", seed=2), asked("b", seed=1))
    assert [result.choices[0].text for result in results] == ["answer to a"] * 6 + ["answer to b"]
    assert sorted((r.messages[-1]["content"], r.seed) for r in engine.engine.requests) == [("a", 1), ("a", 2), ("b", 1)]
    assert (engine.hits, engine.misses) == (4, 3) and engine._in_flight == {}


def test_a_failure_is_that_of_all_equal_requests_in_flight_and_of_no_later_one(stored):
    answers = iter([RequestFailed("server", "broken", Usage(3))])

    def answer(request: Request) -> str:
        if (error := next(answers, None)) is not None:
            raise error
        return "well"

    engine = stored(answer)
    engine.engine.delay = 0.05
    results = together(engine, *[asked("a")] * 3)
    assert [result.failure.reason for result in results] == ["server"] * 3 and len(engine.engine.requests) == 1
    assert complete(engine, asked("a")) == ["well"]


def test_another_takes_over_where_the_request_that_was_sent_is_cancelled(stored):
    engine = stored()
    engine.engine.delay = 0.2

    async def scenario() -> str:
        first = asyncio.ensure_future(engine.complete(asked("a")))
        await asyncio.sleep(0.02)
        second = asyncio.ensure_future(engine.complete(asked("a")))
        await asyncio.sleep(0.02)
        first.cancel()
        return (await second).choices[0].text

    assert submit(scenario()).result(timeout=60) == "answer to a"
    assert len(engine.engine.requests) == 2 and engine._in_flight == {}
