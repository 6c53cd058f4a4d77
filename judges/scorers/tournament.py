"""Pairs of responses: aggregating their comparisons, Swiss pairing, and P(best) by Rank Centrality."""

from __future__ import annotations

import random
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from judges.types import Comparison, Failure

Pair = tuple[int, int]
Outcome = Literal["first", "second", "tie"]
Ties = Literal["keep", "likelier"]
TIES = ("keep", "likelier")
OUTCOME_POINTS: Mapping[Outcome, float] = {"first": 1.0, "tie": 0.5, "second": 0.0}  # of the first response


@dataclass(frozen=True, slots=True)
class PairOutcome:
    """The aggregate of all comparisons of one pair. `probability` is P(first is better), from 0 to 1."""

    outcome: Outcome
    probability: float


def aggregate_comparisons(
    comparisons: Sequence[tuple[Comparison, float | Failure]], ties: Ties = "keep"
) -> PairOutcome | Failure:
    """The comparisons of one pair, each with its P(first is better) or its Failure, as one outcome.

    In each order the response with more votes wins. Where both orders agree, so does the pair; where they disagree, it
    is a tie, because the position decided and not the response. With `ties` "likelier" a tie is won by the response
    with a probability above one half. The probability is the mean over the orders of the mean over an order's votes.
    A failed vote is left out of both; where all votes of an order failed, the result is its first Failure. Raises
    ValueError for no comparisons.

    >>> comparisons = [(Comparison(0, 1, "first"), 0.9), (Comparison(0, 1, "second", swapped=True), 0.4)]
    >>> aggregate_comparisons(comparisons)
    PairOutcome(outcome='tie', probability=0.65)
    >>> aggregate_comparisons(comparisons, "likelier").outcome
    'first'
    """
    if not comparisons:
        raise ValueError("a pair without comparisons has no outcome")
    outcomes: list[Outcome] = []
    probabilities: list[float] = []
    for swapped in dict.fromkeys(comparison.swapped for comparison, _ in comparisons):
        of_order = [(c.outcome, p) for c, p in comparisons if c.swapped == swapped]
        points = [OUTCOME_POINTS[outcome] for outcome, _ in of_order if not isinstance(outcome, Failure)]
        if not points:
            return next(outcome for outcome, _ in of_order if isinstance(outcome, Failure))
        outcomes.append(_outcome(statistics.fmean(points)))
        probabilities.append(statistics.fmean(p for _, p in of_order if not isinstance(p, Failure)))
    probability = statistics.fmean(probabilities)
    outcome = outcomes[0] if len(set(outcomes)) == 1 else "tie"
    return PairOutcome(_outcome(probability) if outcome == "tie" and ties == "likelier" else outcome, probability)


def _outcome(share: float) -> Outcome:
    # The mean of shares that sum to one half may differ from it by a rounding error.
    return "tie" if abs(share - 0.5) < 1e-9 else "first" if share > 0.5 else "second"


class SwissTournament:
    """A Swiss tournament: each round pairs players with similar points who have not met before.

    A win adds one point and a loss takes one; a tie and a failed match change nothing. With an odd number of players,
    one with few points sits out a round and gets one point (a bye); nobody does so twice. The first round is drawn by
    `seed`; the same seed and outcomes give the same pairs.

    With k players and r rounds at most r * (k // 2) pairs are made. While r is not above k / 2, every player has r
    opponents (r - 1 with a bye). If the better of two always wins, the best alone has won all of its matches after
    log2(k) rounds, rounded up.
    """

    def __init__(self, players: Sequence[int], seed: int) -> None:
        self._players = list(players)
        random.Random(seed).shuffle(self._players)
        self._points = dict.fromkeys(self._players, 0)
        self._met: set[Pair] = set()
        self._had_bye: set[int] = set()

    def next_round(self) -> list[Pair]:
        """The pairs of the next round (lower index first); none when all players have met."""
        import networkx  # type: ignore[import-untyped]

        # A bye is a match against an additional player with fewer points than all others. Squared differences pair
        # neighbours in the table. Matches of leaders outweigh all differences: otherwise two players who have won
        # all their matches could remain.
        bye = len(self._players)
        lead, bye_points = max(self._points.values(), default=0), min(self._points.values(), default=0) - 1
        highest_weight = bye * (lead - bye_points) ** 2
        graph = networkx.Graph()
        for i, a in enumerate(self._players):
            points = self._points[a]
            for j, b in enumerate(self._players[i + 1 :], start=i + 1):
                if _ordered(a, b) not in self._met:
                    leaders = points == self._points[b] == lead
                    graph.add_edge(i, j, weight=highest_weight if leaders else -((points - self._points[b]) ** 2))
            if bye % 2 and a not in self._had_bye:
                graph.add_edge(i, bye, weight=-((points - bye_points) ** 2))
        pairs = []
        for i, j in sorted(sorted(match) for match in networkx.max_weight_matching(graph, maxcardinality=True)):
            if j == bye:
                self._had_bye.add(self._players[i])
                self._points[self._players[i]] += 1
            else:
                pairs.append(_ordered(self._players[i], self._players[j]))
        self._met.update(pairs)
        return sorted(pairs)

    def record(self, pair: Pair, outcome: Outcome | Failure) -> None:
        """Add the points of a match."""
        if outcome in ("first", "second"):
            won, lost = pair if outcome == "first" else pair[::-1]
            self._points[won] += 1
            self._points[lost] -= 1


def _ordered(a: int, b: int) -> Pair:
    return (a, b) if a < b else (b, a)


def rank_centrality(count: int, probabilities: Mapping[Pair, float]) -> tuple[float, ...] | None:
    """P(best) of each of `count` responses, from P(first is better) of the pairs that were compared.

    Rank Centrality (Negahban, Oh and Shah 2012, arXiv 1209.1688): a random walk starts at any response with equal
    probability. Each step draws one of the comparisons of its response and moves to the other response with the
    probability that that one is better. P(best) is the distribution of the end of the walk. For two responses it is
    their probability itself; probabilities of a Bradley–Terry model give its strengths, whichever pairs were compared;
    a response that beats all others has 1. None when the comparisons do not connect all responses.

    >>> tuple(round(p, 6) for p in rank_centrality(3, {(0, 1): 1.0, (0, 2): 1.0, (1, 2): 0.5}))
    (1.0, 0.0, 0.0)
    """
    if not _connected(count, probabilities):
        return None
    steps = np.zeros((count, count))
    degree = np.zeros(count)
    for (i, j), probability in probabilities.items():
        steps[i, j] += 1 - probability
        steps[j, i] += probability
        degree[[i, j]] += 1
    # All rows have one denominator, so that responses with more comparisons do not hold the walk longer. It is above
    # every row's sum, so that the walk can also stay and does not oscillate.
    steps /= degree.max() + 1
    steps[np.diag_indices(count)] = 1 - steps.sum(axis=1)
    for _ in range(64):  # 2 ** 64 steps
        steps = steps @ steps
        steps /= steps.sum(axis=1, keepdims=True)
    return tuple(float(p) for p in steps.mean(axis=0))


def _connected(count: int, pairs: Iterable[Pair]) -> bool:
    edges = list(pairs)
    reached, pending = {0}, [0]
    while pending:
        node = pending.pop()
        new = {end for edge in edges if node in edge for end in edge} - reached
        reached |= new
        pending += new
    return len(reached) == count
