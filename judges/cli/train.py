"""`assay train`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from judges.errors import CannotRun
from judges.evaluation.benchmarks import load_benchmark


def run(
    file: str,
    output: Path,
    base: str,
    epochs: float,
    learning_rate: float,
    batch_size: int,
    max_length: int,
    limit: int | None,
    seed: int,
    if_missing: bool,
    quiet: bool,
) -> None:
    if output.exists():
        if if_missing and (output / "config.json").is_file():
            print(f"{output} is there already", file=sys.stderr)
            return
        if not (output / "config.json").is_file():
            raise CannotRun(f"{output} exists and is not a checkpoint; give another -o")
    items = load_benchmark(file, limit=limit)
    from classic_rm.trainer import TrainingSettings, train

    settings = TrainingSettings(
        base=base,
        epochs=epochs,
        learning_rate=learning_rate,
        batch_size=batch_size,
        max_length=max_length,
        seed=seed,
    )

    def tell(logs: dict[str, Any]) -> None:
        if quiet:
            return
        shown = {"loss": "loss", "eval_loss": "held-out loss", "eval_accuracy": "held-out accuracy"}
        parts = [f"{text} {logs[key]:.3f}" for key, text in shown.items() if key in logs]
        if parts:
            print(
                f"epoch {logs['epoch']:.1f}, step {logs['step']}: {', '.join(parts)}",
                file=sys.stderr,
                flush=True,
            )

    trained = train(items, settings, output, tell)
    if not quiet:
        counts = ", ".join(f"{count} {name}" for name, count in trained.counts.items())
        print(f"{output}: {trained.train_pairs} pairs trained on, {trained.validation_pairs} held out ({counts})")
