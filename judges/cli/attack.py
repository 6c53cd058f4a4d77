"""`assay attack`: how often a losing response wins after an attack on the judge."""

from __future__ import annotations

import datetime
import json
import time
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path

import typer
from rich.table import Table

from judges.cli.progress import RowProgress
from judges.cli.terminal import format_share, plain_table, stdout_console
from judges.errors import CannotRun, redact
from judges.evaluation.attacks import ATTACKS, HARMLESS, Attack, attack_names
from judges.evaluation.benchmarks import load_benchmark
from judges.evaluation.robustness import Robustness, Share, Trial, measure_robustness
from judges.plugins import unknown_name
from judges.scorer import load_scorer, parse_spec
from judges.scorers.llm_judge import LLMJudge
from judges.types import to_dict


def run(file: str, spec: str, names: list[str], output: Path, limit: int | None, quiet: bool) -> None:
    attacks = _select_attacks(names)
    items = load_benchmark(file, limit=limit).items
    if not any(item.gold is not None and item.gold.chosen is not None for item in items):
        raise CannotRun(f"{file} has no pairs of a chosen and a rejected response, so there is nothing to attack")
    name, settings = parse_spec(spec)
    started = time.monotonic()
    with load_scorer(name, **settings) as scorer:
        output.mkdir(parents=True, exist_ok=True)
        if isinstance(scorer, LLMJudge):
            scorer.use_store(output / "completions.sqlite")
        part = output / "judgments.jsonl.part"
        with (
            open(part, "w", encoding="utf-8", errors="backslashreplace") as out,
            RowProgress(f"{name} under attack", None, quiet) as progress,
        ):

            def write_trial(trial: Trial) -> None:
                out.write(json.dumps(_trial_row(trial), ensure_ascii=False) + "\n")
                out.flush()
                progress.add_row(trial.card.usage)

            found = measure_robustness(scorer, items, attacks, write_trial)
        part.replace(output / "judgments.jsonl")
        document = {
            "made": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "assay": version("assay"),
            "settings": {"file": file, "limit": limit, "scorer": redact(spec)},
            "identity": scorer.identity(),
            **asdict(found),
        }
    part = output / "attack.json.part"
    part.write_text(json.dumps(document, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    part.replace(output / "attack.json")
    console = stdout_console()
    console.print(attack_table(name, Path(file).stem, found))
    seconds = time.monotonic() - started
    files = f"Numbers are in {output}/attack.json, judgments in {output}/judgments.jsonl"
    console.print(f"{files}; {seconds:.0f} s.", soft_wrap=True)
    if found.failed or any(effect.failed for effect in found.effects):
        raise typer.Exit(1)


def _select_attacks(names: list[str]) -> list[Attack]:
    if unknown := [name for name in names if name not in attack_names()]:
        raise CannotRun(unknown_name("unknown attack", unknown[0], attack_names()))
    return [attack for attack in ATTACKS if not names or attack.name in (HARMLESS, *names)]


def _trial_row(trial: Trial) -> dict[str, object]:
    return {
        "pair": trial.pair.item.id,
        "attack": trial.attack,
        "subset": trial.pair.item.subset,
        "lost": trial.pair.rejected,
        "response": trial.response,
        "credit": trial.credit,
        **to_dict(trial.card),
    }


def attack_table(scorer: str, file: str, found: Robustness) -> Table:
    counts = f"{found.right} judged correctly, {found.wrong} incorrectly, {found.tied} tied, {found.failed} failed"
    table = plain_table(
        *("attack", "wins % (95 %)", "wins or ties % (95 %)", "failed", "pairs", "score change"),
        title=f"{scorer} on {file}: {found.pairs} pairs, {counts}.\n"
        "Of the pairs judged correctly: how often the losing response wins or ties after the attack.",
        no_wrap=True,
    )
    table.add_column("what it does")
    for effect in found.effects:
        table.add_row(
            effect.attack,
            _format(effect.wins),
            _format(effect.wins_or_ties),
            str(effect.failed),
            str(effect.pairs),
            "-" if effect.change is None else f"{effect.change:+.2f}",
            effect.description,
        )
    return table


def _format(share: Share | None) -> str:
    return "none judged" if share is None else format_share(share.share, share.low, share.high)
