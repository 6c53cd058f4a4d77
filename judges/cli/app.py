"""The commands and their options. Work is imported inside each: `assay --help` is fast."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, cast

import typer

from judges.cli.iterate_options import iterate
from judges.cli.options import (
    Against,
    Agreement,
    Choose,
    LengthTolerance,
    Margin,
    Quality,
    Quiet,
    SpecOption,
    Top,
    Whole,
)
from judges.cli.training_options import doctor, filter_, train

app = typer.Typer(
    help="Compare reward models and LLM judges, judge files, make preference data.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
prompts_app = typer.Typer(help="List, show and render the judges' templates.", no_args_is_help=True)
app.add_typer(prompts_app, name="prompts")
cache_app = typer.Typer(help="Show, export and prune stored completions.", no_args_is_help=True)
app.add_typer(cache_app, name="cache")
models_app = typer.Typer(help="List and show well-known reward models and judges.", no_args_is_help=True)
app.add_typer(models_app, name="models")


@app.command(epilog="Example: assay compare --benchmark demo --scorer length --scorer random -o runs/first")
def compare(
    config: Annotated[Path | None, typer.Argument(help="A YAML file with the same keys.")] = None,
    benchmark: Annotated[
        list[str] | None,
        typer.Option(help="NAME, NAME:SOURCE or a file of your own; @SUBSET at its end keeps one. More than once."),
    ] = None,
    scorer: Annotated[list[str] | None, typer.Option(help="A SPEC; more than once.")] = None,
    judgments: Annotated[
        list[str] | None, typer.Option(help="A file of scores or verdicts made elsewhere; more than once.")
    ] = None,
    output: Annotated[Path, typer.Option("-o", "--output", help="A folder for everything.")] = Path("runs/compare"),
    limit: Annotated[int | None, typer.Option(min=1, help="Rows of each benchmark, over all subsets.")] = None,
    attacks: Annotated[
        int | None, typer.Option(min=1, help="Also attack the losing responses of so many pairs.")
    ] = None,
    against: Annotated[Path | None, typer.Option(help="The folder of an earlier run, to compare with.")] = None,
    fail_if_worse: Annotated[
        float | None, typer.Option(min=0, help="Exit 1 where a headline fell by more than so many points.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Judge a few rows and estimate tokens and hours.")] = False,
    subsets: Annotated[bool, typer.Option(help="Also a table by subset.")] = False,
    references: Annotated[
        bool, typer.Option("--references", help="Show what others published beside it, marked so.")
    ] = False,
    quiet: Quiet = False,
) -> None:
    """Put scorers side by side on benchmarks: a table, a report, results.json, every judgment."""
    from judges.cli.compare import run
    from judges.cli.compare_config import Wanted, asked_for

    flags = Wanted(tuple(benchmark or ()), tuple(scorer or ()), tuple(judgments or ()), limit, attacks)
    run(asked_for(config, flags), output, against, fail_if_worse, dry_run, subsets, references, quiet)


@app.command(epilog="Example: assay report runs/first")
def report(
    folder: Annotated[Path, typer.Argument(help="The -o folder of assay compare.")],
    later: Annotated[Path | None, typer.Argument(help="A second run: show what changed from the first to it.")] = None,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="A folder to write to.", show_default="the run's, the later's")
    ] = None,
    quiet: Quiet = False,
) -> None:
    """Write a run's report.html, report.md, numbers.csv and plots; of two runs, what changed between them."""
    from judges.cli.report import run

    run(folder, later, output, quiet)


@app.command(epilog="Example: assay score answers.jsonl --scorer self-rewarding,votes=1 -o scored.jsonl")
def score(
    file: Annotated[
        str,
        typer.Argument(
            help="JSONL, CSV (also .gz, .zst) or Parquet; a folder of them; hf:OWNER/NAME[:SPLIT]; - for JSON lines."
        ),
    ],
    scorer: SpecOption,
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", help="A file, its format by its name; for a folder a folder; - to print."),
    ] = None,
    model: Annotated[str | None, typer.Option(help="The same as model=… in the SPEC.")] = None,
    set_: Annotated[list[str] | None, typer.Option("--set", help="key=value; more than once.")] = None,
    base_url: Annotated[
        list[str] | None, typer.Option(help="An OpenAI-compatible server to ask; more than once to share the load.")
    ] = None,
    map_: Annotated[list[str] | None, typer.Option("--map", help="field=column; more than once.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first rows.")] = None,
    sample: Annotated[int | None, typer.Option(min=1, help="Only so many rows, drawn at random.")] = None,
    ordered: Annotated[bool, typer.Option("--ordered", help="Rows in the input's order, written at the end.")] = False,
    format_: Annotated[
        str, typer.Option("--format", help="Of a folder's outputs: .jsonl, .csv, .parquet.", show_default="the input's")
    ] = "",
    candidates: Annotated[
        int | None, typer.Option(min=1, help="Write so many responses to a prompt that has none, and score them.")
    ] = None,
    policy: Annotated[
        str | None,
        typer.Option(help="MODEL[,key=value …] that writes them; the judge's own by default."),
    ] = None,
    retry_failed: Annotated[bool, typer.Option("--retry-failed", help="Judge failed rows again.")] = False,
    reread: Annotated[
        bool, typer.Option("--reread", help="Read stored completions again by the template as it is now; no model.")
    ] = False,
    max_failures: Annotated[
        int | None, typer.Option(min=0, help="Stop when more rows fail; what is written stays.")
    ] = None,
    store: Annotated[
        str, typer.Option(help="A file of completions for several runs.", show_default="one beside the output")
    ] = "",
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show the first prompts, judge a few rows, tell tokens and time.")
    ] = False,
    ray: Annotated[
        str | None, typer.Option(help="A Ray cluster's address, or local: many workers, each with a scorer.")
    ] = None,
    workers: Annotated[int, typer.Option(min=1, help="Ray: scorers at once.")] = 1,
    gpus: Annotated[float, typer.Option(min=0, help="Ray: GPUs of each (with tensor_parallel_size, that many).")] = 0,
    cpus: Annotated[float, typer.Option(min=0, help="Ray: CPUs of each.")] = 1,
    shard_rows: Annotated[int, typer.Option(min=1, help="Ray: rows that one worker takes of a file at once.")] = 10_000,
    quiet: Quiet = False,
) -> None:
    """Score every row of a file. Killed and started again, it goes on where it stopped."""
    from judges.batch.output import Options
    from judges.cli.score import Wanted, cluster, read_pairs, run

    options = Options(
        mapping=read_pairs("--map", map_ or []),
        limit=limit,
        sample=sample,
        ordered=ordered,
        format=format_,
        retry_failed=retry_failed,
        reread=reread,
        max_failures=max_failures,
        store=store,
    )
    urls, settings = tuple(base_url or ()), tuple(set_ or ())
    wanted = Wanted(file, scorer, output, model, urls, settings, candidates, policy, options)
    run(wanted, dry_run, cluster(ray, workers, gpus, cpus, shard_rows), quiet)


@app.command(epilog="Example: assay pairs prompts.jsonl --policy embedded:smollm2-135m,max_tokens=128 -o runs/pairs")
def pairs(
    file: Annotated[str, typer.Argument(help="Prompts, or rows with a list of responses; the formats of assay score.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="A folder for everything.")],
    scorer: Annotated[
        str, typer.Option(help="Who judges: a SPEC. A judge that names no model is the policy.", metavar="SPEC")
    ] = "self-rewarding",
    model: Annotated[str | None, typer.Option(help="The same as model=… in the SPEC.")] = None,
    policy: Annotated[
        str | None,
        typer.Option(
            help="MODEL[,temperature=0.7,top_p=0.9,max_tokens=512,seed=0 …] that writes; the judge's own by default."
        ),
    ] = None,
    candidates: Annotated[int, typer.Option(min=2, help="Responses to a prompt.")] = 4,
    choose: Choose = "best-worst",
    top: Top = 2,
    margin: Margin = 0.0,
    agreement: Agreement = 0.0,
    length_tolerance: LengthTolerance = 0.0,
    whole: Whole = False,
    quality: Quality = False,
    against: Against = None,
    budget: Annotated[int | None, typer.Option(min=1, help="At most so many pairs, drawn at random.")] = None,
    instruct: Annotated[
        int | None, typer.Option(min=1, help="FILE is seeds: let the policy make so many new prompts of them.")
    ] = None,
    base_url: Annotated[
        list[str] | None, typer.Option(help="An OpenAI-compatible server to ask; more than once to share the load.")
    ] = None,
    map_: Annotated[list[str] | None, typer.Option("--map", help="field=column; more than once.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first rows.")] = None,
    format_: Annotated[str, typer.Option("--format", help="Of the pairs: parquet or jsonl.")] = "parquet",
    store: Annotated[
        str, typer.Option(help="A file of completions for several runs.", show_default="one in the folder")
    ] = "",
    retry_failed: Annotated[bool, typer.Option("--retry-failed", help="Judge failed rows again.")] = False,
    push: Annotated[str | None, typer.Option(help="OWNER/NAME: also upload the data to the hub, private.")] = None,
    quiet: Quiet = False,
) -> None:
    """Make preference pairs of prompts: a policy writes, any scorer judges. Killed and started again, it goes on."""
    from judges.batch.output import Options
    from judges.cli.pairs import Asked, run
    from judges.cli.score import read_pairs
    from judges.errors import CannotRun
    from judges.preferences.selection import Rule, Strategy

    try:
        rule = Rule(cast(Strategy, choose), top, margin, agreement, length_tolerance, whole=whole)
    except ValueError as error:
        raise CannotRun(str(error)) from error
    options = Options(
        mapping=read_pairs("--map", map_ or []), limit=limit, ordered=True, retry_failed=retry_failed, store=store
    )
    urls, apart = tuple(base_url or ()), tuple(against or ())
    asked = Asked(
        file, output, scorer, model, urls, policy, candidates, rule, quality, apart, budget, format_, options, push
    )
    run(asked, instruct, quiet)


app.command(
    epilog="Example: assay iterate prompts.jsonl --held-out other.jsonl --policy embedded:smollm2-135m -o runs/rounds"
)(iterate)


@app.command(epilog="Example: assay best answers.jsonl --scorer bradley-terry,model=runs/rm -o best.jsonl")
def best(
    file: Annotated[str, typer.Argument(help="Rows with a list of responses, or prompts; the formats of assay score.")],
    scorer: SpecOption,
    output: Annotated[Path, typer.Option("-o", "--output", help="A file; the candidates and the curve lie beside it.")],
    measure: Annotated[
        str | None, typer.Option(help="A second scorer, to see what the first one's best is worth.", metavar="SPEC")
    ] = None,
    candidates: Annotated[
        int | None, typer.Option(min=2, help="Write so many responses to a prompt that has none.")
    ] = None,
    policy: Annotated[
        str | None, typer.Option(help="MODEL[,key=value …] that writes them; the judge's own by default.")
    ] = None,
    map_: Annotated[list[str] | None, typer.Option("--map", help="field=column; more than once.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first rows.")] = None,
    store: Annotated[
        str, typer.Option(help="A file of completions for several runs.", show_default="one beside the candidates")
    ] = "",
    retry_failed: Annotated[bool, typer.Option("--retry-failed", help="Judge failed rows again.")] = False,
    quiet: Quiet = False,
) -> None:
    """Take the best of N candidates of each prompt, and show what the best of n is worth. Resumes as score does."""
    from judges.batch.output import Options
    from judges.cli.best import Wanted, run
    from judges.cli.score import read_pairs

    mapping = read_pairs("--map", map_ or [])
    options = Options(mapping=mapping, limit=limit, ordered=True, retry_failed=retry_failed, store=store)
    run(Wanted(file, scorer, output, measure, candidates, policy, options), quiet)


app.command(epilog="Example: assay train demo:train --base embedded:minilm -o runs/my-reward-model")(train)
app.command("filter", epilog="Example: assay filter pairs.jsonl -o kept.jsonl --against demo:test")(filter_)
app.command(epilog="Example: assay doctor embedded:smollm2-135m")(doctor)


@app.command(epilog="Example: assay attack demo --scorer self-rewarding,votes=1 --limit 20 -o runs/attack")
def attack(
    file: Annotated[str, typer.Argument(help="Rows of prompt, chosen, rejected; FILE@SUBSET keeps one; or demo.")],
    scorer: SpecOption,
    output: Annotated[Path, typer.Option("-o", "--output", help="A folder for everything.")],
    attack: Annotated[
        list[str] | None, typer.Option(help="Only this one, beside the harmless change; more than once.")
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Rows, over all subsets.")] = None,
    quiet: Quiet = False,
) -> None:
    """Measure how often a losing response wins once it tries to take the judge over, by attack."""
    from judges.cli.attack import run

    run(file, scorer, attack or [], output, limit, quiet)


@app.command(epilog="Example: assay calibrate pairs.jsonl --scorer length -o temperature.json")
def calibrate(
    file: Annotated[str, typer.Argument(help="Rows of prompt, chosen, rejected, or a benchmark, as for compare.")],
    scorer: SpecOption,
    output: Annotated[Path, typer.Option("-o", "--output", help="A JSON file.")],
    limit: Annotated[int | None, typer.Option(min=1, help="Rows, over all subsets.")] = None,
    quiet: Quiet = False,
) -> None:
    """Fit the temperature that makes a scorer's margins probabilities; use it by --scorer calibrated,file=…"""
    from judges.cli.calibrate import run

    run(file, scorer, output, limit, quiet)


@app.command(epilog="Example: assay estimate judged.jsonl --verdict score --label human")
def estimate(
    file: Annotated[str, typer.Argument(help="JSONL, CSV or Parquet: a verdict on every row, a label on some.")],
    verdict: Annotated[str, typer.Option(help="The column of the judge's verdicts: numbers, or true and false.")],
    label: Annotated[str, typer.Option(help="The column of human labels; empty where there is none.")],
    group: Annotated[str | None, typer.Option(help="Also by this column.")] = None,
    prompt: Annotated[str | None, typer.Option(help="A column: rows that share it are not independent.")] = None,
    quiet: Quiet = False,
) -> None:
    """How good a model is by a judge that is not quite trusted: verdicts corrected by the labels, with an interval."""
    from judges.cli.estimate import run

    run(file, verdict, label, group, prompt, quiet)


@app.command(epilog="Example: assay serve bradley-terry --model runs/my-reward-model --port 8000")
def serve(
    scorer: Annotated[str, typer.Argument(help="NAME[,model=M][,engine=E][,key=value …]", metavar="SPEC")],
    model: Annotated[str | None, typer.Option(help="The same as model=… in the SPEC.")] = None,
    set_: Annotated[list[str] | None, typer.Option("--set", help="key=value; more than once.")] = None,
    host: Annotated[str, typer.Option(help="Any that others can reach needs a token.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 is any free one.")] = 8000,
    token: Annotated[str, typer.Option(envvar="ASSAY_TOKEN", help="What clients must show.", show_default=False)] = "",
    queue: Annotated[
        int, typer.Option(min=1, help="Responses waiting or in flight; beyond it the answer is 429.")
    ] = 1024,
    max_batch: Annotated[int, typer.Option(min=1, help="Rows of one request.")] = 256,
    drain_seconds: Annotated[float, typer.Option(min=0, help="For what was admitted when it is told to stop.")] = 30.0,
    quiet: Quiet = False,
) -> None:
    """Answer over HTTP what trainers ask: /score, /openrlhf, /health, /metrics."""
    from judges.cli.serve import run

    run(scorer, model, set_ or [], host, port, token, queue, max_batch, drain_seconds, quiet)


@app.command(epilog="Example: assay explain answers.jsonl --row 3 --scorer self-rewarding,votes=1")
def explain(
    file: Annotated[str, typer.Argument(help="JSONL, CSV or Parquet; or demo.")],
    scorer: SpecOption,
    row: Annotated[int, typer.Option(min=1, help="Which row; 1 is the first.")] = 1,
) -> None:
    """Show for one row what was sent, what came back, and where the score was read."""
    from judges.cli.explain import run

    run(file, scorer, row)


@prompts_app.command("list", epilog="Example: assay prompts list")
def prompts_list() -> None:
    """Every template: its name, kind, scale and what it is for."""
    from judges.cli.prompts import show_all

    show_all()


@prompts_app.command("show", epilog="Example: assay prompts show self-rewarding")
def prompts_show(name: str) -> None:
    """A template's file as it is."""
    from judges.cli.prompts import show

    show(name)


@prompts_app.command("render", epilog="Example: assay prompts render self-rewarding --prompt 'Hi' --response 'Hello!'")
def prompts_render(
    name: str,
    prompt: Annotated[str, typer.Option()] = "What is 2 + 2?",
    response: Annotated[list[str] | None, typer.Option(help="More than once for a template that compares.")] = None,
) -> None:
    """The chat messages that a template makes of a prompt and its responses."""
    from judges.cli.prompts import render

    render(name, prompt, response or ["It is 4.", "It is 22."])


@models_app.command("list", epilog="Example: assay models list")
def models_list() -> None:
    """Well-known models, and whether Assay runs them as their authors do."""
    from judges.cli.models import show_all

    show_all()


@models_app.command("show", epilog="Example: assay models show skywork-reward-v2")
def models_show(name: Annotated[str, typer.Argument(help="A name of the list, or a hub id.")]) -> None:
    """One model's SPEC, its quirks, and where each is from."""
    from judges.cli.models import show

    show(name)


StoreArgument = Annotated[Path, typer.Argument(help="A store, an output of assay score, or a folder of assay compare.")]


@cache_app.command("show", epilog="Example: assay cache show scored.jsonl")
def cache_show(path: StoreArgument) -> None:
    """How many completions there are, of which model, since when."""
    from judges.cli.cache import show

    show(path)


@cache_app.command("export", epilog="Example: assay cache export scored.jsonl -o completions.jsonl")
def cache_export(
    path: StoreArgument,
    output: Annotated[str, typer.Option("-o", "--output", help="A JSONL file; - to print.")] = "-",
) -> None:
    """Every completion as a line of JSON."""
    from judges.cli.cache import export

    export(path, output)


@cache_app.command("prune", epilog="Example: assay cache prune scored.jsonl --older-than 30d")
def cache_prune(
    path: StoreArgument,
    older_than: Annotated[str | None, typer.Option(help="30d, 12h, 2w: kept longer ago than that.")] = None,
    model: Annotated[str | None, typer.Option(help="Only of this model.")] = None,
    all_: Annotated[bool, typer.Option("--all", help="Every one.")] = False,
) -> None:
    """Take completions out; what goes must be computed again where it is asked for."""
    from judges.cli.cache import prune

    prune(path, older_than, model, all_)
