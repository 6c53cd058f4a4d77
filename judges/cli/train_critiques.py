"""`assay train --kind critique-out-loud`."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from judges.cli.train import Watch, evaluated, filtered, in_turn, say, table
from judges.data.rows import Row, read_rows
from judges.engines.base import RequestFailed
from judges.engines.concurrency import map_unordered
from judges.engines.embedded import resolve_model
from judges.errors import CannotRun
from judges.evaluation.benchmarks import NAMED
from judges.scorer import Scorer
from judges.scorers.critique_out_loud import CritiqueOutLoud, whole
from judges.template import load_template
from judges.types import Failure, Item

if TYPE_CHECKING:
    from classic_rm.critiques.training import CritiquesTrained, Told, Write
    from classic_rm.settings import CritiqueSettings

COLUMNS = ("chosen_critique", "rejected_critique", "critiques")
Rows = list[tuple[int, Item | Failure]]


def run(
    file: str,
    output: Path,
    settings: dict[str, Any],
    *,
    critique_weight: float,
    critique_tokens: int,
    critique_temperature: float,
    template: str,
    engine: str,
    mapping: dict[str, str],
    test: str | None,
    limit: int | None,
    quality: bool,
    if_missing: bool,
    quiet: bool,
) -> None:
    if output.exists():
        whole_one = (output / "critique.json").is_file()
        if if_missing and whole_one:
            print(f"{output} is there already", file=sys.stderr)
            return
        if not whole_one:
            raise CannotRun(f"{output} exists and is not a critique model; give another -o")
    judged = load_template(template or CritiqueOutLoud.default_template)
    if judged.kind not in CritiqueOutLoud.kinds:
        raise CannotRun(f"template {judged.name!r} is {judged.kind}; critique-out-loud needs critique")
    rows = list(read_critiqued(file, mapping, limit))
    tests = list(_tests(test)) if test else []
    if quality:
        rows = filtered(rows, output, quiet)
    resolve_model(settings["base"])  # a wrong name is told now
    try:
        import matplotlib  # noqa: F401
        import sklearn  # noqa: F401

        from classic_rm.critiques.training import Judging, train_critiques
        from classic_rm.settings import CritiqueSettings, Start, TrainingSettings
    except ImportError as error:
        raise CannotRun(f"training needs more packages ({error.name}): pip install 'assay[train]'") from error

    from transformers.utils import logging

    logging.set_verbosity_error()  # what the user can act on, we say
    start = Start(**{name: settings.pop(name) for name in Start.__dataclass_fields__ if name in settings})
    chosen = CritiqueSettings(
        TrainingSettings(start=start, **settings), critique_weight, critique_tokens, critique_temperature
    )
    judging = Judging(
        judged.name,
        judged.digest,
        judged.path.read_text(encoding="utf-8"),
        lambda item, i: judged.render(item, (i,)),
    )
    store = output.with_name(f"{output.name}.training") / "completions.sqlite"
    write = _writer(str(judged.path), engine, chosen, store)
    finish = _finish(output.name, rows, tests, chosen, engine, quiet)
    train_critiques(rows, chosen, judging, output, write, _StageWatch(quiet), finish)


def read_critiqued(file: str, mapping: Mapping[str, str], limit: int | None) -> Iterator[tuple[int, Item | Failure]]:
    """Numbered preference rows; the given critiques of an Item's responses in its `meta["critiques"]`.

    They stand in `chosen_critique` and `rejected_critique`, or, beside `responses`, in a list `critiques`. A row
    may lack them. Raises CannotRun where all do.
    """
    columns = {name: mapping.get(name, name) for name in COLUMNS}
    if file.partition("@")[0] in NAMED or "@" in file:
        raise CannotRun(f"{file} has no critiques: stage 1 learns given ones, from columns {', '.join(COLUMNS)}")
    fields = {field: column for field, column in mapping.items() if field not in COLUMNS}
    found: Rows = [(row.number, _critiqued(row, columns)) for row in read_rows(file, fields)]
    if not found:
        raise CannotRun(f"{file}: the file has no rows")
    if not any(isinstance(item, Item) and "critiques" in item.meta for _, item in found):
        number, first = found[0]
        why = first.message if isinstance(first, Failure) else f"no {columns['chosen_critique']!r}"
        raise CannotRun(f"{file}, row {number}: {why}; stage 1 learns given critiques, and no row has one")
    yield from found if limit is None else in_turn(found, limit)


def _critiqued(row: Row, columns: Mapping[str, str]) -> Item | Failure:
    item = row.item
    if isinstance(item, Failure):
        return item
    chosen, rejected, each = (row.columns.get(columns[name]) for name in COLUMNS)
    given = each if each is not None else [chosen, rejected]
    if given == [None, None]:
        return item
    if not isinstance(given, list) or len(given) != len(item.responses):
        return Failure("malformed", f"critiques is a list with one text or null for each of {len(item.responses)}")
    if not all(one is None or isinstance(one, str) for one in given):
        return Failure("malformed", "a critique is not text")
    told = tuple(one if one and one.strip() else None for one in given)
    return replace(item, meta={**item.meta, "critiques": told}) if any(told) else item


def _tests(file: str) -> Iterator[Item]:
    from judges.cli.train import as_pairs, read_preferences

    for _, item in read_preferences(file, {}, None):
        yield from as_pairs(item)


def _writer(template: str, engine: str, settings: CritiqueSettings, store: Path) -> Write:
    """The second stage: every response's critique by the model itself, each kept in a store as it is written."""

    def write(lm: Path, rows: Sequence[tuple[int, Item]]) -> Iterable[tuple[int, Told]]:
        judge = CritiqueOutLoud(
            model=str(lm),
            engine=engine,
            template=template,
            temperature=settings.temperature,
            max_tokens=settings.critique_tokens,
            seed=settings.training.seed,
            store=str(store),
        )

        async def one(item: Item, index: int) -> str | Failure:
            try:
                written, _ = await judge.critique(judge.template.render(item, (index,)), 0)
                return whole(written)
            except RequestFailed as error:
                return error.failure

        async def each(row: tuple[int, Item]) -> tuple[int, Told]:
            told = await asyncio.gather(*(one(row[1], i) for i in range(len(row[1].responses))))
            return row[0], tuple(told)

        with judge:
            _ = judge.engine
            yield from map_unordered(rows, each, judge.window, lambda row: len(row[1].responses))

    return write


def _finish(name: str, rows: Rows, tests: list[Item], settings: CritiqueSettings, engine: str, quiet: bool) -> Any:
    """What is done with the folder before it gets its name: measured on a test file, plotted, described."""

    def finish(folder: Path, trained: CritiquesTrained) -> None:
        from classic_rm.model import read_statistics
        from classic_rm.model_card import PLOT, critique_card, plot

        tables = {}
        if tests:
            from classic_rm.bag_of_words import BagOfWords
            from judges.cli.train import as_pairs
            from judges.scorers.baselines import Length

            learned = [p for number, item in rows if number not in trained.held for p in as_pairs(item)]
            with CritiqueOutLoud(model=str(folder), engine=engine) as model:
                scorers: dict[str, Scorer] = {
                    "critique-out-loud": model,
                    "bag of words": BagOfWords(learned),
                    "length": Length(),
                }
                tables["test"] = table(evaluated(scorers, tests))
        last = trained.stages[-1]
        plot(last.history, last.best_step, folder / PLOT)
        text = critique_card(name, trained, settings, tables, read_statistics(folder))
        (folder / "README.md").write_text(text, encoding="utf-8")
        say(quiet, tables)

    return finish


class _StageWatch:
    """What happens in each stage; the trained ones have a bar and a row for each evaluation."""

    def __init__(self, quiet: bool) -> None:
        self._quiet = quiet
        self._watch = _CritiqueWatch(quiet)

    def __call__(self, kind: str, values: dict[str, Any]) -> None:
        if kind == "stage":
            self._watch = _CritiqueWatch(self._quiet)
            self._print(f"\n{values['name']}: {values['counts']}")
            self._print(f"{values['train']} rows to train on, {values['held']} held out")
        elif kind == "begin":
            self._print(values["counts"])
        elif kind == "write":
            self._print(f"\nown critiques: {values['critiques']} to write, for {values['rows']} rows")
        elif kind == "written":
            cut = ", ".join(f"{count} {reason}" for reason, count in values["failures"].items()) or "none"
            self._print(f"own critiques: {values['critiques']}, not whole and left out: {cut}")
        else:
            self._watch(kind, values)

    def _print(self, text: str) -> None:
        if not self._quiet:
            print(text, file=sys.stderr)


class _CritiqueWatch(Watch):
    COLUMNS = (
        ("step", "step", "{:>7.0f}"),
        ("epoch", "epoch", "{:>6.2f}"),
        ("train_loss", "loss", "{:>7.4f}"),
        ("eval_loss", "held-out", "{:>8.4f}"),
        ("eval_critique_loss", "critiques", "{:>9.4f}"),
        ("eval_preference_loss", "preference", "{:>10.4f}"),
        ("eval_accuracy", "accuracy", "{:>8.3f}"),
        ("eval_margin", "margin", "{:>8.3f}"),
        ("learning_rate", "rate", "{:>9.2e}"),
    )
