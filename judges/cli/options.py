"""Options that several commands share."""

from __future__ import annotations

from typing import Annotated

import typer

SpecOption = Annotated[str, typer.Option("--scorer", help="NAME[,model=M][,engine=E][,key=value …]", metavar="SPEC")]
Quiet = Annotated[bool, typer.Option("--quiet", help="No progress, only errors.")]
