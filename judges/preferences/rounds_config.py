"""What a run of rounds is made of: its plan, tried before it begins, and its prompts."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from judges.data.json_lines import to_line
from judges.data.rows import read_rows
from judges.data.shards import digest, shards_of
from judges.data.writers import write_rows
from judges.engines.embedded import fingerprint, resolve_model
from judges.engines.policy import Policy, Prompt
from judges.errors import CannotRun
from judges.evaluation.benchmarks import load_benchmark
from judges.preferences.dpo import DPOSettings
from judges.preferences.export import Recipe
from judges.preferences.held_out import prompt_row
from judges.preferences.meta_judging import check_judge
from judges.scorer import Scorer, load_scorer, plain
from judges.types import Failure, Item

Replay = Literal["none", "last", "all"]


@dataclass(frozen=True, slots=True)
class Judge:
    """A scorer by its name and settings; with `follows` its model is that of the round's policy."""

    name: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    follows: bool = False

    def load(self, policy: str) -> Scorer:
        settings = dict(self.settings) | ({"model": policy} if self.follows else {})
        return load_scorer(self.name, **settings)

    def __str__(self) -> str:
        return self.name if not self.follows else f"{self.name} by the policy itself"


@dataclass(frozen=True, slots=True)
class Plan:
    """What a run of rounds is made of.

    `policy` are a Policy's settings without its model. `held_out` are prompts that no round trains on, answered
    `held_out_answers` times each; `other` scores them too, without ever training. `prompts_a_round` takes the next so
    many rows for each round, else every round has all. `replay` adds the pairs of the last round, or of all. With
    `stop`, rounds end when the held-out score under the training judge falls, or when the judge gives all candidates
    of a prompt one score on 90 % of prompts. For a judge that follows the policy: `benchmark` measures it,
    `evaluation_data` (rows that people compared or scored) and `meta` (who compares judgments) train it beside.
    """

    prompts: str
    held_out: str
    model: str
    judge: Judge
    rounds: int = 3
    candidates: int = 4
    policy: Mapping[str, Any] = field(default_factory=dict)
    other: Judge | None = None
    held_out_answers: int = 2
    mapping: Mapping[str, str] = field(default_factory=dict)
    limit: int | None = None
    held_out_limit: int | None = None
    prompts_a_round: int | None = None
    recipe: Recipe = Recipe()
    training: DPOSettings = DPOSettings()
    processes: int = 1
    replay: Replay = "none"
    stop: bool = True
    benchmark: str | None = None
    benchmark_limit: int | None = None
    evaluation_data: str | None = None
    meta: Judge | None = None

    def __post_init__(self) -> None:
        if (self.evaluation_data or self.meta or self.benchmark) and not self.judge.follows:
            raise CannotRun(
                "the judge is not the policy, so no round trains it or measures it anew: leave out --evaluation-data,"
                " --meta-judge and --benchmark, or let the judge name no model"
            )


def try_out(plan: Plan) -> None:
    """Build all that the rounds will need, so that what is wrong in one is told first. Raises CannotRun."""
    try:
        Policy(model=plan.model, candidates=plan.candidates, **plan.policy).close()
    except TypeError as error:
        raise CannotRun(f"--policy: a setting has a wrong value: {error}") from error
    resolve_model(plan.model)
    with plan.judge.load(plan.model) as judge:
        if plan.evaluation_data is not None or plan.meta is not None:
            check_judge(judge)
    for other in (plan.other, plan.meta):
        if other is not None:
            other.load(plan.model).close()
    for source in (plan.prompts, plan.held_out, plan.evaluation_data):
        if source is not None:
            shards_of(source)
    if plan.benchmark is not None:
        load_benchmark(plan.benchmark, plan.benchmark_limit)


def write_prompts(plan: Plan, folder: Path, note: Callable[[str], None]) -> None:
    """The prompts of the rounds and those held out, as files of their own.

    Of a row that has responses only the prompt counts, as each policy is to write its own. Prompts that are trained on
    are left out of those held out.
    """
    train, lost = _prompts_of(plan.prompts, plan.mapping, plan.limit)
    apart, lost_apart = _prompts_of(plan.held_out, plan.mapping, plan.held_out_limit)
    seen = {_text_of(one) for one in train}
    kept = [one for one in apart if _text_of(one) not in seen]
    if lost or lost_apart:
        note(f"rows without a prompt: {lost:,} of {plan.prompts}, {lost_apart:,} of {plan.held_out}")
    if len(kept) < len(apart):
        note(f"{len(apart) - len(kept):,} held-out prompts are trained on too, and left out")
    if not train:
        raise CannotRun(f"{plan.prompts}: there is no prompt in it")
    if not kept:
        raise CannotRun(f"{plan.held_out}: no prompt in it that is not trained on too")
    if plan.prompts_a_round is not None and plan.prompts_a_round * (plan.rounds - 1) >= len(train):
        raise CannotRun(
            f"{plan.prompts} has {len(train):,} prompts, too few for {plan.rounds} rounds of {plan.prompts_a_round:,};"
            " fewer --rounds or --prompts-a-round"
        )
    for name, some in ((PROMPTS, train), (HELD_OUT, kept)):
        _write(some, folder / name)


def _prompts_of(source: str, mapping: Mapping[str, str], limit: int | None) -> tuple[list[Item | Prompt], int]:
    """The prompts of a source, and how many rows have none."""
    found: list[Item | Prompt] = []
    lost = 0
    for shard in shards_of(source):
        for row in read_rows(shard.path, mapping, prefix=shard.prefix):
            if limit is not None and len(found) == limit:
                return found, lost
            one = row.prompt or row.item
            if isinstance(one, Failure):
                lost += 1
            else:
                found.append(one)
    return found, lost


def _text_of(one: Item | Prompt) -> str:
    return json.dumps([[turn["role"], " ".join(turn["content"].split())] for turn in one.messages])


def _write(some: Sequence[Item | Prompt], file: Path) -> None:
    lines = [to_line(prompt_row(one)) for one in some]
    write_rows(lambda: lines, file)


PROMPTS, HELD_OUT, MANIFEST = "prompts.jsonl", "held-out.jsonl", "manifest.json"
# What may change between two sittings: it holds for the rounds that are not finished yet.
_FREE = ("rounds", "stop", "processes", "training", "recipe", "replay")


def made_with(plan: Plan) -> dict[str, Any]:
    told = {key: value for key, value in asdict(plan).items() if key not in _FREE}
    sources = {"prompts": plan.prompts, "held_out": plan.held_out, "evaluation_data": plan.evaluation_data}
    told |= {key: digest(source) for key, source in sources.items() if source is not None}
    return plain(told | {"revision": fingerprint(resolve_model(plan.model))})
