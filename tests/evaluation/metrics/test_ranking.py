import math

import numpy as np
import pytest
from scipy.optimize import minimize

from judges import Failure, Item, Judgment, Scorecard
from judges.evaluation.metrics.ranking import games_of, ranked, ranking_numbers
from judges.types import Gold


def game(name, first, second, outcome, prompt=None):
    """An Item of two models' responses; `outcome` is the humans' a, b or tie."""
    gold = Gold(tie=True) if outcome == "tie" else Gold(chosen=("ab".index(outcome),))
    meta = {"authors": [first, second]}
    return Item(id=str(name), prompt=prompt or f"about {name}", responses=["x", "y"], gold=gold, meta=meta)


def games(*told):
    """`(first, second, outcome, times)` as Items."""
    flat = [(a, b, outcome) for a, b, outcome, times in told for _ in range(times)]
    return [game(i, *one) for i, one in enumerate(flat)]


def card(name, *scores):
    failed = Judgment(failure=Failure("missing", "x"))
    return Scorecard(str(name), tuple(failed if s is None else Judgment(score=s) for s in scores))


def by_likelihood(told, models):
    """The second way: the log-likelihood's maximum found by a general optimiser, mean 0."""

    def loss(s):
        total = 0.0
        for a, b, outcome, times in told:
            worth = {"a": 1.0, "b": 0.0, "tie": 0.5}[outcome]
            gap = s[models.index(a)] - s[models.index(b)]
            total += times * (worth * np.logaddexp(0, -gap) + (1 - worth) * np.logaddexp(0, gap))
        return total + s.mean() ** 2

    found = minimize(loss, np.zeros(len(models)), tol=1e-12).x
    return dict(zip(models, found - found.mean(), strict=True))


CIRCLE = [("x", "y", "a", 30), ("x", "y", "b", 10), ("y", "z", "a", 12), ("z", "y", "a", 9), ("z", "x", "tie", 7)]


def test_two_models_differ_by_the_log_odds_of_their_wins():
    found = ranked(games(("x", "y", "a", 30), ("y", "x", "a", 10)), draws=50)
    assert [r.model for r in found] == ["x", "y"]
    assert found[0].strength - found[1].strength == pytest.approx(math.log(3))
    assert (found[0].games, found[0].wins, found[0].ties) == (40, 30, 0) and found[1].wins == 10


def test_a_tie_is_half_a_win():
    found = ranked(games(("x", "y", "a", 2), ("x", "y", "tie", 2)), draws=20)
    assert found[0].strength - found[1].strength == pytest.approx(math.log(3))
    assert found[0].ties == found[1].ties == 2


def test_strengths_are_where_the_likelihood_is_highest():
    expected = by_likelihood(CIRCLE, ["x", "y", "z"])
    for row in ranked(games(*CIRCLE), draws=20):
        assert row.strength == pytest.approx(expected[row.model], abs=1e-4)
        assert row.low < row.strength < row.high


def test_many_models_far_apart_are_fitted_to_the_end():
    told = [(str(i), str(i + 1), side, times) for i in range(8) for side, times in (("a", 60), ("b", 1))]
    expected = by_likelihood(told, [str(i) for i in range(9)])
    found = {r.model: r.strength for r in ranked(games(*told), draws=0)}
    assert found == pytest.approx(expected, abs=1e-3)
    assert found["0"] - found["8"] == pytest.approx(8 * math.log(60), abs=1e-3)


def test_all_ties_leave_all_models_equal():
    found = ranked(games(("x", "y", "tie", 5), ("y", "z", "tie", 5)), draws=20)
    assert [r.strength for r in found] == pytest.approx([0, 0, 0])
    assert [r.elo for r in found] == pytest.approx([1000] * 3)


def test_elo_of_one_game_by_hand():
    # Both at 1000 expect a half; a win moves 4 · ½ points.
    found = {r.model: r.elo for r in ranked(games(("x", "y", "a", 1)))}
    assert found == {"x": 1002, "y": 998}


def test_elo_keeps_its_sum_and_the_better_model_above():
    found = {r.model: r.elo for r in ranked(games(*CIRCLE), draws=0)}
    assert sum(found.values()) == pytest.approx(3000) and found["x"] > found["y"]


def test_a_model_that_never_lost_has_no_finite_strength_and_the_others_keep_theirs():
    told = [("x", "y", "a", 6), ("x", "y", "b", 3), ("best", "x", "a", 4), ("worst", "y", "b", 4), ("u", "v", "a", 1)]
    found = {r.model: r for r in ranked(games(*told), draws=20)}
    assert found["x"].strength - found["y"].strength == pytest.approx(math.log(2))
    assert found["best"].strength is None and "won every game" in found["best"].note
    assert found["worst"].strength is None and "lost every game" in found["worst"].note
    assert found["u"].strength is None and "no game" in found["u"].note
    assert [r.strength is None for r in ranked(games(*told), draws=5)] == [False, False, True, True, True, True]


def test_one_sided_games_rank_nobody_by_strength():
    found = ranked(games(("x", "y", "a", 10)))
    assert [(r.model, r.strength, r.low) for r in found] == [("x", None, None), ("y", None, None)]
    assert all("no finite difference" in r.note for r in found) and found[0].wins == 10


def test_draws_without_a_fit_give_no_interval():
    # One game in ten holds the two together: about a third of the draws miss it.
    found = ranked(games(("x", "y", "a", 9), ("x", "y", "b", 1)), draws=200)
    assert found[0].strength == pytest.approx(math.log(9) / 2)
    assert found[0].low is None and "do not connect" in found[0].note


def test_games_of_one_prompt_are_drawn_together():
    told = [("x", "y", "ab"[i % 3 == 0]) for i in range(120)]
    alone = [game(i, *one) for i, one in enumerate(told)]
    outcomes = sorted(told, key=lambda one: one[2])
    together = [game(i, *one, prompt=f"p{i // 4}") for i, one in enumerate(outcomes)]
    narrow, wide = ranked(alone, draws=300)[0], ranked(together, draws=300)[0]
    assert narrow.strength == pytest.approx(wide.strength)
    assert wide.high - wide.low > 1.5 * (narrow.high - narrow.low)


def test_the_interval_is_that_of_the_log_odds():
    # With two models the strength is half the log-odds; its standard error is known.
    found = ranked(games(("x", "y", "a", 260), ("x", "y", "b", 140)), draws=1000)[0]
    half = 1.96 * math.sqrt(1 / 260 + 1 / 140) / 2
    assert (found.low, found.high) == pytest.approx((found.strength - half, found.strength + half), abs=0.03)


def test_a_scorers_verdict_is_its_higher_score_and_a_failure_is_no_game():
    items = games(("x", "y", "a", 4))
    cards = {"0": card(0, 1, 2), "1": card(1, 2, 1), "2": card(2, 1, 1), "3": card(3, None, 1)}
    found = games_of(items, cards)
    assert found.outcome.tolist() == [-1, 1, 0]
    assert {r.model: (r.games, r.wins, r.ties) for r in ranked(items, cards, draws=5)} == {
        "x": (3, 1, 1),
        "y": (3, 1, 1),
    }


def test_which_pairs_are_games():
    meta = {"authors": ["x", "y", "x", None]}
    four = {"id": "1", "prompt": "q", "responses": list("abcd"), "meta": meta}
    told = lambda gold, **more: games_of([Item(**four, gold=gold, **more)]).outcome.tolist()  # noqa: E731
    # x meets y twice; x does not meet itself, nobody meets the nameless; of two not chosen none won.
    assert told(Gold(chosen=(0,))) == [1]
    assert told(Gold(scores=(3, 2, 1, 9))) == [1, 1]  # y above the second x: y is first there
    assert told(Gold(ranking=(1, 2, 2, 4))) == [1, 0]
    assert told(Gold(scores=(3, 2, 1, 9)), comparisons=[(2, 1)]) == [-1]


def test_items_without_authors_rank_nobody():
    plain = Item(id="p", prompt="q", responses=["x", "y"], gold=Gold(chosen=(0,)))
    assert ranked([plain]) == () == ranked([]) and ranking_numbers([plain], {"p": card("p", 1, 2)}) == ()


def three(seed, agreeing):
    """Games of three models and a scorer that sees what humans see, or the reverse."""
    generator = np.random.default_rng(seed)
    strength = {"x": 1.5, "y": 0.0, "z": -1.5}
    items, cards = [], {}
    for i in range(300):
        a, b = generator.permutation(list(strength))[:2]
        won = generator.random() < 1 / (1 + math.exp(strength[b] - strength[a]))
        items.append(game(i, str(a), str(b), "a" if won else "b"))
        cards[str(i)] = card(i, *((1, 0) if won == agreeing else (0, 1)))
    return items, cards


@pytest.mark.parametrize(("agreeing", "value"), [(True, 1.0), (False, -1.0)])
def test_a_scorer_that_judges_as_humans_do_ranks_as_they_do(agreeing, value):
    items, cards = three(1, agreeing)
    tau, rho = ranking_numbers(items, cards, draws=40)
    assert tau.value == pytest.approx(value) and rho.value == pytest.approx(value)
    assert (tau.low, tau.high) == pytest.approx((value, value)) and tau.rows == 3


def test_two_models_have_no_correlation_of_rankings():
    items = games(("x", "y", "a", 3), ("x", "y", "b", 2))
    numbers = ranking_numbers(items, {item.id: card(item.id, 1, 1) for item in items})
    assert [n.value for n in numbers] == [None, None] and all("needs three" in n.note for n in numbers)
