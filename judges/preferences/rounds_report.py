"""What `assay iterate` tells: a table of rounds, its plot, and both in `report.md`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from judges.evaluation.report.html import write_whole
from judges.evaluation.report.markdown import table
from judges.preferences.held_out import Estimate, write_json
from judges.preferences.rounds import Round
from judges.preferences.rounds_config import Plan

REPORT, PLOT = "report.md", "rounds.png"
# A number's name, what it is, and how it is written.
NUMBERS: Mapping[str, tuple[str, str]] = {
    "judge": ("held-out score, training judge", ".3f"),
    "judge_gain": ("… less that of the round before", "+.3f"),
    "judge_gain_from_0": ("… less that of M_0", "+.3f"),
    "judge_gain_at_equal_length": ("… less the round before's, at equal length", "+.3f"),
    "judge_wins": ("win rate against the round before", ".3f"),
    "judge_wins_from_0": ("win rate against M_0", ".3f"),
    "other": ("held-out score, other scorer", ".3f"),
    "other_gain": ("… less that of the round before", "+.3f"),
    "other_gain_from_0": ("… less that of M_0", "+.3f"),
    "other_gain_at_equal_length": ("… less the round before's, at equal length", "+.3f"),
    "other_wins": ("win rate against the round before, other scorer", ".3f"),
    "other_wins_from_0": ("win rate against M_0, other scorer", ".3f"),
    "length": ("characters of an answer", ".0f"),
    "log_ratio": ("log π_t − log π_0 of an answer, nats", ".2f"),
    "judge_accuracy": ("the judge's accuracy on the benchmark", ".3f"),
}


def write_report(plan: Plan, rounds: Sequence[Round], folder: Path) -> Path:
    """Write `report.md`, `rounds.json` and, where matplotlib is, `rounds.png`; the report's path."""
    told = [asdict(one) | {"numbers": {key: asdict(number) for key, number in one.numbers.items()}} for one in rounds]
    write_json(folder / "rounds.json", told)
    drawn = _plot(plan, rounds, folder / PLOT)
    lines = ["# Rounds", "", f"Policy {plan.model}, judged by {plan.judge}; other scorer: {plan.other or 'none'}.", ""]
    lines += table(("", *(f"M_{one.number}" for one in rounds)), rows_of(rounds, with_p=True), texts=1)
    lines += ["", _legend(plan)]
    if plan.stop and rounds[-1].stopped:
        lines += ["", f"After round {rounds[-1].number}: {rounds[-1].stopped}. The best model is {best(plan, rounds)}."]
    if drawn:
        lines += ["", f"![scores, length and distance by round]({PLOT})"]
    path = folder / REPORT
    write_whole(path, "\n".join(lines) + "\n")
    return path


def best(plan: Plan, rounds: Sequence[Round]) -> str:
    """The model that gained most on M_0 by the training judge; M_0 where none gained."""
    gains = {one.number: one.numbers["judge_gain_from_0"].value for one in rounds if "judge_gain_from_0" in one.numbers}
    number = max(gains, key=lambda number: gains[number], default=0)
    return f"round-{number}/model" if number and gains[number] > 0 else plan.model


def rows_of(rounds: Sequence[Round], with_p: bool = False) -> list[tuple[str, ...]]:
    """The table's rows: a number's name, then its value in each round."""
    rows = [
        ("prompts that gave pairs", *(_of(one.account.get("paired"), one.account.get("prompts")) for one in rounds)),
        ("pairs", *(f"{one.pairs:,}" if one.number else "" for one in rounds)),
    ]
    if any(one.judgment_pairs for one in rounds):
        rows.append(("pairs of judgments", *(f"{one.judgment_pairs:,}" if one.number else "" for one in rounds)))
    for key, (name, form) in NUMBERS.items():
        if any(key in one.numbers for one in rounds):
            rows.append((name, *(shown(one.numbers.get(key), form, with_p) for one in rounds)))
    if any(one.trained and one.trained.too_long for one in rounds):
        too_long = (f"{one.trained.too_long:,}" if one.trained else "" for one in rounds)
        rows.append(("pairs too long to train on", *too_long))
    rows.append(("different word pairs", *(_share(one.distinct_bigrams) for one in rounds)))
    rows.append(("answers without a score", *(f"{one.without_score:,}" for one in rounds)))
    if any(one.unanswered for one in rounds):
        rows.append(("held-out prompts without an answer", *(f"{one.unanswered:,}" for one in rounds)))
    return rows


def shown(number: Estimate | None, form: str, with_p: bool = False) -> str:
    if number is None:
        return ""
    p = f", p {'< 0.001' if number.p < 0.001 else f'= {number.p:.3f}'}" if with_p and number.p is not None else ""
    return f"{number.value:{form}} [{number.low:{form}}, {number.high:{form}}]{p}"


def _of(some: Any, all_: Any) -> str:
    return "" if some is None else f"{some:,} of {all_:,}"


def _share(value: float | None) -> str:
    return "" if value is None else f"{value:.1%}"


def _legend(plan: Plan) -> str:
    followed = (
        " The training judge of round t is M_{t−1}, so its scores of two rounds are of two judges; gains and win rates"
        " compare both policies under one, that of round t."
        if plan.judge.follows
        else ""
    )
    return (
        "Means over held-out prompts with 95 % intervals (bootstrap); p of a gain by a sign-flip permutation test, at"
        " equal length by the regression's intercept. Answers are drawn as candidates are, so the log ratio is the KL"
        f" divergence from M_0 at temperature 1 and near it elsewhere.{followed}"
    )


def _plot(plan: Plan, rounds: Sequence[Round], file: Path) -> bool:
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        return False
    names = ("judge", "other", "length", "log_ratio")
    panels = [name for name in names if any(name in one.numbers for one in rounds)]
    figure = Figure(figsize=(3.2 * len(panels), 3.0), layout="constrained")
    FigureCanvasAgg(figure)
    for axis, name in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        points = [(one.number, one.numbers[name]) for one in rounds if name in one.numbers]
        at, values = [n for n, _ in points], [number.value for _, number in points]
        below = [number.value - number.low for _, number in points]
        above = [number.high - number.value for _, number in points]
        axis.errorbar(at, values, yerr=[below, above], marker="o", capsize=3)
        axis.set_title(NUMBERS[name][0], fontsize=9)
        axis.set_xlabel("round")
        axis.set_xticks([one.number for one in rounds])
    figure.savefig(file, dpi=120)
    return True
