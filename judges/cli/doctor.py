"""`assay doctor`: checks of a model, printed as they finish."""

from __future__ import annotations

import logging
import os
import sys
import textwrap
import time
import warnings
from collections import Counter

import typer
from rich.console import Console
from rich.text import Text

from judges.engines.quiet import is_verbose

COLOURS = {"ok": "green", "note": "cyan", "warning": "yellow", "fault": "bold red"}
PROBLEMS = ("warning", "fault")
INDENT = 19  # width of the columns for the level and the name of the check


def run(model: str, remote_code: bool, quiet: bool) -> None:
    if not is_verbose():
        os.environ.setdefault("TQDM_DISABLE", "1")  # libraries show progress bars of their own when they load weights
    from transformers.utils.logging import set_verbosity_error

    from classic_rm.doctor import Finding, examine

    if not is_verbose():
        set_verbosity_error()
        logging.getLogger("huggingface_hub").setLevel(logging.ERROR)  # it logs each of five attempts to reach the hub
        warnings.simplefilter("ignore")
    console = Console(width=None if sys.stdout.isatty() else 120, highlight=False)
    status = Console(stderr=True).status("") if sys.stderr.isatty() and not quiet else None
    started, counts = time.monotonic(), Counter[str]()

    def report_step(what: str) -> None:
        if status:
            status.update(f"{model}: {what}")
        elif not quiet and what.startswith("loading"):
            print(f"{model}: {what} …", file=sys.stderr, flush=True)

    def print_finding(finding: Finding) -> None:
        counts[finding.level] += 1
        if quiet and finding.level not in PROBLEMS:
            return
        texts = [finding.message] + [f"→ {finding.advice}"] * (finding.advice != "Nothing.")
        lines = [line for text in texts for line in textwrap.wrap(text, max(40, console.width - INDENT))]
        named = (f"{finding.level:<8}", COLOURS[finding.level]), (f"{finding.check:<10} ", "bold")
        console.print(Text.assemble(*named, f"\n{' ' * INDENT}".join(lines)), soft_wrap=True)

    if status:
        status.start()
    try:
        for finding in examine(model, remote_code, report_step):
            print_finding(finding)
    finally:
        if status:
            status.stop()
    problems = sum(counts[level] for level in PROBLEMS)
    if not quiet:
        totals = ", ".join(
            f"{counts[level]} {level}{'s' * (counts[level] != 1 and level != 'ok')}" for level in COLOURS
        )
        console.print(f"{model}: {totals}, in {time.monotonic() - started:.0f} s")
    if problems:
        raise typer.Exit(1)
