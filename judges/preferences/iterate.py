"""`assay iterate`: rounds of preference pairs, DPO training and held-out evaluation; every phase can be resumed.

In round t the policy M_{t-1} samples candidates, a judge scores them, DPO on the pairs trains M_t, and M_t answers the
held-out prompts. A judge without a model of its own is the current policy: it rewards itself (Yuan et al. 2024, arXiv
2401.10020). The files of round t are in `round-t/`; `round-0/` has the answers of M_0.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any

from judges.batch import manifest
from judges.batch.run import ScoreSummary
from judges.data.writers import write_rows
from judges.engines.policy import Policy
from judges.errors import CannotRun
from judges.evaluation.benchmarks import load_benchmark
from judges.evaluation.report.html import write_atomically
from judges.preferences import held_out
from judges.preferences.dpo import (
    DPOResult,
    check_installed,
    count_pairs,
    read_dpo_result,
    remove_leftovers,
    train_in_subprocess,
)
from judges.preferences.held_out import Answers, Estimate
from judges.preferences.iterate_config import (
    HELD_OUT,
    MANIFEST,
    PROMPTS,
    IterateConfig,
    JudgeConfig,
    build_manifest,
    check_config,
    write_prompts,
)
from judges.preferences.meta_judging import human_judgment_pairs, meta_judged_pairs
from judges.preferences.pairs import ACCOUNT, CANDIDATES, has_pairs, make_pairs

MAX_TIED_SHARE = 0.9  # rounds stop when the judge gives all candidates the same score on this share of prompts


@dataclass(frozen=True, slots=True)
class RoundResult:
    """The result of a round; round 0 only has the evaluation of M_0.

    `pairs` and `account` are the statistics of the pairs, `judgment_pairs` the number of pairs of judgments. `numbers`
    are the held-out metrics by name, see `judges.preferences.iterate_report.METRICS`: the mean scores `judge` and
    `other` of M_t's answers; gains and win rates (`…_wins`) against M_{t-1} and M_0 on the same prompts; `log_ratio`,
    the mean of log π_t(y|x) − log π_0(y|x) of M_t's answers in nats, which is the KL divergence from M_0 for answers
    sampled at temperature 1. `stopped` is the reason to stop after this round, or empty.
    """

    number: int
    pairs: int = 0
    account: Mapping[str, Any] = field(default_factory=dict)
    judgment_pairs: int = 0
    trained: DPOResult | None = None
    numbers: Mapping[str, Estimate] = field(default_factory=dict)
    distinct_bigrams: float | None = None
    without_score: int = 0
    unanswered: int = 0
    stopped: str = ""


class IterateObserver:
    """Receives the progress of `iterate`. Subclass it and override any method; by default they do nothing."""

    def on_message(self, text: str) -> None: ...
    def on_phase(self, round: int, name: str) -> None: ...
    def on_rows(self, summary: ScoreSummary) -> None: ...
    def on_step(self, step: int, total: int) -> None: ...
    def on_round_end(self, round: RoundResult) -> None: ...


def iterate(config: IterateConfig, folder: Path, observer: IterateObserver | None = None) -> list[RoundResult]:
    """Run the rounds of a config in a folder; after an interruption, a second call resumes in the same phase.

    Engines are closed before a training starts and opened again after it, so one GPU is enough. Raises CannotRun if the
    folder has a run with another config, and as `make_pairs` and `train_in_subprocess` do; finished phases are kept.
    """
    observer = observer or IterateObserver()
    check_installed()
    check_config(config)
    with manifest.lock_run_folder(folder, str(folder)):
        current = build_manifest(config)
        if not manifest.check(folder / MANIFEST, current, str(folder)):
            write_prompts(config, folder, observer.on_message)
            manifest.write(folder / MANIFEST, current)
        runner = _RoundRunner(config, folder, observer)
        rounds = [runner.run_round(0)]
        for number in range(1, config.rounds + 1):
            rounds.append(runner.run_round(number))
            if config.stop and rounds[-1].stopped:
                break
        return rounds


def read_round(path: Path) -> RoundResult:
    """Read a `round.json`."""
    fields = json.loads(path.read_text(encoding="utf-8"))
    trained = fields["trained"] and DPOResult(**fields["trained"])
    numbers = {key: Estimate(**estimate) for key, estimate in fields["numbers"].items()}
    return RoundResult(**fields | {"trained": trained, "numbers": numbers})


class _RoundRunner:
    def __init__(self, config: IterateConfig, folder: Path, observer: IterateObserver) -> None:
        self.config, self.folder, self.observer = config, folder, observer

    # -- the phases of a round ---------------------------------------------------------------------------------

    def run_round(self, number: int) -> RoundResult:
        """Run a round, or read its result if it is finished."""
        path = self._round_folder(number) / "round.json"
        # A round that stopped before its training runs again if the config no longer asks to stop.
        retry = number > 0 and not self.config.stop and path.exists() and read_round(path).trained is None
        if retry or not path.exists():
            self._round_folder(number).mkdir(parents=True, exist_ok=True)
            new = self._train_round(number) if number else self._evaluate(RoundResult(0))
            write_atomically(path, json.dumps(asdict(new), indent=1, ensure_ascii=False) + "\n")
        result = read_round(path)
        self.observer.on_round_end(result)
        return result

    def _train_round(self, number: int) -> RoundResult:
        account = self._make_pairs(number)
        scored = max(1, account["prompts"] - account["drops"].get("not-drawn", 0))
        tied = account["drops"].get("level", 0) / scored
        if not account["pairs"] or (self.config.stop and tied >= MAX_TIED_SHARE):
            why = f"the judge gives all candidates the same score on {tied:.0%} of prompts"
            stopped = why if tied >= MAX_TIED_SHARE else "no pair is left"
            return RoundResult(number, account["pairs"], account, stopped=stopped)
        judgment_files = self._make_judgment_pairs(number)
        judgment_pairs = sum(count_pairs(file) for file in judgment_files)
        trained = self._train(number, judgment_files)
        return self._evaluate(RoundResult(number, account["pairs"], account, judgment_pairs, trained))

    def _make_pairs(self, number: int) -> dict[str, Any]:
        """Sample and score candidates and select pairs; returns the statistics in `account.json`."""
        folder, model = self._round_folder(number), self.model(number - 1)
        if not (folder / "model").exists():  # a trained model's pairs must not change
            self.observer.on_phase(number, "candidates")
            prompts = self._prompt_file(number)
            with self.config.judge.load(model) as scorer, self._policy(model, self.config.candidates) as policy:
                try:
                    options, on_rows = self.config.pair_options, self.observer.on_rows
                    make_pairs(prompts, scorer, policy, folder, options, on_progress=on_rows)
                except CannotRun:
                    # Without any pair the run stops with the results of the rounds before; round 1 has none.
                    if number == 1 or has_pairs(folder) is not False:
                        raise
        account: dict[str, Any] = json.loads((folder / ACCOUNT).read_text(encoding="utf-8"))["account"]
        return account

    def _prompt_file(self, number: int) -> str:
        """The file with a round's prompts."""
        size = self.config.prompts_a_round
        if size is None:
            return str(self.folder / PROMPTS)
        file = self._round_folder(number) / "prompts.jsonl"
        if not file.exists():
            first = (number - 1) * size
            with open(self.folder / PROMPTS, "rb") as lines:
                prompts = list(islice(lines, first, first + size))
            if not prompts:
                raise CannotRun(f"no prompts are left for round {number}; use fewer --rounds")
            write_rows(lambda: prompts, file)
        return str(file)

    def _make_judgment_pairs(self, number: int) -> list[Path]:
        """Files with pairs of judgments, which train the policy to judge."""
        folder, model, config = self._round_folder(number), self.model(number - 1), self.config
        files: list[Path | None] = []
        if config.evaluation_data is not None:
            self.observer.on_phase(number, "evaluation data")
            with config.judge.load(model) as judge:
                files.append(human_judgment_pairs(config.evaluation_data, judge, folder, self.observer.on_rows))
        if config.meta is not None:
            self.observer.on_phase(number, "meta-judging")
            with config.judge.load(model) as judge, config.meta.load(model) as meta_judge:
                store = folder / f"{CANDIDATES}.run" / "completions.sqlite"
                files.append(meta_judged_pairs(folder, judge, meta_judge, store, self.observer.on_rows))
        return [file for file in files if file is not None]

    def _train(self, number: int, judgment_files: Sequence[Path]) -> DPOResult:
        """Train M_t from M_{t-1}."""
        self.observer.on_phase(number, "training")
        output = self._round_folder(number) / "model"
        if output.exists():
            remove_leftovers(output)
            return read_dpo_result(output)
        first = {"none": number, "last": max(1, number - 1), "all": 1}[self.config.replay]
        files = [self._round_folder(t) / "pairs.parquet" for t in range(first, number + 1)]
        files = [file for file in files if file.exists()] + list(judgment_files)
        training, processes = self.config.training, self.config.processes
        return train_in_subprocess(self.model(number - 1), files, output, training, processes, self.observer.on_step)

    def _evaluate(self, result: RoundResult) -> RoundResult:
        """Add the held-out metrics to the result of a round."""
        number = result.number
        self.observer.on_phase(number, "held-out answers")
        self._sample_answers(number)
        self.observer.on_phase(number, "held-out scores")
        judge_policy = self._judge_policy(number)
        answers = self._score_by_judge(number, judge_policy)
        numbers = self._compare("judge", number, answers, lambda policy: self._score_by_judge(policy, judge_policy))
        if self.config.other is not None:
            numbers |= self._compare("other", number, self._score_by_other(number), self._score_by_other)
        numbers["length"] = held_out.mean_length(answers)
        if number:
            self.observer.on_phase(number, "log ratio to the first policy")
            numbers["log_ratio"] = held_out.mean_score(self._log_ratios(number))
        if self.config.benchmark is not None and self.config.judge.follows:
            self.observer.on_phase(number, "the judge's accuracy")
            numbers["judge_accuracy"] = self._judge_accuracy(number)
        gain = numbers.get("judge_gain")
        return replace(
            result,
            numbers={key: estimate for key, estimate in numbers.items() if estimate is not None},
            distinct_bigrams=held_out.distinct_bigrams(answers),
            without_score=sum(answer.score is None for some in answers.values() for answer in some),
            unanswered=self._count_held_out_prompts() - len(answers),
            stopped="the held-out score fell" if gain is not None and gain.high < 0 else "",
        )

    def _compare(
        self, name: str, number: int, current: Answers, score: Callable[[int], Answers]
    ) -> dict[str, Estimate | None]:
        """The metrics of round `number` by one scorer; `score` scores the answers of an earlier policy."""
        numbers = {name: held_out.mean_score(current)}
        if number:
            previous, initial = score(self._last_trained(number - 1)), score(0)
            numbers |= {
                f"{name}_gain": held_out.score_gain(current, previous),
                f"{name}_gain_from_0": held_out.score_gain(current, initial),
                f"{name}_gain_at_equal_length": held_out.length_controlled_gain(current, previous),
                f"{name}_wins": held_out.win_rate(current, previous),
                f"{name}_wins_from_0": held_out.win_rate(current, initial),
            }
        return numbers

    def _count_held_out_prompts(self) -> int:
        with open(self.folder / HELD_OUT, "rb") as lines:
            return sum(1 for _ in lines)

    # -- held-out answers and scores, from their files if they are finished -----------------------------------

    def _sample_answers(self, number: int) -> Path:
        folder = self._round_folder(number) / "held-out"
        with self._policy(self.model(number), self.config.held_out_answers) as policy:
            return held_out.sample_answers(policy, str(self.folder / HELD_OUT), folder, self.observer.on_rows)

    def _judge_policy(self, number: int) -> int:
        """The number of the policy that judges round `number`; 0 for a judge that does not follow the policy."""
        return self._last_trained(max(0, number - 1)) if self.config.judge.follows else 0

    def _score_by_judge(self, number: int, judge_policy: int) -> Answers:
        """Policy `number`'s answers, scored by the judge; a judge that follows is policy `judge_policy`."""
        return self._score(number, self.config.judge, f"judge-{judge_policy}", self.model(judge_policy))

    def _score_by_other(self, number: int) -> Answers:
        assert self.config.other is not None
        return self._score(number, self.config.other, "other", self.config.model)

    def _log_ratios(self, number: int) -> Answers:
        settings = {"reference": self.config.model, "beta": 1.0, "engine": "transformers"}
        scorer = JudgeConfig("implicit-reward", settings, follows=True)
        return self._score(number, scorer, "log-ratio", self.model(number))

    def _score(self, number: int, judge: JudgeConfig, name: str, model: str) -> Answers:
        folder = self._round_folder(number) / "held-out"
        with judge.load(model) as scorer:
            output = folder / f"{name}.jsonl"
            return held_out.score_answers(folder / "answers.jsonl", scorer, output, self.observer.on_rows)

    def _judge_accuracy(self, number: int) -> Estimate | None:
        from judges.evaluation.benchmark_run import run_benchmark
        from judges.evaluation.compute_results import compute_result

        assert self.config.benchmark is not None
        benchmark = load_benchmark(self.config.benchmark, self.config.benchmark_limit)
        name, folder = self.config.judge.name, self._round_folder(number) / "benchmark"
        with self.config.judge.load(self.model(number)) as scorer:
            accuracy = compute_result(run_benchmark(scorer, name, name, benchmark, folder)).main
        if accuracy.value is None or accuracy.low is None or accuracy.high is None:
            return None
        return Estimate(accuracy.value, accuracy.low, accuracy.high, len(benchmark.items))

    def _policy(self, model: str, candidates: int) -> Policy:
        return Policy(model=model, candidates=candidates, **self.config.policy)

    def model(self, number: int) -> str:
        """The model M_t; for a round without a training the one before it."""
        last = self._last_trained(number)
        return str(self._round_folder(last) / "model") if last else self.config.model

    def _last_trained(self, number: int) -> int:
        """The last round up to `number` that trained a model, or 0."""
        while number and not (self._round_folder(number) / "model").exists():
            number -= 1
        return number

    def _round_folder(self, number: int) -> Path:
        return self.folder / f"round-{number}"
