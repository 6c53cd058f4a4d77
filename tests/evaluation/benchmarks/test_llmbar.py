"""LLMBar: its rules by hand, against an independent implementation, on published counts, and its rows in each form."""

import json
import random

import pytest
from benchmark_cards import NO_VERDICT, scored, write_rows

from judges import Item, Judgment, Scorecard
from judges.errors import CannotRun
from judges.evaluation.benchmarks import llmbar
from judges.types import Comparison, Gold


def pair(name, label=1, subset="natural"):
    return Item(
        id=name,
        prompt=f"instruction {name}",
        responses=["output 1", "output 2"],
        subset=subset,
        gold=Gold(chosen=(label - 1,)),
    )


def compared(name, winners):
    """winners: 1, 2, "tie" or None (no verdict) in the given and in the swapped order; "-" for one not judged."""
    outcome = {1: "first", 2: "second", "tie": "tie", None: NO_VERDICT}
    comparisons = tuple(Comparison(0, 1, outcome[w], bool(n)) for n, w in enumerate(winners) if w != "-")
    return Scorecard(name, (Judgment(failure=NO_VERDICT), Judgment(failure=NO_VERDICT)), comparisons)


def tally(rows):
    """rows: (subset, label, card made by name)."""
    items = [pair(str(n), label, subset) for n, (subset, label, _) in enumerate(rows)]
    return llmbar.official(items, {str(n): card(str(n)) for n, (_, _, card) in enumerate(rows)})


# The label, who won in the given and in the swapped order; accuracy and agreement (None: not defined).
BY_HAND = [
    (1, (1, 1), 1, 1),
    (1, (1, 2), 0.5, 0),
    (1, (2, 1), 0.5, 0),
    (1, (2, 2), 0, 1),
    (1, (1, None), 0.5, 0),
    (1, (None, 1), 0.5, 0),
    (1, (2, None), 0, 0),
    (1, (None, 2), 0, 0),
    (1, (None, None), 0, 1),  # the published code finds two missing verdicts equal
    (1, ("tie", 1), 0.5, 0),
    (1, ("tie", "tie"), 0, 1),
    (1, ("tie", None), 0, 1),
    (1, (2, "tie"), 0, 0),
    (2, (2, 2), 1, 1),
    (2, (1, 2), 0.5, 0),
    (2, (2, 1), 0.5, 0),
    (2, (1, 1), 0, 1),
    (2, (None, 2), 0.5, 0),
    (2, (None, 1), 0, 0),
    (2, (None, None), 0, 1),
    (1, (1, "-"), 1, None),
    (1, (2, "-"), 0, None),
    (1, (None, "-"), 0, None),
    (1, ("-", 1), 1, None),
    (2, ("-", 1), 0, None),
]


@pytest.mark.parametrize("label, winners, accuracy, agreement", BY_HAND)
def test_a_comparing_judge_by_hand(label, winners, accuracy, agreement):
    found = tally([("natural", label, lambda name: compared(name, winners))])
    assert found.value("natural") == accuracy
    if agreement is None:
        assert found.missing["natural agreement"] == "no pair was judged in both orders"
        assert "natural agreement" not in found.numbers
    else:
        assert found.value("natural agreement") == agreement


@pytest.mark.parametrize(
    "label, scores, accuracy, agreement",
    [
        (1, (5, 3), 1, 1),
        (1, (3, 5), 0, 1),
        (1, (4, 4), 0.5, 0),
        (1, (None, 4), 0.5, 0),
        (1, (4, None), 0.5, 0),
        (1, (None, None), 0.5, 0),
        (1, (0, -1), 1, 1),
        (2, (3, 5), 1, 1),
        (2, (5, 3), 0, 1),
        (2, (4, 4), 0.5, 0),
        (2, (None, 4), 0.5, 0),
    ],
)
def test_ratings_by_hand(label, scores, accuracy, agreement):
    found = tally([("natural", label, lambda name: scored(name, *scores))])
    assert (found.value("natural"), found.value("natural agreement")) == (accuracy, agreement)


def right(name):
    return compared(name, (1, 1))


def wrong(name):
    return compared(name, (2, 2))


def first_slot(name):
    return compared(name, (1, 2))


def test_averages_are_plain_means_of_subsets():
    rows = [("natural", 1, right)] * 2 + [("neighbor", 1, wrong)] * 6 + [("gptinst", 1, right)]
    found = tally([*rows, ("gptout", 1, right), ("manual", 1, first_slot), ("manual", 1, wrong)])
    assert found.headline == "average" and not found.missing
    assert found.value("adversarial") == pytest.approx((0 + 1 + 1 + 0.25) / 4)
    assert found.value("average") == pytest.approx((1 + 0 + 1 + 1 + 0.25) / 5)
    assert found.value("adversarial agreement") == pytest.approx((1 + 1 + 1 + 0.5) / 4)
    assert found.value("average agreement") == pytest.approx((1 + 1 + 1 + 1 + 0.5) / 5)


def test_without_a_subset_nothing_bears_the_official_name():
    found = tally([("natural", 1, right), ("gptout", 1, wrong)])
    assert found.headline == "average of natural, gptout" and found.value(found.headline) == 0.5
    assert "adversarial" not in found.numbers and "average" not in found.numbers
    assert "no neighbor, gptinst, manual" in found.missing["adversarial"]
    assert found.missing["neighbor"] == "there is no pair of neighbor"


def test_agreement_is_over_the_pairs_judged_in_both_orders():
    single = [("natural", 1, lambda name: compared(name, (1, "-")))]
    found = tally([*single, ("natural", 1, right), ("natural", 1, first_slot)])
    assert found.value("natural") == pytest.approx(2.5 / 3) and found.value("natural agreement") == 0.5


# GPT-4 with metrics and reference, as its authors publish it: pairs, right in the given order, in the swapped
# one, in both, and equal in both. The paper shows 82.8 for the mean of the adversarial four.
COUNTED = {
    "natural": (100, 95, 97, 94, 96),
    "neighbor": (134, 115, 114, 111, 127),
    "gptinst": (92, 80, 85, 78, 83),
    "gptout": (47, 34, 34, 30, 39),
    "manual": (46, 37, 40, 35, 39),
}
PERCENT = {"natural": 96.0, "neighbor": 85.45, "gptinst": 89.67, "gptout": 72.34, "manual": 83.70, "adversarial": 82.79}


def test_published_counts_of_ratings_give_the_published_percentages():
    """GPT-4's ratings of natural: right in 87 pairs in both orders, in 10 in one; published as 92.0 and 90.0."""
    scores = [(5, 1)] * 87 + [(1, 5)] * 3 + [(3, 3)] * 6 + [(None, 3)] * 4
    found = tally([("natural", 1, lambda name, s=s: scored(name, *s)) for s in scores])
    assert (found.value("natural"), found.value("natural agreement")) == (0.92, 0.9)


def test_published_counts_give_the_published_percentages():
    rows = []
    for subset, (pairs, given, swapped, both, equal) in COUNTED.items():
        winners = [(1, 1)] * both + [(1, 2)] * (given - both) + [(2, 1)] * (swapped - both)
        winners += [(2, 2)] * (pairs - len(winners))
        assert sum(a == b for a, b in winners) == equal
        rows += [(subset, 1, lambda name, w=w: compared(name, w)) for w in winners]
    found = tally(rows)
    assert {name: round(100 * found.value(name), 2) for name in PERCENT} == PERCENT
    assert {s: found.value(f"{s} agreement") for s in COUNTED} == {s: c[4] / c[0] for s, c in COUNTED.items()}


def reference(rows):
    """rows: (subset, label, kind, two of winners or scores). A winner for each order, then counting."""
    right, equal = {}, {}
    for subset, label, kind, answers in rows:
        if kind == "rated":
            first, second = answers
            if first is None or second is None:
                answers = (1, 2)
            else:
                answers = (1 if first > second else 2, 2 if second > first else 1)
        else:
            answers = tuple(None if w == "tie" else w for w in answers)
        right.setdefault(subset, []).append(((answers[0] == label) + (answers[1] == label)) / 2)
        equal.setdefault(subset, []).append(answers[0] == answers[1])
    out = {}
    for behind, table in (("", right), (" agreement", equal)):
        mean = {subset: sum(values) / len(values) for subset, values in table.items()}
        out |= {subset + behind: m for subset, m in mean.items()}
        four = [mean.get(s) for s in ("neighbor", "gptinst", "gptout", "manual")]
        if None not in four:
            out["adversarial" + behind] = sum(four) / 4
            if "natural" in mean:
                out["average" + behind] = (sum(four) + mean["natural"]) / 5
    return out


@pytest.mark.parametrize("seed", range(40))
def test_official_equals_an_independent_implementation(seed):
    draw = random.Random(seed)
    subsets = list(llmbar.COUNTS) if seed % 3 else draw.sample(list(llmbar.COUNTS), draw.randint(1, 4))
    rows = []
    for n in range(len(subsets) + draw.randint(0, 60)):
        kind = draw.choice(["rated", "compared"])
        values = [1, 2, 3, 2.5, None] if kind == "rated" else [1, 2, "tie", None]
        rows.append((subsets[n % len(subsets)], draw.choice([1, 2]), kind, (draw.choice(values), draw.choice(values))))
    make = {"rated": lambda name, scores: scored(name, *scores), "compared": compared}
    found = tally([(s, label, lambda name, k=kind, t=answers: make[k](name, t)) for s, label, kind, answers in rows])
    expected = reference(rows)
    assert {name: found.value(name) for name in expected} == pytest.approx(expected, abs=1e-12)
    assert ("average" in found.numbers) == ("average" in expected)
    assert ("adversarial" in found.numbers) == ("adversarial" in expected)


# -- rows ---------------------------------------------------------------------------------------------------


def published(n, label=2, **other):
    return {"input": f"i{n}", "output_1": "one", "output_2": "two", "label": label} | other


def local(winner, subset="adver-GPTInst", **other):
    row = {"id": f"x-{winner}", "subset": subset, "prompt": "i", "chosen": "good", "rejected": "bad"}
    return row | {"original_winner_position": winner} | other


def repository(folder, counts):
    for subset, count in counts.items():
        file = folder / llmbar.FILES[subset]
        file.parent.mkdir(parents=True)
        file.write_text(json.dumps([published(n) for n in range(count)]), encoding="utf-8")


def test_a_copy_of_the_repository_is_read(tmp_path):
    repository(tmp_path / "Dataset" / "LLMBar", llmbar.COUNTS)
    found = llmbar.load(str(tmp_path))
    assert len(found.items) == 419 == len({item.id for item in found.items}) and found.differs == ()
    item = found.items[0]
    assert (item.subset, item.responses, item.gold.chosen) == ("natural", ("one", "two"), (1,))
    assert llmbar.load(str(tmp_path / "Dataset" / "LLMBar")).digest == found.digest


def test_a_part_of_the_repository_says_what_differs(tmp_path):
    repository(tmp_path, {"natural": 100, "manual": 50})
    found = llmbar.load(str(tmp_path))
    assert found.differs == (
        "neighbor: none of the published 134 pairs",
        "gptinst: none of the published 92 pairs",
        "gptout: none of the published 47 pairs",
        "manual: 50 pairs, where 46 were published",
    )


def test_rows_with_a_subset_keep_the_published_order(tmp_path):
    rows = [published(1, 1, subset="Natural"), published(2, "2", subset="Adversarial_Neighbor"), local("a"), local("b")]
    items = llmbar.load(write_rows(tmp_path / "rows.jsonl", rows)).items
    assert [item.subset for item in items] == ["natural", "neighbor", "gptinst", "gptinst"]
    assert [item.gold.chosen for item in items] == [(0,), (1,), (0,), (1,)]
    assert items[2].responses == ("good", "bad") and items[3].responses == ("bad", "good")


def test_the_case_study_is_left_out(tmp_path):
    items = llmbar.load(write_rows(tmp_path / "rows.jsonl", [local("a"), local("b", "case-base9")])).items
    assert [item.id for item in items] == ["x-a"]


@pytest.mark.parametrize("source", ["", "hf:princeton-nlp/LLMBar"])
def test_there_is_no_dataset_to_load_by_name(source):
    with pytest.raises(CannotRun, match=r"clone .* and give the folder"):
        llmbar.load(source)


@pytest.mark.parametrize(
    "rows, message",
    [
        ([local("a"), published(1, 3, subset="manual")], "row 2: label is 3"),
        ([published(1, subset="manual", output_2=None)], "row 1: output_2 is missing"),
        ([published(1)], "row 1: subset is missing"),
        ([published(1, subset="easy")], "row 1: subset is 'easy'"),
        ([published(1, subset="manual", input="")], "row 1: input is empty"),
        ([local("c")], "row 1: original_winner_position is 'c'"),
        ([local("a", chosen=None)], "row 1: chosen is missing"),
        ([local("a", "case-normal")], "no rows of natural"),
        ([], "no rows"),
    ],
)
def test_a_row_of_another_shape_is_named(tmp_path, rows, message):
    with pytest.raises(CannotRun) as error:
        llmbar.load(write_rows(tmp_path / "rows.jsonl", rows))
    assert message in str(error.value) and "rows.jsonl" in str(error.value)


def test_an_empty_folder_says_what_should_be_there(tmp_path):
    with pytest.raises(CannotRun, match=r"Natural/dataset\.json"):
        llmbar.load(str(tmp_path))


def test_the_local_copy_is_the_published_set(shared_data):
    found = llmbar.load(str(shared_data / "llmbar.jsonl"))
    assert len(found.items) == 419 and found.differs == () and found.shown_name == "LLMBar"
    assert {item.gold.chosen for item in found.items} == {(0,), (1,)}
