"""Two hundred rows: training loss falls, held-out loss rises, early stopping keeps the best step.

    python tests/benchmarks/overfitting.py DATA/hh_bt_train.jsonl DATA/hh_bt_val.jsonl

Dropout before the head, weight decay and an ensemble are each changed once against the same start: the first
three layers of the embedded decoder, six epochs over 200 rows, 100 rows held out to stop by, and the loss
and accuracy of the kept step on 300 rows that took no part.
"""

from __future__ import annotations

import argparse
import math
import statistics
import tempfile
from pathlib import Path

from classic_rm.ensemble import write_ensemble
from classic_rm.settings import ModelSettings, TrainingSettings
from classic_rm.training import TrainingResult, train
from judges import Item, load_scorer
from judges.data.rows import read_rows
from judges.evaluation.metrics.accuracy import accuracy_numbers

START = {"base": "embedded:smollm2-135m", "layers": 3, "dropout": 0.0}
SETTINGS = {
    "epochs": 6,
    "learning_rate": 2e-4,
    "batch_size": 8,
    "max_length": 256,
    "weight_decay": 0.0,
    "centring": 0.0,
    "validation_share": 1 / 3,
    "patience": 99,
    "evaluations": 1,
}


def measured(folder: Path, items: list[Item]) -> tuple[float, str]:
    with load_scorer("bradley-terry", model=str(folder)) as scorer:
        cards = list(scorer.stream(iter(items)))
    margins = [card.judgments[0].score - card.judgments[1].score for card in cards if card.preference]
    found = accuracy_numbers(items, {card.id: card for card in cards})[0]
    accuracy = f"{100 * found.value:.1f} [{100 * found.low:.1f}, {100 * found.high:.1f}]"
    return statistics.fmean(math.log1p(math.exp(-margin)) for margin in margins), accuracy


def line(name: str, trained: TrainingResult, loss: float, accuracy: str) -> str:
    first, last = trained.history[0], trained.history[-1]
    return (
        f"| {name} | {first['train_loss']:.3f} to {last['train_loss']:.3f} | {trained.validation_loss:.3f}"
        f" (step {trained.best_step}) | {last['eval_loss']:.3f} (step {last['step']:.0f}) | {loss:.3f} | {accuracy} |"
    )


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("train", type=str)
    options.add_argument("test", type=str)
    given = options.parse_args()
    rows = [(row.number, row.item) for row in read_rows(given.train)][::19][:300]
    items = [row.item for row in read_rows(given.test) if isinstance(row.item, Item)][::2][:300]
    print("| | training loss | held-out loss, kept | held-out loss, last | loss on 300 others | accuracy there |")
    print("|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made) / "rm"
        plain = TrainingSettings(start=ModelSettings(**START), **SETTINGS)
        for name, settings in (
            ("nothing", plain),
            (
                "dropout 0.3 before the head",
                TrainingSettings(start=ModelSettings(**START | {"dropout": 0.3}), **SETTINGS),
            ),
            ("weight decay 0.1", TrainingSettings(start=ModelSettings(**START), **SETTINGS | {"weight_decay": 0.1})),
        ):
            trained = train(rows, settings, folder / name.replace(" ", "-"))
            print(line(name, trained, *measured(folder / name.replace(" ", "-"), items)), flush=True)
        members = ["nothing"]
        for member in (1, 2):
            trained = train(rows, plain, folder / f"member-{member}", member=member)
            print(
                line(f"nothing, seed {member}", trained, *measured(folder / f"member-{member}", items)),
                flush=True,
            )
            members.append(f"member-{member}")
        write_ensemble(folder, members)
        loss, accuracy = measured(folder, items)
        print(f"| ensemble of the three seeds | - | - | - | {loss:.3f} | {accuracy} |")


if __name__ == "__main__":
    main()
