"""The options of `assay train`, `iterate` and `doctor`."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Annotated, Literal, cast

from typer import Argument, Context, Option

from judges.cli import options as opt

# Options of `train` that one kind does not use: an error where they are given.
NOT_FOR_CRITIQUES = (
    *("lora", "layers", "frozen", "heads", "ensemble", "smoothing", "contrast", "uncertainty"),
    *("foreign_rejected", "share_prompts", "log_to"),
)
ONLY_FOR_CRITIQUES = ("critique_weight", "critique_tokens", "critique_temperature", "template", "engine")


def train(
    context: Context,
    file: Annotated[
        str,
        Argument(help="Rows of prompt, chosen, rejected, or responses with scores: a file, hf:OWNER/NAME, demo:train."),
    ],
    output: Annotated[Path, Option("-o", "--output", help="Folder for the checkpoint.")],
    kind: Annotated[
        Literal["bradley-terry", "critique-out-loud"],
        Option(
            help="critique-out-loud writes a critique before it scores; it also needs the columns chosen_critique and"
            " rejected_critique."
        ),
    ] = "bradley-terry",
    test: Annotated[str | None, Option(help="Test pairs, to measure accuracy at the end.")] = None,
    map_: opt.Mapping = None,
    limit: Annotated[int | None, Option(min=2, help="Use only so many rows, taken from all subsets in turn.")] = None,
    quality: Annotated[bool, Option(help="Filter the rows first, as assay filter does.")] = False,
    base: Annotated[
        str | None,
        Option(help="Model to start from.", show_default="embedded:minilm; for critiques embedded:smollm2-135m"),
    ] = None,
    lora: opt.Lora = 0,
    layers: Annotated[int | None, Option(min=1, help="Use only the first layers of a decoder.")] = None,
    frozen: Annotated[int, Option(min=0, help="Freeze the embeddings and so many of the first layers.")] = 0,
    dropout: Annotated[float, Option(min=0, max=0.9, help="Dropout before the reward head.")] = 0.1,
    heads: Annotated[int, Option(min=1, help="Number of reward heads on one backbone.")] = 1,
    ensemble: Annotated[int, Option(min=1, help="Number of models to train, which differ by their seed.")] = 1,
    epochs: opt.Epochs = 1,
    learning_rate: Annotated[float, Option(min=0, help="Peak learning rate of AdamW.")] = 1e-5,
    batch_size: opt.BatchSize = 16,
    accumulation: opt.Accumulation = 1,
    checkpointing: opt.Checkpointing = False,
    max_length: Annotated[
        int | None,
        Option(
            min=8,
            help="Tokens per row: a longer prompt is truncated on the left, a row with a longer critique is left out.",
            show_default="512; for critiques 1024",
        ),
    ] = None,
    weight_decay: Annotated[float, Option(min=0, help="Weight decay of AdamW.")] = 0.01,
    warmup_share: Annotated[float, Option(min=0, max=1, help="Share of the steps that warm up.")] = 0.1,
    centring: Annotated[float, Option(min=0, help="Weight of the term (chosen + rejected reward)².")] = 0.01,
    smoothing: Annotated[float, Option(min=0, max=0.49, help="Label smoothing: the share of wrong labels.")] = 0.0,
    contrast: Annotated[float, Option(min=0, help="Weight of the contrastive term.")] = 0.0,
    uncertainty: Annotated[bool, Option(help="Weight each pair by how well the heads agree on it.")] = False,
    foreign_rejected: Annotated[bool, Option(help="Add the response to another prompt as rejected.")] = False,
    share_prompts: Annotated[bool, Option(help="Compute each prompt once for all its responses.")] = True,
    validation_share: Annotated[float, Option(help="Share of the prompts to hold out.")] = 0.1,
    patience: Annotated[int, Option(min=1, help="Early stopping: evaluations without a lower held-out loss.")] = 3,
    evaluations: Annotated[int, Option(min=1, help="Evaluations per epoch.")] = 4,
    critique_weight: Annotated[float, Option(min=0, help="Critiques: weight of the language-model loss.")] = 1.25,
    critique_tokens: Annotated[int, Option(min=1, help="Critiques: token limit of a sampled critique.")] = 256,
    critique_temperature: Annotated[float, Option(min=0, help="Critiques: temperature of the sampling.")] = 0.5,
    template: Annotated[str, Option(help="Critiques: the prompt template, a name or a file.md.")] = "critique-out-loud",
    engine: Annotated[
        str,
        Option(
            help="Critiques: engine that samples critiques, vllm or transformers.",
            show_default="vllm where it is installed",
        ),
    ] = "",
    seed: opt.Seed = 0,
    log_to: Annotated[list[str] | None, Option(help="Log to tensorboard or wandb. Repeatable.")] = None,
    if_missing: Annotated[bool, Option("--if-missing", help="Do nothing if the checkpoint exists already.")] = False,
    quiet: opt.Quiet = False,
) -> None:
    """Train a reward model on preference rows. The same command resumes from the last evaluation."""
    from classic_rm.settings import ModelSettings, TrainingSettings
    from judges.cli.scorer_options import parse_assignments
    from judges.errors import CannotRun

    critiques = kind == "critique-out-loud"
    for name in NOT_FOR_CRITIQUES if critiques else ONLY_FOR_CRITIQUES:
        source = context.get_parameter_source(name)
        if source is not None and source.name != "DEFAULT":
            raise CannotRun(f"--{name.replace('_', '-')} is not for --kind {kind}")
    if engine not in ("", "vllm", "transformers"):
        raise CannotRun(f"--engine is vllm or transformers, not {engine!r}")
    # The options of a training are the fields of its settings, by name.
    names = {field.name for settings in (ModelSettings, TrainingSettings) for field in fields(settings)}
    settings = {name: value for name, value in context.params.items() if name in names} | {
        "base": base or ("embedded:smollm2-135m" if critiques else "embedded:minilm"),
        "max_length": max_length or (1024 if critiques else 512),
        "log_to": tuple(log_to or ()),
    }
    mapping = parse_assignments("--map", map_ or [])
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
            mapping=mapping,
            test=test,
            limit=limit,
            quality=quality,
            if_missing=if_missing,
            quiet=quiet,
        )
        return
    from judges.cli.train import run

    run(
        file,
        output,
        settings,
        mapping=mapping,
        test=test,
        limit=limit,
        ensemble=ensemble,
        quality=quality,
        if_missing=if_missing,
        quiet=quiet,
    )


def iterate(
    file: Annotated[str, Argument(help="Prompts to train on; formats as for score.")],
    held_out: Annotated[str, Option(help="Prompts that no round trains on, to evaluate each round.")],
    output: opt.OutputFolder,
    policy: Annotated[
        str,
        Option(help=f"First policy: {opt.POLICY_SPEC}."),
    ] = "embedded:smollm2-135m",
    scorer: opt.JudgeSpec = "self-rewarding",
    other: Annotated[str | None, Option(help="Another scorer, for evaluation only.", metavar="SPEC")] = None,
    rounds: Annotated[int, Option(min=1, help="Number of rounds.")] = 3,
    candidates: opt.SampledCandidates = 4,
    prompts_a_round: Annotated[int | None, Option(min=1, help="New prompts per round.", show_default="all")] = None,
    replay: Annotated[
        Literal["none", "last", "all"], Option(help="Earlier rounds whose pairs are used again.")
    ] = "none",
    stop: Annotated[
        bool,
        Option(help="Stop when the held-out score falls or the judge scores all candidates alike."),
    ] = True,
    held_out_answers: Annotated[int, Option(min=1, help="Responses to sample for each held-out prompt.")] = 2,
    held_out_limit: Annotated[int | None, Option(min=1, help="Use only the first held-out prompts.")] = None,
    benchmark: Annotated[str | None, Option(help="Benchmark, if the policy is the judge.")] = None,
    benchmark_limit: Annotated[int | None, Option(min=1, help="Use only so many rows of the benchmark.")] = None,
    evaluation_data: Annotated[
        str | None,
        Option(help="Rows with human labels, to train a policy that is the judge."),
    ] = None,
    meta_judge: Annotated[
        str | None,
        Option(help="Scorer of the policy's judgments, to train it as a judge: pairwise.", metavar="SPEC"),
    ] = None,
    choose: opt.Choose = "best-worst",
    top: opt.Top = 2,
    margin: opt.Margin = 0.0,
    agreement: opt.Agreement = 0.0,
    length_tolerance: opt.LengthTolerance = 0.0,
    whole: opt.Whole = False,
    quality: opt.Quality = False,
    against: opt.Against = None,
    budget: Annotated[int | None, Option(min=1, help="Keep at most so many pairs per round, drawn at random.")] = None,
    beta: Annotated[float, Option(min=0, help="β of DPO: the weight of staying near the round's start.")] = 0.1,
    lora: opt.Lora = 16,
    learning_rate: Annotated[
        float | None,
        Option(min=0, help="Peak learning rate, which falls to a tenth.", show_default="2e-5; without LoRA 1e-6"),
    ] = None,
    epochs: opt.Epochs = 1,
    batch_size: opt.BatchSize = 4,
    accumulation: opt.Accumulation = 4,
    checkpointing: opt.Checkpointing = False,
    max_length: Annotated[int, Option(min=8, help="Tokens; a longer pair is left out.")] = 1024,
    processes: Annotated[int, Option(min=1, help="Training processes, one per GPU (accelerate).")] = 1,
    seed: opt.Seed = 0,
    map_: opt.Mapping = None,
    limit: opt.Limit = None,
    quiet: opt.Quiet = False,
) -> None:
    """Self-rewarding rounds: sample pairs, train with DPO, evaluate, repeat. The same command resumes."""
    from judges.cli.iterate import parse_judge, parse_other_scorer, parse_policy, run
    from judges.cli.pairs import build_pair_options
    from judges.cli.scorer_options import parse_assignments
    from judges.errors import CannotRun
    from judges.preferences.dpo import DPOSettings
    from judges.preferences.iterate_config import IterateConfig
    from judges.preferences.pair_selection import SelectionRule, SelectionStrategy

    model, settings = parse_policy(policy)
    settings.setdefault("seed", seed)
    try:
        rule = SelectionRule(cast(SelectionStrategy, choose), top, margin, agreement, length_tolerance, seed, whole)
        training = DPOSettings(
            beta=beta,
            lora=lora,
            learning_rate=learning_rate or (2e-5 if lora else 1e-6),
            epochs=epochs,
            batch_size=batch_size,
            accumulation=accumulation,
            max_length=max_length,
            checkpointing=checkpointing,
            seed=seed,
        )
    except ValueError as error:
        raise CannotRun(str(error)) from error
    config = IterateConfig(
        prompts=file,
        held_out=held_out,
        model=model,
        judge=parse_judge(scorer, settings),
        rounds=rounds,
        candidates=candidates,
        policy=settings,
        other=None if other is None else parse_other_scorer(other, model, settings),
        held_out_answers=held_out_answers,
        mapping=parse_assignments("--map", map_ or []),
        limit=limit,
        held_out_limit=held_out_limit,
        prompts_a_round=prompts_a_round,
        pair_options=build_pair_options(rule, quality, tuple(against or ()), budget),
        training=training,
        processes=processes,
        replay=replay,
        stop=stop,
        benchmark=benchmark,
        benchmark_limit=benchmark_limit,
        evaluation_data=evaluation_data,
        meta=None if meta_judge is None else parse_judge(meta_judge, settings),
    )
    run(config, output, quiet)


def doctor(
    model: Annotated[str, Argument(help="Reward model or judge: a hub name, a folder, or embedded:NAME.")],
    remote_code: Annotated[bool, Option("--remote-code", help="Run the code that comes with the model.")] = False,
    quiet: Annotated[bool, Option("--quiet", help="Print only warnings and faults.")] = False,
) -> None:
    """Check a model: its tokens, reward head, padding, dtype and ties. Exit 1 if anything is wrong."""
    from judges.cli.doctor import run

    run(model, remote_code, quiet)
