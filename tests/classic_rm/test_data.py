"""Rows become token ids; what is cut, dropped or unreadable is reported with its row number."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from classic_rm.data import Example, RowCounts, add_foreign_rejected, encode, encode_items, split_by_prompt
from classic_rm.model import load_tokenizer
from judges.data.items import to_item
from judges.data.rows import read_rows
from judges.engines.embedded import resolve_model
from judges.types import Failure, Gold, Item


@pytest.fixture(scope="module", params=["embedded:smollm2-135m", "embedded:minilm"])
def tokenizer(request):
    return load_tokenizer(resolve_model(request.param))


def pair(prompt="What is it?", chosen="A river.", rejected="A stone.", **more):
    return Item(id="a", prompt=prompt, responses=[chosen, rejected], gold=Gold(chosen=(0,)), **more)


def test_the_prompt_is_cut_from_the_left_and_the_response_never(tokenizer):
    messages = ({"role": "user", "content": "first " + "word " * 200 + "last"},)
    whole = encode(tokenizer, messages, "the answer ends here", 10_000)
    cut = encode(tokenizer, messages, "the answer ends here", 64)
    assert len(cut.ids) == 64 and cut.ids[-30:] == whole.ids[-30:] and cut.cut == len(whole.ids) - 64
    assert "last" in tokenizer.decode(cut.ids) and "ends here" in tokenizer.decode(cut.ids)
    assert "first" not in tokenizer.decode(cut.ids)
    too_long = encode(tokenizer, messages, "word " * 100, 64)
    assert isinstance(too_long, Failure) and too_long.reason == "too-long"


def test_bos_is_added_only_where_requested_and_only_once(tokenizer):
    messages = ({"role": "user", "content": "hello"},)
    plain = encode(tokenizer, messages, "yes", 100).ids
    with_bos = encode(tokenizer, messages, "yes", 100, add_bos=True).ids
    bos = tokenizer.bos_token_id
    assert with_bos == (plain if bos is None or plain[0] == bos else [bos, *plain])


def test_dropped_rows_are_counted_by_reason_with_their_numbers(tokenizer):
    rows = [
        (1, pair()),
        (2, pair(chosen="the same", rejected="the same")),
        (3, Failure("empty", "the row has no prompt")),
        (4, pair(rejected="word " * 300)),
        (5, pair(prompt="long " * 300)),
        (6, Item(id="t", prompt="q", responses=["a", "b"], gold=Gold(tie=True))),
        (7, pair(rejected=" ")),
    ]
    examples, counts = encode_items(tokenizer, rows, 128)
    assert len(examples) == 2 and (counts.rows, counts.comparisons, counts.cut) == (7, 2, 1)
    assert counts.dropped == {
        "both sides are equal": [2],
        "the row has no prompt": [3],
        "a response is too long": [4],
        "no response is preferred": [6],
        "a response is empty": [7],
    }


def test_k_ranked_responses_are_all_their_comparisons(tokenizer):
    item = Item(id="r", prompt="q", responses=["good", "bad", "fair", "fair too"], gold=Gold(ranking=(1, 4, 2, 2)))
    (example,), counts = encode_items(tokenizer, [(1, item)], 128)
    assert example.comparisons == [(0, 1), (0, 2), (0, 3), (2, 1), (3, 1)] and counts.comparisons == 5


def test_a_response_too_long_takes_its_own_comparisons_only(tokenizer):
    item = Item(id="r", prompt="q", responses=["good", "word " * 300, "bad"], gold=Gold(scores=(3, 2, 1)))
    (example,), _ = encode_items(tokenizer, [(1, item)], 128)
    assert len(example.responses) == 2 and example.comparisons == [(0, 1)]


def test_a_margin_and_scores_and_conversations_are_read():
    item = to_item("a", {"prompt": "q", "chosen": "x", "rejected": "y", "margin": "1.5"})
    assert item.meta["margin"] == 1.5
    assert to_item("a", {"prompt": "q", "responses": ["x", "y"], "scores": [1, 2]}).gold.scores == (1, 2)
    turns = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "x"}]
    other = [turns[0], {"role": "assistant", "content": "y"}]
    item = to_item("a", {"chosen": turns, "rejected": other})
    assert item.messages == (turns[0],) and item.responses == ("x", "y") and item.gold.chosen == (0,)
    text = to_item("a", {"chosen": "\n\nHuman: q\n\nAssistant: x", "rejected": "\n\nHuman: q\n\nAssistant: y"})
    assert text.messages == item.messages and text.responses == item.responses


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"prompt": "q", "chosen": "x", "rejected": "y", "margin": "much"}, "margin is not a number"),
        ({"prompt": "q", "chosen": "x", "rejected": "y", "margin": "nan"}, "finite"),
        ({"prompt": "q", "responses": ["x", "y"], "scores": [1]}, "2 responses"),
        ({"prompt": "q", "responses": ["x", "y"], "ranking": [1, "2"]}, "not a number"),
        ({"prompt": "q", "chosen": "x"}, "both chosen and rejected"),
        (
            {"chosen": "\n\nHuman: q\n\nAssistant: x", "rejected": "\n\nHuman: p\n\nAssistant: y"},
            "more than the last assistant turn",
        ),
    ],
)
def test_a_malformed_row_is_a_failure_that_says_why(fields, message):
    failure = to_item("a", fields)
    assert isinstance(failure, Failure) and message in failure.message


def test_a_dataset_saved_to_disk_is_read(tmp_path):
    from datasets import Dataset

    Dataset.from_list([{"prompt": "q", "chosen": "x", "rejected": "y"}] * 2).save_to_disk(str(tmp_path / "set"))
    rows = list(read_rows(str(tmp_path / "set")))
    assert [row.number for row in rows] == [1, 2] and rows[0].item.responses == ("x", "y")


@given(st.lists(st.integers(0, 12), min_size=2, max_size=60), st.floats(0.01, 0.99), st.integers(0, 3))
def test_train_and_validation_share_no_prompt_and_neither_is_empty(prompts, share, seed):
    examples = [Example(f"p{p}", [[1], [2]], [(0, 1)]) for p in prompts]
    if len(set(prompts)) > 1:
        train, held_out = split_by_prompt(examples, share, seed)
        assert train and held_out and len(train) + len(held_out) == len(examples)
        assert not {e.prompt for e in train} & {e.prompt for e in held_out}


def test_a_foreign_response_loses_and_never_answers_the_same_prompt():
    rows = [(i, pair(prompt=f"question {i % 3}", chosen=f"answer {i % 3}")) for i in range(9)]
    for _, item in add_foreign_rejected(rows, seed=1):
        assert item.responses[:2] == (f"answer {item.prompt[-1]}", "A stone.")
        assert item.responses[2].startswith("answer") and item.responses[2] != item.responses[0]
        assert item.gold.chosen == (0,)


def test_counts_read_as_a_sentence():
    counts = RowCounts(9, 5, 2, {"both sides are equal": [3, 4, 5, 6, 7, 8]})
    assert str(counts) == (
        "9 rows, 5 comparisons, 2 prompts cut; dropped 6: both sides are equal (row 3, 4, 5, 6, 7, …)"
    )
