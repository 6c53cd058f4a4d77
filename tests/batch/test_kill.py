"""A run killed at any moment leaves whole lines, no engine process, and goes on where it stopped."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

SLOW_SCORER = """
import sys, time
from pathlib import Path
from judges.scorers.baselines import Length
from judges.batch.run import score_file

class Slow(Length):
    def stream(self, items):
        for card in super().stream(items):
            time.sleep(0.002)
            yield card

print("ready", flush=True)
score_file(sys.argv[1], Slow(), Path(sys.argv[2]))
"""


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def test_killed_again_and_again_no_row_is_lost_or_written_twice(tmp_path):
    source, out = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_text("".join(json.dumps({"prompt": "p", "response": "x" * i}) + "\n" for i in range(1, 501)))
    draw = random.Random(0)
    killed = 0
    for _ in range(40):
        run = subprocess.Popen([sys.executable, "-c", SLOW_SCORER, source, out], stdout=subprocess.PIPE)
        assert run.stdout.readline() == b"ready\n"
        try:
            run.wait(timeout=draw.uniform(0.01, 0.3))
        except subprocess.TimeoutExpired:
            run.send_signal(signal.SIGKILL)
            run.wait()
            killed += 1
            data = out.read_bytes() if out.exists() else b""
            assert data == b"" or data.endswith(b"\n")
            continue
        if run.returncode == 0:
            break
    assert run.returncode == 0 and killed >= 3
    rows = lines(out)
    assert sorted(r["row"] for r in rows) == list(range(1, 501))
    assert all(r["score"] == r["row"] for r in rows)


@pytest.mark.slow
@pytest.mark.engine
def test_an_engine_run_killed_in_the_middle_goes_on_and_leaves_no_process(tmp_path):
    import psutil

    source, out, whole = tmp_path / "in.jsonl", tmp_path / "out.jsonl", tmp_path / "whole.jsonl"
    source.write_text(
        "".join(json.dumps({"prompt": f"What is {i} + 1?", "response": f"It is {i + 1}."}) + "\n" for i in range(40))
    )
    spec = "self-rewarding,votes=1,max_tokens=24,window=4,temperature=0.7"

    def start(output: Path) -> subprocess.Popen:
        code = "from judges.cli import main\nif __name__ == '__main__': main()"
        script = tmp_path / "assay.py"
        script.write_text(code)
        command = [sys.executable, script, "score", source, "--scorer", spec, "-o", output, "--quiet"]
        return subprocess.Popen(command, stderr=subprocess.DEVNULL, env=os.environ | {"PYTHONUNBUFFERED": "1"})

    run = start(out)
    until = time.monotonic() + 300
    while len(lines_so_far(out)) < 5 and run.poll() is None and time.monotonic() < until:
        time.sleep(0.02)
    children = psutil.Process(run.pid).children(recursive=True)
    run.send_signal(signal.SIGKILL)
    run.wait()
    assert out.read_bytes().endswith(b"\n")
    before = lines(out)
    assert 5 <= len(before) < 40
    time.sleep(5)
    assert [p for p in children if p.is_running() and p.status() != psutil.STATUS_ZOMBIE] == []
    run = start(out)
    assert run.wait(timeout=400) in (0, 1)
    rows = lines(out)
    assert rows[: len(before)] == before, "written rows are not written again"
    assert sorted(r["row"] for r in rows) == list(range(1, 41))
    assert start(whole).wait(timeout=400) in (0, 1)
    key = lambda rows: {r["row"]: (r["score"], r["failure"]) for r in rows}  # noqa: E731
    assert key(rows) == key(lines(whole))


def lines_so_far(path: Path) -> list[bytes]:
    return path.read_bytes().splitlines() if path.exists() else []


@pytest.mark.slow
@pytest.mark.engine
def test_ctrl_c_ends_within_seconds_and_keeps_what_is_finished(tmp_path):
    source, out = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_text("".join(json.dumps({"prompt": f"q {i}", "response": "x"}) + "\n" for i in range(400)))
    script = tmp_path / "assay.py"
    script.write_text("from judges.cli import main\nif __name__ == '__main__': main()")
    spec = "self-rewarding,votes=1,max_tokens=64,window=4"
    run = subprocess.Popen(
        [sys.executable, script, "score", source, "--scorer", spec, "-o", out],
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    until = time.monotonic() + 300
    while len(lines_so_far(out)) < 3 and run.poll() is None and time.monotonic() < until:
        time.sleep(0.05)
    os.killpg(run.pid, signal.SIGINT)
    stderr = run.communicate(timeout=20)[1]
    assert run.returncode == 130 and "interrupted" in stderr, stderr[-2000:]
    assert "Traceback" not in stderr
    assert len(lines(out)) >= 3
