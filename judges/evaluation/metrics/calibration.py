"""Calibration of a scorer's confidence: ECE, Brier score, log loss, reliability curves and temperature scaling."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.special import expit

from judges.data.quality import preferred_pairs
from judges.evaluation.results import Bin, MetricValue
from judges.evaluation.statistics import bootstrap, intervals
from judges.evaluation.statistics.tally import Mean, Tally, prompt_of
from judges.types import Comparison, Failure, Item, Scorecard

BINS = 10
FOLDS = 5
# The bounds of a fitted temperature, as multiples of the mean absolute margin.
MIN_TEMPERATURE, MAX_TEMPERATURE = 0.01, 1000.0
MAX_MARGIN, MIN_MARGIN = 1e50, 1e-50  # within these bounds all sums are finite
AS_IT_IS, AFTER = "as it is", "after temperature"
Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Pairs:
    """Every pair of a chosen and a rejected response for which the scorer has a margin.

    `margins` are the chosen's lead in the scorer's own units: p = σ(margin / T). `own` are the log-odds without
    a fitted temperature. `rows` and `prompts` name each pair and the prompt it belongs to. `left_out` counts pairs
    with a failure and the `huge` ones, whose margin is not finite or beyond ±1e50. `unit` says what margins are:
    differences of "scores", shares of "comparisons", or log-odds of the "preference".
    """

    margins: Array
    own: Array
    rows: tuple[str, ...]
    prompts: tuple[str, ...]
    left_out: int
    unit: str
    note: str
    huge: int = 0

    @property
    def beyond(self) -> str:
        """A note on margins left out for their size; empty without any."""
        return f"{self.huge} margins beyond ±{MAX_MARGIN:g} left out" if self.huge else ""


@dataclass(frozen=True, slots=True)
class Temperature:
    """The T with the least log loss. `why` gives the reason where T is at a bound, else it is empty."""

    value: float
    why: str = ""


def measure(
    items: Sequence[Item], cards: Mapping[str, Scorecard], seed: int = 0, draws: int = 1000
) -> tuple[tuple[MetricValue, ...], Mapping[str, tuple[Bin, ...]]]:
    """ECE, Brier score and log loss of the pairs with a chosen response, and reliability curves.

    Confidence is max(p, 1 − p) of p = σ(margin / T); the pair is right where the side with p > ½ is the chosen
    one, half right at p = ½. So the order in which responses are stored does not matter. "As it is" takes
    the scorer's own preference where that is a probability (above 0, below 1) of every pair, else T = 1. "After
    temperature" takes for each row a T fitted on the other folds: no prompt has rows in two folds.

    ECE is the mean over rows of |share right − confidence| by bin: 10 of width 0.05 from 0.5 to 1, or 10 of
    equal mass (fewer where confidences are equal: equal ones share a bin). Random error alone makes
    it larger than 0, so its note has the expected value of a calibrated scorer at this size, and its interval is the
    basic bootstrap, which removes that bias. Every pair counts once. Nothing is returned where no Item has a chosen
    response.
    """
    pairs = margins_of(items, cards)
    if not len(pairs.margins):
        why = _joined("no pair has a margin", pairs.beyond)
        return (
            (MetricValue("temperature", "", None, left_out=pairs.left_out, note=why),) if pairs.left_out else ()
        ), {}
    stages = {AS_IT_IS: (pairs.own, pairs.note)}
    fitted = cross_fitted(pairs.margins, pairs.prompts, seed)
    if fitted is not None:
        note = f"fitted on {min(FOLDS, len(set(pairs.prompts)))} folds of prompts"
        stages[AFTER] = (pairs.margins / fitted, _joined(note, _of_unit(pairs.unit)))
    draw = _Draws(pairs, seed, draws)
    found: list[MetricValue] = []
    for stage, (logits, note) in stages.items():
        suffix = "" if stage == AS_IT_IS else f", {AFTER}"
        for kind, edges in (("equal width", equal_width()), ("equal mass", equal_mass(logits))):
            found.append(_ece(logits, edges, draw, f"ece, {kind}{suffix}", note))
        means = {"brier": brier(logits), "log loss": log_loss(logits)}
        tally = Tally(
            {name: Mean(values, pairs.rows, pairs.prompts) for name, values in means.items()},
            {name: {name: 1.0} for name in means},
            "brier",
        )
        for number in intervals.numbers(tally, "", seed, draws):
            joined = _joined(note, number.note)
            found.append(replace(number, metric=number.section + suffix, section="", note=joined))
    found.append(_temperature(pairs, fitted, draw))
    curves = {stage: reliability(logits) for stage, (logits, _) in stages.items()}
    found = [replace(n, left_out=pairs.left_out, note=_joined(n.note, pairs.beyond)) for n in found]
    return tuple(found), curves


def _joined(*notes: str) -> str:
    return "; ".join(filter(None, notes))


@dataclass(frozen=True, slots=True)
class _Draws:
    """A bootstrap over the prompts of these pairs."""

    pairs: Pairs
    seed: int
    draws: int

    def means(self, columns: Sequence[Array]) -> Array:
        """The mean of each column in each draw: (draws, columns)."""
        means = [Mean(column, self.pairs.rows, self.pairs.prompts) for column in columns]
        return bootstrap.draw(bootstrap.strata_of(means), len(means), self.draws, self.seed)

    def number(self, metric: str, value: float, low: float, high: float, method: str, note: str) -> MetricValue:
        prompts = len(set(self.pairs.prompts))
        rows = len(self.pairs.rows)
        if prompts < 3:
            note = _joined(note, "fewer than 3 prompts: no interval")
            return MetricValue(metric, "", value, rows=rows, prompts=prompts, note=note)
        method = f"{method}, {self.draws} draws"
        return MetricValue(metric, "", value, low, high, method, rows=rows, prompts=prompts, note=note)


def margins_of(items: Sequence[Item], cards: Mapping[str, Scorecard]) -> Pairs:
    """The pairs of Items whose gold is `chosen`, in one unit: scores where the scorer gives any, else
    comparisons, else its preference."""
    pairs = [
        (item, cards[item.id], won, lost)
        for item in items
        if item.gold is not None and item.gold.chosen is not None
        for won, lost in preferred_pairs(item)
    ]
    unit, values = "scores", [_score_margin(card, won, lost) for _, card, won, lost in pairs]
    for fallback, margin in (("comparisons", _comparison_margin), ("preference", _log_odds)):
        if any(value is not None for value in values):
            break
        unit, values = fallback, [margin(card, won, lost) for _, card, won, lost in pairs]
    known = [(*pair, value) for pair, value in zip(pairs, values, strict=True) if value is not None]
    finite = [pair for pair in known if abs(pair[-1]) <= MAX_MARGIN]
    margins = np.array([value for *_, value in finite], dtype=np.float64)
    stated = [_log_odds(card, won, lost) for _, card, won, lost, _ in finite]
    known_odds = [value for value in stated if value is not None]
    note = "the scorer's own preference" if len(known_odds) == len(finite) else "T = 1"
    return Pairs(
        margins=margins,
        own=np.array(known_odds, dtype=np.float64) if len(known_odds) == len(finite) else margins,
        rows=tuple(f"{item.id}/{won}-{lost}" for item, _, won, lost, _ in finite),
        prompts=tuple(prompt_of(item) for item, *_ in finite),
        left_out=len(pairs) - len(finite),
        unit=unit,
        note=_joined(note, _of_unit(unit)),
        huge=len(known) - len(finite),
    )


def _of_unit(unit: str) -> str:
    return {
        "scores": "",
        "comparisons": "no scores: margins are shares of comparisons, won minus lost",
        "preference": "no scores: margins are log-odds of the preference",
    }[unit]


def _score_margin(card: Scorecard, won: int, lost: int) -> float | None:
    chosen, rejected = card.judgments[won].score, card.judgments[lost].score
    return None if chosen is None or rejected is None else chosen - rejected


def _comparison_margin(card: Scorecard, won: int, lost: int) -> float | None:
    outcomes = [_side(c, won) for c in card.comparisons if {c.first, c.second} == {won, lost}]
    sides = [side for side in outcomes if side is not None]
    return sum(sides) / len(sides) if sides else None


def _side(comparison: Comparison, won: int) -> float | None:
    if isinstance(comparison.outcome, Failure):
        return None
    if comparison.outcome == "tie":
        return 0.0
    winner = comparison.first if comparison.outcome == "first" else comparison.second
    return 1.0 if winner == won else -1.0


def _log_odds(card: Scorecard, won: int, lost: int) -> float | None:
    if card.preference is None:
        return None
    chosen, rejected = card.preference[won], card.preference[lost]
    return math.log(chosen) - math.log(rejected) if chosen > 0 and rejected > 0 else None


# -- temperature ----------------------------------------------------------------------------------------------


def fit_temperature(margins: Array) -> Temperature | None:
    """The T that gives margins of chosen over rejected the least log loss; None where all are 0, or nearly.

    Margins must be within ±1e50, as those of `margins_of` are.

    >>> round(fit_temperature(np.array([2.0, 2.0, 2.0, -2.0])).value, 6)  # 3 of 4 right: σ(2 / T) = ¾
    1.820478
    """
    size = float(np.mean(np.abs(margins))) if len(margins) else 0.0
    if size < MIN_MARGIN:
        return None
    lowest, highest = MIN_TEMPERATURE * size, MAX_TEMPERATURE * size

    def slope(inverse: float) -> float:
        """The derivative of the log likelihood by 1 / T: it decreases, so it has one root at most."""
        return float(np.mean(margins * expit(-inverse * margins)))

    if slope(1 / highest) <= 0:
        return Temperature(highest, "at its upper bound: the scores do not point to the chosen responses")
    if slope(1 / lowest) >= 0:
        return Temperature(lowest, f"at its lower bound: no pair of {len(margins)} is wrong by a notable margin")
    return Temperature(1 / float(brentq(slope, 1 / highest, 1 / lowest, xtol=1e-12 / size, rtol=1e-12)))


def cross_fitted(margins: Array, prompts: Sequence[str], seed: int = 0, folds: int = FOLDS) -> Array | None:
    """For each row the temperature fitted on the other folds; rows of one prompt are in one fold.

    The folds depend on the prompts and the seed alone. None with one prompt, or where a fit has only margins of 0.
    """
    names = sorted(set(prompts))
    if len(names) < 2:
        return None
    order = np.random.default_rng(seed).permutation(len(names))
    fold_of = {names[i]: k % folds for k, i in enumerate(order)}
    fold = np.array([fold_of[prompt] for prompt in prompts])
    temperatures = np.empty(len(margins))
    for k in range(min(folds, len(names))):
        fitted = fit_temperature(margins[fold != k])
        if fitted is None:
            return None
        temperatures[fold == k] = fitted.value
    return temperatures


def _temperature(pairs: Pairs, applied: Array | None, draw: _Draws) -> MetricValue:
    """T on all rows. A draw is one Newton step from it, which is very close to a fit on the drawn rows."""
    rows, prompts = len(pairs.rows), len(set(pairs.prompts))
    fitted = fit_temperature(pairs.margins)
    if fitted is None:
        note = "every margin is 0: no temperature can be fitted"
        return MetricValue("temperature", "", None, rows=rows, prompts=prompts, note=note)
    if fitted.why:
        return MetricValue("temperature", "", fitted.value, rows=rows, prompts=prompts, note=fitted.why)
    wrong = expit(-pairs.margins / fitted.value)
    drawn = draw.means([pairs.margins * wrong, pairs.margins**2 * wrong * (1 - wrong)])
    least_inverse = 1 / (MAX_TEMPERATURE * float(np.mean(np.abs(pairs.margins))))
    steps = drawn[:, 0] / np.maximum(drawn[:, 1], 1e-300)
    low, high = np.quantile(1 / np.maximum(least_inverse, 1 / fitted.value + steps), [0.025, 0.975])
    note = "" if applied is None else f"from {applied.min():.3g} to {applied.max():.3g} over the folds"
    note = _joined(note, _of_unit(pairs.unit))
    return draw.number("temperature", fitted.value, float(low), float(high), "bootstrap over prompts", note)


# -- calibration error ---------------------------------------------------------------------------------


def confidence(logits: Array) -> tuple[Array, Array]:
    """(confidence, right) of log-odds for the chosen response: max(p, 1 − p), and 1, ½ at p = ½, or 0.

    >>> confidence(np.array([0.0, math.log(4), -math.log(4)]))
    (array([0.5, 0.8, 0.8]), array([0.5, 1. , 0. ]))
    """
    return expit(np.abs(logits)), (np.sign(logits) + 1) / 2


def equal_width() -> Array:
    """The inner edges of the bins of equal width between 0.5 and 1."""
    return np.linspace(0.5, 1, BINS + 1)[1:-1]


def equal_mass(logits: Array) -> Array:
    """The inner edges of bins with equal numbers of rows, as far as equal confidences allow."""
    sure = np.sort(confidence(logits)[0])
    return np.unique(sure[np.arange(1, BINS) * len(sure) // BINS])


def ece(logits: Array, edges: Array) -> float:
    """Expected calibration error: Σ rows of a bin / rows · |share right − mean confidence|; an edge belongs to the
    bin above it."""
    sure, right = confidence(logits)
    return _gap(np.searchsorted(edges, sure, side="right"), right - sure)


def _gap(bins: NDArray[np.intp], error: Array) -> float:
    return float(np.abs(np.bincount(bins, weights=error)).sum()) / len(error)


def brier(logits: Array) -> Array:
    """(1 − p)² of each pair: 0 for p = 1, ¼ for p = ½, 1 for p = 0."""
    return np.asarray(expit(-logits) ** 2)


def log_loss(logits: Array) -> Array:
    """−log p of each pair, in nats; log 2 for p = ½."""
    return np.logaddexp(0, -logits)


def reliability(logits: Array) -> tuple[Bin, ...]:
    """The bins of equal width that have rows."""
    sure, right = confidence(logits)
    bins = np.searchsorted(equal_width(), sure, side="right")
    return tuple(
        Bin(float(sure[bins == b].mean()), float(right[bins == b].mean()), int((bins == b).sum()))
        for b in np.unique(bins)
    )


def _ece(logits: Array, edges: Array, draw: _Draws, metric: str, note: str) -> MetricValue:
    sure, right = confidence(logits)
    bins, error = np.searchsorted(edges, sure, side="right"), right - sure
    value = _gap(bins, error)
    drawn = np.abs(draw.means([np.where(bins == b, error, 0.0) for b in np.unique(bins)])).sum(axis=1)
    low, high = np.quantile(drawn, [0.025, 0.975])
    # A sum over a bin of independent right or wrong rows is about normal: E |x| = √(2 / π) · its deviation.
    chance = np.sqrt(np.bincount(bins, weights=sure * (1 - sure)) * 2 / math.pi).sum() / len(sure)
    with_chance = f"{note}; expected of a calibrated scorer: {chance:.3f}"
    ends = max(0.0, 2 * value - float(high)), max(value, 2 * value - float(low))
    return draw.number(metric, value, *ends, "basic bootstrap over prompts", with_chance)
