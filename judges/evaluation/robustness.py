"""Robustness of a scorer to attacks: how often a rejected response wins once an attack is applied to it."""

from __future__ import annotations

import statistics
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from judges.data.quality import preferred_pairs
from judges.evaluation.attacks import Attack, AttackContext, is_chinese
from judges.evaluation.metrics.accuracy import credit
from judges.evaluation.statistics import intervals
from judges.evaluation.statistics.tally import Mean, Tally
from judges.scorer import Scorer
from judges.scorers.llm_judge import LLMJudge
from judges.types import Gold, Item, Scorecard


@dataclass(frozen=True, slots=True)
class Pair:
    """A chosen and a rejected response: an Item of the two in their own order, and the index of the rejected one."""

    item: Item
    rejected: int


@dataclass(frozen=True, slots=True)
class Trial:
    """One judged pair: unchanged (`attack` None), or with its rejected response under an attack.

    `credit` is 1 where the chosen response won, ½ for a tie, 0 where the rejected one won, None for a failure.
    """

    pair: Pair
    attack: str | None
    response: str
    card: Scorecard
    credit: float | None


@dataclass(frozen=True, slots=True)
class Share:
    """A share in [0, 1] of the pairs that were judged, with its 95 % interval and the interval's method."""

    share: float
    low: float
    high: float
    interval: str


@dataclass(frozen=True, slots=True)
class Effect:
    """The effect of one attack on the rejected responses of the `pairs` pairs that were judged rightly without it.

    `won`, `tied` and `failed` count the attacked responses. `wins` is the share of the judged ones that now win,
    `wins_or_ties` of those that no longer lose: beside a chosen response at the top of its scale an attack can only
    tie. Both are None where none was judged. `change` is the mean rise of the rejected response's score.
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
    """Counts of the unchanged pairs (`right`, `wrong`, `tied`, `failed`), and each attack's effect on the right."""

    pairs: int
    right: int
    wrong: int
    tied: int
    failed: int
    effects: tuple[Effect, ...]


def measure_robustness(
    scorer: Scorer,
    items: Sequence[Item],
    attacks: Sequence[Attack],
    on_trial: Callable[[Trial], None] = lambda _: None,
) -> Robustness:
    """Judge every pair of the Items, and each pair that is judged rightly once more under each attack.

    All go through one `scorer.stream`, which gets a pair's attacks as soon as the pair is judged. `on_trial` is
    called with every trial.
    """
    pairs = {pair.item.id: pair for item in items for pair in gold_pairs(item)}
    source = _GrowingSource(pair.item for pair in pairs.values())
    pending: dict[str, tuple[Pair, Attack, str]] = {}
    trials: list[Trial] = []
    try:
        for card in scorer.stream(source):
            if card.id in pending:
                pair, attack, response = pending.pop(card.id)
                trial = Trial(pair, attack.name, response, card, credit(pair.item, card))
                source.mark_judged([])
            else:
                pair = pairs[card.id]
                trial = Trial(pair, None, pair.item.responses[pair.rejected], card, credit(pair.item, card))
                attacked = [(attacked_item(pair, attack, scorer), attack) for attack in attacks]
                attacked = attacked if trial.credit == 1 else []
                pending |= {item.id: (pair, attack, item.responses[pair.rejected]) for item, attack in attacked}
                source.mark_judged([item for item, _ in attacked])
            trials.append(trial)
            on_trial(trial)
    finally:
        source.stop()
    return summarize_trials(trials, attacks)


class _GrowingSource:
    """An iterator of Items that grows while it is read, and ends once every Item that it gave is judged."""

    def __init__(self, items: Iterator[Item]) -> None:
        self._items = items
        self._added: deque[Item] = deque()
        self._unjudged = 0
        self._stopped = False
        self._changed = threading.Condition()

    def __iter__(self) -> Iterator[Item]:
        return self

    def __next__(self) -> Item:
        with self._changed:
            while not self._stopped:
                item = self._added.popleft() if self._added else next(self._items, None)
                if item is not None:
                    self._unjudged += 1
                    return item
                if not self._unjudged:
                    break
                self._changed.wait()
        raise StopIteration

    def mark_judged(self, added: Sequence[Item]) -> None:
        """One Item is judged; `added` are the Items that follow from it."""
        with self._changed:
            self._added.extend(added)
            self._unjudged -= 1
            self._changed.notify_all()

    def stop(self) -> None:
        with self._changed:
            self._stopped = True
            self._changed.notify_all()


def gold_pairs(item: Item) -> Iterator[Pair]:
    """The pairs of an Item that its gold decides, the two responses in their own order."""
    for won, lost in preferred_pairs(item):
        first, second = sorted((won, lost))
        pair_item = replace(
            item,
            id=f"{item.id}/{won}-{lost}",
            responses=[item.responses[first], item.responses[second]],
            gold=Gold(chosen=(0 if won == first else 1,)),
            comparisons=None,
        )
        yield Pair(pair_item, 0 if lost == first else 1)


def attacked_item(pair: Pair, attack: Attack, scorer: Scorer) -> Item:
    """The pair's Item with the attack applied to its rejected response."""
    responses = list(pair.item.responses)
    responses[pair.rejected] = attack.apply(responses[pair.rejected], attack_context(pair, scorer))
    return replace(pair.item, id=f"{pair.item.id}+{attack.name}", responses=responses)


def attack_context(pair: Pair, scorer: Scorer) -> AttackContext:
    """The judge's own announcement and best verdict: the top of its scale, or the label of the rejected response.

    For a scorer without a template these are "Score:" and 10.
    """
    text = pair.item.messages[-1]["content"] + pair.item.responses[pair.rejected]
    chinese = is_chinese(text)
    if not isinstance(scorer, LLMJudge):
        return AttackContext("评分：" if chinese else "Score:", "10", chinese)
    template = scorer.template
    if template.scaled:
        return AttackContext(template.announcement, f"{template.scale.high:g}", chinese)
    labels = template.labels or ("1", "2")
    return AttackContext(template.announcement, labels[pair.rejected], chinese)


def summarize_trials(trials: Sequence[Trial], attacks: Sequence[Attack]) -> Robustness:
    """The counts and shares of all trials."""
    unattacked = {trial.pair.item.id: trial for trial in trials if trial.attack is None}
    credits = [trial.credit for trial in unattacked.values()]
    return Robustness(
        pairs=len(unattacked),
        right=credits.count(1.0),
        wrong=credits.count(0.0),
        tied=credits.count(0.5),
        failed=credits.count(None),
        effects=tuple(_effect(a, [t for t in trials if t.attack == a.name], unattacked) for a in attacks),
    )


def _effect(attack: Attack, trials: Sequence[Trial], unattacked: dict[str, Trial]) -> Effect:
    credits = [(repr(t.pair.item.messages), t.credit) for t in trials if t.credit is not None]
    changes: list[float] = []
    for trial in trials:
        before, after = (t.card.judgments[t.pair.rejected].score for t in (unattacked[trial.pair.item.id], trial))
        if before is not None and after is not None:
            changes.append(after - before)
    return Effect(
        attack=attack.name,
        description=attack.description,
        pairs=len(trials),
        won=sum(value == 0 for _, value in credits),
        tied=sum(value == 0.5 for _, value in credits),
        failed=len(trials) - len(credits),
        wins=_share([(prompt, value == 0) for prompt, value in credits]),
        wins_or_ties=_share([(prompt, value < 1) for prompt, value in credits]),
        change=statistics.fmean(changes) if changes else None,
    )


def _share(outcomes: Sequence[tuple[str, bool]]) -> Share | None:
    """The share of true outcomes, with the interval that accuracy gets: pairs of one prompt are resampled together."""
    if not outcomes:
        return None
    values = np.array([outcome for _, outcome in outcomes], dtype=np.float64)
    mean = Mean(values, tuple(map(str, range(len(outcomes)))), tuple(prompt for prompt, _ in outcomes))
    (number,) = intervals.numbers(Tally({"": mean}, {"": {"": 1.0}}, ""), "share")
    assert number.value is not None and number.low is not None and number.high is not None, "a share has an interval"
    return Share(number.value, number.low, number.high, number.method)
