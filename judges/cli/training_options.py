"""The options of `assay train`, `filter` and `doctor`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from judges.cli.options import Quiet

# Options of `train` that one kind does not read: given, they are refused.
NOT_FOR_CRITIQUES = (
    *("lora", "layers", "frozen", "heads", "ensemble", "smoothing", "contrast", "uncertainty"),
    *("foreign_rejected", "share_prompts", "log_to"),
)
ONLY_FOR_CRITIQUES = ("critique_weight", "critique_tokens", "critique_temperature", "template", "engine")


def train(
    context: typer.Context,
    file: Annotated[
        str,
        typer.Argument(help="Rows of prompt, chosen, rejected (or responses with scores); hf:OWNER/NAME; demo:train."),
    ],
    output: Annotated[Path, typer.Option("-o", "--output", help="The checkpoint's folder.")],
    kind: Annotated[
        Literal["bradley-terry", "critique-out-loud"],
        typer.Option(help="The latter writes a critique first; it learns from chosen_critique, rejected_critique."),
    ] = "bradley-terry",
    test: Annotated[str | None, typer.Option(help="A file to measure on at the end, beside the baselines.")] = None,
    map_: Annotated[list[str] | None, typer.Option("--map", help="field=column; more than once.")] = None,
    limit: Annotated[int | None, typer.Option(min=2, help="Only so many rows.")] = None,
    quality: Annotated[bool, typer.Option(help="Filter the rows first, as assay filter does.")] = False,
    base: Annotated[
        str | None,
        typer.Option(help="The model to begin from.", show_default="embedded:minilm; critiques: embedded:smollm2-135m"),
    ] = None,
    lora: Annotated[int, typer.Option(min=0, help="Rank of LoRA adapters; 0 trains every weight.")] = 0,
    layers: Annotated[int | None, typer.Option(min=1, help="Keep only the first layers of a decoder.")] = None,
    frozen: Annotated[int, typer.Option(min=0, help="Embeddings and so many first layers stay as they are.")] = 0,
    dropout: Annotated[float, typer.Option(min=0, max=0.9, help="Before the reward head.")] = 0.1,
    heads: Annotated[int, typer.Option(min=1, help="An ensemble of heads on one backbone.")] = 1,
    ensemble: Annotated[int, typer.Option(min=1, help="An ensemble of models, by seed.")] = 1,
    epochs: Annotated[float, typer.Option(min=0.01)] = 1,
    learning_rate: Annotated[float, typer.Option(min=0)] = 1e-5,
    batch_size: Annotated[int, typer.Option(min=1, help="Rows a step and device.")] = 16,
    accumulation: Annotated[int, typer.Option(min=1, help="Batches added up before a step.")] = 1,
    checkpointing: Annotated[bool, typer.Option(help="Less memory, a third more time.")] = False,
    max_length: Annotated[
        int | None,
        typer.Option(
            min=8,
            help="Tokens; a longer prompt is cut from the left, a row with a longer critique left out.",
            show_default="512; critiques: 1024",
        ),
    ] = None,
    weight_decay: Annotated[float, typer.Option(min=0)] = 0.01,
    warmup_share: Annotated[float, typer.Option(min=0, max=1)] = 0.1,
    centring: Annotated[float, typer.Option(min=0, help="Weight of (chosen + rejected)².")] = 0.01,
    smoothing: Annotated[float, typer.Option(min=0, max=0.49, help="Share of labels taken to be wrong.")] = 0.0,
    contrast: Annotated[float, typer.Option(min=0, help="Weight of the contrastive term.")] = 0.0,
    uncertainty: Annotated[bool, typer.Option(help="Weigh pairs by how far the heads agree.")] = False,
    foreign_rejected: Annotated[
        bool, typer.Option(help="Another prompt's response as a second rejected in each row.")
    ] = False,
    share_prompts: Annotated[bool, typer.Option(help="Compute each prompt once for its responses.")] = True,
    validation_share: Annotated[float, typer.Option(help="Share of prompts held out.")] = 0.1,
    patience: Annotated[int, typer.Option(min=1, help="Evaluations without a lower held-out loss.")] = 3,
    evaluations: Annotated[int, typer.Option(min=1, help="Evaluations an epoch.")] = 4,
    critique_weight: Annotated[
        float, typer.Option(min=0, help="Critiques: weight of the LM loss beside Bradley–Terry's.")
    ] = 1.25,
    critique_tokens: Annotated[int, typer.Option(min=1, help="Critiques: the longest of its own.")] = 256,
    critique_temperature: Annotated[float, typer.Option(min=0, help="Critiques: at which it writes its own.")] = 0.5,
    template: Annotated[
        str, typer.Option(help="Critiques: the prompt, by name or as a file.md.")
    ] = "critique-out-loud",
    engine: Annotated[
        str, typer.Option(help="Critiques: what writes its own; vllm where it is installed, else transformers.")
    ] = "",
    seed: int = 0,
    log_to: Annotated[list[str] | None, typer.Option(help="tensorboard or wandb; more than once.")] = None,
    if_missing: Annotated[bool, typer.Option("--if-missing", help="Do nothing where the folder is there.")] = False,
    quiet: Quiet = False,
) -> None:
    """Train a reward model. Killed and started again, it goes on from its last evaluation."""
    from judges.cli.score import read_pairs
    from judges.cli.train import run
    from judges.errors import CannotRun

    critiques = kind == "critique-out-loud"
    elsewhere = NOT_FOR_CRITIQUES if critiques else ONLY_FOR_CRITIQUES
    sources = {name: context.get_parameter_source(name) for name in elsewhere}
    if given := [name for name, source in sources.items() if source is not None and source.name != "DEFAULT"]:
        raise CannotRun(f"--{given[0].replace('_', '-')} is not for --kind {kind}")
    if engine not in ("", "vllm", "transformers"):
        raise CannotRun(f"--engine is vllm or transformers, not {engine!r}")
    settings = {
        "base": base or ("embedded:smollm2-135m" if critiques else "embedded:minilm"),
        "lora": lora,
        "layers": layers,
        "frozen": frozen,
        "dropout": dropout,
        "heads": heads,
        "epochs": epochs,
        "learning_rate": learning_rate,
        "batch_size": batch_size,
        "accumulation": accumulation,
        "checkpointing": checkpointing,
        "max_length": max_length or (1024 if critiques else 512),
        "weight_decay": weight_decay,
        "warmup_share": warmup_share,
        "centring": centring,
        "smoothing": smoothing,
        "contrast": contrast,
        "uncertainty": uncertainty,
        "foreign_rejected": foreign_rejected,
        "share_prompts": share_prompts,
        "validation_share": validation_share,
        "patience": patience,
        "evaluations": evaluations,
        "seed": seed,
        "log_to": tuple(log_to or ()),
    }
    if critiques:
        from judges.cli.train_critiques import run as run_critiques

        run_critiques(
            file,
            output,
            settings,
            critique_weight=critique_weight,
            critique_tokens=critique_tokens,
            critique_temperature=critique_temperature,
            template=template,
            engine=engine,
            mapping=read_pairs("--map", map_ or []),
            test=test,
            limit=limit,
            quality=quality,
            if_missing=if_missing,
            quiet=quiet,
        )
        return
    run(
        file,
        output,
        settings,
        mapping=read_pairs("--map", map_ or []),
        test=test,
        limit=limit,
        ensemble=ensemble,
        quality=quality,
        if_missing=if_missing,
        quiet=quiet,
    )


def filter_(
    file: Annotated[str, typer.Argument(help="Rows of prompt, chosen, rejected: JSONL, CSV or Parquet.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="A JSONL file for the rows to keep.")],
    taken: Annotated[
        Path | None,
        typer.Option(help="A JSONL file for the others, with reasons; beside the output by default."),
    ] = None,
    map_: Annotated[list[str] | None, typer.Option("--map", help="field=column; more than once.")] = None,
    min_length: Annotated[int, typer.Option(min=0, help="Of a response, in words or Chinese characters.")] = 1,
    max_length: Annotated[int | None, typer.Option(min=0)] = None,
    min_prompt_length: Annotated[int, typer.Option(min=0, help="Of all the prompt's turns.")] = 1,
    max_prompt_length: Annotated[int | None, typer.Option(min=0)] = None,
    max_similarity: Annotated[
        float, typer.Option(max=1, help="From here on chosen and rejected are too similar (difflib's ratio).")
    ] = 0.8,
    min_agreement: Annotated[
        float, typer.Option(min=0, max=1, help="Share of annotators; rows that do not say are kept.")
    ] = 0.6,
    against: Annotated[
        list[str] | None, typer.Option(help="A file or benchmark whose prompts must not be in; more than once.")
    ] = None,
    quiet: Quiet = False,
) -> None:
    """Take out preference rows that would teach wrong things, each with its reason."""
    from judges.cli.filter import run
    from judges.cli.score import read_pairs
    from judges.data.quality import Filters
    from judges.errors import CannotRun

    try:
        filters = Filters(min_length, max_length, min_prompt_length, max_prompt_length, max_similarity, min_agreement)
    except ValueError as error:
        raise CannotRun(str(error)) from error
    run(file, output, taken, read_pairs("--map", map_ or []), filters, against or [], quiet)


def doctor(
    model: Annotated[str, typer.Argument(help="A reward model or judge: a hub name, a folder, or embedded:NAME.")],
    remote_code: Annotated[bool, typer.Option("--remote-code", help="Run the code that comes with the model.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="Only warnings and faults.")] = False,
) -> None:
    """Examine a model from anywhere, with numbers: tokens, head, padding, dtype, ties. Exit 1 if anything is wrong."""
    from judges.cli.doctor import run

    run(model, remote_code, quiet)
