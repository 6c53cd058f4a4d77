"""Rounds end to end on a small random model: what is written, refused, stopped, and survives being killed."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from judges.errors import CannotRun
from judges.preferences.dpo import DPOSettings
from judges.preferences.iterate import IterateObserver, iterate
from judges.preferences.iterate_config import IterateConfig, JudgeConfig
from judges.preferences.iterate_report import best_model, write_report

POLICY = {"engine": "transformers", "max_tokens": 8, "temperature": 1.0, "top_p": 1.0}
TRAINING = DPOSettings(lora=4, learning_rate=1e-2, batch_size=2, accumulation=1)


def prompts(path: Path, numbers) -> str:
    path.write_text("".join(json.dumps({"id": f"p{n}", "prompt": f"What is {n}?"}) + "\n" for n in numbers))
    return str(path)


@pytest.fixture
def plan(tmp_path, tiny_decoder) -> dict:
    return {
        "prompts": prompts(tmp_path / "train.jsonl", range(6)),
        "held_out": prompts(tmp_path / "held.jsonl", range(100, 105)),
        "model": str(tiny_decoder),
        "judge": JudgeConfig("length"),
        "rounds": 1,
        "candidates": 3,
        "policy": POLICY,
        "training": TRAINING,
        "stop": False,
    }


class Seen(IterateObserver):
    def __init__(self):
        self.phases, self.notes = [], []

    def on_message(self, text):
        self.notes.append(text)

    def on_phase(self, round, name):
        self.phases.append((round, name))


def test_two_rounds_leave_data_models_and_numbers_and_a_second_call_does_nothing(tmp_path, plan):
    full = IterateConfig(**plan | {"rounds": 2, "other": JudgeConfig("random"), "prompts_a_round": 3, "replay": "all"})
    rounds = iterate(full, tmp_path / "out")
    assert [one.number for one in rounds] == [0, 1, 2]
    for one in rounds[1:]:
        folder = tmp_path / "out" / f"round-{one.number}"
        assert one.account["prompts"] == 3 == one.account["paired"] + sum(one.account["drops"].values())
        assert (folder / "model" / "model.safetensors").exists() and (folder / "README.md").exists()
        assert one.numbers["judge_wins"].prompts == 5 and 0 <= one.numbers["other_wins_from_0"].value <= 1
        answers = [json.loads(line) for line in (folder / "held-out" / "answers.jsonl").open()]
        length = sum(sum(map(len, row["responses"])) / 2 for row in answers) / 5
        assert one.numbers["judge"].value == pytest.approx(length) == one.numbers["length"].value
    asked = [[json.loads(line)["id"] for line in (tmp_path / f"out/round-{t}/prompts.jsonl").open()] for t in (1, 2)]
    assert asked == [["p0", "p1", "p2"], ["p3", "p4", "p5"]]
    assert rounds[2].trained.pairs == rounds[1].pairs + rounds[2].pairs, "all earlier pairs are replayed"
    report = write_report(full, rounds, tmp_path / "out").read_text()
    assert "| M\\_2 |" in report and (tmp_path / "out" / "rounds.png").exists()
    seen = Seen()
    assert iterate(full, tmp_path / "out", seen) == rounds and seen.phases == []


def test_another_plan_in_the_same_folder_is_refused_and_more_rounds_are_not(tmp_path, plan):
    iterate(IterateConfig(**plan), tmp_path / "out")
    with pytest.raises(CannotRun, match="candidates: 3 then, 4 now"):
        iterate(IterateConfig(**plan | {"candidates": 4}), tmp_path / "out")
    seen = Seen()
    iterate(IterateConfig(**plan | {"rounds": 2}), tmp_path / "out", seen)
    assert {number for number, _ in seen.phases} == {2}


def test_a_judge_that_follows_scores_two_policies_by_the_one_that_made_the_pairs(tmp_path, plan):
    judge = JudgeConfig("implicit-reward", {"reference": "none", "engine": "transformers"}, follows=True)
    rounds = iterate(IterateConfig(**plan | {"judge": judge, "rounds": 2}), tmp_path / "out")
    made = {
        str(path.relative_to(tmp_path / "out")) for path in (tmp_path / "out").glob("round-*/held-out/judge-*.jsonl")
    }
    assert made == {
        *("round-0/held-out/judge-0.jsonl", "round-0/held-out/judge-1.jsonl", "round-1/held-out/judge-0.jsonl"),
        *("round-1/held-out/judge-1.jsonl", "round-2/held-out/judge-1.jsonl"),
    }
    assert rounds[-1].numbers["judge_gain"].prompts == 5
    manifest = json.loads((tmp_path / "out/round-2/held-out/judge-1.jsonl.run/manifest.json").read_text())
    assert manifest["model"].endswith("round-1/model")


def test_rounds_end_when_the_judge_tells_nothing_apart(tmp_path, plan):
    """A rule that every text meets: no prompt gives a pair."""
    (tmp_path / "level.yaml").write_text("rules:\n- {name: any, pattern: '(?s).*'}\n")
    level = IterateConfig(**plan | {"judge": JudgeConfig("rules", {"file": str(tmp_path / "level.yaml")}), "rounds": 3})
    with pytest.raises(
        CannotRun, match="no pair is left of 6 prompts: 6 for this reason: all candidates have the same score"
    ):
        iterate(level, tmp_path / "out")
    assert len((tmp_path / "out/round-1/candidates.jsonl").read_text().splitlines()) == 6


def test_rounds_end_when_the_held_out_score_falls(tmp_path, plan, monkeypatch):
    """The policy of round 1 is judged on length, its answers cut short: whatever it learned, they are shorter."""
    from judges.preferences import iterate as module

    drawn = module._RoundRunner._policy

    def shorter(self, model, candidates):
        policy = drawn(self, model, candidates)
        if model != self.config.model:
            policy.max_tokens = 2
        return policy

    monkeypatch.setattr(module._RoundRunner, "_policy", shorter)
    full = IterateConfig(**plan | {"rounds": 3, "stop": True})
    rounds = iterate(full, tmp_path / "out")
    assert (
        len(rounds) == 2 and rounds[1].stopped == "the held-out score fell" and rounds[1].numbers["judge_gain"].high < 0
    )
    assert best_model(full, rounds) == plan["model"]


def test_of_rows_with_responses_only_the_prompt_counts_and_what_is_trained_on_is_not_held_out(tmp_path, plan):
    rows = [
        {"id": "a", "prompt": "What is 100?", "response": "Taken.", "reference": "a number"},
        {"id": "b", "prompt": "What  is 3?", "response": "Trained on."},
        {"other": 1},
    ]
    held_out = tmp_path / "mixed.jsonl"
    held_out.write_text("".join(json.dumps(row) + "\n" for row in rows))
    told = Seen()
    iterate(IterateConfig(**plan | {"held_out": str(held_out), "rounds": 0}), tmp_path / "out", told)
    (kept,) = [json.loads(line) for line in (tmp_path / "out/held-out.jsonl").open()]
    assert kept == {"id": "a", "prompt": "What is 100?", "reference": "a number"}
    (answer,) = [json.loads(line) for line in (tmp_path / "out/round-0/held-out/answers.jsonl").open()]
    assert answer["reference"] == "a number" and "Taken." not in answer["responses"] and len(answer["responses"]) == 2
    assert told.notes == [
        f"rows without a prompt: 0 of {plan['prompts']}, 1 of {held_out}",
        "1 held-out prompts are also training prompts, and left out",
    ]


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"prompts": "/nowhere.jsonl"}, "/nowhere.jsonl"),
        ({"held_out": "/nowhere.jsonl"}, "/nowhere.jsonl"),
        ({"model": "/nowhere/model"}, "no model folder"),
        ({"policy": {"temperature": "hot"}}, "--policy: a setting has a wrong value"),
        ({"policy": {"candidates": 3}}, "--policy: a setting has a wrong value"),
        ({"other": JudgeConfig("unknown")}, "unknown scorer 'unknown'"),
        ({"benchmark": "unknown"}, "the judge is not the policy"),
        (
            {"judge": JudgeConfig("self-rewarding", {"votes": 1}, True), "meta": JudgeConfig("pairwise", {}, True)},
            "votes=2 or more",
        ),
        ({"prompts_a_round": 4, "rounds": 3}, "6 prompts, too few for 3 rounds of 4"),
    ],
)
def test_what_cannot_run_is_told_before_anything_is_drawn(tmp_path, plan, wrong, told):
    with pytest.raises(CannotRun, match=told):
        iterate(IterateConfig(**plan | wrong), tmp_path / "out")
    assert not list((tmp_path / "out").glob("round-*/held-out/*"))
    iterate(IterateConfig(**plan | {"rounds": 0}), tmp_path / "out")  # the mended one is not refused


def test_a_judge_that_is_named_stays_and_one_that_is_not_follows():
    from judges.cli.iterate import parse_judge, parse_other_scorer

    policy = {"engine": "transformers", "temperature": 0.7}
    assert parse_judge("self-rewarding,votes=1", policy) == JudgeConfig(
        "self-rewarding", {"engine": "transformers", "votes": 1}, follows=True
    )
    assert not parse_judge("self-rewarding,model=M", policy).follows and not parse_judge("length", policy).follows
    assert parse_other_scorer("self-rewarding", "M", policy) == JudgeConfig(
        "self-rewarding", {"engine": "transformers", "model": "M"}
    )


def command(folder: Path, plan: dict) -> list[str]:
    spec = f"implicit-reward,model={plan['model']},reference=none,engine=transformers"
    policy = ",".join([plan["model"], *(f"{key}={value}" for key, value in POLICY.items())])
    return [
        *(sys.executable, "-m", "judges.cli", "iterate", plan["prompts"], "--held-out", plan["held_out"]),
        *("--policy", policy, "--scorer", spec, "--rounds", "1", "--no-stop", "--candidates", "3"),
        *("--learning-rate", "1e-2", "--batch-size", "2", "--accumulation", "1", "--lora", "4"),
        *("-o", str(folder / "out"), "--quiet"),
    ]


def kept(path: Path) -> bool:
    """Whether a store holds a completion; asked without a lock on it."""
    import sqlite3

    if not path.exists():
        return False
    try:
        with sqlite3.connect(f"file:{path}?mode=ro", uri=True) as db:
            return bool(db.execute("SELECT COUNT(*) FROM completions").fetchone()[0])
    except sqlite3.Error:
        return False


# What tells that a phase has partial, and is not over.
PHASES = {
    "generate": lambda out: kept(out / "round-1/candidates.jsonl.run/candidates.sqlite"),
    "judge": lambda out: kept(out / "round-1/candidates.jsonl.run/completions.sqlite"),
    "select": lambda out: (out / "round-1/candidates.jsonl").exists(),
    "train": lambda out: bool(list(out.glob("round-1/model.training/checkpoint-*"))),
    "evaluate": lambda out: (out / "round-1/held-out/answers.jsonl").exists(),
}


@pytest.mark.slow
def test_killed_in_each_phase_it_ends_with_the_uninterrupted_runs_data(tmp_path, plan):
    plan["prompts"] = prompts(tmp_path / "train.jsonl", range(16))
    whole = tmp_path / "whole"
    assert subprocess.run(command(whole, plan), timeout=600).returncode == 0
    killed = tmp_path / "killed"
    for phase, partial in PHASES.items():
        run = subprocess.Popen(command(killed, plan), start_new_session=True)
        until = time.monotonic() + 300
        while not partial(killed / "out"):
            assert run.poll() is None and time.monotonic() < until, f"{phase} was not seen"
            time.sleep(0.002)
        run.send_signal(signal.SIGKILL)
        run.wait()
        assert not (killed / "out/round-1/round.json").exists(), phase
    assert subprocess.run(command(killed, plan), timeout=600).returncode == 0
    for name in ("candidates.jsonl", "pairs.parquet", "held-out/answers.jsonl"):
        a, b = (folder / "out/round-1" / name for folder in (whole, killed))
        assert told(a) == told(b), name
    a, b = (json.loads((folder / "out/round-1/round.json").read_text()) for folder in (whole, killed))
    assert a["account"] == b["account"]
    assert a["numbers"].keys() == b["numbers"].keys()
    for key in a["numbers"]:
        assert a["numbers"][key]["value"] == pytest.approx(b["numbers"][key]["value"], abs=1e-4), key
    shutil.rmtree(killed)


def told(path: Path):
    """A file's rows without what a run costs."""
    if path.suffix == ".parquet":
        return path.read_bytes()
    rows = [json.loads(line) for line in path.open()]
    for row in rows:
        row.pop("usage", None)
        (row.get("generation") or {}).pop("usage", None)
    return rows
