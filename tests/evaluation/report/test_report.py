from __future__ import annotations

import csv
import io
import itertools
import json
import random
import sys
from html.parser import HTMLParser

import pytest
from hypothesis import given
from hypothesis import strategies as st
from report_runs import HOSTILE, SCORERS, make_run
from typer.testing import CliRunner

from judges.cli.app import app
from judges.errors import CannotRun
from judges.evaluation.metrics.pair_verdicts import verdict
from judges.evaluation.report import compare_runs, render_csv, render_markdown, write_plots, write_report
from judges.evaluation.report.changes import render_changes_html, render_changes_markdown
from judges.evaluation.report.data import MAX_TEXT_LENGTH, JudgmentSample, page_data, script_json
from judges.evaluation.report.html import SCRIPTS, assemble_page, content_security_policy, read_page_file
from judges.evaluation.report.markdown import escape_cell
from judges.evaluation.report.outcomes import classify_outcome, pair_preferences, scorers_disagree
from judges.evaluation.results import read_jsonl, read_run
from judges.types import Comparison, Failure, Gold, Item, Judgment, Scorecard, to_dict

# Any text, lone surrogates too: what a model or a file may hold.
ANY_TEXT = st.text(alphabet=st.characters(exclude_categories=()))


class Scripts(HTMLParser):
    """The scripts and tags of a page, as an HTML parser finds them."""

    def __init__(self):
        super().__init__(convert_charrefs=True)
        self.scripts, self.tags, self.policy = [], [], ""

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag == "script":
            self.scripts.append([dict(attrs).get("id"), ""])
        if dict(attrs).get("http-equiv") == "Content-Security-Policy":
            self.policy = dict(attrs)["content"]

    def handle_data(self, data):
        if self.tags and self.tags[-1][0] == "script":
            self.scripts[-1][1] += data


def parsed(page: str) -> Scripts:
    found = Scripts()
    found.feed(page)
    return found


# --- escaping


@given(ANY_TEXT)
def test_any_text_on_the_page_is_parsed_back_unchanged(text):
    page = assemble_page("title", script_json({"text": text}), script_json([]))
    scripts = dict(parsed(page).scripts)
    assert json.loads(scripts["run-data"]) == {"text": text}
    page.encode("utf-8")


@given(ANY_TEXT)
def test_json_on_the_page_has_no_angle_brackets_ampersands_or_line_separators(text):
    assert not set(script_json({text: [text]})) & set("<>&\u2028\u2029")


def test_the_page_has_three_scripts_and_loads_nothing(tmp_path):
    make_run(tmp_path, 12, texts=HOSTILE)
    found = parsed(write_report(tmp_path).read_text(encoding="utf-8"))
    assert [name for name, _ in found.scripts] == ["run-data", "explorer-data", None]
    for tag, attrs in found.tags:
        assert "src" not in attrs and tag not in ("img", "iframe", "object", "embed", "base", "form")
        assert attrs.get("href", "#")[0] == "#" or attrs["href"] == "data:,"
        assert not [name for name in attrs if name.startswith("on") or name == "style"]


def test_the_policy_permits_only_the_script_and_style_of_the_page():
    found = content_security_policy("body {}", "let a = 1;")
    # sha256 of the two, by `printf %s … | openssl dgst -sha256 -binary | base64`
    assert "script-src 'sha256-xY6QKfH9PRsQnLz56nj6MBwiK5oHg+im1Jkpdp1x/Ck='" in found
    assert "style-src 'sha256-YjaKGiklmzC6wjXA513HAMmzus8VE61XCOT+SmwNZWA='" in found
    assert found.startswith("default-src 'none'; ") and "connect-src 'none'" in found
    assert "unsafe" not in found and "*" not in found


def test_no_script_of_the_page_writes_html_or_evaluates_text():
    for name in SCRIPTS:
        source = read_page_file(name)
        for way in (
            "innerHTML",
            "outerHTML",
            "insertAdjacentHTML",
            "document.write",
            "eval(",
            "Function(",
            "DOMParser",
        ):
            assert way not in source, f"{name} uses {way}"
        assert "</script" not in source.lower() and "<!--" not in source
        assert len(source.splitlines()) <= 400


# --- outcomes


def make_item(n=2, comparisons=None, **gold):
    return Item(id="a", prompt="q", responses=["r"] * n, comparisons=comparisons, gold=Gold(**gold) if gold else None)


def scored(*scores, comparisons=()):
    failed = Failure("missing", "no verdict")
    return Scorecard(
        "a", tuple(Judgment(score=s) if s is not None else Judgment(failure=failed) for s in scores), comparisons
    )


def outcome_of(item, card):
    return classify_outcome(to_dict(item), to_dict(card))


@pytest.mark.parametrize(
    ("item", "scores", "kind", "share"),
    [
        (make_item(chosen=(0,)), (2, 1), "right", 1),
        (make_item(chosen=(1,)), (2, 1), "wrong", 0),
        (make_item(chosen=(0,)), (1, 1), "tie", 0.5),
        (make_item(chosen=(0,)), (1, None), "failed", None),
        (make_item(tie=True), (1, 1), "right", 1),
        (make_item(tie=True), (2, 1), "wrong", 0),
        (make_item(4, chosen=(0,)), (3, 1, 4, 2), "partly", 2 / 3),
        (make_item(4, chosen=(0,)), (3, None, 4, 2), "partly", 1 / 2),
        (make_item(3, ranking=(1, 2, 3)), (3, 2, 1), "right", 1),
        (make_item(3, ranking=(1, 2, 2)), (3, 1, 2), "right", 1),
        (make_item(3, scores=(1, 2, 3)), (3, 2, 1), "wrong", 0),
        (make_item(1, scores=(4,)), (3,), "no gold", None),
        (make_item(1, scores=(4,)), (None,), "failed", None),
        (make_item(), (2, 1), "no gold", None),
        (make_item(3, comparisons=((2, 0),), chosen=(0,)), (2, 5, 1), "right", 1),
    ],
)
def test_outcomes_by_hand(item, scores, kind, share):
    outcome = outcome_of(item, scored(*scores))
    assert (outcome.kind, outcome.share) == (kind, pytest.approx(share) if share else share)


def test_a_failed_comparison_is_counted_where_the_row_is_decided():
    failed = Comparison(0, 1, Failure("timeout", "60 s"))
    assert outcome_of(make_item(chosen=(0,)), scored(2, 1, comparisons=(failed,))).failures == 1


OUTCOMES = st.sampled_from(["first", "second", "tie", Failure("missing", "x")])


@given(st.integers(2, 4), st.data())
def test_preferences_equal_the_verdicts_of_the_bias_measures(n, data):
    scores = data.draw(st.lists(st.sampled_from([None, 1.0, 2.0, 3.0]), min_size=n, max_size=n))
    pairs = data.draw(st.lists(st.sampled_from(list(itertools.permutations(range(n), 2))), max_size=8))
    comparisons = tuple(Comparison(i, j, data.draw(OUTCOMES), data.draw(st.booleans())) for i, j in pairs)
    item, card = make_item(n), scored(*scores, comparisons=comparisons)
    found = pair_preferences(to_dict(item), to_dict(card))
    for i, j in itertools.combinations(range(n), 2):
        assert found.get((i, j)) == verdict(item, card, i, j)


def test_scorers_disagree_by_opposite_preferences_and_not_by_a_tie():
    assert scorers_disagree([{(0, 1): 1.0}, {(0, 1): 0.0}])
    assert not scorers_disagree([{(0, 1): 1.0}, {(0, 1): 0.5}, {}])
    assert not scorers_disagree([{(0, 1): 1.0}, {(0, 2): 0.0}])


# --- the judgments on the page


def test_every_judgment_is_on_the_page_of_a_small_run(tmp_path):
    run = make_run(tmp_path, 20)
    explorer = page_data(tmp_path, run)["explorer"]
    assert len(explorer["items"]) == 40 and len(explorer["cards"]) == explorer["total"] == 40 * len(SCORERS)
    card = explorer["cards"][0]
    recorded = next(c for c in read_jsonl(tmp_path / "judgments/everyday-0.jsonl") if c["id"] == "everyday-0")
    assert [j.get("score") for j in card["judgments"]] == [j["score"] for j in recorded["judgments"]]


def test_a_sample_takes_failures_and_disagreements_first_and_is_reproducible(tmp_path):
    run = make_run(tmp_path, 60, scorers=SCORERS[:2], benchmarks=("one",))
    all_judgments = JudgmentSample(tmp_path, run).select()
    failed = {card["i"] for card in all_judgments["cards"] if card["f"]}
    flagged = {item["id"] for index, item in enumerate(all_judgments["items"]) if item["d"] or index in failed}
    assert 4 < len(flagged) < 50
    few = JudgmentSample(tmp_path, run, max_judgments=2 * len(flagged) - 6).select()
    assert {i["id"] for i in few["items"]} < flagged and len(few["items"]) == len(flagged) - 3
    more = JudgmentSample(tmp_path, run, max_judgments=2 * len(flagged) + 8).select()
    assert flagged < {i["id"] for i in more["items"]} and len(more["items"]) == len(flagged) + 4
    assert more == JudgmentSample(tmp_path, run, max_judgments=2 * len(flagged) + 8).select()
    assert more != JudgmentSample(tmp_path, run, max_judgments=2 * len(flagged) + 8, seed=1).select()
    assert more["total"] == 120 and more["flagged"] == {"shown": len(flagged), "all": len(flagged)}


@pytest.mark.parametrize("texts", [(), ("<" * 300, "&>" * 200)])
def test_a_sample_stays_within_its_bytes_for_any_texts(tmp_path, texts):
    run = make_run(tmp_path, 120, texts=texts)
    size = 400_000
    found = JudgmentSample(tmp_path, run, max_bytes=size).select()
    written = sum(len(script_json(part).encode()) for kind in ("items", "cards") for part in found[kind])
    assert size * 0.7 < written <= size * 1.1  # an Item's index and flag are not measured
    assert len(found["cards"]) < found["total"]


def test_a_very_long_text_is_truncated_with_its_full_length(tmp_path):
    long = "a" * (MAX_TEXT_LENGTH + 5)
    run = make_run(tmp_path, 3, texts=(long, "short", "other"), benchmarks=("one",))
    found = JudgmentSample(tmp_path, run).select()["items"][0]["messages"][0]["content"]
    assert found == {"beginning": long[:-5], "length": MAX_TEXT_LENGTH + 5}


def test_a_value_of_zero_is_not_dropped(tmp_path):
    run = make_run(tmp_path, 20)
    numbers = page_data(tmp_path, run)["run"]["results"][4]["numbers"]
    assert any(n["metric"] == "accuracy" and n["value"] == 0.0 and n["low"] == 0.0 for n in numbers)


# --- Markdown and CSV


@given(ANY_TEXT)
def test_a_markdown_cell_is_one_line_without_active_markup(text):
    shown = escape_cell(text)
    assert len(shown.splitlines()) <= 1 and "<" not in shown and ">" not in shown
    bare = shown.replace("\\\\", "")
    assert not [c for before, c in itertools.pairwise(" " + bare) if c in "|`*[]~#@" and before != "\\"]


def test_hostile_texts_do_not_change_the_shape_of_markdown_tables(tmp_path):
    make_run(tmp_path, 12, texts=(*HOSTILE, "a|b", "c\nd"))
    lines = render_markdown(read_run(tmp_path)).splitlines()
    tables = [list(group) for is_row, group in itertools.groupby(lines, lambda line: line.startswith("| ")) if is_row]
    assert len(tables) > 4
    columns = [line.replace("\\|", "").count("|") for line in lines if line.startswith("|:")]
    widths = [{line.replace("\\\\", "").replace("\\|", "").count("|") for line in rows} for rows in tables]
    assert all(len(width) == 1 for width in widths) and set(columns) == {w for width in widths for w in width}


def test_csv_has_a_row_for_each_number_and_no_formula(tmp_path):
    hostile = ("=1+1", "+cmd|' /C calc'!A0", "-2", "@SUM(A1)", "\t=1", 'a "quoted", b', "two\nlines", " =1", "＝1")
    run = make_run(tmp_path, 18, texts=hostile, benchmarks=("one",))
    rows = list(csv.DictReader(io.StringIO(render_csv(run), newline="")))
    numbers = [(r, n) for r in run.results for n in r.numbers]
    assert len(rows) == len(numbers)
    for row, (result, number) in zip(rows, numbers, strict=True):
        assert row["scorer"] == result.label
        assert row["section"] in (number.section, "'" + number.section)
        assert row["section"].lstrip()[:1] not in tuple("=+-@＝")
        assert float(row["value"]) == number.value if number.value is not None else row["value"] == ""
    assert {row["section"] for row in rows} >= {"'=1+1", 'a "quoted", b', "two\nlines"}


# --- plots


def test_plots_are_written_and_reproducible(tmp_path):
    pytest.importorskip("matplotlib")
    run = make_run(tmp_path, 20, scorers=SCORERS[1:4], benchmarks=("one",))
    first = write_plots(run, tmp_path / "one")
    assert {p.name for p in first} == {
        f"{plot}-1-one.{kind}" for plot in ("forest", "heat-map", "reliability", "cost") for kind in ("png", "svg")
    }
    again = write_plots(run, tmp_path / "two")
    assert [p.read_bytes() for p in first if p.suffix == ".svg"] == [
        p.read_bytes() for p in again if p.suffix == ".svg"
    ]


def test_plots_take_names_that_look_like_formulas(tmp_path):
    pytest.importorskip("matplotlib")
    run = make_run(tmp_path, 14, SCORERS[1:3], ("$x^{$",), texts=(*HOSTILE, "$x^{$", "\\frac{1"))
    assert len(write_plots(run, tmp_path / "plots")) == 8


def test_the_error_without_matplotlib_names_the_extra(tmp_path, monkeypatch):
    run = make_run(tmp_path, 5)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(CannotRun, match=r"pip install 'assay\[report\]'"):
        write_plots(run, tmp_path / "plots")


# --- two runs


def test_the_same_run_twice_has_no_changes(tmp_path):
    make_run(tmp_path / "a", 30)
    changes = compare_runs(tmp_path / "a", tmp_path / "a")
    assert changes.versions == changes.settings == ()
    assert all(r.difference == 0 and r.rows == 30 and not r.flips and not r.skip_reason for r in changes.results)


def test_changed_rows_are_those_whose_judgments_were_changed(tmp_path):
    make_run(tmp_path / "a", 30, scorers=SCORERS[1:2], benchmarks=("one",))
    make_run(tmp_path / "b", 30, scorers=SCORERS[1:2], benchmarks=("one",))
    path = tmp_path / "b/judgments/one-0.jsonl"
    rows = list(read_jsonl(path))
    for row in rows[3:5]:
        row["judgments"].reverse()
    path.write_text("".join(json.dumps(row) + "\n" for row in random.Random(1).sample(rows, len(rows))))
    (change,) = compare_runs(tmp_path / "a", tmp_path / "b").results
    assert [flip.id for flip in change.flips] == ["one-3", "one-4"]
    assert all({flip.before, flip.after} == {"right", "wrong"} for flip in change.flips)


def test_different_rows_are_noted_and_not_compared(tmp_path):
    make_run(tmp_path / "a", 30)
    make_run(tmp_path / "b", 31)
    changes = compare_runs(tmp_path / "a", tmp_path / "b")
    assert all("different rows" in r.skip_reason and r.difference is None and not r.flips for r in changes.results)
    assert [d.name for d in changes.settings] == ["limit"]
    assert "digest digest\\-everyday" not in render_changes_markdown(
        changes
    ) and "different rows" in render_changes_html(changes)


def test_a_scorer_in_only_one_run_is_noted(tmp_path):
    make_run(tmp_path / "a", 10, scorers=SCORERS[:2])
    make_run(tmp_path / "b", 10, scorers=SCORERS[1:3])
    reasons = {(r.label, r.skip_reason) for r in compare_runs(tmp_path / "a", tmp_path / "b").results}
    assert reasons == {
        ("bradley-terry-8b", ""),
        ("pairwise-4b", "only in the later run"),
        ("critique-out-loud-8b", "only in the earlier run"),
    }


def test_changes_of_hostile_runs_have_no_markup_from_the_texts(tmp_path):
    make_run(tmp_path / "a", 24, texts=HOSTILE)
    make_run(tmp_path / "b", 24, texts=HOSTILE, seed=5)
    found = parsed(render_changes_html(compare_runs(tmp_path / "a", tmp_path / "b")))
    assert not {tag for tag, _ in found.tags} & {"script", "img", "svg", "a", "b"}
    assert "script-src 'none'" in found.policy


# --- the command


def test_the_command_writes_all_files_and_prints_their_paths(tmp_path):
    make_run(tmp_path / "a", 12, SCORERS[1:3], ("one",))
    result = CliRunner().invoke(app, ["report", str(tmp_path / "a"), "-o", str(tmp_path / "out")])
    assert result.exit_code == 0 and "report.html" in result.output
    assert {p.name for p in (tmp_path / "out").iterdir()} >= {"report.html", "report.md", "numbers.csv"}
    assert not (tmp_path / "a/report.html").exists()


def test_the_command_compares_two_runs(tmp_path):
    make_run(tmp_path / "a", 30)
    make_run(tmp_path / "b", 30, seed=7)
    result = CliRunner().invoke(app, ["report", str(tmp_path / "a"), str(tmp_path / "b")])
    assert result.exit_code == 0 and "right→wrong" in result.output and "bradley-terry-8b" in result.output
    assert (tmp_path / "b/changes.md").exists() and (tmp_path / "b/changes.html").exists()
    quiet = CliRunner().invoke(app, ["report", str(tmp_path / "a"), str(tmp_path / "b"), "--quiet"])
    assert quiet.exit_code == 0 and quiet.output == ""


def test_the_error_for_a_folder_without_a_run_names_the_option(tmp_path):
    with pytest.raises(CannotRun, match="-o folder of assay compare"):
        write_report(tmp_path)
