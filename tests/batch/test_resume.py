"""A run that was broken off goes on: nothing is judged twice, nothing is lost, whatever it died of."""

from __future__ import annotations

import csv
import io
import json
import os
import random
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from fakes import FakeEngine, use
from typer.testing import CliRunner

from judges import Failure, Item, Judgment, Scorecard, load_scorer
from judges.batch import manifest
from judges.batch.output import Options
from judges.batch.run import Summary, score_file
from judges.cli.app import app
from judges.errors import CannotRun
from judges.scorers.baselines import Length


class Noting(Length):
    """`length`, which notes whom it judges; breaks off after `most` cards; fails the ids in `failing`."""

    def __init__(self, most: int | None = None, failing: Iterable[str] = ()) -> None:
        self.most, self.failing = most, set(failing)
        self.judged: list[str] = []

    def stream(self, items: Iterable[Item]) -> Iterator[Scorecard]:
        for card in super().stream(items):
            if self.most is not None and len(self.judged) == self.most:
                raise RuntimeError("stopped")
            self.judged.append(card.id)
            failed = Judgment(failure=Failure("timeout", "no answer"))
            yield Scorecard(card.id, (failed,)) if card.id in self.failing else card


class Unwilling(Length):
    """Loads a model that it should not need."""

    def stream(self, items: Iterable[Item]) -> Iterator[Scorecard]:
        raise AssertionError("there was nothing left to judge")


def rows(count: int, width: int = 1) -> str:
    """Rows 1 to count, whose responses are `width` times as long as their number."""
    return "".join(json.dumps({"prompt": f"p{n}", "response": "x" * (n * width)}) + "\n" for n in range(1, count + 1))


def written(file: Path) -> list[dict[str, Any]]:
    if file.suffix == ".parquet":
        return pq.read_table(file).to_pylist()
    if file.suffix == ".csv":
        return list(csv.DictReader(io.StringIO(file.read_text(), newline="")))
    return [json.loads(line) for line in file.read_bytes().splitlines()]


def scores(file: Path) -> dict[int, float]:
    """By row; no row may be there twice."""
    made = [(int(r["row"]), float(r["score"])) for r in written(file)]
    assert len(dict(made)) == len(made)
    return dict(sorted(made))


def score(source: Path, output: Path, scorer: Any = None, **options: Any) -> Summary:
    return score_file(str(source), scorer or Length(), output, Options(**options))


def stopped(source: Path, output: Path, after: int, **options: Any) -> None:
    with pytest.raises(RuntimeError, match="stopped"):
        score(source, output, Noting(after), **options)


@pytest.fixture
def source(tmp_path) -> Path:
    (tmp_path / "in.jsonl").write_text(rows(20))
    return tmp_path / "in.jsonl"


@pytest.fixture
def shards(tmp_path) -> Path:
    folder = tmp_path / "shards"
    folder.mkdir()
    for name in "abc":
        (folder / f"{name}.jsonl").write_text(rows(8))
    return folder


# -- rows ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("end", ["jsonl", "csv", "parquet"])
def test_only_what_is_left_is_judged(source, tmp_path, end):
    output = tmp_path / f"out.{end}"
    stopped(source, output, 7)
    stopped(source, output, 4)
    assert output.exists() == (end == "jsonl")
    last = Noting()
    summary = score(source, output, last)
    assert last.judged == [f"row-{n}" for n in range(12, 21)]
    assert (summary.resumed, summary.written) == (11, 9)
    assert scores(output) == {n: n for n in range(1, 21)}


def test_a_folder_goes_on_in_the_file_where_it_stopped(shards, tmp_path):
    stopped(shards, tmp_path / "out", 11, format=".parquet")
    last = Noting()
    summary = score(shards, tmp_path / "out", last, format=".parquet")
    assert last.judged == [*(f"b/row-{n}" for n in range(4, 9)), *(f"c/row-{n}" for n in range(1, 9))]
    assert (summary.resumed, summary.written) == (11, 13)
    for name in "abc":
        assert scores(tmp_path / "out" / f"{name}.parquet") == {n: n for n in range(1, 9)}


TAILS = {
    "a torn line": b'{"prompt": "p8", "respo',
    "a torn line that is JSON": b"{}",
    "zeros": bytes(4096),
    "zeros and a line end": bytes(100) + b"\n",
    "half a letter": '{"prompt": "ü'.encode()[:-1],
}


@pytest.mark.parametrize("tail", TAILS)
@pytest.mark.parametrize("end", ["jsonl", "parquet"])
def test_what_a_power_cut_leaves_at_the_end_is_cut_off(source, tmp_path, end, tail):
    output = tmp_path / f"out.{end}"
    stopped(source, output, 7)
    journal = output if end == "jsonl" else tmp_path / "out.parquet.run" / "rows.jsonl"
    whole = journal.read_bytes()
    journal.write_bytes(whole + TAILS[tail])
    last = Noting()
    score(source, output, last)
    assert len(last.judged) == 13 and journal.read_bytes().startswith(whole)
    assert scores(output) == {n: n for n in range(1, 21)}


def test_an_output_that_is_no_longer_ours_is_told_with_its_line(source, tmp_path):
    output = tmp_path / "out.jsonl"
    stopped(source, output, 2)
    output.write_text(output.read_text() + '{"mine": 1}\n')
    with pytest.raises(CannotRun, match=r"out.jsonl, line 3: not a row of a scored file; give another -o"):
        score(source, output)
    assert output.read_text().endswith('{"mine": 1}\n')


def state(folder: Path) -> dict[str, tuple[int, int]]:
    """Every file with its node and the time of its last change; the lock aside, which is opened."""
    files = [file for file in folder.rglob("*") if file.is_file() and file.name != "lock"]
    return {str(file): (file.stat().st_ino, file.stat().st_mtime_ns) for file in files}


@pytest.mark.parametrize("end", ["jsonl", "csv", "parquet"])
def test_a_finished_file_is_left_alone_and_no_model_is_loaded(source, tmp_path, end):
    output = tmp_path / f"out.{end}"
    score(source, output, ordered=True)
    before = state(tmp_path)
    summary = score(source, output, Unwilling(), ordered=True)
    assert (summary.resumed, summary.written, summary.failed) == (20, 0, 0)
    assert state(tmp_path) == before


def test_a_finished_folder_is_left_alone_and_no_model_is_loaded(shards, tmp_path):
    score(shards, tmp_path / "out", format=".csv")
    before = state(tmp_path)
    assert score(shards, tmp_path / "out", Unwilling(), format=".csv").resumed == 24
    assert state(tmp_path) == before


def test_an_output_that_was_taken_away_is_made_again_from_what_was_judged(source, tmp_path):
    output = tmp_path / "out.parquet"
    score(source, output)
    output.unlink()
    score(source, output, Unwilling())
    assert scores(output) == {n: n for n in range(1, 21)}


# -- failures --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("end", ["jsonl", "csv", "parquet"])
def test_retry_failed_judges_the_failed_rows_and_leaves_the_others_byte_for_byte(source, tmp_path, end):
    output = tmp_path / f"out.{end}"
    bad = [f"row-{n}" for n in (3, 9, 20)]
    assert score(source, output, Noting(failing=bad)).failures == {"timeout": 3}
    journal = output if end == "jsonl" else tmp_path / f"out.{end}.run" / "rows.jsonl"
    kept = [line for line in journal.read_bytes().splitlines() if b'"timeout"' not in line]
    assert score(source, output, Unwilling()).failures == {"timeout": 3}
    again = Noting(failing=["row-9"])
    summary = score(source, output, again, retry_failed=True)
    assert again.judged == bad
    assert (summary.resumed, summary.written, summary.failures) == (17, 3, {"timeout": 1})
    assert journal.read_bytes().splitlines()[:17] == kept
    score(source, output, Noting(), retry_failed=True)
    assert scores(output) == {n: n for n in range(1, 21)}
    before = state(tmp_path)
    score(source, output, Unwilling(), retry_failed=True)
    assert state(tmp_path) == before


def test_a_retry_that_breaks_off_leaves_its_rows_to_the_next(source, tmp_path):
    output = tmp_path / "out.jsonl"
    score(source, output, Noting(failing=[f"row-{n}" for n in (3, 9, 20)]))
    with pytest.raises(RuntimeError, match="stopped"):
        score(source, output, Noting(1), retry_failed=True)
    last = Noting()
    score(source, output, last)
    assert last.judged == ["row-9", "row-20"]
    assert scores(output) == {n: n for n in range(1, 21)}


def command(*given: Any) -> Any:
    return CliRunner().invoke(app, ["score", *map(str, given)])


def test_the_exit_code_counts_failures_of_earlier_sittings_too(tmp_path):
    source, output = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_text(rows(2) + "broken\n")
    first = command(source, "--scorer", "length", "-o", output)
    assert first.exit_code == 1
    assert f"{output}: 3 rows written, 0 there before, failed: 1 malformed" in first.stderr
    assert "the same command with --retry-failed judges those again" in first.stderr
    again = command(source, "--scorer", "length", "-o", output)
    assert again.exit_code == 1 and "0 rows written, 3 there before, failed: 1 malformed" in again.stderr
    assert command(source, "--scorer", "length", "-o", output, "--quiet").stderr == ""
    (tmp_path / "good.jsonl").write_text(rows(2))
    good = command(tmp_path / "good.jsonl", "--scorer", "length", "-o", tmp_path / "good.csv")
    assert good.exit_code == 0 and "2 rows written, 0 there before, failed: none" in good.stderr


def test_more_failures_than_allowed_stop_the_run_and_it_can_go_on(tmp_path):
    source, output = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_text(rows(4) + "broken\n" * 6 + rows(2))
    with pytest.raises(CannotRun, match=r"stopped: more than --max-failures 2 rows failed \(3 malformed\); what is"):
        score(source, output, max_failures=2)
    assert [r["row"] for r in written(output)] == [1, 2, 3, 4, 5, 6, 7]
    # Those of earlier sittings do not count: three more are allowed now.
    summary = score(source, output, max_failures=3)
    assert (summary.resumed, summary.written, summary.failed) == (7, 5, 6)


def test_failures_of_the_scorer_stop_it_too_and_none_are_allowed_at_0(source, tmp_path):
    output = tmp_path / "out.jsonl"
    with pytest.raises(CannotRun, match=r"more than --max-failures 0 rows failed \(1 timeout\)"):
        score(source, output, Noting(failing=["row-5"]), max_failures=0)
    assert len(written(output)) == 5
    assert score(source, tmp_path / "all.jsonl", max_failures=0).written == 20


# -- a part of the rows ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("end", ["jsonl", "parquet"])
def test_a_larger_limit_goes_on_from_a_smaller_one(source, tmp_path, end):
    output = tmp_path / f"out.{end}"
    assert score(source, output, limit=5).written == 5
    assert scores(output) == {n: n for n in range(1, 6)}
    more = Noting()
    score(source, output, more, limit=8)
    assert more.judged == ["row-6", "row-7", "row-8"] and len(written(output)) == 8
    assert score(source, output, Unwilling(), limit=8).resumed == 8
    assert score(source, output).written == 12
    assert scores(output) == {n: n for n in range(1, 21)}


def test_a_limit_counts_over_a_folders_files_also_after_a_break(shards, tmp_path):
    stopped(shards, tmp_path / "out", 10, limit=13)
    assert score(shards, tmp_path / "out", limit=13).written == 3
    assert len(written(tmp_path / "out" / "a.jsonl")) == 8 and len(written(tmp_path / "out" / "b.jsonl")) == 5
    assert not (tmp_path / "out" / "c.jsonl").exists()
    assert score(shards, tmp_path / "out", Unwilling(), limit=13).resumed == 13


def test_a_sample_is_of_the_input_and_the_same_every_time(source, shards, tmp_path):
    first, again, other = (tmp_path / f"{n}.jsonl" for n in (1, 2, 3))
    stopped(source, first, 3, sample=6)
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


def test_a_sample_of_a_stream_cannot_be_had(tmp_path):
    with pytest.raises(CannotRun, match="--sample reads its input twice"):
        score_file("-", Length(), tmp_path / "out.jsonl", Options(sample=3))


# -- what else was meant ---------------------------------------------------------------------------------------


def test_another_scorer_input_or_mapping_is_refused_and_what_changed_is_told(source, tmp_path):
    output = tmp_path / "out.jsonl"
    score(source, output, load_scorer("random", seed=1))
    before = output.read_bytes()
    with pytest.raises(CannotRun, match=r"made with other settings \(seed: 1 then, 2 now\); give another -o"):
        score(source, output, load_scorer("random", seed=2))
    with pytest.raises(CannotRun, match=r"scorer: 'random' then, 'length' now, seed: 1 then, None now"):
        score(source, output)
    with pytest.raises(CannotRun, match=r"mapping: {} then, {'response': 'prompt'} now"):
        score(source, output, load_scorer("random", seed=1), mapping={"response": "prompt"})
    source.write_text(rows(21))
    with pytest.raises(CannotRun, match=r"made with other settings \(input_sha256: '[0-9a-f]{64}' then"):
        score(source, output, load_scorer("random", seed=1))
    assert output.read_bytes() == before


def test_the_same_input_under_another_name_goes_on(source, tmp_path):
    stopped(source, tmp_path / "out.jsonl", 3)
    moved = source.rename(tmp_path / "moved.jsonl")
    assert score(moved, tmp_path / "out.jsonl").resumed == 3


def test_a_file_that_came_to_a_folder_is_refused(shards, tmp_path):
    score(shards, tmp_path / "out")
    (shards / "d.jsonl").write_text(rows(1))
    with pytest.raises(CannotRun, match=r"out was made with other settings \(input_files: "):
        score(shards, tmp_path / "out")


def test_a_manifest_that_is_none_is_told(source, tmp_path):
    score(source, tmp_path / "out.jsonl")
    (tmp_path / "out.jsonl.run" / "manifest.json").write_text("{")
    with pytest.raises(CannotRun, match=r"manifest\.json: not a manifest; give another -o"):
        score(source, tmp_path / "out.jsonl")


def test_a_second_run_of_the_same_output_is_refused_while_the_first_is_at_it(source, tmp_path):
    output = tmp_path / "out.jsonl"
    with (
        manifest.alone(tmp_path / "out.jsonl.run", str(output)),
        pytest.raises(CannotRun, match=r"out\.jsonl is being written by another run"),
    ):
        score(source, output)
    assert score(source, output).written == 20


def judge(answer: Any, **settings: Any) -> Any:
    made = load_scorer("self-rewarding", engine="openai", model="fake", votes=1, **settings)
    return use(made, FakeEngine(answer, delay=0.02))


def test_rows_of_two_files_may_share_an_id(tmp_path):
    folder = tmp_path / "shards"
    folder.mkdir()
    for name in "abc":
        made = [{"id": f"same-{n}", "prompt": "p", "response": f"{name}{n}"} for n in range(5)]
        if name == "b":  # while the first file's row of that id is being judged, a bad one of the same id comes
            made = [{"id": "same-4", "prompt": "p"}, *made[:4]]
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in made))
    with judge(lambda request: "Score: 4") as scorer:
        summary = score(folder, tmp_path / "out", scorer)
    assert summary.written == 15 and summary.failures == {"empty": 1}
    for name in "abc":
        made = written(tmp_path / "out" / f"{name}.jsonl")
        assert sorted(r["id"] for r in made) == [f"same-{n}" for n in range(5)]
        told = {r["id"]: (r.get("response"), r["score"]) for r in made}
        want = {f"same-{n}": (f"{name}{n}", 4.0) for n in range(5)}
        assert told == (want | {"same-4": (None, None)} if name == "b" else want)


def test_two_files_whose_names_begin_alike_get_ids_of_their_own(tmp_path):
    folder = tmp_path / "shards"
    folder.mkdir()
    for name in ("a.1.jsonl", "a.2.jsonl"):
        (folder / name).write_text(rows(2))
    score(folder, tmp_path / "out")
    ids = [r["id"] for file in sorted((tmp_path / "out").iterdir()) for r in written(file)]
    assert len(set(ids)) == 4


# -- pipes -----------------------------------------------------------------------------------------------------

ASSAY = f"{sys.executable} -m judges.cli"


def shell(line: str, **more: Any) -> subprocess.CompletedProcess:
    return subprocess.run(["bash", "-c", line], capture_output=True, text=True, timeout=120, **more)


def test_a_pipe_in_and_a_pipe_out(source, tmp_path):
    told = shell(f"cat {source} | {ASSAY} score - --scorer length -o - | cat")
    assert [json.loads(line)["score"] for line in told.stdout.splitlines()] == list(range(1, 21))
    assert told.stderr.splitlines() == ["standard output: 20 rows written, 0 there before, failed: none"]


def test_who_reads_only_the_first_row_ends_the_run_without_a_word(tmp_path):
    (tmp_path / "in.jsonl").write_text(rows(1) * 30_000)
    told = shell(f"{ASSAY} score {tmp_path}/in.jsonl --scorer length -o - | head -1; echo ${{PIPESTATUS[0]}} >&2")
    assert json.loads(told.stdout)["row"] == 1
    assert told.stderr == "141\n"


def test_ordered_rows_are_printed_at_the_end_also_of_an_input_that_breaks_off(tmp_path, capfdbinary):
    (tmp_path / "in.csv").write_bytes(b'prompt,response\np,x\np,xx\np,"xxx\n')

    class Backwards(Length):
        def stream(self, items: Iterable[Item]) -> Iterator[Scorecard]:
            yield from reversed(list(super().stream(items)))

    with pytest.raises(CannotRun, match=r"in\.csv, after row 2: "):
        score(tmp_path / "in.csv", Path("-"), Backwards(), ordered=True)
    assert [json.loads(line)["row"] for line in capfdbinary.readouterr().out.splitlines()] == [1, 2]


def test_a_limit_does_not_wait_for_a_row_behind_it(tmp_path, monkeypatch):
    read, write = os.pipe()
    monkeypatch.setattr(sys, "stdin", open(read))
    os.write(write, rows(3).encode())  # and the pipe stays open
    run = threading.Thread(
        target=score_file, args=("-", Length(), tmp_path / "out.jsonl", Options(limit=3)), daemon=True
    )
    run.start()
    run.join(timeout=20)
    waits = run.is_alive()
    os.close(write)
    assert not waits and scores(tmp_path / "out.jsonl") == {1: 1, 2: 2, 3: 3}


def test_a_stream_is_not_taken_for_another_one(source, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "stdin", open(source))
    score_file("-", Length(), tmp_path / "out.jsonl")
    with pytest.raises(CannotRun, match=r"out\.jsonl has rows, and a stream cannot be told from another one"):
        score_file("-", Length(), tmp_path / "out.jsonl")
    assert len(written(tmp_path / "out.jsonl")) == 20


def test_what_needs_a_file_is_not_done_on_a_pipe(source):
    for options in ({"retry_failed": True}, {"reread": True}):
        with pytest.raises(CannotRun, match="need an output that is a file"):
            score(source, Path("-"), **options)


# -- killed ----------------------------------------------------------------------------------------------------

KILLED = """
import sys, time
from pathlib import Path
from judges.scorers.baselines import Length
from judges.data import parquet, writers
from judges.batch.output import Options
from judges.batch.run import score_file

source, output, where = sys.argv[1], Path(sys.argv[2]), sys.argv[3]

def wait(*_):
    print("there", flush=True)
    time.sleep(600)

if where == "before the rename":
    replace = Path.replace
    Path.replace = lambda self, target: wait() if Path(target) == output else replace(self, target)
elif where == "in the middle":
    parquet.GROUP_ROWS = 5
    array, count = parquet._array, iter(range(1000))
    parquet._array = lambda *given: wait() if next(count) == 30 else array(*given)
    cell, cells = writers._cell, iter(range(1000))
    writers._cell = lambda value: wait() if next(cells) == 30 else cell(value)

class Slow(Length):
    def stream(self, items):
        for card in super().stream(items):
            time.sleep(0.01)
            yield card

score_file(source, Slow() if where == "judging" else Length(), output, Options(format=sys.argv[4]))
"""


def start(source: Path, output: Path, where: str, form: str = "") -> subprocess.Popen:
    return subprocess.Popen([sys.executable, "-c", KILLED, source, output, where, form], stdout=subprocess.PIPE)


def kill(run: subprocess.Popen) -> None:
    run.send_signal(signal.SIGKILL)
    run.wait()


@pytest.mark.parametrize("where", ["in the middle", "before the rename"])
@pytest.mark.parametrize("end", ["parquet", "csv"])
def test_killed_while_the_output_is_made_it_is_made_again_and_nothing_is_judged_again(source, tmp_path, where, end):
    output = tmp_path / f"out.{end}"
    run = start(source, output, where)
    assert run.stdout is not None and run.stdout.readline() == b"there\n"
    kill(run)
    assert not output.exists()
    summary = score(source, output, Unwilling())
    assert (summary.resumed, summary.written) == (20, 0)
    assert scores(output) == {n: n for n in range(1, 21)}
    assert sorted(file.name for file in tmp_path.iterdir()) == ["in.jsonl", f"out.{end}", f"out.{end}.run"]


def test_a_folder_killed_again_and_again_is_judged_once(tmp_path):
    folder, output = tmp_path / "shards", tmp_path / "out"
    folder.mkdir()
    for name in "ab":
        (folder / f"{name}.jsonl").write_text(rows(90))
    beside = tmp_path / "out.run"

    def lines() -> list[bytes]:
        return [line for file in sorted(beside.glob("*.jsonl.jsonl")) for line in file.read_bytes().splitlines()]

    for least in (20, 60, 120):  # the third time in the second file
        run = start(folder, output, "judging", ".parquet")
        until = time.monotonic() + 60
        while (len(lines()) if beside.exists() else 0) < least and time.monotonic() < until:
            time.sleep(0.005)
        kill(run)
        assert least <= len(lines()) < 180, "killed in the midst"
    before = len([line for line in lines() if line.endswith(b"}")])
    summary = score(folder, output, format=".parquet")
    assert summary.resumed >= before - 1 and summary.resumed + summary.written == 180
    for name in "ab":
        assert scores(output / f"{name}.parquet") == {n: n for n in range(1, 91)}


# -- a full disk -----------------------------------------------------------------------------------------------


@pytest.fixture
def disk(tmp_path) -> Iterator[Any]:
    """A disk of 1 MiB, and a way to make it larger."""
    place = tmp_path / "disk"
    place.mkdir()
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "assay-test", place], capture_output=True, text=True
    )
    if made.returncode:
        pytest.skip(f"no disk of its own can be mounted here: {made.stderr.strip()}")

    def grow() -> Path:
        subprocess.run(["mount", "-o", "remount,size=64m", place], check=True)
        return place

    yield place, grow
    subprocess.run(["umount", "-l", place], check=True)


def full(place: Path) -> bool:
    told = os.statvfs(place)
    return told.f_bavail * told.f_frsize < 64 << 10


def random_rows(count: int, width: int) -> str:
    draw = random.Random(0)
    texts = [draw.randbytes(width // 2).hex() for _ in range(count)]
    return "".join(json.dumps({"prompt": "p", "response": text}) + "\n" for text in texts)


def test_a_full_disk_under_the_rows_stops_the_run_and_with_room_it_goes_on(tmp_path, disk):
    place, grow = disk
    source, output = tmp_path / "in.jsonl", place / "out.jsonl"
    source.write_text(random_rows(60, 30_000))
    with pytest.raises(CannotRun, match=r"out.jsonl: (no room for a row|No space left on device); what is written is"):
        score(source, output)
    assert full(place) and output.read_bytes().endswith(b"}\n")
    before = written(output)
    assert 20 < len(before) < 60
    with pytest.raises(CannotRun, match="what is written is safe"):
        score(source, output)
    grow()
    summary = score(source, output)
    assert summary.resumed >= len(before) and summary.resumed + summary.written == 60
    assert written(output)[: len(before)] == before
    assert scores(output) == dict.fromkeys(range(1, 61), 30_000)


@pytest.mark.parametrize("end", ["jsonl.zst", "jsonl.gz", "csv", "parquet"])
def test_a_full_disk_under_the_output_stops_the_run_and_with_room_it_is_made(tmp_path, disk, end):
    place, grow = disk
    source, output = tmp_path / "in.jsonl", place / f"out.{end}"
    source.write_text(random_rows(60, 12_000))  # 720 kB of rows, and no room for half as much again
    with pytest.raises(CannotRun, match=rf"out.{re.escape(end)}: No space left on device; what is written is safe"):
        score(source, output)
    assert [file.name for file in place.iterdir()] == [f"out.{end}.run"], "what it took is given back"
    grow()
    summary = score(source, output, Unwilling())
    assert (summary.resumed, summary.written) == (60, 0)
    if end in ("csv", "parquet"):
        assert scores(output) == dict.fromkeys(range(1, 61), 12_000)
