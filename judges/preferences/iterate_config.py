"""Configuration of `assay iterate`: its dataclasses, the check before a run, and the files of prompts."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from judges.data.json_lines import to_line
from judges.data.rows import read_rows
from judges.data.shards import input_fingerprint, list_shards
from judges.data.writers import write_rows
from judges.engines.embedded import fingerprint, resolve_model
from judges.engines.policy import Policy, Prompt
from judges.errors import CannotRun, redact_settings
from judges.evaluation.benchmarks import load_benchmark
from judges.preferences.dpo import DPOSettings
from judges.preferences.export import PairOptions
from judges.preferences.held_out import prompt_row
from judges.preferences.meta_judging import check_trainable
from judges.scorer import Scorer, json_round_trip, load_scorer
from judges.types import Failure, Item

Replay = Literal["none", "last", "all"]
PROMPTS, HELD_OUT, MANIFEST = "prompts.jsonl", "held-out.jsonl", "manifest.json"
# Settings that may change when a run is resumed; they apply to the rounds that are not finished.
_CHANGEABLE = ("rounds", "stop", "processes", "training", "pair_options", "replay")


@dataclass(frozen=True, slots=True)
class JudgeConfig:
    """A scorer by its name and settings; with `follows` its model is the current policy."""

    name: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    follows: bool = False

    def load(self, policy: str) -> Scorer:
        """Load the scorer; `policy` is the model of a judge that follows the policy."""
        settings = dict(self.settings) | ({"model": policy} if self.follows else {})
        return load_scorer(self.name, **settings)

    def __str__(self) -> str:
        return self.name if not self.follows else f"{self.name} by the policy itself"


@dataclass(frozen=True, slots=True)
class IterateConfig:
    """The configuration of a run. Raises CannotRun for settings that exclude each other.

    - `prompts`, `held_out`: files of prompts for training and for the evaluation; `mapping`, `limit` and
      `held_out_limit` apply to reading them.
    - `model`: the initial policy M_0; `policy` are the other settings of a `Policy`.
    - `judge`: scores the candidates. `other` also scores the held-out answers, and never trains.
    - `rounds`; `candidates` per prompt; `held_out_answers` per held-out prompt.
    - `prompts_a_round`: each round takes the next so many prompts; by default every round takes all.
    - `pair_options`, `training`, `processes`: how pairs are selected and trained on.
    - `replay`: also train on the pairs of the last round, or of all earlier ones.
    - `stop`: end when the held-out score by the judge falls significantly, or when the judge gives all candidates the
      same score on 90 % of the prompts.

    For a judge that follows the policy:

    - `benchmark`, `benchmark_limit`: measure its accuracy after each round.
    - `evaluation_data`: rows that humans scored or compared, to train it to judge.
    - `meta`: a scorer that compares its judgments, to train it to judge.
    """

    prompts: str
    held_out: str
    model: str
    judge: JudgeConfig
    rounds: int = 3
    candidates: int = 4
    policy: Mapping[str, Any] = field(default_factory=dict)
    other: JudgeConfig | None = None
    held_out_answers: int = 2
    mapping: Mapping[str, str] = field(default_factory=dict)
    limit: int | None = None
    held_out_limit: int | None = None
    prompts_a_round: int | None = None
    pair_options: PairOptions = PairOptions()
    training: DPOSettings = DPOSettings()
    processes: int = 1
    replay: Replay = "none"
    stop: bool = True
    benchmark: str | None = None
    benchmark_limit: int | None = None
    evaluation_data: str | None = None
    meta: JudgeConfig | None = None

    def __post_init__(self) -> None:
        if (self.evaluation_data or self.meta or self.benchmark) and not self.judge.follows:
            raise CannotRun(
                "the judge is not the policy, so no round changes it: leave out --evaluation-data, --meta-judge and"
                " --benchmark, or give the judge no model"
            )


def check_config(config: IterateConfig) -> None:
    """Load everything that the rounds need once, so that errors come before the first round. Raises CannotRun."""
    try:
        Policy(model=config.model, candidates=config.candidates, **config.policy).close()
    except TypeError as error:
        raise CannotRun(f"--policy: a setting has a wrong value: {error}") from error
    resolve_model(config.model)
    with config.judge.load(config.model) as judge:
        if config.evaluation_data is not None or config.meta is not None:
            check_trainable(judge)
    for scorer in (config.other, config.meta):
        if scorer is not None:
            scorer.load(config.model).close()
    for source in (config.prompts, config.held_out, config.evaluation_data):
        if source is not None:
            list_shards(source)
    if config.benchmark is not None:
        load_benchmark(config.benchmark, config.benchmark_limit)


def write_prompts(config: IterateConfig, folder: Path, on_message: Callable[[str], None]) -> None:
    """Write the training prompts and the held-out prompts to files in `folder`.

    Responses in the sources are ignored, because each policy samples its own. Held-out prompts that are also training
    prompts are left out. Raises CannotRun if too few prompts are left.
    """
    train, train_failures = _read_prompts(config.prompts, config.mapping, config.limit)
    candidates, held_out_failures = _read_prompts(config.held_out, config.mapping, config.held_out_limit)
    train_texts = {_normalized_text(prompt) for prompt in train}
    held_out = [prompt for prompt in candidates if _normalized_text(prompt) not in train_texts]
    if train_failures or held_out_failures:
        on_message(
            f"rows without a prompt: {train_failures:,} of {config.prompts}, {held_out_failures:,} of {config.held_out}"
        )
    if len(held_out) < len(candidates):
        on_message(f"{len(candidates) - len(held_out):,} held-out prompts are also training prompts, and left out")
    if not train:
        raise CannotRun(f"{config.prompts}: there is no prompt in it")
    if not held_out:
        raise CannotRun(f"{config.held_out}: there is no prompt in it that is not a training prompt too")
    if config.prompts_a_round is not None and config.prompts_a_round * (config.rounds - 1) >= len(train):
        raise CannotRun(
            f"{config.prompts} has {len(train):,} prompts, too few for {config.rounds} rounds of"
            f" {config.prompts_a_round:,}; use fewer --rounds or --prompts-a-round"
        )
    _write_prompt_rows(train, folder / PROMPTS)
    _write_prompt_rows(held_out, folder / HELD_OUT)


def _write_prompt_rows(prompts: Sequence[Item | Prompt], file: Path) -> None:
    write_rows(lambda: (to_line(prompt_row(prompt)) for prompt in prompts), file)


def _read_prompts(source: str, mapping: Mapping[str, str], limit: int | None) -> tuple[list[Item | Prompt], int]:
    """The prompts of a source, and the number of rows without one."""
    prompts: list[Item | Prompt] = []
    failures = 0
    for shard in list_shards(source):
        for row in read_rows(shard.path, mapping, prefix=shard.prefix):
            if limit is not None and len(prompts) == limit:
                return prompts, failures
            prompt = row.prompt or row.item
            if isinstance(prompt, Failure):
                failures += 1
            else:
                prompts.append(prompt)
    return prompts, failures


def _normalized_text(prompt: Item | Prompt) -> str:
    return json.dumps([[turn["role"], " ".join(turn["content"].split())] for turn in prompt.messages])


def build_manifest(config: IterateConfig) -> dict[str, Any]:
    """The settings and input fingerprints that must not change when a run is resumed."""
    settings = {key: value for key, value in redact_settings(asdict(config)).items() if key not in _CHANGEABLE}
    sources = {"prompts": config.prompts, "held_out": config.held_out, "evaluation_data": config.evaluation_data}
    settings |= {key: input_fingerprint(source) for key, source in sources.items() if source is not None}
    return json_round_trip(settings | {"revision": fingerprint(resolve_model(config.model))})
