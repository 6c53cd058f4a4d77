"""`assay doctor`."""

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

COLOURS = {"ok": "green", "note": "cyan", "warning": "yellow", "fault": "bold red"}
WORSE = ("warning", "fault")
INDENT = 19  # the level and the check's name


def run(model: str, remote_code: bool, quiet: bool) -> None:
    os.environ.setdefault("TQDM_DISABLE", "1")  # libraries that unpack weights draw bars of their own
    from transformers.utils.logging import set_verbosity_error

    from classic_rm.doctor import Finding, examine

    set_verbosity_error()
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)  # it tells of each of five tries to reach a hub
    warnings.simplefilter("ignore")
    console = Console(width=None if sys.stdout.isatty() else 120, highlight=False)
    status = Console(stderr=True).status("") if sys.stderr.isatty() and not quiet else None
    started, counts = time.monotonic(), Counter[str]()

    def doing(what: str) -> None:
        if status:
            status.update(f"{model}: {what}")
        elif not quiet and what.startswith("loading"):
            print(f"{model}: {what} …", file=sys.stderr, flush=True)

    def show(finding: Finding) -> None:
        counts[finding.level] += 1
        if quiet and finding.level not in WORSE:
            return
        texts = [finding.what] + [f"→ {finding.do}"] * (finding.do != "Nothing.")
        lines = [line for text in texts for line in textwrap.wrap(text, max(40, console.width - INDENT))]
        named = (f"{finding.level:<8}", COLOURS[finding.level]), (f"{finding.check:<10} ", "bold")
        console.print(Text.assemble(*named, f"\n{' ' * INDENT}".join(lines)), soft_wrap=True)

    if status:
        status.start()
    try:
        for finding in examine(model, remote_code, doing):
            show(finding)
    finally:
        if status:
            status.stop()
    worse = sum(counts[level] for level in WORSE)
    if not quiet:
        told = ", ".join(f"{counts[level]} {level}{'s' * (counts[level] != 1 and level != 'ok')}" for level in COLOURS)
        console.print(f"{model}: {told}, in {time.monotonic() - started:.0f} s")
    if worse:
        raise typer.Exit(1)
