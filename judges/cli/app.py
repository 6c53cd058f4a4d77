"""The commands and their options. Work is imported inside each: `assay --help` is fast."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(
    help="Compare reward models and LLM judges, judge files, make preference data.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
prompts_app = typer.Typer(help="List, show and render the judges' templates.", no_args_is_help=True)
app.add_typer(prompts_app, name="prompts")

SpecOption = Annotated[str, typer.Option("--scorer", help="NAME[,model=M][,engine=E][,key=value …]", metavar="SPEC")]
Quiet = Annotated[bool, typer.Option("--quiet", help="No progress, only errors.")]


@app.command(epilog="Example: assay compare --benchmark demo --scorer length --scorer random -o runs/first")
def compare(
    config: Annotated[Path | None, typer.Argument(help="A YAML file with the same keys.")] = None,
    benchmark: Annotated[
        list[str] | None,
        typer.Option(help="demo, or a file of prompt, chosen, rejected; FILE@SUBSET keeps one."),
    ] = None,
    scorer: Annotated[list[str] | None, typer.Option(help="A SPEC; more than once.")] = None,
    output: Annotated[Path, typer.Option("-o", "--output", help="A folder for everything.")] = Path("runs/compare"),
    limit: Annotated[int | None, typer.Option(min=1, help="Pairs of each benchmark, over all subsets.")] = None,
    subsets: Annotated[bool, typer.Option(help="Also a table by subset.")] = False,
    quiet: Quiet = False,
) -> None:
    """Put scorers side by side on benchmarks: a table, results.json, every judgment."""
    from judges.cli.compare import run

    run(config, benchmark or [], scorer or [], output, limit, subsets, quiet)


@app.command(epilog="Example: assay score answers.jsonl --scorer self-rewarding,votes=1 -o scored.jsonl")
def score(
    file: Annotated[str, typer.Argument(help="JSONL, CSV or Parquet.")],
    scorer: SpecOption,
    output: Annotated[Path, typer.Option("-o", "--output", help="A JSONL file.")],
    model: Annotated[str | None, typer.Option(help="The same as model=… in the SPEC.")] = None,
    set_: Annotated[list[str] | None, typer.Option("--set", help="key=value; more than once.")] = None,
    map_: Annotated[list[str] | None, typer.Option("--map", help="field=column; more than once.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first rows.")] = None,
    quiet: Quiet = False,
) -> None:
    """Score every row of a file. Killed and started again, it goes on where it stopped."""
    from judges.cli.score import run

    run(file, scorer, output, model, set_ or [], map_ or [], limit, quiet)


@app.command(epilog="Example: assay train demo:train --base embedded:minilm -o runs/my-reward-model")
def train(
    file: Annotated[str, typer.Argument(help="Rows of prompt, chosen, rejected; or demo:train.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="The checkpoint's folder.")],
    base: Annotated[str, typer.Option(help="The model to begin from.")] = "embedded:minilm",
    epochs: Annotated[float, typer.Option(min=0.01)] = 1,
    learning_rate: Annotated[float, typer.Option(min=0)] = 1e-5,
    batch_size: Annotated[int, typer.Option(min=1)] = 16,
    max_length: Annotated[int, typer.Option(min=8)] = 512,
    limit: Annotated[int | None, typer.Option(min=2, help="Only so many rows.")] = None,
    seed: int = 0,
    if_missing: Annotated[bool, typer.Option("--if-missing", help="Do nothing where the folder is there.")] = False,
    quiet: Quiet = False,
) -> None:
    """Train a Bradley–Terry reward model."""
    from judges.cli.train import run

    run(file, output, base, epochs, learning_rate, batch_size, max_length, limit, seed, if_missing, quiet)


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
    response: Annotated[str, typer.Option()] = "It is 4.",
) -> None:
    """The chat messages that a template makes of a prompt and a response."""
    from judges.cli.prompts import render

    render(name, prompt, response)
