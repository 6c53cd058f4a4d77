"""Which of a prompt's judged candidates make a preference pair, and why none does. Pure functions.

A candidate that was not judged, is empty, or says the same as an earlier one is on neither side of any pair, and two
candidates of one score are never a pair: a tie says nothing of what is better.
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

Strategy = Literal["best-worst", "best-random", "all", "top-k"]
STRATEGIES: tuple[Strategy, ...] = get_args(Strategy)
Drop = Literal["failed", "empty", "truncated", "same", "single", "level", "margin", "agreement"]
DROPS: tuple[Drop, ...] = get_args(Drop)


@dataclass(frozen=True, slots=True)
class Pair:
    """Two candidates of one prompt by their places; `margin` is the difference of their scores, above 0."""

    chosen: int
    rejected: int
    margin: float


@dataclass(frozen=True, slots=True)
class Rule:
    """How pairs are chosen.

    `strategy`: "best-worst", the highest against the lowest (Yuan et al. 2024, arXiv 2401.10020); "best-random", the
    highest against any lower one that the margin and the votes allow; "all", every two; "top-k", each of the `k`
    highest against each of the `k` lowest. `margin`: the least difference of scores. `agreement`: of all combinations
    of one vote each, the least share in which the chosen one is above the rejected, ties counting half; candidates
    without votes pass. `tolerance`: a share of the range from lowest to highest score; of those within it of the
    highest, the shortest is the best (the length control of Wu et al. 2024, arXiv 2407.19594; for "best-worst" and
    "best-random"). `seed` draws for "best-random". `whole`: a candidate that the token limit cut is on neither side:
    what trains on it ends it with an end of turn, and so teaches to stop in the middle of a sentence.
    """

    strategy: Strategy = "best-worst"
    k: int = 2
    margin: float = 0.0
    agreement: float = 0.0
    tolerance: float = 0.0
    seed: int = 0
    whole: bool = False

    def __post_init__(self) -> None:
        if self.strategy not in STRATEGIES:
            raise ValueError(f"pairs are chosen by {', '.join(STRATEGIES)}, not {self.strategy!r}")
        if self.k < 1:
            raise ValueError(f"k is at least 1, not {self.k}")
        if not 0 <= self.margin < math.inf:
            raise ValueError(f"the margin is at least 0, not {self.margin}")
        if not 0 <= self.agreement <= 1:
            raise ValueError(f"agreement is a share from 0 to 1, not {self.agreement}")
        if not 0 <= self.tolerance < 1:
            raise ValueError(
                f"length tolerance is a share of the scores' range, from 0 to below 1, not {self.tolerance}"
            )
        if self.tolerance and self.strategy in ("all", "top-k"):
            raise ValueError(f"a length tolerance moves the best candidate, which {self.strategy!r} does not ask for")


@dataclass(frozen=True, slots=True)
class Chosen:
    """The pairs of one prompt, widest margin first; or none, and why."""

    pairs: tuple[Pair, ...]
    drop: Drop | None = None


def choose(candidates: Sequence[Candidate], rule: Rule = Rule(), key: str = "") -> Chosen:
    """The pairs that a prompt's candidates make; `key` is the prompt's id, by which "best-random" draws.

    >>> def of(*scores): return [Candidate(f"text {i}", score) for i, score in enumerate(scores)]
    >>> choose(of(3.0, 5.0, 1.0)).pairs
    (Pair(chosen=1, rejected=2, margin=4.0),)
    >>> choose(of(3.0, 3.0)).drop, choose(of(3.0, Failure("missing", "no verdict"))).drop
    ('level', 'failed')
    """
    scores, lost = _usable(candidates, rule.whole)
    if len(scores) < 2:
        return Chosen((), lost.most_common(1)[0][0] if lost else "single")
    if max(scores.values()) == min(scores.values()):
        return Chosen((), "level")
    pairs = [Pair(a, b, scores[a] - scores[b]) for a, b in _sides(candidates, scores, rule)]
    wide = [pair for pair in pairs if _at_least(pair.margin, rule.margin)]
    if not wide:
        return Chosen((), "margin")
    agreed = [pair for pair in wide if agreement(candidates[pair.chosen], candidates[pair.rejected]) >= rule.agreement]
    if not agreed:
        return Chosen((), "agreement")
    if rule.strategy == "best-random":
        digest = blake2b(f"{rule.seed} {key}".encode("utf-8", "surrogatepass"), digest_size=8).digest()
        agreed = [random.Random(int.from_bytes(digest)).choice(agreed)]
    return Chosen(tuple(sorted(agreed, key=lambda pair: (-pair.margin, pair.chosen, pair.rejected))))


def _usable(candidates: Sequence[Candidate], whole: bool) -> tuple[Mapping[int, float], Counter[Drop]]:
    """The scores of candidates that may stand in a pair, by place, and why the others may not."""
    scores: dict[int, float] = {}
    lost: Counter[Drop] = Counter()
    seen: set[str] = set()
    for place, one in enumerate(candidates):
        text = " ".join(one.text.split())
        if not text:
            lost["empty"] += 1
        elif isinstance(one.score, Failure):
            lost["failed"] += 1
        elif whole and one.truncated:
            lost["truncated"] += 1
        elif text in seen:
            lost["same"] += 1
        else:
            seen.add(text)
            scores[place] = one.score
    return scores, lost


def _at_least(difference: float, least: float) -> bool:
    """Whether a difference of scores is as large as asked: 0.7 - 0.4 is 0.3, though not for a computer."""
    return difference >= least or math.isclose(difference, least, rel_tol=1e-9)


def _sides(candidates: Sequence[Candidate], scores: Mapping[int, float], rule: Rule) -> list[tuple[int, int]]:
    """The (chosen, rejected) that a strategy asks for, each of two scores; for "best-random" those it draws one of.

    Of equal ones the earlier comes first.
    """
    falling = sorted(scores, key=lambda place: (-scores[place], place))
    if rule.strategy in ("all", "top-k"):
        k = rule.k if rule.strategy == "top-k" else len(falling)
        two = combinations(falling, 2) if k >= len(falling) else product(falling[:k], falling[-k:])
        return sorted({(a, b) for a, b in two if scores[a] > scores[b]})
    best = falling[0]
    if rule.tolerance:
        lowest, within = scores[falling[-1]], rule.tolerance * (scores[best] - scores[falling[-1]])
        near = [p for p in falling if scores[p] > lowest and _at_least(within, scores[best] - scores[p])]
        best = min(near, key=lambda place: (len(candidates[place].text), -scores[place], place))
    lower = [place for place in falling if scores[place] < scores[best]]
    return [(best, other) for other in (lower if rule.strategy == "best-random" else lower[-1:])]


def agreement(chosen: Candidate, rejected: Candidate) -> float:
    """The share of combinations of one vote each in which the chosen one is above; ties count half; 1 without votes.

    >>> agreement(Candidate("a", 4.0, (4.0, 4.0)), Candidate("b", 3.0, (3.0, 4.0)))
    0.75
    """
    above = [vote for vote in chosen.votes if not isinstance(vote, Failure)]
    below = [vote for vote in rejected.votes if not isinstance(vote, Failure)]
    if not above or not below:
        return 1.0
    return sum((a > b) + 0.5 * (a == b) for a, b in product(above, below)) / (len(above) * len(below))
