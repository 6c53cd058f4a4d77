import json
import subprocess
import sys

import pytest

from judges.data.quality import REASONS


def assay(*args):
    return subprocess.run(
        [sys.executable, "-m", "judges.cli", "filter", *map(str, args)], capture_output=True, text=True, timeout=120
    )


def lines_of(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def rows(path, *contents):
    path.write_text("".join((r if isinstance(r, str) else json.dumps(r)) + "\n" for r in contents), encoding="utf-8")
    return path


GOOD = {
    "id": 7,
    "prompt": "哪条河最长？",
    "chosen": "尼罗河",
    "rejected": "长江吧",
    "deep": {"x": [1.5, None]},
    "row": "mine",
}
ALIKE = {"prompt": "Which?", "chosen": "The Nile.", "rejected": "The Nile!", "why": "because"}
DEMO = {"prompt": "Which river?", "chosen": "The Nile.", "rejected": "An Amazon"}


def test_rows_that_pass_are_written_unchanged_and_the_others_with_number_and_reason(tmp_path):
    source = rows(tmp_path / "in.jsonl", GOOD, ALIKE, DEMO, DEMO)
    result = assay(source, "-o", tmp_path / "deep" / "kept.jsonl")
    assert result.returncode == 0, result.stderr
    assert lines_of(tmp_path / "deep" / "kept.jsonl") == [GOOD, DEMO]
    alike, twice = lines_of(tmp_path / "deep" / "kept.taken.jsonl")
    assert (alike["row"], alike["reason"], alike["input.why"]) == (2, "similar", "because")
    assert alike["chosen"] == ALIKE["chosen"] and "similarity" in alike["why"]
    assert (twice["row"], twice["reason"], twice["prompt"]) == (4, "duplicate", DEMO["prompt"])
    table = dict(line.rsplit(maxsplit=1) for line in result.stdout.splitlines()[1 : len(REASONS) + 2])
    assert {key.strip(): int(value) for key, value in table.items()} == {
        "unreadable": 0,
        **dict.fromkeys(REASONS, 0),
        "similar": 1,
        "duplicate": 1,
    }
    assert "2 of 4" in result.stdout
    assert sorted(p.name for p in (tmp_path / "deep").iterdir()) == ["kept.jsonl", "kept.taken.jsonl"]


def test_a_row_that_cannot_be_read_is_reported_and_counted_and_the_others_are_filtered(tmp_path):
    source = rows(tmp_path / "in.jsonl", GOOD, "not json", {"prompt": "p", "chosen": "no other", "mine": 1}, DEMO)
    result = assay(source, "-o", tmp_path / "kept.jsonl", "--taken", tmp_path / "gone.jsonl", "--quiet")
    assert result.returncode == 1 and result.stdout == ""
    assert lines_of(tmp_path / "kept.jsonl") == [GOOD, DEMO]
    first, second = lines_of(tmp_path / "gone.jsonl")
    assert [first["row"], second["row"]] == [2, 3] and first["reason"] == second["reason"] == "unreadable"
    assert second["mine"] == 1 and "row 2: malformed: not JSON" in result.stderr and "row 3: " in result.stderr


def test_of_many_unreadable_rows_a_few_are_printed(tmp_path):
    result = assay(rows(tmp_path / "in.jsonl", *["{}"] * 9), "-o", tmp_path / "kept.jsonl", "--quiet")
    assert result.returncode == 1 and len(result.stderr.splitlines()) == 6
    assert len(lines_of(tmp_path / "kept.taken.jsonl")) == 9 and lines_of(tmp_path / "kept.jsonl") == []


def test_options_reach_the_filters(tmp_path):
    source = rows(tmp_path / "in.jsonl", GOOD, ALIKE, {**DEMO, "agreement": 0.7})
    result = assay(
        source, "-o", tmp_path / "a.jsonl", "--max-similarity", 0.95, "--min-agreement", 0.8, "--max-prompt-length", 4
    )
    assert result.returncode == 0, result.stderr
    assert [r["reason"] for r in lines_of(tmp_path / "a.taken.jsonl")] == ["length", "agreement"]
    result = assay(source, "-o", tmp_path / "b.jsonl", "--min-length", 3)
    assert [r["row"] for r in lines_of(tmp_path / "b.jsonl")] == ["mine"], result.stderr


def test_mapped_columns_are_read_and_written_under_their_own_names(tmp_path):
    row = {"question": "Which river?", "good": "The Nile.", "bad": "An Amazon"}
    source = rows(tmp_path / "in.jsonl", row, {**row, "bad": "The Nile!"})
    mapping = [part for field in ("prompt=question", "chosen=good", "rejected=bad") for part in ("--map", field)]
    result = assay(source, "-o", tmp_path / "kept.jsonl", *mapping)
    assert result.returncode == 0, result.stderr
    assert lines_of(tmp_path / "kept.jsonl") == [row]


def test_rows_with_prompts_of_other_files_and_benchmarks_are_removed(tmp_path):
    from judges.evaluation.benchmarks import load_benchmark

    known = load_benchmark("demo:test").items[0].messages[-1]["content"]
    source = rows(tmp_path / "in.jsonl", GOOD, DEMO, {**DEMO, "prompt": known})
    prompts = rows(
        tmp_path / "prompts.jsonl", {"messages": [{"role": "user", "content": "Hello"}]}, {"prompt": "WHICH river?"}
    )
    result = assay(source, "-o", tmp_path / "kept.jsonl", "--against", prompts, "--against", "demo:test")
    assert result.returncode == 0, result.stderr
    assert lines_of(tmp_path / "kept.jsonl") == [GOOD]
    first, second = lines_of(tmp_path / "kept.taken.jsonl")
    assert first["why"].endswith("prompts.jsonl") and second["why"] == "its prompt is also in demo:test"


def test_csv_and_parquet_are_written_as_jsonl(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    (tmp_path / "a.csv").write_text("prompt,chosen,rejected\nWhich river?,The Nile.,An Amazon\n")
    columns = {key: [value] for key, value in DEMO.items()}
    pq.write_table(pa.table({**columns, "score": [float("nan")]}), tmp_path / "a.parquet")
    for name, expected in (("a.csv", DEMO), ("a.parquet", {**DEMO, "score": None})):
        result = assay(tmp_path / name, "-o", tmp_path / "kept.jsonl")
        assert result.returncode == 0, result.stderr
        assert lines_of(tmp_path / "kept.jsonl") == [expected]


@pytest.mark.parametrize(
    "args, message",
    [
        (["nowhere.jsonl", "-o", "o.jsonl"], "no file 'nowhere.jsonl'"),
        (["in.jsonl", "-o", "in.jsonl"], "is an input of this run"),
        (["in.jsonl", "-o", "o.csv"], "JSONL"),
        (["in.jsonl", "-o", "o.jsonl", "--taken", "o.jsonl"], "are the same file"),
        (["in.jsonl", "-o", "o.jsonl", "--against", "nothing"], "nothing"),
        (["in.jsonl", "-o", "o.jsonl", "--against", "bad.jsonl"], "row 1: the row has no prompt"),
        (["in.jsonl", "-o", "o.jsonl", "--min-length", "4", "--max-length", "3"], "at least 4 and at most 3"),
        (["in.jsonl", "-o", "in.jsonl/o.jsonl"], "cannot be written"),
        (["in.jsonl", "-o", "o.jsonl", "--taken", "folder"], "folder: cannot be written"),
    ],
)
def test_an_error_is_one_line_and_leaves_the_output_as_it_was(tmp_path, args, message, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rows(tmp_path / "in.jsonl", GOOD)
    rows(tmp_path / "bad.jsonl", {"question": "x"})
    (tmp_path / "folder").mkdir()
    (tmp_path / "o.jsonl").write_text("before")
    result = assay(*args)
    assert result.returncode == 2, result.stderr
    (line,) = result.stderr.splitlines()
    assert line.startswith("assay:") and message in line
    assert (tmp_path / "o.jsonl").read_text() == "before" and not list(tmp_path.glob("*.part"))


def test_help_has_an_example():
    assert "Example: assay filter" in assay("--help").stdout
