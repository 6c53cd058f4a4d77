"""Correlation of scores with human scores and ranks: Kendall τ-b, Spearman, Pearson and NDCG."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from judges.evaluation.metrics.accuracy import human_values, with_note
from judges.evaluation.results import MetricValue
from judges.evaluation.statistics import intervals
from judges.evaluation.statistics.tally import Mean, Tally, prompt_of
from judges.types import Item, Scorecard

Floats = NDArray[np.float64]
MAX_RESPONSES = 64  # to one prompt; with more, arrays of all pairs would take too much memory
MIN_SYSTEMS = 3  # two systems always correlate by 1 or -1


@dataclass(frozen=True, slots=True)
class Group:
    """Responses with comparable human values: those of one Item, or of the Items of one prompt.

    `human` (higher is better) and `scores` have one value for each scored response; `failed` counts
    the others.
    """

    name: str
    prompt: str
    subset: str
    human: Floats
    scores: Floats
    failed: int


def correlation_numbers(
    items: Sequence[Item], cards: Mapping[str, Scorecard], seed: int = 0, draws: int = 1000
) -> tuple[MetricValue, ...]:
    """Correlations with human scores, or with negated ranks. Empty where no Item has either as gold.

    "…, per prompt": the mean over prompts of the correlation among a prompt's responses, overall and by
    subset; `left_out` counts prompts where it is not defined (one side constant, or fewer than two scores).
    Items of one response form a prompt's group where they share `meta["prompt"]` or their conversation.
    "…, pooled": over all responses at once, whatever their prompt; `left_out` counts failed responses.
    "…, systems": of the systems' mean scores and mean human scores, where `meta["authors"]` names the system
    of each response and there are three at least. The three answer different questions.

    NDCG is that of scikit-learn: linear gains, log2 discounts, tied scores averaged. Gains are the human values
    minus the prompt's lowest.
    """
    groups = [group for group in _groups(items, cards) if len(group.human) + group.failed > 1]
    results: list[MetricValue] = []
    if groups:
        for name, by_prompt in PER_PROMPT.items():
            values = _by_size(groups, by_prompt)
            by_section = _sections(groups)
            # τ is not a share, even if it is above 0 everywhere.
            signed = by_prompt is not ndcg
            for number in intervals.numbers(_tally(groups, values), f"{name}, per prompt", seed, draws, signed):
                indices = by_section[number.section]
                undefined = sum(bool(np.isnan(values[i])) for i in indices)
                why = _why([groups[i] for i in indices if np.isnan(values[i])])
                results.append(replace(with_note(number, why if number.value is not None else ""), left_out=undefined))
    return (*results, *_pooled(items, cards, seed, draws), *_systems(items, cards, seed, draws))


def per_prompt_tau(items: Sequence[Item], cards: Mapping[str, Scorecard]) -> Tally:
    """Kendall τ-b of each prompt's responses, overall ("") and by subset, one row per prompt.

    Prompts where it is not defined are left out; the Tally has no means where no prompt remains."""
    groups = [group for group in _groups(items, cards) if len(group.human) + group.failed > 1]
    return _tally(groups, _by_size(groups, tau_b))


# -- statistics: from arrays (prompts, responses) of human values and scores to one value per prompt


def tau_b(human: Floats, scores: Floats) -> Floats:
    """Kendall τ-b of each row; nan where a side is constant.

    >>> tau_b(np.array([[1.0, 2.0, 3.0]]), np.array([[1.0, 3.0, 2.0]])).round(3)
    array([0.333])
    """
    if human.shape[1] > MAX_RESPONSES:
        return np.array([_tau(h, s) for h, s in zip(human, scores, strict=True)])
    # τ-b is the cosine between the signs of all pairs.
    first, second = np.triu_indices(human.shape[1], 1)
    signs = np.sign(human[:, first] - human[:, second]), np.sign(scores[:, first] - scores[:, second])
    return _cosine(*signs)


def pearson(human: Floats, scores: Floats) -> Floats:
    """Pearson's correlation of each row; nan where a side is constant."""
    return _cosine(_centred(human), _centred(scores))


def spearman(human: Floats, scores: Floats) -> Floats:
    """Spearman's ρ of each row, ties at their mean rank; nan where a side is constant."""
    return pearson(stats.rankdata(human, axis=1), stats.rankdata(scores, axis=1))


def ndcg(human: Floats, scores: Floats) -> Floats:
    """NDCG of each row over all its responses, with gains `human` minus the row's lowest; nan where `human` is
    constant. Tied scores share the mean of the discounts of their ranks.

    >>> ndcg(np.array([[3.0, 1.0]]), np.array([[0.0, 1.0]])).round(3)
    array([0.631])
    """
    gains = human - human.min(axis=1, keepdims=True)
    ideal = (-np.sort(-gains, axis=1) * _discounts(human.shape[1])).sum(axis=1)
    cumulative = np.concatenate([[0.0], np.cumsum(_discounts(human.shape[1]))])
    first = stats.rankdata(-scores, "min", axis=1).astype(np.intp)
    last = stats.rankdata(-scores, "max", axis=1).astype(np.intp)
    gained = (gains * (cumulative[last] - cumulative[first - 1]) / (last - first + 1)).sum(axis=1)
    found: Floats = np.divide(gained, ideal, out=np.full(len(ideal), np.nan), where=ideal > 0)
    return found


PER_PROMPT: Mapping[str, Callable[[Floats, Floats], Floats]] = {
    "kendall tau-b": tau_b,
    "spearman": spearman,
    "pearson": pearson,
    "ndcg": ndcg,
}


def _discounts(count: int) -> Floats:
    found: Floats = 1 / np.log2(np.arange(2, count + 2))
    return found


def _centred(values: Floats) -> Floats:
    """Values minus the row's mean; exactly 0 for a constant row, in spite of rounding."""
    constant = values.max(axis=1, keepdims=True) == values.min(axis=1, keepdims=True)
    return np.where(constant, 0.0, values - values.mean(axis=1, keepdims=True))


def _cosine(a: Floats, b: Floats) -> Floats:
    norms = np.sqrt((a * a).sum(axis=1)) * np.sqrt((b * b).sum(axis=1))
    found = np.divide((a * b).sum(axis=1), norms, out=np.full(len(norms), np.nan), where=norms > 0)
    bounded: Floats = np.clip(found, -1, 1)
    return bounded


def _tau(human: NDArray[np.generic], scores: NDArray[np.generic]) -> float:
    if len(human) < 2 or (human == human[0]).all() or (scores == scores[0]).all():
        return float("nan")
    return float(stats.kendalltau(human, scores).statistic)


# -- per prompt ---------------------------------------------------------------------------------------------


def _ordered(items: Sequence[Item]) -> list[Item]:
    return [item for item in items if item.gold and (item.gold.scores is not None or item.gold.ranking is not None)]


def _groups(items: Sequence[Item], cards: Mapping[str, Scorecard]) -> list[Group]:
    # Ranks compare responses of one Item only; scores also those of other Items.
    grouped: dict[tuple[bool, str], list[Item]] = {}
    for item in _ordered(items):
        several = len(item.responses) > 1
        grouped.setdefault((several, item.id if several else prompt_of(item)), []).append(item)
    results = []
    for (_, name), of in grouped.items():
        human: list[float] = []
        scores: list[float | None] = []
        for item in of:
            assert item.gold is not None
            human += human_values(item.gold, len(item.responses))
            scores += [judgment.score for judgment in cards[item.id].judgments]
        scored = [i for i, score in enumerate(scores) if score is not None]
        results.append(
            Group(
                name,
                prompt_of(of[0]),
                of[0].subset or "",
                np.array([human[i] for i in scored], dtype=np.float64),
                np.array([scores[i] for i in scored], dtype=np.float64),
                len(scores) - len(scored),
            )
        )
    return results


def _by_size(groups: Sequence[Group], statistic: Callable[[Floats, Floats], Floats]) -> Floats:
    """The statistic of each group, computed together for groups of equal size; nan below two scores."""
    found = np.full(len(groups), np.nan)
    sizes: dict[int, list[int]] = {}
    for i, group in enumerate(groups):
        sizes.setdefault(len(group.human), []).append(i)
    for size, indices in sizes.items():
        if size > 1:
            human, scores = (np.stack([getattr(groups[i], side) for i in indices]) for side in ("human", "scores"))
            found[indices] = statistic(human, scores)
    return found


def _sections(groups: Sequence[Group]) -> dict[str, list[int]]:
    sections = {"": list(range(len(groups)))}
    for name in sorted({group.subset for group in groups if group.subset}):
        sections[name] = [i for i, group in enumerate(groups) if group.subset == name]
    return sections


def _tally(groups: Sequence[Group], values: Floats) -> Tally:
    means: dict[str, Mean] = {}
    missing: dict[str, str] = {}
    for name, indices in _sections(groups).items():
        defined = [i for i in indices if not np.isnan(values[i])]
        if defined:
            rows, prompts = (tuple(getattr(groups[i], part) for i in defined) for part in ("name", "prompt"))
            means[name] = Mean(values[defined], rows, prompts)
        else:
            missing[name] = _why([groups[i] for i in indices]) or "no prompt has two responses with human values"
    return Tally(means, {name: {name: 1.0} for name in means}, "", missing)


def _why(groups: Sequence[Group]) -> str:
    """The reasons for undefined correlations, with the number of prompts of each."""
    few = [len(group.human) < 2 for group in groups]
    human = [not f and np.ptp(g.human) == 0 for f, g in zip(few, groups, strict=True)]
    reasons = {
        "fewer than two responses were scored": sum(few),
        "humans tied all responses": sum(human),
        "all scores are equal": sum(not f and not h for f, h in zip(few, human, strict=True)),
    }
    return "; ".join(f"{why}: {count} prompts" for why, count in reasons.items() if count)


# -- pooled, and systems ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Responses:
    """All scored responses: human value, score, prompt and author ("" where unknown)."""

    human: Floats
    scores: Floats
    prompts: tuple[str, ...]
    authors: tuple[str, ...]
    failed: int
    ranks: bool


def _responses(items: Sequence[Item], cards: Mapping[str, Scorecard]) -> _Responses:
    scored = []
    failed = 0
    for item in _ordered(items):
        assert item.gold is not None
        authors = item.meta.get("authors") or [None] * len(item.responses)
        values = human_values(item.gold, len(item.responses))
        for human, judgment, author in zip(values, cards[item.id].judgments, authors, strict=True):
            if judgment.score is None:
                failed += 1
            else:
                scored.append((human, judgment.score, prompt_of(item), str(author or "")))
    human_side, scores, prompts, names = zip(*scored, strict=True) if scored else ((), (), (), ())
    ranks = any(item.gold and item.gold.ranking is not None for item in items)
    return _Responses(np.array(human_side, float), np.array(scores, float), prompts, names, failed, ranks)


def _pooled(items: Sequence[Item], cards: Mapping[str, Scorecard], seed: int, draws: int) -> list[MetricValue]:
    found = _responses(items, cards)
    if not len(found.human) + found.failed:
        return []
    note = "ranks of different prompts pooled" if found.ranks else ""
    # Dense ranks are computed once; each draw counts how often a rank occurs.
    human, scores = (stats.rankdata(side, "dense").astype(np.intp) for side in (found.human, found.scores))
    statistics: dict[str, Callable[[NDArray[np.intp]], float]] = {
        "kendall tau-b": lambda rows: _tau(human[rows], scores[rows]),
        "spearman": lambda rows: _pearson(_midranks(human[rows]), _midranks(scores[rows])),
        "pearson": lambda rows: _pearson(found.human[rows], found.scores[rows]),
    }
    return [
        replace(_number(found.prompts, of, f"{name}, pooled", note, seed, draws), left_out=found.failed)
        for name, of in statistics.items()
    ]


def _systems(items: Sequence[Item], cards: Mapping[str, Scorecard], seed: int, draws: int) -> list[MetricValue]:
    found = _responses(items, cards)
    known = np.array([bool(author) for author in found.authors], dtype=bool)
    names, codes = np.unique(np.array(found.authors, dtype=str)[known], return_inverse=True)
    if len(names) < MIN_SYSTEMS:
        return []
    human, scores = found.human[known], found.scores[known]
    prompts = [prompt for prompt, has_author in zip(found.prompts, known, strict=True) if has_author]

    def of_means(statistic: Callable[[Floats, Floats], Floats]) -> Callable[[NDArray[np.intp]], float]:
        def of(rows: NDArray[np.intp]) -> float:
            counts = np.bincount(codes[rows], minlength=len(names))
            drawn = counts > 0
            sums = (np.bincount(codes[rows], side[rows], minlength=len(names)) for side in (human, scores))
            a, b = ((s[drawn] / counts[drawn])[None] for s in sums)
            return float(statistic(a, b)[0]) if drawn.sum() >= MIN_SYSTEMS else float("nan")

        return of

    return [
        replace(
            _number(prompts, of_means(PER_PROMPT[name]), f"{name}, systems", f"{len(names)} systems", seed, draws),
            left_out=found.failed,
        )
        for name in ("kendall tau-b", "spearman", "pearson")
    ]


def _number(
    prompts: Sequence[str],
    statistic: Callable[[NDArray[np.intp]], float],
    metric: str,
    note: str,
    seed: int,
    draws: int,
) -> MetricValue:
    if not prompts:
        return MetricValue(metric, "", None, note="no response was scored")
    if np.isnan(statistic(np.arange(len(prompts)))):
        constant = "not defined: one side is constant, or there is one response"
        return MetricValue(metric, "", None, rows=len(prompts), prompts=len(set(prompts)), note=constant)
    return with_note(intervals.resampled(prompts, statistic, metric, seed=seed, draws=draws), note)


def _pearson(human: Floats, scores: Floats) -> float:
    return float(pearson(human[None], scores[None])[0])


def _midranks(codes: NDArray[np.intp]) -> Floats:
    counts = np.bincount(codes)
    ranks: Floats = (np.cumsum(counts) - (counts - 1) / 2)[codes]
    return ranks
