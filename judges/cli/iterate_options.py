"""The options of `assay iterate`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, cast

import typer

from judges.cli.options import Against, Agreement, Choose, LengthTolerance, Margin, Quality, Quiet, Top, Whole


def iterate(
    file: Annotated[str, typer.Argument(help="Prompts to train on; the formats of assay score.")],
    held_out: Annotated[str, typer.Option(help="Prompts that no round trains on, to measure with.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="A folder for everything.")],
    policy: Annotated[
        str, typer.Option(help="MODEL[,temperature=0.7,top_p=0.9,max_tokens=512,seed=0 …]: where the rounds begin.")
    ] = "embedded:smollm2-135m",
    scorer: Annotated[
        str, typer.Option(help="Who judges: a SPEC. A judge that names no model is the policy.", metavar="SPEC")
    ] = "self-rewarding",
    other: Annotated[
        str | None, typer.Option(help="Another scorer, which measures and never trains.", metavar="SPEC")
    ] = None,
    rounds: Annotated[int, typer.Option(min=1)] = 3,
    candidates: Annotated[int, typer.Option(min=2, help="Responses to a prompt.")] = 4,
    prompts_a_round: Annotated[
        int | None, typer.Option(min=1, help="The next so many for each round.", show_default="all in each")
    ] = None,
    replay: Annotated[
        Literal["none", "last", "all"], typer.Option(help="Earlier rounds' pairs that a round trains on too.")
    ] = "none",
    stop: Annotated[
        bool, typer.Option(help="End when the held-out score falls, or the judge tells candidates apart no more.")
    ] = True,
    held_out_answers: Annotated[int, typer.Option(min=1, help="Answers to each held-out prompt.")] = 2,
    held_out_limit: Annotated[int | None, typer.Option(min=1, help="Only the first held-out prompts.")] = None,
    benchmark: Annotated[
        str | None, typer.Option(help="A benchmark, as for compare, for a judge that is the policy.")
    ] = None,
    benchmark_limit: Annotated[int | None, typer.Option(min=1, help="Rows of it.")] = None,
    evaluation_data: Annotated[
        str | None,
        typer.Option(help="Rows that people compared or scored, to train the judge on too, where it is the policy."),
    ] = None,
    meta_judge: Annotated[
        str | None,
        typer.Option(help="Who compares the policy's judgments, to train it on: pairwise.", metavar="SPEC"),
    ] = None,
    choose: Choose = "best-worst",
    top: Top = 2,
    margin: Margin = 0.0,
    agreement: Agreement = 0.0,
    length_tolerance: LengthTolerance = 0.0,
    whole: Whole = False,
    quality: Quality = False,
    against: Against = None,
    budget: Annotated[int | None, typer.Option(min=1, help="At most so many pairs a round, drawn at random.")] = None,
    beta: Annotated[float, typer.Option(min=0, help="DPO's weight of staying near the round's first model.")] = 0.1,
    lora: Annotated[int, typer.Option(min=0, help="Rank of LoRA adapters; 0 trains every weight.")] = 16,
    learning_rate: Annotated[
        float | None, typer.Option(min=0, help="Falls to a tenth.", show_default="2e-5; without LoRA 1e-6")
    ] = None,
    epochs: Annotated[float, typer.Option(min=0.01)] = 1,
    batch_size: Annotated[int, typer.Option(min=1, help="Pairs at once on a device.")] = 4,
    accumulation: Annotated[int, typer.Option(min=1, help="Batches added up before a step.")] = 4,
    checkpointing: Annotated[bool, typer.Option(help="Less memory, a third more time.")] = False,
    max_length: Annotated[int, typer.Option(min=8, help="Tokens; a longer pair is left out.")] = 1024,
    processes: Annotated[int, typer.Option(min=1, help="Training processes, a GPU each (accelerate).")] = 1,
    seed: int = 0,
    map_: Annotated[list[str] | None, typer.Option("--map", help="field=column; more than once.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first prompts.")] = None,
    quiet: Quiet = False,
) -> None:
    """Self-rewarding rounds: pairs, DPO, held-out evaluation. Killed and started again, it goes on."""
    from judges.cli.iterate import judge_of, other_of, policy_of, run
    from judges.cli.pairs import recipe_of
    from judges.cli.score import read_pairs
    from judges.errors import CannotRun
    from judges.preferences.dpo import DPOSettings
    from judges.preferences.rounds_config import Plan
    from judges.preferences.selection import Rule, Strategy

    model, settings = policy_of(policy)
    settings.setdefault("seed", seed)
    try:
        rule = Rule(cast(Strategy, choose), top, margin, agreement, length_tolerance, seed, whole)
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
    plan = Plan(
        prompts=file,
        held_out=held_out,
        model=model,
        judge=judge_of(scorer, settings),
        rounds=rounds,
        candidates=candidates,
        policy=settings,
        other=None if other is None else other_of(other, model, settings),
        held_out_answers=held_out_answers,
        mapping=read_pairs("--map", map_ or []),
        limit=limit,
        held_out_limit=held_out_limit,
        prompts_a_round=prompts_a_round,
        recipe=recipe_of(rule, quality, tuple(against or ()), budget),
        training=training,
        processes=processes,
        replay=replay,
        stop=stop,
        benchmark=benchmark,
        benchmark_limit=benchmark_limit,
        evaluation_data=evaluation_data,
        meta=None if meta_judge is None else judge_of(meta_judge, settings),
    )
    run(plan, output, quiet)
