"""Pairs of judgments: which vote is chosen by what people said, or by who compares them."""

from __future__ import annotations

import json

import pytest
from fakes import FakeEngine

from judges import Item, Judgment, Scorecard, load_scorer
from judges.errors import CannotRun
from judges.preferences.meta_judging import check_trainable, collect_votes, human_judgment_pairs, meta_judged_pairs

# What the fake judge says of a response, vote by vote.
VOTES = {"good": ("Fine.\nScore: 5", "Poor.\nScore: 1", "So so"), "bad": ("Nice.\nScore: 4", "Weak.\nScore: 0", "Hm.")}


def judge(**settings):
    """Three votes; each is told from the others by its seed."""
    scorer = load_scorer("self-rewarding", votes=3, **settings)
    seen: dict[str, list[int]] = {}

    def answer(request):
        if request.choice:
            return " 3"
        text = request.messages[-1]["content"]
        name = next(name for name in VOTES if f"a {name} answer" in text)
        seeds = seen.setdefault(text, [])
        if request.seed not in seeds:
            seeds.append(request.seed)
        return VOTES[name][seeds.index(request.seed)]

    scorer.use_engine(FakeEngine(answer))
    return scorer


def rows(path, *some):
    path.write_text("".join(json.dumps(row) + "\n" for row in some))
    return str(path)


def read(path):
    from datasets import load_dataset

    return load_dataset("parquet", data_files=str(path), split="train").to_list()


def test_every_vote_is_a_text_with_its_verdict_also_where_it_was_forced():
    item = Item(id="a", prompt="Q?", responses=["a good answer", " "])
    (response,) = collect_votes(judge(), iter([item]))
    assert response.index == 0 and "a good answer" in response.prompt[-1]["content"]
    assert response.votes == (("Fine.\nScore: 5", 5.0), ("Poor.\nScore: 1", 1.0), ("So so\nScore: 3", 3.0))


def test_votes_come_in_the_items_order():
    items = [Item(id=str(n), prompt=f"Q{n}?", responses=["a good answer", "a bad answer"]) for n in range(20)]
    assert [(v.item.id, v.index) for v in collect_votes(judge(window=7), iter(items))] == [
        (str(n), i) for n in range(20) for i in range(2)
    ]


def test_of_a_compared_pair_the_better_wants_its_highest_judgment_and_the_worse_its_lowest(tmp_path):
    source = rows(tmp_path / "eft.jsonl", {"prompt": "Q?", "chosen": "a good answer", "rejected": "a bad answer"})
    made = read(human_judgment_pairs(source, judge(), tmp_path, lambda _: None))
    assert [(row["chosen"][0]["content"], row["rejected"][0]["content"]) for row in made] == [
        ("Fine.\nScore: 5", "Poor.\nScore: 1"),
        ("Weak.\nScore: 0", "Nice.\nScore: 4"),
    ]
    assert all(row["score_chosen"] > row["score_rejected"] for row in made)
    assert "a good answer" in made[0]["prompt"][-1]["content"]


def test_of_a_scored_response_the_nearest_judgment_is_chosen(tmp_path):
    source = rows(
        tmp_path / "eft.jsonl", {"prompt": "Q?", "responses": ["a good answer", "a bad answer"], "scores": [3, 1]}
    )
    made = read(human_judgment_pairs(source, judge(), tmp_path, lambda _: None))
    assert [(row["chosen"][0]["content"], row["rejected"][0]["content"]) for row in made] == [
        ("So so\nScore: 3", "Fine.\nScore: 5"),
        ("Weak.\nScore: 0", "Nice.\nScore: 4"),
    ]


def test_meta_judging_takes_the_judgment_that_wins(tmp_path):
    candidates = {"row": 1, "id": "a", "prompt": "Q?", "responses": ["a good answer"], "score": 3.0, "failure": None}
    (tmp_path / "candidates.jsonl").write_text(json.dumps(candidates | {"votes": [5.0, 1.0, 3.0]}) + "\n")
    made = meta_judged_pairs(tmp_path, judge(), Prefers(), {}, lambda _: None)
    (row,) = read(made)
    assert row["chosen"][0]["content"] == "Fine.\nScore: 5" and row["rejected"][0]["content"] == "Poor.\nScore: 1"
    assert "a good answer" in row["prompt"][-1]["content"]


class Prefers(load_scorer("length").__class__):
    """Some words are better than others."""

    name = "prefers"

    def stream(self, items):
        for item in items:
            worth = [("Fine" in text) - ("Poor" in text) for text in item.responses]
            yield Scorecard(id=item.id, judgments=tuple(Judgment(score=float(score)) for score in worth))


def test_a_judge_of_one_vote_or_none_is_refused():
    for scorer in (load_scorer("length"), load_scorer("self-rewarding", votes=1)):
        with pytest.raises(CannotRun, match="votes=2 or more"):
            check_trainable(scorer)


def test_nothing_is_taught_where_the_votes_agree(tmp_path):
    scorer = load_scorer("self-rewarding", votes=2)
    scorer.use_engine(FakeEngine(lambda request: "Same.\nScore: 2"))
    source = rows(tmp_path / "eft.jsonl", {"prompt": "Q?", "chosen": "a good answer", "rejected": "a bad answer"})
    assert human_judgment_pairs(source, scorer, tmp_path, lambda _: None) is None
