import itertools
import math

import pytest
from fakes import FakeEngine, FixedScorer
from hypothesis import given
from hypothesis import strategies as st

from judges import Item, load_scorer
from judges.engines import registry
from judges.errors import CannotRun
from judges.scorer import parse_spec
from judges.scorers.panel import Panel, break_ties, ranks, vote_shares
from judges.types import Failure, Usage

BROKEN = Failure("timeout", "too slow")


def item(k, id="a", **more):
    return Item(id=id, prompt="a question", responses=[f"response {i}" for i in range(k)], **more)


def scores(card):
    return [j.score for j in card.judgments]


def card_of(panel, k):
    (card,) = panel.score([item(k)])
    return card


# -- combining ------------------------------------------------------------------------------------------------


def test_a_score_is_the_share_of_votes_and_ties_split_a_vote():
    card = card_of(
        Panel([FixedScorer(9, 1, 0), FixedScorer(0.1, 0.3, 0.3), FixedScorer(2, 5, 1), FixedScorer(1, 1, 1)]), 3
    )
    assert scores(card) == pytest.approx([(1 + 1 / 3) / 4, (0.5 + 1 + 1 / 3) / 4, (0.5 + 1 / 3) / 4])
    assert card.judgments[0].votes == pytest.approx((1, 0, 0, 1 / 3))
    assert card.preference == pytest.approx(scores(card)) and sum(card.preference) == pytest.approx(1)


def test_equal_shares_are_exactly_equal():
    # 1 + 1/6 for the first against 1/2 + 1/3 + 1/3 for the second: equal, and not in floating point.
    members = [(1, 0, 0, 0, 0, 0, 0), (1, 0, 1, 1, 1, 1, 1), (0, 1, 1, 0, 0, 0, 0), (0, 1, 1, 1, 0, 0, 0)]
    card = card_of(Panel([FixedScorer(*m) for m in [*members, (0, 1, 0, 1, 1, 0, 0)]]), 7)
    assert scores(card)[0] == scores(card)[1] == pytest.approx(7 / 30)
    assert 1 + 1 / 6 != 1 / 2 + 1 / 3 + 1 / 3


def test_a_votes_comparisons_are_the_majority_of_each_pair_also_below_the_best():
    panel = Panel([FixedScorer(3, 2, 1), FixedScorer(3, 2, 1), FixedScorer(1, 2, 3)])
    (card,) = panel.score([item(3, comparisons=[(2, 1), (0, 2)])])
    assert [(c.first, c.second, c.outcome) for c in card.comparisons] == [(2, 1, "second"), (0, 2, "first")]
    assert scores(card)[1] == 0, "nobody's best, yet the majority holds it above response 2"


def test_ranks_are_averaged_and_turned_to_a_score_from_0_to_1():
    # ranks of (10, 30, 20, 20): 4, 1, 2.5, 2.5; of (1, 4, 3, 2): 4, 1, 2, 3
    card = card_of(Panel([FixedScorer(10, 30, 20, 20), FixedScorer(1, 4, 3, 2)], combine="rank"), 4)
    assert scores(card) == pytest.approx([0, 1, (4 - 2.25) / 3, (4 - 2.75) / 3])
    assert card.judgments[2].votes == (2.5, 2)
    assert card.preference == (0, 1, 0, 0) and card.comparisons == ()


def test_z_scores_use_each_members_statistics():
    members = [
        FixedScorer(14, 8, statistics=(10, 2)),
        {"scorer": FixedScorer(0.5, 1.0, statistics=(99, 99)), "mean": 0.5, "deviation": 0.25},
    ]
    card = card_of(Panel(members, combine="z"), 2)
    assert card.judgments[0].votes == (2, 0) and card.judgments[1].votes == (-1, 2)
    assert scores(card) == [1, 0.5]
    assert card.preference[0] == pytest.approx(1 / (1 + math.exp(-0.5)))


def test_z_scores_judge_one_response_too():
    assert scores(
        card_of(Panel([FixedScorer(3, statistics=(1, 1)), FixedScorer(5, statistics=(1, 4))], combine="z"), 1)
    ) == [1.5]


def test_z_without_statistics_cannot_run():
    with pytest.raises(CannotRun, match=r"not known of length; set mean=.*deviation=.*combine=rank"):
        Panel(["random,mean=0.5,deviation=0.3", "length"], combine="z")


@pytest.mark.parametrize("spec", ["length,mean=1,deviation=0", "length,mean=1", "length,mean=x,deviation=1"])
def test_half_or_useless_statistics_cannot_run(spec):
    with pytest.raises(CannotRun, match="above 0"):
        Panel([spec, "random"], combine="rank")


@pytest.mark.parametrize("combine", ["vote", "rank"])
def test_one_response_is_needs_two_and_given_to_no_member(combine):
    members = [FixedScorer(1), FixedScorer(2)]
    judgment = card_of(Panel(members, combine=combine), 1).judgments[0]
    assert judgment.failure.reason == "needs-two"
    assert [m.items for m in members] == [[], []]


# -- ties -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("combine", ["vote", "rank"])
def test_an_even_split_is_a_tie(combine):
    card = card_of(Panel([FixedScorer(1, 2), FixedScorer(2, 1)], combine=combine), 2)
    assert scores(card) == [0.5, 0.5] and card.preference == (0.5, 0.5)
    assert all(c.outcome == "tie" for c in card.comparisons)


@pytest.mark.parametrize("combine", ["vote", "rank"])
@pytest.mark.parametrize(("members", "winner"), [(((1, 2), (2, 1)), 1), (((2, 1), (1, 2)), 0)])
def test_the_first_member_breaks_a_tie_in_score_comparison_and_preference(combine, members, winner):
    card = card_of(Panel([FixedScorer(*m) for m in members], combine=combine, ties="first-member"), 2)
    best, other = scores(card)[winner], scores(card)[1 - winner]
    assert other == 0.5 and 0 < best - other < 1.1e-6
    assert card.preference[winner] > card.preference[1 - winner]
    assert [c.outcome for c in card.comparisons] == (["first", "second"][winner : winner + 1] * (combine == "vote"))


def test_a_failed_or_undecided_first_member_leaves_the_tie_to_the_next():
    members = [FixedScorer(BROKEN, 9), FixedScorer(4, 4), FixedScorer(1, 2), FixedScorer(2, 1)]
    card = card_of(Panel(members, ties="first-member"), 2)
    assert scores(card)[1] > scores(card)[0] == 0.5
    assert card.comparisons[0].outcome == "second"


def test_responses_that_are_tied_for_every_member_stay_tied():
    assert scores(card_of(Panel([FixedScorer(1, 1), FixedScorer(2, 2)], ties="first-member"), 2)) == [0.5, 0.5]


@given(
    st.lists(st.sampled_from([0.0, 0.25, 0.5, 0.5 + 1e-9, 1.0]), min_size=2, max_size=6).flatmap(
        lambda s: st.tuples(
            st.just(s), st.lists(st.lists(st.integers(0, 2), min_size=len(s), max_size=len(s)), min_size=1, max_size=3)
        )
    )
)
def test_a_tie_rule_changes_no_order_between_scores_that_differed(case):
    before, member_scores = case
    after = break_ties(before, member_scores)
    for i, j in itertools.permutations(range(len(before)), 2):
        if before[i] < before[j]:
            assert after[i] < after[j]
        elif before[i] == before[j]:
            first = next((c[i] - c[j] for c in member_scores if c[i] != c[j]), 0)
            assert (after[i] > after[j]) == (first > 0) and (after[i] == after[j]) == (first == 0)


# -- failures -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("combine", "expected"), [("vote", [0, 1]), ("rank", [0, 1])])
def test_a_failed_member_is_reported_and_does_not_vote(combine, expected):
    card = card_of(Panel([FixedScorer(5, BROKEN, name="slow"), FixedScorer(1, 2)], combine=combine), 2)
    assert scores(card) == expected, "the member that failed would have voted the opposite"
    for judgment in card.judgments:
        assert judgment.votes[0].reason == "timeout" and judgment.votes[0].message.startswith("slow: too slow")
    assert card.judgments[0].readings["slow"] == 5 and card.judgments[1].readings["slow"].reason == "timeout"


def test_under_z_a_member_is_left_out_for_its_failed_response_only():
    card = card_of(
        Panel([FixedScorer(4, BROKEN, statistics=(0, 1)), FixedScorer(2, 2, statistics=(0, 1))], combine="z"), 2
    )
    assert scores(card) == [3, 2]


@pytest.mark.parametrize("combine", ["vote", "rank", "z"])
def test_where_all_fail_the_failure_names_all_with_the_first_reason(combine):
    other = Failure("off-scale", "11 of 10")
    members = [
        FixedScorer(1, BROKEN, name="one", statistics=(0, 1)),
        FixedScorer(other, other, name="two", statistics=(0, 1)),
    ]
    card = card_of(Panel(members, combine=combine), 2)
    failure = card.judgments[1].failure
    assert failure.reason == "timeout" and "one: too slow" in failure.message and "two: 11 of 10" in failure.message
    assert card.preference is None
    assert (card.judgments[0].score is None) == (combine != "z")
    assert all(isinstance(c.outcome, Failure) for c in card.comparisons)


def test_fewer_than_the_quorum_is_a_failure():
    members = [FixedScorer(1, 2), FixedScorer(BROKEN, BROKEN), FixedScorer(1, 2)]
    assert scores(card_of(Panel(members, quorum=2), 2)) == [0, 1]
    failure = card_of(Panel(members, quorum=3), 2).judgments[0].failure
    assert failure.reason == "timeout" and "2 of 3 members decided, 3 must" in failure.message


# -- members --------------------------------------------------------------------------------------------------


def test_members_come_as_specs_mappings_scorers_and_from_a_file(tmp_path):
    fixed = FixedScorer(1, 2)
    direct = Panel(["random,seed=3", {"scorer": "random", "seed": 4}, fixed])
    assert [m.label for m in direct.members] == ["random", "random 2", "fixed"]
    assert [m.scorer.identity().get("seed") for m in direct.members] == [3, 4, None]
    file = tmp_path / "panel.yaml"
    file.write_text("- random,seed=3\n- scorer: length\n  mean: 10\n  deviation: 5\n")
    name, given_settings = parse_spec(f"panel,members={file},combine=rank,ties=first-member")
    panel = load_scorer(name, **given_settings)
    assert [m.label for m in panel.members] == ["random", "length"] and panel.members[1].statistics == (10, 5)
    assert panel.combine == "rank" and panel.ties == "first-member"


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"members": ["length"]}, "two scorers or more"),
        ({}, "two scorers or more"),
        ({"members": ["length", 3]}, "not 3"),
        ({"members": ["length", {"model": "x"}]}, "scorer: NAME"),
        ({"members": ["length", "nobody"]}, "unknown scorer 'nobody'"),
        ({"members": ["length", "random,sed=3"]}, "no setting 'sed'"),
        ({"members": ["length", {"scorer": FixedScorer(1), "seed": 3}]}, "built already"),
        ({"members": ["length", "random"], "combine": "mean"}, "vote, rank, z"),
        ({"members": ["length", "random"], "ties": "coin"}, "tie or first-member"),
        ({"members": ["length", "random"], "quorum": 3}, "from 1 to its 2 members"),
        ({"members": "nowhere.yaml"}, "nowhere.yaml"),
    ],
)
def test_a_wrong_panel_cannot_run(wrong, message):
    with pytest.raises(CannotRun, match=message):
        load_scorer("panel", **wrong)


def test_members_built_before_a_wrong_one_are_closed():
    first = FixedScorer(1, 2)
    with pytest.raises(CannotRun):
        Panel([first, "nobody"])
    assert first.closed == 1


def test_a_panel_may_be_a_member_of_a_panel():
    inner = Panel([FixedScorer(1, 2), FixedScorer(1, 2)])
    assert scores(card_of(Panel([inner, FixedScorer(2, 1), FixedScorer(2, 1)]), 2)) == pytest.approx([2 / 3, 1 / 3])


def test_usage_is_the_members_sum_and_close_and_remember_reach_all(tmp_path):
    members = [FixedScorer(1, 2), FixedScorer(2, 1)]
    with Panel([*members, "length"]) as panel:
        panel.use_store(tmp_path / "store")
        assert card_of(panel, 2).usage == Usage(12, 0, 8, 2.0)
    assert [m.closed for m in members] == [1, 1]
    assert [m.stores for m in members] == [[tmp_path / "store"]] * 2


def test_identity_holds_the_members_and_the_statistics_that_z_uses():
    specs = ["random,seed=3,mean=0.5,deviation=0.3", "length,mean=9,deviation=2"]
    assert Panel(specs, combine="z", quorum=2).identity() == {
        "scorer": "panel",
        "combine": "z",
        "ties": "tie",
        "quorum": 2,
        "members": [
            {"scorer": "random", "seed": 3, "mean": 0.5, "deviation": 0.3},
            {"scorer": "length", "mean": 9, "deviation": 2},
        ],
    }
    assert Panel(specs).identity()["members"][1] == {"scorer": "length"}


def test_judges_of_one_model_share_one_engine(monkeypatch):
    built, closed = [], []

    class Counted(FakeEngine):
        def close(self):
            closed.append(self)

    def build(kind, model, engine_settings):
        built.append(Counted(lambda r: "Score: 4" if "zebra" in r.messages[-1]["content"] else "Score: 2"))
        return built[-1]

    monkeypatch.setattr(registry, "_open", {})
    monkeypatch.setattr(registry, "_build", build)
    spec = "self-rewarding,engine=vllm,votes="
    item_ = Item(id="a", prompt="q", responses=["a dog", "a zebra"])
    with Panel([spec + "1", spec + "3", "length"]) as panel:
        (card,) = panel.score([item_])
        assert scores(card) == [0, 1] and len(built) == 1 and closed == []
        assert len(built[0].requests) == 2 + 6
    assert closed == built


def test_vote_shares_and_ranks_by_hand():
    assert vote_shares([2, 2, 1, 2]) == pytest.approx([1 / 3, 1 / 3, 0, 1 / 3])
    assert ranks([5, 5, 5]) == [2, 2, 2] and ranks([1.0]) == [1]
