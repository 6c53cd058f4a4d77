"""Killed engine runs, full disks and restarted servers: no row is lost and no stored completion is computed twice."""

from __future__ import annotations

import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import psutil
import pytest

from judges.engines.watchdog import MARK_VARIABLE

pytestmark = [pytest.mark.slow, pytest.mark.engine]

ROWS = 300
WINDOW = 16
SPEC = f"self-rewarding,votes=1,temperature=0.7,max_tokens=24,window={WINDOW}"
# Every completion of the engine is recorded before it is stored.
SCRIPT = """
import os, sys
from judges.engines.store import Store

put = Store.put
async def put_logged(self, key, engine, value):
    log = os.open("computed.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.write(log, key.hex().encode() + b"\\n")
    os.close(log)
    await put(self, key, engine, value)
Store.put = put_logged

if __name__ == "__main__":
    from judges.cli import main
    main()
"""


def partial(folder: Path, *arguments: object, **more) -> subprocess.Popen:
    (folder / "assay.py").write_text(SCRIPT)
    command = [sys.executable, "assay.py", *map(str, arguments)]
    return subprocess.Popen(command, cwd=folder, stderr=subprocess.PIPE, text=True, **more)


def source(folder: Path, count: int = ROWS) -> Path:
    path = folder / "in.jsonl"
    lines = [{"prompt": f"What is {i} plus {i % 7}?", "response": f"It is {i + i % 7 + i % 2}."} for i in range(count)]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def computed(folder: Path) -> list[str]:
    log = folder / "computed.log"
    return log.read_text().split() if log.exists() else []


def stored(folder: Path) -> set[str]:
    path = folder / "out.jsonl.run" / "completions.sqlite"
    if not path.exists():
        return set()
    with sqlite3.connect(path) as db:
        tables = [name for (name,) in db.execute("SELECT name FROM sqlite_master")]
        return {key for (key,) in db.execute("SELECT LOWER(HEX(key)) FROM completions")} if tables else set()


def verdicts(path: Path) -> dict[int, tuple]:
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert sorted(row["row"] for row in rows) == list(range(1, len(rows) + 1)), "none missing, none twice"
    return {row["row"]: (row["id"], row["score"], row["failure"], row["critique"], row["votes"]) for row in rows}


def children(run: subprocess.Popen) -> list[psutil.Process]:
    """Every process below a run, its watchdog among them."""
    try:
        return psutil.Process(run.pid).children(recursive=True)
    except psutil.Error:
        return []


def left_of(run: subprocess.Popen, known: list[psutil.Process]) -> list[int]:
    """What lives on of a dead run, also what it was about to start; the watchdog has a few seconds."""
    until = time.monotonic() + 20
    while time.monotonic() < until:
        found = [p.pid for p in known if p.is_running() and p.status() != psutil.STATUS_ZOMBIE]
        for process in psutil.process_iter():
            try:
                if process.environ().get(MARK_VARIABLE, "").startswith(f"{run.pid}-"):
                    found.append(process.pid)
            except psutil.Error:
                continue
        if not found:
            return []
        time.sleep(0.2)
    return found


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory) -> dict[int, tuple]:
    folder = tmp_path_factory.mktemp("whole")
    run = partial(folder, "score", source(folder), "--scorer", SPEC, "-o", "out.jsonl")
    stderr = run.communicate(timeout=1200)[1]
    assert run.returncode in (0, 1), stderr
    return verdicts(folder / "out.jsonl")


def test_killed_fifteen_times_while_scoring_and_five_while_starting(tmp_path, uninterrupted):
    draw = random.Random(int(os.environ.get("ASSAY_FAULT_SEED", "0")))
    command = ("score", source(tmp_path), "--scorer", SPEC, "-o", "out.jsonl", "--quiet")
    plan = ["judging"] * 15 + ["starting"] * 5
    draw.shuffle(plan)
    lost: set[str] = set()
    for when in plan:
        had = len(computed(tmp_path))
        run = partial(tmp_path, *command)
        if when == "starting":
            time.sleep(draw.uniform(0.5, 12))
        else:
            target, until = had + draw.randint(1, 40), time.monotonic() + 600
            while len(computed(tmp_path)) < target and run.poll() is None and time.monotonic() < until:
                time.sleep(0.01)
        if run.poll() is not None:  # it ended by itself: all rows are scored
            assert run.returncode in (0, 1), run.stderr.read()
            break
        known = children(run)
        run.send_signal(signal.SIGKILL)
        run.communicate()
        assert left_of(run, known) == [], "no engine process is left behind"
        now = set(computed(tmp_path)) - stored(tmp_path)
        assert len(now - lost) <= 2 * WINDOW, "only completions in flight are lost (two requests per response)"
        lost |= now
    last = partial(tmp_path, *command)
    stderr = last.communicate(timeout=1200)[1]
    assert last.returncode in (0, 1), stderr
    assert verdicts(tmp_path / "out.jsonl") == uninterrupted
    twice = {key for key, count in Counter(computed(tmp_path)).items() if count > 1}
    assert twice <= lost, "stored completions are not computed again"
    print(f"{len(computed(tmp_path))} completions computed, {len(set(computed(tmp_path)))} needed, {len(twice)} twice")
    assert left_of(last, []) == []


def test_a_store_on_a_full_disk_stops_the_run_which_resumes_with_room(tmp_path, uninterrupted):
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=600k", "tmpfs", disk], capture_output=True).returncode:
        pytest.skip("mounting a small disk needs root")
    try:
        command = ("score", source(tmp_path), "--scorer", SPEC, "-o", "out.jsonl", "--store", disk / "store.sqlite")
        full = partial(tmp_path, *command)
        stderr = full.communicate(timeout=1200)[1]
        assert full.returncode == 2 and "full" in stderr and "Traceback" not in stderr, stderr
        some = (tmp_path / "out.jsonl").read_text().splitlines()
        assert 0 < len(some) < ROWS and all(json.loads(line)["id"] for line in some)
        subprocess.run(["mount", "-o", "remount,size=64m", disk], check=True)
        had = len(computed(tmp_path))
        again = partial(tmp_path, *command)
        stderr = again.communicate(timeout=1200)[1]
        assert again.returncode in (0, 1), stderr
        assert verdicts(tmp_path / "out.jsonl") == uninterrupted
        twice = sum(count - 1 for count in Counter(computed(tmp_path)).values())
        assert twice <= 2 * WINDOW and had > 0
    finally:
        subprocess.run(["umount", "-l", disk])


def test_a_restarted_server_loses_nothing(tmp_path):
    """Decoding is greedy because a server chooses its own seeds. Without the server the run ends, and resumes later."""
    from judges.engines.embedded import resolve_model

    model = resolve_model("embedded:smollm2-135m")
    port = 8431

    def serve() -> subprocess.Popen:
        settings = "--dtype float32 --enforce-eager --block-size 32 --no-enable-chunked-prefill"
        settings += " --max-num-batched-tokens 32768 --gpu-memory-utilization 0.3"
        command = ["-m", "vllm.entrypoints.openai.api_server", "--model", model, "--host", "127.0.0.1"]
        environment = os.environ | {"VLLM_CPU_KVCACHE_SPACE": "2", "VLLM_CPU_OMP_THREADS_BIND": "0-1"}
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        return subprocess.Popen(
            [sys.executable, *command, "--port", str(port), *settings.split()],
            env=environment,
            start_new_session=True,
            **quiet,
        )

    spec = f"self-rewarding,votes=1,max_tokens=24,window={WINDOW},engine.patience=3"
    where = ("--model", model, "--base-url", f"http://127.0.0.1:{port}/v1")
    command = ("score", source(tmp_path), "--scorer", spec, *where, "-o", "out.jsonl")
    server = serve()
    try:
        wait_for(port, server)
        run = partial(tmp_path, *command)
        until = time.monotonic() + 300
        while len(computed(tmp_path)) < 60 and run.poll() is None and time.monotonic() < until:
            time.sleep(0.02)
        os.killpg(server.pid, signal.SIGKILL)
        stderr = run.communicate(timeout=120)[1]
        assert run.returncode == 2 and "run the same command again" in stderr and "Traceback" not in stderr, stderr
        had = len((tmp_path / "out.jsonl").read_text().splitlines())
        assert 0 < had < ROWS
        server = serve()
        wait_for(port, server)
        again = partial(tmp_path, *command)
        stderr = again.communicate(timeout=600)[1]
        assert again.returncode in (0, 1), stderr
        found = verdicts(tmp_path / "out.jsonl")
        assert len(found) == ROWS
        assert not [f for _, _, f, *_ in found.values() if f and f["reason"] in ("server", "timeout", "engine")]
        assert sum(count - 1 for count in Counter(computed(tmp_path)).values()) <= 2 * WINDOW
    finally:
        os.killpg(server.pid, signal.SIGKILL)


def wait_for(port: int, server: subprocess.Popen) -> None:
    import urllib.request

    until = time.monotonic() + 400
    while time.monotonic() < until and server.poll() is None:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/v1/models", timeout=2):
                return
        except OSError:
            time.sleep(1)
    raise AssertionError("the server did not start")
