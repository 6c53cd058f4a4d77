"""`assay train` from a file to a folder with a checkpoint, a plot and a model card."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time

import pytest
from classic_rm_rows import rows

from judges import Item, load_scorer
from judges.cli.train import run
from judges.errors import CannotRun

ASSAY = [sys.executable, "-c", "from judges.cli import main; main()"]


def assay(*arguments, **more):
    return subprocess.run([*ASSAY, *map(str, arguments)], capture_output=True, text=True, **more)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("rows")
    pairs = [
        {"prompt": i.prompt, "chosen": i.responses[0], "rejected": i.responses[1], "subset": i.subset}
        for _, i in rows(60)
    ]
    bad = [{"prompt": "same", "chosen": "x", "rejected": "x"}, {"prompt": "half", "chosen": "x"}]
    write_rows(folder / "train.jsonl", [*pairs[:20], *bad, *pairs[20:]])
    write_rows(folder / "test.jsonl", pairs[:12])
    ranked = [
        {"question": p["prompt"], "answers": [p["rejected"], p["chosen"], p["rejected"] + "!"], "worth": [1, 3, 2]}
        for p in pairs
    ]
    write_rows(folder / "ranked.jsonl", ranked)
    return folder


def train_in_process(file, output, mapping=None, ensemble=1, **settings):
    """Run the command in this process, since importing torch takes seconds."""
    run(
        file,
        output,
        settings,
        mapping=mapping or {},
        test=None,
        limit=None,
        ensemble=ensemble,
        quality=False,
        if_missing=False,
        quiet=True,
    )


def write_rows(path, records):
    path.write_text("".join(json.dumps(row) + "\n" for row in records))


def quick(base):
    return ["--base", base, "--learning-rate", "2e-3", "--epochs", "3", "--batch-size", "8", "--max-length", "128"]


@pytest.mark.slow
def test_it_writes_a_checkpoint_a_plot_and_a_card_with_counts_and_subsets(files, tiny_decoder, tmp_path):
    out = tmp_path / "rm"
    done = assay(
        "train", files / "train.jsonl", "--test", files / "test.jsonl", *quick(tiny_decoder), "--quality", "-o", out
    )
    assert done.returncode == 0, done.stderr
    assert "filters removed 1 of 62 rows (1 similar)" in done.stderr
    assert "each prompt is computed once" in done.stderr and "(row 22)" in done.stderr
    assert "step" in done.stderr and "held-out" in done.stderr
    card = (out / "README.md").read_text()
    for expected in ("61 rows, 60 comparisons", "| even |", "| odd |", "bag of words", "length", "Best step"):
        assert expected in card
    assert (out / "training.png").read_bytes()[:4] == b"\x89PNG"
    assert "test" in done.stdout and "| all | 12 |" in done.stdout
    assert sorted(p.name for p in tmp_path.iterdir()) == ["rm", "rm.taken.jsonl"]
    again = assay("train", files / "train.jsonl", *quick(tiny_decoder), "-o", out, "--if-missing")
    assert again.returncode == 0 and "exists already" in again.stderr


def test_ranked_responses_and_an_ensemble(files, tiny_decoder, tmp_path):
    out = tmp_path / "rm"
    mapping = {"prompt": "question", "responses": "answers", "scores": "worth"}
    train_in_process(
        str(files / "ranked.jsonl"),
        out,
        mapping=mapping,
        ensemble=2,
        base=str(tiny_decoder),
        epochs=3,
        learning_rate=2e-3,
        batch_size=8,
        max_length=128,
    )
    assert "180 comparisons" in (out / "member-1" / "README.md").read_text()
    item = Item(id="a", prompt="Say river 0", responses=["Yes: river", "No, river never"])
    with load_scorer("bradley-terry", model=str(out), conservative=1) as scorer:
        first, second = scorer.score([item])[0].judgments
    assert first.score > second.score and len(first.votes) == 2


@pytest.mark.slow
def test_two_processes_train_one_model(files, tiny_decoder, tmp_path):
    """`accelerate launch` on CPUs, over gloo."""
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--cpu", "--num_processes", "2"]
    launch += ["--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no"]
    out = tmp_path / "rm"
    command = [*launch, "-m", "judges.cli", "train", files / "train.jsonl", *quick(tiny_decoder), "-o", out]
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stderr.count("rows to train on") == 1
    scored = assay("score", files / "test.jsonl", "--scorer", f"bradley-terry,model={out}", "-o", tmp_path / "o.jsonl")
    assert scored.returncode == 0, scored.stderr
    found = [json.loads(line)["scores"] for line in (tmp_path / "o.jsonl").read_text().splitlines()]
    assert sum(a > b for a, b in found) >= 10


@pytest.mark.slow
def test_ctrl_c_ends_in_seconds_and_the_same_command_resumes(files, tiny_decoder, tmp_path):
    command = ["train", files / "train.jsonl", *quick(tiny_decoder)[:-6], "--epochs", "40", "--patience", "99"]
    command += ["--max-length", "128", "-o", tmp_path / "rm"]
    running = subprocess.Popen([*ASSAY, *map(str, command)], stderr=subprocess.PIPE, text=True)
    while not list(tmp_path.glob("rm.training/checkpoint-*/trainer_state.json")):
        assert running.poll() is None
        time.sleep(0.05)
    running.send_signal(signal.SIGINT)
    started = time.monotonic()
    assert running.wait(timeout=30) == 130 and time.monotonic() - started < 15
    assert not (tmp_path / "rm").exists() and "Traceback" not in running.stderr.read()
    done = assay(*command)
    assert done.returncode == 0, done.stderr
    first = next(line for line in done.stderr.splitlines() if line.strip()[:1].isdigit() and "rows" not in line)
    assert int(first.split()[0]) > 3, "it started afresh"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"file": "missing.jsonl"}, "no file"),
        ({"file": "train.jsonl", "mapping": {"chosen": "nothing"}}, "no column 'nothing'"),
        ({"file": "train.jsonl", "base": "./no-such-model"}, "no model folder"),
        ({"file": "train.jsonl", "base": "embedded:minilm", "layers": 99}, "6 layers"),
        ({"file": "train.jsonl", "uncertainty": True}, "two heads"),
    ],
)
def test_an_error_is_one_line(files, tmp_path, options, message):
    options = dict(options)
    with pytest.raises(CannotRun) as error:
        train_in_process(str(files / options.pop("file")), tmp_path / "rm", **options)
    assert message in str(error.value) and len(str(error.value).splitlines()) == 1
