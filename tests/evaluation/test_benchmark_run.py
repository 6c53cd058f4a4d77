import json
import random
import signal
import subprocess
import sys
import time

import pytest

from judges.errors import CannotRun
from judges.evaluation.benchmark_run import file_name, run_benchmark
from judges.evaluation.benchmarks.base import Benchmark
from judges.scorer import Scorer
from judges.scorers.baselines import Length
from judges.types import REAL_LINE, Failure, Gold, Item, Judgment, Scorecard


class Counting(Scorer):
    """The length, once an Item is asked for; every third Item fails."""

    name, scale = "counting", REAL_LINE

    def __init__(self, seed=0):
        self.seed, self.asked = seed, []

    def identity(self):
        return {"scorer": self.name, "seed": self.seed}

    def stream(self, items):
        for item in items:
            self.asked.append(item.id)
            failed = Judgment(failure=Failure("timeout", "slow"))
            good = [Judgment(score=float(len(r)), votes=(1.0, Failure("missing", "none"))) for r in item.responses]
            yield Scorecard(item.id, (failed, failed) if int(item.id) % 3 == 0 else tuple(good))


def benchmark(n=9, seed=0):
    draw = random.Random(seed)
    items = tuple(Item(str(i), f"q{i}", ["x" * draw.randint(1, 9), "y"], gold=Gold(chosen=(0,))) for i in range(n))
    return Benchmark("made", "Made", items, "here")


def run(scorer, folder, data=None):
    return run_benchmark(scorer, scorer.name, scorer.name, data or benchmark(), folder)


def test_a_second_session_judges_only_what_is_missing_and_gives_the_same_cards(tmp_path):
    first = run(Counting(), tmp_path)
    path = tmp_path / first.file
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:4]) + lines[4][:20])  # as a killed run leaves it
    again = Counting()
    second = run(again, tmp_path)
    assert again.asked == [json.loads(line)["id"] for line in lines[4:]]
    assert second.cards == first.cards
    assert [json.loads(line)["id"] for line in path.open()] == [str(i) for i in range(9)]
    assert run(third := Counting(), tmp_path).cards == first.cards and not third.asked


def test_other_settings_are_judged_anew(tmp_path):
    run(Counting(), tmp_path)
    run(other := Counting(seed=1), tmp_path)
    assert len(other.asked) == 9


def test_a_run_killed_at_any_moment_goes_on_and_ends_with_each_item_once(tmp_path):
    script = f"""
import sys, time
sys.path.insert(0, {str(__import__("pathlib").Path(__file__).parent)!r})
from test_benchmark_run import Counting, run
class Slow(Counting):
    def stream(self, items):
        for card in super().stream(items):
            time.sleep(0.05)
            yield card
from pathlib import Path
run(Slow(), Path({str(tmp_path)!r}))
"""
    for after in (0.1, 0.2, 0.15):
        process = subprocess.Popen([sys.executable, "-c", script])
        path = tmp_path / "judgments" / f"{file_name('made', 'counting')}.jsonl"
        until = time.monotonic() + 60
        before = path.read_bytes().count(b"\n") if path.exists() else 0
        while process.poll() is None and time.monotonic() < until:
            if path.exists() and path.read_bytes().count(b"\n") > before:
                break
        time.sleep(after)
        process.send_signal(signal.SIGKILL)
        process.wait()
    done = run(Counting(), tmp_path)
    ids = [json.loads(line)["id"] for line in (tmp_path / done.file).open()]
    assert sorted(ids, key=int) == [str(i) for i in range(9)]
    full = run(Counting(), tmp_path / "at-once")
    assert done.cards == full.cards


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "judgments").write_text("a file")
    with pytest.raises(CannotRun, match="judgments"):
        run_benchmark(Length(), "length", "length", benchmark(), tmp_path)


def test_file_names_are_unique_to_benchmark_and_scorer():
    names = {file_name(b, s) for b in ("a/x.jsonl", "b/x.jsonl") for s in ("length", "random,seed=1", "random,seed=2")}
    assert len(names) == 6
    assert all(set(name) <= set("abcdefghijklmnopqrstuvwxyz0123456789-_") for name in names)


def test_judgments_of_another_run_are_archived_and_reused_when_needed_again(tmp_path):
    full, part = benchmark(9), benchmark(9)
    part = Benchmark(part.name, part.title, part.items[:4], part.source)
    first = run(Counting(), tmp_path, full)
    few = run(second := Counting(), tmp_path, part)
    assert not second.asked and few.cards == {i: first.cards[i] for i in "0123"}
    assert len((tmp_path / few.file).read_text().splitlines()) == 4
    run(Counting(seed=1), tmp_path, full)
    again = run(third := Counting(), tmp_path, full)
    assert not third.asked and again.cards == first.cards


def test_an_item_that_has_changed_is_judged_anew_and_the_others_are_not(tmp_path):
    data = benchmark(9)
    run(Counting(), tmp_path, data)
    other = Item("4", "q4", ["another response", "y"], gold=Gold(chosen=(0,)))
    changed = Benchmark(data.name, data.title, (*data.items[:4], other, *data.items[5:]), data.source)
    found = run(again := Counting(), tmp_path, changed)
    assert again.asked == ["4"] and found.cards["4"].judgments[0].score == len("another response")


def test_separators_of_lines_within_a_judgment_do_not_end_it(tmp_path):
    items = tuple(Item(f"{i}", f"q{i}\u2028\u0085", ["x\u2029"], gold=Gold(chosen=(0,))) for i in range(1, 3))

    class Quoting(Counting):
        def stream(self, asked):
            for item in asked:
                self.asked.append(item.id)
                yield Scorecard(item.id, (Judgment(score=1.0, completions=("a\u2028b\u0085c",)),))

    data = Benchmark("lines", "Lines", items, "here")
    first = run(Quoting(), tmp_path, data)
    assert run(again := Quoting(), tmp_path, data).cards == first.cards and not again.asked


def test_a_damaged_line_is_named_and_nothing_is_thrown_away(tmp_path):
    path = tmp_path / run(Counting(), tmp_path).file
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([*lines[:2], lines[2][:30] + b"\n", *lines[3:]]))
    with pytest.raises(CannotRun, match="line 3: not a judgment"):
        run(Counting(), tmp_path)
    assert len(path.read_bytes().splitlines()) == len(lines)
