"""`assay serve`: a scorer over HTTP."""

from __future__ import annotations

import math
import os
import sys

import typer

from judges.cli.scorer_options import parse_settings, with_model_options
from judges.errors import CannotRun
from judges.evaluation.report.markdown import escape_invisible
from judges.scorer import load_scorer, parse_spec

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
        from judges.serving.server import ServerConfig, serve
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in _EXTRA:
            raise
        raise CannotRun(f"{error.name} is not installed: pip install 'assay[serve]'") from error
    if not math.isfinite(drain_seconds):
        raise CannotRun(f"--drain-seconds is a number of seconds, not {drain_seconds}")
    config = ServerConfig(host, port, token)
    name, spec_settings = parse_spec(spec)
    with load_scorer(name, **with_model_options(spec_settings | parse_settings(settings), model, ())) as scorer:
        served = serve(scorer, config, Limits(rows=max_batch), queue, drain_seconds, _print_error, quiet)
        if not served.thread_ended:
            # A thread is still judging or loading a model: closing the scorer would wait for it.
            if served.unfinished:
                _report_unfinished(served.unfinished)
            sys.stderr.flush()
            os._exit(1 if served.unfinished else 0)
    if served.unfinished:
        _report_unfinished(served.unfinished)
        raise typer.Exit(1)


def _report_unfinished(left: int) -> None:
    _print_error(f"assay: {left} responses were not judged in time; --drain-seconds allows more time")


def _print_error(text: str) -> None:
    print(escape_invisible(text), file=sys.stderr, flush=True)
