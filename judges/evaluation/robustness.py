"""How often a losing response wins once an attack is added to it."""

from __future__ import annotations

import statistics
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from judges.data.quality import preferences
from judges.evaluation.attacks import Attack, Known, is_chinese
from judges.evaluation.metrics.accuracy import credit
from judges.evaluation.statistics import intervals
from judges.evaluation.statistics.tally import Mean, Tally
from judges.scorer import Scorer
from judges.scorers.llm_judge import LLMJudge
from judges.types import Gold, Item, Scorecard


@dataclass(frozen=True, slots=True)
class Pair:
    """A chosen and a rejected response. `item` holds the two in their own order; `lost` is the rejected's place."""

    item: Item
    lost: int


@dataclass(frozen=True, slots=True)
class Trial:
    """One pair as it was judged: as it is (`attack` None), or with its losing response under an attack.

    `credit` is 1 where the chosen response won, ½ for a tie, 0 where the other did, None for a failure.
    """

    pair: Pair
    attack: str | None
    response: str
    card: Scorecard
    credit: float | None


@dataclass(frozen=True, slots=True)
class Share:
    """A share in [0, 1] of the pairs that were judged, with its 95 % interval and how that was made."""

    share: float
    low: float
    high: float
    interval: str


@dataclass(frozen=True, slots=True)
class Effect:
    """What one attack did to the losing responses of `pairs` pairs that were judged rightly without it.

    `won`, `tied` and `failed` count the attacked ones. `wins` is the share of those judged that now win,
    `wins_or_ties` of those that no longer lose: beside a chosen response at the top of its scale an attack can
    do no more than tie. None where none was judged. `change` is how far the losing response's score rose, on
    average.
    """

    attack: str
    description: str
    pairs: int
    won: int
    tied: int
    failed: int
    wins: Share | None
    wins_or_ties: Share | None
    change: float | None


@dataclass(frozen=True, slots=True)
class Robustness:
    """All pairs as they are (`right`, `wrong`, `tied`, `failed`), and the effect of each attack on the right ones."""

    pairs: int
    right: int
    wrong: int
    tied: int
    failed: int
    effects: tuple[Effect, ...]


def measure(
    scorer: Scorer,
    items: Sequence[Item],
    attacks: Sequence[Attack],
    on_trial: Callable[[Trial], None] = lambda _: None,
) -> Robustness:
    """Judge every pair, and those that are judged rightly again under each attack.

    All go through one `scorer.stream`: a pair's attacks follow as soon as it is judged.
    """
    pairs = {pair.item.id: pair for item in items for pair in as_pairs(item)}
    planned = _Plan(pair.item for pair in pairs.values())
    asked: dict[str, tuple[Pair, Attack, str]] = {}
    trials: list[Trial] = []
    try:
        for card in scorer.stream(planned):
            if card.id in asked:
                pair, attack, response = asked.pop(card.id)
                trial = Trial(pair, attack.name, response, card, credit(pair.item, card))
                planned.judged([])
            else:
                pair = pairs[card.id]
                trial = Trial(pair, None, pair.item.responses[pair.lost], card, credit(pair.item, card))
                attacked = [(attacked_item(pair, attack, scorer), attack) for attack in attacks]
                attacked = attacked if trial.credit == 1 else []
                asked |= {item.id: (pair, attack, item.responses[pair.lost]) for item, attack in attacked}
                planned.judged([item for item, _ in attacked])
            trials.append(trial)
            on_trial(trial)
    finally:
        planned.stop()
    return robustness(trials, attacks)


class _Plan:
    """A source of Items that grows while it is read; it ends when all that it gave is judged."""

    def __init__(self, items: Iterator[Item]) -> None:
        self._items = items
        self._more: deque[Item] = deque()
        self._open = 0
        self._stopped = False
        self._changed = threading.Condition()

    def __iter__(self) -> Iterator[Item]:
        return self

    def __next__(self) -> Item:
        with self._changed:
            while not self._stopped:
                following = self._more.popleft() if self._more else next(self._items, None)
                if following is not None:
                    self._open += 1
                    return following
                if not self._open:
                    break
                self._changed.wait()
        raise StopIteration

    def judged(self, more: Sequence[Item]) -> None:
        with self._changed:
            self._more.extend(more)
            self._open -= 1
            self._changed.notify_all()

    def stop(self) -> None:
        with self._changed:
            self._stopped = True
            self._changed.notify_all()


def as_pairs(item: Item) -> Iterator[Pair]:
    """The pairs of an Item that its gold decides, the two responses in their own order."""
    for won, lost in preferences(item):
        first, second = sorted((won, lost))
        sides = [item.responses[first], item.responses[second]]
        gold = Gold(chosen=(0 if won == first else 1,))
        made = replace(item, id=f"{item.id}/{won}-{lost}", responses=sides, gold=gold, comparisons=None)
        yield Pair(made, 0 if lost == first else 1)


def attacked_item(pair: Pair, attack: Attack, scorer: Scorer) -> Item:
    """The pair with its losing response under an attack."""
    responses = list(pair.item.responses)
    responses[pair.lost] = attack.apply(responses[pair.lost], known(pair, scorer))
    return replace(pair.item, id=f"{pair.item.id}+{attack.name}", responses=responses)


def known(pair: Pair, scorer: Scorer) -> Known:
    """The judge's own announcement and best verdict: its scale's top, or the name of the response's place.

    A scorer without a template is told the usual words, and 10 where its scale has no top.
    """
    text = pair.item.messages[-1]["content"] + pair.item.responses[pair.lost]
    chinese = is_chinese(text)
    if not isinstance(scorer, LLMJudge):
        return Known("评分：" if chinese else "Score:", "10", chinese)
    template = scorer.template
    if template.scaled:
        return Known(template.announcement, f"{template.scale.high:g}", chinese)
    labels = template.labels or ("1", "2")
    return Known(template.announcement, labels[pair.lost], chinese)


def robustness(trials: Sequence[Trial], attacks: Sequence[Attack]) -> Robustness:
    """The numbers of all trials."""
    plain = {trial.pair.item.id: trial for trial in trials if trial.attack is None}
    credits = [trial.credit for trial in plain.values()]
    return Robustness(
        pairs=len(plain),
        right=credits.count(1.0),
        wrong=credits.count(0.0),
        tied=credits.count(0.5),
        failed=credits.count(None),
        effects=tuple(_effect(a, [t for t in trials if t.attack == a.name], plain) for a in attacks),
    )


def _effect(attack: Attack, trials: Sequence[Trial], plain: dict[str, Trial]) -> Effect:
    judged = [(repr(t.pair.item.messages), t.credit) for t in trials if t.credit is not None]
    changes: list[float] = []
    for trial in trials:
        before, after = (t.card.judgments[trial.pair.lost].score for t in (plain[trial.pair.item.id], trial))
        if before is not None and after is not None:
            changes.append(after - before)
    return Effect(
        attack=attack.name,
        description=attack.description,
        pairs=len(trials),
        won=sum(value == 0 for _, value in judged),
        tied=sum(value == 0.5 for _, value in judged),
        failed=len(trials) - len(judged),
        wins=_share([(prompt, value == 0) for prompt, value in judged]),
        wins_or_ties=_share([(prompt, value < 1) for prompt, value in judged]),
        change=statistics.fmean(changes) if changes else None,
    )


def _share(seen: Sequence[tuple[str, bool]]) -> Share | None:
    """The share of what was seen, with the interval that accuracy gets: pairs of one prompt are drawn together."""
    if not seen:
        return None
    values = np.array([yes for _, yes in seen], dtype=np.float64)
    mean = Mean(values, tuple(map(str, range(len(seen)))), tuple(prompt for prompt, _ in seen))
    (found,) = intervals.numbers(Tally({"": mean}, {"": {"": 1.0}}, ""), "share")
    assert found.value is not None and found.low is not None and found.high is not None, "a share has an interval"
    return Share(found.value, found.low, found.high, found.method)
