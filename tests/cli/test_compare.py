import csv
import fcntl
import json
import subprocess
import sys

import pytest

from judges.cli.compare_config import CompareConfig, merge_config, scorer_labels
from judges.errors import CannotRun
from judges.evaluation.results import read_run

ASSAY = [sys.executable, "-c", "from judges.cli import main; main()"]


def assay(*args, **environment):
    result = subprocess.run([*ASSAY, *map(str, args)], capture_output=True, text=True, timeout=300, **environment)
    return result.returncode, result.stdout, result.stderr


def rows(path, *made):
    path.write_text("".join(json.dumps(r) + "\n" for r in made))
    return path


def pairs(path, n=8, right=lambda i: True):
    """The longer side is chosen where `right`: what the length scorer gets right is known."""
    sides = [("a longer answer", "short") if right(i) else ("short", "a longer answer") for i in range(n)]
    made = ({"id": str(i), "prompt": f"q{i}", "chosen": c, "rejected": r} for i, (c, r) in enumerate(sides))
    return rows(path, *made)


@pytest.fixture(scope="module")
def run_of(tmp_path_factory):
    """The demo judged by three scorers, once."""
    folder = tmp_path_factory.mktemp("runs") / "demo"
    flags = ["--scorer", "length", "--scorer", "random,seed=1", "--scorer", "random,seed=2", "--subsets"]
    code, out, err = assay("compare", "--benchmark", "demo", *flags, "-o", folder)
    assert code == 0, err
    return folder, out


def test_a_run_writes_numbers_items_judgments_a_report_and_names_the_leader(run_of):
    folder, out = run_of
    run = read_run(folder)
    assert [r.label for r in run.results] == ["length", "random seed=1", "random seed=2"]
    for result in run.results:
        cards = [json.loads(line) for line in (folder / result.file).open()]
        assert len(cards) == run.benchmarks[0].items == len((folder / run.benchmarks[0].file).read_text().splitlines())
    length = run.results[0]
    scored = [json.loads(line)["judgments"] for line in (folder / length.file).open()]
    right = sum(a["score"] > b["score"] for a, b in scored)
    ties = sum(a["score"] == b["score"] for a, b in scored)
    assert length.main.value == pytest.approx((right + ties / 2) / len(scored))
    assert {(c.first, c.second) for c in run.contrasts} == {
        ("length", "random seed=1"),
        ("length", "random seed=2"),
        ("random seed=1", "random seed=2"),
    }
    assert "random seed=1" in out and "by subset" in out and "leads with" in run.summary[0]
    page = (folder / "report.html").read_text()
    assert "random seed=2" in page
    numbers = list(csv.DictReader((folder / "numbers.csv").open()))
    assert {row["scorer"] for row in numbers} == {"length", "random seed=1", "random seed=2"}


def test_recorded_judgments_are_compared_with_scorers_and_marked(tmp_path):
    source = pairs(tmp_path / "pairs.jsonl")
    made = rows(tmp_path / "elsewhere.jsonl", *({"id": str(i), "scores": [2, 1] if i else [1, 2]} for i in range(8)))
    folder = tmp_path / "out"
    code, out, err = assay("compare", "--benchmark", source, "--scorer", "length", "--judgments", made, "-o", folder)
    assert code == 0, err
    length, elsewhere = read_run(folder).results
    assert (length.main.value, elsewhere.main.value) == (1.0, 7 / 8)
    assert elsewhere.published and not length.published and "elsewhere (recorded)" in out


def test_a_gate_fails_where_a_headline_fell_and_passes_where_it_did_not(tmp_path):
    source = pairs(tmp_path / "pairs.jsonl", n=120)
    was = rows(tmp_path / "judge.jsonl", *({"id": str(i), "scores": [2, 1]} for i in range(120)))
    assert assay("compare", "--benchmark", source, "--judgments", was, "-o", tmp_path / "was", "--quiet")[0] == 0
    gate = ["--against", tmp_path / "was", "--fail-if-worse", 2, "--quiet"]
    assert assay("compare", "--benchmark", source, "--judgments", was, "-o", tmp_path / "same", *gate)[0] == 0
    rows(was, *({"id": str(i), "scores": [2, 1] if i % 10 else [1, 2]} for i in range(120)))
    code, out, _ = assay("compare", "--benchmark", source, "--judgments", was, "-o", tmp_path / "now", *gate)
    assert code == 1 and "-10.0" in out and "more than 2 points worse" in " ".join(out.split())
    pairs(source, n=119)
    code, out, _ = assay("compare", "--benchmark", source, "--judgments", was, "-o", tmp_path / "other", *gate)
    assert code == 1 and "rows have changed" in " ".join(out.split())


def test_a_gate_is_shut_by_failures_that_could_hide_a_fall_and_by_what_it_cannot_compare(tmp_path):
    source = pairs(tmp_path / "pairs.jsonl", n=120)
    judge = rows(tmp_path / "judge.jsonl", *({"id": str(i), "scores": [2, 1]} for i in range(120)))
    made = ["compare", "--benchmark", source, "--judgments", judge]
    assert assay(*made, "-o", tmp_path / "was", "--quiet")[0] == 0
    gate = ["--against", tmp_path / "was", "--fail-if-worse", 2, "--quiet"]
    code, out, _ = assay(*made, "--scorer", "length", "-o", tmp_path / "more", *gate)
    assert code == 1 and "length on pairs: not compared: not in the earlier run" in out
    rows(judge, *({"id": str(i), "scores": [2, 1] if i % 3 else [None, 1]} for i in range(120)))
    code, out, _ = assay(*made, "-o", tmp_path / "now", *gate)
    assert code == 1 and "40 rows failed, 0 did before" in " ".join(out.split())
    code, _, err = assay(*made, "-o", tmp_path / "was", *gate)
    assert code == 2 and "own folder" in err


def test_two_runs_never_write_to_one_folder(tmp_path):
    (tmp_path / "out").mkdir()
    with open(tmp_path / "out" / ".lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        code, _, err = assay("compare", "--benchmark", "demo", "--scorer", "length", "-o", tmp_path / "out")
    assert code == 2 and "another run" in err


def test_a_file_of_ones_own_is_no_published_benchmark_whatever_it_is_called(tmp_path):
    source = pairs(tmp_path / "judgebench.jsonl")
    flags = ["--scorer", "length", "--references", "-o", tmp_path / "out"]
    code, out, _ = assay("compare", "--benchmark", source, *flags)
    assert code == 0 and "published" not in out
    assert read_run(tmp_path / "out").benchmarks[0].name == "judgebench.jsonl"


def test_markup_and_control_characters_in_names_are_shown_as_they_are(tmp_path):
    made = (
        {"id": str(i), "prompt": "q", "chosen": "aa", "rejected": "b", "subset": "[/bold]\x1b[31my"} for i in range(4)
    )
    source = rows(tmp_path / "[red]file.jsonl", *made)
    flags = ["--scorer", "random,seed=1", "--scorer", "length", "--subsets", "-o", tmp_path / "o[x]"]
    code, out, err = assay("compare", "--benchmark", source, *flags)
    assert code == 0, err
    assert "[/bold]" in out and "[red]file" in out and "o[x]" in out and "\x1b" not in out


def test_an_output_that_cannot_be_written_or_unknown_ids_are_errors_before_anything_is_judged(tmp_path):
    source = pairs(tmp_path / "pairs.jsonl")
    made = ["compare", "--benchmark", source, "--scorer", "length"]
    code, _, err = assay(*made, "-o", source)
    assert code == 2 and "Traceback" not in err
    other = rows(tmp_path / "other.jsonl", {"id": "nobody", "scores": [1, 2]})
    code, _, err = assay(*made, "--judgments", other, "-o", tmp_path / "out")
    assert code == 2 and "nobody" in err and not (tmp_path / "out").exists()


def test_failures_are_reported_at_the_end_with_exit_code_1(tmp_path):
    source = pairs(tmp_path / "pairs.jsonl")
    judge = rows(tmp_path / "judge.jsonl", *({"id": str(i), "scores": [2, None if i < 3 else 1]} for i in range(8)))
    code, out, _ = assay("compare", "--benchmark", source, "--judgments", judge, "-o", tmp_path / "out")
    assert code == 1 and "3 judgments failed: missing 3." in out


def test_a_dry_run_writes_nothing_and_estimates_every_scorer(tmp_path):
    source = pairs(tmp_path / "pairs.jsonl", n=60)
    code, out, err = assay(
        "compare",
        "--benchmark",
        source,
        "--scorer",
        "length",
        "--scorer",
        "random",
        "--dry-run",
        "-o",
        tmp_path / "out",
    )
    assert code == 0, err
    assert "length" in out and "random" in out and "hours" in out and not (tmp_path / "out").exists()


def test_a_config_gives_a_scorer_its_part_of_the_rows_and_the_contrast_is_on_those(tmp_path, monkeypatch):
    source = pairs(tmp_path / "pairs.jsonl", n=40, right=lambda i: i % 2 == 0)
    config = tmp_path / "c.yaml"
    config.write_text(
        "benchmarks: [$MY_DATA/pairs.jsonl]\nscorers:\n  - length\n  - {name: random, seed: 3, rows: 10}\n"
    )
    monkeypatch.setenv("MY_DATA", str(tmp_path))
    code, out, err = assay("compare", config, "-o", tmp_path / "out", "--quiet")
    assert code == 0, err
    run = read_run(tmp_path / "out")
    assert [r.main.rows for r in run.results] == [40, 10]
    assert "random (10 rows)" in out and not run.summary, "a part is marked, and leads nothing"
    scores = {}
    for result in run.results:
        for line in (tmp_path / "out" / result.file).open():
            card = json.loads(line)
            a, b = (j["score"] for j in card["judgments"])
            scores.setdefault(card["id"], {})[result.label] = (a > b) + (a == b) / 2
    both = [s for s in scores.values() if len(s) == 2]
    assert len(both) == 10
    expected = sum(s["length"] - s["random"] for s in both) / 10
    assert run.contrasts[0].difference == pytest.approx(expected)
    assert source.exists()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("benchmarks: demo\nscorers: [length]", "benchmarks is a list"),
        ("benchmarks: [demo]\nscorers: [{model: x}]", "has a name"),
        ("benchmarks: [demo]\nscorers: [length]\ncolour: red", "unknown key 'colour'"),
        ("benchmarks: [$NOT_SET_AT_ALL/x.jsonl]\nscorers: [length]", "NOT_SET_AT_ALL"),
        ("benchmarks: [demo]\nscorers: [{name: length, rows: none}]", "rows is a whole number"),
        ("benchmarks: [demo]\nscorers: [length]\nlimit: few", "limit is a whole number"),
        ("benchmarks: [demo]\nscorers: [length]\nlimit: true", "limit is a whole number"),
        ("benchmarks: [demo]\nscorers: [{name: random, seed: [1, 2]}]", "seed is a string or a number"),
        ("benchmarks: [demo]", "at least one"),
        ("benchmarks: [demo]\nscorers: [length, length]", "given twice"),
        ("a: [", "not YAML"),
    ],
)
def test_an_invalid_config_is_an_error(tmp_path, text, message):
    config = tmp_path / "c.yaml"
    config.write_text(text)
    with pytest.raises(CannotRun, match=message):
        merge_config(config, CompareConfig())


def test_labels_are_unique_and_have_no_api_key():
    specs = ["self-rewarding,votes=1,api_key=secret", "self-rewarding,votes=3,api_key=other", "length"]
    result = scorer_labels(specs, ["a/judge.jsonl", "b/judge.jsonl"])
    assert len(set(result.values())) == 5 and not any(
        "secret" in label or "other" in label for label in result.values()
    )
    assert result["length"] == "length" and result[specs[1]] == "self-rewarding votes=3"


def test_fail_if_worse_needs_a_run_to_compare_with(tmp_path):
    code, _, err = assay("compare", "--benchmark", "demo", "--scorer", "length", "--fail-if-worse", 1, "-o", tmp_path)
    assert code == 2 and "--against" in err
