"""`assay iterate`: pairs, DPO, held-out evaluation, round after round, each phase resumable after any death.

Round t: the policy M_{t-1} writes candidates, a judge scores them, DPO on the pairs makes M_t, and both answer held-out
prompts. A judge that names no model of its own is the policy of the round: it rewards itself (Yuan et al. 2024, arXiv
2401.10020). `round-T/` holds all of a round; `round-0/` what M_0 answers.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, Literal

from judges.batch import manifest
from judges.batch.rows import read_rows
from judges.batch.run import Summary
from judges.batch.shards import digest, shards_of
from judges.batch.writers import write_rows
from judges.candidates import Policy, Prompt
from judges.engines.embedded import fingerprint, resolve_model
from judges.errors import CannotRun
from judges.evaluation.benchmarks import load_benchmark
from judges.json_lines import to_line
from judges.preferences import held_out as held
from judges.preferences.export import Recipe
from judges.preferences.held_out import Answers, Estimate
from judges.preferences.judgments import check_judge, labelled, meta_judged
from judges.preferences.pairs import ACCOUNT, CANDIDATES, has_pairs, make_pairs
from judges.preferences.training import (
    DPOSettings,
    TrainedPolicy,
    check_installed,
    read_history,
    row_count,
    tidy,
    train_apart,
)
from judges.scorer import Scorer, load_scorer, plain
from judges.types import Failure, Item

Replay = Literal["none", "last", "all"]
LEVEL = 0.9  # the share of prompts on which a judge gives all candidates one score, from which it tells nothing apart


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


@dataclass(frozen=True, slots=True)
class Round:
    """What came of a round; of round 0 only what M_0 answers.

    `judge` and `other` are mean scores of M_t's answers, the `gain`s differences from M_{t-1} and M_0 on the same
    prompts, `wins` win rates against both under both scorers, `log_ratio` the mean of log π_t(y|x) − log π_0(y|x) of
    its own answers in nats: the KL divergence from M_0 where answers are drawn at temperature 1, else near it.
    """

    number: int
    pairs: int = 0
    account: Mapping[str, Any] = field(default_factory=dict)
    judgment_pairs: int = 0
    trained: TrainedPolicy | None = None
    numbers: Mapping[str, Estimate] = field(default_factory=dict)
    distinct_bigrams: float | None = None
    without_score: int = 0
    unanswered: int = 0
    stopped: str = ""


class Told:
    """Who watches: what begins, rows, and training steps. Subclass it; each does nothing here."""

    def note(self, text: str) -> None: ...
    def phase(self, round: int, name: str) -> None: ...
    def rows(self, summary: Summary) -> None: ...
    def step(self, step: int, of: int) -> None: ...
    def done(self, round: Round) -> None: ...


def iterate(plan: Plan, folder: Path, told: Told | None = None) -> list[Round]:
    """Run the rounds of a plan in a folder; killed and called again, it goes on in the phase where it was.

    Engines are closed before a training starts and started after it, so one GPU is enough. Raises CannotRun: where
    the folder has a run of another plan, and as `make_pairs` and `train_apart` do; finished phases stay.
    """
    told = told or Told()
    check_installed()
    _try(plan)
    with manifest.alone(folder, str(folder)):
        now = _made_with(plan)
        if not manifest.check(folder / MANIFEST, now, str(folder)):
            _write_prompts(plan, folder, told)
            manifest.write(folder / MANIFEST, now)
        run = _Rounds(plan, folder, told)
        rounds = [run.begin()]
        for number in range(1, plan.rounds + 1):
            rounds.append(run.round(number))
            if plan.stop and rounds[-1].stopped:
                break
        return rounds


def _try(plan: Plan) -> None:
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


def _write_prompts(plan: Plan, folder: Path, told: Told) -> None:
    """The prompts of the rounds and those held out, as files of their own.

    Of a row that has responses only the prompt counts, as each policy is to write its own. Prompts that are trained on
    are left out of those held out.
    """
    train, lost = _prompts_of(plan.prompts, plan.mapping, plan.limit)
    apart, lost_apart = _prompts_of(plan.held_out, plan.mapping, plan.held_out_limit)
    seen = {_text_of(one) for one in train}
    kept = [one for one in apart if _text_of(one) not in seen]
    if lost or lost_apart:
        told.note(f"rows without a prompt: {lost:,} of {plan.prompts}, {lost_apart:,} of {plan.held_out}")
    if len(kept) < len(apart):
        told.note(f"{len(apart) - len(kept):,} held-out prompts are trained on too, and left out")
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
    lines = [to_line(held.prompt_row(one)) for one in some]
    write_rows(lambda: lines, file)


PROMPTS, HELD_OUT, MANIFEST = "prompts.jsonl", "held-out.jsonl", "manifest.json"
# What may change between two sittings: it holds for the rounds that are not finished yet.
_FREE = ("rounds", "stop", "processes", "training", "recipe", "replay")


def _made_with(plan: Plan) -> dict[str, Any]:
    told = {key: value for key, value in asdict(plan).items() if key not in _FREE}
    sources = {"prompts": plan.prompts, "held_out": plan.held_out, "evaluation_data": plan.evaluation_data}
    told |= {key: digest(source) for key, source in sources.items() if source is not None}
    return plain(told | {"revision": fingerprint(resolve_model(plan.model))})


class _Rounds:
    def __init__(self, plan: Plan, folder: Path, told: Told) -> None:
        self.plan, self.folder, self.told = plan, folder, told

    # -- the phases of a round ---------------------------------------------------------------------------------

    def begin(self) -> Round:
        """What M_0 answers."""
        return self._once(0, lambda: self._evaluated(0, Round(0)))

    def round(self, number: int) -> Round:
        return self._once(number, lambda: self._round(number))

    def _round(self, number: int) -> Round:
        account = self._pairs(number)
        undecided = account["drops"].get("level", 0) / max(1, account["prompts"] - account["drops"].get("not-drawn", 0))
        if not account["pairs"] or (self.plan.stop and undecided >= LEVEL):
            why = f"the judge gives all candidates one score on {undecided:.0%} of prompts"
            return Round(number, account["pairs"], account, stopped=why if undecided >= LEVEL else "no pair is left")
        judgments = self._judgments(number)
        trained = self._trained(number, [file for file, _ in judgments])
        taught = sum(pairs for _, pairs in judgments)
        return self._evaluated(number, Round(number, account["pairs"], account, taught, trained))

    def _once(self, number: int, make: Callable[[], Round]) -> Round:
        path = self._at(number) / "round.json"
        undecided = number > 0 and not self.plan.stop and path.exists() and read_round(path).trained is None
        if undecided or not path.exists():
            self._at(number).mkdir(parents=True, exist_ok=True)
            made = make()
            told = asdict(made) | {"numbers": {key: held.plain(one) for key, one in made.numbers.items()}}
            held.write_json(path, told)
        found = read_round(path)
        self.told.done(found)
        return found

    def _pairs(self, number: int) -> dict[str, Any]:
        """Candidates drawn and judged, pairs chosen; the account of what became of every prompt."""
        folder, model = self._at(number), self.model(number - 1)
        if (folder / "model").exists():  # its pairs were trained on
            return self._account(number)
        self.told.phase(number, "candidates")
        prompts = self._prompts(number)
        with self.plan.judge.load(model) as scorer, self._policy(model, self.plan.candidates) as policy:
            try:
                make_pairs(prompts, scorer, policy, folder, self.plan.recipe, on_progress=self.told.rows)
            except CannotRun:
                # No pair at all ends the rounds; in the first there is nothing to keep.
                if number == 1 or has_pairs(folder) is not False:
                    raise
        return self._account(number)

    def _account(self, number: int) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self._at(number) / ACCOUNT).read_text(encoding="utf-8"))["account"]
        return found

    def _prompts(self, number: int) -> str:
        """The file of a round's prompts."""
        size = self.plan.prompts_a_round
        if size is None:
            return str(self.folder / PROMPTS)
        file = self._at(number) / "prompts.jsonl"
        if not file.exists():
            first = (number - 1) * size
            with open(self.folder / PROMPTS, "rb") as lines:
                some = list(islice(lines, first, first + size))
            if not some:
                raise CannotRun(f"no prompts are left for round {number}; fewer --rounds")
            write_rows(lambda: some, file)
        return str(file)

    def _judgments(self, number: int) -> list[tuple[Path, int]]:
        """Files of pairs of judgments, which train the judge, and how many each has."""
        folder, model = self._at(number), self.model(number - 1)
        found: list[Path | None] = []
        if self.plan.evaluation_data is not None:
            self.told.phase(number, "evaluation data")
            with self.plan.judge.load(model) as judge:
                found.append(labelled(self.plan.evaluation_data, judge, folder, self.told.rows))
        if self.plan.meta is not None:
            self.told.phase(number, "meta-judging")
            with self.plan.judge.load(model) as judge, self.plan.meta.load(model) as meta:
                store = folder / f"{CANDIDATES}.run" / "completions.sqlite"
                found.append(meta_judged(folder, judge, meta, store, self.told.rows))
        return [(file, row_count(file)) for file in found if file is not None]

    def _trained(self, number: int, more: Sequence[Path]) -> TrainedPolicy:
        """DPO from M_{t-1} to M_t."""
        self.told.phase(number, "training")
        output = self._at(number) / "model"
        if output.exists():
            tidy(output)
            return read_history(output)
        first = {"none": number, "last": max(1, number - 1), "all": 1}[self.plan.replay]
        files = [self._at(t) / "pairs.parquet" for t in range(first, number + 1)]
        files = [file for file in files if file.exists()] + list(more)
        return train_apart(
            self.model(number - 1), files, output, self.plan.training, self.plan.processes, self.told.step
        )

    def _evaluated(self, number: int, made: Round) -> Round:
        """The held-out numbers of a round."""
        self.told.phase(number, "held-out answers")
        self._answers(number)
        numbers: dict[str, Estimate | None] = {}
        self.told.phase(number, "held-out scores")
        by = self._judge_of(number)
        mine = self._scored(number, by)
        numbers["judge"] = held.mean_score(mine)
        if number:
            before, first = self._scored(self._last(number - 1), by), self._scored(0, by)
            numbers |= _against("judge", mine, before, first)
        if self.plan.other is not None:
            apart = self._scored_by_other(number)
            numbers["other"] = held.mean_score(apart)
            if number:
                numbers |= _against(
                    "other", apart, self._scored_by_other(self._last(number - 1)), self._scored_by_other(0)
                )
        numbers["length"] = held.mean_length(mine)
        if number:
            self.told.phase(number, "distance from the first policy")
            numbers["log_ratio"] = held.mean_score(self._log_ratios(number))
        if self.plan.benchmark is not None and self.plan.judge.follows:
            self.told.phase(number, "the judge's accuracy")
            numbers["judge_accuracy"] = self._judge_accuracy(number)
        missing = sum(one.score is None for some in mine.values() for one in some)
        fell = numbers.get("judge_gain")
        return Round(
            number,
            made.pairs,
            made.account,
            made.judgment_pairs,
            made.trained,
            {key: one for key, one in numbers.items() if one is not None},
            held.distinct_bigrams(mine),
            missing,
            self._unanswered(len(mine)),
            "the held-out score fell" if fell is not None and fell.high < 0 else "",
        )

    def _unanswered(self, answered: int) -> int:
        with open(self.folder / HELD_OUT, "rb") as lines:
            return sum(1 for _ in lines) - answered

    # -- answers and scores, each once, on disk ----------------------------------------------------------------

    def _answers(self, number: int) -> Path:
        prompts, folder = self.folder / HELD_OUT, self._at(number) / "held-out"
        with self._policy(self.model(number), self.plan.held_out_answers) as policy:
            return held.draw_answers(policy, str(prompts), folder, self.told.rows)

    def _judge_of(self, number: int) -> int:
        """The number of the policy that judges round `number`; one that does not follow is always the first."""
        return self._last(max(0, number - 1)) if self.plan.judge.follows else 0

    def _scored(self, number: int, by: int) -> Answers:
        """The answers of policy `number` under the judge that was used when `by` was the policy."""
        return self._score(number, self.plan.judge, f"judge-{by}", self.model(by))

    def _scored_by_other(self, number: int) -> Answers:
        assert self.plan.other is not None
        return self._score(number, self.plan.other, "other", self.plan.model)

    def _log_ratios(self, number: int) -> Answers:
        settings = {"reference": self.plan.model, "beta": 1.0, "engine": "transformers"}
        return self._score(number, Judge("implicit-reward", settings, follows=True), "log-ratio", self.model(number))

    def _score(self, number: int, judge: Judge, name: str, model: str) -> Answers:
        folder = self._at(number) / "held-out"
        with judge.load(model) as scorer:
            return held.score_answers(folder / "answers.jsonl", scorer, folder / f"{name}.jsonl", self.told.rows)

    def _judge_accuracy(self, number: int) -> Estimate | None:
        from judges.evaluation.judging import judge
        from judges.evaluation.measure import measure

        assert self.plan.benchmark is not None
        benchmark = load_benchmark(self.plan.benchmark, self.plan.benchmark_limit)
        with self.plan.judge.load(self.model(number)) as scorer:
            label = self.plan.judge.name
            found = measure(judge(scorer, label, label, benchmark, self._at(number) / "benchmark")).main
        if found.value is None or found.low is None or found.high is None:
            return None
        return Estimate(found.value, found.low, found.high, len(benchmark.items))

    def _policy(self, model: str, candidates: int) -> Policy:
        return Policy(model=model, candidates=candidates, **self.plan.policy)

    def model(self, number: int) -> str:
        """M_t; a round that trained nothing leaves the one before."""
        last = self._last(number)
        return str(self._at(last) / "model") if last else self.plan.model

    def _last(self, number: int) -> int:
        """The last round up to this one that trained a model; 0 for none."""
        while number and not (self._at(number) / "model").exists():
            number -= 1
        return number

    def _at(self, number: int) -> Path:
        return self.folder / f"round-{number}"


def _against(by: str, mine: Answers, before: Answers, first: Answers) -> dict[str, Estimate | None]:
    return {
        f"{by}_gain": held.gain(mine, before),
        f"{by}_gain_from_0": held.gain(mine, first),
        f"{by}_gain_at_equal_length": held.gain_at_equal_length(mine, before),
        f"{by}_wins": held.win_rate(mine, before),
        f"{by}_wins_from_0": held.win_rate(mine, first),
    }


def read_round(path: Path) -> Round:
    told = json.loads(path.read_text(encoding="utf-8"))
    trained = told["trained"] and TrainedPolicy(**told["trained"])
    numbers = {key: Estimate(**one) for key, one in told["numbers"].items()}
    return Round(**told | {"trained": trained, "numbers": numbers})
