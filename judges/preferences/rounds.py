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
from typing import Any

from judges.batch import manifest
from judges.batch.run import Summary
from judges.data.writers import write_rows
from judges.engines.policy import Policy
from judges.errors import CannotRun
from judges.evaluation.benchmarks import load_benchmark
from judges.preferences import held_out as held
from judges.preferences.dpo import (
    TrainedPolicy,
    check_installed,
    read_history,
    row_count,
    tidy,
    train_apart,
)
from judges.preferences.held_out import Answers, Estimate
from judges.preferences.meta_judging import labelled, meta_judged
from judges.preferences.pairs import ACCOUNT, CANDIDATES, has_pairs, make_pairs
from judges.preferences.rounds_config import HELD_OUT, MANIFEST, PROMPTS, Judge, Plan, made_with, try_out, write_prompts

LEVEL = 0.9  # the share of prompts on which a judge gives all candidates one score, from which it tells nothing apart


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
    try_out(plan)
    with manifest.alone(folder, str(folder)):
        now = made_with(plan)
        if not manifest.check(folder / MANIFEST, now, str(folder)):
            write_prompts(plan, folder, told.note)
            manifest.write(folder / MANIFEST, now)
        run = _Rounds(plan, folder, told)
        rounds = [run.begin()]
        for number in range(1, plan.rounds + 1):
            rounds.append(run.round(number))
            if plan.stop and rounds[-1].stopped:
                break
        return rounds


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
