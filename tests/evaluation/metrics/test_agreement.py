import math
from collections import Counter
from itertools import combinations, permutations

import numpy as np
import pytest

from judges import Failure, Item, Judgment, Scorecard
from judges.evaluation.metrics.agreement import agreement_numbers, alpha, cohen, fleiss, read_votes
from judges.types import Gold

SCORES = {"a": (2, 1), "b": (1, 2), "tie": (1, 1), None: (None, 1)}


def item(name, votes, annotators=None, **more):
    meta = {"votes": votes} | ({"annotators": annotators} if annotators else {})
    return Item(id=str(name), prompt=f"about {name}", responses=["x", "y"], gold=Gold(tie=True), meta=meta, **more)


def card(name, verdict):
    failed = Judgment(failure=Failure("missing", "x"))
    return Scorecard(str(name), tuple(failed if s is None else Judgment(score=s) for s in SCORES[verdict]))


def measured(items, verdicts=None, draws=20):
    cards = None if verdicts is None else {i.id: card(i.id, v) for i, v in zip(items, verdicts, strict=True)}
    return {(n.metric, n.section): n for n in agreement_numbers(items, cards, draws=draws)}


# -- the second way: plain Python from the definitions --------------------------------------------------------


def plain_alpha(rows):
    """1 − observed / expected disagreement, over all ordered pairs of votes."""
    rows = [row for row in rows if len(row) > 1]
    every = [vote for row in rows for vote in row]
    observed = sum(sum(a != b for a, b in permutations(row, 2)) / (len(row) - 1) for row in rows) / len(every)
    expected = sum(a != b for a, b in permutations(every, 2)) / (len(every) * (len(every) - 1))
    return 1 - observed / expected if expected else math.nan


def plain_cohen(a, b):
    both = [(x, y) for x, y in zip(a, b, strict=True) if x is not None and y is not None]
    seen = sum(x == y for x, y in both) / len(both)
    first, second = Counter(x for x, _ in both), Counter(y for _, y in both)
    chance = sum(first[v] * second[v] for v in "ab") / len(both) ** 2 + first["tie"] * second["tie"] / len(both) ** 2
    return (seen - chance) / (1 - chance) if chance < 1 else math.nan


def plain_majority(votes, verdict):
    counts = Counter(votes)
    top = [v for v in counts if counts[v] == max(counts.values())]
    return (verdict in top) / len(top)


def random_rows(seed, rows, least, most):
    generator = np.random.default_rng(seed)
    names = np.array(["a", "b", "tie"])
    return [names[generator.integers(0, 3, generator.integers(least, most + 1))].tolist() for _ in range(rows)]


def test_alpha_is_the_published_value():
    # Krippendorff's example of three coders, fifteen units and four values, printed with 0.691 (nominal).
    a = [0, 0, 0, 0, 0, 3, 4, 1, 2, 1, 1, 3, 3, 0, 3]
    b = [1, 0, 2, 1, 3, 3, 4, 3, 0, 0, 0, 0, 0, 0, 0]
    c = [0, 0, 2, 1, 3, 4, 4, 0, 2, 1, 1, 3, 3, 0, 4]
    counts = np.array([[unit.count(v) for v in (1, 2, 3, 4)] for unit in zip(a, b, c, strict=True)], float)
    assert alpha(counts) == pytest.approx(0.691, abs=5e-4)


def test_fleiss_is_the_published_value():
    # Fourteen raters, ten subjects, five categories: 0.210.
    table = [
        [0, 0, 0, 0, 14],
        [0, 2, 6, 4, 2],
        [0, 0, 3, 5, 6],
        [0, 3, 9, 2, 0],
        [2, 2, 8, 1, 1],
        [7, 7, 0, 0, 0],
        [3, 2, 6, 3, 0],
        [2, 5, 3, 2, 2],
        [6, 5, 2, 1, 0],
        [0, 2, 2, 3, 7],
    ]
    assert fleiss(np.array(table, float)) == pytest.approx(0.210, abs=5e-4)


def test_cohen_is_the_value_worked_by_hand():
    # 20 both yes, 15 both no, 5 and 10 apart: observed 0.7, by chance 0.5.
    a, b = np.repeat([0, 0, 1, 1], [20, 5, 10, 15]), np.repeat([0, 1, 0, 1], [20, 5, 10, 15])
    assert cohen(a, b) == pytest.approx(0.4)


def test_cohen_is_scikit_learns():
    metrics = pytest.importorskip("sklearn.metrics")
    a, b = np.random.default_rng(1).integers(0, 3, (2, 200))
    assert cohen(a, b) == pytest.approx(metrics.cohen_kappa_score(a, b))


def test_all_numbers_are_those_of_the_definitions():
    names = ["ann", "bob", "cem"]
    rows = random_rows(2, 60, 3, 3)
    rows += [[v] * 3 for v in ("a", "b", "tie")] * 10
    verdicts = [row[0] for row in random_rows(3, len(rows), 1, 1)]
    found = measured([item(i, row, names) for i, row in enumerate(rows)], verdicts)
    columns = [list(column) for column in zip(*rows, strict=True)]
    judged = list(zip(rows, verdicts, strict=True))
    mean = lambda values: sum(values) / len(values)  # noqa: E731
    decided = [Counter(row).most_common(1)[0][0] if len(set(row)) < 3 else None for row in rows]
    expected = {
        "agreement between annotators": mean([mean([a == b for a, b in combinations(row, 2)]) for row in rows]),
        "krippendorff alpha": plain_alpha(rows),
        "cohen kappa between annotators": mean([plain_cohen(a, b) for a, b in combinations(columns, 2)]),
        "human ceiling": mean(
            [mean([plain_majority(row[:i] + row[i + 1 :], row[i]) for i in range(3)]) for row in rows]
        ),
        "agreement with the others' majority": mean(
            [mean([plain_majority(row[:i] + row[i + 1 :], v) for i in range(3)]) for row, v in judged]
        ),
        "agreement with the majority": mean([plain_majority(row, v) for row, v in judged]),
        "agreement with an annotator": mean([mean([v == x for x in row]) for row, v in judged]),
        "cohen kappa with the majority": plain_cohen(decided, verdicts),
    }
    for metric, value in expected.items():
        number = found[metric, ""]
        assert number.value == pytest.approx(value), metric
        assert number.low <= number.value <= number.high, metric
    for name, column in zip(names, columns, strict=True):
        same = mean([a == b for a, b in zip(column, verdicts, strict=True)])
        assert found["agreement with an annotator", name].value == pytest.approx(same)
        assert found["cohen kappa with an annotator", name].value == pytest.approx(plain_cohen(column, verdicts))


def test_rows_with_different_numbers_of_votes_have_alpha_and_no_fleiss():
    rows = random_rows(4, 50, 2, 5)
    found = measured([item(i, row) for i, row in enumerate(rows)])
    assert found["krippendorff alpha", ""].value == pytest.approx(plain_alpha(rows))
    assert ("fleiss kappa", "") not in found


def test_alpha_is_that_of_a_second_library():
    evalica = pytest.importorskip("evalica")
    pandas = pytest.importorskip("pandas")
    rows = random_rows(5, 40, 2, 4)
    codes = {"a": 0.0, "b": 1.0, "tie": 2.0}
    padded = [[codes[v] for v in row] + [math.nan] * (4 - len(row)) for row in rows]
    found = measured([item(i, row) for i, row in enumerate(rows)])["krippendorff alpha", ""].value
    assert found == pytest.approx(evalica.alpha(pandas.DataFrame(padded).T).alpha)


def test_without_names_cohen_between_annotators_is_not_made_up():
    number = measured([item(1, ["a", "b"]), item(2, ["b", "b"])])["cohen kappa between annotators", ""]
    assert number.value is None and "does not name the annotators" in number.note


def test_annotators_are_matched_by_name_and_not_by_place():
    rows = [
        item(1, ["a", "b"], ["ann", "bob"]),
        item(2, ["a", "b"], ["bob", "ann"]),
        item(3, ["a", "a"], ["ann", "bob"]),
    ]
    # ann: a, b, a; bob: b, a, a.
    assert measured(rows)["cohen kappa between annotators", ""].value == pytest.approx(
        plain_cohen(["a", "b", "a"], ["b", "a", "a"])
    )


def test_annotators_who_never_meet_have_no_kappa():
    rows = [item(1, ["a", "b"], ["ann", "bob"]), item(2, ["a", "b"], ["cem", "dan"])]
    found = measured(rows)["cohen kappa between annotators", ""]
    # In each pair's one row they differ, as chance alone would have it.
    assert found.value == 0 and found.note.endswith("2 pairs of annotators")
    apart = [item(1, ["a", "b"], ["ann", "ann"])]
    assert measured(apart)["cohen kappa between annotators", ""].note == "no two annotators share a row"


@pytest.mark.parametrize("vote", ["a", "tie"])
def test_votes_that_are_all_the_same_have_a_ceiling_and_no_kappa(vote):
    found = measured([item(i, [vote] * 3, ["x", "y", "z"]) for i in range(5)], [vote] * 5)
    assert found["human ceiling", ""].value == 1 == found["agreement with the majority", ""].value
    for metric in (
        "krippendorff alpha",
        "fleiss kappa",
        "cohen kappa between annotators",
        "cohen kappa with the majority",
    ):
        assert found[metric, ""].value is None and found[metric, ""].note, metric


def test_one_row_by_hand():
    found = measured([item(1, ["a", "a", "b"])], ["b"])
    # The two who said a meet one a and one b: half each; the one who said b meets two a.
    assert found["human ceiling", ""].value == pytest.approx(1 / 3)
    # In place of either a the scorer's b has half, in place of b nothing.
    assert found["agreement with the others' majority", ""].value == pytest.approx(1 / 3)
    assert found["agreement with the majority", ""].value == 0
    assert found["agreement with an annotator", ""].value == pytest.approx(1 / 3)


def test_a_failure_is_left_out_and_counted():
    items = [item(1, ["a", "a"]), item(2, ["b", "b"]), item(3, ["b", "a"])]
    found = measured(items, ["a", None, "a"])
    number = found["agreement with the majority", ""]
    assert (number.value, number.rows, number.left_out) == (0.75, 2, 1)
    assert found["human ceiling", ""].rows == 3 and found["human ceiling", ""].left_out == 0


def test_a_scorer_that_failed_everywhere_has_no_agreement():
    found = measured([item(1, ["a", "b"], ["x", "y"])], [None])
    of_scorer = [n for (metric, _), n in found.items() if " with " in metric]
    assert len(of_scorer) == 8 and all(n.value is None and n.note and n.left_out == 1 for n in of_scorer)


def test_items_without_votes_have_no_agreement():
    plain = Item(id="p", prompt="q", responses=["x", "y"], gold=Gold(tie=True))
    assert agreement_numbers([plain, item(1, ["a"])]) == () == agreement_numbers([])


def test_votes_in_another_form_are_said_and_not_read():
    (number,) = agreement_numbers([item(1, [2, -1])])
    assert number.value is None and "1 rows" in number.note
    found = measured([item(1, [2, -1]), item(2, ["a", "b"]), item(3, ["b", "b"])])
    assert found["human ceiling", ""].rows == 2 and "1 rows" in found["human ceiling", ""].note


def test_pandalms_annotators_agree_as_counted(shared_data):
    import json

    rows = [json.loads(line)["votes"] for line in open(shared_data / "pandalm.jsonl", encoding="utf-8")]
    votes = read_votes([item(i, row, ["1", "2", "3"]) for i, row in enumerate(rows)])
    assert votes.counts.sum() == 2997 and votes.counts[:, 2].sum() == sum(row.count("tie") for row in rows)
    found = measured(list(votes.items))
    assert found["krippendorff alpha", ""].value == pytest.approx(plain_alpha(rows))
    # 879 rows are unanimous; in the 120 others one pair of three agrees.
    assert found["agreement between annotators", ""].value == pytest.approx((879 + 120 / 3) / 999)
