"""What reaches the terminal: text, and nothing that moves its cursor or colours it."""

import io
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from rich.console import Console

from judges import load_scorer
from judges.batch.run import ScoreSummary
from judges.cli import progress as module
from judges.errors import CannotRun
from judges.scorer import parse_spec
from judges.types import Usage


def test_an_error_shows_the_control_characters_of_a_name(tmp_path):
    given = [sys.executable, "-m", "judges.cli", "report", str(tmp_path / "a\x1b[31mz\x07b")]
    result = subprocess.run(given, capture_output=True, text=True, timeout=120)
    assert result.returncode == 2 and "a[U+001B][31mz[U+0007]b holds no results.json" in result.stderr
    assert "\x1b" not in result.stderr and "\x07" not in result.stderr


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_a_name_with_brackets_is_no_markup_of_the_progress_bar(monkeypatch):
    shown = Terminal()
    monkeypatch.setattr(sys, "stderr", shown)
    monkeypatch.setattr(
        module, "Console", lambda **_: Console(file=shown, force_terminal=True, width=200, color_system=None)
    )
    with module.RowProgress("a [/b] [red]c \x1b]0;d", 2, False) as progress:
        progress.add_row()
    assert "a [/b] [red]c [U+001B]]0;d" in shown.getvalue() and "\x1b]0;d" not in shown.getvalue()


@pytest.mark.parametrize("seed", ["abc", "", "1.5", "true"])
def test_a_seed_is_a_whole_number(seed):
    name, settings = parse_spec(f"random,seed={seed}")
    with pytest.raises(CannotRun, match="seed is a whole number, not"):
        load_scorer(name, **settings)


def test_a_whole_seed_is_taken():
    assert load_scorer("random", seed=7).seed == 7


# -- the progress line and the summary -------------------------------------------------------------------------


class Clock:
    """A clock that moves only when it is set."""

    now = 0.0

    def monotonic(self):
        return self.now


@pytest.fixture
def clock(monkeypatch):
    made = Clock()
    monkeypatch.setattr(module, "time", made)
    return made


USED = Usage(prompt_tokens=1000, cached_tokens=250, generated_tokens=50)


def test_the_line_has_speed_tokens_cache_failures_and_the_time_left(clock):
    progress = module.RowProgress("n", None, True)
    progress.set(0, 0, Usage(), 0.0)
    clock.now = 10.0
    progress.set(100, 2, USED, 0.25)
    # 1,000 - 250 + 50 tokens in 10 s; a quarter took 10 s, three are left
    assert progress.line() == "100 rows, 10.0 rows/s, 80 tok/s, 25% cached, 2 failed, 30 s left"


def test_unknown_parts_are_left_out(clock):
    progress = module.RowProgress("n", None, True)
    assert progress.line() == "0 rows"
    progress.set(0, 0, Usage(), None)
    clock.now = 2.0
    progress.set(50_000, 0, Usage(), None)
    assert progress.line() == "50,000 rows, 25,000 rows/s"


def test_rows_of_an_earlier_start_do_not_count_for_the_time_left(clock):
    progress = module.RowProgress("n", None, True)
    clock.now = 100.0  # half the file was there before
    progress.set(1, 0, Usage(), 0.5)
    clock.now = 110.0
    progress.set(101, 0, Usage(), 0.75)
    assert progress.line() == "101 rows, 10.0 rows/s, 10 s left"  # from the first row on, which loaded the model


def test_the_time_left_of_a_limited_run_excludes_rows_of_an_earlier_start(clock):
    progress = module.RowProgress("n", 200, True)
    progress.set(0, 0, Usage(), 0.0)
    clock.now = 10.0
    progress.set(50, 0, Usage(), 0.9)
    assert progress.line() == "50/200 rows, 5.0 rows/s, 30 s left"
    progress.set(50, 0, Usage(), 0.9, before=100)
    assert progress.line() == "50/100 rows, 5.0 rows/s, 10 s left"
    progress.set(100, 0, Usage(), 1.0, before=100)
    assert progress.line() == "100/100 rows, 10.0 rows/s"


def test_without_a_terminal_a_line_comes_now_and_then_and_none_when_quiet(clock, capsys):
    for quiet in (False, True):
        clock.now = 0.0
        with module.RowProgress("na\x1bme", None, quiet) as progress:
            for second in range(1, 32):
                clock.now = float(second)
                progress.add_row()
    result = capsys.readouterr()  # nothing for 15 seconds, and then 15 again
    assert result.out == "" and [line.split(",")[0] for line in result.err.splitlines()] == ["na[U+001B]me: 16 rows"]


@pytest.mark.parametrize(("total", "share"), [(3, None), (None, 1.0)])
def test_a_bar_in_a_terminal_is_full_at_the_end(monkeypatch, total, share):
    shown = Terminal()
    monkeypatch.setattr(sys, "stderr", shown)
    monkeypatch.setattr(
        module, "Console", lambda **_: Console(file=shown, force_terminal=True, width=200, color_system=None)
    )
    with module.RowProgress("n", total, False) as progress:
        progress.set(3, 1, Usage(), share)
    result = "3/3 rows, 1 failed" if total else "3 rows, 1 failed"
    assert f"n {'━' * 20} {result}" in shown.getvalue()


def test_the_summary_names_the_setting_when_most_rows_were_cut_off(capsys):
    few, most = ScoreSummary(written=10, truncated=5), ScoreSummary(written=10, truncated=6, truncated_candidates=9)
    module.print_summary(few, Path("o"), quiet=False)
    assert "max_tokens" not in capsys.readouterr().err
    module.print_summary(most, Path("o"), quiet=False)
    judge, policy = capsys.readouterr().err.splitlines()[1:]
    assert "6 of 10 rows" in judge and "the judge's max_tokens" in judge
    assert "9 of 10 rows" in policy and "the policy's max_tokens" in policy


def test_the_summary_has_rows_failures_by_reason_and_tokens(capsys):
    output = Path("o\x1but.jsonl")
    module.print_summary(ScoreSummary(1200, 34, Counter({"empty": 3, "timeout": 1500}), 2, USED), output, quiet=False)
    assert capsys.readouterr().err.splitlines() == [
        "o[U+001B]ut.jsonl: 1,200 rows written, 34 already there, failed: 1,500 timeout, 3 empty",
        "  1,050 tokens (1,000 of prompts, of which 250 cached; 50 generated)",
        "  the same command with --retry-failed judges the failed rows again",
    ]
    module.print_summary(ScoreSummary(1200), output, quiet=True)
    assert capsys.readouterr().err == ""
    module.print_summary(ScoreSummary(written=1), output, quiet=False)
    assert capsys.readouterr().err == "o[U+001B]ut.jsonl: 1 rows written, 0 already there, failed: none\n"
