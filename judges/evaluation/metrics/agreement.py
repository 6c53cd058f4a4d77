"""Inter-annotator agreement and agreement of a scorer with annotators: κ, α and the human ceiling."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from judges.evaluation.metrics.accuracy import with_note
from judges.evaluation.results import MetricValue
from judges.evaluation.statistics import intervals
from judges.evaluation.statistics.tally import Mean, Tally, prompt_of
from judges.types import Item, Scorecard

VERDICTS = ("a", "b", "tie")
Floats = NDArray[np.float64]
Codes = NDArray[np.intp]
MISSING = -1  # no verdict: the annotator did not see the row, or the scorer failed


@dataclass(frozen=True, slots=True)
class Votes:
    """Rows of two responses with two votes or more.

    `counts` (rows, 3) has the votes for a, b and tie. `annotators` has, by name, one code per row (0 a, 1 b, 2 tie,
    -1 none); it is empty where the data does not name annotators. `unread` counts rows with other votes."""

    items: tuple[Item, ...]
    counts: Floats
    annotators: Mapping[str, Codes]
    unread: int


def agreement_numbers(
    items: Sequence[Item], cards: Mapping[str, Scorecard] | None = None, seed: int = 0, draws: int = 1000
) -> tuple[MetricValue, ...]:
    """Agreement in Items of two responses whose `meta["votes"]` lists two votes or more, each "a", "b" or "tie".
    Empty where there are none. `meta["annotators"]`, beside it, names who gave each vote.

    Of humans: "agreement between annotators" (the share of a row's pairs of votes that are equal),
    "krippendorff alpha" (nominal), "fleiss kappa" (where all rows have as many votes), "cohen kappa between
    annotators" (the mean over pairs of annotators; needs their names), and "human ceiling" (one annotator
    against the majority of the others, over all annotators of a row; 1 / k where k verdicts share it).

    Of the scorer, given `cards`: "agreement with the others' majority" replaces each annotator in turn, so it compares
    with the ceiling; "agreement with the majority" of all; "agreement with an annotator" and
    "cohen kappa with an annotator", the mean and each by name; "cohen kappa with the majority", where there is
    one. The verdict is the higher score, tie for equal ones, so a scorer without equal scores misses every tie.
    """
    votes = read_votes(items)
    if not votes.items:
        why = f"votes are not 'a', 'b' or 'tie' in {votes.unread} rows"
        return (MetricValue("human ceiling", "", None, note=why),) if votes.unread else ()
    results = _of_humans(votes, seed, draws)
    if cards is not None:
        results += _of_scorer(votes, cards, seed, draws)
    unread = f"{votes.unread} rows have votes that are not 'a', 'b' or 'tie'"
    return tuple(with_note(number, unread) for number in results) if votes.unread else results


def read_votes(items: Sequence[Item]) -> Votes:
    """The votes in the Items' `meta["votes"]` and the names in `meta["annotators"]`."""
    with_votes, rows, unread = [], [], 0
    for item in items:
        votes = item.meta.get("votes")
        if not isinstance(votes, list | tuple) or len(item.responses) != 2 or len(votes) < 2:
            continue
        if not all(isinstance(vote, str) and vote in VERDICTS for vote in votes):
            unread += 1
            continue
        with_votes.append(item)
        rows.append([VERDICTS.index(vote) for vote in votes])
    counts = np.array([[row.count(code) for code in range(3)] for row in rows], dtype=np.float64).reshape(-1, 3)
    annotators: dict[str, Codes] = {}
    named = [item.meta.get("annotators") for item in with_votes]
    if all(isinstance(n, list | tuple) and len(n) == len(row) for n, row in zip(named, rows, strict=True)):
        for i, (names, row) in enumerate(zip(named, rows, strict=True)):
            for name, code in zip(names or (), row, strict=True):
                annotators.setdefault(str(name), np.full(len(with_votes), MISSING, dtype=np.intp))[i] = code
    return Votes(tuple(with_votes), counts, annotators, unread)


# -- statistics: of counts (rows, 3), or of two raters' codes -------------------------------------------------


def alpha(counts: Floats) -> float:
    """Krippendorff's nominal α of rows' vote counts; nan where all votes are equal."""
    import krippendorff

    if (counts.sum(axis=0) > 0).sum() < 2:
        return float("nan")
    return float(krippendorff.alpha(value_counts=counts, level_of_measurement="nominal"))


def fleiss(counts: Floats) -> float:
    """Fleiss' κ (1971) of rows with equally many votes; nan where all votes are equal."""
    shares = counts.sum(axis=0) / counts.sum()
    chance = float((shares**2).sum())
    return float(_pairs_agree(counts).mean() - chance) / (1 - chance) if chance < 1 else float("nan")


def cohen(a: Codes, b: Codes) -> float:
    """Cohen's κ (1960) over the rows where both have a verdict; nan without one, or where all verdicts are equal.

    >>> round(cohen(np.array([0, 0, 1, 1]), np.array([0, 1, 1, 1])), 3)
    0.5
    """
    both = (a != MISSING) & (b != MISSING)
    # Nine cells: in a bootstrap, the input checks of a library would take most of the time.
    table = np.bincount(a[both] * 3 + b[both], minlength=9).reshape(3, 3) / max(both.sum(), 1)
    chance = float(table.sum(axis=1) @ table.sum(axis=0))
    return float(np.trace(table) - chance) / (1 - chance) if both.any() and chance < 1 else float("nan")


def with_majority(counts: Floats, codes: Codes) -> Floats:
    """For each row: 1 where the verdict is the only most frequent vote, 1 / k where it is one of k, else 0.

    >>> with_majority(np.array([[2.0, 1.0, 0.0], [1.0, 1.0, 0.0]]), np.array([0, 1]))
    array([1. , 0.5])
    """
    top = counts == counts.max(axis=1, keepdims=True)
    found: Floats = top[np.arange(len(codes)), codes] / top.sum(axis=1)
    return found


def leave_one_out(counts: Floats, codes: Codes | None = None) -> Floats:
    """For each row, over its annotators: the agreement of a verdict with the majority of the other annotators.

    The verdict is the annotator's own (the human ceiling), or the scorer's where `codes` are given.
    """
    total = np.zeros(len(counts))
    for vote in range(3):
        voted = counts[:, vote]  # annotators who cast this vote
        others = counts - np.eye(3)[vote]
        verdict = np.full(len(counts), vote) if codes is None else codes
        total += np.where(voted > 0, voted * with_majority(others, verdict), 0)
    found: Floats = total / counts.sum(axis=1)
    return found


def _pairs_agree(counts: Floats) -> Floats:
    votes = counts.sum(axis=1)
    found: Floats = (counts * (counts - 1)).sum(axis=1) / (votes * (votes - 1))
    return found


# -- numbers --------------------------------------------------------------------------------------------------


def _of_humans(votes: Votes, seed: int, draws: int) -> tuple[MetricValue, ...]:
    counts, everyone = votes.counts, np.arange(len(votes.items))
    results = [
        *_means(votes, everyone, "agreement between annotators", _pairs_agree(counts), seed, draws),
        _resampled(votes, everyone, lambda rows: alpha(counts[rows]), "krippendorff alpha", "", seed, draws),
    ]
    if len(set(counts.sum(axis=1))) == 1:
        results.append(_resampled(votes, everyone, lambda rows: fleiss(counts[rows]), "fleiss kappa", "", seed, draws))
    kappa = "cohen kappa between annotators"
    pairs = [
        (a, b)
        for a, b in combinations(votes.annotators.values(), 2)
        if ((a != MISSING) & (b != MISSING)).any()  # with a row in common
    ]
    if pairs:
        number = _resampled(
            votes, everyone, lambda rows: _mean([cohen(a[rows], b[rows]) for a, b in pairs]), kappa, "", seed, draws
        )
        results.append(with_note(number, f"{len(pairs)} pairs of annotators"))
    else:
        why = "no two annotators share a row" if votes.annotators else "the data does not name the annotators"
        results.append(MetricValue(kappa, "", None, rows=len(everyone), note=why))
    return (*results, *_means(votes, everyone, "human ceiling", leave_one_out(counts), seed, draws))


def _of_scorer(votes: Votes, cards: Mapping[str, Scorecard], seed: int, draws: int) -> tuple[MetricValue, ...]:
    verdicts = np.array([_verdict(cards[item.id]) for item in votes.items], dtype=np.intp)
    scored = np.flatnonzero(verdicts != MISSING)
    counts, codes = votes.counts[scored], verdicts[scored]
    with_each = counts[np.arange(len(scored)), codes] / counts.sum(axis=1)
    results = [
        *_means(votes, scored, "agreement with the others' majority", leave_one_out(counts, codes), seed, draws),
        *_means(votes, scored, "agreement with the majority", with_majority(counts, codes), seed, draws),
        *_means(votes, scored, "agreement with an annotator", with_each, seed, draws),
    ]
    for name, votes_of_rater in votes.annotators.items():
        common = scored[votes_of_rater[scored] != MISSING]
        same = (votes_of_rater[common] == verdicts[common]).astype(np.float64)
        results += _means(votes, common, "agreement with an annotator", same, seed, draws, name)
    top = votes.counts == votes.counts.max(axis=1, keepdims=True)
    majority = np.where(top.sum(axis=1) == 1, top.argmax(axis=1), MISSING)
    raters = {("cohen kappa with the majority", ""): majority}
    raters |= {
        ("cohen kappa with an annotator", name): votes_of_rater for name, votes_of_rater in votes.annotators.items()
    }
    for (metric, section), votes_of_rater in raters.items():
        rows = scored[votes_of_rater[scored] != MISSING]
        results.append(
            _resampled(votes, rows, _kappa(votes_of_rater[rows], verdicts[rows]), metric, section, seed, draws)
        )
    failed = len(verdicts) - len(scored)
    return tuple(replace(number, left_out=failed) for number in results)


def _kappa(a: Codes, b: Codes) -> Callable[[Codes], float]:
    return lambda rows: cohen(a[rows], b[rows])


def _verdict(card: Scorecard) -> int:
    a, b = (judgment.score for judgment in card.judgments)
    if a is None or b is None:
        return MISSING
    return 0 if a > b else 1 if b > a else 2


def _mean(values: Sequence[float]) -> float:
    defined = [value for value in values if not np.isnan(value)]
    return float(np.mean(defined)) if defined else float("nan")


def _means(
    votes: Votes, rows: Codes, metric: str, values: Floats, seed: int, draws: int, section: str = ""
) -> tuple[MetricValue, ...]:
    if not len(rows):
        return (MetricValue(metric, section, None, note="the scorer failed in every row"),)
    items = [votes.items[i] for i in rows]
    mean = Mean(values, tuple(item.id for item in items), tuple(map(prompt_of, items)))
    return intervals.numbers(Tally({section: mean}, {section: {section: 1.0}}, section), metric, seed, draws)


def _resampled(
    votes: Votes, rows: Codes, statistic: Callable[[Codes], float], metric: str, section: str, seed: int, draws: int
) -> MetricValue:
    """`statistic` maps indices into `rows`."""
    prompts = [prompt_of(votes.items[i]) for i in rows]
    if not prompts or np.isnan(statistic(np.arange(len(rows)))):
        why = "not defined: every verdict is the same" if prompts else "no row has both verdicts"
        return MetricValue(metric, section, None, rows=len(prompts), prompts=len(set(prompts)), note=why)
    return intervals.resampled(prompts, statistic, metric, section, seed, draws)
