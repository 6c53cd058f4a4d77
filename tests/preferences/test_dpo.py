"""DPO rounds on a small random model: what is learned, left out, resumed and refused."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from judges.errors import CannotRun
from judges.preferences.dpo import DPOSettings, train_in_subprocess


def write(path: Path, rows) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def pair(number: int, chosen: str = "yes", rejected: str = "no no") -> dict:
    return {
        "prompt": [{"role": "user", "content": f"Question {number}?"}],
        "chosen": [{"role": "assistant", "content": f"{chosen} {number}"}],
        "rejected": [{"role": "assistant", "content": f"{rejected} {number}"}],
        "score_chosen": 1.0,
        "score_rejected": 0.0,
    }


QUICK = DPOSettings(lora=4, learning_rate=5e-3, epochs=2, batch_size=4, accumulation=2)


@pytest.mark.parametrize("lora", [4, 0])
def test_the_loss_falls_from_log_2_and_the_checkpoint_is_a_plain_model(tmp_path, tiny_decoder, lora):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    pairs = write(tmp_path / "pairs.jsonl", [pair(n) for n in range(24)])
    steps = []
    settings = DPOSettings(lora=lora, learning_rate=5e-3, epochs=2, batch_size=4, accumulation=2)
    made = train_in_subprocess(
        str(tiny_decoder), [pairs], tmp_path / "model", settings, on_step=lambda *step: steps.append(step)
    )
    assert made.pairs == 24 and made.too_long == 0
    assert made.history[0]["loss"] == pytest.approx(math.log(2), abs=1e-4)  # before a step, both models are one
    assert made.history[-1]["loss"] < 0.68 and made.history[-1]["rewards/accuracies"] == 1
    assert steps == [(n, 6) for n in range(1, 7)]
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    assert not hasattr(model, "peft_config")
    assert AutoTokenizer.from_pretrained(tmp_path / "model").chat_template
    assert sorted(p.name for p in tmp_path.iterdir()) == ["model", "pairs.jsonl"]


def test_a_pair_that_is_too_long_is_left_out_and_counted_and_none_left_is_told(tmp_path, tiny_decoder):
    long = pair(1, chosen="word " * 300)
    pairs = write(tmp_path / "pairs.jsonl", [long, *(pair(n) for n in range(8))])
    settings = DPOSettings(lora=4, max_length=128, batch_size=4, accumulation=1)
    made = train_in_subprocess(str(tiny_decoder), [pairs], tmp_path / "model", settings)
    assert (made.pairs, made.too_long) == (8, 1)
    only = write(tmp_path / "long.jsonl", [long])
    with pytest.raises(CannotRun, match="1 have more than 128 tokens; raise --max-length"):
        train_in_subprocess(str(tiny_decoder), [only], tmp_path / "other", settings)
    assert not (tmp_path / "other").exists()


@pytest.mark.slow
def test_killed_in_mid_epoch_it_ends_with_the_uninterrupted_runs_weights(tmp_path, tiny_decoder):
    from safetensors.torch import load_file

    pairs = write(tmp_path / "pairs.jsonl", [pair(n) for n in range(40)])
    whole = train_in_subprocess(str(tiny_decoder), [pairs], tmp_path / "whole", QUICK)
    script = (
        "from pathlib import Path; from judges.preferences.dpo import *\n"
        f"train_in_subprocess({str(tiny_decoder)!r}, [Path({str(pairs)!r})], Path({str(tmp_path / 'killed')!r}),"
        " DPOSettings(lora=4, learning_rate=5e-3, epochs=2, batch_size=4, accumulation=2))"
    )
    run = subprocess.Popen([sys.executable, "-c", script], start_new_session=True)
    until = time.monotonic() + 300
    while not list(tmp_path.glob("killed.training/checkpoint-*/trainer_state.json")) and time.monotonic() < until:
        assert run.poll() is None
        time.sleep(0.01)
    run.send_signal(signal.SIGKILL)
    run.wait()
    assert not (tmp_path / "killed").exists()
    until = time.monotonic() + 30
    while trainings() and time.monotonic() < until:
        time.sleep(0.1)
    assert trainings() == [], "the training ends with who started it"
    again = train_in_subprocess(str(tiny_decoder), [pairs], tmp_path / "killed", QUICK)
    assert [row["loss"] for row in again.history] == pytest.approx([row["loss"] for row in whole.history], abs=1e-5)
    a, b = (load_file(tmp_path / name / "model.safetensors") for name in ("whole", "killed"))
    assert a.keys() == b.keys() and all((a[key] - b[key]).abs().max() < 1e-5 for key in a)


def trainings() -> list[str]:
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit() and int(folder.name) != os.getpid():
            try:
                command = (folder / "cmdline").read_text().replace("\0", " ")
            except OSError:
                continue
            if "judges.preferences.dpo" in command and "killed.job.json" in command:
                found.append(command)
    return found


def test_a_model_that_cannot_be_loaded_is_told_in_a_line(tmp_path):
    pairs = write(tmp_path / "pairs.jsonl", [pair(1)])
    with pytest.raises(CannotRun, match="no model folder"):
        train_in_subprocess("/nowhere/model", [pairs], tmp_path / "model", QUICK)


@pytest.mark.parametrize("wrong", [{"beta": 0}, {"learning_rate": 0}, {"epochs": 0}, {"batch_size": 0}, {"lora": -1}])
def test_settings_that_cannot_be(wrong):
    with pytest.raises(ValueError, match=r"above 0|at least"):
        DPOSettings(**wrong)
