"""Every example runs as its README says."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys

import pytest
from conftest import ROOT

COMMANDS = re.findall(r"`((?:python|assay) [^`]+)`", (ROOT / "examples" / "README.md").read_text(encoding="utf-8"))
PLUGIN = [command for command in COMMANDS if "word-count" in command]  # tests/test_package.py installs it
ENGINE = [command for command in COMMANDS if "own_judge" in command]


def run(command: str, folder) -> str:
    """Run a command of the README, its outputs going to `folder` instead of `runs`."""
    program, *arguments = shlex.split(command.replace("runs/", f"{folder}/"))
    start = [sys.executable] if program == "python" else [sys.executable, "-m", "judges.cli"]
    done = subprocess.run([*start, *arguments], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("command", [c for c in COMMANDS if c not in PLUGIN + ENGINE])
def test_the_command_of_an_example_runs(command, tmp_path):
    run(command, tmp_path)


@pytest.mark.engine
@pytest.mark.slow
@pytest.mark.parametrize("command", ENGINE)
def test_the_command_of_an_example_with_a_judge_runs(command, tmp_path):
    run(command, tmp_path)


def test_the_reward_function_gives_one_number_for_each_completion(tmp_path):
    assert run("python examples/reward_function.py", tmp_path).strip() == "[5.0, 26.0]"


def test_every_example_is_listed():
    listed = (ROOT / "examples" / "README.md").read_text(encoding="utf-8")
    files = [path for path in (ROOT / "examples").iterdir() if path.name != "README.md"]
    assert len(COMMANDS) == len(files) and all(f"({path.name})" in listed for path in files)
