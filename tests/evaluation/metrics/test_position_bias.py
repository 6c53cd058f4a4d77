import numpy as np
import pytest
from bias_cases import FAILURE, both_orders, by_metric, pair, scored, values

from judges import Judgment, Scorecard
from judges.evaluation.metrics.length_bias import length_bias_numbers
from judges.evaluation.metrics.position_bias import position_bias_numbers
from judges.types import Comparison


def test_position_by_hand():
    items = [pair("a"), pair("b"), pair("c", right=1), pair("d")]
    cards = [
        both_orders("a", "first", "first"),  # right in both
        both_orders("b", "first", "second"),  # whichever is shown first
        both_orders("c", "second", "tie"),  # right when shown second, a tie when shown first
        both_orders("d", "tie", "tie"),
    ]
    found = values(position_bias_numbers, items, cards)
    assert found["position: consistency"] == 2 / 4  # a and d
    # Decided: a given (first slot), a swapped (second), b given (first), b swapped (first), c given (second).
    assert found["position: first slot preferred"] == pytest.approx(3 / 5)
    assert found["position: accuracy, right one shown first"] == (1 + 1 + 0.5 + 0.5) / 4
    assert found["position: accuracy, right one shown second"] == (1 + 0 + 1 + 0.5) / 4


def test_a_failure_in_one_order_leaves_the_pair_out_of_every_position_number():
    items = [pair("a"), pair("b")]
    found = by_metric(
        position_bias_numbers, items, [both_orders("a", "first", "first"), both_orders("b", "first", FAILURE)]
    )
    position = [n for metric, n in found.items() if metric.startswith("position")]
    assert len(position) == 4 and all(n.left_out for n in position)
    assert found["position: consistency"].value == 1 and found["position: first slot preferred"].value == 0.5
    assert found["position: accuracy, right one shown first"].rows == 1


def test_votes_of_one_order_are_one_verdict():
    votes = [Comparison(0, 1, o) for o in ("first", "second", "first")] + [Comparison(0, 1, "first", swapped=True)]
    card = Scorecard("a", (Judgment(score=1.0), Judgment(score=0.0)), tuple(votes))
    found = by_metric(position_bias_numbers, [pair("a")], [card])
    assert found["position: consistency"].value == 1 and found["position: first slot preferred"].rows == 2


def test_a_comparison_with_its_sides_exchanged_counts_the_same():
    turned = (Comparison(1, 0, "second", swapped=True), Comparison(1, 0, "second"))
    straight = (Comparison(0, 1, "first"), Comparison(0, 1, "first", swapped=True))
    cards = [Scorecard("a", (Judgment(score=1.0), Judgment(score=0.0)), c) for c in (turned, straight)]
    exchanged, usual = (values(position_bias_numbers, [pair("a")], [card]) for card in cards)
    assert exchanged == usual and usual["position: consistency"] == 1


def test_every_share_has_the_interval_of_its_own_rows():
    """One pair a prompt: about Wilson's, whatever rows the other numbers have."""
    rng = np.random.default_rng(5)
    outcomes = ["first", "second", "tie"]
    items = [pair(str(i), int(rng.integers(2)), tuple(rng.integers(1, 99, 2).tolist())) for i in range(300)]
    cards = [both_orders(item.id, *rng.choice(outcomes, 2).tolist()) for item in items]
    cards = [Scorecard(c.id, (Judgment(score=float(s)), Judgment(score=1.0 - s)), c.comparisons)
             for c, s in zip(cards, rng.integers(2, size=300), strict=True)]  # fmt: skip
    found = by_metric(position_bias_numbers, items, cards)
    found |= by_metric(length_bias_numbers, items, cards)
    slot = found.pop("position: first slot preferred")  # two rows a prompt
    assert slot.high - slot.low > 0.05
    assert len(found) == 8
    for metric, number in found.items():
        spread = 1.96 * np.sqrt(number.value * (1 - number.value) / number.rows)
        # A tie as half has less spread than right or wrong.
        least = 0.7 if "position: accuracy" in metric else 0.9
        assert least < (number.high - number.low) / (2 * spread) < 1.4, metric


def test_position_bias_needs_both_orders():
    one_order = Scorecard("a", (Judgment(score=1.0), Judgment(score=0.0)), (Comparison(0, 1, "first"),))
    assert not values(position_bias_numbers, [pair("a")], [one_order]) and not values(
        position_bias_numbers, [pair("a")], [scored("a", 1, 0)]
    )


def test_position_bias_of_real_judges_equals_the_counts_in_their_files(shared_data):
    """Counted from the rows themselves: a decision A>B is for the response in the first place."""
    from judges.data.readers import read_records
    from judges.evaluation.benchmarks.judgebench import load
    from judges.evaluation.recorded_judgments import RecordedJudgments

    path = str(shared_data / "judgebench_outputs" / "arena_hard--o1-mini-2024-09-12.jsonl.gz")
    items = load(str(shared_data / "judgebench_gpt.jsonl")).items
    decisions = [[j["decision"] for j in row["judgments"]] for row in read_records(path)]
    flip = {"A>B": "B>A", "B>A": "A>B", "A=B": "A=B"}
    found = values(position_bias_numbers, items, RecordedJudgments(path).score(items))
    assert found["position: consistency"] == pytest.approx(sum(a == flip[b] for a, b in decisions) / 350)
    flat = [d for two in decisions for d in two if d != "A=B"]
    assert found["position: first slot preferred"] == pytest.approx(flat.count("A>B") / len(flat))
