import math
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from judges import Failure, Item, Judgment, Scale, Scorecard, load_scorer
from judges.errors import CannotRun
from judges.scorer import parse_spec, softmax_preference, vote_preference
from judges.types import Gold


def test_import_judges_imports_neither_torch_nor_vllm():
    heavy = "('torch', 'vllm', 'transformers', 'datasets')"
    code = f"import judges, judges.cli.app, sys; print([m for m in {heavy} if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"


def test_a_judgment_has_a_score_or_a_failure_never_both_nor_neither():
    with pytest.raises(ValueError):
        Judgment()
    with pytest.raises(ValueError):
        Judgment(score=1.0, failure=Failure("missing", "x"))
    with pytest.raises(ValueError):
        Judgment(score=math.nan)


def test_labels_of_a_scale():
    assert Scale(1, 10, 1).labels() == tuple(str(i) for i in range(1, 11))
    assert Scale(0, 1, 0.25).labels() == ("0", "0.25", "0.5", "0.75", "1")
    assert Scale(0, 1, 0.1).labels()[3] == "0.3" and 0.3 in Scale(0, 1, 0.1)


def test_an_item_refuses_a_string_of_responses_and_an_empty_prompt():
    with pytest.raises(TypeError):
        Item(id="a", prompt="p", responses="text")
    with pytest.raises(ValueError):
        Item(id="a", prompt="", responses=["x"])
    with pytest.raises(ValueError):
        Gold(chosen=(0,), tie=True)


def test_system_comes_first():
    item = Item(id="a", prompt="p", responses=["r"], system="s")
    assert [m["role"] for m in item.messages] == ["system", "user"]


def test_softmax_preference_is_the_sigmoid_of_the_difference_for_two():
    p = softmax_preference([Judgment(score=2.0), Judgment(score=0.5)])
    assert p[0] == pytest.approx(1 / (1 + math.exp(-1.5)))


def test_a_failure_leaves_no_preference():
    bad = Judgment(failure=Failure("missing", "x"))
    assert softmax_preference([Judgment(score=1.0), bad]) is None
    assert vote_preference([Judgment(score=1.0), bad]) is None


votes = st.lists(st.integers(0, 3).map(float), min_size=1, max_size=3)


@given(st.lists(votes, min_size=1, max_size=4))
def test_vote_preference_equals_counting_every_combination(columns):
    from itertools import product

    judgments = [Judgment(score=sum(c) / len(c), votes=tuple(c)) for c in columns]
    shares = [0.0] * len(columns)
    combinations = list(product(*columns))
    for combination in combinations:
        best = [i for i, v in enumerate(combination) if v == max(combination)]
        for i in best:
            shares[i] += 1 / len(best) / len(combinations)
    assert vote_preference(judgments) == pytest.approx(tuple(shares))


def test_length_scores_in_input_order_and_random_does_not_depend_on_order():
    items = [Item(id=str(i), prompt="p", responses=["x" * i, "y"]) for i in range(1, 5)]
    assert [c.id for c in load_scorer("length").score(items)] == ["1", "2", "3", "4"]
    one = load_scorer("random").score(items)
    other = load_scorer("random").score(items[::-1])[::-1]
    assert one == other and isinstance(one[0], Scorecard)
    assert len({c.judgments[0].score for c in one}) == 4


def test_two_items_with_one_id_are_refused():
    with pytest.raises(ValueError, match="unique"):
        load_scorer("length").score([Item(id="a", prompt="p", responses=["x"])] * 2)


@pytest.mark.parametrize(
    "name, settings, says",
    [
        ("lenght", {}, "unknown scorer 'lenght'"),
        ("length", {"votes": 3}, "votes"),
        ("self-rewarding", {"vote": 3}, "no setting 'vote'; did you mean 'votes'"),
        ("self-rewarding", {"votes": 0}, "votes is a whole number from 1 up"),
        ("self-rewarding", {"template": "nope"}, "no template 'nope'"),
        ("self-rewarding", {"template": "critique-out-loud"}, "needs pointwise"),
        ("critique-out-loud", {"read": "json"}, "not read by .json.; by expected, text, forced"),
        ("bradley-terry", {}, "needs model="),
    ],
)
def test_a_wrong_spec_says_what_is_wrong(name, settings, says):
    with pytest.raises(CannotRun, match=says):
        load_scorer(name, **settings)


def test_a_spec_reads_values_as_yaml():
    assert parse_spec("x,model=a/b,votes=3,force=false,engine.max_model_len=512") == (
        "x",
        {"model": "a/b", "votes": 3, "force": False, "engine.max_model_len": 512},
    )
    with pytest.raises(CannotRun, match="key=value"):
        parse_spec("x,model")
