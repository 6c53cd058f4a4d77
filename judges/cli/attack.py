"""`assay attack`."""

from __future__ import annotations

import datetime
import json
import re
import sys
import time
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path

import typer
from rich.console import Console
from rich.table import Table

from judges.cli.progress import RowProgress
from judges.errors import CannotRun
from judges.evaluation.attacks import ATTACKS, HARMLESS, Attack, attack_names
from judges.evaluation.benchmarks import load_benchmark
from judges.evaluation.robustness import Robustness, Share, Trial, measure
from judges.scorer import load_scorer, parse_spec
from judges.scorers.llm_judge import LLMJudge
from judges.types import to_plain


def run(file: str, spec: str, names: list[str], output: Path, limit: int | None, quiet: bool) -> None:
    attacks = _chosen(names)
    items = load_benchmark(file, limit=limit).items
    if not any(item.gold is not None and item.gold.chosen is not None for item in items):
        raise CannotRun(f"{file} has no pairs of a chosen and a rejected response, so there is nothing to attack")
    name, settings = parse_spec(spec)
    started = time.monotonic()
    with load_scorer(name, **settings) as scorer:
        output.mkdir(parents=True, exist_ok=True)
        if isinstance(scorer, LLMJudge):
            scorer.remember(output / "completions.sqlite")
        part = output / "judgments.jsonl.part"
        with (
            open(part, "w", encoding="utf-8", errors="backslashreplace") as out,
            RowProgress(f"{name} under attack", None, quiet) as progress,
        ):

            def told(trial: Trial) -> None:
                out.write(json.dumps(_row(trial), ensure_ascii=False) + "\n")
                out.flush()
                progress.row(trial.card.usage)

            found = measure(scorer, items, attacks, told)
        part.replace(output / "judgments.jsonl")
        document = {
            "made": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "assay": version("assay"),
            "settings": {"file": file, "limit": limit, "scorer": re.sub(r"api_key=[^,]*", "api_key=***", spec)},
            "identity": scorer.identity(),
            **asdict(found),
        }
    part = output / "attack.json.part"
    part.write_text(json.dumps(document, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    part.replace(output / "attack.json")
    console = Console(width=None if sys.stdout.isatty() else 140)
    console.print(table(name, Path(file).stem, found))
    took = f"{time.monotonic() - started:.0f} s"
    console.print(f"Numbers in {output}/attack.json, judgments in {output}/judgments.jsonl; {took}.", soft_wrap=True)
    if found.failed or any(effect.failed for effect in found.effects):
        raise typer.Exit(1)


def _chosen(names: list[str]) -> list[Attack]:
    if unknown := [name for name in names if name not in attack_names()]:
        raise CannotRun(f"no attack {unknown[0]!r}; there are {', '.join(attack_names())}")
    return [attack for attack in ATTACKS if not names or attack.name in (HARMLESS, *names)]


def _row(trial: Trial) -> dict[str, object]:
    return {
        "pair": trial.pair.item.id,
        "attack": trial.attack,
        "subset": trial.pair.item.subset,
        "lost": trial.pair.lost,
        "response": trial.response,
        "credit": trial.credit,
        **to_plain(trial.card),
    }


def table(scorer: str, file: str, found: Robustness) -> Table:
    counts = f"{found.right} judged rightly, {found.wrong} wrongly, {found.tied} tied, {found.failed} failed"
    shown = Table(
        title=f"{scorer} on {file}: {found.pairs} pairs, {counts}.\n"
        "Of those judged rightly: how often the losing response wins, or does not lose, once this is done to it.",
        title_justify="left",
        box=None,
    )
    shown.add_column("attack", no_wrap=True)
    for column in ("wins % (95 %)", "wins or ties % (95 %)", "failed", "pairs", "score change"):
        shown.add_column(column, justify="right", no_wrap=True)
    shown.add_column("what it does")
    for effect in found.effects:
        shown.add_row(
            effect.attack,
            _percent(effect.wins),
            _percent(effect.wins_or_ties),
            str(effect.failed),
            str(effect.pairs),
            "-" if effect.change is None else f"{effect.change:+.2f}",
            effect.description,
        )
    return shown


def _percent(one: Share | None) -> str:
    return "none judged" if one is None else f"{100 * one.share:.1f} [{100 * one.low:.1f}, {100 * one.high:.1f}]"
