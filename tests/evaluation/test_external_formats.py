"""Output files of RewardBench and JudgeBench, in the forms that their scripts write."""

import json

import pytest

from judges import Item
from judges.errors import CannotRun
from judges.evaluation.recorded_judgments import RecordedJudgments
from judges.types import Comparison, Gold

PUBLISHED = {
    "arena_hard--o1-mini-2024-09-12": 65.71,
    "reward_model--Skywork_Skywork-Reward-Gemma-2-27B": 64.29,
    "reward_model--internlm_internlm2-20b-reward": 63.43,
}


def pair(name, right=0, subset=None, responses=("good", "bad")):
    shown = responses if right == 0 else responses[::-1]
    return Item(id=name, prompt=name, responses=shown, subset=subset, gold=Gold(chosen=(right,)))


def write_rows(folder, *rows):
    path = folder / "other.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def card(folder, row, item):
    return RecordedJudgments(write_rows(folder, row)).score([item])[0]


def scores(card):
    return [j.score if j.failure is None else j.failure.reason for j in card.judgments]


# -- JudgeBench --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name, overall", PUBLISHED.items())
def test_published_judges_get_their_published_score(shared_data, name, overall):
    from judges.evaluation.benchmarks.judgebench import load

    benchmark = load(str(shared_data / "judgebench_gpt.jsonl"))
    judge = RecordedJudgments(shared_data / "judgebench_outputs" / f"{name}.jsonl.gz")
    cards = {card.id: card for card in judge.score(benchmark.items)}
    assert judge.share_found(benchmark.items) == 1
    assert 100 * benchmark.official(benchmark.items, cards).value("overall") == pytest.approx(overall, abs=0.005)


@pytest.mark.parametrize("name, overall", PUBLISHED.items())
def test_they_get_it_too_where_the_right_response_comes_first(shared_data, name, overall):
    """Aligned by their texts, in a copy that does not keep the order."""
    from judges.data.rows import read_rows
    from judges.evaluation.benchmarks.judgebench import official

    items = [row.item for row in read_rows(str(shared_data / "judgebench_gpt.jsonl"))]
    assert {item.gold.chosen for item in items} == {(0,)}
    judge = RecordedJudgments(shared_data / "judgebench_outputs" / f"{name}.jsonl.gz")
    cards = {card.id: card for card in judge.score(items)}
    assert 100 * official(items, cards).value("overall") == pytest.approx(overall, abs=0.005)


def judged(*decisions, scores=None, **more):
    entries = [{"decision": d, "judgment": {"judge_model": "m", "response": "because"}} for d in decisions]
    for entry, pair_of_scores in zip(entries, scores or (), strict=False):
        entry["judgment"] |= {"scores": pair_of_scores, "response": ""}
    texts = {"response_A": "good", "response_B": "bad", "label": "A>B"}
    return {"pair_id": "p", "judgments": entries, **texts, **more}


BOTH = (Comparison(0, 1, "first"), Comparison(0, 1, "first", swapped=True))


def test_two_orders_are_flipped_back(tmp_path):
    result = card(tmp_path, judged("A>B", "B>A"), pair("p"))
    assert result.comparisons == BOTH and scores(result) == [1, 0]
    assert result.judgments[0].completions == ("because", "because")


def test_the_other_order_in_the_item_is_the_same_verdict(tmp_path):
    result = card(tmp_path, judged("A>B", "B>A"), pair("p", right=1))
    assert scores(result) == [0, 1]
    assert result.comparisons == (Comparison(0, 1, "second", swapped=True), Comparison(0, 1, "second"))


def test_a_tie_a_single_order_and_no_decision(tmp_path):
    assert scores(card(tmp_path, judged("A>B", "A=B"), pair("p"))) == [0.5, 0.5]
    single = card(tmp_path, judged("B>A"), pair("p"))
    assert scores(single) == [0, 1] and single.comparisons == (Comparison(0, 1, "second"),)
    failed = card(tmp_path, judged("A>B", None), pair("p"))
    assert scores(failed) == ["missing", "missing"] and failed.comparisons[1].outcome.reason == "missing"
    assert scores(card(tmp_path, judged("A>B") | {"judgments": [None, None]}, pair("p"))) == ["missing", "missing"]


def test_a_reward_model_keeps_its_scores_and_what_it_decided(tmp_path):
    result = card(tmp_path, judged("A>B", "B>A", scores=[[3, 1], [1.5, 3.5]]), pair("p", right=1))
    assert scores(result) == [1.25, 3.25] and result.judgments[1].votes == (3, 3.5)
    assert result.preference == (0, 1)


def test_equal_rewards_that_it_calls_b_over_a_twice_are_wrong_by_the_official_rule(tmp_path):
    from judges.evaluation.benchmarks.judgebench import official

    result = card(tmp_path, judged("B>A", "B>A", scores=[[1, 1], [1, 1]]), pair("p"))
    assert official([pair("p")], {"p": result}).value("overall") == 0


@pytest.mark.parametrize(
    "row, what",
    [
        (judged("A>B", "B>A", label="B>A"), "the row's label is not the gold of item 'p'"),
        (judged("A>B", "B>A", label="A"), "label must be A>B or B>A, not 'A'"),
        (judged("A>B", "B>A", response_B="other"), "the row's responses are not those of item 'p'"),
        (judged("A over B"), "a verdict must be a, b, tie"),
        (judged("A>B", "B>A", "A>B"), "one or two"),
        (judged("A>B") | {"judgments": [{"verdict": "A>B"}]}, "a judgment has no decision"),
        (judged("A>B", pair_id=None), "pair_id must be a text or a whole number"),
    ],
)
def test_a_wrong_row_of_judgebench_is_named(tmp_path, row, what):
    with pytest.raises(CannotRun, match=rf"other\.jsonl, row 1: .*{what}"):
        card(tmp_path, row, pair("p"))


# -- RewardBench -------------------------------------------------------------------------------------------


def columns(**more):
    """As run_rm.py writes them: one object, a list for each column, the rest for the whole file."""
    return {
        "id": [30, 31, 32],
        "subset": ["alpacaeval-easy", "alpacaeval-easy", "hep-go"],
        "text_chosen": ["t"] * 3,
        "text_rejected": ["t"] * 3,
        "results": [1, 0, 0],
        "scores_chosen": [2.5, -1.0, 0.5],
        "scores_rejected": [1.5, [3.0], 0.5],
        "model": "acme/reward",
        "model_type": "Seq. Classifier",
        **more,
    }


ITEMS = [pair("30", 0, "alpacaeval-easy"), pair("31", 1, "alpacaeval-easy"), pair("32", 0, "hep-go")]


def test_columns_of_rewardbench_are_rows(tmp_path):
    (tmp_path / "scores.json").write_text(json.dumps(columns(), indent=4))
    judge = RecordedJudgments(tmp_path / "scores.json")
    assert [scores(c) for c in judge.score(ITEMS)] == [[2.5, 1.5], [3, -1], [0.5, 0.5]]
    assert judge.model == judge.identity()["model"] == "acme/reward"


def test_results_alone_are_verdicts_and_their_mean_is_the_official_one(tmp_path):
    from judges.evaluation.benchmarks.rewardbench import official

    document = columns(results=[1, 0, 0.5], scores_chosen=[None] * 3, scores_rejected=[None] * 3)
    (tmp_path / "scores.json").write_text(json.dumps(document))
    cards = {c.id: c for c in RecordedJudgments(tmp_path / "scores.json").score(ITEMS)}
    assert [scores(c) for c in cards.values()] == [[1, 0], [1, 0], [0.5, 0.5]]
    tally = official(ITEMS, cards)
    assert tally.means["alpacaeval-easy"].value == 0.5 and tally.means["hep-go"].value == 0.5


def test_a_list_of_rows_is_read_too(tmp_path):
    rows = [{"id": 30, "subset": "alpacaeval-easy", "results": 1, "scores_chosen": 2, "scores_rejected": 1}]
    (tmp_path / "scores.json").write_text(json.dumps(rows))
    assert scores(RecordedJudgments(tmp_path / "scores.json").score(ITEMS[:1])[0]) == [2, 1]


def test_an_id_that_two_subsets_share_is_numbered_as_the_benchmark_does(tmp_path):
    rows = [
        {"id": 7, "subset": subset, "chosen": "good", "rejected": "bad", "prompt": "p"}
        for subset in ("alpacaeval-easy", "hep-go")
    ]
    from judges.evaluation.benchmarks.rewardbench import load

    benchmark = load(str(write_rows(tmp_path, *rows)))
    document = [
        {"id": 7, "subset": row["subset"], "results": 1, "scores_chosen": 2 + i, "scores_rejected": i}
        for i, row in enumerate(rows)
    ]
    (tmp_path / "scores.json").write_text(json.dumps(document))
    cards = RecordedJudgments(tmp_path / "scores.json").score(benchmark.items)
    assert [scores(c) for c in cards] == [[2, 0], [3, 1]]


@pytest.mark.parametrize(
    "row, what",
    [
        ({"results": 2}, "results must be 1, 0 or 0.5, not 2"),
        ({"results": True}, "results must be 1, 0 or 0.5, not True"),
        ({"results": [1]}, "results must be 1, 0 or 0.5"),
        ({"results": 0, "scores_chosen": 2, "scores_rejected": 1}, "results is 0, and the scores are 2 and 1"),
        ({"results": 1, "scores_chosen": 1, "scores_rejected": 1}, "results is 1, and the scores are 1 and 1"),
        ({"results": 1, "scores_chosen": "x", "scores_rejected": 1}, "a score must be a number"),
        ({"results": 1, "subset": "hep-go"}, "the row has subset 'hep-go', and item '30' has 'alpacaeval-easy'"),
    ],
)
def test_a_wrong_row_of_rewardbench_is_named(tmp_path, row, what):
    with pytest.raises(CannotRun, match=rf"other\.jsonl, row 1: .*{what}"):
        card(tmp_path, {"id": 30, "subset": "alpacaeval-easy", **row}, ITEMS[0])


@pytest.mark.parametrize("text", ["{", "3", "{}", '{"id": [1], "results": [1, 0]}', '"text"'])
def test_a_json_file_of_another_shape_is_refused(tmp_path, text):
    (tmp_path / "scores.json").write_text(text)
    with pytest.raises(CannotRun, match=r"scores\.json"):
        RecordedJudgments(tmp_path / "scores.json")
