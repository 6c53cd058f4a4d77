"""The journal survives torn lines, kills and full disks."""

from __future__ import annotations

import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from batch_runs import RecordingScorer, UnusedScorer, interrupted_score, rows, score, scores, write_source, written

from judges.errors import CannotRun

TAILS = {
    "a torn line": b'{"prompt": "p8", "respo',
    "a torn line that is JSON": b"{}",
    "zeros": bytes(4096),
    "zeros and a line end": bytes(100) + b"\n",
    "half a letter": '{"prompt": "ü'.encode()[:-1],
}


@pytest.fixture
def source(tmp_path) -> Path:
    return write_source(tmp_path)


@pytest.mark.parametrize("tail", TAILS)
@pytest.mark.parametrize("end", ["jsonl", "parquet"])
def test_what_a_power_failure_leaves_at_the_end_is_cut_off(source, tmp_path, end, tail):
    output = tmp_path / f"out.{end}"
    interrupted_score(source, output, 7)
    journal = output if end == "jsonl" else tmp_path / "out.parquet.run" / "rows.jsonl"
    whole = journal.read_bytes()
    journal.write_bytes(whole + TAILS[tail])
    last = RecordingScorer()
    score(source, output, last)
    assert len(last.scored) == 13 and journal.read_bytes().startswith(whole)
    assert scores(output) == {n: n for n in range(1, 21)}


def test_a_line_that_is_not_an_output_row_is_named(source, tmp_path):
    output = tmp_path / "out.jsonl"
    interrupted_score(source, output, 2)
    output.write_text(output.read_text() + '{"other": 1}\n')
    with pytest.raises(CannotRun, match=r"out.jsonl, line 3: not a row of a scored file; give another -o"):
        score(source, output)
    assert output.read_text().endswith('{"other": 1}\n')


KILLED = """
import sys, time
from pathlib import Path
from judges.scorers.baselines import Length
from judges.data import parquet, writers
from judges.batch.output import ScoreOptions
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
    array, count = parquet._to_array, iter(range(1000))
    parquet._to_array = lambda *given: wait() if next(count) == 30 else array(*given)
    cell, cells = writers._cell, iter(range(1000))
    writers._cell = lambda value: wait() if next(cells) == 30 else cell(value)

class Slow(Length):
    def stream(self, items):
        for card in super().stream(items):
            time.sleep(0.01)
            yield card

score_file(source, Slow() if where == "scoring" else Length(), output, ScoreOptions(format=sys.argv[4]))
"""


def start(source: Path, output: Path, where: str, form: str = "") -> subprocess.Popen:
    return subprocess.Popen([sys.executable, "-c", KILLED, source, output, where, form], stdout=subprocess.PIPE)


def kill(run: subprocess.Popen) -> None:
    run.send_signal(signal.SIGKILL)
    run.wait()


@pytest.mark.parametrize("where", ["in the middle", "before the rename"])
@pytest.mark.parametrize("end", ["parquet", "csv"])
def test_a_run_killed_while_it_writes_the_output_resumes_without_scoring_again(source, tmp_path, where, end):
    output = tmp_path / f"out.{end}"
    run = start(source, output, where)
    assert run.stdout is not None and run.stdout.readline() == b"there\n"
    kill(run)
    assert not output.exists()
    summary = score(source, output, UnusedScorer())
    assert (summary.resumed, summary.written) == (20, 0)
    assert scores(output) == {n: n for n in range(1, 21)}
    assert sorted(file.name for file in tmp_path.iterdir()) == ["in.jsonl", f"out.{end}", f"out.{end}.run"]


def test_no_row_of_a_folder_is_scored_twice_in_repeatedly_killed_runs(tmp_path):
    folder, output = tmp_path / "shards", tmp_path / "out"
    folder.mkdir()
    for name in "ab":
        (folder / f"{name}.jsonl").write_text(rows(90))
    run_folder = tmp_path / "out.run"

    def lines() -> list[bytes]:
        return [line for file in sorted(run_folder.glob("*.jsonl.jsonl")) for line in file.read_bytes().splitlines()]

    for least in (20, 60, 120):  # the third time in the second file
        run = start(folder, output, "scoring", ".parquet")
        until = time.monotonic() + 60
        while (len(lines()) if run_folder.exists() else 0) < least and time.monotonic() < until:
            time.sleep(0.005)
        kill(run)
        assert least <= len(lines()) < 180, "killed in the middle"
    before = len([line for line in lines() if line.endswith(b"}")])
    summary = score(folder, output, format=".parquet")
    assert summary.resumed >= before - 1 and summary.resumed + summary.written == 180
    for name in "ab":
        assert scores(output / f"{name}.parquet") == {n: n for n in range(1, 91)}


@pytest.fixture
def disk(tmp_path) -> Iterator[Any]:
    """A disk of 1 MiB, and a way to make it larger."""
    mount_point = tmp_path / "disk"
    mount_point.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "assay-test", mount_point], capture_output=True, text=True
    )
    if mounted.returncode:
        pytest.skip(f"no disk can be mounted: {mounted.stderr.strip()}")

    def grow() -> Path:
        subprocess.run(["mount", "-o", "remount,size=64m", mount_point], check=True)
        return mount_point

    yield mount_point, grow
    subprocess.run(["umount", "-l", mount_point], check=True)


def full(mount_point: Path) -> bool:
    status = os.statvfs(mount_point)
    return status.f_bavail * status.f_frsize < 64 << 10


def random_rows(count: int, width: int) -> str:
    draw = random.Random(0)
    texts = [draw.randbytes(width // 2).hex() for _ in range(count)]
    return "".join(json.dumps({"prompt": "p", "response": text}) + "\n" for text in texts)


def test_a_disk_full_of_rows_stops_the_run_and_with_room_it_resumes(tmp_path, disk):
    mount_point, grow = disk
    source, output = tmp_path / "in.jsonl", mount_point / "out.jsonl"
    source.write_text(random_rows(60, 30_000))
    with pytest.raises(CannotRun, match=r"out.jsonl: (the disk is full|No space left on device); written rows are"):
        score(source, output)
    assert full(mount_point) and output.read_bytes().endswith(b"}\n")
    before = written(output)
    assert 20 < len(before) < 60
    with pytest.raises(CannotRun, match="written rows are safe"):
        score(source, output)
    grow()
    summary = score(source, output)
    assert summary.resumed >= len(before) and summary.resumed + summary.written == 60
    assert written(output)[: len(before)] == before
    assert scores(output) == dict.fromkeys(range(1, 61), 30_000)


@pytest.mark.parametrize("end", ["jsonl.zst", "jsonl.gz", "csv", "parquet"])
def test_a_disk_full_of_output_stops_the_run_and_with_room_it_is_written(tmp_path, disk, end):
    mount_point, grow = disk
    source, output = tmp_path / "in.jsonl", mount_point / f"out.{end}"
    source.write_text(random_rows(60, 12_000))  # 720 kB of rows, and no room for half as much again
    with pytest.raises(CannotRun, match=rf"out.{re.escape(end)}: No space left on device; written rows are safe"):
        score(source, output)
    assert [file.name for file in mount_point.iterdir()] == [f"out.{end}.run"], "the partial file is removed"
    grow()
    summary = score(source, output, UnusedScorer())
    assert (summary.resumed, summary.written) == (60, 0)
    if end in ("csv", "parquet"):
        assert scores(output) == dict.fromkeys(range(1, 61), 12_000)
