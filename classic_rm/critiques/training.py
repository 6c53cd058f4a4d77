"""Training critique-out-loud from rows to a folder in three stages (Ankner et al. 2024, arXiv 2408.11791).

Stage 1 trains the LM on given critiques. In stage 2 it writes its own critiques. Stage 3 trains the reward head at the
end of those, together with the LM. Each stage writes its result to `OUTPUT.training`; a killed run resumes after the
last complete stage.
"""

from __future__ import annotations

import gc
import hashlib
import json
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState

from classic_rm.checkpoints import atomic_folder, last_checkpoint
from classic_rm.critiques.model import (
    CritiqueNetwork,
    CritiqueRewardModel,
    encode_critique,
    initialise_lm,
    load_lm,
    save_critique_model,
)
from classic_rm.critiques.trainer import CritiqueCollator, CritiqueExample, CritiqueTrainer, TrainingNetwork
from classic_rm.data import Example, RowCounts, choose_held_out_prompts, distinct_comparisons
from classic_rm.early_stopping import ProgressReport, train_with_early_stopping, training_arguments
from classic_rm.model import context_length, save_pretrained, write_statistics
from classic_rm.settings import CritiqueSettings
from classic_rm.training import Rows, measure_rewards
from judges.errors import CannotRun
from judges.types import Failure, Item, Message

Critiques = tuple[str | Failure, ...]  # one for each response of a row
# Takes the LM's folder and numbered rows; yields each row's number and the critiques of its responses, in any order.
CritiqueWriter = Callable[[Path, Sequence[tuple[int, Item]]], Iterable[tuple[int, Critiques]]]


@dataclass(frozen=True)
class CritiquePrompt:
    """The prompt template of critiques: name, digest, the text of its file, and a function that renders the messages
    about one response of an Item."""

    name: str
    digest: str
    text: str
    render: Callable[[Item, int], tuple[Message, ...]]


@dataclass(frozen=True)
class Stage:
    """A trained stage: the metrics on held-out prompts before the first step and at the best step."""

    name: str
    before: dict[str, float]
    after: dict[str, float]
    counts: str
    best_step: int
    history: list[dict[str, float]] = field(repr=False)


@dataclass(frozen=True)
class CritiqueTrainingResult:
    """What a training did.

    `own_critiques` is the number of critiques that the model wrote itself. `failures` counts those that are incomplete
    by reason, such as "truncated" by the token limit. `held_out_rows` are row numbers.
    """

    counts: RowCounts
    stages: tuple[Stage, Stage]
    own_critiques: int
    failures: dict[str, int]
    held_out_rows: tuple[int, ...]


@dataclass(frozen=True)
class _Row:
    number: int
    item: Item
    comparisons: list[tuple[int, int]]
    given: tuple[str | None, ...]
    held_out: bool


@dataclass(frozen=True)
class _Dataset:
    counts: RowCounts
    train: list[CritiqueExample]
    held_out: list[CritiqueExample]


def train_critiques(
    rows: Rows,
    settings: CritiqueSettings,
    prompt: CritiquePrompt,
    output: Path,
    write: CritiqueWriter,
    report: ProgressReport = lambda event, values: None,
    finish: Callable[[Path, CritiqueTrainingResult], None] = lambda folder, result: None,
) -> CritiqueTrainingResult:
    """Train on numbered preference rows and save a critique model at `output`.

    Given critiques are in an Item's `meta["critiques"]`, one or None for each response; rows without any are used in
    the later stages. `write` generates the model's own critiques with an engine that it opens and closes. `report` and
    `finish` are as in `training.train`.

    Raises CannotRun with fewer than two prompts for a stage, when the loss is not finite, and out of memory.
    """
    if PartialState().num_processes > 1:
        raise CannotRun("critique-out-loud trains in one process: start it without 'accelerate launch'")
    usable, counts = _prepare(rows, settings)
    scratch = output.with_name(f"{output.name}.training")
    fingerprint = _fingerprint(usable, settings, prompt)
    lm_folder, critiques_file, head_folder = scratch / "1-given", scratch / "2-own.jsonl", scratch / "3-head"
    report("begin", {"counts": str(counts), "held": sum(row.held_out for row in usable)})

    lm_stage = _read_stage(lm_folder, fingerprint)
    if lm_stage is None:
        lm, tokenizer = initialise_lm(settings.training.start.base)
        network = CritiqueNetwork(lm)
        given = {row.number: row.given for row in usable}
        dataset = _encode_rows(usable, given, prompt, tokenizer, _max_length(lm, tokenizer, settings), compare=False)
        lm_stage = _train_stage(
            "given critiques", network, tokenizer, dataset, settings, lm_folder, fingerprint, report
        )
        with atomic_folder(lm_folder) as folder:
            save_pretrained(network.lm, tokenizer, folder)
            record = {"run": fingerprint, **asdict(lm_stage)}
            (folder / "stage.json").write_text(json.dumps(record) + "\n", encoding="utf-8")
        del lm, network
        gc.collect()

    own = _own_critiques(usable, write, lm_folder, critiques_file, report)
    own_count = sum(map(len, own.values()))
    failures = dict(Counter(str(c.reason) for critiques in own.values() for c in critiques if isinstance(c, Failure)))
    report("written", {"critiques": own_count, "failures": failures})

    torch.manual_seed(settings.training.seed)  # the head is drawn from it
    lm, tokenizer = load_lm(str(lm_folder))
    network = CritiqueNetwork(lm, settings.training.start.dropout)
    complete = {n: tuple(None if isinstance(c, Failure) else c for c in critiques) for n, critiques in own.items()}
    dataset = _encode_rows(usable, complete, prompt, tokenizer, _max_length(lm, tokenizer, settings), compare=True)
    head_stage = _train_stage(
        "reward at the end", network, tokenizer, dataset, settings, head_folder, fingerprint, report
    )
    held_out_rows = tuple(row.number for row in usable if row.held_out)
    result = CritiqueTrainingResult(counts, (lm_stage, head_stage), own_count, failures, held_out_rows)
    config = {
        "kind": "critique-out-loud",
        "template": {"name": prompt.name, "digest": prompt.digest},
        "max_tokens": settings.critique_tokens,
        "settings": asdict(settings),
    }
    with atomic_folder(output) as folder:
        save_critique_model(network.to("cpu").eval(), tokenizer, folder, prompt.text, config)
        model = CritiqueRewardModel(str(folder), batch_size=settings.training.batch_size)
        write_statistics(folder, {"heads": 1, **measure_rewards(model, [item.example for item in dataset.held_out])})
        finish(folder, result)
    shutil.rmtree(scratch, ignore_errors=True)
    return result


def _prepare(rows: Rows, settings: CritiqueSettings) -> tuple[list[_Row], RowCounts]:
    """The usable rows. Prompts are held out both of those with given critiques and of those without."""
    counts = RowCounts()
    usable: list[tuple[int, Item, list[tuple[int, int]], tuple[str | None, ...]]] = []
    for number, item in rows:
        counts.rows += 1
        comparisons = distinct_comparisons(item)
        if isinstance(item, Failure) or isinstance(comparisons, str):
            counts.drop(str(comparisons), number)
            continue
        comparisons = [(i, j) for i, j in comparisons if item.responses[i].strip() and item.responses[j].strip()]
        if not comparisons:
            counts.drop("a response is empty", number)
            continue
        counts.comparisons += len(comparisons)
        given = tuple(item.meta.get("critiques") or (None,) * len(item.responses))
        usable.append((number, item, comparisons, given))
    with_critiques, without = (
        {repr(item.messages) for _, item, _, given in usable if any(given) is present} for present in (True, False)
    )
    if len(with_critiques) < 2:
        raise CannotRun(
            f"stage 1 needs given critiques of two prompts or more; there are {len(with_critiques)}: {counts}"
        )
    share, seed = settings.training.validation_share, settings.training.seed
    held_out = choose_held_out_prompts(with_critiques, share, seed)
    held_out |= choose_held_out_prompts(without - with_critiques, share, seed)
    return [_Row(*row, held_out=repr(row[1].messages) in held_out) for row in usable], counts


def _encode_rows(
    rows: Sequence[_Row],
    critiques: dict[int, tuple[str | None, ...]],
    prompt: CritiquePrompt,
    tokenizer: Any,
    max_length: int,
    compare: bool,
) -> _Dataset:
    """Encode rows with their critiques.

    Without `compare` every critique is used by itself; with it a comparison needs the critiques of both responses."""
    dataset = _Dataset(RowCounts(), [], [])
    counts = dataset.counts
    for row in rows:
        counts.rows += 1
        texts = critiques[row.number]
        if not any(texts):
            counts.drop("no complete critique", row.number)
            continue
        encoded = {
            i: encode_critique(tokenizer, prompt.render(row.item, i), text.strip(), max_length)
            for i, text in enumerate(texts)
            if text and text.strip()
        }
        fitting = {i: critique for i, critique in encoded.items() if not isinstance(critique, Failure)}
        comparisons = [(i, j) for i, j in row.comparisons if i in fitting and j in fitting] if compare else []
        used = sorted({i for pair in comparisons for i in pair} if compare else fitting)
        if not used:
            failures = [critique for critique in encoded.values() if isinstance(critique, Failure)]
            counts.drop(_drop_reason(failures), row.number)
            continue
        counts.comparisons += len(comparisons)
        example = Example.from_item(row.item, {i: fitting[i].ids for i in used}, comparisons)
        target = dataset.held_out if row.held_out else dataset.train
        target.append(CritiqueExample(row.number, example, (1.0,), tuple(fitting[i].start for i in used)))
    return dataset


def _drop_reason(failures: list[Failure]) -> str:
    if not failures:
        return "a critique is incomplete"
    return "prompt and critique are too long" if failures[0].reason == "too-long" else failures[0].message


def _train_stage(
    name: str,
    network: CritiqueNetwork,
    tokenizer: Any,
    dataset: _Dataset,
    settings: CritiqueSettings,
    result: Path,
    fingerprint: str,
    report: ProgressReport,
) -> Stage:
    """Train with early stopping, and measure the held-out metrics before training too."""
    counts, training = str(dataset.counts), settings.training
    if not dataset.train or not dataset.held_out:
        raise CannotRun(f"{name}: no row is left to {'train on' if dataset.held_out else 'hold out'}; {counts}")
    report("stage", {"name": name, "counts": counts, "train": len(dataset.train), "held": len(dataset.held_out)})
    scratch = result.with_name(f"{result.name}.steps")
    resume = last_checkpoint(scratch, fingerprint)
    arguments = training_arguments(training, scratch, len(dataset.train), training.seed)
    arguments.eval_on_start = True
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else 0  # masked, so any token will do
    trainer = CritiqueTrainer(
        model=TrainingNetwork(network),
        args=arguments,
        train_dataset=dataset.train,
        eval_dataset=dataset.held_out,
        data_collator=CritiqueCollator(pad),
        settings=training,
        weight=settings.critique_weight,
    )
    history = train_with_early_stopping(trainer, training, scratch, resume, report)
    best = min(history[1:], key=lambda row: row["eval_loss"])  # the first row is from before training
    shutil.rmtree(scratch, ignore_errors=True)
    return Stage(name, _held_out_metrics(history[0]), _held_out_metrics(best), counts, int(best["step"]), history)


def _held_out_metrics(row: dict[str, float]) -> dict[str, float]:
    names = ("loss", "preference_loss", "critique_loss", "accuracy", "margin")
    return {name: row[f"eval_{name}"] for name in names if f"eval_{name}" in row}


def _own_critiques(
    rows: Sequence[_Row], write: CritiqueWriter, lm_folder: Path, file: Path, report: ProgressReport
) -> dict[int, Critiques]:
    """The model's own critiques by row number, from the file of an earlier run where there is one."""
    if not file.is_file():
        report("write", {"rows": len(rows), "critiques": sum(len(row.item.responses) for row in rows)})
        part = file.with_suffix(".part")
        with open(part, "w", encoding="utf-8") as lines:
            for number, critiques in write(lm_folder, [(row.number, row.item) for row in rows]):
                values = [[c.reason, c.message] if isinstance(c, Failure) else c for c in critiques]
                lines.write(json.dumps({"row": number, "critiques": values}, ensure_ascii=False) + "\n")
        part.replace(file)
    with open(file, encoding="utf-8") as lines:
        return {
            record["row"]: tuple(c if isinstance(c, str) else Failure(*c) for c in record["critiques"])
            for record in map(json.loads, lines)
        }


def _read_stage(folder: Path, fingerprint: str) -> Stage | None:
    """A complete stage, or None. Raises CannotRun where it is another run's."""
    file = folder / "stage.json"
    if not file.is_file():
        return None
    record = json.loads(file.read_text(encoding="utf-8"))
    if record.pop("run") != fingerprint:
        raise CannotRun(f"{folder.parent} has a run of other rows or settings: remove it, or give another -o")
    return Stage(**record)


def _max_length(lm: Any, tokenizer: Any, settings: CritiqueSettings) -> int:
    return min(settings.training.max_length, context_length(lm, tokenizer))


def _fingerprint(rows: Sequence[_Row], settings: CritiqueSettings, prompt: CritiquePrompt) -> str:
    digest = hashlib.sha256(json.dumps([asdict(settings), prompt.digest], sort_keys=True).encode())
    for row in rows:
        content = (row.number, row.item.messages, row.item.responses, row.comparisons, row.given)
        digest.update(repr(content).encode())
    return digest.hexdigest()
