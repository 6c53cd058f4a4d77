"""`assay train`."""

from __future__ import annotations

import json
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from judges.data.quality import decide, preferences
from judges.data.rows import read_rows
from judges.errors import CannotRun
from judges.evaluation.benchmarks import NAMED, load_benchmark
from judges.evaluation.metrics.accuracy import ACCURACY, accuracy_numbers
from judges.evaluation.results import Number
from judges.scorer import Scorer
from judges.scorers.baselines import Length
from judges.types import Failure, Gold, Item

if TYPE_CHECKING:
    from classic_rm.settings import TrainingSettings
    from classic_rm.training import Trained

EVERY_SECONDS = 60.0  # between lines where there is no terminal
Rows = list[tuple[int, Item | Failure]]


def run(
    file: str,
    output: Path,
    settings: dict[str, Any],
    *,
    mapping: dict[str, str],
    test: str | None,
    limit: int | None,
    ensemble: int,
    quality: bool,
    if_missing: bool,
    quiet: bool,
) -> None:
    if output.exists():
        whole = (output / "config.json").is_file() or (output / "ensemble.json").is_file()
        if if_missing and whole:
            print(f"{output} is there already", file=sys.stderr)
            return
        if not whole and not (ensemble > 1 and any(output.glob("member-*"))):
            raise CannotRun(f"{output} exists and is not a checkpoint; give another -o")
    rows = list(read_preferences(file, mapping, limit))
    tests = [pair for _, item in read_preferences(test, mapping, None) for pair in as_pairs(item)] if test else []
    if quality:
        rows = filtered(rows, output, quiet)
    try:
        import matplotlib  # noqa: F401
        import sklearn  # noqa: F401

        from classic_rm.settings import Start, TrainingSettings
        from classic_rm.training import train
    except ImportError as error:
        raise CannotRun(f"training needs more packages ({error.name}): pip install 'assay[train]'") from error

    from transformers.utils import logging

    logging.set_verbosity_error()  # what the user can act on, we say
    start = Start(**{name: settings.pop(name) for name in Start.__dataclass_fields__ if name in settings})
    chosen = TrainingSettings(start=start, **settings)
    if ensemble == 1:
        train(rows, chosen, output, Watch(quiet), _finish(output.name, rows, tests, chosen, quiet))
        return
    from classic_rm.ensemble import write_ensemble

    names = [f"member-{i}" for i in range(ensemble)]
    for i, name in enumerate(names):
        if not (output / name / "config.json").is_file():
            finish = _finish(f"{output.name}/{name}", rows, tests, replace(chosen, seed=chosen.seed), quiet)
            train(rows, chosen, output / name, Watch(quiet), finish, member=i)
    write_ensemble(output, names)
    if tests:
        say(quiet, {"all members, test": table(evaluated({"ensemble": _scorer(output)}, tests))})


def read_preferences(file: str, mapping: dict[str, str], limit: int | None) -> Iterator[tuple[int, Item | Failure]]:
    """Numbered rows of a file or a named set, with what could not be read as its Failure."""
    if file.partition("@")[0] in NAMED or "@" in file:
        yield from enumerate(load_benchmark(file, limit=limit).items, start=1)
        return
    rows = ((row.number, row.item) for row in read_rows(file, mapping))
    found = list(rows) if limit is None else list(in_turn(list(rows), limit))
    if not any(isinstance(item, Item) for _, item in found):
        first = next(((number, item) for number, item in found if isinstance(item, Failure)), None)
        raise CannotRun(f"{file}, row {first[0]}: {first[1].message}" if first else f"{file}: the file has no rows")
    yield from found


def in_turn(rows: Rows, limit: int) -> Iterator[tuple[int, Item | Failure]]:
    """A short run sees every subset: rows are taken from them in turn."""
    by_subset: dict[str, Rows] = {}
    for number, item in rows:
        by_subset.setdefault(item.subset or "" if isinstance(item, Item) else "", []).append((number, item))
    longest = max(map(len, by_subset.values()), default=0)
    turns = (of[i] for i in range(longest) for of in by_subset.values() if i < len(of))
    return islice(turns, limit)


def as_pairs(item: Item | Failure) -> Iterator[Item]:
    """An Item of two responses, the better one first, for each comparison that humans decided."""
    if isinstance(item, Item):
        for won, lost in preferences(item):
            sides = [item.responses[won], item.responses[lost]]
            yield replace(item, id=f"{item.id}/{won}-{lost}", responses=sides, gold=Gold(chosen=(0,)), comparisons=None)


def filtered(rows: Rows, output: Path, quiet: bool) -> Rows:
    """The rows that pass every filter of `judges.data.quality`; the others, with their reasons, in a file."""
    readable = [(number, item) for number, item in rows if isinstance(item, Item)]
    verdicts = decide(item for _, item in readable)
    taken = {number: one for (number, _), one in zip(readable, verdicts, strict=True) if one is not None}
    listed = output.with_name(f"{output.name}.taken.jsonl")
    listed.parent.mkdir(parents=True, exist_ok=True)
    told = [json.dumps({"row": number, "reason": one.reason, "why": one.why}) for number, one in taken.items()]
    listed.write_text("".join(line + "\n" for line in told), encoding="utf-8")
    if not quiet:
        counts = Counter(one.reason for one in taken.values())
        reasons = ", ".join(f"{count} {reason}" for reason, count in counts.most_common()) or "none"
        print(f"filters took {len(taken)} of {len(rows)} rows ({reasons}): {listed}", file=sys.stderr)
    return [(number, item) for number, item in rows if number not in taken]


def _scorer(folder: Path) -> Scorer:
    from classic_rm.scorer import BradleyTerryScorer

    return BradleyTerryScorer(model=str(folder))


def _finish(name: str, rows: Rows, tests: list[Item], settings: TrainingSettings, quiet: bool) -> Any:
    """What is done with a checkpoint before it gets its name: measured beside its baselines, plotted, described."""

    def finish(folder: Path, trained: Trained) -> None:
        from classic_rm.bag_of_words import BagOfWords
        from classic_rm.model import read_statistics
        from classic_rm.model_card import PLOT, card, plot

        held = set(trained.held_rows)
        dropped = {row for taken in trained.counts.dropped.values() for row in taken}
        learned = [
            pair for number, item in rows if number not in held and number not in dropped for pair in as_pairs(item)
        ]
        sets = {"held-out prompts": [pair for number, item in rows if number in held for pair in as_pairs(item)]}
        if tests:
            sets["test"] = tests
        with _scorer(folder) as model:
            scorers = {"bradley-terry": model, "bag of words": BagOfWords(learned), "length": Length()}
            results = {title: evaluated(scorers, pairs) for title, pairs in sets.items()}
        tables = {title: table(result) for title, result in results.items()}
        plot(trained.history, trained.best_step, folder / PLOT)
        text = card(name, trained, settings, tables, read_statistics(folder))
        (folder / "README.md").write_text(text, encoding="utf-8")
        say(quiet, tables)

    return finish


def evaluated(scorers: dict[str, Scorer], pairs: list[Item]) -> dict[str, dict[str, Number]]:
    """Accuracy by subset (all of them first), for each scorer."""
    subsets = sorted({item.subset for item in pairs if item.subset})
    found: dict[str, dict[str, Number]] = {}
    for name, scorer in scorers.items():
        cards = {card.id: card for card in scorer.stream(iter(pairs))}
        numbers = {n.section: n for n in accuracy_numbers(pairs, cards) if n.metric == ACCURACY}
        for section in ["", *subsets] if len(subsets) > 1 else [""]:
            found.setdefault(section or "all", {})[name] = numbers[section]
    return found


def table(found: dict[str, dict[str, Number]]) -> str:
    names = list(next(iter(found.values())))
    lines = [f"| accuracy (95 %) | pairs | {' | '.join(names)} |", "|---|--:|" + "--:|" * len(names)]
    for subset, by_name in found.items():
        pairs = by_name[names[0]].rows + by_name[names[0]].left_out
        lines.append(f"| {subset} | {pairs} | {' | '.join(_shown(by_name[name]) for name in names)} |")
    return "\n".join(lines)


def _shown(a: Number) -> str:
    if a.value is None or a.low is None or a.high is None:
        return "none judged"
    failed = f", {a.left_out} failed" if a.left_out else ""
    return f"{100 * a.value:.1f} [{100 * a.low:.1f}, {100 * a.high:.1f}]{failed}"


def say(quiet: bool, tables: dict[str, str]) -> None:
    if not quiet:
        for title, table in tables.items():
            print(f"\n{title}\n{table}")


class Watch:
    """A bar of steps, and under it a row for each evaluation; plain lines where there is no terminal."""

    COLUMNS = (
        ("step", "step", "{:>7.0f}"),
        ("epoch", "epoch", "{:>6.2f}"),
        ("train_loss", "loss", "{:>7.4f}"),
        ("eval_loss", "held-out", "{:>8.4f}"),
        ("eval_accuracy", "accuracy", "{:>8.3f}"),
        ("eval_margin", "margin", "{:>8.3f}"),
        ("eval_chosen_reward", "chosen", "{:>8.3f}"),
        ("eval_rejected_reward", "rejected", "{:>8.3f}"),
        ("learning_rate", "rate", "{:>9.2e}"),
    )

    def __init__(self, quiet: bool) -> None:
        self._quiet = quiet
        self._console = Console(stderr=True, width=None if sys.stderr.isatty() else 120, highlight=False)
        self._bar: Progress | None = None
        self._headed = False
        self._began: float | None = None
        self._told = 0.0

    def __call__(self, kind: str, values: dict[str, Any]) -> None:
        if self._quiet:
            return
        if kind == "begin":
            why = values["why_not"]
            way = "each prompt computed once" if not why else f"prompts are not shared: {why}"
            self._console.print(f"{values['counts']}", soft_wrap=True)
            self._console.print(f"{values['train']} rows to train on, {values['held']} held out; {way}", soft_wrap=True)
        elif kind == "step":
            self._step(values["step"], values["of"])
        elif kind == "evaluation":
            if not self._headed:
                self._console.print(
                    " ".join(title.rjust(len(form.format(0))) for _, title, form in self.COLUMNS), soft_wrap=True
                )
                self._headed = True
            cells = [
                form.format(values[key]) if key in values else "-".rjust(len(form.format(0)))
                for key, _, form in self.COLUMNS
            ]
            self._console.print(" ".join(cells), soft_wrap=True)

    def _step(self, step: int, of: int) -> None:
        if not self._console.is_terminal:
            now = time.monotonic()
            if self._began is None:
                self._began = self._told = now
            elif now - self._told > EVERY_SECONDS and step > 1:
                self._told = now
                left = (now - self._began) / (step - 1) * (of - step)
                self._console.print(f"step {step} of {of}, about {left / 60:.0f} min left", soft_wrap=True)
            return
        if self._bar is None:
            self._bar = Progress(
                TextColumn("training"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), console=self._console
            )
            self._bar.start()
            self._bar.add_task("training", total=of)
        self._bar.update(self._bar.task_ids[0], completed=step)
        if step >= of:
            self._bar.stop()
