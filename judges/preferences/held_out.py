"""Held-out evaluation of a policy: sample answers, score them, and compare policies by score, win rate and length.

Comparisons are paired by prompt, and intervals are over prompts. Answers without a score are left out; every estimate
gives the number of prompts that it is based on.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise, product
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from judges.batch.output import ScoreOptions
from judges.batch.run import ScoreSummary, score_file
from judges.data.json_lines import to_line
from judges.data.writers import write_rows
from judges.engines.policy import Policy, Prompt
from judges.errors import CannotRun
from judges.preferences.scored_candidates import read_scored_rows
from judges.scorer import Scorer
from judges.scorers.baselines import Length
from judges.types import Failure, Item

_RESAMPLES = 9999
Progress = Callable[[ScoreSummary], None]


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer to a held-out prompt with its score, None without one."""

    text: str
    score: float | None


Answers = Mapping[str, tuple[Answer, ...]]
"""The answers to each prompt, by the prompt's id."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean over `prompts` prompts with its 95 % interval; `p` is the p value of a difference from 0."""

    value: float
    low: float
    high: float
    prompts: int
    p: float | None = None

    def __str__(self) -> str:
        return f"{self.value:.3g} [{self.low:.3g}, {self.high:.3g}]"


def sample_answers(policy: Policy, source: str, folder: Path, on_progress: Progress) -> Path:
    """Sample a policy's answers to a file of prompts; returns the file of answers, which is written atomically.

    Raises CannotRun if no prompt got an answer.
    """
    answers = folder / "answers.jsonl"
    if answers.exists():
        return answers
    samples = folder / "drawn.jsonl"
    folder.mkdir(parents=True, exist_ok=True)
    score_file(source, Length(), samples, ScoreOptions(ordered=True), on_progress, policy)
    rows = [
        to_line(prompt_row(row.item) | {"responses": list(row.item.responses)})
        for row in read_scored_rows(samples, {})
        if row.item is not None
    ]
    if not rows:
        raise CannotRun(f"{source}: the policy answered none of the held-out prompts; see {samples}")
    write_rows(lambda: rows, answers)
    return answers


def prompt_row(prompt: Item | Prompt) -> dict[str, Any]:
    """An input row with the prompt's id, conversation, system prompt, reference and rubric, without responses."""
    row = {"id": prompt.id, "prompt": prompt.prompt if isinstance(prompt.prompt, str) else list(prompt.prompt)}
    optional = {key: getattr(prompt, key) for key in ("system", "reference", "rubric")}
    return row | {key: value for key, value in optional.items() if value is not None}


def score_answers(answers: Path, scorer: Scorer, output: Path, on_progress: Progress) -> Answers:
    """Score a file of answers; returns them in the order of the file."""
    score_file(str(answers), scorer, output, ScoreOptions(ordered=True), on_progress)
    return {
        row.id: tuple(Answer(c.text, None if isinstance(c.score, Failure) else c.score) for c in row.candidates)
        for row in read_scored_rows(output, {})
    }


# -- metrics -----------------------------------------------------------------------------------------------


def mean_score(answers: Answers) -> Estimate | None:
    """The mean over prompts of the mean score of a prompt's answers."""
    return estimate_mean(list(_prompt_scores(answers).values()))


def score_gain(after: Answers, before: Answers) -> Estimate | None:
    """The mean difference of two policies' scores on the same prompts; p by a sign-flip permutation test.

    >>> a = {str(i): (Answer("x", i + 1.0),) for i in range(20)}
    >>> b = {str(i): (Answer("y", i + 0.5),) for i in range(20)}
    >>> gain = score_gain(a, b); gain.value, gain.p < 0.001
    (0.5, True)
    """
    new, old = _prompt_scores(after), _prompt_scores(before)
    differences = [new[name] - old[name] for name in new if name in old]
    mean = estimate_mean(differences)
    return mean and replace(mean, p=_sign_flip_p_value(differences))


def win_rate(after: Answers, before: Answers) -> Estimate | None:
    """How often an answer of `after` scores higher than one of `before` to the same prompt; ties count half.

    >>> win_rate({"a": (Answer("x", 2.0), Answer("y", 1.0))}, {"a": (Answer("z", 1.0),)}).value
    0.75
    """
    rates = []
    for name in after:
        pairs = [
            (a.score > b.score) + 0.5 * (a.score == b.score)
            for a, b in product(after[name], before.get(name, ()))
            if a.score is not None and b.score is not None
        ]
        if pairs:
            rates.append(sum(pairs) / len(pairs))
    return estimate_mean(rates)


def length_controlled_gain(after: Answers, before: Answers) -> Estimate | None:
    """The score gain at equal length of both policies' answers.

    The intercept of the linear regression, over prompts, of the difference of mean scores on the difference of the
    logarithms of mean lengths in characters. None if all length differences are equal, or for fewer than 3 prompts.
    """
    new, old = _prompt_scores(after), _prompt_scores(before)
    names = [name for name in new if name in old]
    length_differences = [_log_length(after[name]) - _log_length(before[name]) for name in names]
    differences = [new[name] - old[name] for name in names]
    if len(names) < 3 or max(length_differences) == min(length_differences):
        return None
    if max(differences) == min(differences):  # a perfect fit: the interval has no width
        constant = differences[0]
        return Estimate(constant, constant, constant, len(names), 1.0 if constant == 0 else 0.0)
    fit = stats.linregress(length_differences, differences)
    half_width = float(stats.t.ppf(0.975, len(names) - 2)) * fit.intercept_stderr
    t = fit.intercept / fit.intercept_stderr if fit.intercept_stderr else math.inf
    p = 2 * float(stats.t.sf(abs(t), len(names) - 2))
    value = float(fit.intercept)
    return Estimate(value, value - half_width, value + half_width, len(names), p)


def mean_length(answers: Answers) -> Estimate | None:
    """The mean length of an answer in characters."""
    return estimate_mean([_mean_characters(prompt_answers) for prompt_answers in answers.values()])


def distinct_bigrams(answers: Answers) -> float | None:
    """The share of distinct bigrams among all bigrams of words (distinct-2: Li et al. 2016, arXiv 1510.03055).

    Only the first 50 words of each answer count, because the share falls with the amount of text.

    >>> distinct_bigrams({"a": (Answer("to be or not to be", None),)})
    0.8
    """
    texts = [answer.text for prompt_answers in answers.values() for answer in prompt_answers]
    bigrams = [bigram for text in texts for bigram in pairwise(text.lower().split()[:50])]
    return len(set(bigrams)) / len(bigrams) if bigrams else None


def estimate_mean(values: Sequence[float]) -> Estimate | None:
    """The mean with a bias-corrected and accelerated bootstrap interval; None without values."""
    if not values:
        return None
    data = np.asarray(values, dtype=float)
    mean = float(data.mean())
    if len(data) < 2 or float(np.ptp(data)) == 0:
        return Estimate(mean, mean, mean, len(data))
    rng = np.random.default_rng(0)
    interval = stats.bootstrap((data,), np.mean, n_resamples=_RESAMPLES, rng=rng).confidence_interval
    return Estimate(mean, float(interval.low), float(interval.high), len(data))


def _prompt_scores(answers: Answers) -> dict[str, float]:
    """The mean score of each prompt that has a scored answer."""
    means = {}
    for name, prompt_answers in answers.items():
        if scores := [answer.score for answer in prompt_answers if answer.score is not None]:
            means[name] = sum(scores) / len(scores)
    return means


def _mean_characters(answers: Sequence[Answer]) -> float:
    return sum(len(answer.text) for answer in answers) / len(answers)


def _log_length(answers: Sequence[Answer]) -> float:
    """Of the answers with a score only, because their scores are compared."""
    return math.log(1 + _mean_characters([answer for answer in answers if answer.score is not None]))


def _sign_flip_p_value(differences: Sequence[float]) -> float:
    if not any(differences):
        return 1.0
    data = np.asarray(differences, dtype=float)
    rng = np.random.default_rng(0)
    test = stats.permutation_test((data,), np.mean, permutation_type="samples", n_resamples=_RESAMPLES, rng=rng)
    return float(test.pvalue)
