import json
import os
import subprocess
import sys
from importlib.metadata import version

import pytest
from typer.testing import CliRunner

from judges.cli.app import app

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
    result = assay(*command, "--help")
    assert result.returncode == 0
    assert not command or "Example: assay" in result.stdout


def test_the_version_is_printed():
    assert assay("--version").stdout == f"assay {version('assay')}\n"


@pytest.mark.parametrize("args", [["--verbose", "models", "list"], ["models", "list", "--verbose"], ["models", "list"]])
def test_verbose_is_an_option_of_assay_and_of_every_command(args, monkeypatch):
    monkeypatch.setattr("judges.cli.models.print_list", lambda: print(os.environ.get("ASSAY_VERBOSE")))
    monkeypatch.setenv("ASSAY_VERBOSE", "")
    expected = "1\n" if "--verbose" in args else "\n"
    assert CliRunner().invoke(app, args).stdout == expected


def test_quiet_and_verbose_end_with_their_command(monkeypatch, tmp_path):
    monkeypatch.delenv("ASSAY_VERBOSE", raising=False)
    monkeypatch.setenv("ASSAY_QUIET", "0")
    assert CliRunner().invoke(app, ["report", str(tmp_path), "--quiet", "--verbose"]).exit_code != 0
    assert os.environ["ASSAY_QUIET"] == "0" and "ASSAY_VERBOSE" not in os.environ


def test_shell_completion_is_shown_and_completes_commands_and_options():
    environment = os.environ | {"_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1"}
    run = subprocess.run([*ASSAY, "--show-completion", "bash"], capture_output=True, text=True, env=environment)
    assert run.returncode == 0 and "complete -o default -F _assay_completion assay" in run.stdout
    for words, completion in (("assay comp", "compare"), ("assay score --ret", "--retry-failed")):
        variables = {"_ASSAY_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": str(words.count(" "))}
        run = subprocess.run(ASSAY, capture_output=True, text=True, env=os.environ | variables)
        assert run.stdout.split() == [completion]


@pytest.mark.parametrize(
    ("args", "hint"),
    [
        (["compar"], "Did you mean 'compare'?"),
        (["score", "in.jsonl", "--scorr", "length"], "--scorer"),
        (["score", "in.jsonl", "--scorer", "lenght", "-o", "o.jsonl"], "did you mean 'length'?"),
        (["score", "in.jsonl", "--scorer", "random", "--set", "sed=1", "-o", "o.jsonl"], "did you mean 'seed'?"),
        (
            ["score", "in.jsonl", "--scorer", "length", "--map", "respons=x", "-o", "o.jsonl"],
            "did you mean 'response'?",
        ),
        (["compare", "config.yaml"], "did you mean 'scorers'?"),
        (["compare", "--benchmark", "llmbr", "--scorer", "length"], "llmbar"),
        (["attack", "demo", "--scorer", "length", "--attack", "paddin", "-o", "out"], "did you mean 'padding'?"),
        (["models", "show", "skywork-rewards"], "did you mean 'skywork-reward'?"),
    ],
)
def test_an_unknown_name_comes_with_the_closest_known_one(tmp_path, monkeypatch, args, hint):
    monkeypatch.chdir(tmp_path)
    rows(tmp_path / "in.jsonl", {"prompt": "p", "response": "r"})
    (tmp_path / "config.yaml").write_text("benchmarks: [demo]\nscorer: [length]\n")
    result = assay(*args)
    assert result.returncode == 2 and hint in result.stderr


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
    result = assay("score", source, "--scorer", "random", "-o", out)
    assert result.returncode == 0, result.stderr
    made = [json.loads(line) for line in out.open()]
    assert sorted(r["row"] for r in made) == [1, 2, 3, 4, 5] and all(r["mine"] == r["row"] for r in made)
    result = assay("score", source, "--scorer", "random,seed=1", "-o", out)
    assert result.returncode == 2 and "seed: 0 then, 1 now" in result.stderr
    rows(source, {"prompt": "other", "response": "x"})
    result = assay("score", source, "--scorer", "random", "-o", out)
    assert result.returncode == 2 and "input_sha256" in result.stderr


def test_bad_rows_become_rows_with_a_failure_and_the_others_go_on(tmp_path):
    source = tmp_path / "in.jsonl"
    source.write_text('{"prompt": "p", "response": "good"}\n{"prompt": "p"}\n{"response": "x"}\nnot json\n[1]\n')
    result = assay("score", source, "--scorer", "length", "-o", tmp_path / "out.jsonl")
    assert result.returncode == 1
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
        result = assay("score", tmp_path / name, "--scorer", "length", "--map", "response=answer", "-o", out)
        assert result.returncode == 0, result.stderr
        assert json.loads(out.read_text())["score"] == 9


def test_pairs_get_lists_and_a_preference(tmp_path):
    source = rows(tmp_path / "in.jsonl", {"prompt": "p", "chosen": "long one", "rejected": "short"})
    assay("score", source, "--scorer", "length", "-o", tmp_path / "o.jsonl")
    made = json.loads((tmp_path / "o.jsonl").read_text())
    assert made["scores"] == [8, 5] and made["preference"] == [1, 0] and made["failures"] == [None, None]


@pytest.mark.parametrize(
    "args, message",
    [
        (["score", "nowhere.jsonl", "--scorer", "length", "-o", "o.jsonl"], "no file 'nowhere.jsonl'"),
        (["score", "in.jsonl", "--scorer", "lenght", "-o", "o.jsonl"], "unknown scorer 'lenght'"),
        (["score", "in.jsonl", "--scorer", "self-rewarding,engine=x", "-o", "o.jsonl"], "unknown engine 'x'"),
        (["score", "in.jsonl", "--scorer", "bradley-terry,model=./none", "-o", "o.jsonl"], "no model folder"),
        (["score", "in.jsonl", "--scorer", "bradley-terry,model=embedded:minilm", "-o", "o.jsonl"], "not a reward"),
        (["score", "in.jsonl", "--scorer", "self-rewarding,model=embedded:x", "-o", "o.jsonl"], "Embedded models: "),
        (["score", "in.txt", "--scorer", "length", "-o", "o.jsonl"], "unknown format"),
        (["score", "in.jsonl", "--scorer", "length"], "no output is given: -o FILE writes a file"),
        (["compare", "--benchmark", "demo"], "at least one"),
        (["compare", "--benchmark", "demo@nothing", "--scorer", "length"], "there are chat"),
        (["train", "in.jsonl", "-o", "m"], "it needs chosen and rejected, or responses with scores or ranking (row 1)"),
        (
            ["score", "in.jsonl", "-o", "o.jsonl", "--scorer", f"self-rewarding,engine=openai,model=m,base_url={DOWN}"],
            "no server answers",
        ),
    ],
)
def test_an_error_is_one_line_and_exit_code_2(tmp_path, args, message, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rows(tmp_path / "in.jsonl", {"prompt": "p", "response": "r"})
    (tmp_path / "in.txt").write_text("x")
    result = assay(*args)
    assert result.returncode == 2, result.stderr
    lines = [x for x in result.stderr.splitlines() if x.startswith("assay:")]
    assert len(lines) == 1 and message in lines[0], result.stderr
    assert "Traceback" not in result.stderr


def test_a_dry_run_shows_prompts_counts_rows_and_writes_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rows(tmp_path / "in.jsonl", *({"prompt": f"p {i}", "response": "r"} for i in range(40)), {"prompt": "no response"})
    result = assay("score", "in.jsonl", "--scorer", "length", "--dry-run")
    assert result.returncode == 0, result.stderr
    assert (
        "item row-1, 1 responses" in result.stdout and "=== 41 rows, estimated from 8 that were judged" in result.stdout
    )
    limited = assay("score", "in.jsonl", "--scorer", "length", "--dry-run", "--limit", "5")
    assert "=== 5 rows, estimated from 5 that were judged" in limited.stdout
    assert [path.name for path in tmp_path.iterdir()] == ["in.jsonl"]


def test_a_dataset_is_read_by_its_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "owner" / "name").mkdir(parents=True)  # datasets looks here before it asks the hub
    rows(tmp_path / "owner" / "name" / "train.jsonl", {"prompt": "p", "response": "four"})
    result = assay("score", "hf:owner/name:train", "--scorer", "length", "-o", "o.jsonl")
    assert result.returncode == 0, result.stderr
    assert json.loads((tmp_path / "o.jsonl").read_text())["score"] == 4
