"""`assay serve`."""

from __future__ import annotations

import math
import os
import sys

import typer

from judges.cli.score import read_pairs
from judges.errors import CannotRun
from judges.evaluation.report.markdown import visible
from judges.scorer import load_scorer, parse_spec, read_value

_EXTRA = ("fastapi", "starlette", "pydantic", "uvicorn", "h11", "prometheus_client")


def run(
    spec: str,
    model: str | None,
    settings: list[str],
    host: str,
    port: int,
    token: str,
    queue: int,
    max_batch: int,
    drain_seconds: float,
    quiet: bool,
) -> None:
    try:
        from judges.serving.app import Limits
        from judges.serving.server import Place, serve
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in _EXTRA:
            raise
        raise CannotRun(f"{error.name} is not installed: pip install 'assay[serve]'") from error
    if not math.isfinite(drain_seconds):
        raise CannotRun(f"--drain-seconds is a number of seconds, not {drain_seconds}")
    place = Place(host, port, token)
    name, chosen = parse_spec(spec)
    chosen |= {key: read_value(value, "--set") for key, value in read_pairs("--set", settings).items()}
    if model:
        chosen["model"] = model
    with load_scorer(name, **chosen) as scorer:
        served = serve(scorer, place, Limits(rows=max_batch), queue, drain_seconds, _say, quiet)
        if not served.let_go:
            # Its thread is in the middle of a judgment, or of loading a model: closing would wait for it.
            if served.left:
                _say_left(served.left)
            sys.stderr.flush()
            os._exit(1 if served.left else 0)
    if served.left:
        _say_left(served.left)
        raise typer.Exit(1)


def _say_left(left: int) -> None:
    _say(f"assay: {left} responses were not judged in time; more time with --drain-seconds")


def _say(text: str) -> None:
    print(visible(text), file=sys.stderr, flush=True)
