"""How good a policy's answers to held-out prompts are: scores, wins, length, diversity and distance from the start.

Everything is paired by prompt, and intervals are over prompts. An answer without a score enters no mean; how many
prompts a number is of stands beside it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise, product
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from judges.batch.output import Options
from judges.batch.run import Summary, score_file
from judges.data.json_lines import to_line
from judges.data.writers import write_rows
from judges.engines.policy import Policy, Prompt
from judges.errors import CannotRun
from judges.preferences.scored_candidates import judged_rows
from judges.scorer import Scorer
from judges.scorers.baselines import Length
from judges.types import Failure, Item

_DRAWS = 9999
Progress = Callable[[Summary], None]


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer to a held-out prompt and its score, None without one."""

    text: str
    score: float | None


Answers = Mapping[str, tuple[Answer, ...]]
"""By the prompt's id."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean over `prompts` prompts with its 95 % interval; `p` where it is a difference that may be none."""

    value: float
    low: float
    high: float
    prompts: int
    p: float | None = None

    def __str__(self) -> str:
        return f"{self.value:.3g} [{self.low:.3g}, {self.high:.3g}]"


def draw_answers(policy: Policy, source: str, folder: Path, on_progress: Progress) -> Path:
    """Let a policy answer a file of prompts; the file of its answers, whole when it is there.

    Raises CannotRun where not one prompt got an answer.
    """
    answers = folder / "answers.jsonl"
    if answers.exists():
        return answers
    drawn = folder / "drawn.jsonl"
    folder.mkdir(parents=True, exist_ok=True)
    score_file(source, Length(), drawn, Options(ordered=True), on_progress, policy)
    rows = [
        to_line(prompt_row(row.item) | {"responses": list(row.item.responses)})
        for row in judged_rows(drawn, {})
        if row.item is not None
    ]
    if not rows:
        raise CannotRun(f"{source}: the policy answered none of the held-out prompts; see {drawn}")
    write_rows(lambda: rows, answers)
    return answers


def prompt_row(one: Item | Prompt) -> dict[str, Any]:
    """All that a policy and a judge may see beside a response, as an input row."""
    told = {"id": one.id, "prompt": one.prompt if isinstance(one.prompt, str) else list(one.prompt)}
    return told | {key: value for key in ("system", "reference", "rubric") if (value := getattr(one, key)) is not None}


def score_answers(answers: Path, scorer: Scorer, output: Path, on_progress: Progress) -> Answers:
    """The answers with a scorer's scores, in the order of the file."""
    score_file(str(answers), scorer, output, Options(ordered=True), on_progress)
    return {
        row.id: tuple(Answer(c.text, None if isinstance(c.score, Failure) else c.score) for c in row.candidates)
        for row in judged_rows(output, {})
    }


# -- numbers -----------------------------------------------------------------------------------------------


def mean_score(answers: Answers) -> Estimate | None:
    """The mean over prompts of the mean score of a prompt's answers."""
    return estimate(list(_scores(answers).values()))


def gain(after: Answers, before: Answers) -> Estimate | None:
    """The mean difference of two policies' scores on the same prompts; p by a sign-flip permutation test.

    >>> a = {str(i): (Answer("x", i + 1.0),) for i in range(20)}
    >>> b = {str(i): (Answer("y", i + 0.5),) for i in range(20)}
    >>> found = gain(a, b); found.value, found.p < 0.001
    (0.5, True)
    """
    new, old = _scores(after), _scores(before)
    differences = [new[name] - old[name] for name in new if name in old]
    found = estimate(differences)
    return found and Estimate(found.value, found.low, found.high, found.prompts, _sign_flip(differences))


def win_rate(after: Answers, before: Answers) -> Estimate | None:
    """How often an answer of `after` scores above one of `before` to the same prompt; ties count half.

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
    return estimate(rates)


def gain_at_equal_length(after: Answers, before: Answers) -> Estimate | None:
    """The score difference where both policies' answers to a prompt are equally long: the intercept of the regression
    of the difference of mean scores on the difference of the logarithms of mean length (characters), by prompt.

    None where all differences of length are equal, or under three prompts.
    """
    new, old = _scores(after), _scores(before)
    names = [name for name in new if name in old]
    longer = [_log_length(after[name]) - _log_length(before[name]) for name in names]
    differences = [new[name] - old[name] for name in names]
    if len(names) < 3 or max(longer) == min(longer):
        return None
    if max(differences) == min(differences):  # a line without a deviation has no interval either
        same = differences[0]
        return Estimate(same, same, same, len(names), 1.0 if same == 0 else 0.0)
    fit = stats.linregress(longer, differences)
    half = float(stats.t.ppf(0.975, len(names) - 2)) * fit.intercept_stderr
    t = fit.intercept / fit.intercept_stderr if fit.intercept_stderr else math.inf
    p = 2 * float(stats.t.sf(abs(t), len(names) - 2))
    value = float(fit.intercept)
    return Estimate(value, value - half, value + half, len(names), p)


def mean_length(answers: Answers) -> Estimate | None:
    """Characters of an answer."""
    return estimate([_characters(some) for some in answers.values()])


def distinct_bigrams(answers: Answers) -> float | None:
    """The share of different ones among all pairs of neighbouring words (distinct-2: Li et al. 2016, arXiv 1510.03055).

    Of the first 50 words of each answer: the share falls with the amount of text, whatever it says.

    >>> distinct_bigrams({"a": (Answer("to be or not to be", None),)})
    0.8
    """
    pairs = [
        pair
        for some in answers.values()
        for one in some
        for words in [one.text.lower().split()[:50]]
        for pair in pairwise(words)
    ]
    return len(set(pairs)) / len(pairs) if pairs else None


def estimate(values: Sequence[float]) -> Estimate | None:
    """A mean with a bias-corrected bootstrap interval; None without a value."""
    if not values:
        return None
    data = np.asarray(values, dtype=float)
    mean = float(data.mean())
    if len(data) < 2 or float(np.ptp(data)) == 0:
        return Estimate(mean, mean, mean, len(data))
    rng = np.random.default_rng(0)
    edges = stats.bootstrap((data,), np.mean, n_resamples=_DRAWS, rng=rng).confidence_interval
    return Estimate(mean, float(edges.low), float(edges.high), len(data))


def plain(number: Estimate | None) -> dict[str, Any] | None:
    """An Estimate, ready for JSON."""
    return None if number is None else {key: getattr(number, key) for key in Estimate.__slots__}


def read_estimate(told: Mapping[str, Any] | None) -> Estimate | None:
    return None if told is None else Estimate(**told)


def write_json(path: Path, told: Any) -> None:
    """A file of JSON that appears whole."""
    part = path.with_name(f".{path.name}.part")
    part.write_text(json.dumps(told, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    part.replace(path)


def _scores(answers: Answers) -> dict[str, float]:
    """The mean score of each prompt that has one."""
    found = {}
    for name, some in answers.items():
        if scores := [one.score for one in some if one.score is not None]:
            found[name] = sum(scores) / len(scores)
    return found


def _characters(answers: Sequence[Answer]) -> float:
    return sum(len(one.text) for one in answers) / len(answers)


def _log_length(answers: Sequence[Answer]) -> float:
    """Of the answers that have a score, as it is their score that is compared."""
    return math.log(1 + _characters([one for one in answers if one.score is not None]))


def _sign_flip(differences: Sequence[float]) -> float:
    if not any(differences):
        return 1.0
    data = np.asarray(differences, dtype=float)
    rng = np.random.default_rng(0)
    return float(
        stats.permutation_test((data,), np.mean, permutation_type="samples", n_resamples=_DRAWS, rng=rng).pvalue
    )
