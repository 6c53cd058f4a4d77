"""`assay score` with a store of completions: resuming, --reread, and `assay cache`."""

from __future__ import annotations

import json
import math
import random
import sqlite3
import subprocess
from pathlib import Path
from typing import Any

import pytest
from fakes import FakeEngine
from typer.testing import CliRunner

from judges import load_scorer
from judges.batch.output import ScoreOptions
from judges.batch.run import ScoreSummary, score_file
from judges.cli.app import app
from judges.engines import registry
from judges.engines.base import Request
from judges.errors import CannotRun
from judges.scorers.calibrated import Calibrated, Calibration, write_calibration
from judges.scorers.panel import Panel

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


def judge(source: Path, output: Path, scorer: Any, **options: Any) -> ScoreSummary:
    with scorer:
        return score_file(str(source), scorer, output, ScoreOptions(**options))


def mine(file: str, **settings: Any) -> Any:
    return load_scorer("self-rewarding", engine="openai", model="fake", template=file, votes=1, **settings)


def scores(output: Path) -> dict[int, float | None]:
    return {r["row"]: r["score"] for r in map(json.loads, output.read_bytes().splitlines())}


def test_an_interrupted_judgment_repeats_only_what_was_in_flight(tmp_path, engines):
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
def test_another_announcement_and_scale_are_read_from_the_stored_completions(tmp_path, engines, end):
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


def test_reread_with_another_body_is_refused_and_the_output_stays(tmp_path, engines):
    source, output = (
        rows(tmp_path / "in.jsonl", 1, 2, more="broken\n" + '{"prompt": "p", "response": ""}\n'),
        tmp_path / "out.jsonl",
    )
    file = template(tmp_path / "mine.md")
    judge(source, output, mine(file))
    before = output.read_bytes()
    engines.fail()
    template(tmp_path / "mine.md", body="Grade it well.")
    with pytest.raises(CannotRun, match="--reread: no stored completion matches; a template with other prompts"):
        judge(source, output, mine(file), reread=True)
    assert output.read_bytes() == before
    template(tmp_path / "mine.md")
    assert judge(source, output, mine(file)).resumed == 4


def test_reread_with_other_sampling_is_refused(tmp_path, engines):
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


def test_pruned_completions_fail_their_rows_and_are_judged_again_on_request(tmp_path, engines):
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
    with pytest.raises(CannotRun, match=r"--reread: .*out.jsonl has no manifest in"):
        judge(source, output, mine(file), reread=True)
    judge(source, output, mine(file))
    (tmp_path / "out.jsonl.run" / "completions.sqlite").unlink()
    with pytest.raises(CannotRun, match=r"--reread: there is no file of completions .*completions\.sqlite"):
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


def test_cache_show_counts_the_completions_of_each_model(output):
    for path in (output, output.with_name("out.jsonl.run"), output.with_name("out.jsonl.run") / "completions.sqlite"):
        told = cache("show", path)
        assert told.exit_code == 0 and "completions.sqlite: 3 completions, " in told.stdout
        assert "  fake  3, 0.0 MiB of text, " in told.stdout and "engine openai" in told.stdout
    assert "no store of completions is there" in str(cache("show", output.with_name("in.jsonl")).exception)


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


def test_cache_prune_deletes_what_is_selected_and_nothing_without_a_selection(output):
    told = cache("prune", output)
    assert "nothing to prune is given: use --older-than 30d, --model NAME, both, or --all" in str(told.exception)
    assert "not a number followed by s, m, h, d or w, as in 30d" in str(
        cache("prune", output, "--older-than", "yesterday").exception
    )
    assert cache("prune", output, "--model", "other").exit_code == 0 and kept(output) == 3
    with sqlite3.connect(output.with_name("out.jsonl.run") / "completions.sqlite") as db:
        db.execute("UPDATE completions SET created = created - 90000 WHERE value LIKE '%Score: 2%'")
    assert "0 completions deleted" in cache("prune", output, "--older-than", "2d").stdout
    assert "1 completions deleted" in cache("prune", output, "--older-than", "1d").stdout and kept(output) == 2
    assert "0 completions deleted" in cache("prune", output, "--older-than", "1h", "--model", "fake").stdout
    assert "2 completions deleted" in cache("prune", output, "--model", "fake").stdout and kept(output) == 0
    assert "0 completions deleted" in cache("prune", output, "--all").stdout


def test_pruned_completions_are_generated_again(output, tmp_path, engines):
    cache("prune", output, "--all")
    judge(
        tmp_path / "in.jsonl",
        tmp_path / "again.jsonl",
        mine(str(tmp_path / "mine.md")),
        store=str(output.with_name("out.jsonl.run") / "completions.sqlite"),
    )
    assert kept(output) == 3 and scores(tmp_path / "again.jsonl") == {1: 1, 2: 2, 3: 3}
