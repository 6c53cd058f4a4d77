"""Benchmarks by name and users' own files: what is read, what is refused, what a cut says."""

import json
from collections import Counter

import pytest
from benchmark_cards import write_rows

from judges import load_scorer
from judges.errors import CannotRun
from judges.evaluation.benchmarks import BENCHMARKS, DEMO_SPECS, load_benchmark
from judges.evaluation.benchmarks.base import Benchmark
from judges.evaluation.metrics.accuracy import accuracy_numbers
from judges.evaluation.statistics.tally import prompt_of
from judges.types import Item

# file: rows, gold of the rows, subsets
SETS = {
    "evalbiasbench": (80, {"chosen": 80}, 6),
    "gsm8k_pairs": (731, {"chosen": 731}, 1),
    "hh_bt_train": (5943, {"chosen": 5943}, 4),
    "hh_bt_val": (678, {"chosen": 678}, 4),
    "hhh_alignment": (221, {"chosen": 221}, 4),
    "human_pairs": (333, {"chosen": 333}, 3),
    "judgebench_gpt": (350, {"chosen": 350}, 4),
    "llmbar": (734, {"chosen": 734}, 10),
    "llmeval2_zh": (480, {"scores": 480}, 12),
    "oasst_zh": (769, {"scores": 769}, 1),
    "pandalm": (999, {"chosen": 894, "tie": 105}, 10),
    "qa_feedback": (500, {"scores": 500}, 1),
    "rewardbench_rebuilt": (2383, {"chosen": 2383}, 17),
    "rm_bench": (2394, {"chosen": 2394}, 4),
    "summeval": (100, {"scores": 100}, 1),
    "topical_chat": (360, {"scores": 360}, 1),
    "tulu_human": (996, {"chosen": 680, "tie": 316}, 3),
}


def kind(item):
    gold = item.gold
    return "tie" if gold.tie else next(n for n in ("chosen", "ranking", "scores") if getattr(gold, n) is not None)


@pytest.fixture(scope="module")
def own(shared_data):
    return lambda name, **more: load_benchmark(str(shared_data / f"{name}.jsonl"), **more)


# Real files


@pytest.mark.parametrize("name", SETS)
def test_every_set_of_real_judgments_loads_completely_and_is_scored(own, name):
    found = own(name)
    rows, golds, subsets = SETS[name]
    own_name = f"{name}.jsonl" if name in BENCHMARKS else name  # a file of one's own is no published benchmark
    assert (found.name, found.title, found.differs) == (own_name, own_name, ()) and found.official is None
    assert len(found.items) == rows == len({item.id for item in found.items})
    assert Counter(map(kind, found.items)) == golds
    assert len({item.subset for item in found.items}) == subsets
    if golds == {"chosen": rows} and name != "hh_bt_train":
        with load_scorer("length") as scorer:
            accuracy = accuracy_numbers(found.items, {card.id: card for card in scorer.score(found.items)})[0]
        margins = [len(item.responses[0]) - len(item.responses[1]) for item in found.items]
        longer, equal = sum(margin > 0 for margin in margins), margins.count(0)
        assert accuracy.value == pytest.approx((longer + equal / 2) / rows) and accuracy.left_out == 0


def test_ties_keep_votes_and_authors_and_may_have_empty_responses(own, shared_data):
    lines = [json.loads(line) for line in (shared_data / "pandalm.jsonl").open(encoding="utf-8")]
    items = load_benchmark(f"pandalm:{shared_data / 'pandalm.jsonl'}").items
    assert [item.meta["votes"] for item in items] == [row["votes"] for row in lines]
    assert all("_".join(item.meta["authors"]) == item.subset for item in items)
    assert sum("" in item.responses for item in items) == 54
    for item, row in zip(items, lines, strict=True):
        assert item.gold.tie if row["label"] == "tie" else item.gold.chosen == ("ab".index(row["label"]),)


def test_graded_votes_become_labels_by_sign_and_stay(own):
    items = own("tulu_human").items
    signs = {1: "a", 0: "tie", -1: "b"}
    assert {vote for item in items for vote in item.meta["graded_votes"]} == {-2, -1, 0, 1, 2}
    for item in items:
        assert item.meta["votes"] == [signs[(v > 0) - (v < 0)] for v in item.meta["graded_votes"]]
        assert len(item.meta["authors"]) == 2


def test_rankings_keep_aspects_authors_comparisons_and_their_context(own, shared_data):
    summeval, llmeval = own("summeval").items[0], own("llmeval2_zh").items[0]
    assert len(summeval.meta["aspects"]["fluency"]) == len(summeval.meta["authors"]) == 16
    assert len(llmeval.meta["authors"]) == len(llmeval.gold.scores) == 8 and llmeval.reference
    lines = (shared_data / "qa_feedback.jsonl").open(encoding="utf-8")
    for item, row in zip(own("qa_feedback").items, map(json.loads, lines), strict=True):
        assert item.prompt == (f"{row['context']}\n\n" if row["context"] else "") + row["prompt"]
        assert [list(pair) for pair in item.pairs()] == [pair[:2] for pair in row["pairs"]]
        wins = [0.0] * len(item.responses)
        for first, second, outcome in item.meta["pairs"]:
            wins[first] += {"a": 1, "b": 0, "tie": 0.5}[outcome]
            wins[second] += {"a": 0, "b": 1, "tie": 0.5}[outcome]
        assert list(item.gold.scores) == wins


def test_rows_of_one_context_belong_to_one_prompt(own):
    topical, hh, rm = own("topical_chat").items, own("hh_bt_val").items, own("rm_bench").items
    assert set(Counter(map(prompt_of, topical)).values()) == {6} and len(set(map(prompt_of, topical))) == 60
    assert len(set(map(prompt_of, rm))) == 798
    assert len(set(map(prompt_of, hh))) < len({repr(item.messages) for item in hh})
    conversations = [item for item in hh if len(item.messages) > 1]
    assert len(conversations) > 100 and all(item.messages[-1]["role"] == "user" for item in conversations)


def test_the_writer_of_a_scored_response_is_no_system_prompt(own):
    items = own("topical_chat").items
    assert all(item.system is None and item.meta["authors"] for item in items)
    assert items[0].meta["authors"] == ["Original Ground Truth"]


# Names, sources, subsets, limits


@pytest.mark.parametrize("name", BENCHMARKS.names())
def test_the_function_behind_each_name_takes_an_optional_source(name):
    from inspect import signature

    load = BENCHMARKS.load(name)
    assert [p.default is not p.empty for p in signature(load).parameters.values()] == [True]


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("rewardbnch", "did you mean 'rewardbench'"),
        ("judge-bench:file.jsonl", "did you mean 'judgebench'"),
        ("nowhere.jsonl", "no file and no benchmark 'nowhere.jsonl'"),
        ("nowhere.jsonl@a", "no file and no benchmark 'nowhere.jsonl'"),
        ("hh:nowhere.jsonl", "no file 'nowhere.jsonl'"),
        ("demo:other", "there are demo, demo:train, demo:test"),
        ("demo@codes", "no subset 'codes'; there are chat, chinese, code"),
        ("pandalm", "give pandalm:FILE"),
        ("topical-chat", "give topical-chat:FILE"),
    ],
)
def test_a_wrong_name_says_what_there_is(spec, message):
    with pytest.raises(CannotRun) as error:
        load_benchmark(spec)
    assert message in str(error.value)
    if "no benchmark" in message:
        assert all(name in str(error.value) for name in BENCHMARKS.names())


def test_the_demonstration_set_has_two_halves():
    full = [load_benchmark(name) for name in DEMO_SPECS]
    assert [b.name for b in full] == list(DEMO_SPECS) and full[0].items == full[2].items
    assert not {i.id for i in full[1].items} & {i.id for i in full[2].items}
    cut = load_benchmark("demo@code", limit=3)
    assert (cut.name, len(cut.items), {i.subset for i in cut.items}) == ("demo@code", 3, {"code"})
    assert cut.differs == () and cut.shown_name.endswith(", code")


def test_an_at_sign_in_a_files_name_is_no_subset(tmp_path):
    rows = [{"prompt": "p", "chosen": "a", "rejected": "b", "subset": s} for s in "xy"]
    (tmp_path / "a@b").mkdir()
    path = write_rows(tmp_path / "a@b" / "c@d.jsonl", [*rows])
    assert len(load_benchmark(path).items) == 2
    assert [i.subset for i in load_benchmark(f"{path}@x").items] == ["x"]
    assert [i.subset for i in load_benchmark(f"hh:{path}@y").items] == ["y"]


def test_a_limit_takes_from_all_subsets(own):
    for name in ("llmbar", "llmeval2_zh", "tulu_human"):
        full = own(name).items
        subsets = sorted({i.subset for i in full})
        cut = own(name, limit=2 * len(subsets)).items
        assert sorted(i.subset for i in cut) == sorted(2 * subsets)
        assert len(own(name, limit=2 * len(subsets) + 1).items) == 2 * len(subsets) + 1
    assert own("summeval", limit=1000).items == own("summeval").items


def test_a_limit_keeps_the_scored_responses_of_a_context_together(own, tmp_path):
    cut = own("topical_chat", limit=20).items
    assert len(cut) == 18 and set(Counter(map(prompt_of, cut)).values()) == {6}
    assert len(own("topical_chat", limit=4).items) == 4
    rows = [
        {"prompt": "p", "response": f"{s}{g}{n}", "human_score": n, "group": f"{s}{g}", "subset": s}
        for s in "xy"
        for g in range(3)
        for n in range(2)
    ]
    taken = load_benchmark(write_rows(tmp_path / "a.jsonl", [*rows]), limit=7).items
    assert [i.responses[0] for i in taken] == ["x00", "x01", "y00", "y01", "x10", "x11"]


def test_a_published_benchmark_that_is_cut_says_so(shared_data):
    spec = f"pandalm:{shared_data / 'pandalm.jsonl'}"
    assert load_benchmark(spec).differs == () and load_benchmark(spec, limit=999).differs == ()
    assert load_benchmark(spec, limit=10).differs == ("limited: 10 of 999 items",)
    cut = load_benchmark(f"{spec}@bloom-7b_llama-7b", limit=10)
    assert cut.differs == ("only the subset bloom-7b_llama-7b: 111 of 999 items", "limited: 10 of 111 items")
    assert cut.name == "pandalm@bloom-7b_llama-7b" and cut.shown_name.endswith("(not the published set)")
    assert load_benchmark(f"hh:{shared_data / 'hh_bt_val.jsonl'}").differs == ("678 rows; the published set has 8,552",)


@pytest.mark.parametrize(
    "name", [("rewardbench", "rewardbench_rebuilt"), ("llmbar", "llmbar"), ("judgebench", "judgebench_gpt")]
)
def test_an_official_benchmark_keeps_its_scoring_and_says_that_it_is_cut(shared_data, name):
    spec = f"{name[0]}:{shared_data / name[1]}.jsonl"
    full, cut = load_benchmark(spec), load_benchmark(spec, limit=12)
    assert full.official is not None and cut.official is full.official and len(cut.items) == 12
    assert cut.differs == (*full.differs, f"limited: 12 of {len(full.items):,} items")
    assert cut.digest != full.digest


# Benchmarks of other distributions

PLUGIN = """
from judges import CannotRun, Item
from judges.evaluation.benchmarks import Benchmark
from judges.types import Gold

ITEMS = tuple(Item(str(n), "p", ["a", "b"], subset="xy"[n % 2], gold=Gold(chosen=(0,))) for n in range(4))

def load(source="generated"):
    return Benchmark("another-name", "Extra", ITEMS, source)

def rows(source=""):
    return list(ITEMS)

def not_items(source=""):
    return Benchmark("n", "N", ("a", "b"), source)

def equal_ids(source=""):
    return Benchmark("n", "N", ITEMS + ITEMS, source)

def broken(source=""):
    return {}["column"]

def unreadable(source=""):
    raise CannotRun("no such file")
"""


@pytest.fixture
def extra(tmp_path, monkeypatch):
    """A distribution that adds every function of PLUGIN, as pip would leave it."""
    (tmp_path / "extra_benchmarks.py").write_text(PLUGIN)
    info = tmp_path / "extra_benchmarks-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: extra-benchmarks\nVersion: 1.0\n")
    names = ("load", "rows", "not_items", "equal_ids", "broken", "unreadable")
    entries = "".join(f"extra-{name} = extra_benchmarks:{name}\n" for name in names)
    (info / "entry_points.txt").write_text(f"[assay.benchmarks]\n{entries}")
    monkeypatch.syspath_prepend(tmp_path)
    vars(BENCHMARKS).pop("_plugins", None)
    yield
    vars(BENCHMARKS).pop("_plugins", None)


def test_a_plugin_is_loaded_by_its_name_like_a_built_in_benchmark(extra):
    assert "extra-load" in BENCHMARKS.names()
    assert [load_benchmark(spec).source for spec in ("extra-load", "extra-load:file")] == ["generated", "file"]
    part = load_benchmark("extra-load@x", limit=1)
    assert (part.name, len(part.items)) == ("extra-load@x", 1)
    assert part.differs == ("only the subset x: 2 of 4 items", "limited: 1 of 2 items")
    with pytest.raises(CannotRun, match="did you mean 'extra-load'"):
        load_benchmark("extra-lod")


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("rows", "returned a list, not a Benchmark"),
        ("not_items", "has items that are not of type Item"),
        ("equal_ids", "has items with equal ids"),
        ("broken", "failed: KeyError: 'column'"),
    ],
)
def test_a_plugin_that_is_wrong_is_named_with_its_distribution(extra, name, problem):
    with pytest.raises(CannotRun) as stopped:
        load_benchmark(f"extra-{name}")
    assert str(stopped.value) == f"benchmark 'extra-{name}' of distribution 'extra-benchmarks' {problem}"


def test_a_plugins_own_error_is_passed_on(extra):
    with pytest.raises(CannotRun, match=r"^no such file$"):
        load_benchmark("extra-unreadable")


# Wrong rows

GOOD = {
    "pairs": {"prompt": "p", "chosen": "a", "rejected": "b"},
    "ties": {"prompt": "p", "response_a": "a", "response_b": "b", "label": "tie"},
    "rankings": {"prompt": "p", "responses": ["a", "b"], "human_scores": [1, 2]},
    "pointwise": {"prompt": "p", "response": "a", "human_score": 3},
}


@pytest.mark.parametrize(
    ("first", "wrong", "message"),
    [
        ("pairs", {"prompt": "p", "chosen": "a"}, "both chosen and rejected"),
        ("pairs", {"prompt": "p", "chosen": "a", "rejected": 3}, "both chosen and rejected"),
        ("pairs", {"chosen": "a", "rejected": "b"}, "no prompt"),
        ("pairs", {"prompt": "p", "response": "a"}, "a benchmark row needs prompt and one of"),
        ("pairs", {"prompt": "p", "chosen": "a", "rejected": "b", "votes": ["perhaps"]}, "not 'perhaps'"),
        ("pairs", {"prompt": "p", "responses": ["a", "b"], "scores": [1, 2]}, "rankings among pairs"),
        ("ties", {"prompt": "p", "response_a": "a", "response_b": "b"}, "label (a, b or tie)"),
        ("ties", {"prompt": "p", "response_a": "a", "response_b": "b", "label": "neither"}, "label (a, b or tie)"),
        ("ties", {"prompt": "p", "response_a": "a", "label": "a"}, "needs prompt, response_a, response_b"),
        ("rankings", {"prompt": "p", "responses": ["a", "b"], "human_scores": [1]}, "each of the 2 responses"),
        ("rankings", {"prompt": "p", "responses": ["a", "b"], "ranking": [1, None]}, "not a number"),
        ("rankings", {"prompt": "p", "responses": ["a", "b"]}, "best_first"),
        ("rankings", {"prompt": "p", "responses": ["a"], "human_scores": [1]}, "two or more"),
        ("rankings", {**GOOD["rankings"], "aspects": {"wit": [1]}}, "2 scores"),
        ("rankings", {**GOOD["rankings"], "systems": ["m"]}, "1 authors of 2 responses"),
        ("rankings", {**GOOD["rankings"], "pairs": [[0, 2, "a"]]}, "two response indices"),
        ("pointwise", {"prompt": "p", "response": "a", "human_score": "high"}, "a number"),
        ("pointwise", {"prompt": "p", "response": "a", "human_score": float("inf")}, "a number"),
        ("pointwise", {"prompt": "p", "human_score": 3}, "needs prompt, response and human_score"),
    ],
)
def test_a_row_of_the_wrong_shape_stops_with_its_number(tmp_path, first, wrong, message):
    path = write_rows(tmp_path / "mine.jsonl", [GOOD[first], GOOD[first], wrong])
    with pytest.raises(CannotRun) as error:
        load_benchmark(path)
    assert f"{path}, row 3: " in str(error.value) and message in str(error.value)


def test_a_file_without_rows_or_with_a_line_that_is_none_is_refused(tmp_path):
    with pytest.raises(CannotRun, match="no rows"):
        load_benchmark(write_rows(tmp_path / "empty.jsonl", []))
    (tmp_path / "a.jsonl").write_text(f"{json.dumps(GOOD['pairs'])}\n{{\n")
    with pytest.raises(CannotRun, match=r"a.jsonl, row 2: not JSON"):
        load_benchmark(str(tmp_path / "a.jsonl"))
    for text, message in (
        ("{", "cannot be read"),
        ('{"data": []}', "one list of rows"),
        ("[1]", "row 1: the row is not a JSON object"),
    ):
        (tmp_path / "a.json").write_text(text)
        with pytest.raises(CannotRun, match=message):
            load_benchmark(str(tmp_path / "a.json"))


# A user's own file, with no code


def test_a_users_rows_are_recognised_by_their_fields(tmp_path):
    loaded = {name: load_benchmark(write_rows(tmp_path / f"{name}.jsonl", [row])) for name, row in GOOD.items()}
    assert [kind(b.items[0]) for b in loaded.values()] == ["chosen", "tie", "scores", "scores"]
    assert [len(b.items[0].responses) for b in loaded.values()] == [2, 2, 2, 1]
    mixed = load_benchmark(write_rows(tmp_path / "mixed.jsonl", [GOOD["pairs"], GOOD["ties"]]))
    assert [kind(i) for i in mixed.items] == ["chosen", "tie"] and [i.id for i in mixed.items] == ["row-1", "row-2"]


def test_a_label_may_be_left_to_the_votes(tmp_path):
    row = {"prompt": "p", "response_a": "a", "response_b": "b"}
    path = write_rows(
        tmp_path / "a.jsonl", [*({**row, "votes": v} for v in (["a", "a", "b"], ["A", "b"], [-1, None, 0, -2]))]
    )
    items = load_benchmark(path).items
    assert [i.gold.chosen for i in items] == [(0,), None, (1,)] and items[1].gold.tie
    assert items[2].meta["votes"] == ["b", "tie", "b"] and items[2].meta["graded_votes"] == [-1, 0, -2]


def test_a_csv_and_a_json_list_are_read_too(tmp_path):
    (tmp_path / "a.csv").write_text("prompt,response,score,group\np,x,4.5,g\np,y,2,g\n")
    scored = load_benchmark(str(tmp_path / "a.csv"))
    assert [i.gold.scores for i in scored.items] == [(4.5,), (2.0,)] and scored.name == "a"
    assert {prompt_of(i) for i in scored.items} == {"g"}
    (tmp_path / "b.json").write_text(json.dumps([GOOD["rankings"], {**GOOD["rankings"], "id": "named"}]))
    assert [i.id for i in load_benchmark(str(tmp_path / "b.json")).items] == ["row-1", "named"]


def test_best_first_and_ranks_keep_the_sources_order(tmp_path):
    rows = [
        {"prompt": "p", "responses": ["x", "y", "z"], "best_first": True},
        {"prompt": "p", "responses": ["x", "y", "z"], "ranking": [2, 1, 2]},
    ]
    first, second = load_benchmark(write_rows(tmp_path / "a.jsonl", [*rows])).items
    assert first.gold.ranking == (1, 2, 3) and first.responses == ("x", "y", "z")
    assert second.gold.ranking == (2, 1, 2)


def test_scored_messages_lose_their_last_turn_to_the_response(tmp_path):
    talk = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello!"}]
    item = load_benchmark(
        write_rows(tmp_path / "a.jsonl", [{"messages": talk, "score": 1, "system": "Be kind."}])
    ).items[0]
    assert item.responses == ("Hello!",) and item.system == "Be kind."
    assert [m["content"] for m in item.messages] == ["Be kind.", "Hi"]


def test_a_context_stands_before_the_first_message(tmp_path):
    row = {"responses": ["x", "y"], "human_scores": [1, 0], "context": "Passage."}
    prompts = ["Why?", "Human: Why?\n\nAssistant: So.\n\nHuman: How?"]
    single, several = load_benchmark(write_rows(tmp_path / "a.jsonl", [*({**row, "prompt": p} for p in prompts)])).items
    assert single.prompt == "Passage.\n\nWhy?"
    assert [m["content"] for m in several.messages] == ["Passage.\n\nWhy?", "So.", "How?"]


# The published columns


def mt_bench(question, turn, models, winner, judge, texts=("one", "two")):
    def talk(text):
        turns = []
        for n in range(2):
            turns += [
                {"role": "user", "content": f"q{question}.{n + 1}"},
                {"role": "assistant", "content": f"{text} {n + 1}"},
            ]
        return turns

    return {
        "question_id": question,
        "model_a": models[0],
        "model_b": models[1],
        "winner": winner,
        "judge": judge,
        "conversation_a": talk(texts[0]),
        "conversation_b": talk(texts[1]),
        "turn": turn,
    }


def test_the_votes_on_an_mt_bench_pair_become_one_item(tmp_path):
    rows = [
        mt_bench(81, 1, ("m1", "m2"), "model_a", "expert_1"),
        mt_bench(81, 1, ("m2", "m1"), "model_b", "expert_2", ("two", "one")),
        mt_bench(81, 1, ("m1", "m2"), "tie", "author_1"),
        mt_bench(81, 2, ("m2", "m1"), "model_a", "expert_1", ("two", "one")),
        mt_bench(82, 1, ("m1", "m2"), "model_a", "expert_1"),
        mt_bench(82, 1, ("m1", "m2"), "model_b", "expert_3"),
    ]
    found = load_benchmark(f"mt-bench-human:{write_rows(tmp_path / 'votes.jsonl', [*rows])}")
    first, later, split = found.items
    assert first.meta["votes"] == ["a", "a", "tie"] and first.gold.chosen == (0,)
    assert first.meta["annotators"] == ["expert_1", "expert_2", "author_1"]
    assert first.meta["authors"] == ["m1", "m2"] and first.responses == ("one 1", "two 1")
    assert (first.prompt, first.subset, later.subset) == ("q81.1", "turn-1", "turn-2")
    assert later.responses == tuple(f"{w} 1\n\nHuman: q81.2\n\nAssistant: {w} 2" for w in ("one", "two"))
    assert later.gold.chosen == (1,) and split.gold.tie
    assert prompt_of(first) == prompt_of(later) != prompt_of(split)
    assert found.differs == ("6 votes; the published set has 3,355",)


@pytest.mark.parametrize("change", [{"winner": "both"}, {"turn": 3}, {"conversation_b": []}, {"model_a": None}])
def test_an_mt_bench_vote_of_another_shape_stops_with_its_number(tmp_path, change):
    rows = [mt_bench(81, 2, ("m1", "m2"), "model_a", "expert_1") | more for more in ({}, change)]
    with pytest.raises(CannotRun, match=r"votes.jsonl, row 2: not a vote; an MT-Bench vote needs"):
        load_benchmark(f"mt-bench-human:{write_rows(tmp_path / 'votes.jsonl', [*rows])}")


def test_pandalms_published_columns(tmp_path):
    row = {
        "idx": 0,
        "cmp_key": "opt-7b_pythia-6.9b",
        "instruction": "Name it.",
        "input": "",
        "response1": "",
        "response2": "Ada",
        "annotator1": 2,
        "annotator2": 2,
        "annotator3": 0,
    }
    path = tmp_path / "testset.json"
    path.write_text(json.dumps([row, {**row, "input": "A cat.", "annotator2": 0}]))
    first, second = load_benchmark(f"pandalm:{path}").items
    assert first.gold.chosen == (1,) and first.meta["votes"] == ["b", "b", "tie"] and second.gold.tie
    assert (first.prompt, second.prompt) == ("Name it.", "Name it.\n\nA cat.")
    assert first.responses == ("", "Ada") and first.meta["authors"] == ["opt-7b", "pythia-6.9b"]
    path.write_text(json.dumps([row, {**row, "annotator3": 3}]))
    with pytest.raises(CannotRun, match=r"testset.json, row 2: a PandaLM row needs"):
        load_benchmark(f"pandalm:{path}")


def test_hhs_transcripts_share_all_but_the_last_reply(tmp_path):
    start = "\n\nHuman: Hi\n\nAssistant: Yes?\n\nHuman: Why?"
    rows = [
        {"chosen": f"{start}\n\nAssistant: Because.", "rejected": f"{start}\n\nAssistant:"},
        {"chosen": "\n\nHuman: One?\n\nAssistant: 1", "rejected": "\n\nHuman: One?\n\nAssistant: 2"},
        {
            "chosen": f"{start}\n\nAssistant: So.",
            "rejected": "\n\nHuman: Hi\n\nAssistant: No.\n\nHuman: Why?\n\nAssistant: x",
        },
    ]
    found = load_benchmark(f"hh:{write_rows(tmp_path / 'hh.jsonl', [*rows])}")
    first, second = found.items
    assert [m["content"] for m in first.messages] == ["Hi", "Yes?", "Why?"]
    assert first.responses == ("Because.", "") and first.gold.chosen == (0,)
    assert [dict(m) for m in second.messages] == [{"role": "user", "content": "One?"}]
    assert found.differs[0] == "3 rows; the published set has 8,552" and found.differs[1].endswith("last reply: 1")
    with pytest.raises(CannotRun, match=r"hh.jsonl, row 2: an HH row needs"):
        load_benchmark(f"hh:{write_rows(tmp_path / 'hh.jsonl', [rows[0], {'chosen': 'a', 'rejected': 'b'}])}")


def test_hhh_alignments_published_columns(tmp_path):
    rows = [
        {"input": "Is it?", "targets": {"choices": ["No.", "Yes."], "labels": [0, 1]}},
        {"input": "Human: A?\n\nAssistant: B.\n\nHuman: C?", "targets": {"choices": ["x", "y"], "labels": [1, 0]}},
    ]
    first, second = load_benchmark(f"hhh-alignment:{write_rows(tmp_path / 'hhh.jsonl', [*rows])}").items
    assert (first.prompt, first.gold.chosen, second.gold.chosen) == ("Is it?", (1,), (0,))
    assert [m["content"] for m in second.messages] == ["A?", "B.", "C?"]
    wrong = {"input": "Is it?", "targets": {"choices": ["No.", "Yes."], "labels": [1, 1]}}
    with pytest.raises(CannotRun, match=r"hhh.jsonl, row 2: targets needs"):
        load_benchmark(f"hhh-alignment:{write_rows(tmp_path / 'hhh.jsonl', [rows[0], wrong])}")


def test_summevals_published_columns(tmp_path):
    row = {
        "text": "A long article.",
        "machine_summaries": ["one", "two"],
        "human_summaries": ["ref"],
        "coherence": [1.0, 5.0],
        "consistency": [2.0, 5.0],
        "fluency": [3.0, 5.0],
        "relevance": [4.0, 5.0],
    }
    item = load_benchmark(f"summeval:{write_rows(tmp_path / 's.jsonl', [row])}").items[0]
    assert item.gold.scores == (2.5, 5.0) and item.responses == ("one", "two")
    assert item.meta["aspects"]["relevance"] == [4.0, 5.0] and item.prompt.endswith("A long article.")
    with pytest.raises(CannotRun, match=r"s.jsonl, row 1: a SummEval row needs"):
        load_benchmark(f"summeval:{write_rows(tmp_path / 's.jsonl', [{**row, 'fluency': [1.0]}])}")


def test_topical_chats_published_columns(tmp_path):
    reply = {"response": "so ?\n", "model": "A", "Overall": [4, 5, 3], "Natural": [3, 2, 3], "Engaging": [1, 1, 1]}
    rows = [{"context": "hi !\nhello .\n", "fact": "It rains.\n", "responses": [reply, {**reply, "model": "B"}]}] * 2
    path = tmp_path / "tc.json"
    path.write_text(json.dumps(rows))
    items = load_benchmark(f"topical-chat:{path}").items
    assert [i.gold.scores for i in items] == [(4.0,)] * 4 and items[0].responses == ("so ?",)
    assert [i.meta["authors"] for i in items] == [["A"], ["B"]] * 2 and len({i.id for i in items}) == 4
    assert items[0].meta["aspects"] == {"naturalness": pytest.approx(8 / 3), "engagingness": 1.0}
    assert [prompt_of(i) for i in items] == ["1", "1", "2", "2"] and "It rains." in items[0].prompt
    path.write_text(json.dumps([*rows, {"context": "hi", "responses": [{"response": "x"}]}]))
    with pytest.raises(CannotRun, match=r"tc.json, row 3: each of responses needs"):
        load_benchmark(f"topical-chat:{path}")


def test_the_hub_is_asked_for_each_set_under_its_published_name(monkeypatch):
    requested = []

    def nothing(path):
        requested.append(path)
        raise CannotRun(path)

    monkeypatch.setattr("judges.evaluation.benchmarks.rows.read_records", nothing)
    for name in ("mt-bench-human", "hh", "hhh-alignment", "summeval"):
        with pytest.raises(CannotRun):
            load_benchmark(name)
    assert requested == [
        "hf:lmsys/mt_bench_human_judgments:human",
        "hf:Anthropic/hh-rlhf:test",
        "hf:HuggingFaceH4/hhh_alignment/harmless:test",
        "hf:mteb/summeval:test",
    ]


def test_a_digest_changes_with_what_a_scorer_sees_and_is_measured_by():
    def of(**more):
        fields = {"id": "a", "prompt": "p", "responses": ["x", "y"], **more}
        return Benchmark("n", "n", (Item(**fields),), "s").digest

    assert of() == of() and len({of(), of(prompt="q"), of(responses=["y", "x"]), of(subset="s"), of(system="s")}) == 5
