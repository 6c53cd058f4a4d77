import json
import subprocess
import sys
import tracemalloc
from collections import Counter
from difflib import SequenceMatcher

import pytest
from hypothesis import given
from hypothesis import strategies as st

from judges.data.quality import REASONS, Filters, agreement, apply, decide, preferences, similarity, units
from judges.data.rows import read_rows
from judges.types import Gold, Item

ASSAY = [sys.executable, "-c", "from judges.cli import main; main()"]
LONG_TURN = "And which of these rivers runs through the most countries?"


def pair(chosen, rejected, prompt="Which river is longest?", id="a", gold=None, **meta):
    return Item(id=id, prompt=prompt, responses=[chosen, rejected], gold=gold or Gold(chosen=(0,)), meta=meta)


def reason(item, **settings):
    (verdict,) = decide([item], Filters(**settings))
    return verdict and verdict.reason


def reasons(*items, **settings):
    return [verdict and verdict.reason for verdict in decide(items, Filters(**settings))]


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
    assert units(text) == length


@pytest.mark.parametrize(
    "settings, chosen, rejected, prompt, taken",
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
def test_lengths_out_of_bounds_are_taken(settings, chosen, rejected, prompt, taken):
    assert reason(pair(chosen, rejected, prompt), **settings) == ("length" if taken else None)


def test_a_length_is_told_with_its_number_and_its_bound():
    (verdict,) = decide([pair("The Nile.", "Amazon")], Filters(min_length=2))
    assert verdict.why == "response 2 has 1 units (words, or Chinese characters), fewer than 2"


@pytest.mark.parametrize(
    "chosen, rejected, taken",
    [
        ("abcde", "abcdX", True),  # 2 * 4 / 10 = 0.8
        ("abcde", "abXXe", False),  # 2 * 3 / 10
        ("尼罗河最长", "尼罗河最短", True),
        ("尼罗河最长", "长江在中国", False),
        ("The Nile", "The Nile", True),
    ],
)
def test_from_a_ratio_of_four_fifths_on_a_pair_is_too_similar(chosen, rejected, taken):
    assert reason(pair(chosen, rejected)) == ("similar" if taken else None)


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
    assert preferences(only) == ((0, 1),) and reason(only) == "similar"
    assert reason(pair("abcdefghij", "abcdefghiX", gold=Gold(tie=True))) is None


few_letters = st.text(alphabet="ab 河", max_size=30)


@given(few_letters, few_letters, st.floats(0.05, 1))
def test_similarity_is_difflibs_ratio_whatever_was_asked_first(a, b, least):
    ratio = SequenceMatcher(None, a, b, autojunk=False).ratio()
    assert similarity(a, b, least) == (ratio if ratio >= least else None)


def test_long_texts_that_differ_never_come_to_the_slow_ratio(monkeypatch):
    def slow(self):
        raise AssertionError("the ratio was computed")

    monkeypatch.setattr(SequenceMatcher, "ratio", slow)
    words = ["the", "river", "runs", "from", "its", "source", "through", "nine", "countries", "to", "sea"]
    first = " ".join(words[i * 7 % 11] for i in range(4000))
    other = " ".join(words[i * i * 3 % 11] for i in range(4000))
    assert SequenceMatcher(None, first, other, autojunk=False).quick_ratio() > 0.8
    assert similarity(first, other, 0.8) is None


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
    assert agreement(pair("x", "y", **meta)) == share


def test_rows_that_fewer_than_three_fifths_agree_on_are_taken():
    found = reasons(
        pair("The Nile.", "Amazon", "p1", agreement=0.6),
        pair("The Nile.", "Amazon", "p2", agreement=0.59),
        pair("The Nile.", "Amazon", "p3", votes=["a", "a", "b"]),
        pair("The Nile.", "Amazon", "p4", votes=["a", "b"]),
        pair("The Nile.", "Amazon", "p5"),
    )
    assert found == [None, "agreement", None, "agreement", None]


def test_the_first_of_a_pair_that_stands_twice_stays():
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
    assert decide(items)[1].why == "the same responses with the same label are in 'a'"


def test_a_conversation_is_another_prompt_than_its_last_turn():
    items = [pair("The Nile.", "An Amazon", prompt) for prompt in ("Which?", talk("Hi", "Hello", "Which?"))]
    assert reasons(*items) == [None, None]
    assert reasons(items[0], pair("The Nile.", "An Amazon", talk("Which?"))) == [None, "duplicate"]


def test_every_row_of_a_pair_with_both_labels_goes():
    a, b = "The Nile.", "An Amazon"
    items = [pair(a, b, id="1"), pair(a, b, id="2"), pair(b, a, id="3"), pair(a, b, "Other", id="4")]
    assert reasons(*items) == ["contradictory"] * 3 + [None]
    tie = pair(a, b, id="5", gold=Gold(tie=True))
    assert reasons(items[0], tie, tie) == [None, None, "duplicate"]


def test_one_comparison_against_another_row_makes_a_ranking_contradictory():
    ranked = Item(id="r", prompt="Which?", responses=["Nile", "Amazon", "Rhine"], gold=Gold(ranking=(1, 2, 3)))
    assert reasons(ranked, pair("Rhine", "Nile", "Which?")) == ["contradictory", "contradictory"]
    assert reasons(ranked, pair("Nile", "Rhine", "Which?")) == [None, None]


def test_a_doubted_label_neither_contradicts_nor_displaces():
    a, b = "The Nile.", "An Amazon"
    assert reasons(pair(b, a, agreement=0.5), pair(a, b, agreement=1.0)) == ["agreement", None]
    assert reasons(pair(a, b, agreement=0.5), pair(a, b, agreement=1.0)) == ["agreement", None]


@pytest.mark.parametrize(
    "row, apart, taken",
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
def test_a_prompt_that_is_to_stay_unseen_is_taken(row, apart, taken):
    (verdict,) = decide([pair("The Nile.", "An Amazon", row)], shared_prompts={"a test": [apart]})
    assert (verdict and verdict.reason) == ("shared-prompt" if taken else None)


def test_a_row_that_several_filters_would_take_has_the_first_reason():
    shared = {"a test": ["Which river is longest?"]}
    same = {"id": "a", "agreement": 0.1}
    assert decide([pair("", "", **same)], shared_prompts=shared)[0].reason == "length"
    assert decide([pair("Nile", "Nile", **same)], shared_prompts=shared)[0].reason == "agreement"
    assert decide([pair("Nile", "Nile")], shared_prompts=shared)[0].reason == "shared-prompt"
    assert decide([pair("Nile", "Nile")] * 2)[1].reason == "similar"


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
def test_settings_that_mean_nothing_are_refused(settings):
    with pytest.raises(ValueError):
        Filters(**settings)


def test_texts_are_not_held():
    def long_rows():
        for i in range(200):
            yield pair("ab" * 5_000 + str(i), "Z " * 1_000, f"Question {i}?", id=str(i))

    tracemalloc.start()
    try:
        assert decide(long_rows()) == [None] * 200
        assert tracemalloc.get_traced_memory()[1] < 1_000_000 < 200 * 12_000
    finally:
        tracemalloc.stop()


texts = st.sampled_from(["Nile", "Nile ", "The Nile", "The Niles", "Amazon river", "...", "尼罗河", "尼罗 河"])
golds = st.sampled_from([Gold(chosen=(0,)), Gold(chosen=(1,)), Gold(scores=(0, 1)), Gold(tie=True), None])
metas = st.sampled_from([{}, {"agreement": 0.4}, {"votes": ["a", "a", "b"]}])
made = st.builds(
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


@given(st.lists(made, max_size=12), settings, apart)
def test_every_item_is_kept_or_taken_in_order_and_filtering_again_takes_nothing(items, filters, shared):
    found = apply(items, filters, shared)
    kept, taken = list(found.kept), [item for item, _ in found.taken]
    for item in items:  # merged in the items' order, both are the input
        if kept and kept[0] is item:
            kept.pop(0)
        else:
            assert taken.pop(0) is item
    assert not kept and not taken
    assert sum(found.counts.values()) == len(found.taken) and tuple(found.counts) == REASONS
    assert apply(found.kept, filters, shared).kept == found.kept


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
    taken = apply(items, Filters(min_length=0)).taken
    assert {item.id for item, verdict in taken if verdict.reason == "similar"} == slow
    assert len(taken) == len(slow) < 50


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
    split = Counter(agreement(item) for item in items)
    assert split == {1.0: 879, 2 / 3: 120}, "three annotators, all or two of them"
    assert apply(items, Filters(min_length=0)).counts["agreement"] == 0
    assert apply(items, Filters(min_length=0, min_agreement=0.7)).counts["agreement"] == 120


# The command


def assay(*args):
    return subprocess.run([*ASSAY, "filter", *map(str, args)], capture_output=True, text=True, timeout=120)


def lines_of(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def rows(path, *made):
    path.write_text("".join((r if isinstance(r, str) else json.dumps(r)) + "\n" for r in made), encoding="utf-8")
    return path


GOOD = {
    "id": 7,
    "prompt": "哪条河最长？",
    "chosen": "尼罗河",
    "rejected": "长江吧",
    "deep": {"x": [1.5, None]},
    "row": "mine",
}
ALIKE = {"prompt": "Which?", "chosen": "The Nile.", "rejected": "The Nile!", "why": "because"}
DEMO = {"prompt": "Which river?", "chosen": "The Nile.", "rejected": "An Amazon"}


def test_rows_are_kept_as_they_came_and_the_others_told_with_number_and_reason(tmp_path):
    source = rows(tmp_path / "in.jsonl", GOOD, ALIKE, DEMO, DEMO)
    told = assay(source, "-o", tmp_path / "deep" / "kept.jsonl")
    assert told.returncode == 0, told.stderr
    assert lines_of(tmp_path / "deep" / "kept.jsonl") == [GOOD, DEMO]
    alike, twice = lines_of(tmp_path / "deep" / "kept.taken.jsonl")
    assert (alike["row"], alike["reason"], alike["input.why"]) == (2, "similar", "because")
    assert alike["chosen"] == ALIKE["chosen"] and "alike" in alike["why"]
    assert (twice["row"], twice["reason"], twice["prompt"]) == (4, "duplicate", DEMO["prompt"])
    table = dict(line.rsplit(maxsplit=1) for line in told.stdout.splitlines()[1 : len(REASONS) + 2])
    assert {key.strip(): int(value) for key, value in table.items()} == {
        "unreadable": 0,
        **dict.fromkeys(REASONS, 0),
        "similar": 1,
        "duplicate": 1,
    }
    assert "2 of 4" in told.stdout
    assert sorted(p.name for p in (tmp_path / "deep").iterdir()) == ["kept.jsonl", "kept.taken.jsonl"]


def test_a_row_that_cannot_be_read_is_told_and_counted_and_the_others_go_on(tmp_path):
    source = rows(tmp_path / "in.jsonl", GOOD, "not json", {"prompt": "p", "chosen": "no other", "mine": 1}, DEMO)
    told = assay(source, "-o", tmp_path / "kept.jsonl", "--taken", tmp_path / "gone.jsonl", "--quiet")
    assert told.returncode == 1 and told.stdout == ""
    assert lines_of(tmp_path / "kept.jsonl") == [GOOD, DEMO]
    first, second = lines_of(tmp_path / "gone.jsonl")
    assert [first["row"], second["row"]] == [2, 3] and first["reason"] == second["reason"] == "unreadable"
    assert second["mine"] == 1 and "row 2: malformed: not JSON" in told.stderr and "row 3: " in told.stderr


def test_of_many_unreadable_rows_a_few_are_told(tmp_path):
    told = assay(rows(tmp_path / "in.jsonl", *["{}"] * 9), "-o", tmp_path / "kept.jsonl", "--quiet")
    assert told.returncode == 1 and len(told.stderr.splitlines()) == 6
    assert len(lines_of(tmp_path / "kept.taken.jsonl")) == 9 and lines_of(tmp_path / "kept.jsonl") == []


def test_options_reach_the_filters(tmp_path):
    source = rows(tmp_path / "in.jsonl", GOOD, ALIKE, {**DEMO, "agreement": 0.7})
    told = assay(
        source, "-o", tmp_path / "a.jsonl", "--max-similarity", 0.95, "--min-agreement", 0.8, "--max-prompt-length", 4
    )
    assert told.returncode == 0, told.stderr
    assert [r["reason"] for r in lines_of(tmp_path / "a.taken.jsonl")] == ["length", "agreement"]
    told = assay(source, "-o", tmp_path / "b.jsonl", "--min-length", 3)
    assert [r["row"] for r in lines_of(tmp_path / "b.jsonl")] == ["mine"], told.stderr


def test_mapped_columns_are_read_and_written_under_their_own_names(tmp_path):
    row = {"question": "Which river?", "good": "The Nile.", "bad": "An Amazon"}
    source = rows(tmp_path / "in.jsonl", row, {**row, "bad": "The Nile!"})
    mapping = [part for field in ("prompt=question", "chosen=good", "rejected=bad") for part in ("--map", field)]
    told = assay(source, "-o", tmp_path / "kept.jsonl", *mapping)
    assert told.returncode == 0, told.stderr
    assert lines_of(tmp_path / "kept.jsonl") == [row]


def test_prompts_of_files_and_benchmarks_are_kept_apart(tmp_path):
    from judges.evaluation.benchmarks import load_benchmark

    known = load_benchmark("demo:test").items[0].messages[-1]["content"]
    source = rows(tmp_path / "in.jsonl", GOOD, DEMO, {**DEMO, "prompt": known})
    prompts = rows(tmp_path / "prompts.jsonl", {"messages": talk("Hello")}, {"prompt": "WHICH river?"})
    told = assay(source, "-o", tmp_path / "kept.jsonl", "--against", prompts, "--against", "demo:test")
    assert told.returncode == 0, told.stderr
    assert lines_of(tmp_path / "kept.jsonl") == [GOOD]
    first, second = lines_of(tmp_path / "kept.taken.jsonl")
    assert first["why"].endswith("prompts.jsonl") and second["why"] == "its prompt is also in demo:test"


def test_csv_and_parquet_are_written_as_jsonl(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    (tmp_path / "a.csv").write_text("prompt,chosen,rejected\nWhich river?,The Nile.,An Amazon\n")
    columns = {key: [value] for key, value in DEMO.items()}
    pq.write_table(pa.table({**columns, "score": [float("nan")]}), tmp_path / "a.parquet")
    for name, expected in (("a.csv", DEMO), ("a.parquet", {**DEMO, "score": None})):
        told = assay(tmp_path / name, "-o", tmp_path / "kept.jsonl")
        assert told.returncode == 0, told.stderr
        assert lines_of(tmp_path / "kept.jsonl") == [expected]


@pytest.mark.parametrize(
    "args, says",
    [
        (["nowhere.jsonl", "-o", "o.jsonl"], "no file 'nowhere.jsonl'"),
        (["in.jsonl", "-o", "in.jsonl"], "is read in this run"),
        (["in.jsonl", "-o", "o.csv"], "JSONL"),
        (["in.jsonl", "-o", "o.jsonl", "--taken", "o.jsonl"], "one file"),
        (["in.jsonl", "-o", "o.jsonl", "--against", "nothing"], "nothing"),
        (["in.jsonl", "-o", "o.jsonl", "--against", "bad.jsonl"], "row 1: the row has no prompt"),
        (["in.jsonl", "-o", "o.jsonl", "--min-length", "4", "--max-length", "3"], "at least 4 and at most 3"),
        (["in.jsonl", "-o", "in.jsonl/o.jsonl"], "cannot be written"),
        (["in.jsonl", "-o", "o.jsonl", "--taken", "folder"], "folder: cannot be written"),
    ],
)
def test_what_cannot_run_says_so_in_one_line_and_leaves_the_output_as_it_was(tmp_path, args, says, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rows(tmp_path / "in.jsonl", GOOD)
    rows(tmp_path / "bad.jsonl", {"question": "x"})
    (tmp_path / "folder").mkdir()
    (tmp_path / "o.jsonl").write_text("before")
    told = assay(*args)
    assert told.returncode == 2, told.stderr
    (line,) = told.stderr.splitlines()
    assert line.startswith("assay:") and says in line
    assert (tmp_path / "o.jsonl").read_text() == "before" and not list(tmp_path.glob("*.part"))


def test_help_has_an_example():
    assert "Example: assay filter" in assay("--help").stdout
