import numpy as np
import pytest
from bias_cases import by_metric, pair, scored

from judges import load_scorer
from judges.evaluation.metrics.length_bias import length_bias_numbers, length_controlled


def test_length_by_hand():
    items = [
        pair("longer right, preferred", lengths=(9, 4)),
        pair("longer right, not preferred", lengths=(9, 4)),
        pair("longer wrong, preferred", lengths=(4, 9)),
        pair("longer wrong, tie", lengths=(4, 9)),
        pair("longer wrong, failed", lengths=(4, 9)),
        pair("equal length", lengths=(4, 4)),
    ]
    scores = [(1, 0), (0, 1), (0, 1), (1, 1), (None, 1), (1, 0)]
    found = by_metric(length_bias_numbers, items, [scored(item.id, *s) for item, s in zip(items, scores, strict=True)])
    assert found["length: longer is right"].value == 2 / 5
    assert found["length: longer preferred"].value == pytest.approx(2 / 3)
    assert found["length: longer preferred"].left_out == 1
    assert found["length: accuracy where the longer is right"].value == 1 / 2
    assert found["length: accuracy where the longer is wrong"].value == (0 + 0.5) / 2
    assert found["length: accuracy where the longer is wrong"].left_out == 1
    assert (found["length: controlled accuracy"].rows, found["length: controlled accuracy"].left_out) == (5, 1)


def test_a_scorer_of_length_alone_is_at_chance_once_length_is_controlled():
    rng = np.random.default_rng(0)
    items = [pair(str(i), lengths=tuple(rng.integers(1, 200, 2).tolist())) for i in range(300)]
    with load_scorer("length") as scorer:
        found = by_metric(length_bias_numbers, items, scorer.score(items))
    assert found["length: longer preferred"].value == 1
    controlled = found["length: controlled accuracy"]
    assert controlled.low < 0.5 < controlled.high and abs(controlled.value - 0.5) < 0.15


def test_controlled_accuracy_of_a_scorer_that_is_never_wrong_stays_below_one():
    items = [pair(str(i), lengths=(5 + i % 7, 8)) for i in range(40)]
    controlled = by_metric(length_bias_numbers, items, [scored(item.id, 1, 0) for item in items])[
        "length: controlled accuracy"
    ]
    assert 0.97 < controlled.value < 1 and 0.7 < controlled.low < 0.95


def simulated(rng, prompts, rows, theta, phi):
    """Pairs of which the longer is right more often: correct with probability σ(θ + φ·tanh(length / s))."""
    longer = rng.normal(120, 200, prompts * rows)
    right = rng.random(len(longer)) < 1 / (1 + np.exp(-theta - phi * np.tanh(longer / longer.std())))
    return right.astype(float), longer, [str(i // rows) for i in range(len(longer))]


def test_length_control_removes_a_simulated_bias():
    right, longer, prompts = simulated(np.random.default_rng(1), 20_000, 1, np.log(0.7 / 0.3), 1.5)
    value, low, high = length_controlled(right, longer, prompts)
    assert np.mean(right) > 0.73 and value == pytest.approx(0.7, abs=0.015) and low < 0.7 < high


def test_controlled_accuracy_equals_scikit_learn():
    from sklearn.linear_model import LogisticRegression

    right, longer, prompts = simulated(np.random.default_rng(2), 200, 1, 0.5, 0.8)
    right[:10] = 0.5
    x = np.column_stack([np.ones_like(longer), np.tanh(longer / longer.std())])
    x = np.vstack([x, np.eye(2)])
    y = np.append(right, [0.5, 0.5])
    twice, weight = np.vstack([x, x]), np.concatenate([y, 1 - y])
    fit = LogisticRegression(C=np.inf, fit_intercept=False, tol=1e-10, max_iter=1000)
    fit.fit(twice, np.repeat([1, 0], len(y)), sample_weight=weight)
    expected = 1 / (1 + np.exp(-fit.coef_[0, 0]))
    assert length_controlled(right, longer, prompts)[0] == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("copies", [1, 4])
def test_the_interval_of_controlled_accuracy_covers_the_true_value(copies):
    """Rows that only repeat their prompt's first one must not make it narrower."""
    rng = np.random.default_rng(3)
    covered = 0
    for _ in range(300):
        right, longer, _ = simulated(rng, 80, 1, 0.6, 0.7)
        prompts = [str(i) for i in range(80)] * copies
        _, low, high = length_controlled(np.tile(right, copies), np.tile(longer, copies), prompts)
        covered += low <= 1 / (1 + np.exp(-0.6)) <= high
    assert 0.92 <= covered / 300 <= 0.985
