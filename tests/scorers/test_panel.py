import itertools
import math
import threading
import time

import pytest
from fakes import FakeEngine
from hypothesis import given, settings
from hypothesis import strategies as st

from judges import Item, Judgment, Scorecard, load_scorer
from judges.engines import registry
from judges.errors import CannotRun
from judges.scorer import Scorer, parse_spec
from judges.scorers.panel import Panel, ballot, ranks, untied
from judges.types import REAL_LINE, Failure, Usage

BROKEN = Failure("timeout", "too slow")


class Told(Scorer):
    """Gives the scores it was told, for every Item; `wait` holds each card back."""

    scale = REAL_LINE

    def __init__(self, *scores, name="told", known=None, wait=lambda item: None):
        self.scores, self.name, self.known, self.wait = scores, name, known, wait
        self.asked, self.closed, self.remembered = [], 0, []

    def statistics(self):
        return self.known

    def remember(self, path):
        self.remembered.append(path)

    def close(self):
        self.closed += 1

    def stream(self, items):
        for item in items:
            self.asked.append(item.id)
            self.wait(item)
            usage = Usage(prompt_tokens=3, generated_tokens=2, seconds=0.5)
            yield Scorecard(
                item.id,
                tuple(
                    Judgment(failure=s, usage=usage) if isinstance(s, Failure) else Judgment(score=s, usage=usage)
                    for s in self.scores[: len(item.responses)]
                ),
            )


def item(k, id="a", **more):
    return Item(id=id, prompt="a question", responses=[f"response {i}" for i in range(k)], **more)


def scores(card):
    return [j.score for j in card.judgments]


def card_of(panel, k):
    (card,) = panel.score([item(k)])
    return card


# -- combining ------------------------------------------------------------------------------------------------


def test_a_vote_is_the_share_of_members_that_hold_it_for_best_and_a_tie_splits_it():
    card = card_of(Panel([Told(9, 1, 0), Told(0.1, 0.3, 0.3), Told(2, 5, 1), Told(1, 1, 1)]), 3)
    assert scores(card) == pytest.approx([(1 + 1 / 3) / 4, (0.5 + 1 + 1 / 3) / 4, (0.5 + 1 / 3) / 4])
    assert card.judgments[0].votes == pytest.approx((1, 0, 0, 1 / 3))
    assert card.preference == pytest.approx(scores(card)) and sum(card.preference) == pytest.approx(1)


def test_shares_that_are_equal_are_level_to_the_last_bit():
    # 1 + 1/6 for the first against 1/2 + 1/3 + 1/3 for the second: equal, and not in floating point.
    members = [(1, 0, 0, 0, 0, 0, 0), (1, 0, 1, 1, 1, 1, 1), (0, 1, 1, 0, 0, 0, 0), (0, 1, 1, 1, 0, 0, 0)]
    card = card_of(Panel([Told(*m) for m in [*members, (0, 1, 0, 1, 1, 0, 0)]]), 7)
    assert scores(card)[0] == scores(card)[1] == pytest.approx(7 / 30)
    assert 1 + 1 / 6 != 1 / 2 + 1 / 3 + 1 / 3


def test_a_votes_comparisons_are_the_majority_of_each_pair_also_below_the_best():
    panel = Panel([Told(3, 2, 1), Told(3, 2, 1), Told(1, 2, 3)])
    (card,) = panel.score([item(3, comparisons=[(2, 1), (0, 2)])])
    assert [(c.first, c.second, c.outcome) for c in card.comparisons] == [(2, 1, "second"), (0, 2, "first")]
    assert scores(card)[1] == 0, "nobody's best, yet the majority holds it above response 2"


def test_ranks_are_averaged_and_turned_to_a_score_from_0_to_1():
    # ranks of (10, 30, 20, 20): 4, 1, 2.5, 2.5; of (1, 4, 3, 2): 4, 1, 2, 3
    card = card_of(Panel([Told(10, 30, 20, 20), Told(1, 4, 3, 2)], combine="rank"), 4)
    assert scores(card) == pytest.approx([0, 1, (4 - 2.25) / 3, (4 - 2.75) / 3])
    assert card.judgments[2].votes == (2.5, 2)
    assert card.preference == (0, 1, 0, 0) and card.comparisons == ()


def test_z_scores_use_the_statistics_kept_with_each_member():
    members = [
        Told(14, 8, known=(10, 2)),
        {"scorer": Told(0.5, 1.0, known=(99, 99)), "mean": 0.5, "deviation": 0.25},
    ]
    card = card_of(Panel(members, combine="z"), 2)
    assert card.judgments[0].votes == (2, 0) and card.judgments[1].votes == (-1, 2)
    assert scores(card) == [1, 0.5]
    assert card.preference[0] == pytest.approx(1 / (1 + math.exp(-0.5)))


def test_z_scores_judge_one_response_too():
    assert scores(card_of(Panel([Told(3, known=(1, 1)), Told(5, known=(1, 4))], combine="z"), 1)) == [1.5]


def test_z_without_statistics_cannot_run_and_says_what_to_give():
    with pytest.raises(CannotRun, match=r"known of length: give mean=.*deviation=.*combine=rank"):
        Panel(["random,mean=0.5,deviation=0.3", "length"], combine="z")


@pytest.mark.parametrize("spec", ["length,mean=1,deviation=0", "length,mean=1", "length,mean=x,deviation=1"])
def test_half_or_useless_statistics_cannot_run(spec):
    with pytest.raises(CannotRun, match="above 0"):
        Panel([spec, "random"], combine="rank")


@pytest.mark.parametrize("combine", ["vote", "rank"])
def test_one_response_is_needs_two_and_no_member_is_asked(combine):
    members = [Told(1), Told(2)]
    judgment = card_of(Panel(members, combine=combine), 1).judgments[0]
    assert judgment.failure.reason == "needs-two"
    assert [m.asked for m in members] == [[], []]


# -- ties -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("combine", ["vote", "rank"])
def test_an_even_panel_that_is_split_stays_a_tie(combine):
    card = card_of(Panel([Told(1, 2), Told(2, 1)], combine=combine), 2)
    assert scores(card) == [0.5, 0.5] and card.preference == (0.5, 0.5)
    assert all(c.outcome == "tie" for c in card.comparisons)


@pytest.mark.parametrize("combine", ["vote", "rank"])
@pytest.mark.parametrize(("members", "winner"), [(((1, 2), (2, 1)), 1), (((2, 1), (1, 2)), 0)])
def test_the_first_member_breaks_a_tie_in_score_comparison_and_preference(combine, members, winner):
    card = card_of(Panel([Told(*m) for m in members], combine=combine, ties="first-member"), 2)
    best, other = scores(card)[winner], scores(card)[1 - winner]
    assert other == 0.5 and 0 < best - other < 1.1e-6
    assert card.preference[winner] > card.preference[1 - winner]
    assert [c.outcome for c in card.comparisons] == (["first", "second"][winner : winner + 1] * (combine == "vote"))


def test_a_failed_or_undecided_first_member_leaves_the_tie_to_the_next():
    members = [Told(BROKEN, 9), Told(4, 4), Told(1, 2), Told(2, 1)]
    card = card_of(Panel(members, ties="first-member"), 2)
    assert scores(card)[1] > scores(card)[0] == 0.5
    assert card.comparisons[0].outcome == "second"


def test_responses_that_every_member_holds_level_stay_level_under_any_rule():
    assert scores(card_of(Panel([Told(1, 1), Told(2, 2)], ties="first-member"), 2)) == [0.5, 0.5]


@given(
    st.lists(st.sampled_from([0.0, 0.25, 0.5, 0.5 + 1e-9, 1.0]), min_size=2, max_size=6).flatmap(
        lambda s: st.tuples(
            st.just(s), st.lists(st.lists(st.integers(0, 2), min_size=len(s), max_size=len(s)), min_size=1, max_size=3)
        )
    )
)
def test_a_tie_rule_changes_no_order_between_scores_that_differed(case):
    before, told = case
    after = untied(before, told)
    for i, j in itertools.permutations(range(len(before)), 2):
        if before[i] < before[j]:
            assert after[i] < after[j]
        elif before[i] == before[j]:
            first = next((c[i] - c[j] for c in told if c[i] != c[j]), 0)
            assert (after[i] > after[j]) == (first > 0) and (after[i] == after[j]) == (first == 0)


# -- failures -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("combine", "expected"), [("vote", [0, 1]), ("rank", [0, 1])])
def test_a_failed_member_is_reported_and_does_not_decide(combine, expected):
    card = card_of(Panel([Told(5, BROKEN, name="slow"), Told(1, 2)], combine=combine), 2)
    assert scores(card) == expected, "the member that failed would have said the opposite"
    for judgment in card.judgments:
        assert judgment.votes[0].reason == "timeout" and judgment.votes[0].message.startswith("slow: too slow")
    assert card.judgments[0].readings["slow"] == 5 and card.judgments[1].readings["slow"].reason == "timeout"


def test_under_z_a_failure_takes_a_members_say_on_that_response_only():
    card = card_of(Panel([Told(4, BROKEN, known=(0, 1)), Told(2, 2, known=(0, 1))], combine="z"), 2)
    assert scores(card) == [3, 2]


@pytest.mark.parametrize("combine", ["vote", "rank", "z"])
def test_all_failed_is_a_failure_with_the_firsts_reason_that_names_all(combine):
    other = Failure("off-scale", "11 of 10")
    members = [Told(1, BROKEN, name="one", known=(0, 1)), Told(other, other, name="two", known=(0, 1))]
    card = card_of(Panel(members, combine=combine), 2)
    failure = card.judgments[1].failure
    assert failure.reason == "timeout" and "one: too slow" in failure.message and "two: 11 of 10" in failure.message
    assert card.preference is None
    assert (card.judgments[0].score is None) == (combine != "z")
    assert all(isinstance(c.outcome, Failure) for c in card.comparisons)


def test_fewer_than_the_quorum_is_a_failure():
    members = [Told(1, 2), Told(BROKEN, BROKEN), Told(1, 2)]
    assert scores(card_of(Panel(members, quorum=2), 2)) == [0, 1]
    failure = card_of(Panel(members, quorum=3), 2).judgments[0].failure
    assert failure.reason == "timeout" and "2 of 3 members decided, 3 must" in failure.message


# -- one source, several readers ------------------------------------------------------------------------------


@settings(max_examples=15, deadline=None)
@given(st.integers(1, 40), st.integers(1, 9), st.integers(1, 4), st.randoms(use_true_random=False))
def test_whatever_the_members_pace_every_item_comes_once_with_its_own_scores(n, window, k, random):
    pauses = [random.random() * 0.002 for _ in range(64)]

    def pace(seed):
        return lambda item: time.sleep(pauses[(int(item.id) * seed) % 64])

    class ById(Told):
        def stream(self, items):
            for it in items:
                self.wait(it)
                yield Scorecard(it.id, tuple(Judgment(score=float(it.id) + i) for i in range(len(it.responses))))

    members = [ById(known=(0, 1), wait=pace(seed)) for seed in (3, 7, 11)]
    panel = Panel(members, combine="z", window=window)
    cards = panel.score([item(k, id=str(i)) for i in range(n)])
    assert [(c.id, scores(c)) for c in cards] == [(str(i), [i + j for j in range(k)]) for i in range(n)]


def test_a_fast_member_and_the_source_wait_for_the_slowest():
    held = threading.Event()
    fast, slow = Told(1, 2), Told(1, 2, wait=lambda _: held.wait(20))
    read = []

    def source():
        for i in itertools.count():
            read.append(i)
            yield item(2, id=str(i))

    stream = Panel([fast, slow], window=8).stream(source())
    got = []
    consumer = threading.Thread(target=lambda: got.extend(itertools.islice(stream, 20)))
    consumer.start()
    until = time.monotonic() + 10
    while len(fast.asked) < 4 and time.monotonic() < until:
        time.sleep(0.01)
    time.sleep(0.2)  # time in which it could run away
    assert len(fast.asked) == 4, "a window of 8 responses holds 4 items"
    assert len(read) <= 5 and got == []
    held.set()
    consumer.join(20)
    assert len(got) == 20
    stream.close()


def test_a_finished_card_does_not_wait_for_a_source_that_pauses():
    go_on = threading.Event()

    def source():
        yield item(2, id="first")
        assert go_on.wait(20)
        yield item(1, id="alone")

    stream = Panel(["length", "random"]).stream(source())
    assert next(stream).id == "first"
    go_on.set()
    assert next(stream).id == "alone"
    assert list(stream) == []


def test_an_item_larger_than_the_window_still_passes():
    assert len(card_of(Panel([Told(*range(9)), Told(*range(9))], window=2), 9).judgments) == 9


def test_closing_the_stream_ends_every_thread_of_it():
    before = set(threading.enumerate())
    stream = Panel(["length", "random", Told(1, 2)], window=4).stream(item(2, id=str(i)) for i in itertools.count())
    next(stream)
    stream.close()
    until = time.monotonic() + 10
    while set(threading.enumerate()) - before and time.monotonic() < until:
        time.sleep(0.01)
    assert set(threading.enumerate()) - before == set()


def test_an_error_of_the_source_reaches_the_consumer():
    def source():
        yield item(2)
        raise RuntimeError("the disk is gone")

    with pytest.raises(RuntimeError, match="disk"):
        list(Panel(["length", "random"]).stream(source()))


def test_two_items_of_one_id_in_flight_are_refused():
    with pytest.raises(ValueError, match="two items share the id 'a'"):
        list(Panel(["length", Told(1, 2, wait=lambda _: time.sleep(0.2))]).stream([item(2), item(2)]))


def test_a_member_that_leaves_before_the_source_ends_is_named():
    class Leaves(Told):
        def stream(self, items):
            it = next(iter(items))
            yield Scorecard(it.id, (Judgment(score=1.0), Judgment(score=2.0)))

    with pytest.raises(CannotRun, match="panel member leaves ended before"):
        list(Panel(["length", Leaves(name="leaves")]).stream(item(2, id=str(i)) for i in itertools.count()))


def test_a_member_that_cannot_run_ends_the_panel_and_is_named():
    def gone(_):
        raise CannotRun("the server went away")

    with pytest.raises(CannotRun, match="panel member remote: the server went away"):
        Panel(["length", Told(1, 2, name="remote", wait=gone)]).score([item(2)])


def test_a_member_that_drops_an_item_is_named_and_nothing_hangs():
    class Drops(Told):
        def stream(self, items):
            for place, it in enumerate(items):
                if place != 1:
                    yield Scorecard(it.id, (Judgment(score=1.0), Judgment(score=2.0)))

    with pytest.raises(CannotRun, match="panel member drops ended before"):
        Panel(["length", Drops(name="drops")]).score([item(2, id=str(i)) for i in range(3)])


def test_a_member_that_judges_what_it_was_not_asked_is_named():
    class Invents(Told):
        def stream(self, items):
            for _ in items:
                yield Scorecard("elsewhere", (Judgment(score=1.0), Judgment(score=2.0)))

    with pytest.raises(CannotRun, match="panel member invents judged 'elsewhere'"):
        Panel(["length", Invents(name="invents")]).score([item(2)])


def test_a_member_begins_when_the_one_before_has_loaded():
    order = []

    class Loads(Told):
        def stream(self, items):
            order.append(f"{self.name} loads")
            time.sleep(0.05)
            order.append(f"{self.name} loaded")
            yield from super().stream(items)

    Panel([Loads(1, 2, name="a"), Loads(1, 2, name="b")]).score([item(2)])
    assert order == ["a loads", "a loaded", "b loads", "b loaded"]


# -- members --------------------------------------------------------------------------------------------------


def test_members_come_as_specs_mappings_scorers_and_from_a_file(tmp_path):
    told = Told(1, 2)
    direct = Panel(["random,seed=3", {"scorer": "random", "seed": 4}, told])
    assert [m.label for m in direct.members] == ["random", "random 2", "told"]
    assert [m.scorer.identity().get("seed") for m in direct.members] == [3, 4, None]
    file = tmp_path / "panel.yaml"
    file.write_text("- random,seed=3\n- scorer: length\n  mean: 10\n  deviation: 5\n")
    name, given_settings = parse_spec(f"panel,members={file},combine=rank,ties=first-member")
    panel = load_scorer(name, **given_settings)
    assert [m.label for m in panel.members] == ["random", "length"] and panel.members[1].statistics == (10, 5)
    assert panel.combine == "rank" and panel.ties == "first-member"


@pytest.mark.parametrize(
    ("settings_", "says"),
    [
        ({"members": ["length"]}, "two scorers or more"),
        ({}, "two scorers or more"),
        ({"members": ["length", 3]}, "not 3"),
        ({"members": ["length", {"model": "x"}]}, "scorer: NAME"),
        ({"members": ["length", "nobody"]}, "unknown scorer 'nobody'"),
        ({"members": ["length", "random,sed=3"]}, "no setting sed"),
        ({"members": ["length", {"scorer": Told(1), "seed": 3}]}, "built already"),
        ({"members": ["length", "random"], "combine": "mean"}, "vote, rank, z"),
        ({"members": ["length", "random"], "ties": "coin"}, "tie or first-member"),
        ({"members": ["length", "random"], "quorum": 3}, "from 1 to its 2 members"),
        ({"members": "nowhere.yaml"}, "nowhere.yaml"),
    ],
)
def test_a_wrong_panel_cannot_run_and_says_why(settings_, says):
    with pytest.raises(CannotRun, match=says):
        load_scorer("panel", **settings_)


def test_members_built_before_a_wrong_one_are_closed():
    first = Told(1, 2)
    with pytest.raises(CannotRun):
        Panel([first, "nobody"])
    assert first.closed == 1


def test_a_panel_is_a_scorer_and_may_sit_on_a_panel():
    inner = Panel([Told(1, 2), Told(1, 2)])
    assert scores(card_of(Panel([inner, Told(2, 1), Told(2, 1)]), 2)) == pytest.approx([2 / 3, 1 / 3])


def test_usage_is_the_members_sum_and_close_and_remember_reach_all(tmp_path):
    members = [Told(1, 2), Told(2, 1)]
    with Panel([*members, "length"]) as panel:
        panel.remember(tmp_path / "store")
        assert card_of(panel, 2).usage == Usage(12, 0, 8, 2.0)
    assert [m.closed for m in members] == [1, 1]
    assert [m.remembered for m in members] == [[tmp_path / "store"]] * 2


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
    one = Item(id="a", prompt="q", responses=["a dog", "a zebra"])
    with Panel([spec + "1", spec + "3", "length"]) as panel:
        (card,) = panel.score([one])
        assert scores(card) == [0, 1] and len(built) == 1 and closed == []
        assert len(built[0].requests) == 2 + 6
    assert closed == built


def test_the_coins_by_hand():
    assert ballot([2, 2, 1, 2]) == pytest.approx([1 / 3, 1 / 3, 0, 1 / 3])
    assert ranks([5, 5, 5]) == [2, 2, 2] and ranks([1.0]) == [1]
