"""Ray workers give the same output as a single machine, also when a worker or the driver dies."""

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

pytest.importorskip("ray")

SCRIPT = "from judges.cli import main\nif __name__ == '__main__': main()\n"
WORDS = ["rain", "falls", "on", "the", "hill", "and", "river", "carries", "it", "down", "to", "sea", "where", "began"]


def rows(path: Path, count: int) -> Path:
    draw = random.Random(3)
    text = lambda n: " ".join(draw.choice(WORDS) for _ in range(n))  # noqa: E731
    contents = [{"prompt": f"What is {text(4)}?", "response": text(draw.randint(3, 30))} for _ in range(count)]
    path.write_text("".join(json.dumps(row) + "\n" for row in contents))
    return path


def assay(folder: Path, *arguments: object) -> subprocess.Popen[str]:
    script = folder / "assay.py"
    script.write_text(SCRIPT)
    command = [sys.executable, str(script), *map(str, arguments)]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True, cwd=folder)


def read_rows(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture(scope="module")
def small_reward_model(tmp_path_factory) -> Path:
    """A one-label classifier on the embedded encoder: its random head gives distinct rewards."""
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    from judges.engines.embedded import resolve_model

    torch.manual_seed(0)
    base, folder = resolve_model("embedded:minilm"), tmp_path_factory.mktemp("model")
    AutoModelForSequenceClassification.from_pretrained(base, num_labels=1).save_pretrained(folder)
    AutoTokenizer.from_pretrained(base).save_pretrained(folder)
    return folder


def workers(name: str) -> list[int]:
    import psutil

    found = []
    for process in psutil.process_iter():
        try:
            if name in " ".join(process.cmdline()) or name in process.name():
                found.append(process.pid)
        except psutil.Error:
            continue
    return found


@pytest.mark.slow
def test_three_workers_with_one_killed_equal_a_single_machine(tmp_path, small_reward_model):
    source = rows(tmp_path / "in.jsonl", 900)
    scorer = ("--scorer", f"bradley-terry,model={small_reward_model}", "--ordered")
    cluster = ("--ray", "local", "--workers", "3", "--cpus", "0.5", "--shard-rows", "30")
    run = assay(tmp_path, "score", source, *scorer, *cluster, "-o", "many.jsonl")
    run_folder = tmp_path / "many.jsonl.run"
    until = time.monotonic() + 300
    while len(list(run_folder.glob("*.done"))) < 6 and run.poll() is None and time.monotonic() < until:
        time.sleep(0.05)
    victims = workers("ray::MapWorker")
    assert len(victims) == 3 and len(list(run_folder.glob("*.done"))) < 25, "in the middle of the run"
    os.kill(victims[1], signal.SIGKILL)
    stderr = run.communicate(timeout=400)[1]
    assert run.returncode == 0, stderr
    alone = assay(tmp_path, "score", source, *scorer, "-o", "one.jsonl")
    assert alone.wait(timeout=400) == 0
    many, single = read_rows(tmp_path / "many.jsonl"), read_rows(tmp_path / "one.jsonl")
    assert [row["row"] for row in many] == list(range(1, 901))
    for left, right in zip(many, single, strict=True):
        assert left["score"] == pytest.approx(right["score"], abs=1e-5)
        assert {k: v for k, v in left.items() if k not in ("score", "votes", "usage")} == {
            k: v for k, v in right.items() if k not in ("score", "votes", "usage")
        }
    assert len({row["score"] for row in single}) > 800, "the rewards differ"
    assert workers("ray::MapWorker") == []


@pytest.mark.slow
def test_a_folder_is_scored_to_a_folder_and_a_killed_driver_resumes(tmp_path):
    (tmp_path / "in").mkdir()
    for number in range(6):
        rows(tmp_path / "in" / f"part-{number}.jsonl", 40)
    (tmp_path / "in" / "part-3.jsonl").write_bytes(b'{"prompt": "p", "response": "good"}\nbroken\n')
    command = ("score", "in", "--scorer", "length", "--ray", "local", "--workers", "2", "-o", "out")
    run = assay(tmp_path, *command)
    until = time.monotonic() + 200
    while not list(tmp_path.glob("out.run/*.done")) and run.poll() is None and time.monotonic() < until:
        time.sleep(0.01)
    run.kill()
    run.communicate()
    again = assay(tmp_path, *command)
    stderr = again.communicate(timeout=300)[1]
    assert again.returncode == 1 and "1 malformed" in stderr, stderr
    alone = assay(tmp_path, "score", "in", "--scorer", "length", "-o", "alone")
    assert alone.wait(timeout=100) == 1
    for number in range(6):
        name = f"part-{number}.jsonl"
        assert read_rows(tmp_path / "out" / name) == read_rows(tmp_path / "alone" / name)
    assert read_rows(tmp_path / "out" / "part-3.jsonl")[0]["id"] == "part-3/row-1"


@pytest.mark.slow
@pytest.mark.engine
def test_two_workers_with_an_engine_each_equal_a_single_one(tmp_path):
    source = rows(tmp_path / "in.jsonl", 60)
    scorer = ("--scorer", "self-rewarding,votes=1,max_tokens=24", "--ordered")
    cluster = ("--ray", "local", "--workers", "2", "--cpus", "1", "--shard-rows", "15")
    run = assay(tmp_path, "score", source, *scorer, *cluster, "-o", "many.jsonl")
    stderr = run.communicate(timeout=1500)[1]
    assert run.returncode in (0, 1), stderr
    alone = assay(tmp_path, "score", source, *scorer, "-o", "one.jsonl")
    alone.communicate(timeout=900)
    key = lambda path: [(r["row"], r["score"], r["failure"], r["critique"]) for r in read_rows(path)]  # noqa: E731
    assert key(tmp_path / "many.jsonl") == key(tmp_path / "one.jsonl")
    assert workers("VLLM::") == []


def test_options_that_do_not_work_on_a_cluster_are_refused_before_it_starts(tmp_path):
    source = rows(tmp_path / "in.jsonl", 3)
    for arguments, message in (
        (("--limit", "2"), "--limit, --sample and --reread do not work with --ray"),
        (("-o", "-"), "not to standard output"),
    ):
        run = assay(tmp_path, "score", source, "--scorer", "length", "--ray", "local", "-o", "out.jsonl", *arguments)
        assert message in run.communicate(timeout=60)[1] and run.returncode == 2
