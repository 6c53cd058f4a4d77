import math
from itertools import combinations, permutations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from judges.scorers.tournament import PairOutcome, SwissTournament, aggregate_comparisons, rank_centrality
from judges.types import Comparison, Failure

LATE = Failure("timeout", "too slow")


def play(players, rounds, outcome, seed=0):
    """The pairs of each round of a tournament."""
    swiss, played = SwissTournament(players, seed), []
    for _ in range(rounds):
        played.append(swiss.next_round())
        for pair in played[-1]:
            swiss.record(pair, outcome(pair))
    return played


def better(strength):
    return lambda pair: "first" if strength[pair[0]] > strength[pair[1]] else "second"


outcomes = st.sampled_from(["first", "second", "tie", LATE])


@settings(max_examples=150, deadline=None)
@given(st.data(), st.integers(2, 13), st.integers(0, 5))
def test_no_pair_plays_twice_and_everyone_plays_each_round_but_one_with_a_bye(data, k, seed):
    rounds = data.draw(st.integers(1, (k + 1) // 2))
    played = play(range(k), rounds, lambda pair: data.draw(outcomes), seed)
    pairs = [pair for round_ in played for pair in round_]
    assert len(pairs) == len(set(pairs)) == rounds * (k // 2)
    assert all(i < j for i, j in pairs)
    met = [sum(i in pair for pair in pairs) for i in range(k)]
    assert set(met) <= ({rounds} if k % 2 == 0 else {rounds, rounds - 1})


@settings(max_examples=50, deadline=None)
@given(st.data(), st.integers(2, 9))
def test_all_pairs_are_played_once_in_enough_rounds(data, k):
    swiss, pairs = SwissTournament(range(k), 0), []
    for _ in range(k * k):
        round_ = swiss.next_round()
        assert len({i for pair in round_ for i in pair}) == 2 * len(round_)
        for pair in round_:
            swiss.record(pair, data.draw(outcomes))
        pairs += round_
    assert len(pairs) == len(set(pairs)) and swiss.next_round() == []
    assert len(pairs) == k * (k - 1) // 2


def alone_at_the_top(played, strength):
    """Whether the strongest, and nobody else, has won all of its matches and had one."""
    pairs = [pair for round_ in played for pair in round_]
    lost = {min(pair, key=strength.__getitem__) for pair in pairs}
    best = max(range(len(strength)), key=strength.__getitem__)
    return {i for i in range(len(strength)) if i not in lost} == {best} and any(best in pair for pair in pairs)


@pytest.mark.parametrize("k", range(2, 7))
def test_the_best_alone_wins_in_log2_rounds_whatever_the_order(k):
    rounds = math.ceil(math.log2(k))
    for strength in permutations(range(k)):
        assert alone_at_the_top(play(range(k), rounds, better(strength)), strength)


@settings(max_examples=60, deadline=None)
@given(st.data(), st.integers(7, 40))
def test_the_best_alone_wins_in_log2_rounds_among_many(data, k):
    strength = data.draw(st.permutations(range(k)))
    played = play(range(k), math.ceil(math.log2(k)), better(strength), data.draw(st.integers(0, 9)))
    assert alone_at_the_top(played, strength)


def test_winners_play_winners_and_losers_losers():
    first, second = play(range(8), 2, lambda pair: "first")
    winners = {i for i, _ in first}
    assert all((i in winners) == (j in winners) for i, j in second)


@pytest.mark.parametrize("seed", range(6))
def test_a_tie_ranks_between_a_win_and_a_loss(seed):
    tied = []

    def two_ties(pair):
        tied.extend(pair if len(tied) < 4 else ())
        return "tie" if pair[0] in tied else "first"

    first, second = play(range(8), 2, two_ties, seed)
    losers = {j for i, j in first if i not in tied}
    assert all((i in tied) == (j in tied) and (i in losers) == (j in losers) for i, j in second)


def test_the_same_seed_makes_the_same_pairs_and_another_makes_others():
    runs = [play(range(10), 4, better(range(10)), seed) for seed in (1, 1, 2)]
    assert runs[0] == runs[1] != runs[2]


def test_players_keep_their_own_numbers():
    played = play([3, 5, 9], 3, lambda pair: "tie")
    assert sorted(pair for round_ in played for pair in round_) == [(3, 5), (3, 9), (5, 9)]


def test_fewer_than_two_players_have_no_pair():
    assert SwissTournament([], 0).next_round() == [] and SwissTournament([4], 0).next_round() == []


def comparison(outcome, probability=None, swapped=False):
    points = {"first": 1.0, "second": 0.0, "tie": 0.5}
    value = outcome if isinstance(outcome, Failure) else points[outcome] if probability is None else probability
    return Comparison(0, 1, outcome, swapped), value


@pytest.mark.parametrize(
    "given_order, swapped, outcome, probability",
    [
        (["first"], ["first"], "first", 1),
        (["second"], ["second"], "second", 0),
        (["first"], ["second"], "tie", 0.5),  # the position decided
        (["first"], ["tie"], "tie", 0.75),
        (["tie"], ["tie"], "tie", 0.5),
        (["first"], [], "first", 1),  # one order only
        (["first", "first", "second"], ["first", "tie", "tie"], "first", (2 / 3 + 2 / 3) / 2),
        (["first", "second"], ["first", "first"], "tie", 0.75),
        (["first", LATE, LATE], ["first", LATE, "second", "first"], "first", (1 + 2 / 3) / 2),
    ],
)
def test_two_orders_settle_a_pair_by_hand(given_order, swapped, outcome, probability):
    comparisons = [comparison(o) for o in given_order] + [comparison(o, swapped=True) for o in swapped]
    aggregate = aggregate_comparisons(comparisons)
    assert aggregate.outcome == outcome and aggregate.probability == pytest.approx(probability)


def test_a_failed_order_leaves_the_pair_undecided_with_its_failure():
    assert aggregate_comparisons([comparison("first"), comparison(LATE, swapped=True)]) == LATE
    assert aggregate_comparisons([comparison(LATE), comparison("first", swapped=True)], "likelier") == LATE


def test_ties_likelier_breaks_ties_by_the_mean_probability_only():
    def of(a, b):
        return aggregate_comparisons([comparison(*a), comparison(*b, swapped=True)], "likelier").outcome

    assert of(("first", 0.9), ("second", 0.3)) == "first"
    assert of(("first", 0.6), ("second", 0.2)) == "second"
    assert of(("first", 0.6), ("second", 0.4)) == "tie"
    assert (0.6 + 0.3 + 0.1) / 2 < 0.5 and of(("first", 0.6 + 0.3), ("second", 0.1)) == "tie"  # by rounding alone
    assert of(("tie", 0.45), ("tie", 0.45)) == "second"
    # Both orders have "first", though with a likely "tie" the mean probability is below one half.
    assert of(("first", 0.48), ("first", 0.48)) == "first"


def test_no_comparisons_are_an_error():
    with pytest.raises(ValueError, match="without comparisons"):
        aggregate_comparisons([])


@given(st.floats(0, 1))
def test_for_two_responses_it_is_the_probability_itself(chance):
    assert rank_centrality(2, {(0, 1): chance}) == pytest.approx((chance, 1 - chance), abs=1e-9)


@settings(max_examples=50, deadline=None)
@given(st.data(), st.integers(3, 7))
def test_chances_of_a_bradley_terry_model_give_its_strengths_whichever_pairs_were_compared(data, k):
    strength = data.draw(st.lists(st.floats(0.05, 5), min_size=k, max_size=k))
    extra = data.draw(st.sets(st.sampled_from(list(combinations(range(k), 2)))))
    pairs = {(i, i + 1) for i in range(k - 1)} | extra  # a chain links all
    chances = {(i, j): strength[i] / (strength[i] + strength[j]) for i, j in pairs}
    assert rank_centrality(k, chances) == pytest.approx([s / sum(strength) for s in strength], abs=1e-6)


@settings(max_examples=50, deadline=None)
@given(st.data(), st.integers(2, 7))
def test_a_response_that_beats_all_others_has_probability_one(data, k):
    winner = data.draw(st.integers(0, k - 1))
    chances = {(i, j): data.draw(st.sampled_from([0.0, 0.3, 0.5, 1.0])) for i, j in combinations(range(k), 2)}
    chances |= {(i, j): float(i == winner) for i, j in chances if winner in (i, j)}
    best = rank_centrality(k, chances)
    assert best[winner] == pytest.approx(1) and sum(best) == pytest.approx(1)


def test_a_circle_and_ties_only_share_equally():
    third = pytest.approx((1 / 3, 1 / 3, 1 / 3))
    assert rank_centrality(3, {(0, 1): 1, (1, 2): 1, (0, 2): 0}) == third
    assert rank_centrality(3, {(0, 1): 0.5, (1, 2): 0.5, (0, 2): 0.5}) == third


def test_two_unbeaten_responses_share_the_preference():
    # 2 lost to 0 and to 1, which did not meet: from 2 the walk ends at either alike.
    assert rank_centrality(3, {(0, 2): 1.0, (1, 2): 1.0}) == pytest.approx((0.5, 0.5, 0))


def test_responses_that_are_not_connected_have_no_preference():
    assert rank_centrality(4, {(0, 1): 1.0, (2, 3): 1.0}) is None
    assert rank_centrality(3, {(0, 1): 1.0}) is None and rank_centrality(2, {}) is None


def test_settled_is_what_settle_gives():
    assert aggregate_comparisons([comparison("first", 0.8)]) == PairOutcome("first", 0.8)
