"""Files of a run that were truncated, removed or belong to another run; published scores; control characters."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import replace

import pytest
from report_runs import SCORERS, make_run
from typer.testing import CliRunner

from judges.cli.app import app
from judges.errors import CannotRun
from judges.evaluation.report import compare_runs, render_csv, render_markdown, write_report
from judges.evaluation.report.caveats import find_caveats
from judges.evaluation.report.data import page_data, published_references
from judges.evaluation.results import MetricValue, write_run


def make_small_run(folder, rows=12):
    return make_run(folder, rows, SCORERS[:2], ("one",))


def truncate(path, lines):
    path.write_text("".join(path.read_text(encoding="utf-8").splitlines(keepends=True)[:lines]), encoding="utf-8")


def test_a_complete_run_has_no_caveats(tmp_path):
    assert find_caveats(tmp_path, make_small_run(tmp_path)) == ()


def test_missing_rows_are_reported_on_the_page_and_the_terminal(tmp_path):
    run = make_small_run(tmp_path)
    truncate(tmp_path / "judgments/one-1.jsonl", 7)
    caveat = "bradley-terry-8b on One questions: the folder has 7 judged rows, the numbers have 12; "
    caveat += "the judgments are not those that the numbers were computed from: run compare again"
    assert page_data(tmp_path, run)["run"]["caveats"] == (caveat,)
    done = CliRunner().invoke(app, ["report", str(tmp_path), "--quiet"])
    assert done.exit_code == 0 and caveat in done.stderr


def test_judgments_of_another_run_are_recognized_by_their_failures(tmp_path):
    run = make_small_run(tmp_path)
    path = tmp_path / "judgments/one-1.jsonl"
    rows = [json.loads(line) for line in path.open(encoding="utf-8")]
    failed = {**rows[0]["judgments"][0], "score": None, "failure": {"reason": "timeout", "message": "60 s"}}
    rows[0]["judgments"][0] = failed
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    (caveat,) = find_caveats(tmp_path, run)
    assert "the folder has 1 failures, the numbers have 0; the judgments are not those that" in caveat


@pytest.mark.parametrize(
    "file, message",
    [("judgments/one-0.jsonl", "its judgments are not in the folder"), ("items/one.jsonl", "its rows are not in")],
)
def test_a_missing_file_is_reported(tmp_path, file, message):
    run = make_small_run(tmp_path)
    (tmp_path / file).unlink()
    assert [message in caveat and file in caveat for caveat in find_caveats(tmp_path, run)] == [True]


@pytest.mark.parametrize("file", ["judgments/one-0.jsonl", "items/one.jsonl"])
def test_a_truncated_line_is_named_by_the_report_and_by_the_changes(tmp_path, file):
    make_small_run(tmp_path / "a"), make_small_run(tmp_path / "b")
    path = tmp_path / "b" / file
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(CannotRun, match=rf"{file}, line 12"):
        write_report(tmp_path / "b")
    with pytest.raises(CannotRun, match=rf"{file}, line 12"):
        compare_runs(tmp_path / "a", tmp_path / "b")


def test_rows_are_not_compared_where_judgments_do_not_match_the_numbers(tmp_path):
    make_small_run(tmp_path / "a"), make_small_run(tmp_path / "b")
    truncate(tmp_path / "a/judgments/one-1.jsonl", 7)
    found = {r.label: r for r in compare_runs(tmp_path / "a", tmp_path / "b").results}
    assert found["critique-out-loud-8b"].skip_reason == "" and found["critique-out-loud-8b"].rows == 12
    other = found["bradley-terry-8b"]
    assert other.skip_reason.startswith("in the earlier run, the folder has 7 judged rows, the numbers have 12")
    assert other.rows == 0 and other.difference is None


# --- published scores, official headlines, names with control characters


def make_rm_bench_run(folder, differs=(), **settings):
    """A run whose one benchmark is RM-Bench by its name."""
    run = make_run(folder, 12, SCORERS[:1], ("rm-bench",))
    measured = replace(run.benchmarks[0], differs=differs)
    run = replace(run, benchmarks=(measured,), settings={**run.settings, **settings})
    write_run(run, folder)
    return run


def test_published_scores_are_shown_where_the_run_requested_them(tmp_path):
    run = make_rm_bench_run(tmp_path, references=True)
    rows = published_references(run)
    assert rows and {row.benchmark for row in rows} == {"rm-bench"}
    on_page = page_data(tmp_path, run)["run"]["references"]
    assert [(r["model"], r["score"]) for r in on_page] == [(r.model, r.score) for r in rows]
    text = render_markdown(run)
    assert "Published by others; not measured in this run" in text
    assert f"(published {rows[0].date}) | {rows[0].section}" in text.replace("\\", "")
    CliRunner().invoke(app, ["report", str(tmp_path)])
    assert rows[0].model in (tmp_path / "report.html").read_text(encoding="utf-8")


@pytest.mark.parametrize("settings", [{}, {"references": False}, {"references": True, "differs": ("limited: 2",)}])
def test_published_scores_are_not_shown_unrequested_or_beside_another_set(tmp_path, settings):
    run = make_rm_bench_run(tmp_path, **settings)
    assert published_references(run) == () and "Published" not in render_markdown(run)
    assert page_data(tmp_path, run)["run"]["references"] == []


def test_the_worst_case_is_of_the_headline_number_or_a_dash(tmp_path):
    run = make_small_run(tmp_path)
    accuracy, official = replace(run.results[0].main, worst=0.123), MetricValue("official", "overall", 0.5)
    for worst, shown in ((None, "–"), (0.25, "25.0")):
        result = replace(
            run.results[0], headline=("official", "overall"), numbers=(accuracy, replace(official, worst=worst))
        )
        text = render_markdown(replace(run, results=(result,)))
        (line,) = (line for line in text.splitlines() if line.startswith("| critique-out-loud") or "out\\-loud" in line)
        assert [part.strip() for part in line.split("|")][5] == shown and "12.3" not in line


def test_the_csv_has_no_control_characters(tmp_path):
    run = make_small_run(tmp_path)
    numbers = (replace(run.results[0].main, section="a\x1b[31mb"),)
    text = render_csv(
        replace(run, results=(replace(run.results[0], numbers=numbers, headline=("accuracy", "a\x1b[31mb")),))
    )
    (row,) = csv.DictReader(io.StringIO(text, newline=""))
    assert row["section"] == "a[U+001B][31mb" and row["headline"] == "yes" and "\x1b" not in text
