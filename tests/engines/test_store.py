"""What an engine said is paid for once: it is on disk before it is used, and can be read again without the engine."""

from __future__ import annotations

import asyncio
import json
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

from judges import load_scorer
from judges.batch.output import Options
from judges.batch.run import Summary, score_file
from judges.cli.app import app
from judges.engines import registry
from judges.engines.base import Generation, Request, RequestFailed, submit
from judges.engines.store import Store, StoredEngine
from judges.errors import CannotRun
from judges.scorers.calibrated import Calibrated, Calibration, write_calibration
from judges.scorers.panel import Panel


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


def test_the_same_request_is_asked_once_also_by_another_process_of_the_same_identity(stored):
    first, later = stored(), stored(lambda request: "another answer")
    assert complete(first, asked("a")) == complete(first, asked("a")) == complete(later, asked("a")) == ["answer to a"]
    assert len(first.engine.requests) == 1 and later.engine.requests == []
    assert (first.found, first.lacking, later.found) == (1, 1, 1)


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
    replace(BASE, logprobs=1),
    replace(BASE, choice=("x",)),
    replace(BASE, schema="{}"),
    replace(BASE, seed=2),
]


@pytest.mark.parametrize("place", range(len(OTHERS)))
def test_whatever_differs_in_a_request_is_asked_anew(stored, place):
    engine = stored()
    complete(engine, BASE, OTHERS[place])
    assert len(engine.engine.requests) == 2
    complete(engine, BASE, OTHERS[place])
    assert len(engine.engine.requests) == 2


def test_another_model_or_revision_is_asked_anew(stored):
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


def test_a_failure_is_not_kept(stored):
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


def test_a_second_request_that_goes_on_from_half_a_surrogate_pair_has_a_key(stored):
    engine = stored()
    assert complete(engine, asked("a", prefix="\ud83d")) == complete(engine, asked("a", prefix="\ud83d"))
    assert len(engine.engine.requests) == 1


# -- on disk ---------------------------------------------------------------------------------------------------


def test_answers_that_are_ready_together_are_one_transaction(stored):
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
    assert sum(one.completions for one in engine.store.contents()) == 400
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


def test_a_file_that_is_no_store_is_told(tmp_path):
    for name, data in (("text", b"no database at all, " * 200), ("head", b"SQLite format 3\0" + b"x" * 5000)):
        path = tmp_path / name
        path.write_bytes(data)
        with pytest.raises(CannotRun, match=f"store .*{name}: .*move it away to begin a new one"):
            Store(path)
        assert path.read_bytes() == data
    (tmp_path / "folder").mkdir()
    with pytest.raises(CannotRun, match=r"store .*folder: "):
        Store(tmp_path / "folder")


def test_a_store_with_a_broken_page_is_told_when_it_is_read(tmp_path, stored):
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


# -- judging with a store --------------------------------------------------------------------------------------

FRONT = """---
name: mine
kind: pointwise
language: en
scale: {low: 0, high: %s, step: 1}
announcement: "%s"
version: "1"
source: written for this test
---
%s
{{ question }}
{{ response }}
"""


def template(path: Path, announcement: str = "Score:", high: int = 5, body: str = "Grade this.") -> str:
    path.write_text(FRONT % (high, announcement, body))
    return str(path)


def both(request: Request) -> str:
    """Two verdicts under two names: the number of x in the response, and one less."""
    count = request.messages[-1]["content"].split("p\n")[-1].count("x")
    return f"It is so.\nGrade: {count - 1}\nScore: {count}"


class Asked:
    """What stands for every engine that is opened; `fail` lets none be opened."""

    def __init__(self, monkeypatch: Any) -> None:
        self.engine = FakeEngine(both)
        self._patch = monkeypatch
        monkeypatch.setattr(registry, "open_engine", lambda *given, **settings: self.engine)

    def fail(self) -> None:
        def refuse(*given: Any, **settings: Any) -> None:
            raise AssertionError("an engine was opened")

        self._patch.setattr(registry, "open_engine", refuse)


@pytest.fixture
def engines(monkeypatch) -> Asked:
    return Asked(monkeypatch)


def rows(path: Path, *lengths: int, more: str = "") -> Path:
    path.write_text("".join(json.dumps({"prompt": "p", "response": "x" * n}) + "\n" for n in lengths) + more)
    return path


def judge(source: Path, output: Path, scorer: Any, **options: Any) -> Summary:
    with scorer:
        return score_file(str(source), scorer, output, Options(**options))


def mine(file: str, **settings: Any) -> Any:
    return load_scorer("self-rewarding", engine="openai", model="fake", template=file, votes=1, **settings)


def scores(output: Path) -> dict[int, float | None]:
    return {r["row"]: r["score"] for r in map(json.loads, output.read_bytes().splitlines())}


def test_a_judgment_that_was_broken_off_pays_only_for_what_was_in_flight(tmp_path, engines):
    source, output = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_text("".join(json.dumps({"prompt": f"q{n}", "response": "xx"}) + "\n" for n in range(20)))
    count = 0

    def breaking(request: Request) -> str:
        nonlocal count
        count += 1
        if count == 12:
            raise RuntimeError("the machine went down")
        return both(request)

    engines.engine = FakeEngine(breaking)
    file = template(tmp_path / "mine.md")
    with pytest.raises(RuntimeError, match="went down"):
        judge(source, output, mine(file, window=2))
    paid = len(engines.engine.requests)
    engines.engine = FakeEngine(both)
    summary = judge(source, output, mine(file, window=2))
    assert summary.resumed + summary.written == 20 and len(scores(output)) == 20
    assert paid + len(engines.engine.requests) <= 20 + 2


def test_a_store_of_two_runs_serves_both(tmp_path, engines):
    source, file = rows(tmp_path / "in.jsonl", 1, 2, 3), template(tmp_path / "mine.md")
    judge(source, tmp_path / "1.jsonl", mine(file), store=str(tmp_path / "new" / "kept.sqlite"))
    engines.engine = FakeEngine(lambda request: "Score: 0")
    judge(source, tmp_path / "2.jsonl", mine(file), store=str(tmp_path / "new" / "kept.sqlite"))
    assert engines.engine.requests == [] and scores(tmp_path / "2.jsonl") == {1: 1, 2: 2, 3: 3}
    assert not (tmp_path / "1.jsonl.run" / "completions.sqlite").exists()


def test_a_full_disk_under_the_store_stops_the_run_and_with_room_it_goes_on(tmp_path, engines):
    place = tmp_path / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "assay-test", str(place)]
    made = subprocess.run(mount, capture_output=True, text=True)
    if made.returncode:
        pytest.skip(f"no disk of its own can be mounted here: {made.stderr.strip()}")
    try:
        draw = random.Random(0)
        engines.engine = FakeEngine(lambda request: f"{draw.randbytes(10_000).hex()}\nScore: 3")
        source, output = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
        source.write_text("".join(json.dumps({"prompt": f"q{n}", "response": "x"}) + "\n" for n in range(80)))
        file, store = template(tmp_path / "mine.md"), str(place / "kept.sqlite")
        with pytest.raises(
            CannotRun, match=r"store .*kept.sqlite: .*full; what is finished is safe, make room and run"
        ):
            judge(source, output, mine(file, window=4), store=store)
        before = output.read_bytes()
        first = len(before.splitlines())
        assert 5 < first < 80
        subprocess.run(["mount", "-o", "remount,size=64m", str(place)], check=True)
        paid = len(engines.engine.requests)
        summary = judge(source, output, mine(file, window=4), store=store)
        assert (summary.resumed, summary.written, summary.failed) == (first, 80 - first, 0)
        assert output.read_bytes().startswith(before) and len(scores(output)) == 80
        assert paid <= first + 2 * 4 and len(engines.engine.requests) - paid <= 80 - first
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)


# -- read again ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("end", ["jsonl", "csv"])
def test_another_announcement_and_scale_are_read_from_what_was_said(tmp_path, engines, end):
    source, output = rows(tmp_path / "in.jsonl", 2, 5, more="broken\n"), tmp_path / f"out.{end}"
    file = template(tmp_path / "mine.md")
    judge(source, output, mine(file), ordered=True)
    engines.fail()
    template(tmp_path / "mine.md", announcement="Grade:", high=3)
    with pytest.raises(CannotRun, match=r"out\..* was made with other settings"):
        judge(source, output, mine(file), ordered=True)
    summary = judge(source, output, mine(file), ordered=True, reread=True)
    assert (summary.written, summary.failures) == (3, {"off-scale": 1, "malformed": 1})
    made = output.read_text()
    if end == "jsonl":
        told = [json.loads(line) for line in made.splitlines()]
        assert [r["score"] for r in told] == [1.0, None, None]
        assert [r["failure"] and r["failure"]["reason"] for r in told] == [None, "off-scale", "malformed"]
    assert judge(source, output, mine(file), ordered=True).resumed == 3, "the manifest tells of the new template"
    template(tmp_path / "mine.md")
    judge(source, output, mine(file), ordered=True, reread=True)
    assert "off-scale" not in output.read_text()


def test_a_body_that_asks_otherwise_is_refused_and_the_output_stays(tmp_path, engines):
    source, output = (
        rows(tmp_path / "in.jsonl", 1, 2, more="broken\n" + '{"prompt": "p", "response": ""}\n'),
        tmp_path / "out.jsonl",
    )
    file = template(tmp_path / "mine.md")
    judge(source, output, mine(file))
    before = output.read_bytes()
    engines.fail()
    template(tmp_path / "mine.md", body="Grade it well.")
    with pytest.raises(CannotRun, match="--reread: none of the completions is there; a template that asks otherwise"):
        judge(source, output, mine(file), reread=True)
    assert output.read_bytes() == before
    template(tmp_path / "mine.md")
    assert judge(source, output, mine(file)).resumed == 4


def test_another_sampling_is_refused(tmp_path, engines):
    source, output = rows(tmp_path / "in.jsonl", 1), tmp_path / "out.jsonl"
    file = template(tmp_path / "mine.md")
    judge(source, output, mine(file))
    with pytest.raises(CannotRun, match=r"max_tokens: 256 then, 9 now"):
        judge(source, output, mine(file, max_tokens=9), reread=True)


def test_a_rereading_that_dies_leaves_the_output_as_it_was(tmp_path, engines, monkeypatch):
    source, output = rows(tmp_path / "in.jsonl", 1, 2, 3, 4), tmp_path / "out.jsonl"
    file = template(tmp_path / "mine.md")
    judge(source, output, mine(file))
    before = output.read_bytes()
    template(tmp_path / "mine.md", announcement="Grade:")
    dying = mine(file, window=1)
    parse, count = dying.parse, iter(range(9))

    def parsed(*given: Any) -> Any:
        if next(count) == 2:
            raise RuntimeError("killed")
        return parse(*given)

    monkeypatch.setattr(dying, "parse", parsed)
    with pytest.raises(RuntimeError, match="killed"):
        judge(source, output, dying, reread=True)
    assert output.read_bytes() == before
    with pytest.raises(CannotRun, match="max-failures"):
        template(tmp_path / "mine.md", announcement="Grade:", high=1)
        judge(source, output, mine(file), reread=True, max_failures=0)
    assert output.read_bytes() == before
    template(tmp_path / "mine.md", announcement="Grade:")
    judge(source, output, mine(file), reread=True)
    assert scores(output) == {1: 0, 2: 1, 3: 2, 4: 3}
    assert [file.name for file in tmp_path.iterdir() if file.name.startswith(".")] == []


def test_the_rows_of_the_output_are_read_again_and_the_others_stay_to_be_judged(tmp_path, engines):
    source, output = rows(tmp_path / "in.jsonl", 1, 2, 3, 4), tmp_path / "out.jsonl"
    file = template(tmp_path / "mine.md")
    judge(source, output, mine(file), limit=2)
    template(tmp_path / "mine.md", announcement="Grade:")
    summary = judge(source, output, mine(file), reread=True)
    assert (summary.written, summary.failed) == (2, 0) and scores(output) == {1: 0, 2: 1}
    assert judge(source, output, mine(file)).written == 2
    assert scores(output) == {1: 0, 2: 1, 3: 2, 4: 3}
    told = CliRunner().invoke(
        app, ["score", str(source), "--scorer", "length", "-o", str(output), "--reread", "--limit", "1"]
    )
    assert isinstance(told.exception, CannotRun) and "leave --limit and --sample out" in str(told.exception)


def test_a_folder_is_read_again_file_by_file(tmp_path, engines):
    folder = tmp_path / "shards"
    folder.mkdir()
    rows(folder / "a.jsonl", 1, 2)
    rows(folder / "b.jsonl", 3, 4)
    file = template(tmp_path / "mine.md")
    judge(folder, tmp_path / "out", mine(file))
    engines.fail()
    template(tmp_path / "mine.md", announcement="Grade:")
    assert judge(folder, tmp_path / "out", mine(file), reread=True).written == 4
    assert scores(tmp_path / "out" / "a.jsonl") == {1: 0, 2: 1}
    assert scores(tmp_path / "out" / "b.jsonl") == {1: 2, 2: 3}


def test_what_was_pruned_fails_alone_and_is_judged_again_when_asked(tmp_path, engines):
    source, output = rows(tmp_path / "in.jsonl", 1, 2), tmp_path / "out.jsonl"
    file = template(tmp_path / "mine.md")
    judge(source, output, mine(file))
    store = output.with_name("out.jsonl.run") / "completions.sqlite"
    with sqlite3.connect(store) as db:
        db.execute("DELETE FROM completions WHERE value LIKE '%Score: 2%'")
    template(tmp_path / "mine.md", announcement="Grade:")
    assert judge(source, output, mine(file), reread=True).failures == {"engine": 1}
    assert scores(output) == {1: 0, 2: None}
    assert judge(source, output, mine(file), retry_failed=True).written == 1
    assert scores(output) == {1: 0, 2: 1}


def test_without_completions_or_for_a_scorer_that_has_none_it_is_refused(tmp_path, engines):
    source, output = rows(tmp_path / "in.jsonl", 1), tmp_path / "out.jsonl"
    file = template(tmp_path / "mine.md")
    with pytest.raises(CannotRun, match=r"--reread: .*out.jsonl was not made by a run whose manifest lies in"):
        judge(source, output, mine(file), reread=True)
    judge(source, output, mine(file))
    (tmp_path / "out.jsonl.run" / "completions.sqlite").unlink()
    with pytest.raises(CannotRun, match=r"--reread: no completions at .*completions\.sqlite"):
        judge(source, output, mine(file), reread=True)
    judge(source, tmp_path / "length.jsonl", load_scorer("length"))
    (tmp_path / "length.jsonl.run" / "completions.sqlite").touch()
    with pytest.raises(CannotRun, match="scorer 'length' keeps no completions that could be read again"):
        judge(source, tmp_path / "length.jsonl", load_scorer("length"), reread=True)
    assert scores(tmp_path / "length.jsonl") == {1: 1}


def test_a_panel_is_read_again_member_by_member(tmp_path, engines):
    source, output = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_text(json.dumps({"prompt": "p", "responses": ["xx", "xxxx"]}) + "\n")
    file = template(tmp_path / "mine.md")
    plain = template(tmp_path / "plain.md", body="Grade.")

    def panel() -> Panel:
        members = [
            {"scorer": "self-rewarding", "engine": "openai", "model": "fake", "votes": 1, "template": t}
            for t in (file, plain)
        ]
        return Panel(members)

    judge(source, output, panel())
    (before,) = map(json.loads, output.open())
    assert before["scores"] == [0.0, 1.0]
    engines.fail()
    # Up to 3, the longer response's 4 is off the scale: that member cannot decide, and the other is alone.
    template(tmp_path / "mine.md", high=3)
    judge(source, output, panel(), reread=True)
    (made,) = map(json.loads, output.open())
    assert made["scores"] == [0.0, 1.0]
    assert [vote if isinstance(vote, float) else vote["reason"] for vote in made["votes"][1]] == ["off-scale", 1.0]


def test_a_calibrated_scorer_is_read_again_with_the_temperature_that_was_fitted_then(tmp_path, engines):
    source, output = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_text(json.dumps({"prompt": "p", "responses": ["xx", "xxx"]}) + "\n")
    file, fitted = template(tmp_path / "mine.md"), tmp_path / "temperature.json"
    told = {"scorer": "self-rewarding", "engine": "openai", "model": "fake", "votes": 1, "template": file}

    def calibrated(temperature: float, data: str) -> Calibrated:
        identity = mine(file).identity()
        write_calibration(Calibration(temperature, 9, "pairs", data, told, identity, "1"), fitted)
        return Calibrated(fitted)

    judge(source, output, calibrated(1.0, "first"))
    (made,) = map(json.loads, output.open())
    assert made["preference"] == pytest.approx([1 / (1 + math.e), math.e / (1 + math.e)])
    engines.fail()
    template(tmp_path / "mine.md", announcement="Grade:")
    judge(source, output, calibrated(2.0, "second"), reread=True)
    (made,) = map(json.loads, output.open())
    assert made["scores"] == [1.0, 2.0]
    root = math.exp(0.5)
    assert made["preference"] == pytest.approx([1 / (1 + root), root / (1 + root)])


# -- assay cache -----------------------------------------------------------------------------------------------


def cache(*given: Any) -> Any:
    return CliRunner().invoke(app, ["cache", *map(str, given)])


@pytest.fixture
def output(tmp_path, engines) -> Path:
    source, made = rows(tmp_path / "in.jsonl", 1, 2, 3), tmp_path / "out.jsonl"
    judge(source, made, mine(template(tmp_path / "mine.md")))
    return made


def kept(output: Path) -> int:
    with sqlite3.connect(output.with_name(output.name + ".run") / "completions.sqlite") as db:
        return int(db.execute("SELECT COUNT(*) FROM completions").fetchone()[0])


def test_cache_show_tells_how_many_completions_of_which_model(output):
    for path in (output, output.with_name("out.jsonl.run"), output.with_name("out.jsonl.run") / "completions.sqlite"):
        told = cache("show", path)
        assert told.exit_code == 0 and "completions.sqlite: 3 completions, " in told.stdout
        assert "  fake  3, 0.0 MiB of text, " in told.stdout and "engine openai" in told.stdout
    assert "no store of completions there" in str(cache("show", output.with_name("in.jsonl")).exception)


def test_cache_export_gives_every_completion_as_a_line(output, tmp_path):
    told = cache("export", output, "-o", tmp_path / "all.jsonl")
    assert told.exit_code == 0 and told.stderr == "3 completions\n"
    made = [json.loads(line) for line in (tmp_path / "all.jsonl").open()]
    assert sorted(r["choices"][0]["text"].splitlines()[-1] for r in made) == ["Score: 1", "Score: 2", "Score: 3"]
    assert {r["engine"]["model"] for r in made} == {"fake"} and len({r["key"] for r in made}) == 3
    printed = cache("export", output)
    assert [json.loads(line) for line in printed.stdout.splitlines()] == made
    assert "cannot be written" in str(cache("export", output, "-o", tmp_path / "no" / "all.jsonl").exception)
    store = output.with_name("out.jsonl.run") / "completions.sqlite"
    assert "is the store itself" in str(cache("export", output, "-o", store).exception) and kept(output) == 3


def test_cache_prune_takes_out_what_was_asked_and_nothing_without_a_word(output):
    told = cache("prune", output)
    assert "prune what? Give --older-than 30d, --model NAME, both, or --all" in str(told.exception)
    assert "a number and s, m, h, d or w, as in 30d" in str(
        cache("prune", output, "--older-than", "yesterday").exception
    )
    assert cache("prune", output, "--model", "other").exit_code == 0 and kept(output) == 3
    with sqlite3.connect(output.with_name("out.jsonl.run") / "completions.sqlite") as db:
        db.execute("UPDATE completions SET created = created - 90000 WHERE value LIKE '%Score: 2%'")
    assert "0 completions taken out" in cache("prune", output, "--older-than", "2d").stdout
    assert "1 completions taken out" in cache("prune", output, "--older-than", "1d").stdout and kept(output) == 2
    assert "0 completions taken out" in cache("prune", output, "--older-than", "1h", "--model", "fake").stdout
    assert "2 completions taken out" in cache("prune", output, "--model", "fake").stdout and kept(output) == 0
    assert "0 completions taken out" in cache("prune", output, "--all").stdout


def test_what_was_pruned_is_asked_for_again(output, tmp_path, engines):
    cache("prune", output, "--all")
    judge(
        tmp_path / "in.jsonl",
        tmp_path / "again.jsonl",
        mine(str(tmp_path / "mine.md")),
        store=str(output.with_name("out.jsonl.run") / "completions.sqlite"),
    )
    assert kept(output) == 3 and scores(tmp_path / "again.jsonl") == {1: 1, 2: 2, 3: 3}
