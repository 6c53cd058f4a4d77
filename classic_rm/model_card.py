"""The model card (README.md) and the plot of the training curves (training.png) beside a trained model's weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from classic_rm.critiques.training import CritiqueTrainingResult
from classic_rm.settings import CritiqueSettings, TrainingSettings
from classic_rm.training import TrainingResult

PLOT_FILE = "training.png"


def plot_training_curves(history: Sequence[Mapping[str, float]], best_step: int, file: Path) -> None:
    """Plot loss, accuracy, margin and both mean rewards over steps: training dashed, held-out prompts solid."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 6.5), layout="constrained")
    axes = figure.subplots(2, 2)
    steps = [row["step"] for row in history]
    panels = (
        ("loss", [("loss", "")]),
        ("accuracy", [("accuracy", "")]),
        ("margin (chosen less rejected)", [("margin", "")]),
        ("mean reward", [("chosen_reward", "chosen"), ("rejected_reward", "rejected")]),
    )
    for axis, (title, lines) in zip(axes.flat, panels, strict=True):
        for colour, (name, label) in zip(("tab:blue", "tab:red"), lines, strict=False):
            for prefix, style, source in (("eval_", "-", "held out"), ("train_", "--", "training")):
                points = [
                    (s, row[prefix + name]) for s, row in zip(steps, history, strict=True) if prefix + name in row
                ]
                if points:
                    axis.plot(
                        *zip(*points, strict=True),
                        style,
                        color=colour,
                        marker="o",
                        ms=3,
                        label=f"{label} {source}".strip(),
                    )
        axis.axvline(best_step, color="grey", lw=0.8, ls=":")
        axis.set_title(title)
        axis.set_xlabel("step (dotted: the saved one)")
        axis.legend(fontsize=8)
    axes[0, 0].axhline(0.6931, color="grey", lw=0.5)
    axes[0, 1].axhline(0.5, color="grey", lw=0.5)
    figure.savefig(file, dpi=110)


def render_model_card(
    name: str,
    result: TrainingResult,
    settings: TrainingSettings,
    tables: Mapping[str, str],
    statistics: Mapping[str, Any],
) -> str:
    """The model card of a reward model in Markdown.

    `tables` maps titles to Markdown tables; `statistics` are those of `model.read_statistics`."""
    batches = "padded rows of like length" if result.unshared_reason else "each prompt computed once for its responses"
    parts = [
        "---\npipeline_tag: text-classification\ntags: [reward-model, bradley-terry]\n"
        f"base_model: {settings.start.base}\n---\n",
        f"# {name}\n",
        "A Bradley–Terry reward model: one raw reward for a prompt and its response, no sigmoid. "
        "Trained with Assay; `assay score FILE --scorer bradley-terry,model=THIS_FOLDER -o OUT` reads it, "
        "and so does transformers' `AutoModelForSequenceClassification`.\n",
        f"## Data\n\n{result.counts}. Trained on {result.train_rows} rows, {len(result.held_out_rows)} held out, "
        f"split by prompt; {batches}.\n",
        f"## Result\n\nBest step (saved): {result.best_step}, with held-out loss {result.validation_loss:.4f} and "
        f"accuracy {result.validation_accuracy:.3f}.\n",
        *(f"### {title}\n\n{table}\n" for title, table in tables.items()),
        f"![curves]({PLOT_FILE})\n",
        _reward_scale("responses", statistics),
        _settings_list(settings.start, settings),
    ]
    return "\n".join(parts)


def render_critique_model_card(
    name: str,
    result: CritiqueTrainingResult,
    settings: CritiqueSettings,
    tables: Mapping[str, str],
    statistics: Mapping[str, Any],
) -> str:
    """The model card of a critique-out-loud model in Markdown; see `render_model_card`."""
    start = settings.training.start
    metrics = list(dict.fromkeys(metric for stage in result.stages for metric in stage.after))
    header = " | ".join(metric.replace("_", " ") for metric in metrics)
    lines = [f"| held-out | {header} |", "|---|" + "--:|" * len(metrics)]
    for stage in result.stages:
        for step, values in (("before", stage.before), (f"step {stage.best_step}, saved", stage.after)):
            cells = (f"{values[metric]:.4f}" if metric in values else "" for metric in metrics)
            lines.append(f"| {stage.name}, {step} | {' | '.join(cells)} |")
    incomplete = ", ".join(f"{count} {reason}" for reason, count in result.failures.items()) or "none"
    parts = [
        f"---\npipeline_tag: text-generation\ntags: [reward-model, critique-out-loud]\nbase_model: {start.base}\n---\n",
        f"# {name}\n",
        "A reward model that writes a critique first (Ankner et al. 2024, arXiv 2408.11791): a causal LM, and a head "
        "that computes one raw reward at the last token of its critique. Trained with Assay; "
        "`assay score FILE --scorer critique-out-loud,model=THIS_FOLDER -o OUT` reads it. The LM alone is a "
        "transformers checkpoint; `template.md` is its prompt template.\n",
        f"## Data\n\n{result.counts}. {len(result.held_out_rows)} rows held out, split by prompt.\n",
        *(f"- {stage.name}: {stage.counts}\n" for stage in result.stages),
        f"Own critiques: {result.own_critiques}, of at most {settings.critique_tokens} tokens, at temperature "
        f"{settings.temperature:g}; incomplete and left out: {incomplete}.\n",
        "## Result\n\nLosses in nats: of critiques per token, of preference per prompt. The last stage is measured on "
        "critiques that the LM of the first stage wrote.\n\n" + "\n".join(lines) + "\n",
        *(f"### {title}\n\n{table}\n" for title, table in tables.items()),
        f"![curves of the last stage]({PLOT_FILE})\n",
        _reward_scale("critiques", statistics),
        _settings_list(start, settings.training, settings),
    ]
    return "\n".join(parts)


def _reward_scale(scored: str, statistics: Mapping[str, Any]) -> str:
    return (
        "## Reward scale\n\nMean {mean:.4f} and standard deviation {deviation:.4f} over {responses} held-out "
        f"{scored}; P(a over b) = σ((r_a − r_b) / {{temperature:.4f}}).\n"
    ).format(**statistics)


def _settings_list(*groups: Any) -> str:
    values = (
        f"- {field.name}: {getattr(group, field.name)}"
        for group in groups
        for field in fields(group)
        if field.name not in ("start", "training")
    )
    return "## Settings\n\n" + "\n".join(values) + "\n"
