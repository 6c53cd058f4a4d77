"""Training learns, saves the best step, resumes after kills, and never leaves an incomplete checkpoint."""

from __future__ import annotations

import json
import math
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from classic_rm_rows import rows

from classic_rm.checkpoints import atomic_folder
from classic_rm.data import encode_items, split_by_prompt
from classic_rm.model import load_tokenizer, read_statistics
from classic_rm.reward_model import RewardModel
from classic_rm.settings import ModelSettings, TrainingSettings
from classic_rm.training import train
from judges import load_scorer
from judges.errors import CannotRun
from judges.types import Gold, Item

FAST = {"learning_rate": 2e-3, "batch_size": 8, "max_length": 128, "validation_share": 0.2}


def settings(base: Path, start=None, **more) -> TrainingSettings:
    return TrainingSettings(start=ModelSettings(base=str(base), **(start or {})), **FAST | more)


def held_out_loss(folder: Path, numbered, chosen: TrainingSettings) -> float:
    """The Bradley–Terry loss that the saved checkpoint has on the held-out rows, read row by row."""
    examples, _ = encode_items(load_tokenizer(str(folder)), numbered, chosen.max_length)
    _, held = split_by_prompt(examples, chosen.validation_share, chosen.seed)
    model = RewardModel(str(folder), batch_size=1, share_prompts=False)
    losses = []
    for example in held:
        rewards = [sum(of) / len(of) for of in model.rewards([example.responses])[0]]
        losses.append(
            sum(math.log1p(math.exp(rewards[j] - rewards[i])) for i, j in example.comparisons)
            / len(example.comparisons)
        )
    return sum(losses) / len(losses)


@pytest.mark.parametrize(
    ("kind", "start", "more"),
    [
        ("decoder", {}, {}),
        pytest.param("decoder", {}, {"share_prompts": False}, marks=pytest.mark.slow),
        ("decoder", {"lora": 4}, {"learning_rate": 1e-2}),
        ("decoder", {"heads": 3}, {"uncertainty": True}),
        ("decoder", {"layers": 1}, {}),
        pytest.param("decoder", {"frozen": 1}, {}, marks=pytest.mark.slow),
        ("decoder", {}, {"checkpointing": True, "accumulation": 2, "epochs": 12}),
        ("decoder", {}, {"contrast": 0.1, "smoothing": 0.1, "foreign_rejected": True}),
        pytest.param("encoder", {}, {"epochs": 12}, marks=pytest.mark.slow),
        ("encoder", {"lora": 4}, {"learning_rate": 1e-2, "epochs": 12}),
        pytest.param("encoder", {}, {"contrast": 0.1, "epochs": 12}, marks=pytest.mark.slow),
    ],
)
def test_the_loss_falls_and_the_checkpoint_has_the_measured_loss(request, tmp_path, kind, start, more):
    base = request.getfixturevalue(f"tiny_{kind}")
    numbered = rows()
    chosen = settings(base, start, **{"epochs": 5} | more)
    trained = train(numbered, chosen, tmp_path / "rm")
    assert trained.history[-1]["eval_loss"] < 0.6 < trained.history[0]["train_loss"]
    assert trained.validation_loss == min(row["eval_loss"] for row in trained.history)
    if not chosen.foreign_rejected:
        assert held_out_loss(tmp_path / "rm", numbered, chosen) == pytest.approx(trained.validation_loss, abs=1e-4)
    assert not list(tmp_path.glob(".*part*")) and not (tmp_path / "rm.training").exists()
    with load_scorer("bradley-terry", model=str(tmp_path / "rm")) as scorer:
        cards = scorer.score([item for _, item in numbered[:8]])
    assert sum(c.judgments[0].score > c.judgments[1].score for c in cards) >= 7
    found = read_statistics(tmp_path / "rm")
    assert found["deviation"] > 0 and found["temperature"] > 0 and found["responses"] >= 20


def test_early_stopping_saves_the_best_step_when_the_labels_are_random(tiny_decoder, tmp_path):
    draw = random.Random(0)
    numbered = [
        (i, Item(id=str(i), prompt=f"q {i}", responses=draw.sample(["yes", "no"], 2), gold=Gold(chosen=(0,))))
        for i in range(60)
    ]
    chosen = settings(tiny_decoder, epochs=30, patience=3)
    trained = train(numbered, chosen, tmp_path / "rm")
    losses = [row["eval_loss"] for row in trained.history]
    assert len(losses) < 30, "early stopping never came"
    assert losses[-1] > trained.validation_loss and trained.best_step < trained.history[-1]["step"]
    assert held_out_loss(tmp_path / "rm", numbered, chosen) == pytest.approx(trained.validation_loss, abs=1e-4)


def test_the_head_starts_small_and_pad_is_its_own(tiny_decoder):
    from classic_rm.model import initialise_model, reward_head

    model, tokenizer = initialise_model(ModelSettings(base=str(tiny_decoder)), seed=3)
    again, _ = initialise_model(ModelSettings(base=str(tiny_decoder)), seed=3)
    assert 0.005 < float(reward_head(model).weight.std()) < 0.04
    assert torch.equal(reward_head(model).weight, reward_head(again).weight)
    assert tokenizer.pad_token_id != tokenizer.eos_token_id and tokenizer.pad_token not in tokenizer.eos_token
    from judges.engines.chat_template import plain_ids

    assert tokenizer.pad_token_id not in plain_ids(tokenizer, f"a text with {tokenizer.pad_token} in it")


def variant(base: Path, folder: Path, change) -> Path:
    from transformers import AutoModelForCausalLM

    AutoModelForCausalLM.from_pretrained(base).save_pretrained(folder)
    tokenizer = load_tokenizer(str(base))
    change(tokenizer)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("what", ["pad is eos", "no pad", "no template"])
def test_a_base_with_a_poor_tokenizer_gives_a_sound_checkpoint(tiny_decoder, tmp_path, what):
    def change(tokenizer):
        if what == "pad is eos":
            tokenizer.pad_token = tokenizer.eos_token
        elif what == "no pad":
            tokenizer.pad_token = None
        else:
            tokenizer.chat_template = None

    base = variant(tiny_decoder, tmp_path / "base", change)
    chosen = settings(base, epochs=3)
    numbered = rows()
    trained = train(numbered, chosen, tmp_path / "rm")
    assert trained.validation_loss < 0.65
    from transformers import AutoModelForSequenceClassification

    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "rm").eval()
    tokenizer = load_tokenizer(str(tmp_path / "rm"))
    assert tokenizer.pad_token_id not in (None, tokenizer.eos_token_id)
    assert model.config.pad_token_id == tokenizer.pad_token_id
    examples, _ = encode_items(tokenizer, numbered[:6], 128)
    rewards = RewardModel(str(tmp_path / "rm")).rewards([e.responses for e in examples])
    from classic_rm.model import pad_rows

    flat = [ids for e in examples for ids in e.responses]
    with torch.no_grad():
        expected = model(**pad_rows(flat, tokenizer.pad_token_id)).logits[:, 0].tolist()
    assert [reward for group in rewards for (reward,) in group] == pytest.approx(expected, abs=1e-5)


def test_too_few_rows_are_an_error_with_the_reasons(tiny_decoder, tmp_path):
    item = Item(id="a", prompt="q", responses=["same", "same"], gold=Gold(chosen=(0,)))
    with pytest.raises(CannotRun, match=r"both sides are equal \(row 7\)"):
        train([(7, item), *rows(1)], settings(tiny_decoder), tmp_path / "rm")
    assert not (tmp_path / "rm").exists()


def test_a_loss_that_is_not_a_number_ends_the_run_and_saves_nothing(tiny_decoder, tmp_path):
    with pytest.raises(CannotRun, match=r"the loss is (nan|inf) at step \d+"):
        train(rows(), settings(tiny_decoder, epochs=5, learning_rate=1e30), tmp_path / "rm")
    assert not (tmp_path / "rm").exists()


def test_other_settings_do_not_resume_a_killed_run(tiny_decoder, tmp_path):
    with pytest.raises(CannotRun, match="loss is"):
        train(rows(), settings(tiny_decoder, epochs=5, learning_rate=1e30), tmp_path / "rm")
    with pytest.raises(CannotRun, match="other rows or settings"):
        train(rows(), settings(tiny_decoder, epochs=6), tmp_path / "rm")


@pytest.mark.parametrize("wrong", [{"batch_size": 1, "contrast": 0.1}, {"uncertainty": True}, {"smoothing": 0.5}])
def test_settings_that_make_no_sense_are_refused(wrong):
    with pytest.raises(CannotRun):
        TrainingSettings(**wrong)


SCRIPT = """
import json, resource, signal, sys
from pathlib import Path
sys.path.insert(0, {here!r})
from classic_rm_rows import rows
from classic_rm.settings import ModelSettings
from classic_rm.settings import TrainingSettings
from classic_rm.training import train
from judges.errors import CannotRun

def report(kind, values):
    if (kind == "begin" and {limit_at} == 0) or (kind == "step" and values["step"] == {limit_at}):
        {limit}

chosen = TrainingSettings(start=ModelSettings(base=sys.argv[1], dropout=0.2), epochs=2, learning_rate=2e-3,
                          batch_size={batch}, max_length=128, patience=9)
try:
    trained = train(rows(200, long={long}), chosen, Path(sys.argv[2]), report)
except CannotRun as error:
    print(error, file=sys.stderr)
    raise SystemExit(2)
print(json.dumps(trained.history))
"""


def script(batch=4, limit="pass", limit_at=0, long=0) -> str:
    return SCRIPT.format(here=str(Path(__file__).parent), batch=batch, limit=limit, limit_at=limit_at, long=long)


def run(code: str, *arguments: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code, *map(str, arguments)], capture_output=True, text=True)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["decoder", "encoder"])
def test_killed_in_mid_epoch_and_resumed_it_ends_like_an_uninterrupted_run(request, kind, tmp_path):
    base = request.getfixturevalue(f"tiny_{kind}")
    whole = run(script(), base, tmp_path / "whole")
    assert whole.returncode == 0, whole.stderr
    expected_history = json.loads(whole.stdout)
    for step in (20, 60):  # an epoch has 45 steps
        killed = subprocess.Popen([sys.executable, "-c", script(), base, tmp_path / "cut"])
        state = tmp_path / "cut.training" / f"checkpoint-{step}" / "trainer_state.json"
        while not state.exists() and killed.poll() is None:
            time.sleep(0.002)
        killed.send_signal(signal.SIGKILL)
        killed.wait()
        assert not (tmp_path / "cut").exists()
    resumed = run(script(), base, tmp_path / "cut")
    assert resumed.returncode == 0, resumed.stderr
    history = json.loads(resumed.stdout)
    assert [row["step"] for row in history] == [row["step"] for row in expected_history]
    for row, expected_row in zip(history, expected_history, strict=True):
        assert row["eval_loss"] == pytest.approx(expected_row["eval_loss"], abs=1e-4)
        assert row.get("loss") == pytest.approx(expected_row.get("loss"), abs=1e-4)
    from safetensors.torch import load_file

    first, second = (load_file(tmp_path / name / "model.safetensors") for name in ("whole", "cut"))
    assert all(torch.allclose(first[name], second[name], atol=1e-5) for name in first)


@pytest.mark.slow
def test_a_full_disk_leaves_the_checkpoint_before_and_says_so(tiny_decoder, tmp_path):
    # No file may grow beyond 100 kB once step 25 is done: the kernel refuses the checkpoint of step 40.
    limit = "signal.signal(signal.SIGXFSZ, signal.SIG_IGN); resource.setrlimit(resource.RLIMIT_FSIZE, (100000, 100000))"
    done = run(script(limit=limit, limit_at=25), tiny_decoder, tmp_path / "rm")
    assert done.returncode == 2, done.stderr
    assert "cannot be written" in done.stderr and "Traceback" not in done.stderr
    assert not (tmp_path / "rm").exists()
    resumed = run(script(), tiny_decoder, tmp_path / "rm")
    assert resumed.returncode == 0 and (tmp_path / "rm" / "model.safetensors").exists()


def test_a_full_disk_at_the_end_leaves_nothing_under_the_final_name(tmp_path):
    with pytest.raises(CannotRun, match="cannot be written"), atomic_folder(tmp_path / "rm") as part:
        (part / "model.safetensors").write_bytes(b"half")
        raise OSError(28, "No space left on device")
    assert os.listdir(tmp_path) == []


def test_out_of_memory_says_what_to_do(tiny_decoder, tmp_path):
    # 100 MB more than what the process holds before the first step; that needs more.
    held = "int(open('/proc/self/statm').read().split()[0]) * 4096 + 100_000_000"
    limit = f"resource.setrlimit(resource.RLIMIT_AS, ({held}, {held}))"
    done = run(script(batch=180, limit=limit, long=120), tiny_decoder, tmp_path / "rm")
    assert done.returncode == 2, done.stderr[-2000:]
    assert "out of memory at batch size 180" in done.stderr and "--accumulation" in done.stderr
    assert not (tmp_path / "rm").exists()
