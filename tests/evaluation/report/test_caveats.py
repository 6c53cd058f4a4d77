"""Files of a run that were cut, lost or come from another sitting."""

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
from judges.evaluation.report import compare_runs, write_csv, write_markdown, write_report
from judges.evaluation.report.caveats import caveats
from judges.evaluation.report.data import page_data, published
from judges.evaluation.results import MetricValue, write_run


def made(folder, rows=12):
    return make_run(folder, rows, SCORERS[:2], ("one",))


def cut(path, lines):
    path.write_text("".join(path.read_text(encoding="utf-8").splitlines(keepends=True)[:lines]), encoding="utf-8")


def test_a_whole_run_leaves_no_doubt(tmp_path):
    assert caveats(tmp_path, made(tmp_path)) == ()


def test_a_file_of_fewer_rows_than_the_numbers_is_told_on_the_page_and_the_terminal(tmp_path):
    run = made(tmp_path)
    cut(tmp_path / "judgments/one-1.jsonl", 7)
    told = "bradley-terry-8b on One questions: 7 judged rows are in the folder, 12 in the numbers; "
    told += "the judgments are not those of the numbers: run compare again"
    assert page_data(tmp_path, run)["run"]["caveats"] == (told,)
    done = CliRunner().invoke(app, ["report", str(tmp_path), "--quiet"])
    assert done.exit_code == 0 and told in done.stderr


def test_other_judgments_of_as_many_rows_are_known_by_their_failures(tmp_path):
    run = made(tmp_path)
    path = tmp_path / "judgments/one-1.jsonl"
    rows = [json.loads(line) for line in path.open(encoding="utf-8")]
    failed = {**rows[0]["judgments"][0], "score": None, "failure": {"reason": "timeout", "message": "60 s"}}
    rows[0]["judgments"][0] = failed
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    (told,) = caveats(tmp_path, run)
    assert "1 failures are in the folder, 0 in the numbers; the judgments are not those of the numbers" in told


@pytest.mark.parametrize(
    "file, told",
    [("judgments/one-0.jsonl", "its judgments are not in the folder"), ("items/one.jsonl", "its rows are not in")],
)
def test_a_file_that_was_taken_away_is_told(tmp_path, file, told):
    run = made(tmp_path)
    (tmp_path / file).unlink()
    assert [told in doubt and file in doubt for doubt in caveats(tmp_path, run)] == [True]


@pytest.mark.parametrize("file", ["judgments/one-0.jsonl", "items/one.jsonl"])
def test_a_cut_line_is_named_by_the_report_and_by_the_changes(tmp_path, file):
    made(tmp_path / "a"), made(tmp_path / "b")
    path = tmp_path / "b" / file
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(CannotRun, match=rf"{file}, line 12"):
        write_report(tmp_path / "b")
    with pytest.raises(CannotRun, match=rf"{file}, line 12"):
        compare_runs(tmp_path / "a", tmp_path / "b")


def test_changes_name_no_flips_from_judgments_that_are_not_the_numbers(tmp_path):
    made(tmp_path / "a"), made(tmp_path / "b")
    cut(tmp_path / "a/judgments/one-1.jsonl", 7)
    found = {r.label: r for r in compare_runs(tmp_path / "a", tmp_path / "b").results}
    assert found["critique-out-loud-8b"].why_not == "" and found["critique-out-loud-8b"].rows == 12
    other = found["bradley-terry-8b"]
    assert other.why_not.startswith("of the earlier run 7 judged rows are in the folder, 12 in the numbers")
    assert other.rows == 0 and other.difference is None


# --- published scores, official headlines, names with control characters


def known(folder, differs=(), **settings):
    """A run whose one benchmark is RM-Bench by its name."""
    run = make_run(folder, 12, SCORERS[:1], ("rm-bench",))
    measured = replace(run.benchmarks[0], differs=differs)
    run = replace(run, benchmarks=(measured,), settings={**run.settings, **settings})
    write_run(run, folder)
    return run


def test_published_scores_are_shown_where_the_run_asked_for_them(tmp_path):
    run = known(tmp_path, references=True)
    rows = published(run)
    assert rows and {row.benchmark for row in rows} == {"rm-bench"}
    on_page = page_data(tmp_path, run)["run"]["references"]
    assert [(r["model"], r["score"]) for r in on_page] == [(r.model, r.score) for r in rows]
    told = write_markdown(run)
    assert "Published by others, not measured here" in told
    assert f"(published {rows[0].date}) | {rows[0].section}" in told.replace("\\", "")
    CliRunner().invoke(app, ["report", str(tmp_path)])
    assert rows[0].model in (tmp_path / "report.html").read_text(encoding="utf-8")


@pytest.mark.parametrize("settings", [{}, {"references": False}, {"references": True, "differs": ("limited: 2",)}])
def test_no_published_scores_unasked_or_beside_another_set(tmp_path, settings):
    run = known(tmp_path, **settings)
    assert published(run) == () and "Published" not in write_markdown(run)
    assert page_data(tmp_path, run)["run"]["references"] == []


def test_the_worst_case_is_the_headlines_and_a_dash_where_it_has_none(tmp_path):
    run = made(tmp_path)
    accuracy, official = replace(run.results[0].main, worst=0.123), MetricValue("official", "overall", 0.5)
    for worst, shown in ((None, "–"), (0.25, "25.0")):
        result = replace(
            run.results[0], headline=("official", "overall"), numbers=(accuracy, replace(official, worst=worst))
        )
        told = write_markdown(replace(run, results=(result,)))
        (line,) = (line for line in told.splitlines() if line.startswith("| critique-out-loud") or "out\\-loud" in line)
        assert [part.strip() for part in line.split("|")][5] == shown and "12.3" not in line


def test_no_control_character_of_a_name_is_in_the_csv(tmp_path):
    run = made(tmp_path)
    numbers = (replace(run.results[0].main, section="a\x1b[31mb"),)
    text = write_csv(
        replace(run, results=(replace(run.results[0], numbers=numbers, headline=("accuracy", "a\x1b[31mb")),))
    )
    (row,) = csv.DictReader(io.StringIO(text, newline=""))
    assert row["section"] == "a[U+001B][31mb" and row["headline"] == "yes" and "\x1b" not in text
