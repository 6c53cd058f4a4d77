"""`assay estimate`: human labels and a judge's verdicts, from files."""

import json
import subprocess
import sys

import pytest

ASSAY = [sys.executable, "-c", "from judges.cli import main; main()"]


def assay(*args):
    return subprocess.run([*ASSAY, *map(str, args)], capture_output=True, text=True, timeout=120)


def write_rows(path, n=200, labelled=60):
    """Every second row won by its label; the judge errs on each tenth row. Two groups, pairs of rows a prompt."""
    with open(path, "w") as out:
        for i in range(n):
            truth = i % 2
            row = {"verdict": 1 - truth if i % 10 < 2 else truth, "group": "ab"[i % 4 // 2], "prompt": f"p{i // 2}"}
            row["human"] = truth if i < labelled else ("" if i % 3 else None)
            out.write(json.dumps(row) + "\n")
    return path


def test_estimate_prints_the_four_numbers_and_the_sentence(tmp_path):
    flags = ["--verdict", "verdict", "--label", "human"]
    result = assay("estimate", write_rows(tmp_path / "in.jsonl"), *flags)
    assert result.returncode == 0, result.stderr
    assert "60 of 200" in result.stdout and "50.0 %" in result.stdout and "random sample" in result.stdout
    assert "labels to halve the interval" in result.stdout
    grouped = assay("estimate", tmp_path / "in.jsonl", *flags, "--group", "group", "--prompt", "prompt")
    assert grouped.returncode == 0, grouped.stderr
    assert "30 of 100" in grouped.stdout and "all" in grouped.stdout and grouped.stdout.count("50.0 %") >= 3


def test_estimate_reads_csv_with_words_for_wins_and_empty_labels(tmp_path):
    lines = [f"{'true' if i % 2 else 'False'},{i % 2 if i < 40 else ''}" for i in range(100)]
    (tmp_path / "in.csv").write_text("won,human\n" + "\n".join(lines) + "\n")
    result = assay("estimate", tmp_path / "in.csv", "--verdict", "won", "--label", "human")
    assert result.returncode == 0 and "40 of 100" in result.stdout, result.stderr


def test_estimate_leaves_out_rows_without_a_verdict_and_exits_1(tmp_path):
    path = write_rows(tmp_path / "in.jsonl")
    with path.open("a") as out:
        out.write('{"verdict": null, "human": 1, "group": "c"}\n')
    result = assay("estimate", path, "--verdict", "verdict", "--label", "human")
    assert result.returncode == 1 and "row 201: no verdict" in result.stderr and "60 of 200" in result.stdout


@pytest.mark.parametrize(
    "line, flags, message",
    [
        ('{"verdict": "good", "human": 1}', [], "row 201, verdict: a number within"),
        ('{"verdict": 1, "human": "yes"}', [], "row 201, human: a number within"),
        (f'{{"verdict": 1{"0" * 400}, "human": 1}}', [], "row 201, verdict: a number within"),
        (f'{{"verdict": 1, "human": -1{"0" * 400}}}', [], "row 201, human: a number within"),
        ('{"verdict": 1e308, "human": 1}', [], "row 201, verdict: a number within"),
        ('{"verdict": 1, "human": "-1e308"}', [], "row 201, human: a number within"),
        ('{"verdict": 1, "prompt": null}', ["--prompt", "prompt"], "row 201, prompt (--prompt): it is empty"),
        ('{"verdict": 1, "prompt": " "}', ["--prompt", "prompt"], "row 201, prompt (--prompt): it is empty"),
        ('{"verdict": 1, "group": null}', ["--group", "group"], "row 201, group (--group): it is empty"),
        ('{"verdict": 1, "group": NaN}', ["--group", "group"], "row 201, group (--group): it is empty"),
        ('{"verdict": NaN, "human": "inf"}', [], None),
        ('{"verdict": 1, "human": "inf"}', [], "row 201, human"),
        ("nothing", [], "row 201: not JSON"),
        ('{"human": 1}', [], "row 201: no column 'verdict' (--verdict)"),
        ('{"verdict": 1}', ["--group", "group"], "row 201: no column 'group' (--group)"),
        ('{"verdict": 1}', ["--label", "nobody"], "no row has a column 'nobody' (--label)"),
    ],
)
def test_estimate_names_the_row_that_is_wrong(tmp_path, line, flags, message):
    path = write_rows(tmp_path / "in.jsonl")
    with path.open("a") as out:
        out.write(line + "\n")
    result = assay("estimate", path, "--verdict", "verdict", "--label", "human", *flags)
    assert result.returncode == (2 if message else 1), result.stderr
    assert (message or "row 201: no verdict") in result.stderr


def test_estimate_prints_groups_with_markup_unchanged(tmp_path):
    path = write_rows(tmp_path / "in.jsonl")
    path.write_text(path.read_text().replace('"group": "a"', '"[g]": "[/x]b"').replace('"group"', '"[g]"'))
    with path.open("a") as out:
        out.write('{"verdict": 1, "human": 1, "[g]": "\\u001b[31m[b]few"}\n')
    result = assay("estimate", path, "--verdict", "verdict", "--label", "human", "--group", "[g]")
    assert result.returncode == 1, result.stderr
    lines = result.stdout.splitlines()
    assert lines[0].split()[0] == "[g]" and any(line.split()[:1] == ["[/x]b"] for line in lines)
    assert "[U+001B][31m[b]few: 1 labelled prompts" in result.stdout and "\x1b" not in result.stdout


def test_estimate_refuses_too_few_labels_and_goes_on_with_other_groups(tmp_path):
    result = assay(
        "estimate", write_rows(tmp_path / "a.jsonl", labelled=14), "--verdict", "verdict", "--label", "human"
    )
    assert result.returncode == 2 and "14 labelled prompts are too few: label at least 15" in result.stderr
    path = write_rows(tmp_path / "b.jsonl")
    with path.open("a") as out:
        out.write('{"verdict": 1, "human": 1, "group": "c"}\n')
    result = assay("estimate", path, "--verdict", "verdict", "--label", "human", "--group", "group")
    assert result.returncode == 1 and "c: 1 labelled prompts" in result.stdout and "30 of 100" in result.stdout
