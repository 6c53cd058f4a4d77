"""Comparisons of pairs: what two orders come to, whom to pair next, and which response is then the best."""

from __future__ import annotations

import random
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from judges.types import Comparison, Failure

Pair = tuple[int, int]
Outcome = Literal["first", "second", "tie"]
Ties = Literal["keep", "likelier"]
TIES = ("keep", "likelier")
WORTH: Mapping[Outcome, float] = {"first": 1.0, "tie": 0.5, "second": 0.0}


@dataclass(frozen=True, slots=True)
class Settled:
    """What all verdicts on a pair come to. `chance` is P(first is better), from 0 to 1."""

    outcome: Outcome
    chance: float


def settle(verdicts: Sequence[tuple[Comparison, float | Failure]], ties: Ties = "keep") -> Settled | Failure:
    """The verdicts on one pair, each with its own P(first is better) or the Failure of both, as one.

    The votes of one order come to the side that won more of them. Two orders that agree have a winner; two
    that do not are a tie, for then the place decided and not the response. With `ties` "likelier" a tie goes
    to the side with a chance above one half. The chance is the mean over the orders, of the mean over an
    order's votes. A failed vote counts in neither; an order in which all failed leaves the pair open: its
    first Failure. Raises ValueError for no verdicts.

    >>> one, other = Comparison(0, 1, "first"), Comparison(0, 1, "second", swapped=True)
    >>> settle([(one, 0.9), (other, 0.4)])
    Settled(outcome='tie', chance=0.65)
    >>> settle([(one, 0.9), (other, 0.4)], "likelier").outcome
    'first'
    """
    if not verdicts:
        raise ValueError("a pair without verdicts cannot be settled")
    sides: list[Outcome] = []
    chances: list[float] = []
    for swapped in dict.fromkeys(made.swapped for made, _ in verdicts):
        one_order = [(made.outcome, chance) for made, chance in verdicts if made.swapped == swapped]
        worth = [WORTH[outcome] for outcome, _ in one_order if not isinstance(outcome, Failure)]
        if not worth:
            return next(outcome for outcome, _ in one_order if isinstance(outcome, Failure))
        sides.append(_side(statistics.fmean(worth)))
        chances.append(statistics.fmean(chance for _, chance in one_order if not isinstance(chance, Failure)))
    chance = statistics.fmean(chances)
    outcome = sides[0] if len(set(sides)) == 1 else "tie"
    return Settled(_side(chance) if outcome == "tie" and ties == "likelier" else outcome, chance)


def _side(share: float) -> Outcome:
    # A mean of shares that sum to one half may miss it by a rounding error.
    return "tie" if abs(share - 0.5) < 1e-9 else "first" if share > 0.5 else "second"


class Swiss:
    """A Swiss tournament: each round pairs players of like points who have not met.

    A win is worth one point and a loss takes one; a tie, and a match that a failure left open, move nothing.
    With an odd number one player, of few points and never twice the same, sits out a round and gets a win's
    point. The first round is drawn by `seed`; the same seed and outcomes give the same pairs.

    With k players and r rounds at most r * (k // 2) pairs are made. While r is not above k / 2, everyone
    meets r opponents (r - 1 who sat out). If the better of two always wins, the best alone has won all of
    its matches after log2(k) rounds, rounded up.
    """

    def __init__(self, players: Sequence[int], seed: int) -> None:
        self._players = list(players)
        random.Random(seed).shuffle(self._players)
        self._points = dict.fromkeys(self._players, 0)
        self._met: set[Pair] = set()
        self._sat_out: set[int] = set()

    def round(self) -> list[Pair]:
        """The next round's pairs (lower index first); none when all have met."""
        import networkx  # type: ignore[import-untyped]

        # Who sits out is a match too: against nobody, who stands below everyone. Squared distances make
        # neighbours in the table meet. That leaders meet comes before all distances: else two who have won
        # everything can be left over.
        nobody = len(self._players)
        lead, below = max(self._points.values(), default=0), min(self._points.values(), default=0) - 1
        most = nobody * (lead - below) ** 2
        graph = networkx.Graph()
        for i, a in enumerate(self._players):
            here = self._points[a]
            for j, b in enumerate(self._players[i + 1 :], start=i + 1):
                if _ordered(a, b) not in self._met:
                    leaders = here == self._points[b] == lead
                    graph.add_edge(i, j, weight=most if leaders else -((here - self._points[b]) ** 2))
            if nobody % 2 and a not in self._sat_out:
                graph.add_edge(i, nobody, weight=-((here - below) ** 2))
        pairs = []
        for i, j in sorted(sorted(match) for match in networkx.max_weight_matching(graph, maxcardinality=True)):
            if j == nobody:
                self._sat_out.add(self._players[i])
                self._points[self._players[i]] += 1
            else:
                pairs.append(_ordered(self._players[i], self._players[j]))
        self._met.update(pairs)
        return sorted(pairs)

    def record(self, pair: Pair, outcome: Outcome | Failure) -> None:
        """Give the points of a match."""
        if outcome in ("first", "second"):
            won, lost = pair if outcome == "first" else pair[::-1]
            self._points[won] += 1
            self._points[lost] -= 1


def _ordered(a: int, b: int) -> Pair:
    return (a, b) if a < b else (b, a)


def best_of(count: int, chances: Mapping[Pair, float]) -> tuple[float, ...] | None:
    """P(best) of each of `count` responses, out of P(first is better) of the pairs that were compared.

    A walk begins at any response with equal chance. At each step it draws a comparison of the response it
    stands at, and goes to the other with the chance that the other is better. P(best) is where it ends up:
    Rank Centrality (Negahban, Oh and Shah 2012, arXiv 1209.1688). Of two responses that is their chance
    itself; chances that follow a Bradley–Terry model give its strengths, whichever pairs were compared; one
    that beats all others has 1; a circle shares it. None when the pairs do not link all responses.

    >>> tuple(round(p, 6) for p in best_of(3, {(0, 1): 1.0, (0, 2): 1.0, (1, 2): 0.5}))
    (1.0, 0.0, 0.0)
    """
    if not _linked(count, chances):
        return None
    steps = np.zeros((count, count))
    degree = np.zeros(count)
    for (i, j), chance in chances.items():
        steps[i, j] += 1 - chance
        steps[j, i] += chance
        degree[[i, j]] += 1
    # One denominator for all: responses that were compared more often must not hold the walk longer. It is
    # above every row's sum, so the walk may also stay, and cannot go round in step for ever.
    steps /= degree.max() + 1
    steps[np.diag_indices(count)] = 1 - steps.sum(axis=1)
    for _ in range(64):  # 2 ** 64 steps
        steps = steps @ steps
        steps /= steps.sum(axis=1, keepdims=True)
    return tuple(float(p) for p in steps.mean(axis=0))


def _linked(count: int, pairs: Mapping[Pair, float]) -> bool:
    reached, ahead = {0}, [0]
    while ahead:
        here = ahead.pop()
        for pair in pairs:
            if here in pair:
                new = set(pair) - reached
                reached |= new
                ahead += new
    return len(reached) == count
