import math

import numpy as np
import pytest
from scipy.optimize import minimize_scalar
from scipy.special import expit

from judges import Item, Judgment, Scorecard
from judges.evaluation.metrics.calibration import (
    brier,
    confidence,
    cross_fitted,
    ece,
    equal_mass,
    equal_width,
    fit_temperature,
    log_loss,
    margins_of,
    measure,
    reliability,
)
from judges.types import Comparison, Failure, Gold

BROKEN = Judgment(failure=Failure("timeout", "too slow"))


def logit(p):
    return math.log(p / (1 - p))


def pair(name, prompt=None, chosen=(0,), responses=2, comparisons=None):
    return Item(
        id=name,
        prompt=prompt or name,
        responses=[f"response {i}" for i in range(responses)],
        gold=Gold(chosen=chosen),
        comparisons=comparisons,
    )


def card(name, *scores, **more):
    return Scorecard(name, tuple(BROKEN if s is None else Judgment(score=s) for s in scores), **more)


def made_of(margins, prompts=None):
    """Items and cards with these margins of the chosen response."""
    items = [pair(f"i{k}", prompts[k] if prompts else None) for k in range(len(margins))]
    return items, {f"i{k}": card(f"i{k}", float(m), 0.0) for k, m in enumerate(margins)}


def simulated(rng, n, temperature, spread=2.5):
    """Margins of the chosen response where p = σ(lead / T) is true."""
    lead = rng.normal(0, spread * temperature, n)
    return np.where(rng.random(n) < expit(lead / temperature), lead, -lead)


def values(found):
    return {number.metric: number.value for number in found[0]}


# -- by hand --------------------------------------------------------------------------------------------------


def test_ece_brier_and_log_loss_by_hand():
    # confidences .62, .62 (one right), .95 (right), .5 (a tie: half right)
    logits = np.array([logit(0.62), -logit(0.62), logit(0.95), 0.0])
    sure, right = confidence(logits)
    assert sure == pytest.approx([0.62, 0.62, 0.95, 0.5]) and right.tolist() == [1, 0, 1, 0.5]
    assert ece(logits, equal_width()) == pytest.approx((2 * abs(0.5 - 0.62) + abs(1 - 0.95) + 0) / 4)
    assert brier(logits) == pytest.approx([0.38**2, 0.62**2, 0.05**2, 0.25])
    assert log_loss(logits) == pytest.approx([-math.log(p) for p in (0.62, 0.38, 0.95, 0.5)])
    curve = reliability(logits)
    assert [b.confidence for b in curve] == pytest.approx([0.5, 0.62, 0.95])
    assert [(b.accuracy, b.rows) for b in curve] == [(0.5, 1), (0.5, 2), (1, 1)]


def brute_ece(logits, edges):
    total = 0.0
    for low, high in zip([0.0, *edges], [*edges, 2.0], strict=True):
        rows = [(float(expit(abs(x))), 1.0 if x > 0 else 0.5 if x == 0 else 0.0) for x in logits]
        inside = [(c, r) for c, r in rows if low <= c < high]
        if inside:
            gap = np.mean([r for _, r in inside]) - np.mean([c for c, _ in inside])
            total += len(inside) / len(rows) * abs(gap)
    return total


@pytest.mark.parametrize("draw", ["normal", "integers", "constant", "one row", "all ties"])
def test_ece_equals_counting_row_by_row(draw):
    rng = np.random.default_rng(0)
    logits = {
        "normal": rng.normal(size=237),
        "integers": rng.integers(-3, 4, 100).astype(float),
        "constant": np.array([0.7] * 5 + [-0.7] * 4),
        "one row": np.array([-1.3]),
        "all ties": np.zeros(7),
    }[draw]
    for edges in (equal_width(), equal_mass(logits)):
        assert ece(logits, edges) == pytest.approx(brute_ece(logits, edges))


def test_bins_of_equal_mass_hold_as_many_rows_and_keep_equal_confidences_together():
    rng = np.random.default_rng(0)
    for n in (100, 105):
        sure, _ = confidence(rng.normal(size=n))
        counts = np.bincount(np.searchsorted(equal_mass(logits_of(sure)), sure, side="right"))
        assert len(counts) == 10 and set(counts) <= {n // 10, -(-n // 10)}
    assert len(set(equal_mass(np.array([1.0] * 50 + [2.0] * 50)))) == 2


def logits_of(sure):
    return np.log(sure / (1 - sure))


def test_where_the_chosen_response_stands_is_no_information():
    rng = np.random.default_rng(1)
    margins = simulated(rng, 300, 2.0)
    items, cards = made_of(margins)
    turned = [pair(item.id, chosen=(1,)) if k % 2 else item for k, item in enumerate(items)]
    again = {i: (card(i, 0.0, c.judgments[0].score) if int(i[1:]) % 2 else c) for i, c in cards.items()}
    first, second = measure(items, cards, draws=20), measure(turned, again, draws=20)
    assert first == second
    # A scorer that always holds the first for better says nothing of its confidence where the chosen is first.
    sure = measure(*made_of(np.full(100, 3.0)), draws=20)
    assert values(sure)["ece, equal width"] == pytest.approx(1 - expit(3.0))


# -- temperature ----------------------------------------------------------------------------------------------


def test_the_temperature_is_the_least_log_loss_by_another_search():
    rng = np.random.default_rng(2)
    for temperature in (0.02, 1.0, 300.0):
        margins = simulated(rng, 400, temperature)
        other = minimize_scalar(
            lambda t, m=margins: np.mean(np.logaddexp(0, -m / math.exp(t))),
            bounds=(math.log(temperature) - 3, math.log(temperature) + 3),
            method="bounded",
            options={"xatol": 1e-9},
        )
        assert fit_temperature(margins).value == pytest.approx(math.exp(other.x), rel=1e-5)


def test_the_cross_fitted_temperature_is_within_5_percent_on_5000_pairs():
    for seed, truth in enumerate((0.3, 1.0, 40.0)):
        margins = simulated(np.random.default_rng(seed), 5000, truth)
        made = cross_fitted(margins, [str(i) for i in range(5000)])
        assert np.abs(made / truth - 1).max() < 0.05 and len(set(made)) == 5


def test_the_cross_fitted_temperature_is_right_on_average():
    found = [
        cross_fitted(simulated(np.random.default_rng(seed), 1000, 7.0), [str(i) for i in range(1000)]).mean()
        for seed in range(60)
    ]
    assert np.mean(found) == pytest.approx(7.0, rel=0.02)


def test_a_row_never_moves_its_own_prediction():
    rng = np.random.default_rng(3)
    margins = simulated(rng, 200, 1.0)
    prompts = [f"p{i // 4}" for i in range(200)]
    before = cross_fitted(margins, prompts)
    for row in (0, 57, 199):
        wild = margins.copy()
        wild[row] = -1000 * abs(wild[row]) - 1000
        after = cross_fitted(wild, prompts)
        own = [i for i, prompt in enumerate(prompts) if prompt == prompts[row]]
        assert (after[own] == before[own]).all(), "its own fold's temperature saw it"
        assert (after != before).sum() >= 150, "the other folds did see it"


def test_a_wrong_label_moves_no_confidence_of_its_own_prompt():
    rng = np.random.default_rng(4)
    items, cards = made_of(simulated(rng, 100, 1.0), [f"p{i // 2}" for i in range(100)])
    margins = margins_of(items, cards).margins
    turned = [pair(items[0].id, items[0].prompt, chosen=(1,)), *items[1:]]
    again = margins_of(turned, cards)
    assert again.margins[0] == -margins[0] and (again.margins[1:] == margins[1:]).all()
    before = np.abs(margins) / cross_fitted(margins, again.prompts)
    after = np.abs(again.margins) / cross_fitted(again.margins, again.prompts)
    assert (before[:2] == after[:2]).all() and (before[2:] != after[2:]).any()


def test_rows_of_one_prompt_are_in_one_fold():
    rng = np.random.default_rng(5)
    prompts = [f"p{i}" for i in rng.integers(0, 30, 300)]
    made = cross_fitted(simulated(rng, 300, 1.0), prompts)
    assert all(len({t for t, p in zip(made, prompts, strict=True) if p == name}) == 1 for name in prompts)


@pytest.mark.parametrize(
    "margins, why",
    [([1.0, 2.0, 0.5, 0.0] * 10, "no pair of 40 is wrong"), ([-1.0, 1.0, -2.0] * 10, "do not point to the chosen")],
)
def test_a_temperature_at_a_bound_says_why(margins, why):
    (number,) = [n for n in measure(*made_of(margins), draws=20)[0] if n.metric == "temperature"]
    assert why in number.note and number.low is None


def test_margins_that_are_not_finite_or_absurd_are_left_out_with_a_note():
    rng = np.random.default_rng(9)
    plain = simulated(rng, 60, 1.0).tolist()
    items, cards = made_of([*plain, 0.0, 0.0, 0.0])
    for name, scores in (("i60", (1e308, -1e308)), ("i61", (-1e308, 1e308)), ("i62", (1e60, 0.0))):
        cards[name] = card(name, *scores)
    found, curves = measure(items, cards, draws=20)
    without, _ = measure(*made_of(plain), draws=20)
    assert sum(b.rows for b in curves["as it is"]) == 60
    for number, other in zip(found, without, strict=True):
        assert number.value == other.value and (number.rows, number.left_out) == (60, 3)
        assert "3 margins beyond ±1e+50 left out" in number.note and "beyond" not in other.note
    ((number,), curves) = measure(items[60:], cards)
    assert number.value is None and curves == {} and "3 margins beyond" in number.note and number.left_out == 3


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("size", [1e-320, 1e-55, 1e-45, 1e45, 9e49])
def test_margins_of_absurd_size_give_a_temperature_of_that_size_or_none(size):
    margins = [2 * size, 2 * size, 2 * size, -2 * size] * 10
    found, _ = measure(*made_of(margins if size < 9e49 else [m / 2 for m in margins]), draws=20)
    temperature = found[-1]
    if size < 1e-50:
        assert temperature.value is None and "no temperature can be fitted" in temperature.note
    else:
        assert temperature.value / size == pytest.approx((2 if size < 9e49 else 1) / math.log(3))
        assert all(math.isfinite(n.value) and n.low <= n.high < math.inf for n in found)


# -- what it is measured on -----------------------------------------------------------------------------------


def test_a_known_miscalibration_is_recovered():
    rng = np.random.default_rng(6)
    lead = rng.normal(0, 2, 40_000)
    margins = np.where(rng.random(40_000) < expit(lead), lead, -lead) * 3  # three times too sure
    sure = expit(np.abs(lead * 3))
    bins = np.searchsorted(equal_width(), sure, side="right")
    truth = sum(abs((expit(np.abs(lead[bins == b])) - sure[bins == b]).sum()) for b in set(bins)) / len(lead)
    found, curves = measure(*made_of(margins), draws=100)
    told = {n.metric: n for n in found}
    assert told["ece, equal width"].value == pytest.approx(truth, abs=0.005) and truth > 0.1
    assert told["ece, equal width"].low < truth < told["ece, equal width"].high
    assert told["temperature"].value == pytest.approx(3, rel=0.05)
    assert told["temperature"].low < 3 < told["temperature"].high
    for metric in ("ece, equal width", "ece, equal mass"):
        assert told[f"{metric}, after temperature"].value < 0.01
    for metric in ("brier", "log loss"):
        assert told[f"{metric}, after temperature"].value < told[metric].value - 0.01
    assert list(curves) == ["as it is", "after temperature"]
    assert all(b.accuracy < b.confidence for b in curves["as it is"][1:])
    assert sum(b.rows for b in curves["after temperature"]) == 40_000


def test_a_calibrated_scorer_shows_about_what_chance_shows():
    rng = np.random.default_rng(7)
    seen = [measure(*made_of(simulated(rng, 400, 1.0)), draws=20)[0][0] for _ in range(40)]
    told = [float(n.note.split("expected of a calibrated scorer: ")[1]) for n in seen]
    assert np.mean([n.value for n in seen]) == pytest.approx(np.mean(told), rel=0.15)


def test_intervals_of_ece_hold_the_truth_where_it_is_far_from_0():
    rng = np.random.default_rng(8)
    held = 0
    for _ in range(100):
        lead = rng.normal(0, 2, 600)
        margins = np.where(rng.random(600) < expit(lead), lead, -lead) * 3
        number = measure(*made_of(margins), draws=200)[0][0]
        held += number.low <= 0.1329 <= number.high  # the truth of the simulation above, by numerical integration
    assert 88 <= held <= 100


def test_every_chosen_response_is_paired_with_every_other_and_failures_are_counted():
    items = [
        pair("a", chosen=(1,), responses=4),
        pair("b", chosen=(0, 2), responses=3),
        pair("c", responses=4, comparisons=[(0, 1), (2, 3)]),
        pair("d"),
        Item(id="e", prompt="e", responses=["x", "y"], gold=Gold(tie=True)),
        Item(id="f", prompt="f", responses=["x", "y"], gold=Gold(scores=(1, 2))),
    ]
    cards = {c.id: c for c in [card("a", 1, 5, 2, None), card("b", 3, 2, 0), card("c", 4, 1, 0, 9), card("d", None, 1)]}
    cards |= {name: card(name, 1, 2) for name in "ef"}
    found = margins_of(items, cards)
    assert found.margins.tolist() == [4, 3, 1, -2, 3] and found.left_out == 2
    assert found.rows == ("a/1-0", "a/1-2", "b/0-1", "b/2-1", "c/0-1") and found.prompts[3] == found.prompts[2]
    assert all(number.left_out == 2 for number in measure(items, cards, draws=5)[0])


def test_a_scorer_without_scores_is_read_by_its_comparisons_and_says_so():
    items = [pair(f"i{k}") for k in range(40)]
    outcomes = [["first", "first"], ["first", "second"], ["tie", "first"], ["second", Failure("timeout", "slow")]]
    cards = {
        item.id: card(item.id, None, None, comparisons=tuple(Comparison(0, 1, o) for o in outcomes[k % 4]))
        for k, item in enumerate(items)
    }
    found = margins_of(items, cards)
    assert found.margins[:4].tolist() == [1, 0, 0.5, -1] and found.unit == "comparisons"
    assert all("shares of comparisons" in number.note for number in measure(items, cards, draws=5)[0])


def test_as_it_is_takes_the_scorers_own_preference_where_it_is_a_probability():
    items = [pair("a"), pair("b", chosen=(1,))]
    own = {"a": card("a", 9, 1, preference=(0.7, 0.3)), "b": card("b", 9, 1, preference=(0.6, 0.4))}
    assert margins_of(items, own).own == pytest.approx([logit(0.7), logit(0.4)])
    assert values(measure(items, own, draws=5))["brier"] == pytest.approx((0.3**2 + 0.6**2) / 2)
    sure = own | {"b": card("b", 9, 1, preference=(1.0, 0.0))}
    found = margins_of(items, sure)
    assert found.own.tolist() == [8, -8] and found.note == "T = 1"


def test_there_are_no_numbers_without_a_chosen_response_and_a_note_where_all_failed():
    tie = Item(id="t", prompt="t", responses=["x", "y"], gold=Gold(tie=True))
    assert measure([tie], {"t": card("t", 1, 2)}) == ((), {})
    (number,), curves = measure([pair("a")], {"a": card("a", None, None)})
    assert number.value is None and number.note == "no pair has a margin" and curves == {}


def test_one_prompt_or_only_level_scores_leave_the_after_out():
    for items, cards in (made_of([1.0, -1.0, 2.0], ["p"] * 3), made_of([0.0] * 30)):
        found, curves = measure(items, cards, draws=5)
        assert list(curves) == ["as it is"] and not [n for n in found if "after" in n.metric]
    assert found[-1].value is None and "no temperature can be fitted" in found[-1].note
