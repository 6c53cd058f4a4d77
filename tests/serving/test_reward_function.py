"""Reward functions: one reward per completion, None for a Failure, one Item per prompt."""

from __future__ import annotations

import logging

import pytest
from fakes import FakeEngine, use

from judges import CannotRun, Failure, Judgment, Scorecard, load_scorer
from judges.scorer import Scorer
from judges.types import REAL_LINE


class RecordingScorer(Scorer):
    """Records the Items; a response of digits scores its number, any other is a Failure."""

    name = "recording"
    scale = REAL_LINE

    def __init__(self):
        self.items = []

    def stream(self, items):
        for item in items:
            self.items.append(item)
            missing = Judgment(failure=Failure("missing", "no number"))
            yield Scorecard(
                item.id, tuple(Judgment(score=float(r)) if r.isdigit() else missing for r in item.responses)
            )


def user(text):
    return [{"role": "user", "content": text}]


def assistant(text):
    return [{"role": "assistant", "content": text}]


def test_completions_of_one_prompt_are_one_item_and_rewards_keep_their_order():
    scorer = RecordingScorer()
    prompts, completions = ["a", "a", "b", "a", "b"], ["1", "2", "3", "4", "5"]
    assert scorer.as_reward_function()(prompts=prompts, completions=completions) == [1, 2, 3, 4, 5]
    assert [(i.prompt, i.responses) for i in scorer.items] == [("a", ("1", "2", "4")), ("b", ("3", "5"))]


def test_a_prompt_with_another_reference_is_another_item():
    scorer = RecordingScorer()
    reward = scorer.as_reward_function(reference="solution")
    rewards = reward(prompts=["a"] * 3, completions=["1", "2", "3"], solution=["x", 7, "x"], rubric=["r", "r", "r"])
    assert rewards == [1, 2, 3]
    assert [(i.reference, i.rubric, i.responses) for i in scorer.items] == [("x", "r", ("1", "3")), ("7", "r", ("2",))]


def test_messages_and_text_give_the_same_item():
    scorer = RecordingScorer()
    reward = scorer.as_reward_function()
    blocks = [{"role": "user", "content": [{"type": "text", "text": "Hi "}, {"type": "text", "text": "there"}]}]
    assert reward(
        prompts=["Hi there", user("Hi there"), blocks], completions=["1", assistant("2"), assistant("3")]
    ) == [1, 2, 3]
    assert [i.responses for i in scorer.items] == [("1", "2", "3")]


def test_a_completion_that_called_a_tool_is_judged_by_its_last_message():
    turns = [*assistant("I look it up."), {"role": "tool", "content": "8"}, *assistant("9")]
    assert RecordingScorer().as_reward_function()(prompts=[user("q")], completions=[turns]) == [9.0]


@pytest.mark.parametrize(
    ("prompt", "completion"),
    [
        ("q", []),
        ("q", None),
        ("q", [{"role": "tool", "content": "9"}]),
        ("q", [{"role": "assistant", "content": [{"type": "image", "image": "x"}]}]),
        ("q", [{"role": "assistant", "content": None, "tool_calls": []}]),
        ("q", "half \ud800 of a pair"),
        (None, "9"),
        ("", "9"),
        ([], "9"),
        ([{"role": "tool", "content": "x"}], "9"),
        ([{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "what is it?"}]}], "9"),
        ([5], "9"),
    ],
)
def test_an_unreadable_sample_is_none_and_the_others_are_scored(prompt, completion):
    assert RecordingScorer().as_reward_function()(prompts=[prompt, "fine"], completions=[completion, "9"]) == [
        None,
        9.0,
    ]


def test_a_failure_is_none_and_its_reason_and_share_are_logged(caplog):
    logged = {}
    reward = RecordingScorer().as_reward_function(name="custom")
    with caplog.at_level(logging.WARNING):
        rewards = reward(prompts=["a", "a"], completions=["5", "no"], log_metric=logged.__setitem__, trainer_state=None)
    assert rewards == [5.0, None]
    assert logged == {"rewards/custom/failed": 0.5}
    assert "custom: 1 of 2 completions have no reward (1 missing); the first: no number" in caplog.text
    reward(prompts=["a"], completions=["5"], log_metric=logged.__setitem__)
    assert logged == {"rewards/custom/failed": 0.0}


def test_if_nothing_can_be_scored_all_are_none():
    assert RecordingScorer().as_reward_function()(prompts=["a", "b"], completions=["x", "y"]) == [None, None]
    assert RecordingScorer().as_reward_function()(prompts=[], completions=[]) == []


def test_a_comparing_judge_gives_each_completion_its_win_rate_in_the_group():
    short, long = "x" * 5, "y" * 9
    judge = load_scorer("pairwise")

    def longer(request):
        text = request.messages[-1]["content"]
        first = text.index(long) < text.index(short)
        return f"{judge.template.announcement} {judge.template.labels[0 if first else 1]}"

    reward = use(judge, FakeEngine(longer)).as_reward_function()
    assert reward(prompts=["q", "q"], completions=[short, long]) == [0.0, 1.0]
    assert reward(prompts=["q", "r"], completions=[short, long]) == [None, None]  # needs two


def test_the_same_batch_gets_the_same_ids_in_every_call():
    scorer = RecordingScorer()
    for prompts in (["a", "b"], ["b", "a"]):
        scorer.as_reward_function()(prompts=prompts, completions=["1", "1"])
    ids = [item.id for item in scorer.items]
    assert ids[0] == ids[3] != ids[1] == ids[2]


def test_a_missing_column_and_lists_of_unequal_length_raise():
    reward = RecordingScorer().as_reward_function(reference="answer")
    with pytest.raises(CannotRun, match="no column 'answer'"):
        reward(prompts=["a"], completions=["1"], solution=["x"])
    with pytest.raises(ValueError, match="1 prompts, and 2 completions"):
        reward(prompts=["a"], completions=["1", "2"], answer=["x"])


def test_rewards_are_those_of_assay_score():
    prompts = ["\n\nHuman: Hi\n\nAssistant: Yes?\n\nHuman: Bye\n\nAssistant:", "What is it?"]
    from judges.data.items import to_item

    scorer = load_scorer("random", seed=3)
    items = [to_item(str(i), {"prompt": prompt, "response": "It."}) for i, prompt in enumerate(prompts)]
    offline = [card.judgments[0].score for card in scorer.score(items)]
    assert scorer.as_reward_function()(prompts=prompts, completions=["It.", "It."]) == offline
