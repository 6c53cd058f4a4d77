"""The real engine, on the embedded model."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time

import pytest

from judges.engines.base import Request, RequestFailed, submit
from judges.engines.registry import open_engine, release

pytestmark = pytest.mark.engine


def ask(text, **settings):
    return Request(messages=({"role": "user", "content": text},), **settings)


def run(coroutine):
    return submit(coroutine).result(timeout=300)


def test_a_long_burst_of_seeded_requests_survives_and_repeats(vllm_engine):
    async def burst(order):
        requests = [ask(f"Name {i} animals.", temperature=0.8, max_tokens=8, seed=i) for i in range(96)]
        done = await asyncio.gather(*(vllm_engine.complete(requests[i]) for i in order))
        return dict(zip(order, (c.choices[0].text for c in done), strict=True))

    first = run(burst(list(range(96))))
    again = run(burst(list(range(95, -1, -1))))
    assert first == again
    assert len(set(first.values())) > 10


def test_a_choice_is_obeyed(vllm_engine):
    completion = run(vllm_engine.complete(ask("Pick a number.", choice=("3", "10"), max_tokens=5)))
    assert completion.choices[0].text in ("3", "10")


def test_n_samples_and_the_token_limit(vllm_engine):
    completion = run(vllm_engine.complete(ask("Tell a story.", n=3, temperature=1.0, seed=1, max_tokens=6)))
    assert len(completion.choices) == 3
    assert all(c.finish == "length" and len(c.token_ids) == 6 for c in completion.choices)
    assert completion.usage.generated_tokens == 18


def test_too_long_a_prompt_is_that_requests_failure(vllm_engine):
    with pytest.raises(RequestFailed) as caught:
        run(vllm_engine.complete(ask("word " * 20000)))
    assert caught.value.failure.reason == "too-long"


def test_log_likelihoods_agree_with_scoring_the_whole_sequence_and_with_transformers(vllm_engine):
    messages = ask("How good is this answer, 1 to 10?").messages
    labels = ("1", "7", "10")
    together = run(vllm_engine.log_likelihoods(messages, "Score: ", labels))
    other = open_engine("transformers", "embedded:smollm2-135m", dtype="float32")
    try:
        for label, fast in zip(labels, together, strict=True):
            whole = run(vllm_engine.log_likelihood(messages, "Score: ", label))
            reference = run(other.log_likelihood(messages, "Score: ", label))
            assert fast.total == pytest.approx(whole.total, abs=1e-3)
            assert fast.total == pytest.approx(reference.total, abs=1e-3)
    finally:
        release(other)
    assert together[2].tokens == 2


def test_greedy_text_is_that_of_transformers(vllm_engine):
    request = ask("What is the capital of France?", max_tokens=12)
    other = open_engine("transformers", "embedded:smollm2-135m", dtype="float32")
    try:
        assert run(other.complete(request)).choices[0].text == run(vllm_engine.complete(request)).choices[0].text
        short = run(other.complete(ask("Pick.", choice=("yes", "no"), max_tokens=4))).choices[0].text
        assert short in ("yes", "no")
    finally:
        release(other)


def test_a_continued_turn_finds_its_prefix_cached(vllm_engine):
    long = ask("Explain rain. " * 40, max_tokens=40)
    first = run(vllm_engine.complete(long)).choices[0].text
    second = run(vllm_engine.complete(Request(long.messages, prefix=first + "\nScore: ", max_tokens=2)))
    assert second.usage.cached_tokens >= second.usage.prompt_tokens - 2 * 32 - 8


def test_scorers_on_one_model_share_one_engine(vllm_engine):
    again = open_engine("vllm", "embedded:smollm2-135m")
    assert again is vllm_engine
    release(again)
    assert run(vllm_engine.complete(ask("Hi", max_tokens=1))).choices


SCRIPT = """
import time
if __name__ == "__main__":
    from judges.engines.registry import open_engine
    open_engine("vllm", "embedded:smollm2-135m")
    print("ready", flush=True)
    time.sleep(600)
"""


@pytest.mark.slow
@pytest.mark.parametrize("when", ["starting", "ready"])
def test_a_killed_parent_leaves_no_engine_process(when, tmp_path):
    import psutil

    script = tmp_path / "hold.py"
    script.write_text(SCRIPT)
    parent = subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    if when == "ready":
        assert parent.stdout.readline() == b"ready\n"
    else:
        time.sleep(25)
    marked = [p for p in psutil.Process(parent.pid).children(recursive=True) if p.is_running()]
    assert len(marked) >= 2, "the watchdog and an engine process"
    os.kill(parent.pid, signal.SIGKILL)
    parent.wait()
    time.sleep(5)
    left = [p for p in marked if p.is_running() and p.status() != psutil.STATUS_ZOMBIE]
    assert left == []
