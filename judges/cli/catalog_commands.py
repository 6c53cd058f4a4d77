"""The options of `assay prompts`, `models` and `cache`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from typer import Argument, Option

TemplateName = Annotated[str, Argument(help="Name of a template in the list, or a file.md.")]
StorePath = Annotated[Path, Argument(help="A store, an output of assay score, or an output folder of assay compare.")]


def prompts_list() -> None:
    """List every prompt template with its kind, its scale and its purpose."""
    from judges.cli.prompts import print_list

    print_list()


def prompts_show(name: TemplateName) -> None:
    """Print the file of a template."""
    from judges.cli.prompts import print_template

    print_template(name)


def prompts_render(
    name: TemplateName,
    prompt: Annotated[str, Option(help="The user's prompt.")] = "What is 2 + 2?",
    response: Annotated[
        list[str] | None, Option(help="A response. Repeat it for a template that compares responses.")
    ] = None,
) -> None:
    """Print the chat messages that a template makes from a prompt and its responses."""
    from judges.cli.prompts import print_messages

    print_messages(name, prompt, response or ["It is 4.", "It is 22."])


def models_list() -> None:
    """List well-known reward models and judges, and whether Assay supports them."""
    from judges.cli.models import print_list

    print_list()


def models_show(name: Annotated[str, Argument(help="Name in the list, or a hub id.")]) -> None:
    """Print the SPEC of a model, its quirks, and the sources."""
    from judges.cli.models import print_model

    print_model(name)


def cache_show(path: StorePath) -> None:
    """Print the number of completions in a store, by model, with their dates."""
    from judges.cli.cache import print_contents

    print_contents(path)


def cache_export(
    path: StorePath,
    output: Annotated[str, Option("-o", "--output", help="JSONL file, or - for standard output.")] = "-",
) -> None:
    """Write every completion of a store as a JSON line."""
    from judges.cli.cache import export

    export(path, output)


def cache_prune(
    path: StorePath,
    older_than: Annotated[
        str | None, Option(help="Delete completions stored longer ago than this: 30d, 12h, 2w.")
    ] = None,
    model: Annotated[str | None, Option(help="Delete completions of this model only.")] = None,
    all_: Annotated[bool, Option("--all", help="Delete every completion.")] = False,
) -> None:
    """Delete completions from a store. They must be computed again when a run needs them."""
    from judges.cli.cache import prune

    prune(path, older_than, model, all_)
