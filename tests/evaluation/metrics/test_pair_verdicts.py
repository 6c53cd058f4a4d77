import pytest
from bias_cases import FAILURE, scored

from judges import Item, Judgment, Scorecard
from judges.evaluation.metrics.length_bias import length_bias_numbers
from judges.evaluation.metrics.pair_verdicts import gold_pairs
from judges.evaluation.metrics.position_bias import position_bias_numbers
from judges.evaluation.metrics.style_bias import author_bias_numbers, style_bias_numbers
from judges.types import Comparison, Gold

MEASURES = (position_bias_numbers, length_bias_numbers, style_bias_numbers, author_bias_numbers)


def test_gold_pairs_by_hand():
    def gold_of(gold, **more):
        item = Item("a", "q", ["x", "y", "z"][: 2 if gold.tie else 3], gold=gold, **more)
        return [(p.first, p.second, p.gold) for p in gold_pairs([item], {})]

    assert gold_of(Gold(chosen=(1,))) == [(1, 0, 1), (1, 2, 1)]
    assert gold_of(Gold(chosen=(0, 2))) == [(0, 1, 1), (2, 1, 1)]
    assert gold_of(Gold(ranking=(2, 1, 2))) == [(1, 0, 1), (0, 2, 0.5), (1, 2, 1)]
    assert gold_of(Gold(scores=(1, 5, 3)), comparisons=[(0, 1)]) == [(1, 0, 1)]
    assert gold_of(Gold(tie=True)) == [(0, 1, 0.5)]


def test_with_three_responses_the_comparisons_of_the_pair_decide():
    item = Item("a", "q", ["x", "y", "z"], gold=Gold(ranking=(1, 2, 3)))
    card = Scorecard(
        "a",
        tuple(Judgment(score=s) for s in (0.0, 1.0, 0.5)),
        (
            Comparison(0, 1, "first"),
            Comparison(0, 1, "first", swapped=True),
            Comparison(0, 2, "first"),
            Comparison(0, 2, "second", swapped=True),
            Comparison(1, 2, FAILURE),
        ),
    )
    assert [p.verdict for p in gold_pairs([item], {"a": card})] == [1.0, 0.5, None]


@pytest.mark.parametrize("measure", MEASURES)
def test_items_without_pairs_have_no_bias(measure):
    rating = Item("a", "q", ["x"], gold=Gold(scores=(3,)))
    assert measure([], {}) == () == measure([rating], {"a": scored("a", 2)})
