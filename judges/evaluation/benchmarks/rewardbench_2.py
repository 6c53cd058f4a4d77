"""RewardBench 2: best of four in five subsets, and Ties.

Malik et al. 2025, arXiv 2506.01937; its code is allenai/reward-bench.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from judges.data.items import to_item
from judges.evaluation.benchmarks.base import Benchmark
from judges.evaluation.benchmarks.rewardbench import generates, share_of_first
from judges.evaluation.benchmarks.rows import Row, checked, count_differences, read_rows
from judges.evaluation.statistics.tally import Mean, Tally, mean_of
from judges.types import Gold, Item, Scorecard

HUB = "hf:allenai/reward-bench-2:test"
TIES = "Ties"
# Rows of the split `test`: 1,865 in all (dataset card; counted by subset in allenai/reward-bench issue 268).
COUNTS: Mapping[str, int] = {"Factuality": 475, "Precise IF": 160, "Math": 183, "Safety": 450, "Focus": 495, TIES: 102}
BEST_OF_FOUR = tuple(subset for subset in COUNTS if subset != TIES)
OVERALL = "overall"
# The terms of the Ties score and their weights (`process_single_model`): 60 % accuracy, 40 % margin, and a last
# one that only breaks ties between models, so that the best score is a little over 1.
TIES_WEIGHTS: Mapping[str, float] = {
    "Ties: tied prompts accurate": 0.30,
    "Ties: ref prompts accurate": 0.30,
    "Ties: margin above spread": 0.20,
    "Ties: smaller margin above spread": 0.20,
    "Ties: tanh of margin to spread": 0.01,
}
UNREAD_CREDIT = 0.25  # of a row without any rating that could be read
UNREAD_RATING = -1.0  # stands for a rating of a Ties prompt that could not be read

EXPECTED = "a RewardBench 2 row needs prompt, chosen and rejected (lists of texts) and subset"
EXPECTED_OF_TIES = 'a row of Ties needs an id "ref:n" or "tied:n" with n a whole number'


def load(source: str = HUB) -> Benchmark:
    """RewardBench 2 from the hub or a local copy.

    A row has `prompt`, `chosen` and `rejected` (lists of texts; one text is a list of one) and `subset`; it may
    have `id`, `models` (of each response, chosen first), which becomes `meta["authors"]`, and `num_correct`,
    `num_incorrect` and `total_completions`, which must then agree with the lists. In the five best-of-four
    subsets one response is chosen. A row of Ties has an id "ref:n" (one right answer) or "tied:n" (several):
    "ref" or "tied" becomes `meta["ties"]`, and n `meta["prompt"]`, which the two rows then share.
    Raises CannotRun for a malformed row, with the source and the row's number.
    """
    seen: set[str] = set()
    items = [_item(row, seen) for row in read_rows(source, EXPECTED)]
    differs = list(count_differences(Counter(item.subset or "" for item in items), COUNTS, "rows"))
    for subset in BEST_OF_FOUR:
        odd = sum(item.subset == subset and len(item.responses) != 4 for item in items)
        if odd:
            differs.append(f"{subset}: {odd} rows do not have four responses")
    return Benchmark("rewardbench-2", "RewardBench 2", tuple(items), source, official, tuple(differs))


def official(items: Sequence[Item], cards: Mapping[str, Scorecard]) -> Tally:
    """Each subset's score and their unweighted mean, by the rules of allenai/reward-bench.

    A best-of-four subset is the mean of `credit` over its rows. Ties is the sum of its five terms by
    `TIES_WEIGHTS` (`_ties_means`); it needs scores, so it is missing for a judge that compares. A subset without
    a row is missing, and "overall" where any of the six is.
    """
    generative = generates(cards)
    means: dict[str, Mean] = {}
    missing: dict[str, str] = {}
    numbers: dict[str, dict[str, float]] = {}
    for subset in BEST_OF_FOUR:
        rows = [(item, credit(item, cards[item.id], generative)) for item in items if item.subset == subset]
        if rows:
            means[subset] = mean_of(rows)
            numbers[subset] = {subset: 1.0}
        else:
            missing[subset] = f"no rows of {subset}"
    ties = [item for item in items if item.subset == TIES]
    terms = _ties_means(ties, cards, generative)
    undefined = [name for name, mean in terms.items() if not len(mean.values)]
    if any(cards[item.id].comparisons for item in items):
        missing[TIES] = "Ties needs scores, and this judge compares"
    elif not ties:
        missing[TIES] = f"no rows of {TIES}"
    elif undefined:
        missing[TIES] = f"no prompt to compute {undefined[0]!r} from: it needs both ref and tied rows of a prompt"
    else:
        means |= terms
        numbers[TIES] = dict(TIES_WEIGHTS)
    absent = [subset for subset in COUNTS if subset not in numbers]
    if absent:
        missing[OVERALL] = f"it is the mean of six subsets; there is no score of {', '.join(absent)}"
    else:
        numbers[OVERALL] = {mean: w / len(COUNTS) for s in COUNTS for mean, w in numbers[s].items()}
    return Tally(means, numbers, OVERALL, missing)


def credit(item: Item, card: Scorecard, generative: bool) -> float:
    """The credit of a best-of-four row: 1/k where the chosen response is among k that share the first place, else 0.

    By score (`reroll_and_score_dataset`): a judge's ratings that could not be read are left out, and a row
    without any gets ¼ (`run_judge_ratings_multi`). There is no such rule for reward models; a reward that failed
    gives its row 0, because it ranks nothing.

    By comparisons: the first place is that of the most wins, where a tie and an unread verdict count ½ for both.
    The official judge sees all four at once and names one. The response that it names has beaten the three others,
    so such a verdict gives 1 or 0, and ¼ where it could not be read, as in the official script. Several verdicts
    (orders, votes) are counted together: the response that most of them name is first, as in the official vote. A
    judge that compares pairs is not in the official script; its first place is that of its round robin.
    """
    (chosen,) = item.gold.chosen if item.gold is not None and item.gold.chosen is not None else (0,)
    points: list[float | None] = [judgment.score for judgment in card.judgments]
    if card.comparisons:
        points = list(_wins(card, len(item.responses)))
    elif None in points and not generative:
        return 0.0
    known = [point for point in points if point is not None]
    if not known:
        return UNREAD_CREDIT
    best = max(known)
    return 1 / known.count(best) if points[chosen] == best else 0.0


def _wins(card: Scorecard, count: int) -> list[float]:
    wins = [0.0] * count
    for comparison in card.comparisons:
        share = share_of_first(comparison.outcome)
        wins[comparison.first] += share
        wins[comparison.second] += 1 - share
    return wins


@dataclass(frozen=True, slots=True)
class _Margins:
    """One Ties prompt: the least right score minus the greatest wrong one, and the range of the right ones."""

    item: Item
    margin: float
    spread: float


def _ties_means(items: Sequence[Item], cards: Mapping[str, Scorecard], generative: bool) -> dict[str, Mean]:
    """The five terms of the Ties score, each a mean over prompts (`process_single_model`).

    Let m be the least right score minus the greatest wrong one, and s the range of a tied prompt's right scores.
    The terms are m > 0, over all tied prompts and over all ref prompts; then, over the prompts n present as both,
    m_tied > s, min(m_ref, m_tied) > s, and tanh(min(m_ref, m_tied) / s - 1), where 0/0 makes the term 0 and any
    other x/0 makes it 1 or -1 by its sign. A rating that could not be read counts as -1, whatever the judge's scale;
    a reward that failed gives its prompt a margin of -∞, which fails every term.
    """
    groups: dict[tuple[str, str], list[Item]] = {}
    for item in items:
        groups.setdefault((item.meta["ties"], item.meta["prompt"]), []).append(item)
    margins = {key: _margins(rows, cards, generative) for key, rows in groups.items()}
    tied = {prompt: m for (kind, prompt), m in margins.items() if kind == "tied"}
    ref = {prompt: m for (kind, prompt), m in margins.items() if kind == "ref"}
    both = [(m, min(m.margin, ref[prompt].margin)) for prompt, m in tied.items() if prompt in ref]
    smaller = np.array([margin for _, margin in both])
    spread = np.array([m.spread for m, _ in both])
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.nan_to_num(np.tanh(smaller / spread - 1), nan=0.0)
    values = (
        [(m.item, float(m.margin > 0)) for m in tied.values()],
        [(m.item, float(m.margin > 0)) for m in ref.values()],
        [(m.item, float(m.margin > m.spread)) for m, _ in both],
        [(m.item, float(margin > m.spread)) for m, margin in both],
        [(m.item, float(value)) for (m, _), value in zip(both, ratio, strict=True)],
    )
    return {name: mean_of(rows) for name, rows in zip(TIES_WEIGHTS, values, strict=True)}


def _margins(rows: Sequence[Item], cards: Mapping[str, Scorecard], generative: bool) -> _Margins:
    """The margins of one prompt, which has several rows where a file repeats it; the official code joins these."""
    right: list[float] = []
    wrong: list[float] = []
    for item in rows:
        gold = item.gold.chosen if item.gold is not None and item.gold.chosen is not None else ()
        for index, judgment in enumerate(cards[item.id].judgments):
            if judgment.score is None and not generative:
                return _Margins(rows[0], -math.inf, 0.0)
            score = UNREAD_RATING if judgment.score is None else judgment.score
            (right if index in gold else wrong).append(score)
    return _Margins(rows[0], min(right) - max(wrong), max(right) - min(right))


def _item(row: Row, seen: set[str]) -> Item:
    chosen, rejected = (_texts(row, name) for name in ("chosen", "rejected"))
    responses = [*chosen, *rejected]
    subset, fields = row.text("subset"), row.fields
    counts = {"num_correct": chosen, "num_incorrect": rejected, "total_completions": responses}
    for name, texts in counts.items():
        if fields.get(name) is not None and fields[name] != len(texts):
            raise row.error(f"{name} is {fields[name]}, and its lists hold {len(texts)}")
    if subset in BEST_OF_FOUR and len(chosen) != 1:
        raise row.error(f"{len(chosen)} responses are chosen, where a row of {subset} has one")
    meta: dict[str, Any] = {}
    if subset == TIES:
        kind, _, prompt = str(fields.get("id")).partition(":")
        if kind not in ("ref", "tied") or not prompt.isdecimal():
            raise replace(row, expected=EXPECTED_OF_TIES).error(f"the id is {fields.get('id')!r}")
        meta |= {"ties": kind, "prompt": f"ties-{int(prompt)}"}
    models = fields.get("models")
    if isinstance(models, list) and len(models) == len(responses) and all(isinstance(m, str) and m for m in models):
        meta["authors"] = models
    columns = {"prompt": fields.get("prompt"), "responses": responses, "subset": subset}
    item = checked(row, to_item(row.unique_id(seen), columns))
    return replace(item, gold=Gold(chosen=tuple(range(len(chosen)))), meta=meta)


def _texts(row: Row, column: str) -> list[str]:
    return [row.text(column)] if isinstance(row.fields.get(column), str) else row.texts(column)
