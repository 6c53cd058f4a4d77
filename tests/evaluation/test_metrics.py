import pytest

from judges import Failure, Item, Judgment, Scorecard
from judges.evaluation.benchmarks import load_benchmark
from judges.evaluation.metrics import bootstrap, credit, pair_accuracy, wilson
from judges.types import Gold


def pair(i, prompt=None):
    return Item(id=str(i), prompt=prompt or f"q{i}", responses=["a", "b"], gold=Gold(chosen=(0,)))


def card(i, first, second):
    made = [Judgment(score=s) if s is not None else Judgment(failure=Failure("missing", "x")) for s in (first, second)]
    return Scorecard(id=str(i), judgments=tuple(made))


def test_credit_by_hand():
    assert [credit(pair(0), card(0, *s)) for s in [(2, 1), (1, 1), (1, 2), (None, 1)]] == [1, 0.5, 0, None]


def test_a_failure_is_neither_right_nor_wrong_and_bounds_the_rest():
    items = [pair(i) for i in range(4)]
    a = pair_accuracy(items, [card(0, 2, 1), card(1, 1, 1), card(2, 1, 2), card(3, None, 2)])
    assert a.accuracy == 0.5 and a.ties == 1 and a.failures == 1 and a.pairs == 4
    assert (a.worst, a.best) == (1.5 / 4, 2.5 / 4)


def test_nothing_judged_has_no_accuracy():
    a = pair_accuracy([pair(0)], [card(0, None, None)])
    assert a.accuracy is None and (a.worst, a.best) == (0, 1)


def test_all_right_does_not_claim_certainty():
    items = [pair(i) for i in range(28)]
    a = pair_accuracy(items, [card(i, 2, 1) for i in range(28)])
    assert a.accuracy == 1 and a.low == pytest.approx(0.8794, abs=1e-3)


def test_wilson_equals_scipys():
    from scipy.stats import binomtest

    for k, n in [(0, 10), (3, 17), (50, 99)]:
        reference = binomtest(k, n).proportion_ci(method="wilson")
        assert wilson(k / n, n) == pytest.approx((reference.low, reference.high), abs=1e-6)


def test_bootstrap_is_that_of_scipy():
    import numpy as np
    from scipy.stats import bootstrap as reference

    values = np.random.default_rng(1).integers(0, 2, 200).astype(float)
    found = reference((values,), np.mean, method="percentile", n_resamples=5000, rng=1).confidence_interval
    assert bootstrap([[v] for v in values], 0, 5000) == pytest.approx((found.low, found.high), abs=0.01)


def test_rows_of_one_prompt_are_drawn_together():
    alone = [pair(i) for i in range(400)]
    together = [pair(i, prompt=f"q{i // 4}") for i in range(400)]
    cards = [card(i, 2, 1) if (i // 4) % 2 else card(i, 1, 2) for i in range(400)]
    narrow, wide = pair_accuracy(alone, cards), pair_accuracy(together, cards)
    assert wide.high - wide.low > 1.7 * (narrow.high - narrow.low)


def test_the_demonstration_set_is_balanced_and_split_by_topic():
    import json

    from judges.evaluation import benchmarks

    made = [json.loads(x) for p in benchmarks._DEMO.glob("*.jsonl") for x in p.open(encoding="utf-8")]
    assert len(made) == 204 and len({r["id"] for r in made}) == 204
    topics = {s: {(r["subset"], r["topic"]) for r in made if r["split"] == s} for s in ("train", "test")}
    assert not topics["train"] & topics["test"]
    test = load_benchmark("demo")
    longer = sum(len(i.responses[0]) > len(i.responses[1]) for i in test)
    assert len(test) == 102 and 0.4 < longer / len(test) < 0.6
    assert {i.subset for i in load_benchmark("demo", limit=6)} == {i.subset for i in test}
