"""Options that several commands share."""

from __future__ import annotations

from typing import Annotated

import typer

SpecOption = Annotated[str, typer.Option("--scorer", help="NAME[,model=M][,engine=E][,key=value …]", metavar="SPEC")]
Quiet = Annotated[bool, typer.Option("--quiet", help="No progress, only errors.")]

# How pairs are chosen, of `assay pairs` and `iterate`.
Choose = Annotated[str, typer.Option(help="best-worst, best-random, all or top-k.")]
Top = Annotated[int, typer.Option(min=1, help="The k of top-k.")]
Margin = Annotated[float, typer.Option(min=0, help="The least difference of two scores.")]
Agreement = Annotated[float, typer.Option(min=0, max=1, help="The least share of votes that prefer the chosen one.")]
LengthTolerance = Annotated[
    float, typer.Option(min=0, help="Within this share of the scores' range below the best, take the shortest.")
]
Whole = Annotated[bool, typer.Option("--whole", help="No candidate that the token limit cut.")]
Quality = Annotated[bool, typer.Option("--quality", help="Filter the pairs, as assay filter does.")]
Against = Annotated[list[str] | None, typer.Option(help="A benchmark or file whose prompts stay out; more than once.")]
