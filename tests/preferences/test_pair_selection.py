"""Which candidates make a pair: cases worked out by hand, and what must hold of any candidates."""

from __future__ import annotations

import math
from collections import Counter
from itertools import combinations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from judges.preferences.pair_selection import (
    DROP_REASONS,
    STRATEGIES,
    Pair,
    SelectionRule,
    select_pairs,
    vote_agreement,
)
from judges.preferences.scored_candidates import Candidate
from judges.types import Failure

BROKEN = Failure("missing", "no verdict")


def of(*scores):
    """Candidates of unlike texts of one length."""
    return [Candidate(f"text {place}", score) for place, score in enumerate(scores)]


def sides(candidates, key="", **rule):
    return [(pair.chosen, pair.rejected) for pair in select_pairs(candidates, SelectionRule(**rule), key).pairs]


# -- by hand --------------------------------------------------------------------------------------------------


def test_the_highest_stands_against_the_lowest_and_the_margin_is_their_difference():
    assert select_pairs(of(3.0, 5.0, 1.0, 4.0)).pairs == (Pair(1, 2, 4.0),)
    assert select_pairs(of(-3.0, -1.0)).pairs == (Pair(1, 0, 2.0),)


def test_of_several_highest_the_earliest_is_chosen_and_the_choice_is_the_same_again():
    tied = of(5.0, 1.0, 5.0, 1.0)
    assert sides(tied) == [(0, 3)] and select_pairs(tied) == select_pairs(tied)
    assert sides(of(1.0, 2.0, 2.0, 2.0)) == [(1, 0)]


@pytest.mark.parametrize(
    ("candidates", "rule", "why"),
    [
        (of(), {}, "single"),
        (of(3.0), {}, "single"),
        (of(3.0, 3.0, 3.0), {}, "level"),
        (of(3.0, BROKEN), {}, "failed"),
        (of(BROKEN, BROKEN), {}, "failed"),
        ([Candidate("a", 1.0), Candidate(" \n", 5.0)], {}, "empty"),
        ([Candidate("a", 1.0), Candidate("", BROKEN)], {}, "empty"),
        ([Candidate("a b", 1.0), Candidate(" a \n b", 5.0)], {}, "same"),
        ([Candidate("a", 1.0), Candidate("a", 2.0), Candidate("a", 3.0), Candidate("b", BROKEN)], {}, "same"),
        ([Candidate("a", 1.0), Candidate("a", 2.0), Candidate("c", BROKEN), Candidate("b", BROKEN)], {}, "failed"),
        (of(1.0, 2.0), {"margin": 1.001}, "margin"),
        ([Candidate("a", 4.0, (4.0,)), Candidate("b", 3.0, (3.0, 5.0))], {"agreement": 0.6}, "agreement"),
    ],
)
def test_what_gives_no_pair_says_why(candidates, rule, why):
    found = select_pairs(candidates, SelectionRule(**rule))
    assert found.pairs == () and found.drop == why and why in DROP_REASONS
    if why not in ("margin", "agreement"):
        assert {select_pairs(candidates, SelectionRule(strategy=s, **rule)).drop for s in STRATEGIES} == {why}


def test_failed_empty_and_repeated_candidates_are_passed_over_and_the_others_make_the_pair():
    candidates = [
        Candidate("high", BROKEN),
        Candidate("", 9.0),
        Candidate("good  one", 4.0),
        Candidate("good one", 9.0),  # said before, whatever it got
        Candidate("bad", 2.0),
        Candidate("\t", -9.0),
    ]
    assert sides(candidates) == [(2, 4)] and sides(candidates, strategy="all") == [(2, 4)]
    # One that failed does not stand for its text.
    assert sides([Candidate("a", BROKEN), Candidate("a", 2.0), Candidate("b", 1.0)]) == [(1, 2)]


@pytest.mark.parametrize(
    ("high", "low", "margin", "kept"),
    [
        (4.0, 3.0, 1.0, True),
        (4.0, 3.0, math.nextafter(1.0, 0), True),
        (4.0, 3.0, 1.01, False),
        (0.7, 0.4, 0.3, True),  # 0.29999999999999993 for a computer
        (4.6, 4.4, 0.2, True),  # 0.1999999999999993
        (13 / 3, 4.0, 1 / 3, True),
        (0.7, 0.4, 0.3001, False),
        (4.0, 4.0 - 1e-6, 0.0, True),
    ],
)
def test_a_difference_of_just_the_margin_is_enough(high, low, margin, kept):
    assert bool(select_pairs(of(low, high), SelectionRule(margin=margin)).pairs) is kept


def test_length_control_takes_the_shortest_within_a_share_of_the_range():
    candidates = [Candidate("long " * 9, 5.0), Candidate("short", 4.8), Candidate("worst of all", 1.0)]
    assert sides(candidates) == [(0, 2)]
    assert select_pairs(candidates, SelectionRule(tolerance=0.1)).pairs == (
        Pair(1, 2, pytest.approx(3.8)),
    )  # down to 4.6
    assert sides(candidates, tolerance=0.05) == [(1, 2)]  # down to 4.8 itself
    assert sides(candidates, tolerance=0.049) == [(0, 2)]
    assert sides(candidates, tolerance=0.1, strategy="best-random") == [(1, 2)]


def test_length_control_never_takes_the_lowest_and_of_one_length_the_highest():
    short_and_bad = [Candidate("long " * 9, 5.0), Candidate("middle", 4.0), Candidate("x", 1.0)]
    assert sides(short_and_bad, tolerance=0.99) == [(1, 2)]
    nearly = math.nextafter(1.0, 0)
    assert sides([Candidate("long", 5.0), Candidate("x", 1.0)], tolerance=nearly) == [(0, 1)]
    huge = [Candidate("long", 1e308), Candidate("middle", 0.0), Candidate("x", -1e308)]  # their range is no number
    assert sides(huge) == [(0, 2)] and sides(huge, tolerance=0.5) == [(0, 2)]
    assert sides(of(4.9, 5.0, 1.0), tolerance=0.5) == [(1, 2)]


def test_one_that_is_within_the_tolerance_is_not_rejected_by_a_shorter_one_below_it():
    # The shortest, 4.0, is the best now: only what is below it can be rejected.
    candidates = [Candidate("a long one", 5.0), Candidate("b", 4.0), Candidate("c c c", 3.0), Candidate("ddd", 1.0)]
    assert sides(candidates, tolerance=0.25) == [(1, 3)]
    drawn = {sides(candidates, key=str(n), tolerance=0.25, strategy="best-random")[0] for n in range(64)}
    assert drawn == {(1, 2), (1, 3)}


def test_agreement_of_votes_by_hand():
    def share(above, below):
        return vote_agreement(Candidate("a", 1.0, above), Candidate("b", 0.0, below))

    assert share((4.0, 4.0), (3.0, 4.0)) == 0.75  # above, level, above, level
    assert share((5.0, 1.0, 3.0), (2.0, 3.0)) == (2 + 0 + 1.5) / 6
    assert share((1.0,), (2.0,)) == 0 and share((2.0,), (1.0,)) == 1 and share((1.0,), (1.0,)) == 0.5
    assert share((5.0, BROKEN), (BROKEN, 1.0, 5.0)) == 0.75  # votes that failed say nothing
    assert share((), (1.0,)) == share((1.0,), ()) == share((BROKEN,), (1.0,)) == 1


def test_agreement_of_just_the_share_is_enough():
    candidates = [Candidate("a", 4.0, (4.0, 4.0)), Candidate("b", 3.5, (3.0, 4.0))]
    assert sides(candidates, agreement=0.75) == [(0, 1)]
    assert select_pairs(candidates, SelectionRule(agreement=0.751)).drop == "agreement"


def test_all_is_every_two_of_different_scores_widest_first():
    assert sides(of(3.0, 5.0, 1.0, 3.0), strategy="all") == [(1, 2), (0, 2), (1, 0), (1, 3), (3, 2)]
    assert sides(of(3.0, 5.0, 1.0, 3.0), strategy="all", margin=3.0) == [(1, 2)]
    agreed = [Candidate("a", 3.0, (3.0,)), Candidate("b", 2.0, (4.0,)), Candidate("c", 1.0, (1.0,))]
    assert sides(agreed, strategy="all", agreement=0.5) == [(0, 2), (1, 2)]


def test_top_k_by_hand_and_at_its_ends():
    five = of(1.0, 2.0, 3.0, 4.0, 5.0)
    assert sides(five, strategy="top-k", k=2) == [(4, 0), (3, 0), (4, 1), (3, 1)]
    # The third is one of the three highest and of the three lowest; it is never against itself.
    assert set(sides(five, strategy="top-k", k=3)) == {(a, b) for a in (4, 3, 2) for b in (0, 1, 2) if a > b}
    for scores in ((3.0, 5.0, 1.0), (2.0, 2.0, 1.0, 1.0), (1.0, 2.0)):
        assert sides(of(*scores), strategy="top-k", k=1) == sides(of(*scores))
        for k in (len(scores), 99):
            assert sides(of(*scores), strategy="top-k", k=k) == sides(of(*scores), strategy="all")


def test_best_random_is_the_same_for_one_seed_and_id_and_each_lower_one_is_drawn_as_often():
    five = of(5.0, 1.0, 2.0, 3.0, 4.0)

    def draws(seed):
        return [sides(five, key=f"prompt {n}", strategy="best-random", seed=seed)[0] for n in range(2000)]

    found = draws(0)
    assert found == draws(0) and found != draws(1)
    assert {chosen for chosen, _ in found} == {0}
    counts = Counter(rejected for _, rejected in found)
    # 500 each, and a standard deviation of 19.
    assert counts.keys() == {1, 2, 3, 4} and all(abs(count - 500) < 100 for count in counts.values())
    assert sides(five, key="\ud83d", strategy="best-random") == sides(five, key="\ud83d", strategy="best-random")


def test_best_random_draws_among_those_that_the_margin_and_the_votes_allow():
    candidates = [
        Candidate("best", 5.0, (5.0,)),
        Candidate("near", 4.5, (1.0,)),
        Candidate("far", 2.0, (2.0,)),
        Candidate("unsure", 1.0, (5.0,)),
    ]
    for n in range(32):
        asked = {"key": str(n), "strategy": "best-random"}
        assert sides(candidates, margin=3.5, **asked) == [(0, 3)]
        assert sides(candidates, margin=1.0, agreement=0.9, **asked) == [(0, 2)]
    assert select_pairs(candidates, SelectionRule("best-random", margin=4.5)).drop == "margin"


@pytest.mark.parametrize(
    ("rule", "says"),
    [
        ({"strategy": "worst"}, "unknown strategy 'worst'; there are best-worst, best-random, all, top-k"),
        ({"k": 0}, "k must be at least 1"),
        ({"margin": -0.1}, "margin must be at least 0"),
        ({"margin": math.inf}, "margin must be at least 0"),
        ({"margin": math.nan}, "margin must be at least 0"),
        ({"agreement": 1.1}, "agreement must be from 0 to 1"),
        ({"agreement": math.nan}, "agreement must be from 0 to 1"),
        ({"tolerance": 1.0}, "from 0 to below 1"),
        ({"tolerance": -0.1}, "from 0 to below 1"),
        ({"tolerance": math.nan}, "from 0 to below 1"),
        ({"tolerance": 0.1, "strategy": "all"}, "no effect on the strategy 'all'"),
        ({"tolerance": 0.1, "strategy": "top-k"}, "no effect on the strategy 'top-k'"),
    ],
)
def test_a_rule_that_cannot_be_says_why(rule, says):
    with pytest.raises(ValueError, match=says):
        SelectionRule(**rule)


# -- of any candidates ----------------------------------------------------------------------------------------

few = st.sampled_from([-1.0, 0.0, 0.1, 0.4, 0.7, 1.0, 5.0])
any_score = few | st.floats(allow_nan=False, allow_infinity=False) | st.just(BROKEN)
texts = st.sampled_from(["", " ", "a", " a\n", "b", "b b", "b  b", "long " * 5, "ü", "c", "d"])
votes = st.lists(few | st.just(BROKEN), max_size=3).map(tuple)
some_candidates = st.lists(st.builds(Candidate, texts, any_score, votes), max_size=8)


@st.composite
def rules(draw):
    strategy = draw(st.sampled_from(STRATEGIES))
    share = st.sampled_from([0.0, 0.0, 0.5, 1.0]) | st.floats(0, 1)
    return SelectionRule(
        strategy=strategy,
        k=draw(st.integers(1, 9)),
        margin=draw(st.sampled_from([0.0, 0.0, 0.3, 4.0]) | st.floats(0, 1e6)),
        agreement=draw(share),
        tolerance=draw(share.filter(lambda t: t < 1)) if strategy.startswith("best") else 0.0,
        seed=draw(st.integers(0, 3)),
    )


def words(text):
    return text.split()


@settings(deadline=None, max_examples=200)
@given(some_candidates, rules(), st.text(max_size=3))
def test_of_any_candidates_only_judged_unlike_texts_of_different_scores_are_paired(candidates, rule, key):
    found = select_pairs(candidates, rule, key)
    assert (found.drop is None) == bool(found.pairs) and found == select_pairs(candidates, rule, key)
    for pair in found.pairs:
        chosen, rejected = candidates[pair.chosen], candidates[pair.rejected]
        assert not isinstance(chosen.score, Failure) and not isinstance(rejected.score, Failure)
        assert chosen.score > rejected.score and pair.margin == chosen.score - rejected.score > 0
        assert pair.margin >= rule.margin * (1 - 1e-8)
        assert words(chosen.text) and words(rejected.text) and words(chosen.text) != words(rejected.text)
        assert vote_agreement(chosen, rejected) >= rule.agreement
    assert len({(p.chosen, p.rejected) for p in found.pairs}) == len(found.pairs)
    assert [p.margin for p in found.pairs] == sorted((p.margin for p in found.pairs), reverse=True)
    if rule.strategy.startswith("best"):
        assert len(found.pairs) <= 1


@settings(deadline=None)
@given(some_candidates)
def test_of_any_candidates_the_strategies_agree_on_whether_there_is_a_pair_and_all_holds_the_others(candidates):
    everything = set(sides(candidates, strategy="all"))
    for strategy in STRATEGIES:
        found = select_pairs(candidates, SelectionRule(strategy))
        assert bool(found.pairs) == bool(everything)
        assert {(p.chosen, p.rejected) for p in found.pairs} <= everything
    # Counted another way: of the first of each text that was judged, every two of different scores.
    first: dict[str, float] = {}
    for one in candidates:
        if one.text.split() and not isinstance(one.score, Failure):
            first.setdefault(" ".join(one.text.split()), one.score)
    assert len(everything) == sum(a != b for a, b in combinations(first.values(), 2))


@settings(deadline=None)
@given(some_candidates, rules())
def test_a_drop_is_told_by_the_first_thing_that_is_wrong(candidates, rule):
    drop = select_pairs(candidates, rule).drop
    usable = [c for c in candidates if c.text.split() and not isinstance(c.score, Failure)]
    unlike = {" ".join(c.text.split()) for c in usable}
    if drop == "single":
        assert len(candidates) == len(unlike) < 2
    elif drop in ("failed", "empty", "same"):
        assert len(candidates) > len(unlike) < 2
    else:
        assert len(unlike) > 1
