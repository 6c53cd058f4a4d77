import random
from itertools import combinations

import pytest

from judges import Failure, Item, Judgment, Scorecard
from judges.evaluation.metrics.accuracy import accuracy, accuracy_numbers, credit, human_values
from judges.types import Gold


def item(name, gold, responses=2, **more):
    more.setdefault("prompt", f"q{name}")
    return Item(id=str(name), responses=["r"] * responses, gold=gold, **more)


def pair(name, **more):
    return item(name, Gold(chosen=(0,)), **more)


def card(name, *scores):
    failed = Judgment(failure=Failure("missing", "x"))
    return Scorecard(str(name), tuple(failed if s is None else Judgment(score=s) for s in scores))


def measured(items, scores, draws=20):
    cards = {one.id: card(one.id, *of) for one, of in zip(items, scores, strict=True)}
    return {(n.metric, n.section): n for n in accuracy_numbers(items, cards, draws=draws)}


def test_credit_by_hand():
    assert [credit(pair(0), card(0, *s)) for s in [(2, 1), (1, 1), (1, 2), (None, 1)]] == [1, 0.5, 0, None]


def test_a_tie_is_half_and_a_failure_is_neither_right_nor_wrong_and_bounds_the_rest():
    found = measured([pair(i) for i in range(4)], [(2, 1), (1, 1), (1, 2), (None, 2)])
    assert list(found) == [("accuracy", "")]
    number = found["accuracy", ""]
    assert (number.value, number.rows, number.ties, number.left_out) == (0.5, 3, 1, 1)
    assert (number.worst, number.best) == (1.5 / 4, 2.5 / 4)
    assert number.low < 0.5 < number.high


def test_failures_everywhere_are_no_accuracy_and_bound_nothing():
    number = measured([pair(0), pair(1)], [(None, None), (1, None)])["accuracy", ""]
    assert (number.value, number.low, number.high, number.left_out) == (None, None, None, 2)
    assert (number.worst, number.best) == (0, 1) and number.note == "a failure in every row"


def test_each_subset_has_its_own_number():
    items = [pair(0, subset="b"), pair(1, subset="b"), pair(2, subset="a"), pair(3, subset="a"), pair(4)]
    found = measured(items, [(2, 1), (1, 2), (1, 1), (None, 1), (2, 1)])
    assert [section for _, section in found] == ["", "a", "b"]
    assert {s: (n.value, n.rows, n.left_out, n.ties) for (_, s), n in found.items()} == {
        "": (2.5 / 4, 4, 1, 1),
        "a": (0.5, 1, 1, 1),
        "b": (0.5, 2, 0, 0),
    }


def test_a_subset_of_failures_alone_stays_and_says_so():
    found = measured([pair(0, subset="a"), pair(1, subset="b")], [(2, 1), (None, 1)])
    assert found["accuracy", "b"].value is None and found["accuracy", "b"].left_out == 1
    assert found["accuracy", ""].value == 1


def test_a_tie_among_humans_is_no_pair_to_win_but_a_class_to_meet():
    tie = Gold(tie=True)
    items = [pair(0), pair(1), item(2, Gold(chosen=(1,))), item(3, tie), item(4, tie), item(5, tie)]
    found = measured(items, [(2, 1), (1, 1), (2, 1), (1, 1), (2, 1), (None, 1)])
    # Decided pairs: right, a tie, wrong.
    assert (found["accuracy", ""].value, found["accuracy", ""].rows, found["accuracy", ""].left_out) == (0.5, 3, 0)
    # Of three verdicts: a is a; a tie is not a; a is not b; a tie is a tie; a is not a tie; open.
    three_way = found["accuracy, ties are a class", ""]
    assert (three_way.value, three_way.rows, three_way.left_out, three_way.ties) == (2 / 5, 5, 1, 2)
    assert (three_way.worst, three_way.best) == (2 / 6, 3 / 6)


def test_ties_among_humans_alone_leave_accuracy_without_a_row():
    found = measured([item(0, Gold(tie=True))], [(1, 1)])
    assert found["accuracy", ""].value is None and "humans tied all responses" in found["accuracy", ""].note
    assert found["accuracy, ties are a class", ""].value == 1


def test_without_ties_among_humans_there_is_no_class_for_them():
    assert ("accuracy, ties are a class", "") not in measured([pair(0)], [(1, 1)])


def test_an_items_comparisons_are_averaged_before_items_are():
    # Two chosen, two rejected, three of the four comparisons: 1, ½ and 0; the other item is all right.
    several = item("a", Gold(chosen=(0, 1)), 4, comparisons=[(0, 2), (3, 0), (1, 3), (0, 1)])
    found = measured([several, pair("b")], [(5, 1, 3, 5), (2, 1)])
    assert found["accuracy", ""].value == pytest.approx((0.5 + 1) / 2)
    assert found["accuracy", ""].rows == 2 and found["accuracy", ""].ties == 1


def test_a_failed_response_opens_its_own_comparisons_alone():
    six = item("a", Gold(chosen=(0, 1, 2)), 6, comparisons=[(i, j) for i in range(3) for j in range(3, 6)])
    number = measured([six], [(9, None, 0, 1, 2, 3)])["accuracy", ""]
    # 0 wins its three, 2 loses its three, 1 failed.
    assert (number.value, number.left_out) == (0.5, 0)
    assert (number.worst, number.best) == (3 / 9, 6 / 9)
    assert number.note == "1 rows lack some of their comparisons because of failures"


@pytest.mark.parametrize(
    ("scores", "value"),
    [
        ((3, 1, 1, 1), 1),
        ((3, 3, 1, 1), 1 / 2),
        ((3, 3, 3, 1), 1 / 3),
        ((3, 3, 3, 3), 1 / 4),
        ((2, 3, 1, 1), 0),
        ((2, 3, 3, 1), 0),
    ],
)
def test_best_of_four_shares_the_maximum(scores, value):
    assert measured([item(0, Gold(chosen=(0,)), 4)], [scores])["best-of-n", ""].value == value


def test_best_of_n_counts_every_best_response_at_the_top():
    two_right = item(0, Gold(chosen=(0, 1)), 3)
    assert measured([two_right], [(2, 2, 2)])["best-of-n", ""].value == pytest.approx(2 / 3)
    assert measured([item(0, Gold(ranking=(2, 1, 1)), 3)], [(1, 1, 0)])["best-of-n", ""].value == 0.5
    assert measured([item(0, Gold(scores=(1, 4, 2)), 3)], [(0, 9, 1)])["best-of-n", ""].value == 1


def test_a_failure_leaves_the_best_open_since_it_may_be_the_one():
    number = measured([item(0, Gold(chosen=(0,)), 3)], [(3, 1, None)])["best-of-n", ""]
    assert (number.value, number.worst, number.best) == (None, 0, 1)


def test_two_responses_have_no_best_of_n():
    assert ("best-of-n", "") not in measured([pair(0), item(1, Gold(scores=(1, 2)))], [(1, 2), (1, 2)])


def test_ranks_and_scores_give_the_pairs_that_they_tell_apart():
    items = [item(0, Gold(ranking=(1, 2, 2)), 3), item(1, Gold(scores=(1, 2, 3)), 3), item(2, Gold(scores=(1, 1)))]
    found = measured(items, [(3, 1, 2), (1, 1, 0), (1, 2)])
    # Of the ranks two pairs, both right; of the scores a tie, a loss, a loss; the last has nothing to tell apart.
    assert found["pairwise accuracy", ""].value == pytest.approx((1 + 0.5 / 3) / 2)
    assert found["pairwise accuracy", ""].rows == 2
    assert ("accuracy", "") not in found
    assert accuracy(items, {str(i): card(i, 1) for i in range(3)}) is None


def test_one_response_has_nothing_to_compare():
    assert accuracy_numbers([item(0, Gold(scores=(3,)), 1)], {"0": card(0, 1)}) == ()
    assert accuracy_numbers([], {}) == () and accuracy([], {}) is None


def test_worth_puts_the_best_rank_highest():
    assert human_values(Gold(ranking=(1, 3, 2)), 3) == (-1, -3, -2)
    assert human_values(Gold(chosen=(2,)), 3) == (0, 0, 1) and human_values(Gold(tie=True), 2) == (0, 0)


def test_rows_of_one_prompt_are_named_by_it():
    tally = accuracy([pair(i, prompt="same") for i in range(3)], {str(i): card(i, 1, 0) for i in range(3)})
    assert tally.means[""].rows == ("0", "1", "2") and len(set(tally.means[""].prompts)) == 1


def by_hand(items, scores):
    """The second way: every number in plain Python from its definition, on Items of two to five responses."""
    means = {}
    for one, of in zip(items, scores, strict=True):
        gold, n = one.gold, len(one.responses)
        if gold.tie:
            level = [0] * n
        elif gold.chosen is not None:
            level = [i in gold.chosen for i in range(n)]
        else:
            level = list(gold.scores) if gold.scores else [100 - r for r in gold.ranking]
        credits = []
        for i, j in combinations(range(n), 2):
            if level[i] != level[j] and of[i] is not None and of[j] is not None:
                right = (of[i] - of[j]) * (level[i] - level[j])
                credits.append(1 if right > 0 else 0 if right < 0 else 0.5)
        kind = "pairwise accuracy" if gold.scores or gold.ranking else "accuracy"
        if credits:
            means.setdefault(kind, []).append(sum(credits) / len(credits))
        if kind == "accuracy" and n == 2 and None not in of:
            said = "tie" if of[0] == of[1] else "a" if of[0] > of[1] else "b"
            human = "tie" if gold.tie else "a" if 0 in gold.chosen else "b"
            means.setdefault("accuracy, ties are a class", []).append(float(said == human))
        if n > 2 and len(set(level)) > 1 and None not in of:
            top = [i for i in range(n) if of[i] == max(of)]
            means.setdefault("best-of-n", []).append(sum(level[i] == max(level) for i in top) / len(top))
    return {kind: sum(values) / len(values) for kind, values in means.items()}


def random_gold(dice, n):
    kind = dice.choice(["chosen", "ranking", "scores", "tie"] if n == 2 else ["chosen", "ranking", "scores"])
    if kind == "tie":
        return Gold(tie=True)
    if kind == "chosen":
        return Gold(chosen=tuple(dice.sample(range(n), dice.randint(1, n - 1))))
    values = tuple(dice.randint(1, 3) for _ in range(n))
    return Gold(ranking=values) if kind == "ranking" else Gold(scores=values)


@pytest.mark.parametrize("seed", range(20))
def test_every_number_is_that_of_plain_python(seed):
    dice = random.Random(seed)
    sizes = [dice.choice([2, 2, 3, 5]) for _ in range(80)]
    items = [item(i, random_gold(dice, n), n) for i, n in enumerate(sizes)]
    scores = [[dice.choice([None, 1, 1, 2, 3, 4]) for _ in range(n)] for n in sizes]
    found = {metric: n.value for (metric, _), n in measured(items, scores).items()}
    assert found == pytest.approx(by_hand(items, scores))
    assert len(found) == 4


@pytest.mark.parametrize("seed", range(5))
def test_the_bounds_hold_what_the_failures_might_have_been(seed):
    dice = random.Random(seed)
    items = [item(i, Gold(chosen=(0,)), 4) for i in range(30)]
    whole = [[dice.randint(1, 4) for _ in range(4)] for _ in items]
    lost = [[None if dice.random() < 0.2 else s for s in of] for of in whole]
    truth, found = measured(items, whole), measured(items, lost)
    for metric in (("accuracy", ""), ("best-of-n", "")):
        assert found[metric].worst <= truth[metric].value <= found[metric].best
        assert found[metric].worst <= found[metric].value <= found[metric].best
