"""Each loss equals a value computed by hand."""

from __future__ import annotations

import math

import pytest
import torch

from classic_rm.losses import bradley_terry, centring, certainty, contrastive, objective

ONE, ZERO = torch.tensor([1.0]), torch.tensor([0.0])


@pytest.mark.parametrize(
    ("chosen", "rejected", "options", "expected"),
    [
        (ONE, ZERO, {}, 0.3132617),  # -log sigmoid(1) = log(1 + e^-1)
        (ZERO, ONE, {}, 1.3132617),
        (ONE, ZERO, {"margin": 0.5}, 0.4740770),  # log(1 + e^-0.5)
        (ONE, ZERO, {"smoothing": 0.1}, 0.4132617),  # 0.9 * 0.3132617 + 0.1 * 1.3132617
    ],
)
def test_bradley_terry_with_margin_and_smoothing(chosen, rejected, options, expected):
    assert float(bradley_terry(chosen, rejected, **options)) == pytest.approx(expected, abs=1e-6)


def test_centring_is_the_square_of_the_sum():
    assert float(centring(torch.tensor([1.5]), torch.tensor([-0.5]))) == pytest.approx(1.0)


def test_contrastive_by_hand():
    # Two chosen along x and y, two rejected along x and -x; temperature 0.1 makes similarities 0 and 10.
    chosen = torch.tensor([[2.0, 0.0], [0.0, 3.0]])
    rejected = torch.tensor([[1.0, 0.0], [-5.0, 0.0]])
    # Anchor x: other chosen 0, rejected 10 and -10. Anchor y: other chosen 0, rejected 0 and 0.
    first = math.log(math.exp(0) + math.exp(10) + math.exp(-10))
    second = math.log(3)
    assert float(contrastive(chosen, rejected)) == pytest.approx((first + second) / 2, abs=1e-5)


def test_contrastive_does_not_overflow():
    chosen = torch.randn(4, 8) * 1e4
    assert torch.isfinite(contrastive(chosen, -chosen, temperature=1e-4))


def test_contrastive_needs_another_chosen():
    with pytest.raises(ValueError, match="two pairs"):
        contrastive(torch.ones(1, 4), torch.ones(1, 4))


def test_uncertainty_weights_are_not_renormalised():
    # Members' margins (1, 1) and (-1, 3): variances 0 and 4, weights 1 and 1/5.
    chosen, rejected = torch.tensor([[1.0, 1.0], [-1.0, 3.0]]), torch.zeros(2, 2)
    assert certainty(chosen - rejected).tolist() == pytest.approx([1.0, 0.2])
    batch = _batch([(0, 2), (1, 3)], [1.0, 1.0], members=2)
    rewards = torch.cat([chosen, rejected])
    loss = objective(rewards, rewards, batch, uncertainty=True)
    l1, lm1, l3 = 0.3132617, 1.3132617, 0.0485874
    member_one, member_two = (1.0 * l1 + 0.2 * lm1) / 2, (1.0 * l1 + 0.2 * l3) / 2
    assert float(loss) == pytest.approx((member_one + member_two) / 2, abs=1e-6)


def test_a_prompt_with_six_comparisons_has_the_weight_of_one_with_one():
    # Prompt one: four responses ranked 3, 2, 1, 0; prompt two: one pair with difference 0.
    rewards = torch.tensor([[3.0], [2.0], [1.0], [0.0], [0.0], [0.0]])
    pairs = [(0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3), (4, 5)]
    batch = _batch(pairs, [1 / 6] * 6 + [1.0])
    by_difference = {d: math.log1p(math.exp(-d)) for d in (1, 2, 3)}
    first = (3 * by_difference[1] + 2 * by_difference[2] + by_difference[3]) / 6
    assert float(objective(rewards, rewards, batch)) == pytest.approx((first + math.log(2)) / 2, abs=1e-6)


def test_the_terms_add_up():
    rewards = torch.tensor([[1.0], [0.5], [0.0], [0.25]])
    states = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 0.0]])
    batch = _batch([(0, 2), (1, 3)], [1.0, 1.0]) | {"margins": torch.tensor([0.5, 0.0])}
    preference = (math.log1p(math.exp(-0.5)) + math.log1p(math.exp(-0.25))) / 2
    penalty = 0.01 * (1.0**2 + 0.75**2) / 2
    # Anchor x: other chosen 0, rejected 10 and 10. Anchor y: all three 0.
    contrast = (math.log(1 + 2 * math.exp(10)) + math.log(3)) / 2
    loss = objective(rewards, states, batch, centre=0.01, contrast=0.5)
    assert float(loss) == pytest.approx(preference + penalty + 0.5 * contrast, abs=1e-5)


def _batch(pairs, weights, members=1):
    return {
        "comparisons": torch.tensor(pairs),
        "weights": torch.tensor(weights)[:, None].expand(-1, members),
        "margins": torch.zeros(len(pairs)),
    }
