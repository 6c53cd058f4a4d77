import json
import subprocess
import sys
import tracemalloc
from collections import Counter
from difflib import SequenceMatcher

import pytest
from hypothesis import given
from hypothesis import strategies as st

from judges.data.quality import (
    Filters,
    annotator_agreement,
    count_units,
    find_removals,
    preferred_pairs,
    text_similarity,
)
from judges.data.rows import read_rows
from judges.types import Gold, Item

LONG_TURN = "And which of these rivers runs through the most countries?"


def pair(chosen, rejected, prompt="Which river is longest?", id="a", gold=None, **meta):
    return Item(id=id, prompt=prompt, responses=[chosen, rejected], gold=gold or Gold(chosen=(0,)), meta=meta)


def reasons(*items, shared=None, **settings):
    return [removal and removal.reason for removal in find_removals(items, Filters(**settings), shared)]


def reason(item, **settings):
    (found,) = reasons(item, **settings)
    return found


def talk(*turns):
    return [{"role": ("user", "assistant")[i % 2], "content": turn} for i, turn in enumerate(turns)]


@pytest.mark.parametrize(
    "text, length",
    [
        ("", 0),
        (" \n...!?", 0),
        ("The Nile", 2),
        ("don't", 2),
        ("naïve café", 2),
        ("x_1 = 3.14", 3),
        ("尼罗河", 3),
        ("尼罗河，最长。", 5),
        ("尼罗河 is 6650公里 long", 8),
        ("ナイル川です", 6),
        ("가장 긴 강", 3),
        ("𠮷野家", 3),
    ],
)
def test_a_chinese_character_and_an_english_word_are_one_unit_each(text, length):
    assert count_units(text) == length


@pytest.mark.parametrize(
    "settings, chosen, rejected, prompt, removed",
    [
        ({}, "The Nile.", "...", "Which?", True),
        ({}, "The Nile.", "Amazon", "?", True),
        ({}, "The Nile.", "Amazon", "Which?", False),
        ({"min_length": 2}, "The Nile.", "Amazon", "Which?", True),
        ({"min_length": 2}, "The Nile.", "An Amazon", "Which?", False),
        ({"max_length": 3}, "One two three.", "Four", "Which?", False),
        ({"max_length": 3}, "One two three four.", "Five", "Which?", True),
        ({"max_length": 3}, "尼罗河。", "长江", "哪条河？", False),
        ({"max_length": 3}, "亚马孙河", "长江", "哪条河？", True),
        ({"min_prompt_length": 3}, "尼罗河", "长江", "哪条河？", False),
        ({"min_prompt_length": 4}, "尼罗河", "长江", "哪条河？", True),
        ({"max_prompt_length": 3}, "Nile", "Amazon", talk("One", "two", "three"), False),
        ({"max_prompt_length": 2}, "Nile", "Amazon", talk("One", "two", "three"), True),
    ],
)
def test_lengths_out_of_bounds_are_removed(settings, chosen, rejected, prompt, removed):
    assert reason(pair(chosen, rejected, prompt), **settings) == ("length" if removed else None)


def test_the_reason_names_the_length_and_its_bound():
    (removal,) = find_removals([pair("The Nile.", "Amazon")], Filters(min_length=2))
    assert removal.why == "response 2 has 1 units (words, or Chinese characters), fewer than 2"


@pytest.mark.parametrize(
    "chosen, rejected, removed",
    [
        ("abcde", "abcdX", True),  # 2 * 4 / 10 = 0.8
        ("abcde", "abXXe", False),  # 2 * 3 / 10
        ("尼罗河最长", "尼罗河最短", True),
        ("尼罗河最长", "长江在中国", False),
        ("The Nile", "The Nile", True),
    ],
)
def test_from_a_ratio_of_four_fifths_on_a_pair_is_too_similar(chosen, rejected, removed):
    assert reason(pair(chosen, rejected)) == ("similar" if removed else None)


def test_a_row_is_similar_when_every_better_and_worse_response_is():
    alike, apart = ["abcdefghij", "abcdefghiX", "abcdefghiY"], ["abcdefghij", "abcdefghiX", "nothing of it"]
    for texts, gold, taken in [
        (alike, Gold(chosen=(0,)), "similar"),
        (alike, Gold(scores=(2, 1, 0)), "similar"),
        (alike, Gold(scores=(1, 1, 1)), None),
        (apart, Gold(chosen=(0,)), None),
        (apart, Gold(scores=(2, 1, 0)), None),
        (apart, Gold(ranking=(1, 2, 1)), None),
    ]:
        assert reason(Item(id="a", prompt="Which?", responses=texts, gold=gold)) == taken
    only = Item(id="a", prompt="Which?", responses=apart, gold=Gold(chosen=(0,)), comparisons=[(0, 1)])
    assert preferred_pairs(only) == ((0, 1),) and reason(only) == "similar"
    assert reason(pair("abcdefghij", "abcdefghiX", gold=Gold(tie=True))) is None


few_letters = st.text(alphabet="ab 河", max_size=30)


@given(few_letters, few_letters, st.floats(0.05, 1))
def test_similarity_is_difflibs_ratio_with_every_lower_bound(a, b, least):
    ratio = SequenceMatcher(None, a, b, autojunk=False).ratio()
    assert text_similarity(a, b, least) == (ratio if ratio >= least else None)


def test_long_texts_that_differ_never_reach_the_slow_ratio(monkeypatch):
    def slow(self):
        raise AssertionError("the ratio was computed")

    monkeypatch.setattr(SequenceMatcher, "ratio", slow)
    words = ["the", "river", "runs", "from", "its", "source", "through", "nine", "countries", "to", "sea"]
    first = " ".join(words[i * 7 % 11] for i in range(4000))
    other = " ".join(words[i * i * 3 % 11] for i in range(4000))
    assert SequenceMatcher(None, first, other, autojunk=False).quick_ratio() > 0.8
    assert text_similarity(first, other, 0.8) is None


@pytest.mark.parametrize(
    "meta, share",
    [
        ({}, None),
        ({"agreement": 0.5}, 0.5),
        ({"agreement": 1}, 1),
        ({"agreement": 3}, None),
        ({"votes": ["a", "b", "tie"]}, 1 / 3),
        ({"votes": [1, 1, 0, None]}, 2 / 3),
        ({"votes": ["a", "a", "b"], "agreement": 1}, 2 / 3),
        ({"votes": [], "agreement": 0.7}, 0.7),
        ({"votes": [[4.0, 3.0], [2.0]]}, None),
        ({"votes": "aab"}, None),
    ],
)
def test_agreement_is_the_share_of_the_most_common_vote(meta, share):
    assert annotator_agreement(pair("x", "y", **meta)) == share


def test_rows_that_fewer_than_three_fifths_agree_on_are_removed():
    found = reasons(
        pair("The Nile.", "Amazon", "p1", agreement=0.6),
        pair("The Nile.", "Amazon", "p2", agreement=0.59),
        pair("The Nile.", "Amazon", "p3", votes=["a", "a", "b"]),
        pair("The Nile.", "Amazon", "p4", votes=["a", "b"]),
        pair("The Nile.", "Amazon", "p5"),
    )
    assert found == [None, "agreement", None, "agreement", None]


def test_of_a_repeated_pair_the_first_row_stays():
    rejected_first = Item(
        id="c", prompt="Which river is longest?", responses=["An Amazon", "The Nile."], gold=Gold(scores=(0, 1))
    )
    items = [
        pair("The Nile.", "An Amazon", id="a"),
        pair(" The  Nile.\n", "An Amazon", "Which river\nis longest?", id="b"),
        rejected_first,
        pair("The Nile.", "An Amazon", "Another prompt", id="d"),
        pair("the nile.", "An Amazon", id="e"),
    ]
    assert reasons(*items) == [None, "duplicate", "duplicate", None, None]
    assert find_removals(items)[1].why == "the same responses with the same label are in 'a'"


def test_a_conversation_is_another_prompt_than_its_last_turn():
    items = [pair("The Nile.", "An Amazon", prompt) for prompt in ("Which?", talk("Hi", "Hello", "Which?"))]
    assert reasons(*items) == [None, None]
    assert reasons(items[0], pair("The Nile.", "An Amazon", talk("Which?"))) == [None, "duplicate"]


def test_every_row_of_a_pair_with_both_labels_is_removed():
    a, b = "The Nile.", "An Amazon"
    items = [pair(a, b, id="1"), pair(a, b, id="2"), pair(b, a, id="3"), pair(a, b, "Other", id="4")]
    assert reasons(*items) == ["contradictory"] * 3 + [None]
    tie = pair(a, b, id="5", gold=Gold(tie=True))
    assert reasons(items[0], tie, tie) == [None, None, "duplicate"]


def test_one_comparison_against_another_row_makes_a_ranking_contradictory():
    ranked = Item(id="r", prompt="Which?", responses=["Nile", "Amazon", "Rhine"], gold=Gold(ranking=(1, 2, 3)))
    assert reasons(ranked, pair("Rhine", "Nile", "Which?")) == ["contradictory", "contradictory"]
    assert reasons(ranked, pair("Nile", "Rhine", "Which?")) == [None, None]


def test_a_doubted_label_neither_contradicts_nor_replaces():
    a, b = "The Nile.", "An Amazon"
    assert reasons(pair(b, a, agreement=0.5), pair(a, b, agreement=1.0)) == ["agreement", None]
    assert reasons(pair(a, b, agreement=0.5), pair(a, b, agreement=1.0)) == ["agreement", None]


@pytest.mark.parametrize(
    "row, apart, removed",
    [
        ("Which river is longest?", "which  RIVER is\nlongest?", True),
        ("Which river is longest?", "Which river is shortest?", False),
        (talk("Hi", "Hello", "Which river is longest?"), "Which river is longest?", True),
        (talk("Hi", "Hello", "Why?"), talk("hi", "hello", "WHY?"), True),
        (talk("Hi", "Hello", "Why?"), talk("Good day", "Hello", "Why?"), False),  # every corpus has it
        (talk("Hi", "Hello", LONG_TURN), talk("Good day", "Hello", LONG_TURN), True),
        (LONG_TURN, talk("Good day", "Hello", LONG_TURN), True),
        ([{"role": "system", "content": "Be brief."}, *talk("Why?")], "Why?", True),
        ("哪条河最长？", "哪条河最长？", True),
    ],
)
def test_a_prompt_of_another_set_is_removed(row, apart, removed):
    (removal,) = find_removals([pair("The Nile.", "An Amazon", row)], shared_prompts={"a test": [apart]})
    assert (removal and removal.reason) == ("shared-prompt" if removed else None)


def test_a_row_that_several_filters_would_remove_has_the_first_reason():
    shared = {"a test": ["Which river is longest?"]}
    same = {"id": "a", "agreement": 0.1}
    assert find_removals([pair("", "", **same)], shared_prompts=shared)[0].reason == "length"
    assert find_removals([pair("Nile", "Nile", **same)], shared_prompts=shared)[0].reason == "agreement"
    assert find_removals([pair("Nile", "Nile")], shared_prompts=shared)[0].reason == "shared-prompt"
    assert find_removals([pair("Nile", "Nile")] * 2)[1].reason == "similar"


@pytest.mark.parametrize(
    "settings",
    [
        {"min_length": 5, "max_length": 4},
        {"min_prompt_length": -1},
        {"max_similarity": 0},
        {"max_similarity": 1.1},
        {"min_agreement": float("nan")},
    ],
)
def test_settings_without_meaning_raise(settings):
    with pytest.raises(ValueError):
        Filters(**settings)


def test_texts_are_not_stored():
    def long_rows():
        for i in range(200):
            yield pair("ab" * 5_000 + str(i), "Z " * 1_000, f"Question {i}?", id=str(i))

    tracemalloc.start()
    try:
        assert find_removals(long_rows()) == [None] * 200
        assert tracemalloc.get_traced_memory()[1] < 1_000_000 < 200 * 12_000
    finally:
        tracemalloc.stop()


texts = st.sampled_from(["Nile", "Nile ", "The Nile", "The Niles", "Amazon river", "...", "尼罗河", "尼罗 河"])
golds = st.sampled_from([Gold(chosen=(0,)), Gold(chosen=(1,)), Gold(scores=(0, 1)), Gold(tie=True), None])
metas = st.sampled_from([{}, {"agreement": 0.4}, {"votes": ["a", "a", "b"]}])
written = st.builds(
    lambda prompt, responses, gold, meta: Item(id="x", prompt=prompt, responses=responses, gold=gold, meta=meta),
    st.sampled_from(["Which?", "which?", "How long?"]),
    st.lists(texts, min_size=2, max_size=2),
    golds,
    metas,
)
settings = st.builds(
    Filters, min_length=st.integers(0, 2), max_similarity=st.floats(0.5, 1), min_agreement=st.floats(0, 1)
)
apart = st.sampled_from([None, {"a test": ["How long?"]}])


@given(st.lists(written, max_size=12), settings, apart)
def test_every_item_gets_a_verdict_and_filtering_the_rest_again_removes_nothing(items, filters, shared):
    removals = find_removals(items, filters, shared)
    assert len(removals) == len(items)
    rest = [item for item, removal in zip(items, removals, strict=True) if removal is None]
    assert find_removals(rest, filters, shared) == [None] * len(rest)


@given(st.lists(st.tuples(st.sampled_from("PQ"), st.sampled_from("ABC"), st.sampled_from("ABC")), max_size=12))
def test_twice_and_contradictory_equal_comparing_every_row_with_every_other(triples):
    triples = [t for t in triples if t[1] != t[2]]
    expected = []
    for i, (prompt, better, worse) in enumerate(triples):
        if (prompt, worse, better) in triples:
            expected.append("contradictory")
        else:
            expected.append("duplicate" if (prompt, better, worse) in triples[:i] else None)
    assert reasons(*(pair(better, worse, prompt) for prompt, better, worse in triples)) == expected


def test_importing_it_is_light():
    code = (
        "import sys, judges.data.quality; print([m for m in ('torch', 'numpy', 'typer', 'yaml') if m in sys.modules])"
    )
    alone = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout
    package = subprocess.run([sys.executable, "-c", code.replace(".quality", "")], capture_output=True, text=True)
    assert alone == package.stdout and "torch" not in alone


def test_similar_rows_of_real_data_are_those_that_difflib_finds(shared_data):
    items = [row.item for row in read_rows(str(shared_data / "hh_bt_train.jsonl"))][:1000]
    ratios = [SequenceMatcher(None, *item.responses, autojunk=False) for item in items]
    slow = {item.id for item, m in zip(items, ratios, strict=True) if m.quick_ratio() >= 0.8 and m.ratio() >= 0.8}
    found = reasons(*items, min_length=0)
    assert {item.id for item, reason in zip(items, found, strict=True) if reason == "similar"} == slow
    assert len(items) - found.count(None) == len(slow) < 50


def test_agreement_of_real_votes(shared_data):
    lines = (shared_data / "pandalm.jsonl").read_text(encoding="utf-8").splitlines()
    gold = {"a": Gold(chosen=(0,)), "b": Gold(chosen=(1,)), "tie": Gold(tie=True)}
    items = [
        Item(
            id=row["id"],
            prompt=row["prompt"],
            responses=[row["response_a"], row["response_b"]],
            gold=gold[row["label"]],
            meta={"votes": row["votes"], "agreement": row["agreement"]},
        )
        for row in map(json.loads, lines)
    ]
    split = Counter(annotator_agreement(item) for item in items)
    assert split == {1.0: 879, 2 / 3: 120}, "three annotators, all or two of them"
    assert reasons(*items, min_length=0).count("agreement") == 0
    assert reasons(*items, min_length=0, min_agreement=0.7).count("agreement") == 120
