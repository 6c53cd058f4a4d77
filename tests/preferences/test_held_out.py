"""Numbers of held-out answers, against values worked out by hand and drawn where the truth is known."""

from __future__ import annotations

import math

import numpy as np
import pytest

from judges.preferences.held_out import (
    Answer,
    distinct_bigrams,
    estimate_mean,
    length_controlled_gain,
    mean_length,
    mean_score,
    score_gain,
    win_rate,
)


def answers(**scores):
    """Each prompt's scores; the texts are as long as their place."""
    return {name: tuple(Answer("x" * (i + 1), score) for i, score in enumerate(some)) for name, some in scores.items()}


def test_a_prompt_counts_once_however_many_of_its_answers_have_a_score():
    found = mean_score(answers(a=[1.0, 3.0], b=[5.0, None], c=[None, None]))
    assert found.value == pytest.approx((2.0 + 5.0) / 2) and found.prompts == 2


def test_a_gain_is_paired_by_prompt_and_leaves_out_what_only_one_side_has():
    after, before = answers(a=[4.0], b=[2.0], c=[9.0], d=[None]), answers(a=[1.0], b=[2.0], d=[5.0])
    found = score_gain(after, before)
    assert found.value == pytest.approx(1.5) and found.prompts == 2


def test_five_equal_gains_have_the_p_of_a_sign_flip_test():
    """All five up: of the 32 ways to flip signs two are as far out."""
    after = {str(i): (Answer("x", 1.0 + i),) for i in range(5)}
    before = {str(i): (Answer("x", 0.0),) for i in range(5)}
    assert score_gain(after, before).p == pytest.approx(2 / 32)


def test_no_difference_at_all_is_no_evidence():
    same = answers(a=[1.0], b=[2.0])
    found = score_gain(same, same)
    assert (found.value, found.low, found.high, found.p) == (0.0, 0.0, 0.0, 1.0)


def test_wins_count_ties_half_and_pass_over_what_has_no_score():
    after, before = answers(a=[2.0, 1.0], b=[3.0, None]), answers(a=[1.0], b=[4.0])
    assert win_rate(after, before).value == pytest.approx((0.75 + 0.0) / 2)
    assert win_rate(after, answers(z=[1.0])) is None


def test_a_gain_that_is_all_length_is_none_at_equal_length_and_one_that_is_not_stays():
    rng = np.random.default_rng(1)
    longer = rng.uniform(1.2, 3.0, 200)
    before = {str(i): (Answer("x" * 99, 0.0),) for i in range(200)}

    def after(real: float):
        noise = rng.normal(0, 0.1, 200)
        return {
            str(i): (Answer("x" * round(100 * r - 1), 2.0 * math.log(r) + real + n),)
            for i, (r, n) in enumerate(zip(longer, noise, strict=True))
        }

    by_length, real = length_controlled_gain(after(0.0), before), length_controlled_gain(after(0.5), before)
    assert score_gain(after(0.0), before).low > 0.5
    assert by_length.low < 0 < by_length.high
    assert real.low < 0.5 < real.high and real.p < 0.001


def test_equal_lengths_everywhere_leave_nothing_to_correct():
    assert length_controlled_gain(answers(a=[1.0], b=[2.0], c=[3.0]), answers(a=[0.0], b=[0.0], c=[0.0])) is None


def test_length_and_diversity_by_hand():
    some = {"a": (Answer("one two one two", 1.0), Answer("", None)), "b": (Answer("one two", 1.0),)}
    assert mean_length(some).value == pytest.approx((15 / 2 + 7) / 2)
    assert distinct_bigrams(some) == pytest.approx(2 / 4)  # (one, two) three times, (two, one) once
    assert distinct_bigrams({"a": (Answer("word", 1.0),)}) is None


def test_the_interval_holds_the_truth_about_19_times_in_20():
    rng = np.random.default_rng(0)
    inside = sum(
        one.low <= 1.0 <= one.high for one in (estimate_mean(rng.normal(1, 2, 60).tolist()) for _ in range(200))
    )
    assert 178 <= inside <= 199  # 190 expected; four deviations of a binomial


def test_one_value_or_none():
    assert estimate_mean([]) is None
    assert estimate_mean([2.0]).low == 2.0
