"""Measure the gain of one round of DPO on held-out prompts.

    python tests/benchmarks/dpo_round.py DATA [-o FOLDER] [--only rules|self]

Two runs of `assay iterate` on the embedded model, 150 short English prompts of DATA/prompts.jsonl to train on and 120
others to evaluate on, each with the same format instruction: a numbered list and nothing else. LoRA, β 0.1, two
answers of at most 64 tokens to a held-out prompt, sampled at temperature 1 as the candidates are, so that the log ratio
is the KL divergence from the first policy.

1. `rules`: the judge checks the format by rule, which a longer answer does not meet better. Goal: the mean held-out
   score is higher than the first policy's, p < 0.01 paired by prompt, also at equal length, within 60 minutes on two
   cores. Expected: from about 1.0 of 3 to 1.5 or more, because almost every prompt has candidates with and without the
   format, and the first token alone decides half of it.
2. `self`: the same model judges the same candidates by the self-rewarding rubric, one greedy vote each; the rules only
   measure. 48 of its pairs are sampled for training, which halves the time. No goal. Expected: no gain, because a
   judge of this size is close to chance.

An interrupted run resumes; all files are in the folder.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from datetime import date
from pathlib import Path

from judges.preferences.iterate import read_round
from judges.preferences.iterate_report import METRICS, format_estimate

SYSTEM = 'Answer with a numbered list of short points. Begin with "1." at once: no introduction, no closing words.'
RULES = r"""rules:
- {name: begins with 1., pattern: '\A1\. '}
- {name: numbered lines, every_line: '\d+\. '}
- {name: no markup, pattern: '[*#`]', not: true}
"""
TRAIN, HELD_OUT = 150, 120
POLICY = "embedded:smollm2-135m,temperature=1,top_p=1,max_tokens=64"
TRAINING = (
    *("--lora", "16", "--learning-rate", "2e-4", "--epochs", "2", "--beta", "0.1"),
    *("--batch-size", "8", "--accumulation", "1"),
)
SELF = "self-rewarding,votes=1,max_tokens=24"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("-o", "--output", type=Path, default=Path("runs/dpo-round"))
    parser.add_argument("--only", choices=("rules", "self"))
    arguments = parser.parse_args()
    arguments.output.mkdir(parents=True, exist_ok=True)
    train, held_out, rules = write_inputs(arguments.data / "prompts.jsonl", arguments.output)
    judges = {
        "rules": (f"rules,file={rules}", "length", ()),
        "self": (SELF, f"rules,file={rules}", ("--budget", "48")),
    }
    print(f"{date.today()}, {os.cpu_count()} cores, {TRAIN} prompts, {HELD_OUT} held out")
    policy = f"{POLICY},store={arguments.output / 'completions.sqlite'}"  # the two runs share samples
    for name, (judge, other, more) in judges.items():
        if arguments.only not in (None, name):
            continue
        started = time.monotonic()
        command = [sys.executable, "-m", "judges.cli", "iterate", train, "--held-out", held_out, "--policy", policy]
        command += ["--scorer", judge, "--other", other, "--rounds", "1", "--no-stop", *TRAINING, *more]
        command += ["--candidates", "6", "-o", str(arguments.output / name)]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        print_metrics(name, arguments.output / name, (time.monotonic() - started) / 60)


def write_inputs(source: Path, folder: Path) -> tuple[str, str, str]:
    rows = [json.loads(line) for line in source.open(encoding="utf-8")]
    short = [row for row in rows if row["lang"] == "en" and 20 <= len(row["prompt"]) <= 200]
    parts = {"train": short[:TRAIN], "held-out": short[TRAIN : TRAIN + HELD_OUT]}
    for name, part in parts.items():
        lines = [json.dumps({"id": row["id"], "system": SYSTEM, "prompt": row["prompt"]}) + "\n" for row in part]
        (folder / f"{name}.jsonl").write_text("".join(lines), encoding="utf-8")
    (folder / "format.yaml").write_text(RULES, encoding="utf-8")
    return tuple(str(folder / name) for name in ("train.jsonl", "held-out.jsonl", "format.yaml"))  # type: ignore[return-value]


def print_metrics(name: str, folder: Path, minutes: float) -> None:
    first, last = (read_round(folder / f"round-{number}/round.json") for number in (0, 1))
    print(f"\n{name}: {last.pairs} pairs of {last.account['prompts']} prompts, {minutes:.1f} minutes in this run")
    for key, (title, number_format) in METRICS.items():
        if key in last.numbers:
            before = format_estimate(first.numbers.get(key), number_format)
            after = format_estimate(last.numbers[key], number_format, with_p=True)
            print(f"  {title:55}{before:28}{after}")
    if name == "rules":
        gains = [last.numbers["judge_gain"], last.numbers["judge_gain_at_equal_length"]]
        met = all(gain.value > 0 and gain.p is not None and gain.p < 0.01 for gain in gains)
        print(f"  goal (both gains above 0, p < 0.01): {'met' if met else 'missed'}")


if __name__ == "__main__":
    main()
