"""An engine whose process is killed is restarted: unfinished requests give the same result, and no process is left."""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
import warnings
from pathlib import Path

import psutil
import pytest

from judges.engines.base import Request, submit
from judges.engines.quiet import announce
from judges.engines.vllm import VLLMEngine
from judges.engines.vllm_process import MAX_RESTARTS, EngineProcess, RestartBudget
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
        assert f"died and is restarted (1 of {MAX_RESTARTS})" in capfd.readouterr().err
        assert not any(process.is_running() for process in first), "the dead engine's processes are gone"
        assert engine._restarts.left == MAX_RESTARTS - 1, "one restart for all of them"

        engine._restarts.left = 0
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
        if "and is restarted" in line:
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

        model._restart_budget.left = 0
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


def spawn(function, *args) -> str:
    process = multiprocessing.get_context("spawn").Process(target=function, args=args)
    process.start()
    process.join()
    return "engine"


@pytest.mark.parametrize("text", ["no such thing\nand more", "1 validation error for X\n  no such thing"])
def test_a_start_that_fails_in_this_process_is_reported_in_a_line(text):
    def build():
        raise ValueError(text)

    process = EngineProcess("m", build, lambda engine: None)
    with pytest.raises(CannotRun, match=r"^vLLM could not start 'm': no such thing \(--verbose.*prints\)$"):
        process.wait()
    assert not process.log.path.exists()


def test_a_start_that_fails_in_a_child_quotes_its_log_and_keeps_it(capfd):
    def build():
        spawn(warnings.warn, "noise")
        spawn(int, "many")
        raise RuntimeError("Engine core initialization failed.")

    process = EngineProcess("m", build, lambda engine: None)
    with pytest.raises(CannotRun, match=r"could not start 'm': ValueError: invalid literal") as e:
        process.wait()
    assert f"(full log: {process.log.path})" in str(e.value)
    assert "Traceback" in process.log.path.read_text() and "noise" in process.log.path.read_text()
    process.log.path.unlink()
    assert "".join(capfd.readouterr()) == ""


@pytest.mark.parametrize("verbose", [False, True])
def test_what_children_print_is_hidden_unless_verbose(verbose, capfd, monkeypatch):
    monkeypatch.setenv("ASSAY_VERBOSE", str(int(verbose)))
    process = EngineProcess("m", lambda: spawn(warnings.warn, "noise"), lambda engine: None)
    assert process.wait() == "engine"
    process.stop()
    assert not process.log.path.exists()
    assert ("noise" in capfd.readouterr().err) == verbose


@pytest.mark.parametrize("quiet", [False, True])
def test_one_line_says_that_an_engine_starts_unless_quiet(quiet, capsys, monkeypatch):
    monkeypatch.setenv("ASSAY_QUIET", str(int(quiet)))
    announce("starting")
    assert capsys.readouterr().err == ("" if quiet else "assay: starting\n")


def test_an_engine_that_replaces_another_starts_after_its_end():
    order = []

    def build(name):
        order.append("built")
        return name

    first = EngineProcess("m", lambda: build("first"), lambda engine: order.append(f"{engine} closed"))
    assert first.wait() == "first"
    second = EngineProcess("m", lambda: build("second"), lambda engine: None, replaces=first)
    assert second.wait() == "second"
    assert order == ["built", "first closed", "built"]


def test_a_start_that_is_stopped_gives_no_engine():
    started, proceed, closed = threading.Event(), threading.Event(), []

    def build() -> str:
        started.set()
        proceed.wait(30)
        return "engine"

    process = EngineProcess("m", build, closed.append)
    assert started.wait(30)
    stopping = threading.Thread(target=process.stop)
    stopping.start()
    time.sleep(0.2)
    proceed.set()
    stopping.join(30)
    assert not stopping.is_alive() and closed == ["engine"]
    with pytest.raises(CannotRun, match="closed"):
        process.wait()


def test_restarts_are_reported_with_their_cause_and_bounded(capsys):
    process = EngineProcess("m", lambda: spawn(int, "many"), lambda engine: None)
    process.wait()
    restarts = RestartBudget("m")
    for number in range(1, MAX_RESTARTS + 1):
        restarts.consume(process)
        line = capsys.readouterr().err
        assert line.startswith("assay: the vLLM engine of 'm' died (ValueError: invalid literal")
        assert f"and is restarted ({number} of {MAX_RESTARTS})" in line
    process.stop()
    with pytest.raises(CannotRun, match="the vLLM engine died; what is finished is safe, run the same command again"):
        restarts.consume(process)
