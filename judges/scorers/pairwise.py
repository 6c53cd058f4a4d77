"""A judge that compares: two responses at a time, in both orders, or all of them at once."""

from __future__ import annotations

import asyncio
import hashlib
import json
import random
import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from judges.engines.concurrency import map_unordered
from judges.errors import CannotRun
from judges.extraction import Reading, read_json_label, read_label
from judges.extraction.thinking import split_thinking
from judges.scorers.llm_judge import Answer, Labels, LLMJudge, Sampling
from judges.scorers.tournament import TIES, WORTH, Pair, Settled, Swiss, Ties, best_of, settle
from judges.types import Comparison, Failure, Item, Judgment, Read, Scorecard, Usage

Shown = tuple[int, ...]
Orders = Literal["both", "given", "seeded"]
ORDERS = ("both", "given", "seeded")
TIE = "tie"  # what an exact draw of the likeliest labels comes to where the template has no word for a tie
EMPTY = Failure("empty", "the response is empty")


@dataclass(frozen=True, slots=True)
class Verdict:
    """One answer about the responses `shown`, in the order they were shown in.

    `labels` are what is said for each of them, in that order; one more stands for all alike.
    """

    shown: Shown
    labels: Labels
    answer: Answer

    def won(self, way: str = "") -> dict[int, float] | Failure:
        """What each response won by the verdict (or by one way of reading it): 1 in all, a draw shared."""
        said = self._said(way)
        if isinstance(said, Failure):
            return said
        drawn = [said] if said in self.labels else _likeliest(self.answer.probabilities or {})
        return self._shared({label: 1 / len(drawn) for label in drawn})

    def chances(self, way: str = "") -> dict[int, float] | Failure:
        """As `won`, by the labels' probabilities where they were read."""
        probabilities = self.answer.probabilities
        if probabilities is None or way not in ("", "expected") or isinstance(self._said(way), Failure):
            return self.won(way)
        return self._shared(probabilities)

    def comparison(self, pair: Pair, way: str = "") -> Comparison | None:
        """What the verdict says of two of the responses; None where it says nothing: it chose a third."""
        swapped = self.shown.index(pair[1]) < self.shown.index(pair[0])
        won = self.won(way)
        if isinstance(won, Failure):
            return Comparison(*pair, won, swapped)
        first, second = won[pair[0]], won[pair[1]]
        if first == second == 0:
            return None
        return Comparison(*pair, "tie" if first == second else "first" if first > second else "second", swapped)

    def usage(self, index: int) -> Usage:
        """A response's part of what the answer cost; the parts add up to the whole."""
        place, count, whole = self.shown.index(index), len(self.shown), self.answer.usage
        tokens = (whole.prompt_tokens, whole.cached_tokens, whole.generated_tokens)
        prompt, cached, generated = (n // count + (place < n % count) for n in tokens)
        return Usage(prompt, cached, generated, whole.seconds / count)

    def _said(self, way: str) -> float | str | Failure:
        # A request that failed on the way has no reading of what should have followed.
        return self.answer.readings.get(way, self.answer.verdict) if way else self.answer.verdict

    def _shared(self, weights: Mapping[str, float]) -> dict[int, float]:
        shares = dict.fromkeys(self.shown, 0.0)
        for label, weight in weights.items():
            place = self.labels.index(label)
            who = self.shown[place : place + 1] or self.shown
            for index in who:
                shares[index] += weight / len(who)
        return shares


Found = list[tuple[Pair, Verdict]]


class Pairwise(LLMJudge):
    """Which of two responses is better, or neither; with a listwise template, which of several is the best.

    `orders`: "both" shows each pair in both orders, "given" in the Item's, "seeded" in one that is drawn from
    the seed and the Item's id. `votes` asks that often in each order: once greedily unless a temperature is
    set, more often by sampling (0.7, top_p 0.9 by default). `ties`: two orders that disagree are a tie
    ("keep"), or go to the side whose mean chance is above one half ("likelier"). `matches`: an Item of so many
    responses that this many Swiss rounds make fewer pairs than all, and that names no comparisons itself, is
    judged by that tournament; by default all of its pairs are.

    Every verdict is a Comparison of the Scorecard. A response's score is its win rate over its decided pairs,
    a tie one half; its votes are the verdicts as seen from it. A pair of which one order failed is open, not
    decided; a response with none decided has that Failure. An empty response is compared with nothing.
    `preference` is P(a is better) for two, and `best_of` those chances for more; a chance is the labels'
    probability where it was read (read="text+expected"), a tie's shared, and else the share of verdicts.

    Listwise: "both" shows the list as given and reversed, "seeded" shuffled. A response's score is its share of
    the verdicts, or its number's probability when read by "expected"; one order that failed leaves all open. A
    verdict says that its winner beats each of the others, and nothing of those among themselves: those of
    `Item.pairs()` with the winner in them are its Comparisons.
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
        if not isinstance(votes, int) or votes < 1:
            raise CannotRun(f"scorer {self.name!r}: votes is a whole number from 1 up, not {votes}")
        if votes > 1 and temperature == 0:
            raise CannotRun(f"scorer {self.name!r}: {votes} votes at temperature 0 are one vote; give a temperature")
        if matches is not None and (not isinstance(matches, int) or matches < 2):
            # In one round of an odd number, one response would be compared with nothing.
            raise CannotRun(f"scorer {self.name!r}: matches is a number of rounds from 2 up, not {matches}")
        self._listwise = self.template.kind == "listwise"
        if self._listwise and (matches is not None or ties != "keep"):
            raise CannotRun(
                f"scorer {self.name!r}: template {self.template.name!r} is listwise, and matches and ties are about"
                " pairs; leave them out, or give a pairwise template"
            )
        self.orders, self.votes, self.ties, self.matches = orders, votes, ties, matches
        self.sampling = Sampling(
            temperature if temperature is not None else (0.0 if votes == 1 else 0.7),
            top_p if votes > 1 or temperature else 1.0,
        )

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
        """As every scorer's; the window counts the comparisons in flight, each order for itself."""
        _ = self.engine
        return map_unordered(items, self.card, self.window, self._at_once)

    def _at_once(self, item: Item) -> int:
        n = len(item.responses)
        pairs = 1 if self._listwise else n // 2 if self._by_rounds(item, n) else len(item.pairs())
        return max(1, pairs * (2 if self.orders == "both" else 1))

    def _by_rounds(self, item: Item, players: int) -> bool:
        if self.matches is None or item.comparisons is not None:
            return False
        return self.matches * (players // 2) < players * (players - 1) // 2

    def parse(self, text: str, way: str, labels: Labels) -> Reading | Failure:
        read = read_json_label if way == "json" else read_label
        return read(text, labels, self.template.announcement)

    def decide(self, probabilities: Mapping[str, float]) -> str:
        """The likeliest label; an exact draw for the first place is a tie."""
        likeliest = _likeliest(probabilities)
        if len(likeliest) == 1:
            return likeliest[0]
        return self.template.labels[2] if len(self.template.labels) == 3 else TIE

    async def judge(self, item: Item, index: int) -> Judgment:
        """What the whole Item's comparisons come to for one response."""
        return (await self.card(item)).judgments[index]

    async def card(self, item: Item) -> Scorecard:
        if len(item.responses) < 2:
            why = Failure("needs-two", "one response cannot be compared: give the Item another")
            return Scorecard(id=item.id, judgments=(Judgment(failure=why),))
        written = [i for i, response in enumerate(item.responses) if response.strip()]
        if self._listwise:
            return self._of_list(item, await self._lists(item, written))
        if self._by_rounds(item, len(written)):
            return self._of_pairs(item, await self._tournament(item, written))
        return self._of_pairs(item, await self._pairs(item, item.pairs()))

    # -- two at a time ------------------------------------------------------------------------------------

    async def _pairs(self, item: Item, pairs: Sequence[Pair]) -> Found:
        """The verdicts on some pairs, asked for together."""
        orders = [(pair, shown) for pair in pairs for shown in self._shown(item, pair)]
        asked = [(pair, shown, vote) for pair, shown in orders for vote in range(self.votes)]
        verdicts = await asyncio.gather(*(self._verdict(item, shown, vote) for _, shown, vote in asked))
        return [(pair, verdict) for (pair, _, _), verdict in zip(asked, verdicts, strict=True)]

    async def _tournament(self, item: Item, players: Sequence[int]) -> Found:
        swiss = Swiss(players, self._drawn(item.id))
        found: Found = []
        for _ in range(self.matches or 0):
            played = await self._pairs(item, swiss.round())
            for pair, settled in self._settled(played).items():
                swiss.record(pair, settled if isinstance(settled, Failure) else settled.outcome)
            found += played
        return found

    def _settled(self, found: Found, way: str = "") -> dict[Pair, Settled | Failure]:
        told: dict[Pair, list[tuple[Comparison, float | Failure]]] = {}
        for pair, verdict in found:
            comparison, chances = verdict.comparison(pair, way), verdict.chances(way)
            if comparison is not None:
                told.setdefault(pair, []).append((comparison, _of(pair[0], chances)))
        return {pair: settle(verdicts, self.ties) for pair, verdicts in told.items()}

    def _of_pairs(self, item: Item, found: Found) -> Scorecard:
        settled = self._settled(found)
        by_way = {way: self._settled(found, way) for way in self.ways}
        chances = {pair: s.chance for pair, s in settled.items() if isinstance(s, Settled)}
        verdicts = [verdict for _, verdict in found]
        made = (verdict.comparison(pair) for pair, verdict in found)
        return Scorecard(
            id=item.id,
            judgments=tuple(
                _judgment(item, i, verdicts, win_rate(i, settled), {w: win_rate(i, s) for w, s in by_way.items()})
                for i in range(len(item.responses))
            ),
            comparisons=tuple(comparison for comparison in made if comparison is not None),
            preference=best_of(len(item.responses), chances),
        )

    # -- all at once --------------------------------------------------------------------------------------

    async def _lists(self, item: Item, written: Sequence[int]) -> list[Verdict]:
        if len(written) < 2:
            return []
        orders = self._shown(item, tuple(written))
        asked = [(shown, vote) for shown in orders for vote in range(self.votes)]
        return list(await asyncio.gather(*(self._verdict(item, shown, vote) for shown, vote in asked)))

    def _of_list(self, item: Item, verdicts: Sequence[Verdict]) -> Scorecard:
        scores = _over_orders(verdicts, [v.chances() if v.answer.read == "expected" else v.won() for v in verdicts])
        by_way = {way: _over_orders(verdicts, [v.chances(way) for v in verdicts]) for way in self.ways}
        judgments = tuple(
            _judgment(item, i, verdicts, _of(i, scores), {w: _of(i, s) for w, s in by_way.items()})
            for i in range(len(item.responses))
        )
        preference = [_of(i, _over_orders(verdicts, [v.chances() for v in verdicts])) for i in range(len(judgments))]
        told = tuple(p for p in preference if not isinstance(p, Failure))
        # A pair with an empty response was not shown; it is said once for each order.
        lacking = [pair for pair in item.pairs() if any(not item.responses[i].strip() for i in pair)]
        unseen = [Verdict(shown, (), _empty(item, pair)) for pair in lacking for shown in self._shown(item, pair)]
        made = [v.comparison(pair) for pair in item.pairs() for v in (*verdicts, *unseen) if set(pair) <= set(v.shown)]
        return Scorecard(
            id=item.id,
            judgments=judgments,
            comparisons=tuple(comparison for comparison in made if comparison is not None),
            preference=told if len(told) == len(preference) else None,
        )

    # -- one verdict --------------------------------------------------------------------------------------

    def _shown(self, item: Item, given: Shown) -> list[Shown]:
        """The orders in which to show some responses."""
        if self.orders == "both":
            return [given, given[::-1]]
        if self.orders == "given":
            return [given]
        return [tuple(random.Random(self._drawn(item.id, *given)).sample(given, len(given)))]

    def _drawn(self, *what: str | int) -> int:
        """A number that hangs on the seed and on what it is drawn for, and on nothing else."""
        return int.from_bytes(hashlib.blake2b(json.dumps([self.seed, *what]).encode(), digest_size=8).digest())

    async def _verdict(self, item: Item, shown: Shown, vote: int) -> Verdict:
        labels = tuple(str(n) for n in range(1, len(shown) + 1)) if self._listwise else self.template.labels
        if not all(item.responses[i].strip() for i in shown):
            return Verdict(shown, labels, _empty(item, shown))
        answer = await self.answer(self.template.render(item, shown), vote, labels, self.sampling)
        return Verdict(shown, labels, answer)


def win_rate(index: int, settled: Mapping[Pair, Settled | Failure]) -> float | Failure:
    """The share of its decided pairs that a response won, a tie one half; a Failure where none is decided.

    >>> pairs = {(0, 1): Settled("first", 1.0), (1, 2): Settled("tie", 0.5)}
    >>> win_rate(0, pairs), win_rate(1, pairs), win_rate(3, pairs).reason
    (1.0, 0.25, 'needs-two')
    """
    mine = {pair: s for pair, s in settled.items() if index in pair}
    worth = {pair: WORTH[s.outcome] for pair, s in mine.items() if isinstance(s, Settled)}
    if worth:
        return statistics.fmean(w if index == first else 1 - w for (first, _), w in worth.items())
    open_ones = (s for s in mine.values() if isinstance(s, Failure))
    return next(open_ones, Failure("needs-two", "no comparison was made with this response"))


def _over_orders(
    verdicts: Sequence[Verdict], shares: Sequence[dict[int, float] | Failure]
) -> dict[int, float] | Failure:
    """The mean over the orders of the mean over an order's votes; one order that failed leaves it open."""
    means: list[dict[int, float]] = []
    for shown in dict.fromkeys(v.shown for v in verdicts):
        found = [one for v, one in zip(verdicts, shares, strict=True) if v.shown == shown]
        told = [one for one in found if not isinstance(one, Failure)]
        if not told:
            return next(why for why in found if isinstance(why, Failure))
        means.append({i: statistics.fmean(one[i] for one in told) for i in shown})
    if not means:
        return Failure("empty", "the responses to compare it with are empty")
    return {i: statistics.fmean(mean[i] for mean in means) for i in means[0]}


def _of(index: int, shares: dict[int, float] | Failure) -> float | Failure:
    return shares if isinstance(shares, Failure) else shares.get(index, EMPTY)


def _empty(item: Item, shown: Shown) -> Answer:
    which = next(i for i in shown if not item.responses[i].strip())
    return Answer(Failure("empty", f"response {which + 1} is empty"), None)


def _judgment(
    item: Item,
    index: int,
    verdicts: Sequence[Verdict],
    score: float | Failure,
    readings: Mapping[str, float | Failure],
) -> Judgment:
    mine = [v for v in verdicts if index in v.shown]
    won = [v.won() for v in mine]
    texts = tuple(v.answer.text for v in mine if v.answer.text)
    kept: dict[str, Any] = {
        "votes": tuple(w if isinstance(w, Failure) else w[index] for w in won),
        "critique": next((said for text in texts if (said := split_thinking(text)[1].strip())), None),
        "completions": texts,
        "truncated": any(v.answer.truncated for v in mine),
        "usage": sum((v.usage(index) for v in mine), Usage()),
    }
    if not item.responses[index].strip():
        return Judgment(failure=EMPTY, **kept)
    kept["readings"] = readings
    if isinstance(score, Failure):
        return Judgment(failure=score, **kept)
    masses = [v.answer.mass for v in mine if v.answer.mass is not None]
    reads: list[Read] = [v.answer.read for v in mine if v.answer.read is not None]
    read = "forced" if "forced" in reads else reads[0]
    return Judgment(score=score, read=read, mass=min(masses, default=None), **kept)


def _likeliest(probabilities: Mapping[str, float]) -> list[str]:
    most = max(probabilities.values())
    return [label for label, p in probabilities.items() if p == most]
