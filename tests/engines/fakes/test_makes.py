"""The table scorer x make: every cell gives the right score, or refuses before the first paid request."""

from __future__ import annotations

import pytest
from makes import MAKES

from judges import Item, load_scorer
from judges.errors import CannotRun

NAMED = {"Azure": "azure", "OpenRouter": "openrouter"}  # known by their hosts, which a fake on localhost has not
POINTWISE = {
    "self-rewarding": {"votes": 1},
    "self-rewarding several votes": {"votes": 3},
    "self-rewarding forced": {"votes": 1, "read": "forced"},
    "self-rewarding expected": {"votes": 1, "read": "text+expected"},
    "rating-json": {"votes": 1, "template": "rating-json"},
    "self-rewarding-zh": {"votes": 1, "template": "self-rewarding-zh"},
    "score-only": {"votes": 1, "template": "score-only"},
    "score-only forced": {"votes": 1, "template": "score-only", "read": "forced"},
    "critique-out-loud": {},
    "critique-out-loud text": {"read": "text"},
    "critique-out-loud forced": {"read": "forced"},
}


def judge(messages):
    """A judge that writes no verdict in its rationale where it is not asked for one alone."""
    text = str(messages[-1]["content"])
    if "JSON object of two keys" in text:
        return '{"rationale": "right", "score": 4}'
    if "critique of the response" in text:
        return "It is right, and it says why."
    return "得分： 4" if "得分" in text else "Verdict: A" if "Verdict:" in text else "Score: 4"


def without_verdict(messages):
    return judge(messages) if len(messages) > 1 else "It is right, and it says why."


@pytest.mark.parametrize("make", MAKES, ids=lambda make: make.__name__)
@pytest.mark.parametrize("name", POINTWISE)
def test_a_cell_is_right_or_refused_before_it_is_paid_for(make, name):
    settings = POINTWISE[name]
    scorer_name = name.split(" ")[0] if name.startswith("critique") else "self-rewarding"
    answers = without_verdict if "forced" in name and "score-only" not in name else judge
    with make(answers) as server:
        extra = {"engine.provider": NAMED[make.__name__]} if make.__name__ in NAMED else {}
        spec = {"engine": "openai", "model": make.model, "base_url": server.url, **settings, **extra}
        items = [Item(id=str(i), prompt=f"Question {i}?", responses=["Because."]) for i in range(2)]
        try:
            with load_scorer(scorer_name, **spec) as scorer:
                judgments = [card.judgments[0] for card in scorer.score(items)]
        except CannotRun as error:
            assert "use read=" in str(error)
            assert server.answered == []
            assert "expected" in name or name in ("score-only", "critique-out-loud")
        else:
            assert [j.failure for j in judgments] == [None, None]
            assert all(j.score == pytest.approx(4) for j in judgments)


@pytest.mark.parametrize("make", MAKES, ids=lambda make: make.__name__)
@pytest.mark.parametrize("answers", [judge, without_verdict])
def test_a_comparison_is_right(make, answers):
    def compare(messages):
        return "Verdict: A" if len(messages) > 1 or answers is judge else "Both are good."

    with make(compare) as server:
        extra = {"engine.provider": NAMED[make.__name__]} if make.__name__ in NAMED else {}
        spec = {"engine": "openai", "model": make.model, "base_url": server.url, **extra}
        with load_scorer("pairwise", orders="given", **spec) as scorer:
            card = scorer.score([Item(id="1", prompt="Why?", responses=["Because.", "No."])])[0]
    assert [j.score for j in card.judgments] == [1, 0]
