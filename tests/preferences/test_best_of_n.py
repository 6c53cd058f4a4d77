"""The best of N: what is taken, what the best of n is worth, and the command that tells."""

import asyncio
import itertools
import json
import math
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from judges import CannotRun
from judges.batch.output import ScoreOptions
from judges.cli.best import BestConfig, run
from judges.engines import registry
from judges.engines.base import Completion, Engine, Generation, RequestFailed
from judges.engines.store import request_digest
from judges.preferences.best_of_n import (
    CandidateScores,
    best_row,
    compute_curve,
    expected_best,
    kl_bound,
    select_best,
    write_plot,
)
from judges.preferences.scored_candidates import Candidate, ScoredRow, parse_scored_row
from judges.scorers.baselines import Length, Random
from judges.types import Failure, Usage

ASSAY = [sys.executable, "-c", "from judges.cli import main; main()"]
BROKEN = Failure("timeout", "too slow")


def rows(path, *made):
    path.write_text("".join(json.dumps(r) + "\n" for r in made))
    return str(path)


def read(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def best(source, output, spec="length", measure=None, candidates=None, policy=None, **options):
    run(
        BestConfig(str(source), spec, output, measure, candidates, policy, ScoreOptions(ordered=True, **options)),
        quiet=True,
    )


# -- the estimator --------------------------------------------------------------------------------------------


def test_the_best_of_two_of_three_by_hand():
    assert expected_best([1, 2, 4]) == pytest.approx([7 / 3, 10 / 3, 4])
    assert expected_best([5.0]) == pytest.approx([5])


def test_kl_by_hand():
    assert kl_bound(1) == 0 and kl_bound(4) == pytest.approx(math.log(4) - 0.75) and round(kl_bound(4), 3) == 0.636


def by_brute_force(picking, measured, n):
    """The mean over all subsets of what the measuring scorer says of the best, level ones at their mean."""
    found = []
    for subset in itertools.combinations(range(len(picking)), n):
        top = max(picking[i] for i in subset)
        level = [measured[i] for i in subset if picking[i] == top]
        found.append(sum(level) / len(level))
    return sum(found) / len(found)


few = st.integers(-3, 3).map(float)  # so that many are level


@settings(deadline=None)
@given(st.lists(st.tuples(few, st.floats(-1e3, 1e3)), min_size=1, max_size=7))
def test_the_estimator_is_the_mean_over_all_subsets(pairs):
    picking, measured = [p for p, _ in pairs], [m for _, m in pairs]
    sizes = range(1, len(pairs) + 1)
    assert expected_best(picking) == pytest.approx([by_brute_force(picking, picking, n) for n in sizes])
    wanted = [by_brute_force(picking, measured, n) for n in sizes]
    assert expected_best(picking, measured) == pytest.approx(wanted, abs=1e-9)


def test_many_candidates_keep_their_precision():
    scores = np.arange(1000.0)
    sizes = np.arange(1, 1001)
    assert expected_best(list(scores)) == pytest.approx(
        sizes * 1001 / (sizes + 1) - 1
    )  # of uniform ranks, in closed form


# -- the curve ------------------------------------------------------------------------------------------------


def scored(row, scores, texts="t", prompt=None):
    return CandidateScores(row, prompt or f"p{row}", texts, tuple(scores))


def test_a_curve_is_the_mean_over_prompts_with_an_interval_that_holds_it():
    curve = compute_curve([scored(1, [1, 2, 4]), scored(2, [0, 0, 3]), scored(3, [5, 5, 5])])
    assert [p.n for p in curve.points] == [1, 2, 3] and curve.candidates == 3 and curve.prompts == 3
    assert [p.picked.value for p in curve.points] == pytest.approx([(7 / 3 + 1 + 5) / 3, (10 / 3 + 2 + 5) / 3, 4])
    assert all(p.picked.low < p.picked.value < p.picked.high and p.measured is None for p in curve.points)


def test_student_t_by_hand_for_scores_that_could_be_taken_for_shares():
    curve = compute_curve([scored(row, [value, value]) for row, value in enumerate([0.1, 0.5, 0.6, 0.4, 0.9])])
    values = np.array([0.1, 0.5, 0.6, 0.4, 0.9])
    half = 2.7764451 * values.std(ddof=1) / math.sqrt(5)
    one = curve.points[0].picked
    assert (one.low, one.high) == pytest.approx((0.5 - half, 0.5 + half), rel=1e-4)


def test_prompts_that_are_not_whole_are_left_out_and_counted():
    rows = [scored(1, [1, 2]), scored(2, [1, None]), scored(3, [1, 2, 3]), scored(4, []), scored(5, [3, 4])]
    curve = compute_curve(rows)
    assert curve.prompts == 2 and curve.candidates == 2 and curve.points[1].picked.value == 3
    assert curve.left_out == {"a candidate has no score": 2, "another number of candidates than 2": 1}
    assert curve.points[0].picked.low is None, "two prompts are too few for an interval"
    assert compute_curve([scored(1, [None])]) is None


def test_what_was_not_measured_or_measured_on_other_texts_is_left_out():
    rows = [scored(row, [1, 2]) for row in range(4)]
    other = {0: scored(0, [9, 7]), 1: scored(1, [9, None]), 2: scored(2, [9, 7], texts="others")}
    curve = compute_curve(rows, other)
    assert curve.prompts == 1 and curve.left_out == {"a candidate was not measured": 3}
    assert [p.measured.value for p in curve.points] == [8, 7]


def test_a_plot_is_drawn_for_one_scorer_and_for_two(tmp_path):
    rows = [scored(row, [row, row + 1, 2 * row]) for row in range(5)]
    for name, measured in (("one", None), ("two", {s.row: s for s in rows})):
        write_plot(compute_curve(rows, measured), "a $scorer", measured and "other", tmp_path / f"{name}.png")
        assert (tmp_path / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    assert len(list(tmp_path.iterdir())) == 2


# -- what is taken --------------------------------------------------------------------------------------------


def test_the_highest_score_is_taken_the_earliest_of_several_and_never_a_failure():
    def taken(*pairs):
        return select_best(ScoredRow(1, "a", None, tuple(Candidate(text, score) for text, score in pairs)))

    assert taken(("x", 1.0), ("y", 2.0)).index == 1
    assert (taken(("x", 2.0), ("y", 2.0)).index, taken(("x", 2.0), ("y", 2.0)).tied) == (0, True)
    assert not taken(("x", 2.0), ("x", 2.0)).tied, "the same text twice is no tie"
    assert taken(("x", BROKEN), ("y", -1.0)).index == 1
    assert (taken(("x", BROKEN), ("y", BROKEN)).index, taken(("x", BROKEN)).failure) == (None, BROKEN)


def test_the_row_has_the_inputs_columns_and_the_best_in_place_of_the_candidates():
    columns = {"prompt": "p", "mine": 1, "score": 9, "of": "x", "input.scores": [1, 2], "responses": ["a", "b"]}
    columns |= {"row": 3, "id": "i", "scores": [1.0, 2.0], "failures": [None, None], "votes": [[], []], "usage": None}
    del columns["score"]
    made = best_row(columns, select_best(parse_scored_row(columns, {})), {})
    assert made == {
        **{"prompt": "p", "mine": 1, "input.of": "x", "input.scores": [1, 2]},
        **{"row": 3, "id": "i", "response": "b", "score": 2.0, "of": 2, "place": 1, "failure": None},
    }


# -- the command ----------------------------------------------------------------------------------------------


def test_the_command_end_to_end(tmp_path):
    source = rows(
        tmp_path / "in.jsonl",
        *(
            {"id": f"r{i}", "prompt": f"p {i}", "answers": ["x" * (i + k) for k in (1, 3, 2)], "mine": i}
            for i in range(6)
        ),
        {"prompt": "level", "answers": ["ab", "cd", "e"]},
    )
    command = ["best", source, "--scorer", "length", "--measure", "random", "--map", "responses=answers"]
    told = subprocess.run(
        [*ASSAY, *command, "-o", str(tmp_path / "best.jsonl")], capture_output=True, text=True, timeout=120
    )
    assert told.returncode == 0, told.stderr
    made = read(tmp_path / "best.jsonl")
    assert [r["response"] for r in made] == ["x" * (i + 3) for i in range(6)] + ["ab"]
    assert made[2] == {
        **{"id": "r2", "prompt": "p 2", "mine": 2, "row": 3},
        **{"response": "xxxxx", "score": 5.0, "of": 3, "place": 1, "failure": None},
    }
    assert "the best response for 7 of 7 prompts" in told.stderr
    assert "1 prompts have different responses with the best score" in told.stderr
    assert "score by length" in told.stdout and "score by random" in told.stdout and "0.43" in told.stdout  # KL of 3
    curve = json.loads((tmp_path / "best.curve.json").read_text())
    assert curve["prompts"] == 7 and curve["left_out"] == {} and [p["n"] for p in curve["points"]] == [1, 2, 3]
    assert curve["points"][2]["picked"]["value"] == pytest.approx((sum(range(3, 9)) + 2) / 7)
    assert 0 < curve["points"][0]["measured"]["value"] < 1 and (tmp_path / "best.curve.png").exists()
    assert next(r["scores"] for r in read(tmp_path / "best.candidates.jsonl")) == [1, 3, 2]


def test_a_second_run_judges_nothing_again_and_more_rows_go_on(tmp_path, monkeypatch):
    source = rows(tmp_path / "in.jsonl", *({"prompt": f"p {i}", "responses": ["a", "bb"]} for i in range(5)))
    asked = []
    for scorer in (Length, Random):
        old = scorer.stream
        spy = lambda self, items, old=old: old(self, (asked.append((self.name, i.id)) or i for i in items))  # noqa: E731
        monkeypatch.setattr(scorer, "stream", spy)
    best(source, tmp_path / "o.jsonl", measure="random", limit=3)
    assert len(asked) == 6 and len(read(tmp_path / "o.jsonl")) == 3
    best(source, tmp_path / "o.jsonl", measure="random", limit=3)
    assert len(asked) == 6
    best(source, tmp_path / "o.jsonl", measure="random")
    assert len(asked) == 10 and len(set(asked)) == 10 and len(read(tmp_path / "o.jsonl")) == 5
    with pytest.raises(CannotRun, match="made with other settings"):
        best(source, tmp_path / "o.jsonl", spec="random")


class Writer(Engine):
    """Answers with the prompt, k times the k-th; counts what it was asked."""

    name = model = "fake"

    def __init__(self):
        self.asked = []

    async def complete(self, request):
        self.asked.append(request_digest(request))
        await asyncio.sleep(0)
        text = request.messages[-1]["content"]
        if text == "broken":
            raise RequestFailed("timeout", "too slow")
        return Completion(tuple(Generation(text * k, "stop") for k in range(request.n)), Usage(1, 0, 1, 0.0))

    async def log_likelihood(self, *_):
        raise NotImplementedError


def test_a_policy_writes_once_and_both_scorers_judge_the_same(tmp_path, monkeypatch):
    writer = Writer()
    monkeypatch.setattr(registry, "_build", lambda *_: writer)
    source = rows(tmp_path / "in.jsonl", *({"prompt": p, "response": None} for p in ("ab", "c", "def")))
    best(source, tmp_path / "o.jsonl", measure="random", candidates=3, policy="fake,engine=transformers")
    assert len(writer.asked) == 3
    made = read(tmp_path / "o.jsonl")
    assert next((r["response"], r["score"], r["of"], r["place"]) for r in made) == ("abab", 4, 3, 2)
    assert not any("generation" in r or "responses" in r for r in made)
    drawn, again = (read(tmp_path / f"o.{kind}.jsonl") for kind in ("candidates", "measured"))
    assert [r["responses"] for r in drawn] == [r["responses"] for r in again]
    assert json.loads((tmp_path / "o.curve.json").read_text())["prompts"] == 3


def test_a_prompt_of_which_nothing_has_a_score_is_a_row_with_its_reason_and_the_exit_is_1(
    tmp_path, monkeypatch, capsys
):
    import typer

    monkeypatch.setattr(registry, "_build", lambda *_: Writer())
    source = rows(tmp_path / "in.jsonl", {"prompt": "ab"}, {"prompt": "broken"}, {"response": "no prompt"})
    with pytest.raises(typer.Exit) as stopped:
        wanted = BestConfig(
            source, "length", tmp_path / "o.jsonl", None, 2, "fake,engine=vllm", ScoreOptions(ordered=True)
        )
        run(wanted, quiet=False)
    assert stopped.value.exit_code == 1
    made = read(tmp_path / "o.jsonl")
    assert [r["response"] for r in made] == ["ab", None, None]
    assert [r["failure"] and r["failure"]["reason"] for r in made] == [None, "timeout", "empty"]
    assert [(r["of"], r["place"], r["score"]) for r in made] == [(2, 1, 2), (0, None, None), (0, None, None)]
    said = capsys.readouterr().err
    assert (
        "the best response for 1 of 3 prompts" in said
        and "1 timeout, 1 empty" in said
        and "left out of the curve: 2" in said
    )


def test_rows_in_other_forms_and_other_formats(tmp_path):
    turn = [{"role": "user", "content": "q"}]
    source = rows(
        tmp_path / "in.jsonl",
        {"messages": turn, "responses": ["a", "bb"], "response": "mine"},
        {
            "chosen": [*turn, {"role": "assistant", "content": "x"}],
            "rejected": [*turn, {"role": "assistant", "content": "yy"}],
        },
    )
    best(source, tmp_path / "o.csv")
    assert (tmp_path / "o.csv").read_text().count("\n") == 3
    best(source, tmp_path / "p.jsonl")
    first, second = read(tmp_path / "p.jsonl")
    assert first["messages"] == turn and first["response"] == "bb" and first["input.response"] == "mine"
    assert second["prompt"] == turn and second["response"] == "yy" and "chosen" not in second


@pytest.mark.parametrize(
    ("made", "asked", "says"),
    [
        ({"prompt": "p"}, {}, "no responses; --candidates N lets a model"),
        ({"prompt": "p", "response": "r"}, {}, "one response a row"),
        ({"prompt": "p", "response": "r"}, {"candidates": 2, "policy": "fake"}, "one response a row"),
        ({"prompt": "p", "responses": ["r", "s"]}, {"policy": "fake"}, "say how many with --candidates"),
        ({"prompt": "p"}, {"candidates": 2}, "name a model that does with --policy"),
        ({"prompt": "p", "responses": ["r", "s"]}, {"spec": "lenght"}, "unknown scorer 'lenght'"),
        ({"prompt": "p", "responses": ["r", "s"]}, {"measure": "lenght"}, "unknown scorer 'lenght'"),
        ({"prompt": "p", "responses": ["r", "s"]}, {"output": "o.txt"}, "it needs a file; there are"),
        ({"prompt": "p", "responses": ["r", "s"]}, {"output": "-"}, "it needs a file"),
        ({"prompt": "p", "responses": ["r", "s"]}, {"output": "in.jsonl"}, "is the input itself"),
        ({"prompt": "p", "responses": ["r", "s"]}, {"output": "there.jsonl"}, "is not of assay best"),
        ({"prompt": "p", "responses": ["r", "s"]}, {"source": "-", "measure": "random"}, "a file in place of -"),
        ({"prompt": "p", "responses": ["r", "s"]}, {"source": "."}, "is a folder"),
        ({"prompt": "p", "responses": ["r", "s"]}, {"source": "nowhere.jsonl"}, "no file 'nowhere.jsonl'"),
    ],
)
def test_what_cannot_run_says_what_to_do_and_judges_nothing(tmp_path, monkeypatch, made, asked, says):
    from pathlib import Path

    monkeypatch.chdir(tmp_path)
    rows(tmp_path / "in.jsonl", made)
    (tmp_path / "there.jsonl").write_text("{}\n")
    asked = {"source": "in.jsonl", "output": "o.jsonl"} | asked
    with pytest.raises(CannotRun, match=says):
        best(asked.pop("source"), Path(asked.pop("output")), **asked)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.jsonl", "there.jsonl"]


def test_without_matplotlib_the_numbers_are_there_and_one_line_says_why_no_plot(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    source = rows(tmp_path / "in.jsonl", {"prompt": "p", "responses": ["a", "bb"]})
    run(BestConfig(source, "length", tmp_path / "o.jsonl", None, None, None, ScoreOptions(ordered=True)), quiet=False)
    assert (tmp_path / "o.curve.json").exists() and not (tmp_path / "o.curve.png").exists()
    assert "no plot: plots need matplotlib" in capsys.readouterr().err


def test_help_has_an_example():
    told = subprocess.run([*ASSAY, "best", "--help"], capture_output=True, text=True, timeout=120)
    assert told.returncode == 0 and "Example: assay best" in told.stdout
