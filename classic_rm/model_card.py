"""What a training leaves beside the weights: a plot of its curves and a model card."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from classic_rm.critiques.training import CritiquesTrained
from classic_rm.settings import CritiqueSettings, TrainingSettings
from classic_rm.training import Trained

PLOT = "training.png"


def plot(history: Sequence[Mapping[str, float]], best_step: int, file: Path) -> None:
    """Loss, accuracy, margin and both mean rewards over steps: training dashed, held-out prompts solid."""
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
            for prefix, style, where in (("eval_", "-", "held out"), ("train_", "--", "training")):
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
                        label=f"{label} {where}".strip(),
                    )
        axis.axvline(best_step, color="grey", lw=0.8, ls=":")
        axis.set_title(title)
        axis.set_xlabel("step (dotted: the one kept)")
        axis.legend(fontsize=8)
    axes[0, 0].axhline(0.6931, color="grey", lw=0.5)
    axes[0, 1].axhline(0.5, color="grey", lw=0.5)
    figure.savefig(file, dpi=110)


def card(
    name: str, trained: Trained, settings: TrainingSettings, tables: Mapping[str, str], found: Mapping[str, Any]
) -> str:
    """The model card in Markdown; `tables` are ready Markdown tables by title, `found` the reward's statistics."""
    shared = (
        "each prompt computed once for its responses" if not trained.shares_prompts else "padded rows of like length"
    )
    parts = [
        "---\npipeline_tag: text-classification\ntags: [reward-model, bradley-terry]\n"
        f"base_model: {settings.start.base}\n---\n",
        f"# {name}\n",
        "A Bradley–Terry reward model: one raw reward for a prompt and its response, no sigmoid. "
        "Trained with Assay; `assay score FILE --scorer bradley-terry,model=THIS_FOLDER -o OUT` reads it, "
        "and so does transformers' `AutoModelForSequenceClassification`.\n",
        f"## Data\n\n{trained.counts}. Trained on {trained.train_prompts} rows, {len(trained.held_rows)} held out, "
        f"split by prompt; {shared}.\n",
        f"## Result\n\nKept: step {trained.best_step}, held-out loss {trained.validation_loss:.4f}, "
        f"accuracy {trained.validation_accuracy:.3f}.\n",
        *(f"### {title}\n\n{table}\n" for title, table in tables.items()),
        f"![curves]({PLOT})\n",
        "## Reward scale\n\nMean {mean:.4f} and deviation {deviation:.4f} over {responses} held-out responses; "
        "P(a over b) = σ((r_a − r_b) / {temperature:.4f}).\n".format(**found),
        "## Settings\n\n" + _listed(settings.start, settings) + "\n",
    ]
    return "\n".join(parts)


def critique_card(
    name: str,
    trained: CritiquesTrained,
    settings: CritiqueSettings,
    tables: Mapping[str, str],
    found: Mapping[str, Any],
) -> str:
    """The same for critique-out-loud."""
    start = settings.training.start
    names = list(dict.fromkeys(name for stage in trained.stages for name in stage.after))
    lines = [f"| held-out | {' | '.join(name.replace('_', ' ') for name in names)} |", "|---|" + "--:|" * len(names)]
    for stage in trained.stages:
        for when, told in (("before", stage.before), (f"step {stage.best_step}, kept", stage.after)):
            cells = (f"{told[name]:.4f}" if name in told else "" for name in names)
            lines.append(f"| {stage.name}, {when} | {' | '.join(cells)} |")
    cut = ", ".join(f"{count} {reason}" for reason, count in trained.failures.items()) or "none"
    parts = [
        f"---\npipeline_tag: text-generation\ntags: [reward-model, critique-out-loud]\nbase_model: {start.base}\n---\n",
        f"# {name}\n",
        "A reward model that writes a critique first (Ankner et al. 2024, arXiv 2408.11791): a causal LM, and a head "
        "that reads one raw reward at the last token of its critique. Trained with Assay; "
        "`assay score FILE --scorer critique-out-loud,model=THIS_FOLDER -o OUT` reads it. The LM alone is a plain "
        "checkpoint; `template.md` is the prompt that it answers.\n",
        f"## Data\n\n{trained.counts}. {len(trained.held)} rows held out, split by prompt.\n",
        *(f"- {stage.name}: {stage.counts}\n" for stage in trained.stages),
        f"Own critiques: {trained.written}, of at most {settings.critique_tokens} tokens, at temperature "
        f"{settings.temperature:g}; not whole and left out: {cut}.\n",
        "## Result\n\nLosses in nats: of critiques by token, of preference by prompt. What the last stage is measured "
        "on are critiques by the LM of the first.\n\n" + "\n".join(lines) + "\n",
        *(f"### {title}\n\n{table}\n" for title, table in tables.items()),
        f"![curves of the last stage]({PLOT})\n",
        "## Reward scale\n\nMean {mean:.4f} and deviation {deviation:.4f} over {responses} held-out critiques; "
        "P(a over b) = σ((r_a − r_b) / {temperature:.4f}).\n".format(**found),
        "## Settings\n\n" + _listed(start, settings.training, settings) + "\n",
    ]
    return "\n".join(parts)


def _listed(*held: Any) -> str:
    return "\n".join(
        f"- {one.name}: {getattr(of, one.name)}"
        for of in held
        for one in fields(of)
        if one.name not in ("start", "training")
    )
