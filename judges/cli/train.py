"""`assay train`: a Bradley–Terry reward model, its baselines and its model card."""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import fields, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from judges.cli.terminal import format_share
from judges.cli.training_progress import TrainingProgress
from judges.data.quality import find_removals, preferred_pairs
from judges.data.rows import read_rows
from judges.engines.quiet import hide_loading_bars, is_verbose
from judges.errors import CannotRun
from judges.evaluation.benchmarks import DEMO_SPECS, load_benchmark
from judges.evaluation.metrics.accuracy import ACCURACY, accuracy_numbers
from judges.evaluation.results import MetricValue
from judges.scorer import Scorer
from judges.scorers.baselines import Length
from judges.types import Failure, Gold, Item

if TYPE_CHECKING:
    from classic_rm.settings import TrainingSettings
    from classic_rm.training import TrainingResult

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
        complete = (output / "config.json").is_file() or (output / "ensemble.json").is_file()
        if if_missing and complete:
            print(f"{output} exists already", file=sys.stderr)
            return
        if not complete and not (ensemble > 1 and any(output.glob("member-*"))):
            raise CannotRun(f"{output} exists and is not a checkpoint; give another -o")
    rows = list(read_preferences(file, mapping, limit))
    tests = read_test_pairs(test, mapping)
    if quality:
        rows = filter_rows(rows, output, quiet)
    try:
        import matplotlib  # noqa: F401
        import sklearn  # noqa: F401

        from classic_rm.training import train
    except ImportError as error:
        raise CannotRun(f"training needs more packages ({error.name}): pip install 'assay[train]'") from error

    training = training_settings(settings)
    if ensemble == 1:
        with hide_loading_bars():
            train(rows, training, output, TrainingProgress(quiet), _finish(output.name, rows, tests, training, quiet))
        return
    from classic_rm.ensemble import write_ensemble

    names = [f"member-{i}" for i in range(ensemble)]
    for i, name in enumerate(names):
        if not (output / name / "config.json").is_file():
            finish = _finish(f"{output.name}/{name}", rows, tests, training, quiet)
            with hide_loading_bars():
                train(rows, training, output / name, TrainingProgress(quiet), finish, member=i)
    write_ensemble(output, names)
    if tests and not quiet:
        results = accuracy_by_subset({"ensemble": _load_scorer(output)}, tests)
        print_tables({"all members, test": accuracy_table(results)})


def training_settings(settings: dict[str, Any]) -> TrainingSettings:
    """The options of a training as its settings."""
    from transformers.utils import logging

    from classic_rm.settings import ModelSettings, TrainingSettings

    if not is_verbose():
        logging.set_verbosity_error()  # Assay prints what a user can act on
    names = {field.name for field in fields(ModelSettings)}
    model = ModelSettings(**{name: value for name, value in settings.items() if name in names})
    return TrainingSettings(model, **{name: value for name, value in settings.items() if name not in names})


def read_preferences(file: str, mapping: dict[str, str], limit: int | None) -> Iterator[tuple[int, Item | Failure]]:
    """Numbered rows of a file or a demo set; a row that cannot be read is a Failure."""
    if file.partition("@")[0] in DEMO_SPECS or "@" in file:
        yield from enumerate(load_benchmark(file, limit=limit).items, start=1)
        return
    rows = ((row.number, row.item) for row in read_rows(file, mapping))
    found = list(rows) if limit is None else list(interleave_subsets(list(rows), limit))
    if not any(isinstance(item, Item) for _, item in found):
        first = next(((number, item) for number, item in found if isinstance(item, Failure)), None)
        raise CannotRun(f"{file}, row {first[0]}: {first[1].message}" if first else f"{file}: the file has no rows")
    yield from found


def interleave_subsets(rows: Rows, limit: int) -> Iterator[tuple[int, Item | Failure]]:
    """The first `limit` rows, taken from the subsets in turn, so that a short run sees all of them."""
    by_subset: dict[str, Rows] = {}
    for number, item in rows:
        by_subset.setdefault(item.subset or "" if isinstance(item, Item) else "", []).append((number, item))
    longest = max(map(len, by_subset.values()), default=0)
    interleaved = (subset[i] for i in range(longest) for subset in by_subset.values() if i < len(subset))
    return islice(interleaved, limit)


def preference_pairs(item: Item | Failure) -> Iterator[Item]:
    """An Item of two responses, the better one first, for each comparison that humans decided."""
    if isinstance(item, Item):
        for winner, loser in preferred_pairs(item):
            pair = [item.responses[winner], item.responses[loser]]
            name, gold = f"{item.id}/{winner}-{loser}", Gold(chosen=(0,))
            yield replace(item, id=name, responses=pair, gold=gold, comparisons=None)


def read_test_pairs(file: str | None, mapping: dict[str, str]) -> list[Item]:
    """The pairs of a test file; none without a file."""
    rows = read_preferences(file, mapping, None) if file else ()
    return [pair for _, item in rows for pair in preference_pairs(item)]


def filter_rows(rows: Rows, output: Path, quiet: bool) -> Rows:
    """The rows that pass every filter of `judges.data.quality`; removed rows and the reasons are written to a file."""
    readable = [(number, item) for number, item in rows if isinstance(item, Item)]
    decisions = zip(readable, find_removals(item for _, item in readable), strict=True)
    removed = {number: removal for (number, _), removal in decisions if removal is not None}
    file = output.with_name(f"{output.name}.taken.jsonl")
    file.parent.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps({"row": number, "reason": r.reason, "why": r.why}) for number, r in removed.items()]
    file.write_text("".join(line + "\n" for line in lines), encoding="utf-8")
    if not quiet:
        counts = Counter(removal.reason for removal in removed.values())
        reasons = ", ".join(f"{count} {reason}" for reason, count in counts.most_common()) or "none"
        print(f"filters removed {len(removed)} of {len(rows)} rows ({reasons}): {file}", file=sys.stderr)
    return [(number, item) for number, item in rows if number not in removed]


def _load_scorer(folder: Path) -> Scorer:
    from classic_rm.scorer import BradleyTerryScorer

    return BradleyTerryScorer(model=str(folder))


def _finish(name: str, rows: Rows, tests: list[Item], settings: TrainingSettings, quiet: bool) -> Any:
    """The last steps before a checkpoint gets its name: accuracy beside the baselines, loss plot, model card."""

    def finish(folder: Path, trained: TrainingResult) -> None:
        from classic_rm.bag_of_words import BagOfWords
        from classic_rm.model import read_statistics
        from classic_rm.model_card import PLOT_FILE, plot_training_curves, render_model_card

        held_out = set(trained.held_out_rows)
        unused = held_out | {row for rows in trained.counts.dropped.values() for row in rows}
        train_pairs = [pair for number, item in rows if number not in unused for pair in preference_pairs(item)]
        sets = {
            "held-out prompts": [pair for number, item in rows if number in held_out for pair in preference_pairs(item)]
        }
        if tests:
            sets["test"] = tests
        with _load_scorer(folder) as model:
            scorers = {"bradley-terry": model, "bag of words": BagOfWords(train_pairs), "length": Length()}
            results = {title: accuracy_by_subset(scorers, pairs) for title, pairs in sets.items()}
        tables = {title: accuracy_table(result) for title, result in results.items()}
        plot_training_curves(trained.history, trained.best_step, folder / PLOT_FILE)
        text = render_model_card(name, trained, settings, tables, read_statistics(folder))
        (folder / "README.md").write_text(text, encoding="utf-8")
        if not quiet:
            print_tables(tables)

    return finish


def accuracy_by_subset(scorers: dict[str, Scorer], pairs: list[Item]) -> dict[str, dict[str, MetricValue]]:
    """The accuracy of each scorer on all pairs and on each subset: {subset: {scorer: accuracy}}."""
    subsets = sorted({item.subset for item in pairs if item.subset})
    results: dict[str, dict[str, MetricValue]] = {}
    for name, scorer in scorers.items():
        cards = {card.id: card for card in scorer.stream(iter(pairs))}
        numbers = {n.section: n for n in accuracy_numbers(pairs, cards) if n.metric == ACCURACY}
        for section in ["", *subsets] if len(subsets) > 1 else [""]:
            results.setdefault(section or "all", {})[name] = numbers[section]
    return results


def accuracy_table(results: dict[str, dict[str, MetricValue]]) -> str:
    """A Markdown table with a row for each subset and a column for each scorer."""
    names = list(next(iter(results.values())))
    lines = [f"| accuracy (95 %) | pairs | {' | '.join(names)} |", "|---|--:|" + "--:|" * len(names)]
    for subset, by_name in results.items():
        pairs = by_name[names[0]].rows + by_name[names[0]].left_out
        lines.append(f"| {subset} | {pairs} | {' | '.join(_format_accuracy(by_name[name]) for name in names)} |")
    return "\n".join(lines)


def _format_accuracy(number: MetricValue) -> str:
    if number.value is None or number.low is None or number.high is None:
        return "none judged"
    failed = f", {number.left_out} failed" if number.left_out else ""
    return format_share(number.value, number.low, number.high) + failed


def print_tables(tables: dict[str, str]) -> None:
    for title, table in tables.items():
        print(f"\n{title}\n{table}")
