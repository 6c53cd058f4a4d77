"""Critique-out-loud from rows to a folder, in three stages (Ankner et al. 2024, arXiv 2408.11791): learn given
critiques, write one's own, learn the reward at the end of those.

Each stage leaves its result beside the output; a run that was killed goes on behind the last whole one.
"""

from __future__ import annotations

import gc
import hashlib
import json
import shutil
from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from transformers import EarlyStoppingCallback
from transformers.trainer_callback import PrinterCallback

from classic_rm.checkpoints import last_checkpoint, run_trainer, whole_folder
from classic_rm.critiques.model import (
    CritiqueNetwork,
    HeadModel,
    begin_lm,
    critique_turn,
    load_lm,
    save_critique_model,
    save_lm,
)
from classic_rm.critiques.trainer import CritiqueCollator, Critiqued, CritiqueTrainer, LearningNetwork
from classic_rm.data import Counts, Example, compared, held_prompts
from classic_rm.model import max_length_of, write_statistics
from classic_rm.settings import CritiqueSettings
from classic_rm.training import Report, Rows, Tell, arguments, evaluations, measure
from judges.errors import CannotRun
from judges.types import Failure, Item, Message

Told = tuple[str | Failure, ...]
# The LM's folder and rows in; each row's number with what was written of each response, as it finishes, out.
Write = Callable[[Path, Sequence[tuple[int, Item]]], Iterable[tuple[int, Told]]]


@dataclass(frozen=True)
class Judging:
    """The prompt under which critiques are written: its file's text, and messages about one response of an Item."""

    name: str
    digest: str
    text: str
    render: Callable[[Item, int], tuple[Message, ...]]


@dataclass(frozen=True)
class Stage:
    """A trained stage: measures on held-out prompts before its first step and at the one that was kept."""

    name: str
    before: dict[str, float]
    after: dict[str, float]
    counts: str
    best_step: int
    history: list[dict[str, float]] = field(repr=False)


@dataclass(frozen=True)
class CritiquesTrained:
    """What came of a training. `written` critiques were the model's own; `failures` counts those among them that
    were not whole, by reason, "truncated" by the token limit; `held` the numbers of rows held out."""

    counts: Counts
    stages: tuple[Stage, Stage]
    written: int
    failures: dict[str, int]
    held: tuple[int, ...]


@dataclass(frozen=True)
class _Row:
    number: int
    item: Item
    comparisons: list[tuple[int, int]]
    given: tuple[str | None, ...]
    held: bool


def train_critiques(
    rows: Rows,
    settings: CritiqueSettings,
    judging: Judging,
    output: Path,
    write: Write,
    tell: Tell = lambda kind, values: None,
    finish: Callable[[Path, CritiquesTrained], None] = lambda folder, trained: None,
) -> CritiquesTrained:
    """Train on numbered preference rows and save a critique model at `output`.

    Given critiques stand in an Item's `meta["critiques"]`, one or None for each response; rows without serve
    the later stages. `write` is the model's own critiques, by an engine that it opens and closes.

    Raises CannotRun with fewer than two prompts for a stage, when the loss is not a number, out of memory.
    """
    if PartialState().num_processes > 1:
        raise CannotRun("critique-out-loud is trained in one process: leave 'accelerate launch' out")
    prepared, counts = _prepare(rows, settings)
    scratch = output.with_name(f"{output.name}.training")
    run = _fingerprint(prepared, settings, judging)
    first, own, last = scratch / "1-given", scratch / "2-own.jsonl", scratch / "3-head"
    tell("begin", {"counts": str(counts), "held": sum(row.held for row in prepared)})

    given = _found(first, run)
    if given is None:
        lm, tokenizer = begin_lm(settings.training.start.base)
        network = CritiqueNetwork(lm)
        told = {row.number: row.given for row in prepared}
        examples, used = _examples(prepared, told, judging, tokenizer, _limit(lm, tokenizer, settings), False)
        given, _ = _stage("given critiques", network, tokenizer, examples, used, settings, first, run, tell)
        with whole_folder(first) as folder:
            save_lm(network.lm, tokenizer, folder)
            (folder / "stage.json").write_text(json.dumps({"run": run, **asdict(given)}) + "\n", encoding="utf-8")
        del lm, network
        gc.collect()

    critiques = _own(prepared, write, first, own, tell)
    failures = Counter(str(c.reason) for of in critiques.values() for c in of if isinstance(c, Failure))

    tell("written", {"critiques": sum(map(len, critiques.values())), "failures": dict(failures)})

    torch.manual_seed(settings.training.seed)  # draws the head
    lm, tokenizer = load_lm(str(first))
    network = CritiqueNetwork(lm, settings.training.start.dropout)
    whole = {number: tuple(None if isinstance(c, Failure) else c for c in of) for number, of in critiques.items()}
    limit = _limit(lm, tokenizer, settings)
    examples, used = _examples(prepared, whole, judging, tokenizer, limit, True)
    rewarded, kept = _stage("reward at the end", network, tokenizer, examples, used, settings, last, run, tell)
    held_rows = tuple(row.number for row in prepared if row.held)
    trained = CritiquesTrained(counts, (given, rewarded), sum(map(len, critiques.values())), dict(failures), held_rows)
    about = {
        "kind": "critique-out-loud",
        "template": {"name": judging.name, "digest": judging.digest},
        "max_tokens": settings.critique_tokens,
        "settings": asdict(settings),
    }
    with whole_folder(output) as folder:
        save_critique_model(network.to("cpu").eval(), tokenizer, folder, judging.text, about)
        model = HeadModel(str(folder), batch_size=settings.training.batch_size)
        write_statistics(folder, {"heads": 1, **measure(model, [one.example for one in kept])})
        finish(folder, trained)
    shutil.rmtree(scratch, ignore_errors=True)
    return trained


def _prepare(rows: Rows, settings: CritiqueSettings) -> tuple[list[_Row], Counts]:
    """The usable rows, held-out prompts marked: some of those with given critiques, some of those without."""
    counts = Counts()
    usable: list[tuple[int, Item, list[tuple[int, int]], tuple[str | None, ...]]] = []
    for number, item in rows:
        counts.rows += 1
        told = compared(item)
        if isinstance(item, Failure) or isinstance(told, str):
            counts.drop(str(told), number)
            continue
        told = [(i, j) for i, j in told if item.responses[i].strip() and item.responses[j].strip()]
        if not told:
            counts.drop("a response is empty", number)
            continue
        counts.comparisons += len(told)
        given = tuple(item.meta.get("critiques") or (None,) * len(item.responses))
        usable.append((number, item, told, given))
    prompts = [{repr(item.messages) for _, item, _, given in usable if any(given) is has} for has in (True, False)]
    if len(prompts[0]) < 2:
        raise CannotRun(
            f"stage 1 learns given critiques, of two prompts or more; there are {len(prompts[0])}: {counts}"
        )
    share, seed = settings.training.validation_share, settings.training.seed
    held = held_prompts(prompts[0], share, seed) | held_prompts(prompts[1] - prompts[0], share, seed)
    return [_Row(n, item, told, given, repr(item.messages) in held) for n, item, told, given in usable], counts


def _examples(
    rows: Sequence[_Row],
    critiques: dict[int, tuple[str | None, ...]],
    judging: Judging,
    tokenizer: Any,
    limit: int,
    compare: bool,
) -> tuple[dict[bool, list[Critiqued]], Counts]:
    """Rows with their critiques as ids, by whether they are held out, and what became of the others.

    Without `compare` every critique counts by itself; with it a comparison needs those of both its sides."""
    found: dict[bool, list[Critiqued]] = {False: [], True: []}
    counts = Counts()
    for row in rows:
        counts.rows += 1
        told = critiques[row.number]
        if not any(told):
            counts.drop("no whole critique", row.number)
            continue
        turns = {
            i: critique_turn(tokenizer, judging.render(row.item, i), text.strip(), limit)
            for i, text in enumerate(told)
            if text and text.strip()
        }
        fits = {i: turn for i, turn in turns.items() if not isinstance(turn, Failure)}
        kept = [(i, j) for i, j in row.comparisons if i in fits and j in fits] if compare else []
        used = sorted({i for pair in kept for i in pair} if compare else fits)
        if not used:
            counts.drop(_why_not([turn for turn in turns.values() if isinstance(turn, Failure)]), row.number)
            continue
        counts.comparisons += len(kept)
        example = Example(
            prompt=repr(row.item.messages),
            responses=[array("i", fits[i].ids) for i in used],
            comparisons=[(used.index(i), used.index(j)) for i, j in kept],
            margin=float(row.item.meta.get("margin", 0.0)),
            subset=row.item.subset,
        )
        found[row.held].append(Critiqued(row.number, example, (1.0,), tuple(fits[i].start for i in used)))
    return found, counts


def _why_not(failures: list[Failure]) -> str:
    if not failures:
        return "a critique is not whole"
    return "prompt and critique are too long" if failures[0].reason == "too-long" else failures[0].message


def _stage(
    name: str,
    network: CritiqueNetwork,
    tokenizer: Any,
    examples: dict[bool, list[Critiqued]],
    counts: Counts,
    settings: CritiqueSettings,
    result: Path,
    run: str,
    tell: Tell,
) -> tuple[Stage, list[Critiqued]]:
    """Train, keep the step with the lowest held-out loss, and say how the loss was before; with what was held out."""
    learned, held = examples[False], examples[True]
    if not learned or not held:
        raise CannotRun(f"{name}: no row is left to {'learn from' if held else 'hold out'}; {counts}")
    tell("stage", {"name": name, "counts": str(counts), "train": len(learned), "held": len(held)})
    scratch = result.with_name(f"{result.name}.steps")
    resume = last_checkpoint(scratch, run)
    chosen = settings.training
    made = arguments(chosen, scratch, len(learned), chosen.seed)
    made.eval_on_start = True
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else 0  # masked, so any will do
    trainer = CritiqueTrainer(
        model=LearningNetwork(network),
        args=made,
        train_dataset=learned,
        eval_dataset=held,
        data_collator=CritiqueCollator(pad),
        callbacks=[EarlyStoppingCallback(chosen.patience), Report(tell)],
        settings=chosen,
        weight=settings.critique_weight,
    )
    trainer.remove_callback(PrinterCallback)
    run_trainer(trainer, resume, scratch, chosen.batch_size, chosen.max_length)
    history = evaluations(trainer.state.log_history)
    best = min(history[1:], key=lambda row: row["eval_loss"])  # the first is from before training
    shutil.rmtree(scratch, ignore_errors=True)
    return Stage(name, _plain(history[0]), _plain(best), str(counts), int(best["step"]), history), held


def _plain(row: dict[str, float]) -> dict[str, float]:
    """The held-out measures of an evaluation under their own names."""
    names = ("loss", "preference_loss", "critique_loss", "accuracy", "margin")
    return {name: row[f"eval_{name}"] for name in names if f"eval_{name}" in row}


def _own(rows: Sequence[_Row], write: Write, lm: Path, file: Path, tell: Tell) -> dict[int, Told]:
    """The model's own critiques of every response, from the file where a run before has written it."""
    if not file.is_file():
        tell("write", {"rows": len(rows), "critiques": sum(len(row.item.responses) for row in rows)})
        part = file.with_suffix(".part")
        with open(part, "w", encoding="utf-8") as lines:
            for number, told in write(lm, [(row.number, row.item) for row in rows]):
                plain = [[c.reason, c.message] if isinstance(c, Failure) else c for c in told]
                lines.write(json.dumps({"row": number, "critiques": plain}, ensure_ascii=False) + "\n")
        part.replace(file)
    found: dict[int, Told] = {}
    with open(file, encoding="utf-8") as lines:
        for one in map(json.loads, lines):
            found[one["row"]] = tuple(c if isinstance(c, str) else Failure(*c) for c in one["critiques"])
    return found


def _found(folder: Path, run: str) -> Stage | None:
    """A stage that is whole. Raises CannotRun where it is another run's."""
    file = folder / "stage.json"
    if not file.is_file():
        return None
    told = json.loads(file.read_text(encoding="utf-8"))
    if told.pop("run") != run:
        raise CannotRun(f"{folder.parent} holds a run of other rows or settings; remove it, or give another -o")
    return Stage(**told)


def _limit(lm: Any, tokenizer: Any, settings: CritiqueSettings) -> int:
    return min(settings.training.max_length, max_length_of(lm, tokenizer))


def _fingerprint(rows: Sequence[_Row], settings: CritiqueSettings, judging: Judging) -> str:
    digest = hashlib.sha256(json.dumps([asdict(settings), judging.digest], sort_keys=True).encode())
    for row in rows:
        told = (row.number, row.item.messages, row.item.responses, row.comparisons, row.given)
        digest.update(repr(told).encode())
    return digest.hexdigest()
