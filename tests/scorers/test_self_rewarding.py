"""The self-rewarding judge: votes, their seeds, and adaptive stopping."""

import itertools

import pytest
from fakes import FakeEngine, use

from judges import Item, load_scorer
from judges.errors import CannotRun


def judge(answer, **settings):
    return use(load_scorer("self-rewarding", **settings), FakeEngine(answer))


def items(n, responses=("good", "bad")):
    return [Item(id=str(i), prompt=f"question {i}", responses=list(responses)) for i in range(n)]


def test_votes_are_averaged_and_have_different_seeds():
    counter = itertools.count()
    scorer = judge(lambda r: f"Score: {next(counter) % 3 + 1}", votes=3)
    (card,) = scorer.score(items(1, ["good"]))
    assert sorted(card.judgments[0].votes) == [1, 2, 3] and card.judgments[0].score == 2
    assert len({r.seed for r in scorer.engine.requests}) == 3


def test_seeds_differ_between_prompts_and_repeat_between_runs():
    runs = []
    for _ in range(2):
        scorer = judge(lambda r: "Score: 1", votes=2)
        scorer.score(items(5))
        runs.append(sorted(r.seed for r in scorer.engine.requests))
    assert runs[0] == runs[1] and len(set(runs[0])) == 20


def test_a_failed_vote_is_kept_and_left_out_of_the_mean():
    answers = iter(["Score: 4", "Score: 9", "Score: 2"])
    scorer = judge(lambda r: next(answers), votes=3)
    j = scorer.score(items(1, ["x"]))[0].judgments[0]
    assert j.score == 3 and [getattr(v, "reason", v) for v in j.votes] == [4, "off-scale", 2]


def adaptive(answer, **more):
    scorer = load_scorer("self-rewarding", adaptive=0.0, **{"votes": 6, **more})
    return use(scorer, FakeEngine(answer))


def test_votes_stop_when_more_could_not_change_the_best():
    # 5 against 0: after 4 votes each, two more leave at least 20/6 against at most 10/6.
    scorer = adaptive(lambda r: "Score: 5" if "GOLD" in r.messages[-1]["content"] else "Score: 0")
    (card,) = scorer.score([Item(id="a", prompt="q", responses=["GOLD", "poor"])])
    assert [len(j.votes) for j in card.judgments] == [4, 4]
    assert [j.score for j in card.judgments] == [5, 0]
    assert [j.usage.saved_tokens for j in card.judgments] == [10, 10]  # two votes of five tokens each
    assert card.preference == (1.0, 0.0)


def test_all_votes_are_sampled_while_the_outcome_is_open():
    scorer = adaptive(lambda r: "Score: 3")
    (card,) = scorer.score([Item(id="a", prompt="q", responses=["GOLD", "poor"])])
    assert [len(j.votes) for j in card.judgments] == [6, 6] and card.usage.saved_tokens == 0


def test_stopping_early_uses_the_first_of_all_votes():
    def answer(request):
        return "Score: 5" if "GOLD" in request.messages[-1]["content"] else "Score: 0"

    full = use(load_scorer("self-rewarding", votes=6), FakeEngine(answer))
    early = adaptive(answer)
    for scorer in (full, early):
        scorer.score([Item(id="a", prompt="q", responses=["GOLD", "poor"])])
    assert {r.seed for r in early.engine.requests} < {r.seed for r in full.engine.requests}


def test_an_empty_response_fails_alone_when_votes_are_adaptive():
    (card,) = adaptive(lambda r: "Score: 5").score([Item(id="a", prompt="q", responses=["GOLD", " "])])
    assert card.judgments[1].failure.reason == "empty" and card.judgments[0].score == 5 and card.preference is None


@pytest.mark.parametrize(
    "wrong, message",
    [
        ({"combine": "mode"}, "mean, median, majority"),
        ({"adaptive": 1.5}, "a probability below 1"),
        ({"votes": 3, "temperature": 0}, "3 votes at temperature 0 would all be the same"),
        ({"template": "score-only", "votes": 3}, "no rationale to sample"),
    ],
)
def test_a_wrong_setting_cannot_run(wrong, message):
    with pytest.raises(CannotRun, match=message):
        load_scorer("self-rewarding", **wrong)
