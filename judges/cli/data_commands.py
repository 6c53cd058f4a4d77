"""The options of `assay score`, `filter`, `pairs`, `iterate`, `best` and `serve`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, cast

from typer import Argument, Option

from judges.cli import options as opt


def score(
    file: Annotated[
        str,
        Argument(
            help="JSONL, CSV (also .gz, .zst) or Parquet file, a folder of such files, hf:OWNER/NAME[:SPLIT], or -"
            " for JSON lines on standard input."
        ),
    ],
    scorer: opt.ScorerSpec,
    output: Annotated[
        Path | None,
        Option(
            "-o", "--output", help="File, whose ending sets the format; a folder for a folder; - for standard output."
        ),
    ] = None,
    model: opt.Model = None,
    set_: opt.Settings = None,
    base_url: opt.BaseUrls = None,
    map_: opt.Mapping = None,
    limit: opt.Limit = None,
    sample: Annotated[int | None, Option(min=1, help="Use only so many rows, drawn at random.")] = None,
    ordered: Annotated[
        bool, Option("--ordered", help="Keep the order of the input; the output is written at the end.")
    ] = False,
    format_: Annotated[
        str,
        Option(
            "--format", help="Format of a folder's outputs: .jsonl, .csv or .parquet.", show_default="that of the input"
        ),
    ] = "",
    candidates: Annotated[
        int | None, Option(min=1, help="Sample so many responses for each prompt without one, and score them.")
    ] = None,
    policy: opt.Policy = None,
    retry_failed: opt.RetryFailed = False,
    reread: Annotated[
        bool,
        Option("--reread", help="Extract the scores again from stored completions, without a model."),
    ] = False,
    max_failures: Annotated[
        int | None, Option(min=0, help="Stop when more rows fail; rows that were written stay.")
    ] = None,
    store: opt.Store = "",
    dry_run: Annotated[
        bool,
        Option("--dry-run", help="Print the first prompts, judge a few rows, estimate tokens and time."),
    ] = False,
    ray: Annotated[
        str | None,
        Option(help="Address of a Ray cluster, or local: distribute the rows over several workers."),
    ] = None,
    workers: Annotated[int, Option(min=1, help="Ray: number of workers, each with its own scorer.")] = 1,
    gpus: Annotated[
        float, Option(min=0, help="Ray: GPUs per worker; as many as tensor_parallel_size, where it is set.")
    ] = 0,
    cpus: Annotated[float, Option(min=0, help="Ray: CPUs per worker.")] = 1,
    shard_rows: Annotated[int, Option(min=1, help="Ray: rows of a file that a worker takes at a time.")] = 10_000,
    quiet: opt.Quiet = False,
) -> None:
    """Score every row of a file or a folder. The same command resumes an interrupted run."""
    from judges.batch.output import ScoreOptions
    from judges.cli.score import run
    from judges.cli.scorer_options import ScoreConfig, parse_assignments

    options = ScoreOptions(
        mapping=parse_assignments("--map", map_ or []),
        limit=limit,
        sample=sample,
        ordered=ordered,
        format=format_,
        retry_failed=retry_failed,
        reread=reread,
        max_failures=max_failures,
        store=store,
    )
    cluster = None
    if ray is not None:
        from judges.batch.ray_workers import Cluster

        cluster = Cluster(ray, workers, gpus, cpus, shard_rows)
    urls, settings = tuple(base_url or ()), tuple(set_ or ())
    config = ScoreConfig(file, scorer, output, model, urls, settings, candidates, policy, options)
    run(config, dry_run, cluster, quiet)


def filter_(
    file: Annotated[str, Argument(help="Rows of prompt, chosen, rejected: JSONL, CSV or Parquet.")],
    output: Annotated[Path, Option("-o", "--output", help="JSONL file for the rows that pass.")],
    taken: Annotated[
        Path | None,
        Option(help="JSONL file for the removed rows and the reasons.", show_default="beside the output"),
    ] = None,
    map_: opt.Mapping = None,
    min_length: Annotated[int, Option(min=0, help="Of a response, in words or Chinese characters.")] = 1,
    max_length: Annotated[int | None, Option(min=0, help="Of a response.")] = None,
    min_prompt_length: Annotated[int, Option(min=0, help="Of all turns of the prompt together.")] = 1,
    max_prompt_length: Annotated[int | None, Option(min=0, help="Of all turns of the prompt together.")] = None,
    max_similarity: Annotated[
        float,
        Option(max=1, help="Remove rows whose chosen and rejected are at least so similar (difflib's ratio)."),
    ] = 0.8,
    min_agreement: Annotated[
        float, Option(min=0, max=1, help="Share of annotators who agree; rows without annotators pass.")
    ] = 0.6,
    against: opt.Against = None,
    quiet: opt.Quiet = False,
) -> None:
    """Remove preference rows that are unfit for training, each with its reason."""
    from judges.cli.filter import run
    from judges.cli.scorer_options import parse_assignments
    from judges.data.quality import Filters
    from judges.errors import CannotRun

    try:
        filters = Filters(min_length, max_length, min_prompt_length, max_prompt_length, max_similarity, min_agreement)
    except ValueError as error:
        raise CannotRun(str(error)) from error
    run(file, output, taken, parse_assignments("--map", map_ or []), filters, against or [], quiet)


def pairs(
    file: Annotated[str, Argument(help="Prompts, or rows with a list of responses; formats as for score.")],
    output: opt.OutputFolder,
    scorer: opt.JudgeSpec = "self-rewarding",
    model: opt.Model = None,
    policy: opt.Policy = None,
    candidates: opt.SampledCandidates = 4,
    choose: opt.Choose = "best-worst",
    top: opt.Top = 2,
    margin: opt.Margin = 0.0,
    agreement: opt.Agreement = 0.0,
    length_tolerance: opt.LengthTolerance = 0.0,
    whole: opt.Whole = False,
    quality: opt.Quality = False,
    against: opt.Against = None,
    budget: Annotated[int | None, Option(min=1, help="Keep at most so many pairs, drawn at random.")] = None,
    instruct: Annotated[
        int | None,
        Option(min=1, help="Let the policy write so many new prompts from FILE as seeds (self-instruct)."),
    ] = None,
    base_url: opt.BaseUrls = None,
    map_: opt.Mapping = None,
    limit: opt.Limit = None,
    format_: Annotated[str, Option("--format", help="Format of the pairs: parquet or jsonl.")] = "parquet",
    store: opt.Store = "",
    retry_failed: opt.RetryFailed = False,
    push: Annotated[
        str | None,
        Option(help="Upload the data to this private dataset of the hub as well.", metavar="OWNER/NAME"),
    ] = None,
    quiet: opt.Quiet = False,
) -> None:
    """Make DPO preference pairs: a policy samples responses, any scorer judges them. Resumes as score does."""
    from judges.batch.output import ScoreOptions
    from judges.cli.pairs import PairsConfig, run
    from judges.cli.scorer_options import parse_assignments
    from judges.errors import CannotRun
    from judges.preferences.pair_selection import SelectionRule, SelectionStrategy

    try:
        rule = SelectionRule(cast(SelectionStrategy, choose), top, margin, agreement, length_tolerance, whole=whole)
    except ValueError as error:
        raise CannotRun(str(error)) from error
    mapping = parse_assignments("--map", map_ or [])
    options = ScoreOptions(mapping=mapping, limit=limit, ordered=True, retry_failed=retry_failed, store=store)
    config = PairsConfig(
        source=file,
        folder=output,
        spec=scorer,
        model=model,
        base_urls=tuple(base_url or ()),
        policy=policy,
        candidates=candidates,
        rule=rule,
        quality=quality,
        against=tuple(against or ()),
        budget=budget,
        form=format_,
        options=options,
        push=push,
    )
    run(config, instruct, quiet)


def best(
    file: Annotated[str, Argument(help="Rows with a list of responses, or prompts; formats as for score.")],
    scorer: opt.ScorerSpec,
    output: Annotated[Path, Option("-o", "--output", help="File; candidates and curve are written beside it.")],
    measure: Annotated[
        str | None,
        Option(help="A second scorer, which measures the responses that the first one picks.", metavar="SPEC"),
    ] = None,
    candidates: Annotated[
        int | None, Option(min=2, help="Sample so many responses for each prompt without one.")
    ] = None,
    policy: opt.Policy = None,
    map_: opt.Mapping = None,
    limit: opt.Limit = None,
    store: opt.Store = "",
    retry_failed: opt.RetryFailed = False,
    quiet: opt.Quiet = False,
) -> None:
    """Select the best of N candidates for each prompt, and plot the expected score of the best of n."""
    from judges.batch.output import ScoreOptions
    from judges.cli.best import BestConfig, run
    from judges.cli.scorer_options import parse_assignments

    mapping = parse_assignments("--map", map_ or [])
    options = ScoreOptions(mapping=mapping, limit=limit, ordered=True, retry_failed=retry_failed, store=store)
    run(BestConfig(file, scorer, output, measure, candidates, policy, options), quiet)


def serve(
    scorer: Annotated[str, Argument(help=f"The scorer: {opt.SPEC}.", metavar="SPEC")],
    model: opt.Model = None,
    set_: opt.Settings = None,
    host: Annotated[
        str, Option(help="Address to listen on; one that other machines can reach needs a token.")
    ] = "127.0.0.1",
    port: Annotated[int, Option(min=0, max=65535, help="Port; 0 takes a free one.")] = 8000,
    token: Annotated[
        str, Option(envvar="ASSAY_TOKEN", help="Bearer token that clients must send.", show_default=False)
    ] = "",
    queue: Annotated[
        int, Option(min=1, help="Responses that may wait or be in flight; further requests get status 429.")
    ] = 1024,
    max_batch: Annotated[int, Option(min=1, help="Rows per request.")] = 256,
    drain_seconds: Annotated[
        float, Option(min=0, help="Time to finish accepted requests after a signal to stop.")
    ] = 30.0,
    quiet: opt.Quiet = False,
) -> None:
    """Serve a scorer over HTTP as a reward endpoint for trainers: /score, /openrlhf, /health, /metrics."""
    from judges.cli.serve import run

    run(scorer, model, set_ or [], host, port, token, queue, max_batch, drain_seconds, quiet)
