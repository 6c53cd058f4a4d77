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
from judges.evaluation.metrics import bias
from judges.evaluation.report import compare_runs, write_csv, write_markdown, write_plots, write_report
from judges.evaluation.report.changes import changes_html, changes_markdown
from judges.evaluation.report.data import LONGEST_TEXT, Judgments, page_data, script_json
from judges.evaluation.report.html import SCRIPTS, assembled, page_file, policy
from judges.evaluation.report.markdown import cell
from judges.evaluation.report.outcomes import disagree, outcome, preferences
from judges.evaluation.results import read_jsonl, read_run
from judges.types import Comparison, Failure, Gold, Item, Judgment, Scorecard, to_dict

# Any text, lone surrogates too: what a model or a file may hold.
ANY_TEXT = st.text(alphabet=st.characters(exclude_categories=()))


class Scripts(HTMLParser):
    """The scripts and tags of a page, as a browser would cut them."""

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


# --- texts cannot leave their place


@given(ANY_TEXT)
def test_any_text_comes_back_from_the_page_as_it_was(text):
    page = assembled("title", script_json({"text": text}), script_json([]))
    scripts = dict(parsed(page).scripts)
    assert json.loads(scripts["run-data"]) == {"text": text}
    page.encode("utf-8")


@given(ANY_TEXT)
def test_no_json_in_the_page_holds_an_angle_bracket_an_ampersand_or_a_line_separator(text):
    assert not set(script_json({text: [text]})) & set("<>&\u2028\u2029")


def test_the_page_has_its_three_scripts_and_nothing_from_elsewhere(tmp_path):
    make_run(tmp_path, 12, texts=HOSTILE)
    found = parsed(write_report(tmp_path).read_text(encoding="utf-8"))
    assert [name for name, _ in found.scripts] == ["run-data", "explorer-data", None]
    for tag, attrs in found.tags:
        assert "src" not in attrs and tag not in ("img", "iframe", "object", "embed", "base", "form")
        assert attrs.get("href", "#")[0] == "#" or attrs["href"] == "data:,"
        assert not [name for name in attrs if name.startswith("on") or name == "style"]


def test_the_policy_lets_only_the_pages_own_script_and_style_run():
    found = policy("body {}", "let a = 1;")
    # sha256 of the two, by `printf %s … | openssl dgst -sha256 -binary | base64`
    assert "script-src 'sha256-xY6QKfH9PRsQnLz56nj6MBwiK5oHg+im1Jkpdp1x/Ck='" in found
    assert "style-src 'sha256-YjaKGiklmzC6wjXA513HAMmzus8VE61XCOT+SmwNZWA='" in found
    assert found.startswith("default-src 'none'; ") and "connect-src 'none'" in found
    assert "unsafe" not in found and "*" not in found


def test_no_script_of_the_page_writes_html_or_evaluates_text():
    for name in SCRIPTS:
        source = page_file(name)
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


# --- what a row's outcome is


def item(n=2, comparisons=None, **gold):
    return Item(id="a", prompt="q", responses=["r"] * n, comparisons=comparisons, gold=Gold(**gold) if gold else None)


def scored(*scores, comparisons=()):
    failed = Failure("missing", "no verdict")
    return Scorecard(
        "a", tuple(Judgment(score=s) if s is not None else Judgment(failure=failed) for s in scores), comparisons
    )


def said(one, card):
    return outcome(to_dict(one), to_dict(card))


@pytest.mark.parametrize(
    ("one", "scores", "word", "share"),
    [
        (item(chosen=(0,)), (2, 1), "right", 1),
        (item(chosen=(1,)), (2, 1), "wrong", 0),
        (item(chosen=(0,)), (1, 1), "tie", 0.5),
        (item(chosen=(0,)), (1, None), "failed", None),
        (item(tie=True), (1, 1), "right", 1),
        (item(tie=True), (2, 1), "wrong", 0),
        (item(4, chosen=(0,)), (3, 1, 4, 2), "partly", 2 / 3),
        (item(4, chosen=(0,)), (3, None, 4, 2), "partly", 1 / 2),
        (item(3, ranking=(1, 2, 3)), (3, 2, 1), "right", 1),
        (item(3, ranking=(1, 2, 2)), (3, 1, 2), "right", 1),
        (item(3, scores=(1, 2, 3)), (3, 2, 1), "wrong", 0),
        (item(1, scores=(4,)), (3,), "no gold", None),
        (item(1, scores=(4,)), (None,), "failed", None),
        (item(), (2, 1), "no gold", None),
        (item(3, comparisons=((2, 0),), chosen=(0,)), (2, 5, 1), "right", 1),
    ],
)
def test_outcomes_by_hand(one, scores, word, share):
    found = said(one, scored(*scores))
    assert (found.said, found.share) == (word, pytest.approx(share) if share else share)


def test_a_failure_counts_though_the_row_is_decided():
    lost = Comparison(0, 1, Failure("timeout", "60 s"))
    assert said(item(chosen=(0,)), scored(2, 1, comparisons=(lost,))).failures == 1


OUTCOMES = st.sampled_from(["first", "second", "tie", Failure("missing", "x")])


@given(st.integers(2, 4), st.data())
def test_preferences_are_those_that_bias_reads(n, data):
    scores = data.draw(st.lists(st.sampled_from([None, 1.0, 2.0, 3.0]), min_size=n, max_size=n))
    pairs = data.draw(st.lists(st.sampled_from(list(itertools.permutations(range(n), 2))), max_size=8))
    made = tuple(Comparison(i, j, data.draw(OUTCOMES), data.draw(st.booleans())) for i, j in pairs)
    one, card = item(n), scored(*scores, comparisons=made)
    found = preferences(to_dict(one), to_dict(card))
    for i, j in itertools.combinations(range(n), 2):
        assert found.get((i, j)) == bias.verdict(one, card, i, j)


def test_scorers_disagree_where_one_prefers_each_side_and_not_by_a_tie():
    assert disagree([{(0, 1): 1.0}, {(0, 1): 0.0}])
    assert not disagree([{(0, 1): 1.0}, {(0, 1): 0.5}, {}])
    assert not disagree([{(0, 1): 1.0}, {(0, 2): 0.0}])


# --- what is on the page, and what of it


def test_every_judgment_is_on_the_page_of_a_small_run(tmp_path):
    run = make_run(tmp_path, 20)
    explorer = page_data(tmp_path, run)["explorer"]
    assert len(explorer["items"]) == 40 and len(explorer["cards"]) == explorer["total"] == 40 * len(SCORERS)
    card = explorer["cards"][0]
    told = next(c for c in read_jsonl(tmp_path / "judgments/everyday-0.jsonl") if c["id"] == "everyday-0")
    assert [j.get("score") for j in card["judgments"]] == [j["score"] for j in told["judgments"]]


def test_a_sample_takes_failures_and_disagreements_first_and_is_the_same_each_time(tmp_path):
    run = make_run(tmp_path, 60, scorers=SCORERS[:2], benchmarks=("one",))
    whole = Judgments(tmp_path, run).embedded()
    flagged = {
        i["id"] for p, i in enumerate(whole["items"]) if i["d"] or any(c["i"] == p and c["f"] for c in whole["cards"])
    }
    assert 4 < len(flagged) < 50
    few = Judgments(tmp_path, run, most=2 * len(flagged) - 6).embedded()
    assert {i["id"] for i in few["items"]} < flagged and len(few["items"]) == len(flagged) - 3
    more = Judgments(tmp_path, run, most=2 * len(flagged) + 8).embedded()
    assert flagged < {i["id"] for i in more["items"]} and len(more["items"]) == len(flagged) + 4
    assert more == Judgments(tmp_path, run, most=2 * len(flagged) + 8).embedded()
    assert more != Judgments(tmp_path, run, most=2 * len(flagged) + 8, seed=1).embedded()
    assert more["total"] == 120 and more["flagged"] == {"shown": len(flagged), "all": len(flagged)}


@pytest.mark.parametrize("texts", [(), ("<" * 300, "&>" * 200)])
def test_a_sample_keeps_to_its_bytes_whatever_the_texts_are(tmp_path, texts):
    run = make_run(tmp_path, 120, texts=texts)
    size = 400_000
    found = Judgments(tmp_path, run, size=size).embedded()
    written = sum(len(script_json(part).encode()) for kind in ("items", "cards") for part in found[kind])
    assert size * 0.7 < written <= size * 1.1  # an Item's place and flag are not weighed
    assert len(found["cards"]) < found["total"]


def test_a_very_long_text_is_cut_and_says_how_long_it_was(tmp_path):
    long = "a" * (LONGEST_TEXT + 5)
    run = make_run(tmp_path, 3, texts=(long, "short", "other"), benchmarks=("one",))
    found = Judgments(tmp_path, run).embedded()["items"][0]["messages"][0]["content"]
    assert found == {"beginning": long[:-5], "length": LONGEST_TEXT + 5}


def test_a_value_of_zero_is_a_value(tmp_path):
    run = make_run(tmp_path, 20)
    numbers = page_data(tmp_path, run)["run"]["results"][4]["numbers"]
    assert any(n["metric"] == "accuracy" and n["value"] == 0.0 and n["low"] == 0.0 for n in numbers)


# --- Markdown and CSV


@given(ANY_TEXT)
def test_a_markdown_cell_is_one_line_and_opens_nothing(text):
    shown = cell(text)
    assert len(shown.splitlines()) <= 1 and "<" not in shown and ">" not in shown
    bare = shown.replace("\\\\", "")
    assert not [c for before, c in itertools.pairwise(" " + bare) if c in "|`*[]~#@" and before != "\\"]


def test_markdown_of_a_hostile_run_keeps_its_tables_shape(tmp_path):
    make_run(tmp_path, 12, texts=(*HOSTILE, "a|b", "c\nd"))
    lines = write_markdown(read_run(tmp_path)).splitlines()
    tables = [list(group) for is_row, group in itertools.groupby(lines, lambda line: line.startswith("| ")) if is_row]
    assert len(tables) > 4
    columns = [line.replace("\\|", "").count("|") for line in lines if line.startswith("|:")]
    widths = [{line.replace("\\\\", "").replace("\\|", "").count("|") for line in rows} for rows in tables]
    assert all(len(width) == 1 for width in widths) and set(columns) == {w for width in widths for w in width}


def test_csv_has_a_row_for_each_number_and_runs_no_formula(tmp_path):
    hostile = ("=1+1", "+cmd|' /C calc'!A0", "-2", "@SUM(A1)", "\t=1", 'a "quoted", b', "two\nlines", " =1", "＝1")
    run = make_run(tmp_path, 18, texts=hostile, benchmarks=("one",))
    rows = list(csv.DictReader(io.StringIO(write_csv(run), newline="")))
    numbers = [(r, n) for r in run.results for n in r.numbers]
    assert len(rows) == len(numbers)
    for row, (result, number) in zip(rows, numbers, strict=True):
        assert row["scorer"] == result.label
        assert row["section"] in (number.section, "'" + number.section)
        assert row["section"].lstrip()[:1] not in tuple("=+-@＝")
        assert float(row["value"]) == number.value if number.value is not None else row["value"] == ""
    assert {row["section"] for row in rows} >= {"'=1+1", 'a "quoted", b', "two\nlines"}


# --- plots


def test_plots_are_written_and_the_same_each_time(tmp_path):
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


def test_without_matplotlib_it_is_said_what_to_install(tmp_path, monkeypatch):
    run = make_run(tmp_path, 5)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(CannotRun, match=r"pip install 'assay\[report\]'"):
        write_plots(run, tmp_path / "plots")


# --- two runs


def test_the_same_run_twice_has_no_changes(tmp_path):
    make_run(tmp_path / "a", 30)
    changes = compare_runs(tmp_path / "a", tmp_path / "a")
    assert changes.versions == changes.settings == ()
    assert all(r.difference == 0 and r.rows == 30 and not r.flips and not r.why_not for r in changes.results)


def test_flipped_rows_are_those_whose_lines_were_changed_by_hand(tmp_path):
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


def test_other_rows_are_said_and_not_compared(tmp_path):
    make_run(tmp_path / "a", 30)
    make_run(tmp_path / "b", 31)
    changes = compare_runs(tmp_path / "a", tmp_path / "b")
    assert all("not the same rows" in r.why_not and r.difference is None and not r.flips for r in changes.results)
    assert [d.name for d in changes.settings] == ["limit"]
    assert "digest digest\\-everyday" not in changes_markdown(changes) and "not the same rows" in changes_html(changes)


def test_a_scorer_of_one_run_alone_is_said(tmp_path):
    make_run(tmp_path / "a", 10, scorers=SCORERS[:2])
    make_run(tmp_path / "b", 10, scorers=SCORERS[1:3])
    told = {(r.label, r.why_not) for r in compare_runs(tmp_path / "a", tmp_path / "b").results}
    assert told == {
        ("bradley-terry-8b", ""),
        ("pairwise-4b", "only in the later run"),
        ("critique-out-loud-8b", "only in the earlier run"),
    }


def test_changes_of_hostile_runs_hold_no_markup_of_theirs(tmp_path):
    make_run(tmp_path / "a", 24, texts=HOSTILE)
    make_run(tmp_path / "b", 24, texts=HOSTILE, seed=5)
    found = parsed(changes_html(compare_runs(tmp_path / "a", tmp_path / "b")))
    assert not {tag for tag, _ in found.tags} & {"script", "img", "svg", "a", "b"}
    assert "script-src 'none'" in found.policy


# --- the command


def test_the_command_writes_everything_and_says_where(tmp_path):
    make_run(tmp_path / "a", 12, SCORERS[1:3], ("one",))
    result = CliRunner().invoke(app, ["report", str(tmp_path / "a"), "-o", str(tmp_path / "out")])
    assert result.exit_code == 0 and "report.html" in result.output
    assert {p.name for p in (tmp_path / "out").iterdir()} >= {"report.html", "report.md", "numbers.csv"}
    assert not (tmp_path / "a/report.html").exists()


def test_the_command_tells_two_runs_apart(tmp_path):
    make_run(tmp_path / "a", 30)
    make_run(tmp_path / "b", 30, seed=7)
    result = CliRunner().invoke(app, ["report", str(tmp_path / "a"), str(tmp_path / "b")])
    assert result.exit_code == 0 and "right→wrong" in result.output and "bradley-terry-8b" in result.output
    assert (tmp_path / "b/changes.md").exists() and (tmp_path / "b/changes.html").exists()
    quiet = CliRunner().invoke(app, ["report", str(tmp_path / "a"), str(tmp_path / "b"), "--quiet"])
    assert quiet.exit_code == 0 and quiet.output == ""


def test_a_folder_without_a_run_says_what_to_give(tmp_path):
    with pytest.raises(CannotRun, match="-o folder of assay compare"):
        write_report(tmp_path)
