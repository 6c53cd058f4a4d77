"""An engine whose process is killed is started again: what was in flight comes back the same, and nothing is left."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest

from judges.engines.base import Request, submit
from judges.engines.vllm import VLLMEngine
from judges.engines.vllm_process import RESTARTS, RestartBudget, Start
from judges.errors import CannotRun

MODEL = "embedded:smollm2-135m"


def cores() -> set[psutil.Process]:
    """vLLM's processes below this one: the engine's core and its workers."""
    found = set()
    for process in psutil.Process().children(recursive=True):
        try:
            if process.status() != psutil.STATUS_ZOMBIE and "VLLM" in process.name():
                found.add(process)
        except psutil.Error:
            continue
    return found


def started_since(before: set[psutil.Process]) -> set[psutil.Process]:
    """Processes below this one that were not there before, the watchdog and the like aside."""
    now = set(psutil.Process().children(recursive=True))
    return {p for p in now - before if p.is_running() and p.status() != psutil.STATUS_ZOMBIE}


def kill(cores: set[psutil.Process]) -> None:
    core = next(process for process in cores if process.name().startswith("VLLM::EngineCor"))
    os.kill(core.pid, signal.SIGKILL)


def until(holds, seconds=120):
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, "it never came to hold"
        time.sleep(0.05)


def asked(number: int) -> list[Request]:
    return [
        Request(({"role": "user", "content": f"Write {i + 2} sentences about the number {i}."},), max_tokens=64)
        for i in range(number)
    ]


def begun(engine, requests):
    async def all_of_them():
        return await asyncio.gather(*(engine.complete(request) for request in requests), return_exceptions=True)

    return submit(all_of_them())


@pytest.mark.engine
@pytest.mark.slow
def test_killed_with_thirty_in_flight_all_come_back_the_same_and_beyond_the_bound_the_run_ends(capfd):
    before = cores()
    engine = VLLMEngine(MODEL)
    try:
        requests = asked(30)
        undisturbed = begun(engine, requests).result(timeout=200)
        first = cores() - before
        answers = begun(engine, requests)
        until(lambda: engine._engine.get_num_unfinished_requests() == 30)
        kill(first)
        done = answers.result(timeout=300)
        assert [c.choices[0].text for c in done] == [c.choices[0].text for c in undisturbed]
        assert [c.choices[0].token_ids for c in done] == [c.choices[0].token_ids for c in undisturbed]
        assert f"died and is started again (1 of {RESTARTS})" in capfd.readouterr().err
        assert not any(process.is_running() for process in first), "the dead engine's processes are gone"
        assert engine._lives.left == RESTARTS - 1, "one restart for all of them"

        engine._lives.left = 0
        answers = begun(engine, asked(30))
        until(lambda: engine._engine.get_num_unfinished_requests() > 0)
        kill(cores() - before)
        ends = answers.result(timeout=60)
        assert all(isinstance(end, CannotRun) and "the vLLM engine died" in str(end) for end in ends)
        assert all(isinstance(end, CannotRun) for end in begun(engine, asked(2)).result(timeout=60))
    finally:
        engine.close()
    assert cores() - before == set()


@pytest.mark.engine
@pytest.mark.slow
def test_closing_while_it_is_started_again_leaves_nothing_and_does_not_wait_for_it(capfd):
    before = cores()
    engine = VLLMEngine(MODEL)
    answers = begun(engine, asked(8))
    until(lambda: engine._engine.get_num_unfinished_requests() == 8)
    dead = cores() - before
    everything = set(psutil.Process().children(recursive=True))
    kill(dead)
    until(lambda: started_since(everything))
    engine.close()
    engine.close()
    ends = answers.result(timeout=20)
    assert all(isinstance(end, CannotRun) and "closed" in str(end) for end in ends)
    assert cores() - before == set() and started_since(everything) == set()
    assert not any(thread.name == "assay-vllm-start" for thread in threading.enumerate())


@pytest.mark.engine
@pytest.mark.slow
def test_ctrl_c_while_it_is_started_again_ends_the_run_and_leaves_nothing(tmp_path):
    source, out, script = tmp_path / "in.jsonl", tmp_path / "out.jsonl", tmp_path / "assay.py"
    source.write_text("".join(json.dumps({"prompt": f"q {i}", "response": "x"}) + "\n" for i in range(400)))
    script.write_text("from judges.cli import main\nif __name__ == '__main__': main()")
    spec = "self-rewarding,votes=1,max_tokens=64,window=4"
    run = subprocess.Popen(
        [sys.executable, script, "score", source, "--scorer", spec, "-o", out, "--quiet"],
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    below = psutil.Process(run.pid)
    until(lambda: _rows(out) >= 3 or run.poll() is not None, 300)
    core = next(p for p in below.children(recursive=True) if p.name().startswith("VLLM::EngineCor"))
    os.kill(core.pid, signal.SIGKILL)
    said = ""
    for line in run.stderr:
        said += line
        if "is started again" in line:
            break
    time.sleep(3)  # somewhere in the start
    started = below.children(recursive=True)
    os.killpg(run.pid, signal.SIGINT)
    said += run.communicate(timeout=30)[1]
    assert run.returncode == 130 and "interrupted" in said, said[-3000:]
    assert _rows(out) >= 3
    until(lambda: not any(p.is_running() and p.status() != psutil.STATUS_ZOMBIE for p in started), 20)


def _rows(path: Path) -> int:
    return len(path.read_bytes().splitlines()) if path.exists() else 0


@pytest.mark.engine
@pytest.mark.slow
def test_a_pooling_engine_that_is_killed_in_a_batch_gives_the_same_rewards(tmp_path):
    from classic_rm.vllm_pooling import PoolingModel

    before = cores()
    model = PoolingModel(str(_classifier(tmp_path)))
    try:
        groups = [[list(range(10 + i, 130 + i))] for i in range(600)]
        undisturbed = model.rewards(groups[:40])
        told = []
        reading = threading.Thread(target=lambda: told.append(model.rewards(groups)), daemon=True)
        reading.start()
        until(lambda: model._engine.llm_engine.get_num_unfinished_requests() > 100)
        kill(cores() - before)
        reading.join(400)
        assert not reading.is_alive() and len(told[0]) == len(groups)
        assert told[0][:40] == [[pytest.approx(reward, abs=1e-4) for reward in group] for group in undisturbed]

        model._lives.left = 0
        ends = []
        reading = threading.Thread(target=lambda: ends.append(_end(lambda: model.rewards(groups))), daemon=True)
        reading.start()
        until(lambda: model._engine.llm_engine.get_num_unfinished_requests() > 100)
        kill(cores() - before)
        reading.join(60)
        assert "the vLLM engine died" in str(ends[0])
    finally:
        model.close()
    assert cores() - before == set()


def _end(call) -> Exception | None:
    try:
        call()
    except CannotRun as error:
        return error
    return None


def _classifier(folder: Path) -> Path:
    """A small one-label classifier with heads of a size that vLLM's attention on a CPU takes."""
    import torch
    from transformers import AutoTokenizer, LlamaConfig, LlamaForSequenceClassification

    from judges.engines.embedded import resolve_model

    tokenizer = AutoTokenizer.from_pretrained(resolve_model(MODEL))
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=256,
        intermediate_size=512,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        num_labels=1,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    torch.manual_seed(0)
    LlamaForSequenceClassification(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


# -- a start, without an engine -----------------------------------------------------------------------------


def test_what_a_start_raises_is_told_in_a_line():
    def build():
        raise ValueError("no such thing\nand more")

    with pytest.raises(CannotRun, match=r"vLLM could not start 'm': no such thing \(VLLM_LOGGING_LEVEL"):
        Start("m", build, lambda engine: None).result()


def test_an_engine_that_takes_anothers_place_comes_after_its_end():
    order = []
    first = Start("m", lambda: order.append("built") or "first", lambda engine: order.append(f"{engine} closed"))
    assert first.result() == "first"
    second = Start("m", lambda: order.append("built") or "second", lambda engine: None, in_place_of=first)
    assert second.result() == "second"
    assert order == ["built", "first closed", "built"]


def test_a_start_that_was_ended_gives_no_engine():
    begun, go, closed = threading.Event(), threading.Event(), []

    def build() -> str:
        begun.set()
        go.wait(30)
        return "engine"

    start = Start("m", build, closed.append)
    assert begun.wait(30)
    ending = threading.Thread(target=start.end)
    ending.start()
    time.sleep(0.2)
    go.set()
    ending.join(30)
    assert not ending.is_alive() and closed == ["engine"]
    with pytest.raises(CannotRun, match="closed"):
        start.result()


def test_restarts_are_told_and_bounded(capsys):
    lives = RestartBudget("m")
    for number in range(1, RESTARTS + 1):
        lives.spend()
        assert f"'m' died and is started again ({number} of {RESTARTS})" in capsys.readouterr().err
    with pytest.raises(CannotRun, match="the vLLM engine died; what is finished is safe, run the same command again"):
        lives.spend()
