"""Runs resume without scoring a row twice, count failures, and respect limits, samples and pipes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
from batch_runs import (
    RecordingScorer,
    UnusedScorer,
    interrupted_score,
    rows,
    score,
    scores,
    state,
    write_shards,
    write_source,
    written,
)
from fakes import FakeEngine, use
from typer.testing import CliRunner

from judges import Item, Scorecard, load_scorer
from judges.batch.output import ScoreOptions
from judges.batch.run import score_file
from judges.cli.app import app
from judges.errors import CannotRun
from judges.scorers.baselines import Length


@pytest.fixture
def source(tmp_path) -> Path:
    return write_source(tmp_path)


@pytest.fixture
def shards(tmp_path) -> Path:
    return write_shards(tmp_path)


@pytest.mark.parametrize("end", ["jsonl", "csv", "parquet"])
def test_only_the_remaining_rows_are_scored(source, tmp_path, end):
    output = tmp_path / f"out.{end}"
    interrupted_score(source, output, 7)
    interrupted_score(source, output, 4)
    assert output.exists() == (end == "jsonl")
    last = RecordingScorer()
    summary = score(source, output, last)
    assert last.scored == [f"row-{n}" for n in range(12, 21)]
    assert (summary.resumed, summary.written) == (11, 9)
    assert scores(output) == {n: n for n in range(1, 21)}


def test_a_folder_goes_on_in_the_file_where_it_stopped(shards, tmp_path):
    interrupted_score(shards, tmp_path / "out", 11, format=".parquet")
    last = RecordingScorer()
    summary = score(shards, tmp_path / "out", last, format=".parquet")
    assert last.scored == [*(f"b/row-{n}" for n in range(4, 9)), *(f"c/row-{n}" for n in range(1, 9))]
    assert (summary.resumed, summary.written) == (11, 13)
    for name in "abc":
        assert scores(tmp_path / "out" / f"{name}.parquet") == {n: n for n in range(1, 9)}


@pytest.mark.parametrize("end", ["jsonl", "csv", "parquet"])
def test_a_finished_file_is_not_touched_and_no_model_is_loaded(source, tmp_path, end):
    output = tmp_path / f"out.{end}"
    score(source, output, ordered=True)
    before = state(tmp_path)
    summary = score(source, output, UnusedScorer(), ordered=True)
    assert (summary.resumed, summary.written, summary.failed) == (20, 0, 0)
    assert state(tmp_path) == before


def test_a_finished_folder_is_not_touched_and_no_model_is_loaded(shards, tmp_path):
    score(shards, tmp_path / "out", format=".csv")
    before = state(tmp_path)
    assert score(shards, tmp_path / "out", UnusedScorer(), format=".csv").resumed == 24
    assert state(tmp_path) == before


def test_a_deleted_output_is_written_again_from_the_journal(source, tmp_path):
    output = tmp_path / "out.parquet"
    score(source, output)
    output.unlink()
    score(source, output, UnusedScorer())
    assert scores(output) == {n: n for n in range(1, 21)}


@pytest.mark.parametrize("end", ["jsonl", "csv", "parquet"])
def test_retry_failed_scores_the_failed_rows_and_keeps_the_bytes_of_the_others(source, tmp_path, end):
    output = tmp_path / f"out.{end}"
    bad = [f"row-{n}" for n in (3, 9, 20)]
    assert score(source, output, RecordingScorer(failing=bad)).failures == {"timeout": 3}
    journal = output if end == "jsonl" else tmp_path / f"out.{end}.run" / "rows.jsonl"
    unchanged = [line for line in journal.read_bytes().splitlines() if b'"timeout"' not in line]
    assert score(source, output, UnusedScorer()).failures == {"timeout": 3}
    again = RecordingScorer(failing=["row-9"])
    summary = score(source, output, again, retry_failed=True)
    assert again.scored == bad
    assert (summary.resumed, summary.written, summary.failures) == (17, 3, {"timeout": 1})
    assert journal.read_bytes().splitlines()[:17] == unchanged
    score(source, output, RecordingScorer(), retry_failed=True)
    assert scores(output) == {n: n for n in range(1, 21)}
    before = state(tmp_path)
    score(source, output, UnusedScorer(), retry_failed=True)
    assert state(tmp_path) == before


def test_the_rows_of_an_interrupted_retry_are_scored_by_the_next_run(source, tmp_path):
    output = tmp_path / "out.jsonl"
    score(source, output, RecordingScorer(failing=[f"row-{n}" for n in (3, 9, 20)]))
    with pytest.raises(RuntimeError, match="stopped"):
        score(source, output, RecordingScorer(1), retry_failed=True)
    last = RecordingScorer()
    score(source, output, last)
    assert last.scored == ["row-9", "row-20"]
    assert scores(output) == {n: n for n in range(1, 21)}


def command(*given: Any) -> Any:
    return CliRunner().invoke(app, ["score", *map(str, given)])


def test_the_exit_code_counts_failures_of_earlier_runs(tmp_path):
    source, output = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_text(rows(2) + "broken\n")
    first = command(source, "--scorer", "length", "-o", output)
    assert first.exit_code == 1
    assert f"{output}: 3 rows written, 0 already there, failed: 1 malformed" in first.stderr
    assert "the same command with --retry-failed judges the failed rows again" in first.stderr
    again = command(source, "--scorer", "length", "-o", output)
    assert again.exit_code == 1 and "0 rows written, 3 already there, failed: 1 malformed" in again.stderr
    assert command(source, "--scorer", "length", "-o", output, "--quiet").stderr == ""
    (tmp_path / "good.jsonl").write_text(rows(2))
    good = command(tmp_path / "good.jsonl", "--scorer", "length", "-o", tmp_path / "good.csv")
    assert good.exit_code == 0 and "2 rows written, 0 already there, failed: none" in good.stderr


def test_more_failures_than_allowed_stop_the_run_and_it_can_be_resumed(tmp_path):
    source, output = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_text(rows(4) + "broken\n" * 6 + rows(2))
    with pytest.raises(CannotRun, match=r"stopped: more than --max-failures 2 rows failed \(3 malformed\)"):
        score(source, output, max_failures=2)
    assert [r["row"] for r in written(output)] == [1, 2, 3, 4, 5, 6, 7]
    # Those of earlier runs do not count: three more are allowed now.
    summary = score(source, output, max_failures=3)
    assert (summary.resumed, summary.written, summary.failed) == (7, 5, 6)


def test_max_failures_0_stops_at_the_first_failure_of_the_scorer(source, tmp_path):
    output = tmp_path / "out.jsonl"
    with pytest.raises(CannotRun, match=r"more than --max-failures 0 rows failed \(1 timeout\)"):
        score(source, output, RecordingScorer(failing=["row-5"]), max_failures=0)
    assert len(written(output)) == 5
    assert score(source, tmp_path / "all.jsonl", max_failures=0).written == 20


@pytest.mark.parametrize("end", ["jsonl", "parquet"])
def test_a_larger_limit_resumes_from_a_smaller_one(source, tmp_path, end):
    output = tmp_path / f"out.{end}"
    assert score(source, output, limit=5).written == 5
    assert scores(output) == {n: n for n in range(1, 6)}
    more = RecordingScorer()
    score(source, output, more, limit=8)
    assert more.scored == ["row-6", "row-7", "row-8"] and len(written(output)) == 8
    assert score(source, output, UnusedScorer(), limit=8).resumed == 8
    assert score(source, output).written == 12
    assert scores(output) == {n: n for n in range(1, 21)}


def test_a_limit_spans_the_files_of_a_folder_also_after_an_interruption(shards, tmp_path):
    interrupted_score(shards, tmp_path / "out", 10, limit=13)
    assert score(shards, tmp_path / "out", limit=13).written == 3
    assert len(written(tmp_path / "out" / "a.jsonl")) == 8 and len(written(tmp_path / "out" / "b.jsonl")) == 5
    assert not (tmp_path / "out" / "c.jsonl").exists()
    assert score(shards, tmp_path / "out", UnusedScorer(), limit=13).resumed == 13


def test_a_sample_is_random_and_the_same_every_time(source, shards, tmp_path):
    first, again, other = (tmp_path / f"{n}.jsonl" for n in (1, 2, 3))
    interrupted_score(source, first, 3, sample=6)
    score(source, first, sample=6)
    score(source, again, sample=6)
    assert len(scores(first)) == 6 and scores(first) == scores(again)
    assert all(1 <= n <= 20 and value == n for n, value in scores(first).items())
    assert set(scores(first)) != set(range(1, 7))
    score(source, other, sample=100)
    assert len(scores(other)) == 20
    score(shards, tmp_path / "out", sample=9)
    files = [file for file in (tmp_path / "out").iterdir() if file.stat().st_size]
    assert sum(len(scores(file)) for file in files) == 9


def test_a_sample_of_a_stream_is_refused(tmp_path):
    with pytest.raises(CannotRun, match="--sample reads its input twice"):
        score_file("-", Length(), tmp_path / "out.jsonl", ScoreOptions(sample=3))


def judge(answer: Any, **settings: Any) -> Any:
    scorer = load_scorer("self-rewarding", engine="openai", model="fake", votes=1, **settings)
    return use(scorer, FakeEngine(answer, delay=0.02))


def test_rows_of_two_files_may_share_an_id(tmp_path):
    folder = tmp_path / "shards"
    folder.mkdir()
    for name in "abc":
        input_rows = [{"id": f"same-{n}", "prompt": "p", "response": f"{name}{n}"} for n in range(5)]
        if name == "b":  # an unreadable row with the id of a row in flight
            input_rows = [{"id": "same-4", "prompt": "p"}, *input_rows[:4]]
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in input_rows))
    with judge(lambda request: "Score: 4") as scorer:
        summary = score(folder, tmp_path / "out", scorer)
    assert summary.written == 15 and summary.failures == {"empty": 1}
    for name in "abc":
        output_rows = written(tmp_path / "out" / f"{name}.jsonl")
        assert sorted(r["id"] for r in output_rows) == [f"same-{n}" for n in range(5)]
        scored = {r["id"]: (r.get("response"), r["score"]) for r in output_rows}
        expected = {f"same-{n}": (f"{name}{n}", 4.0) for n in range(5)}
        assert scored == (expected | {"same-4": (None, None)} if name == "b" else expected)


def test_the_ids_of_two_files_with_similar_names_differ(tmp_path):
    folder = tmp_path / "shards"
    folder.mkdir()
    for name in ("a.1.jsonl", "a.2.jsonl"):
        (folder / name).write_text(rows(2))
    score(folder, tmp_path / "out")
    ids = [r["id"] for file in sorted((tmp_path / "out").iterdir()) for r in written(file)]
    assert len(set(ids)) == 4


ASSAY = f"{sys.executable} -m judges.cli"


def shell(line: str, **more: Any) -> subprocess.CompletedProcess:
    return subprocess.run(["bash", "-c", line], capture_output=True, text=True, timeout=120, **more)


def test_rows_can_be_piped_in_and_out(source, tmp_path):
    result = shell(f"cat {source} | {ASSAY} score - --scorer length -o - | cat")
    assert [json.loads(line)["score"] for line in result.stdout.splitlines()] == list(range(1, 21))
    assert result.stderr.splitlines() == ["standard output: 20 rows written, 0 already there, failed: none"]


def test_a_closed_output_pipe_ends_the_run_without_a_message(tmp_path):
    (tmp_path / "in.jsonl").write_text(rows(1) * 30_000)
    result = shell(f"{ASSAY} score {tmp_path}/in.jsonl --scorer length -o - | head -1; echo ${{PIPESTATUS[0]}} >&2")
    assert json.loads(result.stdout)["row"] == 1
    assert result.stderr == "141\n"


def test_ordered_rows_are_printed_at_the_end_also_of_an_unreadable_input(tmp_path, capfdbinary):
    (tmp_path / "in.csv").write_bytes(b'prompt,response\np,x\np,xx\np,"xxx\n')

    class Backwards(Length):
        def stream(self, items: Iterable[Item]) -> Iterator[Scorecard]:
            yield from reversed(list(super().stream(items)))

    with pytest.raises(CannotRun, match=r"in\.csv, after row 2: "):
        score(tmp_path / "in.csv", Path("-"), Backwards(), ordered=True)
    assert [json.loads(line)["row"] for line in capfdbinary.readouterr().out.splitlines()] == [1, 2]


def test_a_limit_does_not_wait_for_further_rows(tmp_path, monkeypatch):
    read, write = os.pipe()
    monkeypatch.setattr(sys, "stdin", open(read))
    os.write(write, rows(3).encode())  # and the pipe stays open
    run = threading.Thread(
        target=score_file, args=("-", Length(), tmp_path / "out.jsonl", ScoreOptions(limit=3)), daemon=True
    )
    run.start()
    run.join(timeout=20)
    waits = run.is_alive()
    os.close(write)
    assert not waits and scores(tmp_path / "out.jsonl") == {1: 1, 2: 2, 3: 3}


def test_a_second_stream_is_refused(source, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "stdin", open(source))
    score_file("-", Length(), tmp_path / "out.jsonl")
    with pytest.raises(CannotRun, match=r"out\.jsonl has rows, and a stream cannot be compared"):
        score_file("-", Length(), tmp_path / "out.jsonl")
    assert len(written(tmp_path / "out.jsonl")) == 20


def test_retry_failed_and_reread_need_an_output_file(source):
    for options in ({"retry_failed": True}, {"reread": True}):
        with pytest.raises(CannotRun, match="need an output that is a file"):
            score(source, Path("-"), **options)
