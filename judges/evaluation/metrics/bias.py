"""What a verdict hangs on beside the right answer: place, length, style, and who wrote the response."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy import optimize, stats
from scipy.special import expit, log_expit

from judges.evaluation.benchmarks.rm_bench import STYLES
from judges.evaluation.results import MetricValue
from judges.evaluation.statistics.intervals import numbers
from judges.evaluation.statistics.tally import Mean, Tally, prompt_of
from judges.types import Comparison, Failure, Item, Scorecard

FEW_PAIRS = 30  # below this an author's rate says little
SELF = "self-preference"


@dataclass(frozen=True, slots=True)
class Pair:
    """Two responses of an Item, the right one first where gold tells them apart; `prompt` as in `prompt_of`.

    `gold` is 1 then, ½ where gold calls them alike. `verdict` is what the scorer said of the first: 1 better,
    0 worse, ½ a tie, None where a failure leaves it open.
    """

    item: Item
    first: int
    second: int
    gold: float
    verdict: float | None
    prompt: str

    @property
    def name(self) -> str:
        return f"{self.item.id}/{self.first}-{self.second}"


def verdict(item: Item, card: Scorecard, first: int, second: int) -> float | None:
    """1 where the scorer prefers response `first` to `second`, 0 where the other, ½ for a tie, None for a failure.

    The scores decide between two responses alone. Of more, the comparisons of the pair do where it was
    compared: for a win rate hangs on the others too. Two orders that disagree are a tie.
    """
    if len(item.responses) > 2 and card.comparisons:
        orders = _orders(card).get(_sorted(first, second))
        if orders:
            sides = [worth if shown == first else _other(worth) for shown, worth in orders.items()]
            if None in sides:
                return None
            return sides[0] if len(set(sides)) == 1 else 0.5
    one, other = card.judgments[first].score, card.judgments[second].score
    if one is None or other is None:
        return None
    return 1.0 if one > other else 0.5 if one == other else 0.0


def _sorted(a: int, b: int) -> tuple[int, int]:
    return (a, b) if a < b else (b, a)


def _other(worth: float | None) -> float | None:
    return None if worth is None else 1 - worth


def _orders(card: Scorecard) -> dict[tuple[int, int], dict[int, float | None]]:
    """By pair, and by which of the two was shown first: what that one won, 1, ½ or 0; None where all votes failed.

    The votes of one order come to the side that won more of them.
    """
    votes: dict[tuple[int, int], dict[int, list[float | None]]] = defaultdict(lambda: defaultdict(list))
    for made in card.comparisons:
        shown = made.second if made.swapped else made.first
        votes[_sorted(made.first, made.second)][shown].append(_worth(made, shown))
    return {
        pair: {shown: _majority([v for v in said if v is not None]) for shown, said in orders.items()}
        for pair, orders in votes.items()
    }


def _worth(made: Comparison, response: int) -> float | None:
    if isinstance(made.outcome, Failure):
        return None
    if made.outcome == "tie":
        return 0.5
    return float(response == (made.first if made.outcome == "first" else made.second))


def _majority(won: Sequence[float]) -> float | None:
    if not won:
        return None
    return float((np.sign(sum(won) - len(won) / 2) + 1) / 2)


def gold_pairs(items: Sequence[Item], cards: Mapping[str, Scorecard]) -> Iterator[Pair]:
    """Every pair of every Item of which gold says something: which is right, or that they are alike.

    Without a card there is no verdict. Two chosen responses, or two that are not, are no pair: gold does not
    compare them.
    """
    for item in items:
        gold = item.gold
        if gold is None:
            continue
        card, prompt = cards.get(item.id), prompt_of(item)
        worth: Sequence[float] | None = gold.scores or (gold.ranking and tuple(-rank for rank in gold.ranking))
        for i, j in item.pairs():
            if gold.chosen is not None:
                side = float(i in gold.chosen) - float(j in gold.chosen)
                if not side:
                    continue
            else:
                side = worth[i] - worth[j] if worth else 0.0
            first, second = (i, j) if side >= 0 else (j, i)
            said = verdict(item, card, first, second) if card is not None else None
            yield Pair(item, first, second, 1.0 if side else 0.5, said, prompt)


def bias_numbers(
    items: Sequence[Item], cards: Mapping[str, Scorecard], model: str = "", seed: int = 0
) -> tuple[MetricValue, ...]:
    """Bias of one scorer, as far as the Items and Scorecards (by Item id) show it; what does not apply is absent.

    - `position: …`, over pairs judged in both orders: the share with the same verdict in both ("consistency"),
      the share of decided verdicts for the response shown first, and accuracy (a tie is half) with the right
      response shown first and second.
    - `length: …`, over pairs that gold decides, lengths in characters: see `length_controlled` for
      "controlled accuracy". "longer is right" is gold's own share: a scorer is biased by what it prefers the
      longer beyond it.
    - `style: easy minus hard`, where `meta["styles"]` names each response's style: accuracy where the right
      response has the richer style, minus accuracy where it has the plainer, from plain to rich as in RM-Bench
      (Liu et al. 2024, arXiv 2410.16184). A tie is wrong, as there; all prompts weigh the same, where its own
      `style gap` weighs its domains alike.
    - `self-preference`, where `meta["authors"]` names who wrote each response and `model` the judge: the share
      of the judge's own responses that it prefers to those of others, minus the share that gold does. The same
      for each author of at least 30 pairs: "author: NAME preferred minus right".
    """
    pairs = list(gold_pairs(items, cards))
    decided = [pair for pair in pairs if pair.gold == 1]
    rows = _Rows()
    _position(items, cards, rows)
    _length(decided, rows)
    _style(decided, rows)
    _authors(pairs, model, rows)
    return (*rows.measured(seed), *_controlled(decided))


class _Rows:
    """The values of each number, row by row.

    Every number gets a Tally of its own: in a common one, prompts would be drawn within those that are alike in
    what they are part of, and here that is part of what is measured (which pairs are decided, or longer).
    """

    def __init__(self) -> None:
        self._values: dict[str, list[tuple[float | None, str, str]]] = {}
        self._less: dict[str, tuple[str, str]] = {}

    def add(self, metric: str, value: float | None, row: str, prompt: str) -> None:
        """One row of a mean; None is counted and left out."""
        self._values.setdefault(metric, []).append((value, row, prompt))

    def subtract(self, metric: str, more: str, less: str) -> None:
        """A number that is the mean `more` minus the mean `less`, where both have rows."""
        if more in self._values and less in self._values:
            self._less[metric] = (more, less)

    def measured(self, seed: int) -> Iterator[MetricValue]:
        hidden = {part for parts in self._less.values() for part in parts}
        wanted = {m: {m: 1.0} for m in self._values if m not in hidden}
        wanted |= {metric: {more: 1.0, less: -1.0} for metric, (more, less) in self._less.items()}
        for metric, weights in wanted.items():
            tally = Tally({part: self._mean(part) for part in weights}, {"": weights}, "")
            (number,) = numbers(tally, metric, seed, signed="minus" in metric or metric == SELF)
            told = [value for part in weights for value, _, _ in self._values[part]]
            # Of two means over the same rows, each row is left out once.
            left_out = sum(value is None for value in told) // (2 if self._same_rows(weights) else 1)
            note = "no pair was decided" if number.value is None else number.note
            yield replace(number, left_out=left_out, note=note)

    def _same_rows(self, weights: Mapping[str, float]) -> bool:
        rows = [[row for _, row, _ in self._values[part]] for part in weights]
        return len(rows) == 2 and rows[0] == rows[1]

    def _mean(self, metric: str) -> Mean:
        kept = [(value, row, prompt) for value, row, prompt in self._values[metric] if value is not None]
        values = np.array([value for value, _, _ in kept], dtype=np.float64)
        return Mean(values, tuple(row for _, row, _ in kept), tuple(prompt for _, _, prompt in kept))


def _position(items: Sequence[Item], cards: Mapping[str, Scorecard], rows: _Rows) -> None:
    for item in items:
        right = {_sorted(p.first, p.second): p.first for p in gold_pairs([item], cards) if p.gold == 1}
        for (i, j), orders in _orders(cards[item.id]).items():
            if len(orders) < 2:
                continue
            name, prompt, one, other = f"{item.id}/{i}-{j}", prompt_of(item), orders[i], orders[j]
            known = one is not None and other is not None
            same = float(one == _other(other)) if known else None
            rows.add("position: consistency", same, name, prompt)
            for shown, worth in orders.items():
                # Both orders or none: else a right response shown first more often would look like a bias.
                if not known or worth != 0.5:
                    slot = worth if known else None
                    rows.add("position: first slot preferred", slot, f"{name}/{shown} first", prompt)
            if (i, j) in right:
                better = right[i, j]
                worse = j if better == i else i
                rows.add("position: accuracy, right one shown first", orders[better] if known else None, name, prompt)
                second = _other(orders[worse]) if known else None
                rows.add("position: accuracy, right one shown second", second, name, prompt)


def _longer(pair: Pair) -> int:
    """By how many characters the right response is the longer."""
    return len(pair.item.responses[pair.first]) - len(pair.item.responses[pair.second])


def _length(pairs: Sequence[Pair], rows: _Rows) -> None:
    for pair in pairs:
        longer = _longer(pair)
        if not longer:
            continue
        right = longer > 0
        rows.add("length: longer is right", float(right), pair.name, pair.prompt)
        if pair.verdict != 0.5:
            preferred = None if pair.verdict is None else pair.verdict if right else 1 - pair.verdict
            rows.add("length: longer preferred", preferred, pair.name, pair.prompt)
        where = "right" if right else "wrong"
        rows.add(f"length: accuracy where the longer is {where}", pair.verdict, pair.name, pair.prompt)


def _style(pairs: Sequence[Pair], rows: _Rows) -> None:
    for pair in pairs:
        styles = pair.item.meta.get("styles")
        if not styles:
            continue
        first, second = (STYLES.index(s) if (s := styles[i]) in STYLES else None for i in (pair.first, pair.second))
        if first is None or second is None or first == second:
            continue
        right = None if pair.verdict is None else float(pair.verdict == 1)
        rows.add("style: easy" if first > second else "style: hard", right, pair.name, pair.prompt)
    rows.subtract("style: easy minus hard", "style: easy", "style: hard")


def same_model(name: str) -> str:
    """A model's name without its owner, its release date and its punctuation, to match a judge with an author.

    >>> same_model("openai/GPT-4o-2024-05-13") == same_model("gpt-4o")
    True
    """
    bare = re.sub(r"[-_@]?20\d\d-?\d\d-?\d\d$", "", name.strip().lower())
    return re.sub(r"[^\w.]|_", "", re.split(r"[/:]", bare)[-1])


def _authors(pairs: Sequence[Pair], model: str, rows: _Rows) -> None:
    own = same_model(model)
    by_author: dict[str, list[tuple[Pair, float | None, float]]] = defaultdict(list)
    spelled: dict[str, str] = {}
    for pair in pairs:
        authors = pair.item.meta.get("authors")
        if not authors or not (authors[pair.first] and authors[pair.second]):
            continue
        first, second = (str(authors[i]) for i in (pair.first, pair.second))
        if same_model(first) != same_model(second):
            by_author[same_model(first)].append((pair, pair.verdict, pair.gold))
            by_author[same_model(second)].append((pair, _other(pair.verdict), 1 - pair.gold))
            spelled |= {same_model(first): first, same_model(second): second}
    for author, told in by_author.items():
        metrics = [SELF] if own and author == own else []
        metrics += [f"author: {spelled[author]}"] if len(told) >= FEW_PAIRS else []
        for metric in metrics:
            for pair, said, gold in told:
                rows.add(f"{metric} preferred", said, pair.name, pair.prompt)
                rows.add(f"{metric} right", None if said is None else gold, pair.name, pair.prompt)
            shown = metric if metric == SELF else f"{metric} preferred minus right"
            rows.subtract(shown, f"{metric} preferred", f"{metric} right")


def _controlled(pairs: Sequence[Pair]) -> tuple[MetricValue, ...]:
    metric = "length: controlled accuracy"
    if not any(map(_longer, pairs)):
        return ()
    judged = [pair for pair in pairs if pair.verdict is not None]
    prompts = [pair.prompt for pair in judged]
    if len(set(prompts)) < 2:
        return (MetricValue(metric, "", None, left_out=len(pairs) - len(judged), note="fewer than two prompts were judged"),)
    right = np.array([pair.verdict for pair in judged], dtype=np.float64)
    value, low, high = length_controlled(right, np.array([float(_longer(pair)) for pair in judged]), prompts)
    method = "logistic regression, errors clustered by prompt"
    left_out, ties = len(pairs) - len(judged), int(np.sum(right == 0.5))
    return (MetricValue(metric, "", value, low, high, method, len(judged), len(set(prompts)), left_out, ties),)


def length_controlled(
    right: NDArray[np.float64], longer: NDArray[np.float64], prompts: Sequence[str]
) -> tuple[float, float, float]:
    """Accuracy between responses of equal length, and its 95 % interval, by logistic regression.

    `right` is 1, ½ or 0 for each pair, `longer` by how many characters the right response is the longer; at
    least two `prompts`. P(right) = σ(θ + φ · tanh(longer / s)), s the standard deviation of `longer` in this data;
    σ(θ) is returned. The idea and the tanh are length-controlled AlpacaEval's (Dubois et al. 2024, arXiv
    2404.04475), which asks it of a model's win rate. θ and φ have a log-F(1, 1) prior each (Greenland and
    Mansournia 2015), worth one further pair that is half right, so that a scorer that goes by length alone, or is
    never wrong, has an answer too: about 0.5 / n nearer to one half. Errors are clustered by prompt, t with one
    degree less than there are prompts, and never below those of independent pairs.
    """
    scale = float(np.std(longer)) or 1.0
    x = np.column_stack([np.ones_like(longer), np.tanh(longer / scale)])
    # The priors as data: for each coefficient alone, a pair that is half right and half wrong.
    x_all, y_all = np.vstack([x, np.eye(2)]), np.append(right, [0.5, 0.5])

    def loss(b: NDArray[np.float64]) -> float:
        eta = x_all @ b
        return -float(np.sum(y_all * log_expit(eta) + (1 - y_all) * log_expit(-eta)))

    def slope(b: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.asarray(x_all.T @ (expit(x_all @ b) - y_all))

    def information(b: NDArray[np.float64]) -> NDArray[np.float64]:
        p = expit(x_all @ b)
        return np.asarray((x_all * (p * (1 - p))[:, None]).T @ x_all)

    b = optimize.minimize(loss, np.zeros(2), jac=slope, hess=information, method="trust-exact").x
    bread = np.linalg.inv(information(b))
    names, group = np.unique(np.asarray(prompts, dtype=object).astype(str), return_inverse=True)
    errors = np.zeros((len(names), 2))
    np.add.at(errors, group, (right - expit(x @ b))[:, None] * x)
    clustered = bread @ (errors.T @ errors) @ bread * len(names) / (len(names) - 1)
    half = stats.t.ppf(0.975, len(names) - 1) * np.sqrt(max(clustered[0, 0], bread[0, 0]))
    value, low, high = expit([b[0], b[0] - half, b[0] + half])
    return float(value), float(low), float(high)
