"""Fan-out: one source of Items for several scorers, through the panel."""

import itertools
import threading
import time

import pytest
from fakes import FixedScorer
from hypothesis import given, settings
from hypothesis import strategies as st

from judges import Item, Judgment, Scorecard
from judges.errors import CannotRun
from judges.scorers.panel import Panel


def item(k, id="a"):
    return Item(id=id, prompt="a question", responses=[f"response {i}" for i in range(k)])


@settings(max_examples=15, deadline=None)
@given(st.integers(1, 40), st.integers(1, 9), st.integers(1, 4), st.randoms(use_true_random=False))
def test_every_item_is_yielded_once_with_its_own_scores_at_any_pace_of_the_members(n, window, k, random):
    pauses = [random.random() * 0.002 for _ in range(64)]

    def pace(seed):
        return lambda item: time.sleep(pauses[(int(item.id) * seed) % 64])

    class ById(FixedScorer):
        def stream(self, items):
            for it in items:
                self.wait(it)
                yield Scorecard(it.id, tuple(Judgment(score=float(it.id) + i) for i in range(len(it.responses))))

    members = [ById(statistics=(0, 1), wait=pace(seed)) for seed in (3, 7, 11)]
    panel = Panel(members, combine="z", window=window)
    cards = panel.score([item(k, id=str(i)) for i in range(n)])
    assert [(c.id, [j.score for j in c.judgments]) for c in cards] == [
        (str(i), [i + j for j in range(k)]) for i in range(n)
    ]


def test_a_fast_member_and_the_source_wait_for_the_slowest():
    held = threading.Event()
    fast, slow = FixedScorer(1, 2), FixedScorer(1, 2, wait=lambda _: held.wait(20))
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
    while len(fast.items) < 4 and time.monotonic() < until:
        time.sleep(0.01)
    time.sleep(0.2)  # time in which it could run away
    assert len(fast.items) == 4, "a window of 8 responses holds 4 items"
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
    assert len(Panel(["length", "random"], window=2).score([item(9)])[0].judgments) == 9


def test_closing_the_stream_ends_every_thread_of_it():
    before = set(threading.enumerate())
    stream = Panel(["length", "random", FixedScorer(1, 2)], window=4).stream(
        item(2, id=str(i)) for i in itertools.count()
    )
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
        list(Panel(["length", FixedScorer(1, 2, wait=lambda _: time.sleep(0.2))]).stream([item(2), item(2)]))


def test_a_member_that_ends_before_the_source_is_named():
    class Leaves(FixedScorer):
        def stream(self, items):
            it = next(iter(items))
            yield Scorecard(it.id, (Judgment(score=1.0), Judgment(score=2.0)))

    with pytest.raises(CannotRun, match="panel member leaves ended before"):
        list(Panel(["length", Leaves(name="leaves")]).stream(item(2, id=str(i)) for i in itertools.count()))


def test_a_member_that_cannot_run_ends_the_panel_and_is_named():
    def gone(_):
        raise CannotRun("the server went away")

    with pytest.raises(CannotRun, match="panel member remote: the server went away"):
        Panel(["length", FixedScorer(1, 2, name="remote", wait=gone)]).score([item(2)])


def test_a_member_that_drops_an_item_is_named_and_nothing_hangs():
    class Drops(FixedScorer):
        def stream(self, items):
            for place, it in enumerate(items):
                if place != 1:
                    yield Scorecard(it.id, (Judgment(score=1.0), Judgment(score=2.0)))

    with pytest.raises(CannotRun, match="panel member drops ended before"):
        Panel(["length", Drops(name="drops")]).score([item(2, id=str(i)) for i in range(3)])


def test_a_member_that_judges_an_unknown_item_is_named():
    class Invents(FixedScorer):
        def stream(self, items):
            for _ in items:
                yield Scorecard("elsewhere", (Judgment(score=1.0), Judgment(score=2.0)))

    with pytest.raises(CannotRun, match="panel member invents judged 'elsewhere'"):
        Panel(["length", Invents(name="invents")]).score([item(2)])


def test_a_member_starts_when_the_previous_one_has_loaded():
    order = []

    class Loads(FixedScorer):
        def stream(self, items):
            order.append(f"{self.name} loads")
            time.sleep(0.05)
            order.append(f"{self.name} loaded")
            yield from super().stream(items)

    Panel([Loads(1, 2, name="a"), Loads(1, 2, name="b")]).score([item(2)])
    assert order == ["a loads", "a loaded", "b loads", "b loaded"]
