"""JudgeBench: its rule by hand, against an independent implementation and published outputs, and rows in both forms."""

import gzip
import json
import random

import pytest
from benchmark_cards import NO_VERDICT, scored, write_rows

from judges import Item, Judgment, Scorecard
from judges.errors import CannotRun
from judges.evaluation.benchmarks import judgebench, rows
from judges.types import Comparison, Gold


def pair(name, label, subset="math"):
    return Item(
        id=name,
        prompt=f"question {name}",
        responses=["response A", "response B"],
        subset=subset,
        gold=Gold(chosen=(0 if label == "A>B" else 1,)),
    )


def comparison(decision, swapped):
    """A decision about what was shown, A first shown, as a Comparison of the pair in its own order."""
    if decision is None:
        return Comparison(0, 1, NO_VERDICT, swapped)
    if decision == "A=B":
        return Comparison(0, 1, "tie", swapped)
    return Comparison(0, 1, "first" if (decision == "A>B") != swapped else "second", swapped)


def compared(name, decisions):
    """decisions: in the given order and in the swapped one; "-" where an order was not judged."""
    comparisons = tuple(comparison(d, bool(n)) for n, d in enumerate(decisions) if d != "-")
    return Scorecard(name, (Judgment(failure=NO_VERDICT), Judgment(failure=NO_VERDICT)), comparisons)


def value(label, card, name="overall"):
    return judgebench.official([pair(card.id, label)], {card.id: card}).value(name)


# The label, the decisions about the given and the swapped order as they were shown, and whether the pair is right.
BY_HAND = [
    ("A>B", "A>B", "B>A", 1),  # +1 +1
    ("A>B", "A>B", "A>B", 0),  # +1 −1: the first slot, both times
    ("A>B", "B>A", "B>A", 0),  # −1 +1: the second slot
    ("A>B", "B>A", "A>B", 0),  # −1 −1
    ("A>B", "A=B", "B>A", 1),  # 0 +1
    ("A>B", "A>B", "A=B", 1),
    ("A>B", "A=B", "A=B", 0),
    ("A>B", "A=B", "A>B", 0),
    ("A>B", None, "B>A", 1),
    ("A>B", "A>B", None, 1),
    ("A>B", None, None, 0),
    ("A>B", None, "A=B", 0),
    ("A>B", "B>A", None, 0),
    ("B>A", "B>A", "A>B", 1),
    ("B>A", "B>A", "B>A", 0),
    ("B>A", "A>B", "A>B", 0),
    ("B>A", "A>B", "B>A", 0),
    ("B>A", "A=B", "A>B", 1),
    ("B>A", "B>A", "A=B", 1),
    ("B>A", "A=B", "A=B", 0),
    ("B>A", None, "A>B", 1),
    ("B>A", "B>A", None, 1),
    ("B>A", None, None, 0),
    ("B>A", "A>B", None, 0),
    # One order alone counts once.
    ("A>B", "A>B", "-", 1),
    ("A>B", "B>A", "-", 0),
    ("A>B", "A=B", "-", 0),
    ("A>B", None, "-", 0),
    ("A>B", "-", "B>A", 1),
    ("B>A", "-", "A>B", 1),
    ("B>A", "-", "B>A", 0),
]


@pytest.mark.parametrize("label, given, swapped, right", BY_HAND)
def test_two_decisions_by_hand(label, given, swapped, right):
    assert value(label, compared("a", (given, swapped))) == right


@pytest.mark.parametrize(
    "label, scores, right",
    [
        ("A>B", (2, 1), 1),
        ("A>B", (1, 2), 0),
        ("A>B", (1, 1), 0),
        ("A>B", (0, -1), 1),
        ("A>B", (None, 1), 0),
        ("A>B", (1, None), 0),
        ("A>B", (None, None), 0),
        ("B>A", (1, 2), 1),
        ("B>A", (2, 1), 0),
        ("B>A", (1, 1), 0),
        ("B>A", (None, 1), 0),
    ],
)
def test_scores_give_the_same_in_both_orders(label, scores, right):
    assert value(label, scored("a", *scores)) == right


def test_votes_of_one_order_are_one_verdict():
    comparisons = [Comparison(0, 1, o) for o in ("first", "first", "second")] + [Comparison(0, 1, "tie", swapped=True)]
    card = Scorecard("a", (Judgment(score=0.6), Judgment(score=0.4)), tuple(comparisons))
    assert judgebench.verdicts(card, (0, 1)) == (0, None)
    assert value("A>B", card) == 1 and value("B>A", card) == 0


def test_verdicts_come_in_the_orders_of_the_pair_whoever_is_named_first():
    comparisons = (Comparison(1, 0, "first", swapped=False), Comparison(1, 0, "second", swapped=True))
    card = Scorecard("a", (), comparisons)
    assert judgebench.verdicts(card, (0, 1)) == (0, 1) and judgebench.verdicts(card, (1, 0)) == (1, 0)
    assert judgebench.verdicts(card, (0, 2)) == ()


def test_the_denominator_is_all_pairs_and_categories_are_parts():
    items = [pair("1", "A>B", "math"), pair("2", "A>B", "math"), pair("3", "B>A", "coding"), pair("4", "B>A", "other")]
    cards = [scored("1", 2, 1), scored("2", None, 1), scored("3", 1, 2), scored("4", 1, 2)]
    found = judgebench.official(items, {c.id: c for c in cards})
    assert found.value("overall") == 0.75 and found.value("math") == 0.5 and found.value("coding") == 1
    assert found.headline == "overall" and set(found.missing) == {"knowledge", "reasoning"}
    assert "knowledge" not in found.numbers


def reference(rows):
    """rows: (label, subset, decisions or scores). The rule in words: flip the second decision back, count."""
    right = {}
    for label, subset, answers in rows:
        if isinstance(answers[0], int | float) or isinstance(answers[1], int | float) or answers == ("none", "none"):
            a, b = answers
            if "none" in answers:
                answers = (None, None)
            else:
                answers = ("A>B" if a > b else "B>A", "A>B" if b > a else "B>A")  # a tie is B>A, both times
        total = 0
        for n, decision in enumerate(answers):
            if n == 1 and decision in ("A>B", "B>A"):
                decision = "B>A" if decision == "A>B" else "A>B"
            if decision == label:
                total += 1
            elif decision in ("A>B", "B>A"):
                total -= 1
        right.setdefault(subset, []).append(total > 0)
    everything = [value for part in right.values() for value in part]
    return {subset: sum(part) / len(part) for subset, part in right.items()} | {
        "overall": sum(everything) / len(everything)
    }


@pytest.mark.parametrize("seed", range(40))
def test_official_equals_an_independent_implementation(seed):
    draw = random.Random(seed)
    subsets = draw.sample(list(judgebench.COUNTS), draw.randint(1, 4))
    rows = []
    for _ in range(draw.randint(1, 60)):
        if seed % 2:
            answers = (draw.choice(["A>B", "B>A", "A=B", None]), draw.choice(["A>B", "B>A", "A=B", None]))
        else:
            answers = tuple(draw.choice([0, 1, 2, 2.5, "none"]) for _ in range(2))
        rows.append((draw.choice(["A>B", "B>A"]), draw.choice(subsets), answers))
    items = [pair(str(n), label, subset) for n, (label, subset, _) in enumerate(rows)]
    cards = [
        compared(str(n), answers) if seed % 2 else scored(str(n), *(None if s == "none" else s for s in answers))
        for n, (_, _, answers) in enumerate(rows)
    ]
    found = judgebench.official(items, {c.id: c for c in cards})
    assert {name: found.value(name) for name in found.numbers} == pytest.approx(reference(rows), abs=1e-12)


# Accuracy in percent: over all as published, then knowledge, reasoning, math, coding as these outputs give them.
PUBLISHED = {
    "arena_hard--o1-mini-2024-09-12": (65.71, 58.44, 62.24, 82.14, 78.57),
    "reward_model--Skywork_Skywork-Reward-Gemma-2-27B": (64.29, 59.74, 66.33, 83.93, 50.00),
    "reward_model--internlm_internlm2-20b-reward": (63.43, 62.34, 69.39, 66.07, 50.00),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_outputs_give_the_published_numbers(shared_data, name):
    path = shared_data / "judgebench_outputs" / f"{name}.jsonl.gz"
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        rows = [json.loads(line) for line in lines]
    benchmark = judgebench.load(str(path))
    assert benchmark.differs == () and benchmark.items[0].meta["authors"] == ["gpt-4o-2024-05-13"] * 2
    cards = {r["pair_id"]: compared(r["pair_id"], [(j or {}).get("decision") for j in r["judgments"]]) for r in rows}
    found = benchmark.official(benchmark.items, cards)
    sections = ("overall", "knowledge", "reasoning", "math", "coding")
    assert tuple(round(100 * found.value(s), 2) for s in sections) == PUBLISHED[name]


def test_published_scores_give_what_their_decisions_give(shared_data):
    path = shared_data / "judgebench_outputs" / "reward_model--Skywork_Skywork-Reward-Gemma-2-27B.jsonl.gz"
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        rows = [json.loads(line) for line in lines]
    benchmark = judgebench.load(str(path))
    cards = {r["pair_id"]: scored(r["pair_id"], *r["judgments"][0]["judgment"]["scores"]) for r in rows}
    assert round(100 * benchmark.official(benchmark.items, cards).value("overall"), 2) == 64.29


def test_the_local_copy_has_the_published_order_and_labels(shared_data):
    local = judgebench.load(str(shared_data / "judgebench_gpt.jsonl"))
    name = "arena_hard--o1-mini-2024-09-12.jsonl.gz"
    hub = judgebench.load(str(shared_data / "judgebench_outputs" / name))
    by_id = {item.id: item for item in hub.items}
    assert len(local.items) == 350 and local.differs == () and local.title == "JudgeBench (GPT-4o pairs)"
    for item in local.items:
        same = by_id[item.id]
        assert (item.responses, item.gold, item.subset) == (same.responses, same.gold, same.subset)


# -- rows ---------------------------------------------------------------------------------------------------


def published(n, source="livecodebench", **other):
    row = {"pair_id": f"p{n}", "original_id": str(n), "source": source, "question": f"q{n}", "label": "B>A"}
    return row | {"response_model": judgebench.GPT_4O, "response_A": "first", "response_B": "second"} | other


def local(n, winner, **other):
    row = {"id": f"jb-p{n}", "prompt": f"q{n}", "chosen": "good", "rejected": "bad", "source": "mmlu-pro-law"}
    return row | {"original_winner_position": winner} | other


def test_the_published_form_is_read_from_the_hub(monkeypatch):
    requested = []
    sources = {"knowledge": "mmlu-pro-law", "reasoning": "livebench-reasoning", "math": "livebench-math"}

    def records(source):
        requested.append(source)
        names = [sources.get(c, "livecodebench") for c, count in judgebench.COUNTS.items() for _ in range(count)]
        return iter([published(n, name) for n, name in enumerate(names)])

    monkeypatch.setattr(rows, "read_records", records)
    found = judgebench.load()
    assert requested == ["hf:ScalerLab/JudgeBench:gpt"] and len(found.items) == 350 and found.differs == ()
    item = found.items[0]
    assert (item.id, item.subset, item.responses, item.gold.chosen) == ("p0", "knowledge", ("first", "second"), (1,))


def test_a_chosen_and_rejected_row_goes_back_to_its_order(tmp_path):
    a, b = judgebench.load(write_rows(tmp_path / "rows.jsonl", [local(1, "a"), local(2, "b")])).items
    assert (a.responses, a.gold.chosen) == (("good", "bad"), (0,))
    assert (b.responses, b.gold.chosen) == (("bad", "good"), (1,))
    assert (a.id, a.subset) == ("p1", "knowledge") and "authors" not in a.meta


def test_the_claude_split_is_compared_with_its_own_count(tmp_path):
    rows = [published(n, response_model=judgebench.CLAUDE) for n in range(270)]
    found = judgebench.load(write_rows(tmp_path / "rows.jsonl", rows))
    assert found.differs == () and "Claude" in found.title
    assert judgebench.load(write_rows(tmp_path / "rows.jsonl", rows[:9])).differs == (
        "in all: 9 of the published 270 pairs",
    )


@pytest.mark.parametrize(
    "rows, message",
    [
        ([published(1)], "knowledge: none of the published 154 pairs"),
        ([published(1), published(2, response_model="other")], "pairs of 2 models"),
        ([published(1, response_model="other")], "the responses are other's"),
        ([published(1, source="gsm8k")], "gsm8k: not in the published set"),
    ],
)
def test_what_differs_is_said(tmp_path, rows, message):
    found = judgebench.load(write_rows(tmp_path / "rows.jsonl", rows))
    assert any(message in sentence for sentence in found.differs)


@pytest.mark.parametrize(
    "rows, message",
    [
        ([published(1), published(2, label="A=B")], "row 2: label is 'A=B'"),
        ([published(1, label=None)], "row 1: label is None"),
        ([published(1, label=["A>B"])], "row 1: label is ['A>B']"),
        ([published(1, response_B=None)], "row 1: response_B is missing"),
        ([published(1, question="")], "row 1: question is empty"),
        ([published(1, source=3)], "row 1: source is not text"),
        ([local(1, "c")], "row 1: original_winner_position is 'c'"),
        ([local(1, "a", rejected=7)], "row 1: rejected is not text"),
        ([{"text": "x"}], "row 1: prompt is missing"),
    ],
)
def test_a_row_of_another_shape_is_named(tmp_path, rows, message):
    with pytest.raises(CannotRun) as error:
        judgebench.load(write_rows(tmp_path / "rows.jsonl", rows))
    assert message in str(error.value) and "label (A>B or B>A)" in str(error.value)
