"""The Typer application `assay`: its commands in the order of --help, with an example for each, and global options.

The functions in `*_commands.py` declare arguments and options. Each imports its work when it is called, so that
`assay --help` is fast.
"""

from __future__ import annotations

import functools
import inspect
import os
from collections.abc import Callable, Sequence
from importlib.metadata import version
from typing import Annotated, Any

import typer

from judges.cli import catalog_commands as catalog
from judges.cli import data_commands as data
from judges.cli import evaluation_commands as evaluation
from judges.cli import training_commands as training
from judges.cli.options import Verbose

Command = tuple[str, Callable[..., None], str]  # name, function, arguments of the example

COMMANDS: tuple[Command, ...] = (
    ("compare", evaluation.compare, "--benchmark demo --scorer length --scorer random -o runs/first"),
    ("report", evaluation.report, "runs/first"),
    ("score", data.score, "answers.jsonl --scorer self-rewarding,votes=1 -o scored.jsonl"),
    ("pairs", data.pairs, "prompts.jsonl --policy embedded:smollm2-135m,max_tokens=128 -o runs/pairs"),
    (
        "iterate",
        training.iterate,
        "prompts.jsonl --held-out other.jsonl --policy embedded:smollm2-135m -o runs/rounds",
    ),
    ("best", data.best, "answers.jsonl --scorer bradley-terry,model=runs/rm -o best.jsonl"),
    ("train", training.train, "demo:train --base embedded:minilm -o runs/my-reward-model"),
    ("filter", data.filter_, "pairs.jsonl -o kept.jsonl --against demo:test"),
    ("doctor", training.doctor, "embedded:smollm2-135m"),
    ("attack", evaluation.attack, "demo --scorer self-rewarding,votes=1 --limit 20 -o runs/attack"),
    ("calibrate", evaluation.calibrate, "pairs.jsonl --scorer length -o temperature.json"),
    ("estimate", evaluation.estimate, "judged.jsonl --verdict score --label human"),
    ("serve", data.serve, "bradley-terry --model runs/my-reward-model --port 8000"),
    ("explain", evaluation.explain, "answers.jsonl --row 3 --scorer self-rewarding,votes=1"),
)
GROUPS: tuple[tuple[str, str, tuple[Command, ...]], ...] = (
    (
        "prompts",
        "List, show and render the prompt templates of the judges.",
        (
            ("list", catalog.prompts_list, ""),
            ("show", catalog.prompts_show, "self-rewarding"),
            ("render", catalog.prompts_render, "self-rewarding --prompt 'Hi' --response 'Hello!'"),
        ),
    ),
    (
        "cache",
        "Show, export and prune stored completions.",
        (
            ("show", catalog.cache_show, "scored.jsonl"),
            ("export", catalog.cache_export, "scored.jsonl -o completions.jsonl"),
            ("prune", catalog.cache_prune, "scored.jsonl --older-than 30d"),
        ),
    ),
    (
        "models",
        "List and show well-known reward models and judges.",
        (("list", catalog.models_list, ""), ("show", catalog.models_show, "skywork-reward-v2")),
    ),
)

app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False, rich_markup_mode=None)


def _print_version(value: bool) -> None:
    if value:
        print(f"assay {version('assay')}")
        raise typer.Exit


@app.callback()
def assay(
    verbose: Verbose = False,
    version: Annotated[
        bool,
        typer.Option("--version", help="Print the version and exit.", is_eager=True, callback=_print_version),
    ] = False,
) -> None:
    """Compare reward models and LLM judges, score files, make preference data, train reward models."""
    if verbose:
        os.environ["ASSAY_VERBOSE"] = "1"


def _with_verbose(function: Callable[..., None]) -> Callable[..., None]:
    """The command with the option --verbose. Engines read it, and --quiet, from the environment."""

    @functools.wraps(function)
    def command(*args: Any, verbose: bool, **kwargs: Any) -> None:
        options = {"ASSAY_VERBOSE": verbose, "ASSAY_QUIET": kwargs.get("quiet", False)}
        before = {name: os.environ.get(name) for name in options}
        os.environ.update({name: "1" for name, given in options.items() if given})
        try:
            function(*args, **kwargs)
        finally:  # only this call is quiet or verbose, where several run in one process
            for name, value in before.items():
                os.environ.pop(name, None)
                if value is not None:
                    os.environ[name] = value

    signature = inspect.signature(function, eval_str=True)  # a set signature is not evaluated by Typer
    option = inspect.Parameter("verbose", inspect.Parameter.KEYWORD_ONLY, default=False, annotation=Verbose)
    parameters = [*signature.parameters.values(), option]
    command.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    command.__annotations__ = {**function.__annotations__, "verbose": Verbose}
    return command


def _add_commands(group: typer.Typer, prefix: str, commands: Sequence[Command]) -> None:
    for name, function, example in commands:
        epilog = f"Example: {prefix} {name} {example}".rstrip()
        group.command(name, epilog=epilog)(_with_verbose(function))


_add_commands(app, "assay", COMMANDS)
for _name, _help, _commands in GROUPS:
    _group = typer.Typer(help=_help, no_args_is_help=True)
    _add_commands(_group, f"assay {_name}", _commands)
    app.add_typer(_group, name=_name)
