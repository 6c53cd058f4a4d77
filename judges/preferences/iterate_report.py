"""Report of `assay iterate`: a table of the rounds, a plot, and both in `report.md`."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from judges.evaluation.report.html import write_atomically
from judges.evaluation.report.markdown import markdown_table
from judges.preferences.held_out import Estimate
from judges.preferences.iterate import RoundResult
from judges.preferences.iterate_config import IterateConfig

REPORT, PLOT = "report.md", "rounds.png"
# The title and the number format of each metric of a round.
METRICS: Mapping[str, tuple[str, str]] = {
    "judge": ("held-out score, training judge", ".3f"),
    "judge_gain": ("gain on the round before", "+.3f"),
    "judge_gain_from_0": ("gain on M_0", "+.3f"),
    "judge_gain_at_equal_length": ("gain on the round before at equal length", "+.3f"),
    "judge_wins": ("win rate against the round before", ".3f"),
    "judge_wins_from_0": ("win rate against M_0", ".3f"),
    "other": ("held-out score, other scorer", ".3f"),
    "other_gain": ("gain on the round before, other scorer", "+.3f"),
    "other_gain_from_0": ("gain on M_0, other scorer", "+.3f"),
    "other_gain_at_equal_length": ("gain on the round before at equal length, other scorer", "+.3f"),
    "other_wins": ("win rate against the round before, other scorer", ".3f"),
    "other_wins_from_0": ("win rate against M_0, other scorer", ".3f"),
    "length": ("characters per answer", ".0f"),
    "log_ratio": ("log π_t − log π_0 of an answer, nats", ".2f"),
    "judge_accuracy": ("the judge's accuracy on the benchmark", ".3f"),
}
_PLOTTED_METRICS = ("judge", "other", "length", "log_ratio")


def write_report(config: IterateConfig, rounds: Sequence[RoundResult], folder: Path) -> Path:
    """Write `report.md`, `rounds.json` and, if matplotlib is installed, `rounds.png`; returns the report's path."""
    records = [asdict(result) for result in rounds]
    write_atomically(folder / "rounds.json", json.dumps(records, indent=1, ensure_ascii=False) + "\n")
    lines = ["# Rounds", ""]
    lines += [f"Policy {config.model}, judged by {config.judge}; other scorer: {config.other or 'none'}.", ""]
    lines += markdown_table(
        ("", *(f"M_{result.number}" for result in rounds)), table_rows(rounds, with_p=True), texts=1
    )
    lines += ["", _render_notes(config)]
    if config.stop and rounds[-1].stopped:
        model = best_model(config, rounds)
        lines += ["", f"Stopped after round {rounds[-1].number}: {rounds[-1].stopped}. The best model is {model}."]
    if _write_plot(rounds, folder / PLOT):
        lines += ["", f"![scores, length and log ratio by round]({PLOT})"]
    path = folder / REPORT
    write_atomically(path, "\n".join(lines) + "\n")
    return path


def best_model(config: IterateConfig, rounds: Sequence[RoundResult]) -> str:
    """The model with the largest gain on M_0 by the training judge; M_0 if no round gained."""
    key = "judge_gain_from_0"
    gains = {result.number: result.numbers[key].value for result in rounds if key in result.numbers}
    number = max(gains, key=lambda number: gains[number], default=0)
    return f"round-{number}/model" if number and gains[number] > 0 else config.model


def table_rows(rounds: Sequence[RoundResult], with_p: bool = False) -> list[tuple[str, ...]]:
    """The rows of the table: a title, then the value of each round."""
    rows = [
        ("prompts with pairs", *(_format_paired(result) for result in rounds)),
        ("pairs", *(f"{result.pairs:,}" if result.number else "" for result in rounds)),
    ]
    if any(result.judgment_pairs for result in rounds):
        counts = (f"{result.judgment_pairs:,}" if result.number else "" for result in rounds)
        rows.append(("pairs of judgments", *counts))
    for key, (title, number_format) in METRICS.items():
        if any(key in result.numbers for result in rounds):
            values = (format_estimate(result.numbers.get(key), number_format, with_p) for result in rounds)
            rows.append((title, *values))
    if any(result.trained and result.trained.too_long for result in rounds):
        too_long = (f"{result.trained.too_long:,}" if result.trained else "" for result in rounds)
        rows.append(("pairs too long to train on", *too_long))
    shares = (result.distinct_bigrams for result in rounds)
    rows.append(("distinct bigrams", *("" if share is None else f"{share:.1%}" for share in shares)))
    rows.append(("answers without a score", *(f"{result.without_score:,}" for result in rounds)))
    if any(result.unanswered for result in rounds):
        rows.append(("held-out prompts without an answer", *(f"{result.unanswered:,}" for result in rounds)))
    return rows


def format_estimate(estimate: Estimate | None, number_format: str, with_p: bool = False) -> str:
    """Format an estimate as `value [low, high]`, with the p value if asked for; None gives an empty string."""
    if estimate is None:
        return ""
    value, low, high = (format(number, number_format) for number in (estimate.value, estimate.low, estimate.high))
    if not with_p or estimate.p is None:
        return f"{value} [{low}, {high}]"
    return f"{value} [{low}, {high}], p {'< 0.001' if estimate.p < 0.001 else f'= {estimate.p:.3f}'}"


def _format_paired(result: RoundResult) -> str:
    return f"{result.account['paired']:,} of {result.account['prompts']:,}" if result.account else ""


def _render_notes(config: IterateConfig) -> str:
    notes = (
        "Means over held-out prompts with 95 % bootstrap intervals. The p value of a gain is from a sign-flip"
        " permutation test; at equal length it is that of the regression's intercept. Answers are sampled as candidates"
        " are, so the log ratio is the KL divergence from M_0 at temperature 1 and close to it otherwise."
    )
    if config.judge.follows:
        notes += (
            " The training judge of round t is M_{t−1}, so scores of different rounds are by different judges; gains"
            " and win rates compare both policies under the judge of round t."
        )
    return notes


def _write_plot(rounds: Sequence[RoundResult], file: Path) -> bool:
    """Plot scores, length and log ratio by round; False without matplotlib."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        return False
    metrics = [name for name in _PLOTTED_METRICS if any(name in result.numbers for result in rounds)]
    figure = Figure(figsize=(3.2 * len(metrics), 3.0), layout="constrained")
    FigureCanvasAgg(figure)
    for axis, name in zip(figure.subplots(1, len(metrics), squeeze=False)[0], metrics, strict=True):
        numbers = [result.number for result in rounds if name in result.numbers]
        estimates = [result.numbers[name] for result in rounds if name in result.numbers]
        lower = [estimate.value - estimate.low for estimate in estimates]
        upper = [estimate.high - estimate.value for estimate in estimates]
        axis.errorbar(numbers, [estimate.value for estimate in estimates], yerr=[lower, upper], marker="o", capsize=3)
        axis.set_title(METRICS[name][0], fontsize=9)
        axis.set_xlabel("round")
        axis.set_xticks([result.number for result in rounds])
    figure.savefig(file, dpi=120)
    return True
