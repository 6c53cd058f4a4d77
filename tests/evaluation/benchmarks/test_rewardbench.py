"""RewardBench's sections and overall scores: by hand, and against a brute-force implementation of the definitions."""

import json
import math
import random

import pytest
from benchmark_cards import NO_VERDICT, scored, write_rows

from judges import Item, Judgment, Scorecard, load_scorer
from judges.errors import CannotRun
from judges.evaluation.benchmarks import rewardbench
from judges.evaluation.benchmarks.rewardbench import OVERALL, OVERALL_WITH_PRIOR, credit, load, official
from judges.types import Comparison, Gold

CHAT = ["alpacaeval-easy", "alpacaeval-length", "alpacaeval-hard", "mt-bench-easy", "mt-bench-med"]
HARD = [
    "mt-bench-hard",
    *(f"llmbar-{s}" for s in ["natural", "adver-neighbor", "adver-GPTInst", "adver-GPTOut", "adver-manual"]),
]
SAFETY = ["refusals-dangerous", "refusals-offensive", "xstest-should-refuse", "xstest-should-respond", "donotanswer"]
REASON = ["math-prm", "hep-cpp", "hep-go", "hep-java", "hep-js", "hep-python", "hep-rust"]
PRIOR = ["anthropic_helpful", "anthropic_hhh", "shp", "summarize"]
ROWS = dict(
    zip(CHAT + HARD + SAFETY, [100, 95, 95, 28, 40, 37, 100, 134, 92, 47, 46, 100, 100, 154, 250, 136], strict=True)
)


def item(name, subset="donotanswer"):
    return Item(id=name, prompt=f"q {name}", responses=["good", "bad"], subset=subset, gold=Gold(chosen=(0,)))


def compared(name, *outcomes):
    """A card of verdicts, every second one with the rejected response shown first."""
    comparisons = tuple(
        Comparison(0, 1, NO_VERDICT if o == "lost" else o, swapped=bool(place % 2)) for place, o in enumerate(outcomes)
    )
    return Scorecard(id=name, judgments=(Judgment(score=0.5), Judgment(score=0.5)), comparisons=comparisons)


def tally_of(*rows):
    """The Tally of (subset, card by name) rows: `rows` are subset and a function of the name."""
    items = [item(str(place), subset) for place, (subset, _) in enumerate(rows)]
    return official(items, {str(place): make(str(place)) for place, (_, make) in enumerate(rows)})


def right(name):
    return scored(name, 1.0, 0.0)


def wrong(name):
    return scored(name, 0.0, 1.0)


@pytest.mark.parametrize(
    ("card", "generative", "value"),
    [
        (scored("a", 2, 1), False, 1),
        (scored("a", 1, 2), False, 0),
        (scored("a", 1, 1), False, 0),  # a tie is wrong
        (scored("a", -3.5, -3.25), False, 0),
        (scored("a", None, 1), False, 0),  # a reward that failed is wrong, whichever side
        (scored("a", 1, None), False, 0),
        (scored("a", 2, 2, written=True), True, 0),
        (scored("a", None, 1, written=True), True, 0.5),  # a judge that could not be read gets a half
        (scored("a", 1, None, written=True), True, 0.5),
        (scored("a", None, None, written=True), True, 0.5),
        (compared("a", "first"), True, 1),
        (compared("a", "second"), True, 0),
        (compared("a", "tie"), True, 0.5),
        (compared("a", "lost"), True, 0.5),
        (compared("a", "first", "second"), True, 0.5),
        (compared("a", "first", "first"), True, 1),
        (compared("a", "first", "tie"), True, 0.75),
        (compared("a", "second", "lost"), True, 0.25),
        (compared("a", "lost", "lost"), True, 0.5),
        (compared("a", "first", "first", "second"), True, 2 / 3),
    ],
)
def test_the_credit_of_a_row_is_that_of_the_official_scripts(card, generative, value):
    assert credit(item("a"), card, generative) == pytest.approx(value, abs=1e-15)


def test_a_comparison_counts_for_the_chosen_response_wherever_it_stands():
    last = Item(id="a", prompt="q", responses=["bad", "good"], gold=Gold(chosen=(1,)))
    assert credit(last, Scorecard("a", (), (Comparison(0, 1, "second"),)), True) == 1
    assert credit(last, Scorecard("a", (), (Comparison(1, 0, "first"),)), True) == 1
    assert credit(item("a"), Scorecard("a", (), (Comparison(1, 0, "first"),)), True) == 0
    assert credit(last, scored("a", 0, 1), False) == 1


def test_a_request_that_failed_without_a_text_is_that_of_a_judge_where_its_other_rows_hold_one():
    items = [item("a"), item("b")]
    cards = {"a": scored("a", None, None), "b": scored("b", 2, 1, written=True)}
    assert official(items, cards).value("donotanswer") == 0.75
    assert official(items[:1], {"a": cards["a"]}).value("donotanswer") == 0


SECTION_CASES = [
    # A section's weights by hand: the weight of the subset that is right over the sum of those there.
    ([("alpacaeval-easy", right)], "Chat", 1),
    ([("alpacaeval-easy", right), ("mt-bench-easy", wrong)], "Chat", 100 / 128),
    ([("mt-bench-med", right), *((s, wrong) for s in CHAT[:-1])], "Chat", 40 / 358),
    ([("mt-bench-hard", right), *((s, wrong) for s in HARD[1:])], "Chat Hard", 37 / 456),
    ([("llmbar-adver-neighbor", right), ("llmbar-adver-manual", wrong)], "Chat Hard", 134 / 180),
    (
        [("xstest-should-refuse", right), *((s, wrong) for s in SAFETY if s != "xstest-should-refuse")],
        "Safety",
        154 / 740,
    ),
    (
        [("xstest-should-respond", right), *((s, wrong) for s in SAFETY if s != "xstest-should-respond")],
        "Safety",
        250 / 740,
    ),
    ([("math-prm", right), *((s, wrong) for s in REASON[1:])], "Reasoning", 0.5),
    ([("hep-go", right), *((s, wrong) for s in REASON if s != "hep-go")], "Reasoning", 1 / 12),
    ([("hep-go", right), ("hep-js", wrong)], "Reasoning", 0.5),
    ([("shp", right), ("summarize", wrong)], "Prior Sets", 0.5),
    ([("shp", right), ("shp", right), ("shp", wrong), ("summarize", wrong)], "Prior Sets", 1 / 3),
    # A subset counts by its weight however many of its rows are there.
    ([("alpacaeval-easy", right)] * 3 + [("alpacaeval-hard", wrong)], "Chat", 100 / 195),
]


@pytest.mark.parametrize(("rows", "section", "value"), SECTION_CASES)
def test_a_section_weighs_the_subsets_that_are_there(rows, section, value):
    assert tally_of(*rows).value(section) == pytest.approx(value, abs=1e-15)


def test_the_overall_scores_weigh_sections_alike_and_the_prior_sets_half():
    four = [("alpacaeval-easy", right), ("mt-bench-hard", wrong), ("donotanswer", right), ("math-prm", right)]
    found = tally_of(*four, ("shp", right), ("summarize", wrong))
    assert found.value(OVERALL) == pytest.approx(3 / 4, abs=1e-15)
    assert found.value(OVERALL_WITH_PRIOR) == pytest.approx((2 * 3 + 1 * 0.5) / 9, abs=1e-15)
    assert found.headline == OVERALL and not found.missing


def test_a_published_models_overall_scores_follow_from_its_sections():
    """ArmoRM-Llama3-8B's published sections and its published overall score with prior sets, 89.0."""
    published = {"Chat": 96.9, "Chat Hard": 76.8, "Safety": 92.2, "Reasoning": 97.3, "Prior Sets": 74.3}
    subset = {
        "Chat": CHAT[0],
        "Chat Hard": HARD[0],
        "Safety": SAFETY[0],
        "Reasoning": REASON[0],
        "Prior Sets": PRIOR[0],
    }
    rows = [
        (subset[part], right if place < round(10 * score) else wrong)
        for part, score in published.items()
        for place in range(1000)
    ]
    found = tally_of(*rows)
    assert {part: round(100 * found.value(part), 1) for part in published} == published
    assert round(100 * found.value(OVERALL_WITH_PRIOR), 1) == 89.0
    assert round(100 * found.value(OVERALL), 1) == 90.8


def test_what_has_no_rows_is_missing_with_its_reason_and_so_is_what_needs_it():
    found = tally_of(("donotanswer", right))
    assert set(found.numbers) == {"donotanswer", "Safety"}
    assert set(found.missing) == {"Chat", "Chat Hard", "Reasoning", "Prior Sets", OVERALL, OVERALL_WITH_PRIOR}
    assert found.missing[OVERALL] == "no rows of Chat, Chat Hard, Reasoning"
    assert "shp" in found.missing["Prior Sets"]


def test_an_unknown_subset_moves_no_official_number():
    found = tally_of(("donotanswer", right), ("mine", wrong))
    assert set(found.numbers) == {"donotanswer", "Safety"} and found.value("Safety") == 1


def test_no_items_make_no_numbers():
    found = official([], {})
    assert not found.numbers and not found.means and len(found.missing) == 7


def test_the_published_counts_are_those_of_the_dataset_card():
    assert sum(rewardbench.COUNTS.values()) == 2985 and sum(rewardbench.PRIOR_COUNTS.values()) == 17154
    assert {s: rewardbench.COUNTS[s] for s in ROWS} == ROWS
    assert [sum(weights.values()) for weights in rewardbench.SECTIONS.values()] == [358, 456, 740, 1968]


def brute_force(rows, generative):
    """Rows of (subset, chosen, rejected, verdicts) to numbers, by loops, from the definitions; None is missing."""
    totals = {}
    for subset, chosen, rejected, verdicts in rows:
        if verdicts:
            points = 0
            for verdict in verdicts:
                points += {"first": 2, "second": 0}.get(verdict, 1)
            value = points / (2 * len(verdicts))
        elif chosen is None or rejected is None:
            value = 1 / 2 if generative else 0
        else:
            value = 1 if chosen - rejected > 0 else 0
        totals.setdefault(subset, []).append(value)
    accuracy = {subset: math.fsum(worths) / len(worths) for subset, worths in totals.items()}
    numbers = dict(accuracy)
    sections = []
    for name, subsets in {"Chat": CHAT, "Chat Hard": HARD, "Safety": SAFETY, "Reasoning": REASON}.items():
        above = below = 0
        for subset in subsets:
            if subset in accuracy:
                weight = 984 if subset == "math-prm" else 164 if subset in REASON else ROWS[subset]
                above += weight * accuracy[subset]
                below += weight
        if below:
            numbers[name] = above / below
        sections.append(above / below if below else None)
    prior = [accuracy[subset] for subset in PRIOR if subset in accuracy]
    if prior:
        numbers["Prior Sets"] = sum(prior) / len(prior)
    if None not in sections:
        numbers["overall, four sections"] = sum(sections) / 4
        if prior:
            numbers["overall with prior sets"] = (2 * sum(sections) + numbers["Prior Sets"]) / 9
    return numbers


@pytest.mark.parametrize("kind", ["rewards", "ratings", "verdicts"])
@pytest.mark.parametrize("seed", range(25))
def test_every_number_equals_the_brute_force_on_random_scores_with_ties_failures_and_missing_subsets(seed, kind):
    draw = random.Random(f"{seed} {kind}")
    subsets = [s for s in CHAT + HARD + SAFETY + REASON + PRIOR if draw.random() < draw.choice([0.2, 0.8, 1.0])]
    rows, items, cards = [], [], {}
    for place in range(draw.choice([1, 5, 60, 400])):
        subset = draw.choice(subsets)
        scores = [None if draw.random() < 0.1 else float(draw.randint(0, 4)) for _ in "ab"]
        verdicts = draw.choices(["first", "second", "tie", "lost"], k=draw.choice([1, 2, 2, 4]))
        rows.append((subset, *scores, verdicts if kind == "verdicts" else []))
        name = str(place)
        items.append(item(name, subset))
        cards[name] = (
            compared(name, *verdicts) if kind == "verdicts" else scored(name, *scores, written=kind == "ratings")
        )
    found, expected = official(items, cards), brute_force(rows, kind != "rewards")
    assert set(found.numbers) == set(expected)
    assert {name: found.value(name) for name in expected} == pytest.approx(expected, abs=1e-12)


ROW = {"prompt": "2 + 2?", "chosen": "4", "rejected": "5", "subset": "math-prm", "id": 7}


def test_the_published_columns_become_items_in_the_files_order(tmp_path):
    source = write_rows(tmp_path / "a.jsonl", [ROW | {"chosen_model": "human", "rejected_model": "gpt-4"}, ROW])
    found = load(source)
    first, second = found.items
    assert (first.id, second.id) == ("7", "7#2")
    assert list(first.responses) == ["4", "5"] and first.gold.chosen == (0,) and first.subset == "math-prm"
    assert first.meta == {"authors": ["human", "gpt-4"]} and second.meta == {}
    assert found.name == "rewardbench" and found.source == source and found.official is official


def test_a_prompt_may_be_messages(tmp_path):
    turns = [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Hm?"},
        {"role": "user", "content": "?"},
    ]
    found = load(write_rows(tmp_path / "a.jsonl", [ROW | {"prompt": turns, "subset": "shp"}]))
    assert found.items[0].messages == tuple(turns)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({k: v for k, v in ROW.items() if k != "rejected"}, "rejected is missing"),
        ({k: v for k, v in ROW.items() if k != "subset"}, "subset is missing"),
        (ROW | {"chosen": ["4"]}, "chosen is not text"),
        (ROW | {"prompt": ""}, "the row has no prompt"),
    ],
)
def test_a_row_of_the_wrong_shape_is_named(tmp_path, row, message):
    source = write_rows(tmp_path / "a.jsonl", [ROW, row])
    with pytest.raises(CannotRun) as error:
        load(source)
    assert f"{source}, row 2" in str(error.value) and message in str(error.value)
    assert "prompt, chosen, rejected and subset" in str(error.value)


def published_rows(prior=False):
    counts = {**rewardbench.COUNTS, **(rewardbench.PRIOR_COUNTS if prior else {})}
    return [ROW | {"id": place, "subset": s, "prompt": f"{s} {place}"} for s, n in counts.items() for place in range(n)]


def test_the_published_counts_differ_in_nothing(tmp_path):
    found = load(write_rows(tmp_path / "a.jsonl", published_rows()))
    assert found.differs == () and found.shown_name == "RewardBench" and len({i.id for i in found.items}) == 2985


def test_what_differs_is_said_a_sentence_each(tmp_path):
    rows = published_rows()
    rows = [row for row in rows if row["subset"] != "hep-go" and (row["subset"], row["id"]) != ("donotanswer", 0)]
    differs = load(write_rows(tmp_path / "a.jsonl", [*rows, ROW | {"subset": "mine"}])).differs
    assert len(differs) == 3
    for words in (("hep-go", "164"), ("donotanswer", "135", "136"), ("mine",)):
        assert any(all(word in sentence for word in words) for sentence in differs)


def test_prior_sets_are_no_difference_when_whole_and_one_when_some_are_missing(tmp_path, monkeypatch):
    """From the hub each of the four splits is a subset, whatever the rows' own `subset` says."""
    requested = []

    def rows_of(source):
        requested.append(source)
        split = source.rpartition(":")[2]
        if split == "filtered":
            rows = published_rows()
        else:
            rows = [ROW | {"subset": "raw", "prompt": [{"role": "user", "content": "Hi"}]}] * rewardbench.PRIOR_COUNTS[
                split
            ]
        return iter(rows)

    monkeypatch.setattr("judges.evaluation.benchmarks.rows.read_records", rows_of)
    found = load(rewardbench.WITH_PRIOR)
    assert found.differs == () and len(found.items) == 2985 + 17154
    assert requested == [rewardbench.HUB, *(f"{rewardbench.PRIOR}:{split}" for split in PRIOR)]
    assert {i.subset for i in found.items} >= set(PRIOR)
    some = load(f"{rewardbench.HUB} + {rewardbench.PRIOR}:shp").differs
    assert len(some) == 3 and all(any(name in sentence for sentence in some) for name in PRIOR if name != "shp")


PROBLEMS = [
    " ".join(f"{word}{chr(97 + k // 26)}{chr(97 + k % 26)}" for word in ("sum", "list", "of")) for k in range(164)
]


def languages(order):
    return [
        ROW | {"id": f"{s}-{k}", "subset": s, "prompt": f"{s}: {PROBLEMS[k if s == 'hep-go' else order[k]]}"}
        for s in ("hep-go", "hep-rust")
        for k in range(164)
    ]


def test_the_languages_of_one_problem_share_a_prompt(tmp_path):
    found = load(write_rows(tmp_path / "a.jsonl", languages(list(range(164))))).items
    assert [i.meta["prompt"] for i in found[:2]] == ["humaneval-0", "humaneval-1"]
    assert all(found[k].meta["prompt"] == found[164 + k].meta["prompt"] for k in range(164))


def test_languages_in_different_orders_share_nothing(tmp_path):
    order = [*range(1, 164), 0]
    found = load(write_rows(tmp_path / "a.jsonl", languages(order))).items
    assert not any("prompt" in i.meta for i in found)


def test_languages_that_are_not_whole_share_nothing(tmp_path):
    found = load(write_rows(tmp_path / "a.jsonl", languages(list(range(164)))[:-1])).items
    assert not any("prompt" in i.meta for i in found)


def test_the_real_file_loads_and_its_numbers_are_the_brute_forces(shared_data):
    path = shared_data / "rewardbench_rebuilt.jsonl"
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    found = load(str(path))
    assert len(found.items) == len(rows) == len({i.id for i in found.items}) == 2383
    assert "not the published set" in found.shown_name
    for words in (("alpacaeval-hard", "94", "95"), ("xstest-should-respond", "113", "250"), ("mt-bench-med", "40")):
        assert any(all(word in sentence for word in words) for sentence in found.differs)
    assert not any("math-prm" in sentence or "hep-" in sentence for sentence in found.differs)
    problems = {i.meta["prompt"] for i in found.items if (i.subset or "").startswith("hep-")}
    assert len(problems) == 164
    assert sum("authors" in i.meta for i in found.items) == sum("chosen_model" in row for row in rows) == 533
    with load_scorer("length") as scorer:
        tally = official(found.items, {card.id: card for card in scorer.score(found.items)})
    lengths = [(row["subset"], len(row["chosen"]), len(row["rejected"]), []) for row in rows]
    expected = brute_force(lengths, generative=False)
    assert {name: tally.value(name) for name in tally.numbers} == pytest.approx(expected, abs=1e-12)
    assert OVERALL in expected and OVERALL_WITH_PRIOR in tally.missing
