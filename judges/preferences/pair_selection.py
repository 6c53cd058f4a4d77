"""Select preference pairs from the scored candidates of one prompt.

A candidate that has no score, is empty, or repeats an earlier one is never part of a pair. Two candidates with the same
score are never a pair either. All functions are pure.
"""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from itertools import combinations, product
from typing import Literal, get_args

from judges.preferences.scored_candidates import Candidate
from judges.types import Failure

SelectionStrategy = Literal["best-worst", "best-random", "all", "top-k"]
STRATEGIES: tuple[SelectionStrategy, ...] = get_args(SelectionStrategy)
DropReason = Literal["failed", "empty", "truncated", "same", "single", "level", "margin", "agreement"]
DROP_REASONS: tuple[DropReason, ...] = get_args(DropReason)


@dataclass(frozen=True, slots=True)
class Pair:
    """Indices of two candidates of one prompt; `margin` is the difference of their scores, above 0."""

    chosen: int
    rejected: int
    margin: float


@dataclass(frozen=True, slots=True)
class SelectionRule:
    """How pairs are selected. Raises ValueError for values out of range.

    - `strategy`: "best-worst" pairs the highest score with the lowest (Yuan et al. 2024, arXiv 2401.10020);
      "best-random" the highest with a random lower one that passes `margin` and `agreement`; "all" every two
      candidates; "top-k" each of the `k` highest with each of the `k` lowest.
    - `margin`: the smallest difference of scores, 0 or above.
    - `agreement`: the smallest agreement of the votes, from 0 to 1, see `vote_agreement`.
    - `tolerance`: a share of the range of the scores, from 0 to below 1. Of the candidates within it of the highest
      score, the shortest is chosen (the length control of Wu et al. 2024, arXiv 2407.19594). For "best-worst" and
      "best-random" only.
    - `seed`: for "best-random".
    - `whole`: leave out candidates that were truncated by the token limit. Training ends every response with an
      end-of-turn token, so a truncated one teaches the policy to stop in the middle of a sentence.
    """

    strategy: SelectionStrategy = "best-worst"
    k: int = 2
    margin: float = 0.0
    agreement: float = 0.0
    tolerance: float = 0.0
    seed: int = 0
    whole: bool = False

    def __post_init__(self) -> None:
        if self.strategy not in STRATEGIES:
            raise ValueError(f"unknown strategy {self.strategy!r}; there are {', '.join(STRATEGIES)}")
        if self.k < 1:
            raise ValueError(f"k must be at least 1, not {self.k}")
        if not 0 <= self.margin < math.inf:
            raise ValueError(f"the margin must be at least 0, not {self.margin}")
        if not 0 <= self.agreement <= 1:
            raise ValueError(f"agreement must be from 0 to 1, not {self.agreement}")
        if not 0 <= self.tolerance < 1:
            raise ValueError(f"length tolerance must be from 0 to below 1, not {self.tolerance}")
        if self.tolerance and self.strategy in ("all", "top-k"):
            raise ValueError(f"length tolerance has no effect on the strategy {self.strategy!r}; leave out one of them")


@dataclass(frozen=True, slots=True)
class Selection:
    """The pairs of one prompt, widest margin first; if there is none, `drop` is the reason."""

    pairs: tuple[Pair, ...]
    drop: DropReason | None = None


def select_pairs(candidates: Sequence[Candidate], rule: SelectionRule = SelectionRule(), key: str = "") -> Selection:
    """Select the pairs of one prompt's candidates; `key` is the prompt's id, which seeds "best-random".

    >>> def scored(*scores): return [Candidate(f"text {i}", score) for i, score in enumerate(scores)]
    >>> select_pairs(scored(3.0, 5.0, 1.0)).pairs
    (Pair(chosen=1, rejected=2, margin=4.0),)
    >>> select_pairs(scored(3.0, 3.0)).drop, select_pairs(scored(3.0, Failure("missing", "no verdict"))).drop
    ('level', 'failed')
    """
    scores, dropped = _usable_scores(candidates, rule.whole)
    if len(scores) < 2:
        return Selection((), dropped.most_common(1)[0][0] if dropped else "single")
    if max(scores.values()) == min(scores.values()):
        return Selection((), "level")
    pairs = [Pair(a, b, scores[a] - scores[b]) for a, b in _apply_strategy(candidates, scores, rule)]
    pairs = [pair for pair in pairs if _at_least(pair.margin, rule.margin)]
    if not pairs:
        return Selection((), "margin")
    pairs = [
        pair for pair in pairs if vote_agreement(candidates[pair.chosen], candidates[pair.rejected]) >= rule.agreement
    ]
    if not pairs:
        return Selection((), "agreement")
    if rule.strategy == "best-random":
        digest = blake2b(f"{rule.seed} {key}".encode("utf-8", "surrogatepass"), digest_size=8).digest()
        pairs = [random.Random(int.from_bytes(digest)).choice(pairs)]
    return Selection(tuple(sorted(pairs, key=lambda pair: (-pair.margin, pair.chosen, pair.rejected))))


def _usable_scores(
    candidates: Sequence[Candidate], skip_truncated: bool
) -> tuple[Mapping[int, float], Counter[DropReason]]:
    """The scores of candidates that can be part of a pair, by index, and why the others cannot."""
    scores: dict[int, float] = {}
    dropped: Counter[DropReason] = Counter()
    seen: set[str] = set()
    for index, candidate in enumerate(candidates):
        text = " ".join(candidate.text.split())
        if not text:
            dropped["empty"] += 1
        elif isinstance(candidate.score, Failure):
            dropped["failed"] += 1
        elif skip_truncated and candidate.truncated:
            dropped["truncated"] += 1
        elif text in seen:
            dropped["same"] += 1
        else:
            seen.add(text)
            scores[index] = candidate.score
    return scores, dropped


def _at_least(difference: float, minimum: float) -> bool:
    """`difference >= minimum` up to rounding: 0.7 - 0.4 is at least 0.3."""
    return difference >= minimum or math.isclose(difference, minimum, rel_tol=1e-9)


def _apply_strategy(
    candidates: Sequence[Candidate], scores: Mapping[int, float], rule: SelectionRule
) -> list[tuple[int, int]]:
    """The (chosen, rejected) indices of a strategy; for "best-random" all that one is sampled from.

    Of equal scores the earlier candidate comes first.
    """
    ranked = sorted(scores, key=lambda index: (-scores[index], index))
    if rule.strategy in ("all", "top-k"):
        k = rule.k if rule.strategy == "top-k" else len(ranked)
        pairs = combinations(ranked, 2) if k >= len(ranked) else product(ranked[:k], ranked[-k:])
        return sorted({(a, b) for a, b in pairs if scores[a] > scores[b]})
    best, lowest = ranked[0], scores[ranked[-1]]
    if rule.tolerance:
        tolerance = rule.tolerance * (scores[best] - lowest)
        near = [i for i in ranked if scores[i] > lowest and _at_least(tolerance, scores[best] - scores[i])]
        best = min(near, key=lambda index: (len(candidates[index].text), -scores[index], index))
    lower = [index for index in ranked if scores[index] < scores[best]]
    return [(best, index) for index in (lower if rule.strategy == "best-random" else lower[-1:])]


def vote_agreement(chosen: Candidate, rejected: Candidate) -> float:
    """How often a vote on `chosen` is higher than a vote on `rejected`, over all combinations; ties count half.

    1 if either has no votes.

    >>> vote_agreement(Candidate("a", 4.0, (4.0, 4.0)), Candidate("b", 3.0, (3.0, 4.0)))
    0.75
    """
    chosen_votes = [vote for vote in chosen.votes if not isinstance(vote, Failure)]
    rejected_votes = [vote for vote in rejected.votes if not isinstance(vote, Failure)]
    if not chosen_votes or not rejected_votes:
        return 1.0
    wins = sum((a > b) + 0.5 * (a == b) for a, b in product(chosen_votes, rejected_votes))
    return wins / (len(chosen_votes) * len(rejected_votes))
