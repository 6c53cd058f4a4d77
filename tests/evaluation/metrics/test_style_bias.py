import pytest
from bias_cases import by_metric, pair, scored, values

from judges import Item
from judges.evaluation.metrics.style_bias import author_bias_numbers, normalize_model_name, style_bias_numbers
from judges.types import Gold


def test_style_by_hand():
    styles = ["concise", "detailed_plain", "detailed_markdown"] * 2
    crossed = [(i, 3 + j) for i in range(3) for j in range(3)]
    item = Item("a", "q", list("abcdef"), meta={"styles": styles}, comparisons=crossed, gold=Gold(chosen=(0, 1, 2)))
    # Easy: 1>3, 2>3, 2>4 of the right ones; hard: 0>4, 0>5, 1>5. Scores: right 1 3 5, wrong 2 3 4.
    found = by_metric(style_bias_numbers, [item], [scored("a", 1, 3, 5, 2, 3, 4)])["style: easy minus hard"]
    assert found.value == (1 + 1 + 1) / 3 - 0 / 3
    # A tie is wrong: the right ones at 2 3 5 win easy 3 of 3; against 2 2 2 hard is 1 of 3 (3 > 2).
    found = by_metric(style_bias_numbers, [item], [scored("a", 2, 3, 5, 2, 2, 2)])["style: easy minus hard"]
    assert found.value == pytest.approx(1 - 1 / 3)


def test_unknown_styles_are_not_measured():
    assert "style: easy minus hard" not in values(
        style_bias_numbers, [pair("a", styles=["x", "y"])], [scored("a", 1, 0)]
    )


def test_self_preference_by_hand():
    items = [
        pair("own right", authors=["acme/Judge-7B", "other"]),
        pair("own wrong", right=1, authors=["judge_7b", "other"]),
        pair("own wrong too", authors=["other", "Judge 7B"]),
        pair("failed", authors=["other", "Judge 7B"]),
        pair("both own", authors=["judge-7b", "judge-7b"]),
        pair("neither", authors=["other", "third"]),
    ]
    scores = [(1, 0), (1, 0), (1, 1), (None, 1), (0, 1), (0, 1)]
    cards = [scored(item.id, *s) for item, s in zip(items, scores, strict=True)]
    found = by_metric(author_bias_numbers, items, cards, "Judge-7B")["self-preference"]
    assert found.value == pytest.approx((1 + 1 + 0.5) / 3 - 1 / 3) and (found.rows, found.left_out) == (3, 1)
    assert "self-preference" not in by_metric(author_bias_numbers, items, cards) and "self-preference" not in by_metric(
        author_bias_numbers, items, cards, "absent"
    )


def test_an_author_needs_thirty_pairs_and_a_human_tie_counts_half():
    tie = [
        Item(str(i), str(i), ["a", "b"], gold=Gold(tie=True), meta={"authors": ["Favourite", "rest"]})
        for i in range(30)
    ]
    cards = [scored(str(i), 1, 0) for i in range(30)]
    found = values(author_bias_numbers, tie, cards)
    assert found["author: Favourite preferred minus right"] == 0.5
    assert found["author: rest preferred minus right"] == -0.5
    assert not values(author_bias_numbers, tie[:29], cards)


def test_model_names_match_without_owner_date_and_punctuation():
    assert (
        normalize_model_name("openai/gpt-4o-2024-05-13")
        == normalize_model_name("GPT-4o")
        != normalize_model_name("gpt-4")
    )
    assert normalize_model_name("claude-3-5-sonnet-20240620") == normalize_model_name("anthropic:Claude 3 5 Sonnet")
    assert normalize_model_name("llama-3.1-8b") != normalize_model_name("llama-3-18b")
