"""Rules: the checks, invalid files, and hostile texts that make a pattern search without end."""

import json

import pytest
import yaml

from judges import CannotRun, Item, load_scorer
from judges.batch.run import score_file
from judges.scorers import rules
from judges.types import Scale


@pytest.fixture
def scorer(tmp_path):
    def build(*rules):
        file = tmp_path / "rules.yaml"
        file.write_text(yaml.safe_dump({"rules": list(rules)}, allow_unicode=True), encoding="utf-8")
        return load_scorer("rules", file=str(file))

    return build


def judged(scorer, response):
    return scorer.score([Item(id="a", prompt="q", responses=[response])])[0].judgments[0]


@pytest.mark.parametrize(
    ("check", "response", "score"),
    [
        ({"pattern": "cat"}, "a cat sat", 1),
        ({"pattern": "cat"}, "a dog", 0),
        ({"pattern": "cat", "not": True}, "a cat sat", 0),
        ({"pattern": "cat", "not": True}, "", 1),
        ({"pattern": "^2"}, "1\n2", 0),
        ({"pattern": "(?m)^2"}, "1\n2", 1),
        ({"pattern": r"\A1\b"}, "1 the first\n2 the second", 1),
        ({"pattern": "cat", "points": -3}, "cat", -3),
        ({"every_line": r"\d"}, "1 a\nb\n\n2 c\n 3", 0.5),
        ({"every_line": r"\d", "points": 4}, "1\n2\nx\n3", 3),
        ({"every_line": r"\d", "points": -2}, "1\nx", -1),
        ({"every_line": r"\d"}, " \n", 0),
        ({"words": {"at_least": 2, "at_most": 3}}, "one", 0),
        ({"words": {"at_least": 2, "at_most": 3}}, "one - two", 1),
        ({"words": {"at_least": 2, "at_most": 3}}, "one two\nthree", 1),
        ({"words": {"at_least": 2, "at_most": 3}}, "it's well-known: three four", 0),
        ({"words": {"at_most": 0}}, "", 1),
        ({"lines": {"at_most": 2}}, "a\n\n\nb\n", 1),
        ({"lines": {"at_most": 2}}, "a\nb\r\nc", 0),
        ({"sentences": {"at_least": 2}}, "3.5 is less than 4", 0),
        ({"sentences": {"at_least": 2}}, "Is it? (Yes.) ", 1),
        ({"sentences": {"at_least": 2}}, "A title\n\nA sentence over\ntwo lines", 1),
        ({"sentences": {"at_least": 3, "at_most": 3}}, "一。二！三", 1),
    ],
)
def test_a_check_by_hand(scorer, check, response, score):
    assert judged(scorer({"name": "r", **check}), response).score == pytest.approx(score)


def test_points_add_up_and_the_critique_lists_them(scorer):
    rules_scorer = scorer(
        {"name": "starts with 1", "pattern": "^1"},
        {"name": "every line", "every_line": r"\d", "points": 2},
        {"name": "sorry", "pattern": "(?i)sorry", "points": -0.5},
        {"name": "short", "words": {"at_most": 2}, "points": 10},
    )
    assert rules_scorer.scale == Scale(-0.5, 13)
    judgment = judged(rules_scorer, "1 Sorry\nno\n2 x")
    assert judgment.score == pytest.approx(1 + 4 / 3 - 0.5)
    assert judgment.critique == "starts with 1: 1 of 1; every line: 1.33 of 2; sorry: -0.5 of -0.5; short: 0 of 10"
    assert judged(rules_scorer, "2").critique.endswith("sorry: 0 of -0.5; short: 10 of 10")


def test_the_better_of_two_is_preferred_and_ties_stay_ties(scorer):
    rules_scorer = scorer({"name": "r", "pattern": "x"})
    cards = rules_scorer.score(
        [Item(id="a", prompt="q", responses=["x", "y"]), Item(id="b", prompt="q", responses=["x", "x"])]
    )
    assert [card.preference for card in cards] == [(1.0, 0.0), (0.5, 0.5)]


def test_the_identity_depends_on_the_content_not_on_the_path(tmp_path):
    identities = []
    for name, text in (("a", "x"), ("b", "x"), ("c", "y")):
        (tmp_path / name).write_text(f"rules: [{{name: r, pattern: {text}}}]")
        identities.append(load_scorer("rules", file=tmp_path / name).identity())
    assert identities[0] == identities[1] != identities[2] and identities[0]["scorer"] == "rules"


def test_a_run_does_not_resume_with_changed_rules(tmp_path, scorer):
    (tmp_path / "in.jsonl").write_text(json.dumps({"prompt": "q", "response": "x"}) + "\n")
    score_file(str(tmp_path / "in.jsonl"), scorer({"name": "r", "pattern": "x"}), tmp_path / "out.jsonl")
    assert json.loads((tmp_path / "out.jsonl").read_text())["critique"] == "r: 1 of 1"
    with pytest.raises(CannotRun, match="rules_sha256"):
        score_file(str(tmp_path / "in.jsonl"), scorer({"name": "r", "pattern": "y"}), tmp_path / "out.jsonl")


@pytest.mark.parametrize("check", ["pattern", "every_line"])
def test_a_pattern_without_end_times_out_for_its_response_and_names_its_rule(scorer, check, monkeypatch):
    monkeypatch.setattr(rules, "TIMEOUT", 0.5)
    rules_scorer = scorer({"name": "fine", "pattern": "x"}, {"name": "endless", check: "(x|xx)+z(?<!y)|(x+x+)+[yz]"})
    (card,) = rules_scorer.score([Item(id="a", prompt="q", responses=["xz", "x" * 50_000 + " yz"])])
    assert card.judgments[0].score == 2
    failure = card.judgments[1].failure
    assert failure.reason == "timeout" and "rule 'endless'" in failure.message and card.preference is None


def test_counting_hostile_texts_takes_linear_time(scorer):
    counts = [{"name": kind, kind: {"at_most": 1}} for kind in ("words", "lines", "sentences")]
    for text in ("." * 200_000 + "x", ".'" * 100_000 + "x", "\n " * 100_000 + "x", "'" * 200_000, "! " * 100_000):
        assert judged(scorer(*counts), text).score == 3


R = {"name": "r", "pattern": "x"}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "no rules"),
        ("- x", "no rules"),
        ("rules: []", "no rules"),
        ("rules: [", "not YAML"),
        ({"rules": [R], "rule": []}, "unknown key rule; the only key is rules"),
        ({"rules": ["x"]}, "rule 1: a rule is a mapping"),
        ({"rules": [R, {"pattern": "x"}]}, "rule 2: no name"),
        ({"rules": [{"name": 3, "pattern": "x"}]}, "rule 1: no name"),
        ({"rules": [R | {"patern": "x"}]}, r"rule 1 \(r\): unknown key patern; there are name, points"),
        ({"rules": [{"name": "r"}]}, "one check of pattern, .* it has none"),
        ({"rules": [R | {"words": {"at_most": 3}}]}, "it has pattern and words"),
        ({"rules": [R | {"pattern": "(x"}]}, r"rule 1 \(r\): pattern '\(x' is not a regular expression"),
        ({"rules": [R | {"pattern": "(?R)"}]}, "is not a regular expression of Python's"),
        ({"rules": [R | {"pattern": 3}]}, "put it in quotes"),
        ({"rules": [{"name": "r", "every_line": ""}]}, "every_line is a regular expression"),
        ({"rules": [R | {"points": "two"}]}, "points is a number above or below 0, not 'two'"),
        ({"rules": [R | {"points": 0}]}, "above or below 0, not 0"),
        ({"rules": [R | {"points": True}]}, "not True"),
        ({"rules": [R | {"points": float("inf")}]}, "not inf"),
        ({"rules": [R | {"not": "yes"}]}, "not is true or false"),
        ({"rules": [{"name": "r", "lines": {"at_most": 1}, "not": True}]}, "negates a pattern"),
        ({"rules": [R, R]}, "rule 2: the name 'r' is used twice"),
        ({"rules": [{"name": "r", "words": 3}]}, r"words is \{at_least: N, at_most: N\}"),
        ({"rules": [{"name": "r", "words": {}}]}, "whole numbers"),
        ({"rules": [{"name": "r", "words": {"least": 3}}]}, "at_least: N"),
        ({"rules": [{"name": "r", "words": {"at_least": 1.5}}]}, "whole numbers"),
        ({"rules": [{"name": "r", "words": {"at_least": 3, "at_most": 2}}]}, "at_least 3 is above at_most 2"),
    ],
)
def test_an_invalid_file_is_refused_with_its_name_and_the_rule(tmp_path, content, message):
    file = tmp_path / "wrong.yaml"
    file.write_text(content if isinstance(content, str) else yaml.safe_dump(content))
    with pytest.raises(CannotRun, match=f"wrong.yaml.*{message}"):
        load_scorer("rules", file=str(file))


def test_no_file_is_refused():
    with pytest.raises(CannotRun, match="'rules' needs file="):
        load_scorer("rules")
    with pytest.raises(CannotRun, match=r"file=nowhere\.yaml cannot be read"):
        load_scorer("rules", file="nowhere.yaml")
