"""`assay train --kind critique-out-loud`: a reward model that writes a critique first (arXiv 2408.11791)."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from judges.cli.train import (
    accuracy_by_subset,
    accuracy_table,
    filter_rows,
    interleave_subsets,
    preference_pairs,
    print_tables,
    read_test_pairs,
    training_settings,
)
from judges.cli.training_progress import CRITIQUE_COLUMNS, TrainingProgress
from judges.data.rows import Row, read_rows
from judges.engines.base import RequestFailed
from judges.engines.concurrency import map_unordered
from judges.engines.embedded import resolve_model
from judges.engines.quiet import hide_loading_bars
from judges.errors import CannotRun
from judges.evaluation.benchmarks import DEMO_SPECS
from judges.scorer import Scorer
from judges.scorers.critique_out_loud import CritiqueOutLoud, complete_critique
from judges.template import load_template
from judges.types import Failure, Item

if TYPE_CHECKING:
    from classic_rm.critiques.training import Critiques, CritiqueTrainingResult, CritiqueWriter
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
        complete = (output / "critique.json").is_file()
        if if_missing and complete:
            print(f"{output} exists already", file=sys.stderr)
            return
        if not complete:
            raise CannotRun(f"{output} exists and is not a critique model; give another -o")
    prompt_template = load_template(template or CritiqueOutLoud.default_template)
    if prompt_template.kind not in CritiqueOutLoud.kinds:
        raise CannotRun(
            f"template {prompt_template.name!r} is {prompt_template.kind}; critique-out-loud needs critique"
        )
    rows = list(read_critique_rows(file, mapping, limit))
    tests = read_test_pairs(test, {})
    if quality:
        rows = filter_rows(rows, output, quiet)
    resolve_model(settings["base"])  # a wrong name is an error before training starts
    try:
        import matplotlib  # noqa: F401
        import sklearn  # noqa: F401

        from classic_rm.critiques.training import CritiquePrompt, train_critiques
        from classic_rm.settings import CritiqueSettings
    except ImportError as error:
        raise CannotRun(f"training needs more packages ({error.name}): pip install 'assay[train]'") from error

    training = CritiqueSettings(training_settings(settings), critique_weight, critique_tokens, critique_temperature)
    judging = CritiquePrompt(
        prompt_template.name,
        prompt_template.digest,
        prompt_template.path.read_text(encoding="utf-8"),
        lambda item, i: prompt_template.render(item, (i,)),
    )
    store = output.with_name(f"{output.name}.training") / "completions.sqlite"
    write = _critique_sampler(str(prompt_template.path), engine, training, store)
    finish = _finish(output.name, rows, tests, training, engine, quiet)
    with hide_loading_bars():
        train_critiques(rows, training, judging, output, write, _StageProgress(quiet), finish)


def read_critique_rows(
    file: str, mapping: Mapping[str, str], limit: int | None
) -> Iterator[tuple[int, Item | Failure]]:
    """Numbered preference rows, with the critiques of an Item's responses in its `meta["critiques"]`.

    They come from the columns `chosen_critique` and `rejected_critique`, or from a list `critiques` beside
    `responses`. A row may have none. Raises CannotRun where all rows have none.
    """
    columns = {name: mapping.get(name, name) for name in COLUMNS}
    if file.partition("@")[0] in DEMO_SPECS or "@" in file:
        raise CannotRun(f"{file} has no critiques: stage 1 trains on the columns {', '.join(COLUMNS)}")
    fields = {field: column for field, column in mapping.items() if field not in COLUMNS}
    found: Rows = [(row.number, _with_critiques(row, columns)) for row in read_rows(file, fields)]
    if not found:
        raise CannotRun(f"{file}: the file has no rows")
    if not any(isinstance(item, Item) and "critiques" in item.meta for _, item in found):
        number, first = found[0]
        why = first.message if isinstance(first, Failure) else f"no {columns['chosen_critique']!r}"
        raise CannotRun(f"{file}, row {number}: {why}; stage 1 trains on given critiques, and no row has one")
    yield from found if limit is None else interleave_subsets(found, limit)


def _with_critiques(row: Row, columns: Mapping[str, str]) -> Item | Failure:
    item = row.item
    if isinstance(item, Failure):
        return item
    chosen, rejected, each = (row.columns.get(columns[name]) for name in COLUMNS)
    given = each if each is not None else [chosen, rejected]
    if given == [None, None]:
        return item
    if not isinstance(given, list) or len(given) != len(item.responses):
        return Failure("malformed", f"critiques is a list with one text or null for each of {len(item.responses)}")
    if not all(text is None or isinstance(text, str) for text in given):
        return Failure("malformed", "a critique is not text")
    critiques = tuple(text if text and text.strip() else None for text in given)
    return replace(item, meta={**item.meta, "critiques": critiques}) if any(critiques) else item


def _critique_sampler(template: str, engine: str, settings: CritiqueSettings, store: Path) -> CritiqueWriter:
    """The second stage: the model samples a critique of every response, each stored as it is finished."""

    def write(lm: Path, rows: Sequence[tuple[int, Item]]) -> Iterable[tuple[int, Critiques]]:
        judge = CritiqueOutLoud(
            model=str(lm),
            engine=engine,
            template=template,
            temperature=settings.temperature,
            max_tokens=settings.critique_tokens,
            seed=settings.training.seed,
            store=str(store),
        )

        async def sample(item: Item, index: int) -> str | Failure:
            try:
                text, _ = await judge.critique(judge.template.render(item, (index,)), 0)
                return complete_critique(text)
            except RequestFailed as error:
                return error.failure

        async def sample_row(row: tuple[int, Item]) -> tuple[int, Critiques]:
            critiques = await asyncio.gather(*(sample(row[1], i) for i in range(len(row[1].responses))))
            return row[0], tuple(critiques)

        with judge:
            _ = judge.engine
            yield from map_unordered(rows, sample_row, judge.window, lambda row: len(row[1].responses))

    return write


def _finish(name: str, rows: Rows, tests: list[Item], settings: CritiqueSettings, engine: str, quiet: bool) -> Any:
    """The last steps before the folder gets its name: accuracy on a test file, loss plot, model card."""

    def finish(folder: Path, trained: CritiqueTrainingResult) -> None:
        from classic_rm.model import read_statistics
        from classic_rm.model_card import PLOT_FILE, plot_training_curves, render_critique_model_card

        tables = {}
        if tests:
            from classic_rm.bag_of_words import BagOfWords
            from judges.scorers.baselines import Length

            train_items = [item for number, item in rows if number not in trained.held_out_rows]
            train_pairs = [pair for item in train_items for pair in preference_pairs(item)]
            with CritiqueOutLoud(model=str(folder), engine=engine) as model:
                scorers: dict[str, Scorer] = {
                    "critique-out-loud": model,
                    "bag of words": BagOfWords(train_pairs),
                    "length": Length(),
                }
                tables["test"] = accuracy_table(accuracy_by_subset(scorers, tests))
        last = trained.stages[-1]
        plot_training_curves(last.history, last.best_step, folder / PLOT_FILE)
        text = render_critique_model_card(name, trained, settings, tables, read_statistics(folder))
        (folder / "README.md").write_text(text, encoding="utf-8")
        if not quiet:
            print_tables(tables)

    return finish


class _StageProgress:
    """Prints each stage on standard error; a stage that trains has a bar and a row for each evaluation."""

    def __init__(self, quiet: bool) -> None:
        self._quiet = quiet
        self._progress = TrainingProgress(quiet, CRITIQUE_COLUMNS)

    def __call__(self, event: str, values: dict[str, Any]) -> None:
        if event == "stage":
            self._progress = TrainingProgress(self._quiet, CRITIQUE_COLUMNS)
            self._print(f"\n{values['name']}: {values['counts']}")
            self._print(f"{values['train']} rows to train on, {values['held']} held out")
        elif event == "begin":
            self._print(values["counts"])
        elif event == "write":
            self._print(f"\nown critiques: {values['critiques']} to write, for {values['rows']} rows")
        elif event == "written":
            incomplete = ", ".join(f"{count} {reason}" for reason, count in values["failures"].items()) or "none"
            self._print(f"own critiques: {values['critiques']}, incomplete and left out: {incomplete}")
        else:
            self._progress(event, values)

    def _print(self, text: str) -> None:
        if not self._quiet:
            print(text, file=sys.stderr)
