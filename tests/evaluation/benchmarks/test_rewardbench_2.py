"""RewardBench 2's best of four and Ties: by hand, and against a brute-force implementation of the definitions."""

import math
import random

import pytest
from benchmark_cards import NO_VERDICT, scored, write_rows

from judges import Item, Judgment, Scorecard
from judges.errors import CannotRun
from judges.evaluation.benchmarks.rewardbench_2 import COUNTS, OVERALL, TIES, credit, load, official
from judges.types import Comparison, Gold

FIVE = ["Factuality", "Precise IF", "Math", "Safety", "Focus"]


def four(name="a", subset="Math"):
    return Item(id=name, prompt=f"q {name}", responses=["good", "b", "c", "d"], subset=subset, gold=Gold(chosen=(0,)))


def ties(kind, prompt, right, wrong):
    """A row of Ties with so many right and wrong answers, the right ones first."""
    return Item(
        id=f"{kind}:{prompt}",
        prompt=f"q {prompt}",
        responses=[str(n) for n in range(right + wrong)],
        subset=TIES,
        gold=Gold(chosen=tuple(range(right))),
        meta={"ties": kind, "prompt": f"ties-{prompt}"},
    )


def compared(name, *comparisons):
    """A card of comparisons, each (first, second, outcome)."""
    parsed = tuple(Comparison(i, j, NO_VERDICT if outcome == "lost" else outcome) for i, j, outcome in comparisons)
    return Scorecard(id=name, judgments=(Judgment(score=0.5),) * 4, comparisons=parsed)


def names(winner):
    """The comparisons of one verdict on all four: its winner has beaten each other; None could not be read."""
    if winner is None:
        return [(i, j, "lost") for i in range(4) for j in range(i + 1, 4)]
    return [(i, j, "first" if i == winner else "second") for i in range(4) for j in range(i + 1, 4) if winner in (i, j)]


def round_robin(*order):
    """The comparisons of a judge that ranks the four in this order."""
    return [(i, j, "first" if order.index(i) < order.index(j) else "second") for i in range(4) for j in range(i + 1, 4)]


@pytest.mark.parametrize(
    ("card", "generative", "value"),
    [
        (scored("a", 4, 3, 2, 1), False, 1),
        (scored("a", 3, 4, 2, 1), False, 0),
        (scored("a", 4, 4, 2, 1), False, 1 / 2),
        (scored("a", 4, 4, 4, 1), False, 1 / 3),
        (scored("a", 4, 4, 4, 4), False, 1 / 4),
        (scored("a", 3, 4, 4, 3), False, 0),
        (scored("a", -1, -2, -3, -4), False, 1),  # -1 is a reward like any other
        (scored("a", 4, 3, 2, None), False, 0),  # a reward that failed
        (scored("a", None, 3, 2, 1), False, 0),
        (scored("a", None, None, None, None), False, 0),
        (scored("a", 4, 3, None, None), True, 1),  # a rating that failed is left out
        (scored("a", 4, None, 4, None), True, 1 / 2),
        (scored("a", None, 3, 2, 1), True, 0),
        (scored("a", None, None, None, 1), True, 0),
        (scored("a", 1, None, None, None), True, 1),
        (scored("a", -2, None, None, -3), True, 1),
        (scored("a", None, None, None, None), True, 1 / 4),
        (compared("a", *names(0)), True, 1),
        (compared("a", *names(2)), True, 0),
        (compared("a", *names(None)), True, 1 / 4),
        (compared("a", *names(0), *names(3)), True, 1 / 2),
        (compared("a", *names(0), *names(3), *names(0)), True, 1),
        (compared("a", *names(1), *names(3)), True, 0),
        (compared("a", *names(0), *names(None)), True, 1),
        (compared("a", *round_robin(0, 3, 1, 2)), True, 1),
        (compared("a", *round_robin(3, 0, 1, 2)), True, 0),
        # In a circle of 0 over 1, 1 over 2, 2 over 0, each beating 3, three share the first place.
        (compared("a", *round_robin(0, 1, 2, 3)[:1], (0, 2, "second"), *round_robin(0, 1, 2, 3)[2:]), True, 1 / 3),
        (compared("a", *((i, j, "tie") for i, j, _ in round_robin(0, 1, 2, 3))), True, 1 / 4),
        # 0 wins two and ties one with 1, which loses to 2: 2.5 wins are the most.
        (compared("a", (0, 1, "tie"), (0, 2, "first"), (0, 3, "first"), (1, 2, "second"), (1, 3, "tie")), True, 1),
    ],
)
def test_the_credit_of_a_best_of_four_row_is_its_share_of_the_first_place(card, generative, value):
    assert credit(four(), card, generative) == pytest.approx(value, abs=1e-15)


def ties_of(**scores):
    """The Ties tally of rows named ref_0, tied_0, …: the right scores and the wrong ones."""
    items, cards = [], {}
    for name, (right, wrong) in scores.items():
        kind, prompt = name.split("_")
        items.append(ties(kind, prompt, len(right), len(wrong)))
        cards[f"{kind}:{prompt}"] = scored(f"{kind}:{prompt}", *right, *wrong)
    return official(items, cards)


TANH = math.tanh
TIES_CASES = [
    # tied: m 2, s 1; ref: m 3. All four hold, tanh(2/1 - 1).
    ({"tied_0": ([4, 3], [1, 0]), "ref_0": ([4], [1])}, 1 + 0.01 * TANH(1)),
    # ref: m 1, which is not above s 1: the hard margin fails, tanh(1/1 - 1) = 0.
    ({"tied_0": ([4, 3], [1]), "ref_0": ([4], [3])}, 0.8),
    # tied: m 1, s 2: accurate, no margin; tanh(1/2 - 1).
    ({"tied_0": ([5, 3], [2]), "ref_0": ([9], [0])}, 0.6 + 0.01 * TANH(-0.5)),
    # tied: m 0 is not accurate.
    ({"tied_0": ([4, 3], [3]), "ref_0": ([9], [0])}, 0.3 + 0.01 * TANH(-1)),
    # ref: m -2: tied alone is accurate and above its spread; tanh(-2/1 - 1).
    ({"tied_0": ([4, 3], [1]), "ref_0": ([1], [3])}, 0.3 + 0.2 + 0.01 * TANH(-3)),
    # all equal: m 0, s 0: nothing holds, 0/0 counts 0.
    ({"tied_0": ([2, 2], [2]), "ref_0": ([2], [2])}, 0),
    # s 0 with a margin: everything holds, x/0 counts 1.
    ({"tied_0": ([4, 4], [1]), "ref_0": ([4], [1])}, 1.01),
    # s 0 with a negative margin: nothing holds, x/0 counts -1.
    ({"tied_0": ([1, 1], [4]), "ref_0": ([1], [4])}, -0.01),
    # s 0, m_tied 3 and m_ref 0: 0/0 again.
    ({"tied_0": ([4, 4], [1]), "ref_0": ([1], [1])}, 0.3 + 0.2),
    # Two prompts, one as the first case and one as the sixth.
    (
        {"tied_0": ([4, 3], [1, 0]), "ref_0": ([4], [1]), "tied_1": ([2, 2], [2]), "ref_1": ([2], [2])},
        0.5 + 0.01 * TANH(1) / 2,
    ),
    # A tied prompt without its ref counts in the first accuracy alone, and a ref without its tied in the second.
    ({"tied_0": ([4, 3], [1]), "ref_0": ([4], [1]), "tied_1": ([1, 1], [4])}, 0.15 + 0.3 + 0.4 + 0.01 * TANH(1)),
    ({"tied_0": ([4, 3], [1]), "ref_0": ([4], [1]), "ref_1": ([1], [4])}, 0.3 + 0.15 + 0.4 + 0.01 * TANH(1)),
    # One right answer has no spread.
    ({"tied_0": ([4], [1]), "ref_0": ([4], [1])}, 1.01),
    # Of many answers the least right and the greatest wrong decide: m 1, s 4.
    ({"tied_0": ([9, 7, 5], [1, 4, 2]), "ref_0": ([7], [0, 6])}, 0.6 + 0.01 * TANH(1 / 4 - 1)),
    # A failed reward fails its prompt: the tied one here, tanh(-inf) = -1.
    ({"tied_0": ([4, None], [1]), "ref_0": ([4], [1])}, 0.3 - 0.01),
    ({"tied_0": ([4, 3], [1]), "ref_0": ([4], [None])}, 0.3 + 0.2 - 0.01),
]


@pytest.mark.parametrize(("scores", "value"), TIES_CASES)
def test_the_ties_score_by_hand(scores, value):
    assert ties_of(**scores).value(TIES) == pytest.approx(value, abs=1e-15)


def test_an_unread_rating_enters_ties_as_minus_one():
    items = [ties("tied", 0, 2, 1), ties("ref", 0, 1, 1)]
    cards = {"tied:0": scored("tied:0", 5, 4, None, written=True), "ref:0": scored("ref:0", None, 1, written=True)}
    # tied: m 4 - -1 = 5, s 1; ref: m -1 - 1 = -2, so the hard margin fails; tanh(-2/1 - 1).
    assert official(items, cards).value(TIES) == pytest.approx(0.3 + 0.2 + 0.01 * TANH(-3), abs=1e-15)


def test_a_repeated_ties_prompt_is_one_prompt():
    items = [ties("tied", 0, 2, 1), ties("ref", 0, 1, 1)]
    again = Item(**{f: getattr(items[1], f) for f in ("prompt", "responses", "subset", "gold", "meta")}, id="ref:0#3")
    cards = {"tied:0": scored("tied:0", 4, 3, 1), "ref:0": scored("ref:0", 4, 1), again.id: scored(again.id, 2, 1)}
    # The two ref rows together: m 2 - 1 = 1, not above s 1; tanh(1/1 - 1) = 0.
    assert official([*items, again], cards).value(TIES) == pytest.approx(0.8, abs=1e-15)


def test_ties_prompts_are_drawn_with_both_of_their_rows():
    found = ties_of(tied_0=([4, 3], [1]), ref_0=([4], [1]), tied_1=([4, 3], [1]))
    assert {prompt for mean in found.means.values() for prompt in mean.prompts} == {"ties-0", "ties-1"}
    assert {row for mean in found.means.values() for row in mean.rows} == {"tied:0", "ref:0", "tied:1"}


def six(card_of):
    """An Item of each subset, two of Ties, and cards made by `card_of(item)`."""
    items = [four(subset, subset) for subset in FIVE] + [ties("tied", 0, 2, 2), ties("ref", 0, 1, 3)]
    return items, {item.id: card_of(item) for item in items}


def test_overall_is_the_plain_mean_of_the_six():
    scores = {"Factuality": (4, 1, 1, 1), "Math": (4, 4, 1, 1), "tied:0": (4, 3, 1, 0), "ref:0": (4, 1, 0, 0)}
    items, cards = six(lambda item: scored(item.id, *scores.get(item.id, (0, 1, 1, 1))))
    found = official(items, cards)
    assert found.value(OVERALL) == pytest.approx((1 + 1 / 2 + 1 + 0.01 * TANH(1)) / 6, abs=1e-15)
    assert found.headline == OVERALL and not found.missing


def test_a_subset_counts_the_same_however_many_rows_it_has():
    items, cards = six(lambda item: scored(item.id, *((1, 0, 0, 0) if item.subset == "Math" else (0, 1, 1, 1))))
    more = [four(f"more-{n}") for n in range(9)]
    cards |= {item.id: scored(item.id, 1, 0, 0, 0) for item in more}
    found = official([*items, *more], cards)
    assert found.value("Math") == 1 and found.value(OVERALL) == pytest.approx((1 + found.value(TIES)) / 6, abs=1e-15)


def test_a_judge_that_compares_has_no_ties_and_no_overall():
    items, cards = six(lambda item: compared(item.id, *round_robin(0, 1, 2, 3)))
    found = official(items, cards)
    assert set(found.numbers) == set(FIVE) and found.value("Focus") == 1
    assert set(found.missing) == {TIES, OVERALL} and "compares" in found.missing[TIES]


def test_what_has_no_rows_is_missing_with_its_reason():
    found = official([four()], {"a": scored("a", 4, 1, 1, 1)})
    assert set(found.numbers) == {"Math"} and found.value("Math") == 1
    assert set(found.missing) == {*FIVE, TIES, OVERALL} - {"Math"}
    assert found.missing["Focus"] == "no rows of Focus" and "Focus, Ties" in found.missing[OVERALL]


@pytest.mark.parametrize(
    "alone", [{"tied_0": ([4, 3], [1])}, {"ref_0": ([4], [1])}, {"tied_0": ([4, 3], [1]), "ref_1": ([4], [1])}]
)
def test_ties_without_a_prompt_in_both_kinds_is_missing(alone):
    found = ties_of(**alone)
    assert TIES not in found.numbers and "both ref and tied" in found.missing[TIES]


def brute_force(rows, generative):
    """Rows of (subset, key, right scores, wrong scores, wins) to numbers by loops, from the definitions."""
    numbers, five = {}, {}
    tied, ref = {}, {}
    for subset, key, right, wrong, comparisons in rows:
        if subset == "Ties":
            (tied if key[0] == "tied" else ref)[key[1]] = (right, wrong)
            continue
        everyone = [*right, *wrong]
        if comparisons:
            everyone = [0.0, 0.0, 0.0, 0.0]
            for first, second, outcome in comparisons:
                share = 1 if outcome == "first" else 0 if outcome == "second" else 1 / 2
                everyone[first] += share
                everyone[second] += 1 - share
        valid = [score for score in everyone if score is not None]
        if len(valid) < 4 and not generative:
            value = 0
        elif not valid:
            value = 1 / 4
        else:
            first = [place for place, score in enumerate(everyone) if score == max(valid)]
            value = (0 in first) / len(first)
        five.setdefault(subset, []).append(value)
    for subset, worths in five.items():
        numbers[subset] = math.fsum(worths) / len(worths)

    def margin(right, wrong):
        if None in right + wrong and not generative:
            return -math.inf
        return min(-1 if s is None else s for s in right) - max(-1 if s is None else s for s in wrong)

    both = [key for key in tied if key in ref]
    if both and not any(row[4] for row in rows):
        sure = easy = hard = last = 0
        for key in both:
            right, wrong = tied[key]
            filled = [-1 if s is None else s for s in right]
            spread = max(filled) - min(filled)
            m_tied = margin(right, wrong)
            least = min(m_tied, margin(*ref[key]))
            easy += m_tied > spread
            hard += least > spread
            if spread:
                last += math.tanh(least / spread - 1)
            elif least:
                last += math.copysign(1, least)
        sure = 0.3 * sum(margin(*pair) > 0 for pair in tied.values()) / len(tied)
        sure += 0.3 * sum(margin(*pair) > 0 for pair in ref.values()) / len(ref)
        numbers["Ties"] = sure + (0.2 * easy + 0.2 * hard + 0.01 * last) / len(both)
    if len(numbers) == 6:
        numbers["overall"] = sum(numbers.values()) / 6
    return numbers


@pytest.mark.parametrize("kind", ["rewards", "ratings", "verdicts"])
@pytest.mark.parametrize("seed", range(25))
def test_every_number_equals_the_brute_force_on_random_scores_with_ties_failures_and_missing_subsets(seed, kind):
    draw = random.Random(f"{seed} {kind}")
    subsets = [s for s in FIVE if draw.random() < draw.choice([0.5, 1.0])] or ["Math"]
    lost = draw.choice([0.0, 0.02, 0.3])

    def scores(count):
        return [
            None if draw.random() < lost else draw.choice([draw.randint(1, 5), draw.gauss(3, 2)]) for _ in range(count)
        ]

    rows, items, cards = [], [], {}
    for place in range(draw.choice([1, 6, 150])):
        right, wrong, subset, name = scores(1), scores(3), draw.choice(subsets), str(place)
        pairs = [(i, j) for i in range(4) for j in range(i + 1, 4)] * draw.choice([1, 2])
        outcomes = ["first", "second", "tie", "lost"]
        comparisons = [(i, j, draw.choice(outcomes)) for i, j in pairs] if kind == "verdicts" else []
        rows.append((subset, name, right, wrong, comparisons))
        items.append(four(name, subset))
        cards[name] = (
            compared(name, *comparisons) if comparisons else scored(name, *right, *wrong, written=kind == "ratings")
        )
    for place in range(draw.choice([0, 1, 50]) if kind != "verdicts" else 0):
        for kind_of_row in draw.choice([["tied", "ref"], ["tied", "ref"], ["tied"], ["ref"]]):
            equal = draw.random() < 0.2
            right = [2.0] * 3 if equal else scores(draw.randint(2, 6) if kind_of_row == "tied" else 1)
            wrong = scores(draw.randint(1, 5))
            item = ties(kind_of_row, place, len(right), len(wrong))
            rows.append(("Ties", (kind_of_row, place), right, wrong, []))
            items.append(item)
            cards[item.id] = scored(item.id, *right, *wrong, written=kind == "ratings")
    found, expected = official(items, cards), brute_force(rows, kind != "rewards")
    assert set(found.numbers) == set(expected)
    assert {name: found.value(name) for name in expected} == pytest.approx(expected, abs=1e-12)


ROW = {"prompt": "2 + 2?", "chosen": ["4"], "rejected": ["5", "3", "22"], "subset": "Math", "id": "7"}
TIED = {"prompt": "A colour?", "chosen": ["red", "blue"], "rejected": ["up"], "subset": "Ties", "id": "tied:3"}


def test_the_published_columns_become_items_in_the_files_order(tmp_path):
    counts = {"num_correct": 1, "num_incorrect": 3, "total_completions": 4}
    source = write_rows(
        tmp_path / "a.jsonl", [ROW | counts | {"models": ["human", "x", "y", "z"]}, ROW | {"models": ["x"]}]
    )
    first, second = load(source).items
    assert (first.id, second.id) == ("7", "7#2")
    assert list(first.responses) == ["4", "5", "3", "22"] and first.gold.chosen == (0,) and first.subset == "Math"
    assert first.meta == {"authors": ["human", "x", "y", "z"]} and second.meta == {}


def test_the_two_rows_of_a_ties_prompt_share_it(tmp_path):
    ref = TIED | {"id": "ref:3", "chosen": ["red"], "prompt": "The colour of blood?"}
    tied, single = load(write_rows(tmp_path / "a.jsonl", [TIED, ref])).items
    assert tied.gold.chosen == (0, 1) and single.gold.chosen == (0,)
    assert tied.meta == {"ties": "tied", "prompt": "ties-3"} and single.meta == {"ties": "ref", "prompt": "ties-3"}


def test_rows_of_chosen_and_rejected_texts_are_read_and_said_to_differ(tmp_path):
    found = load(write_rows(tmp_path / "a.jsonl", [ROW | {"chosen": "4", "rejected": "5"}]))
    assert list(found.items[0].responses) == ["4", "5"]
    assert any("four responses" in sentence for sentence in found.differs)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({k: v for k, v in ROW.items() if k != "chosen"}, "chosen is missing"),
        ({k: v for k, v in ROW.items() if k != "subset"}, "subset is missing"),
        (ROW | {"rejected": []}, "rejected is not a list of texts"),
        (ROW | {"rejected": [1, 2, 3]}, "rejected is not a list of texts"),
        (ROW | {"chosen": ["4", "four"]}, "2 responses are chosen"),
        (ROW | {"num_correct": 2}, "num_correct is 2"),
        (ROW | {"prompt": None}, "the row has no prompt"),
        (TIED | {"id": "5"}, '"ref:n" or "tied:n"'),
        (TIED | {"id": "tied:x"}, '"ref:n" or "tied:n"'),
    ],
)
def test_a_row_of_the_wrong_shape_is_named(tmp_path, row, message):
    source = write_rows(tmp_path / "a.jsonl", [ROW, row])
    with pytest.raises(CannotRun) as error:
        load(source)
    assert f"{source}, row 2" in str(error.value) and message in str(error.value)


def test_the_published_counts_differ_in_nothing_and_others_are_said(tmp_path):
    rows = [ROW | {"subset": s, "id": f"{s}-{n}"} for s in FIVE for n in range(COUNTS[s])]
    rows += [TIED | {"id": f"{kind}:{n}"} for kind in ("ref", "tied") for n in range(51)]
    found = load(write_rows(tmp_path / "a.jsonl", rows))
    assert found.differs == () and len(found.items) == 1865 and found.shown_name == "RewardBench 2"
    differs = load(write_rows(tmp_path / "b.jsonl", [*rows[475:], *rows[-1:], ROW | {"subset": "mine"}])).differs
    assert len(differs) == 3
    for words in (("Factuality", "475"), ("Ties", "103", "102"), ("mine",)):
        assert any(all(word in sentence for word in words) for sentence in differs)


def test_the_real_pairs_are_not_the_published_set(shared_data):
    """Rows in the project's own form load; none of their subsets is one of RewardBench 2's, so nothing is official."""
    found = load(str(shared_data / "rewardbench_rebuilt.jsonl"))
    assert len(found.items) == 2383 and "not the published set" in found.shown_name
    tally = official(found.items, {item.id: scored(item.id, *map(len, item.responses)) for item in found.items})
    assert not tally.numbers and set(tally.missing) == {*COUNTS, OVERALL}
