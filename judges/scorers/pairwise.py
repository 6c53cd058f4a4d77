"""Pairwise and listwise comparison: two responses at a time, in both orders, or all of them at once."""

from __future__ import annotations

import asyncio
import hashlib
import json
import random
import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, ClassVar, Literal

from judges.engines.base import sampling_for
from judges.engines.concurrency import map_unordered
from judges.errors import CannotRun
from judges.extraction.json_verdict import read_json_label
from judges.extraction.label import read_label
from judges.extraction.reading import Reading
from judges.extraction.thinking import split_thinking
from judges.scorers.comparison_verdict import ComparisonVerdict, Order, most_likely
from judges.scorers.llm_judge import Labels, LLMJudge, Verdict
from judges.scorers.tournament import (
    OUTCOME_POINTS,
    TIES,
    Pair,
    PairOutcome,
    SwissTournament,
    Ties,
    aggregate_comparisons,
    rank_centrality,
)
from judges.types import Comparison, Failure, Item, Judgment, Read, Scorecard, Usage

Orders = Literal["both", "given", "seeded"]
ORDERS = ("both", "given", "seeded")
TIE = "tie"  # the label of equally likely labels where the template has no label for a tie
EMPTY = Failure("empty", "the response is empty")


PairVerdicts = list[tuple[Pair, ComparisonVerdict]]


class Pairwise(LLMJudge):
    """Which of two responses is better, or neither; with a listwise template, which of several is the best.

    `orders`: "both" presents each pair in both orders, "given" in the Item's order, "seeded" in one order that is drawn
    from the seed and the Item's id. `votes` is the number of verdicts in each order: a single one is greedy unless a
    temperature is set, several are sampled (temperature 0.7, top_p 0.9 by default). `ties`: a pair whose two orders
    disagree is a tie ("keep"), or won by the response with the higher mean probability ("likelier"). `matches`: an
    Item without comparisons of its own is judged by a Swiss tournament of so many rounds where that makes fewer
    comparisons than all pairs; by default all pairs are compared.

    Every verdict is a Comparison of the Scorecard. A response's score is its win rate over its decided pairs, where a
    tie counts one half; its `votes` are its shares of the win. A pair of which one order failed is not decided; a
    response without decided pairs has that Failure. An empty response is not compared. `preference` is P(a is better)
    for two responses and `rank_centrality` for more, from the labels' probabilities where they were read
    (read="text+expected"), else from the share of verdicts, where a tie counts one half.

    Listwise: "both" presents the list as given and reversed, "seeded" shuffled. A response's score is its share of the
    verdicts, or the probability of its number when read by "expected"; where one order failed, no response has a score.
    A verdict means that the winner beats each other response and says nothing of the others among themselves, so the
    Comparisons are the pairs of `Item.pairs()` with the winner.
    """

    name = "pairwise"
    default_template = "pairwise"
    kinds: ClassVar[tuple[str, ...]] = ("pairwise", "listwise")

    def __init__(
        self,
        orders: Orders = "both",
        votes: int = 1,
        temperature: float | None = None,
        top_p: float = 0.9,
        ties: Ties = "keep",
        matches: int | None = None,
        **settings: Any,
    ) -> None:
        super().__init__(**settings)
        if orders not in ORDERS:
            raise CannotRun(f"scorer {self.name!r}: orders is {', '.join(ORDERS)}, not {orders!r}")
        if ties not in TIES:
            raise CannotRun(f"scorer {self.name!r}: ties is {' or '.join(TIES)}, not {ties!r}")
        self.sampling = sampling_for(f"scorer {self.name!r}", "votes", votes, temperature, top_p)
        if matches is not None and (not isinstance(matches, int) or matches < 2):
            # In one round with an odd number of responses, one of them would not be compared at all.
            raise CannotRun(f"scorer {self.name!r}: matches is a number of rounds from 2 up, not {matches}")
        self._listwise = self.template.kind == "listwise"
        if self._listwise and (matches is not None or ties != "keep"):
            raise CannotRun(
                f"scorer {self.name!r}: matches and ties are for pairs and template {self.template.name!r} is listwise;"
                " leave them out, or use a pairwise template"
            )
        self.orders, self.votes, self.ties, self.matches = orders, votes, ties, matches

    def identity(self) -> dict[str, Any]:
        return super().identity() | {
            "orders": self.orders,
            "votes": self.votes,
            "temperature": self.sampling.temperature,
            "top_p": self.sampling.top_p,
            "ties": self.ties,
            "matches": self.matches,
        }

    def stream(self, items: Iterable[Item]) -> Iterator[Scorecard]:
        """Scorecards of Items as they finish; `window` bounds the comparisons in flight, each order counted."""
        self.check_engine()
        return map_unordered(items, self.score_item, self.window, self._concurrent_comparisons)

    def _concurrent_comparisons(self, item: Item) -> int:
        n = len(item.responses)
        pairs = 1 if self._listwise else n // 2 if self._is_tournament(item, n) else len(item.pairs())
        return max(1, pairs * (2 if self.orders == "both" else 1))

    def _is_tournament(self, item: Item, players: int) -> bool:
        if self.matches is None or item.comparisons is not None:
            return False
        return self.matches * (players // 2) < players * (players - 1) // 2

    def parse(self, text: str, method: str, labels: Labels) -> Reading | Failure:
        read = read_json_label if method == "json" else read_label
        return read(text, labels, self.template.announcement)

    def decide(self, probabilities: Mapping[str, float]) -> str:
        """The most likely label; several that are equally likely are a tie."""
        labels = most_likely(probabilities)
        if len(labels) == 1:
            return labels[0]
        return self.template.labels[2] if len(self.template.labels) == 3 else TIE

    async def judge(self, item: Item, index: int) -> Judgment:
        """The Judgment of one response after all of the Item's comparisons."""
        return (await self.score_item(item)).judgments[index]

    async def score_item(self, item: Item) -> Scorecard:
        if len(item.responses) < 2:
            failure = Failure("needs-two", "one response cannot be compared: give the Item another")
            return Scorecard(id=item.id, judgments=(Judgment(failure=failure),))
        nonempty = [i for i, response in enumerate(item.responses) if response.strip()]
        if self._listwise:
            return self._listwise_scorecard(item, await self._judge_list(item, nonempty))
        if self._is_tournament(item, len(nonempty)):
            return self._pairwise_scorecard(item, await self._judge_tournament(item, nonempty))
        return self._pairwise_scorecard(item, await self._judge_pairs(item, item.pairs()))

    # -- pairwise -----------------------------------------------------------------------------------------

    async def _judge_pairs(self, item: Item, pairs: Sequence[Pair]) -> PairVerdicts:
        """The verdicts on some pairs, requested concurrently."""
        requests = [(p, order, vote) for p in pairs for order in self._orders_of(item, p) for vote in range(self.votes)]
        verdicts = await asyncio.gather(*(self._judge_order(item, order, vote) for _, order, vote in requests))
        return [(pair, verdict) for (pair, _, _), verdict in zip(requests, verdicts, strict=True)]

    async def _judge_tournament(self, item: Item, players: Sequence[int]) -> PairVerdicts:
        tournament = SwissTournament(players, self._derived_seed(item.id))
        verdicts: PairVerdicts = []
        for _ in range(self.matches or 0):
            played = await self._judge_pairs(item, tournament.next_round())
            for pair, result in self._pair_outcomes(played).items():
                tournament.record(pair, result if isinstance(result, Failure) else result.outcome)
            verdicts += played
        return verdicts

    def _pair_outcomes(self, verdicts: PairVerdicts, method: str = "") -> dict[Pair, PairOutcome | Failure]:
        comparisons: dict[Pair, list[tuple[Comparison, float | Failure]]] = {}
        for pair, verdict in verdicts:
            comparison, probabilities = verdict.comparison(pair, method), verdict.win_probabilities(method)
            if comparison is not None:
                comparisons.setdefault(pair, []).append((comparison, _share_of(pair[0], probabilities)))
        return {pair: aggregate_comparisons(made, self.ties) for pair, made in comparisons.items()}

    def _pairwise_scorecard(self, item: Item, verdicts: PairVerdicts) -> Scorecard:
        outcomes = self._pair_outcomes(verdicts)
        by_method = {method: self._pair_outcomes(verdicts, method) for method in self.read_methods}
        probabilities = {pair: o.probability for pair, o in outcomes.items() if isinstance(o, PairOutcome)}
        indices = range(len(item.responses))
        return _scorecard(
            item,
            [verdict for _, verdict in verdicts],
            scores=[win_rate(i, outcomes) for i in indices],
            readings={method: [win_rate(i, of_method) for i in indices] for method, of_method in by_method.items()},
            comparisons=[verdict.comparison(pair) for pair, verdict in verdicts],
            preference=rank_centrality(len(indices), probabilities),
        )

    # -- listwise -----------------------------------------------------------------------------------------

    async def _judge_list(self, item: Item, nonempty: Sequence[int]) -> list[ComparisonVerdict]:
        if len(nonempty) < 2:
            return []
        orders = self._orders_of(item, tuple(nonempty))
        requests = [(order, vote) for order in orders for vote in range(self.votes)]
        return list(await asyncio.gather(*(self._judge_order(item, order, vote) for order, vote in requests)))

    def _listwise_scorecard(self, item: Item, verdicts: Sequence[ComparisonVerdict]) -> Scorecard:
        scores = _mean_over_orders(
            verdicts, [v.win_probabilities() if v.verdict.read == "expected" else v.win_shares() for v in verdicts]
        )
        by_method = {
            method: _mean_over_orders(verdicts, [v.win_probabilities(method) for v in verdicts])
            for method in self.read_methods
        }
        probabilities = _mean_over_orders(verdicts, [v.win_probabilities() for v in verdicts])
        indices = range(len(item.responses))
        preference = [share for i in indices if not isinstance(share := _share_of(i, probabilities), Failure)]
        # A pair with an empty response was not presented; it has a failed Comparison for each order.
        empty_pairs = [pair for pair in item.pairs() if any(not item.responses[i].strip() for i in pair)]
        not_presented = [
            ComparisonVerdict(order, (), _empty_verdict(item, pair))
            for pair in empty_pairs
            for order in self._orders_of(item, pair)
        ]
        return _scorecard(
            item,
            verdicts,
            scores=[_share_of(i, scores) for i in indices],
            readings={method: [_share_of(i, shares) for i in indices] for method, shares in by_method.items()},
            comparisons=[
                verdict.comparison(pair)
                for pair in item.pairs()
                for verdict in (*verdicts, *not_presented)
                if set(pair) <= set(verdict.order)
            ],
            preference=tuple(preference) if len(preference) == len(indices) else None,
        )

    # -- one verdict --------------------------------------------------------------------------------------

    def _orders_of(self, item: Item, given: Order) -> list[Order]:
        """The orders in which some responses are presented."""
        if self.orders == "both":
            return [given, given[::-1]]
        if self.orders == "given":
            return [given]
        return [tuple(random.Random(self._derived_seed(item.id, *given)).sample(given, len(given)))]

    def _derived_seed(self, *parts: str | int) -> int:
        return int.from_bytes(hashlib.blake2b(json.dumps([self.seed, *parts]).encode(), digest_size=8).digest())

    async def _judge_order(self, item: Item, order: Order, vote: int) -> ComparisonVerdict:
        labels = tuple(str(n) for n in range(1, len(order) + 1)) if self._listwise else self.template.labels
        if not all(item.responses[i].strip() for i in order):
            return ComparisonVerdict(order, labels, _empty_verdict(item, order))
        verdict = await self.verdict(self.template.render(item, order), vote, labels, self.sampling)
        return ComparisonVerdict(order, labels, verdict)


def win_rate(index: int, outcomes: Mapping[Pair, PairOutcome | Failure]) -> float | Failure:
    """The share of its decided pairs that a response won, from 0 to 1, where a tie counts one half.

    A response without a decided pair has the first Failure of its pairs.

    >>> pairs = {(0, 1): PairOutcome("first", 1.0), (1, 2): PairOutcome("tie", 0.5)}
    >>> win_rate(0, pairs), win_rate(1, pairs), win_rate(3, pairs).reason
    (1.0, 0.25, 'needs-two')
    """
    own = {pair: outcome for pair, outcome in outcomes.items() if index in pair}
    points = {pair: OUTCOME_POINTS[o.outcome] for pair, o in own.items() if isinstance(o, PairOutcome)}
    if points:
        return statistics.fmean(p if index == first else 1 - p for (first, _), p in points.items())
    failures = (outcome for outcome in own.values() if isinstance(outcome, Failure))
    return next(failures, Failure("needs-two", "no comparison was made with this response"))


def _mean_over_orders(
    verdicts: Sequence[ComparisonVerdict], shares: Sequence[dict[int, float] | Failure]
) -> dict[int, float] | Failure:
    """The mean over the orders of the mean over an order's votes; the Failure of an order in which all votes failed."""
    means: list[dict[int, float]] = []
    for order in dict.fromkeys(v.order for v in verdicts):
        of_order = [share for verdict, share in zip(verdicts, shares, strict=True) if verdict.order == order]
        votes = [share for share in of_order if not isinstance(share, Failure)]
        if not votes:
            return next(share for share in of_order if isinstance(share, Failure))
        means.append({i: statistics.fmean(vote[i] for vote in votes) for i in order})
    if not means:
        return Failure("empty", "the responses to compare it with are empty")
    return {i: statistics.fmean(mean[i] for mean in means) for i in means[0]}


def _share_of(index: int, shares: dict[int, float] | Failure) -> float | Failure:
    return shares if isinstance(shares, Failure) else shares.get(index, EMPTY)


def _empty_verdict(item: Item, order: Order) -> Verdict:
    index = next(i for i in order if not item.responses[i].strip())
    return Verdict(Failure("empty", f"response {index + 1} is empty"))


def _scorecard(
    item: Item,
    verdicts: Sequence[ComparisonVerdict],
    scores: Sequence[float | Failure],
    readings: Mapping[str, Sequence[float | Failure]],
    comparisons: Iterable[Comparison | None],
    preference: tuple[float, ...] | None,
) -> Scorecard:
    """The Scorecard of an Item; `scores` and each method's `readings` are in the order of the responses."""
    judgments = [
        _judgment(item, i, verdicts, score, {method: values[i] for method, values in readings.items()})
        for i, score in enumerate(scores)
    ]
    decided = tuple(comparison for comparison in comparisons if comparison is not None)
    return Scorecard(item.id, tuple(judgments), decided, preference)


def _judgment(
    item: Item,
    index: int,
    verdicts: Sequence[ComparisonVerdict],
    score: float | Failure,
    readings: Mapping[str, float | Failure],
) -> Judgment:
    """The Judgment of a response, out of the verdicts on an order with it."""
    verdicts = [v for v in verdicts if index in v.order]
    empty = not item.responses[index].strip()
    score = EMPTY if empty else score
    failed = isinstance(score, Failure)
    shares = [v.win_shares() for v in verdicts]
    texts = tuple(v.verdict.text for v in verdicts if v.verdict.text)
    masses = [v.verdict.mass for v in verdicts if v.verdict.mass is not None]
    reads: list[Read] = [v.verdict.read for v in verdicts if v.verdict.read is not None]
    return Judgment(
        score=None if isinstance(score, Failure) else score,
        failure=score if isinstance(score, Failure) else None,
        read=None if failed else next((read for read in reads if read.startswith("forced")), reads[0]),
        mass=None if failed else min(masses, default=None),
        votes=tuple(share if isinstance(share, Failure) else share[index] for share in shares),
        critique=next((answer for text in texts if (answer := split_thinking(text)[1].strip())), None),
        completions=texts,
        truncated=any(v.verdict.truncated for v in verdicts),
        usage=sum((v.usage_share(index) for v in verdicts), Usage()),
        readings={} if empty else readings,
    )
