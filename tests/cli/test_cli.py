import json
import subprocess
import sys

import pytest

COMMANDS = ("compare", "score", "train", "filter", "doctor", "attack", "explain", "report", "calibrate", "estimate")
DOWN = "http://127.0.0.1:9/v1"
ASSAY = [sys.executable, "-c", "from judges.cli import main; main()"]


def assay(*args):
    return subprocess.run([*ASSAY, *map(str, args)], capture_output=True, text=True, timeout=120)


def rows(path, *made):
    path.write_text("".join(json.dumps(r) + "\n" for r in made))
    return path


@pytest.mark.parametrize("command", [[], *([c] for c in COMMANDS), ["prompts", "render"], ["models", "show"]])
def test_every_command_has_help_with_an_example(command):
    told = assay(*command, "--help")
    assert told.returncode == 0
    assert not command or "Example: assay" in told.stdout


def test_a_config_gives_the_same_as_flags(tmp_path):
    config = tmp_path / "c.yaml"
    config.write_text("benchmarks: [demo]\nscorers:\n  - length\n  - {name: random, seed: 3}\nlimit: 12\n")
    assert assay("compare", config, "-o", tmp_path / "a").returncode == 0
    flags = ["--benchmark", "demo", "--scorer", "length", "--scorer", "random,seed=3", "--limit", 12]
    assert assay("compare", *flags, "-o", tmp_path / "b").returncode == 0
    a, b = (json.loads((tmp_path / x / "results.json").read_text())["results"] for x in "ab")
    assert len(a) == 2 and [r["numbers"] for r in a] == [r["numbers"] for r in b]


def test_score_writes_rows_resumes_and_refuses_other_settings(tmp_path):
    source = rows(tmp_path / "in.jsonl", *({"prompt": "p", "response": "x" * i, "mine": i} for i in range(1, 6)))
    out = tmp_path / "out.jsonl"
    assert assay("score", source, "--scorer", "random", "-o", out, "--limit", 2).returncode == 0
    with out.open("ab") as file:
        file.write(b'{"prompt": "p", "resp')  # what a kill leaves
    told = assay("score", source, "--scorer", "random", "-o", out)
    assert told.returncode == 0, told.stderr
    made = [json.loads(line) for line in out.open()]
    assert sorted(r["row"] for r in made) == [1, 2, 3, 4, 5] and all(r["mine"] == r["row"] for r in made)
    told = assay("score", source, "--scorer", "random,seed=1", "-o", out)
    assert told.returncode == 2 and "seed: 0 then, 1 now" in told.stderr
    rows(source, {"prompt": "other", "response": "x"})
    told = assay("score", source, "--scorer", "random", "-o", out)
    assert told.returncode == 2 and "input_sha256" in told.stderr


def test_bad_rows_become_rows_with_a_failure_and_the_others_go_on(tmp_path):
    source = tmp_path / "in.jsonl"
    source.write_text('{"prompt": "p", "response": "good"}\n{"prompt": "p"}\n{"response": "x"}\nnot json\n[1]\n')
    told = assay("score", source, "--scorer", "length", "-o", tmp_path / "out.jsonl")
    assert told.returncode == 1
    made = {r["row"]: r for r in map(json.loads, (tmp_path / "out.jsonl").open())}
    assert len(made) == 5 and made[1]["score"] == 4
    assert [made[i]["failure"]["reason"] for i in (2, 3, 4, 5)] == ["empty", "empty", "malformed", "malformed"]


def test_csv_and_parquet_and_mapped_columns(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    (tmp_path / "a.csv").write_text('prompt,answer\np,"two\nlines"\n')
    pq.write_table(pa.table({"prompt": ["p"], "answer": ["two\nlines"]}), tmp_path / "a.parquet")
    for name in ("a.csv", "a.parquet"):
        out = tmp_path / f"{name}.out.jsonl"
        told = assay("score", tmp_path / name, "--scorer", "length", "--map", "response=answer", "-o", out)
        assert told.returncode == 0, told.stderr
        assert json.loads(out.read_text())["score"] == 9


def test_pairs_get_lists_and_a_preference(tmp_path):
    source = rows(tmp_path / "in.jsonl", {"prompt": "p", "chosen": "long one", "rejected": "short"})
    assay("score", source, "--scorer", "length", "-o", tmp_path / "o.jsonl")
    made = json.loads((tmp_path / "o.jsonl").read_text())
    assert made["scores"] == [8, 5] and made["preference"] == [1, 0] and made["failures"] == [None, None]


@pytest.mark.parametrize(
    "args, says",
    [
        (["score", "nowhere.jsonl", "--scorer", "length", "-o", "o.jsonl"], "no file 'nowhere.jsonl'"),
        (["score", "in.jsonl", "--scorer", "lenght", "-o", "o.jsonl"], "unknown scorer 'lenght'"),
        (["score", "in.jsonl", "--scorer", "self-rewarding,engine=x", "-o", "o.jsonl"], "unknown engine 'x'"),
        (["score", "in.jsonl", "--scorer", "bradley-terry,model=./none", "-o", "o.jsonl"], "no model folder"),
        (["score", "in.jsonl", "--scorer", "bradley-terry,model=embedded:minilm", "-o", "o.jsonl"], "not a reward"),
        (["score", "in.jsonl", "--scorer", "self-rewarding,model=embedded:x", "-o", "o.jsonl"], "embedded are"),
        (["score", "in.txt", "--scorer", "length", "-o", "o.jsonl"], "unknown format"),
        (["score", "in.jsonl", "--scorer", "length"], "-o FILE, or -o - to print"),
        (["compare", "--benchmark", "demo"], "at least one"),
        (["compare", "--benchmark", "demo@nothing", "--scorer", "length"], "there are chat"),
        (["train", "in.jsonl", "-o", "m"], "it needs chosen and rejected, or responses with scores or ranking (row 1)"),
        (
            ["score", "in.jsonl", "-o", "o.jsonl", "--scorer", f"self-rewarding,engine=openai,model=m,base_url={DOWN}"],
            "no server answers",
        ),
    ],
)
def test_what_cannot_run_says_so_in_one_line_and_exits_2(tmp_path, args, says, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rows(tmp_path / "in.jsonl", {"prompt": "p", "response": "r"})
    (tmp_path / "in.txt").write_text("x")
    told = assay(*args)
    assert told.returncode == 2, told.stderr
    lines = [x for x in told.stderr.splitlines() if x.startswith("assay:")]
    assert len(lines) == 1 and says in lines[0], told.stderr
    assert "Traceback" not in told.stderr


def test_a_dry_run_shows_prompts_counts_rows_and_writes_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rows(tmp_path / "in.jsonl", *({"prompt": f"p {i}", "response": "r"} for i in range(40)), {"prompt": "no response"})
    told = assay("score", "in.jsonl", "--scorer", "length", "--dry-run")
    assert told.returncode == 0, told.stderr
    assert "item row-1, 1 responses" in told.stdout and "=== 41 rows, told from 8 that were judged" in told.stdout
    limited = assay("score", "in.jsonl", "--scorer", "length", "--dry-run", "--limit", "5")
    assert "=== 5 rows, told from 5 that were judged" in limited.stdout
    assert [path.name for path in tmp_path.iterdir()] == ["in.jsonl"]


def test_a_dataset_is_read_by_its_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "owner" / "name").mkdir(parents=True)  # datasets looks here before it asks the hub
    rows(tmp_path / "owner" / "name" / "train.jsonl", {"prompt": "p", "response": "four"})
    told = assay("score", "hf:owner/name:train", "--scorer", "length", "-o", "o.jsonl")
    assert told.returncode == 0, told.stderr
    assert json.loads((tmp_path / "o.jsonl").read_text())["score"] == 4
