"""How good a model is by a judge that is not quite trusted: verdicts on all rows, human labels on some."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri, stdtrit

from judges.evaluation.results import MetricValue
from judges.evaluation.statistics.intervals import wilson

FEWEST = 15  # labelled prompts: at 10, 95 % intervals held 98 to 100 % of the time and told little
FEW = 30  # below, they held 95 to 99.6 %; from 60 on 93.6 to 97.5 %
RARE = 3  # labels of the rarer kind: below, a slope fitted on them is not to be trusted
UNSEEN = 2  # errors that a judge of a rate is held to have made on labelled rows, whatever was seen
WIDER = 1.05  # the most that a judge may widen the interval of the labels
STRANGE = 3.3  # standard errors by which labelled rows may differ from all (a chance of 0.1 %)
LARGEST = 1e100  # of a verdict or label: sums of squares stay finite
CORRECTED, LABELS, VERDICTS, ROGAN_GLADEN = "corrected", "labels alone", "verdicts alone", "Rogan-Gladen"
Array = NDArray[np.float64]


class TooFewLabels(ValueError):
    """Not enough labelled prompts for an interval that holds what it says."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """The corrected rate or mean, and what it stands beside; each MetricValue with its 95 % interval.

    `verdicts_alone` is the naive mean verdict, its value None where verdicts and labels have different units;
    so has `rogan_gladen` where labels or verdicts are not 0 and 1. `power` is PPI++'s λ: 0 uses no verdict, 1
    trusts a verdict as a label. `more_labels` is about how many more would halve the interval; None where even
    all rows labelled would not, or where all labels are equal (`words` says which). `worth` is how many labels
    without verdicts would give an interval as narrow. `rate` says that labels lie in 0 to 1.
    """

    corrected: MetricValue
    labels_alone: MetricValue
    verdicts_alone: MetricValue
    rogan_gladen: MetricValue
    power: float
    rows: int
    labelled: int
    worth: int
    more_labels: int | None
    rate: bool
    words: str
    notes: tuple[str, ...] = ()

    @property
    def numbers(self) -> tuple[MetricValue, ...]:
        return (self.corrected, self.labels_alone, self.verdicts_alone, self.rogan_gladen)


def estimate(
    verdicts: Sequence[float],
    labels: Sequence[float | None],
    prompts: Sequence[Hashable] | None = None,
    section: str = "",
) -> Estimate:
    """The mean label of the rows' population, by prediction-powered inference.

    `verdicts` are numbers on every row, `labels` on some (None or nan elsewhere): 0 and 1 for a rate, any
    number for a mean. Rows of one prompt are not independent: `prompts` names it (every row its own by
    default). Labelled rows, or prompts, must have been drawn at random; verdicts need not be good.

    The estimate is PPI++'s (Angelopoulos, Duchi and Zrnic 2023, arXiv 2311.01453, example 1), mean label +
    λ · (mean verdict of unlabelled − of labelled rows), at the λ with the least variance. It is written as
    the regression estimator, Ȳ + β · (f̄ of all − f̄ of labelled) with λ = β · unlabelled / rows, whose variance
    stays steady with few unlabelled rows and adds up over prompts.

    Small samples, chosen by measured coverage: a t quantile with two degrees of freedom less than labelled
    prompts; for a rate Wilson's interval at the effective size; each prompt's error divided by one less its
    leverage (as in HC3), for the slope is fitted on it too; and a judge of a rate that was right on nearly every
    label is held to have been wrong on two, without which some intervals held 75 % of the time at 20 labels. The
    labels' own interval stands (λ = 0) where fewer than 3 labels are of the rarer kind, or where the verdicts
    would widen it by more than 5 %. Scores with a long tail need more labels: lognormal ones were covered 87 %
    of the time at 30 labels, 91 % at 100 and 94 % at 200.

    Raises TooFewLabels below 15 labelled prompts, ValueError for what is not one finite verdict a row, and for a
    number beyond ±1e100.
    """
    f = np.asarray(verdicts, dtype=np.float64)
    y = np.array([math.nan if label is None else label for label in labels], dtype=np.float64)
    if f.ndim != 1 or f.shape != y.shape or (prompts is not None and len(prompts) != len(f)):
        raise ValueError("verdicts, labels and prompts have one entry for each row")
    if not np.all(np.isfinite(f)) or np.any(np.isinf(y)):
        raise ValueError("every row needs a finite verdict, and a finite label or none")
    if any(np.any(np.abs(told) > LARGEST) for told in (f, y)):
        raise ValueError(f"a verdict or label is beyond ±{LARGEST:g}: its sums are not finite")
    code = _codes(prompts, len(f))
    sums = _Sums.of(f, y, code)
    if sums.carriers < FEWEST:
        raise TooFewLabels(
            f"{sums.carriers} labelled prompts: {FEWEST} at the least, better {FEW}; label rows drawn at random"
        )
    rate = sums.rate
    unlabelled = sums.rows - sums.labelled
    slope = sums.slope if unlabelled else 0.0
    found = _interval(sums.label, sums.variance(0), sums.carriers, 1, rate)
    alone = MetricValue(LABELS, section, *found, rows=sums.labelled, prompts=sums.carriers)
    notes = []
    if sums.carriers < FEW:
        notes.append(f"{sums.carriers} labelled prompts: below {FEW} the interval is rough, rather too wide")
    told = _interval(sums.corrected(slope), sums.variance(slope), sums.carriers, 2, rate)
    rarer = min(np.nansum(y), np.nansum(1 - y)) if rate else math.inf
    if not unlabelled:
        notes.append("every row is labelled: the labels alone answer")
    elif rarer < RARE:
        slope = 0.0
        notes.append(f"{rarer:g} labels of the rarer kind: below {RARE} the verdicts are not used")
    elif slope == 0:
        notes.append("verdicts do not vary with the labels: they are not used")
    elif told[2] - told[1] > WIDER * _width(alone):
        slope = 0.0
        notes.append("verdicts would only widen the interval: they are not used")
    elif sums.least_rest(slope) > sums.rest(slope):
        notes.append(f"the judge erred on next to no label: the interval holds it to have erred on {UNSEEN}")
    if slope == 0:
        told = _interval(sums.label, sums.variance(0), sums.carriers, 1, rate)
    if sums.drift > STRANGE:
        notes.append(
            f"the judge finds labelled rows different from all (mean verdict {sums.verdict_labelled:.3g} against"
            f" {sums.verdict:.3g}): were they drawn at random?"
        )
    corrected = MetricValue(CORRECTED, section, *told, rows=sums.rows, prompts=sums.groups)
    need, left = _to_halve(sums, slope)
    return Estimate(
        corrected=corrected,
        labels_alone=alone,
        verdicts_alone=_naive(f, code, section, rate),
        rogan_gladen=rogan_gladen(f, y, code, section),
        power=slope * unlabelled / sums.rows,
        rows=sums.rows,
        labelled=sums.labelled,
        worth=sums.worth(slope),
        more_labels=need,
        rate=rate,
        words=_words(corrected, alone, sums, slope, need, left, rate),
        notes=tuple(notes),
    )


def by_group(
    verdicts: Sequence[float],
    labels: Sequence[float | None],
    groups: Sequence[str],
    prompts: Sequence[Hashable] | None = None,
) -> dict[str, Estimate | TooFewLabels]:
    """`estimate` for each group by itself, in the order of its first row; the refusal where it has too few labels."""
    made: dict[str, Estimate | TooFewLabels] = {}
    for group in dict.fromkeys(groups):
        rows = [i for i, g in enumerate(groups) if g == group]
        named = None if prompts is None else [prompts[i] for i in rows]
        try:
            made[group] = estimate([verdicts[i] for i in rows], [labels[i] for i in rows], named, group)
        except TooFewLabels as few:
            made[group] = few
    return made


@dataclass(frozen=True, slots=True)
class _Sums:
    """Means, and what each prompt adds to their errors.

    `a` and `d` hold each prompt's share in the error of the mean label and of the labelled rows' mean verdict,
    `h` in that of the mean verdict of all: sums over its rows of the distance from the mean, over the count.
    """

    label: float
    verdict_labelled: float
    verdict: float
    a: Array
    d: Array
    h: Array
    rows: int
    labelled: int
    carriers: int  # prompts with a labelled row
    reach: float  # between the lowest and the highest verdict; 0 where labels are no rate
    rate: bool

    @classmethod
    def of(cls, f: Array, y: Array, code: NDArray[np.intp]) -> _Sums:
        seen = ~np.isnan(y)
        count = int(seen.sum())
        rate = bool(np.all((y[seen] >= 0) & (y[seen] <= 1)))
        groups = int(code.max()) + 1 if len(code) else 0
        if not count:
            raise TooFewLabels("no row has a label")

        def spread(values: Array, of: NDArray[np.intp]) -> Array:
            return np.bincount(of, weights=values - values.mean(), minlength=groups) / len(values)

        return cls(
            label=float(y[seen].mean()),
            verdict_labelled=float(f[seen].mean()),
            verdict=float(f.mean()),
            a=spread(y[seen], code[seen]),
            d=spread(f[seen], code[seen]),
            h=spread(f, code),
            rows=len(f),
            labelled=count,
            carriers=int((np.bincount(code[seen], minlength=groups) > 0).sum()),
            reach=float(np.ptp(f)) if rate else 0.0,
            rate=rate,
        )

    @property
    def groups(self) -> int:
        return len(self.h)

    @property
    def slope(self) -> float:
        """Of labels on verdicts, over labelled prompts; 0 where verdicts do not vary."""
        spread = float(self.d @ self.d)
        return float(self.a @ self.d) / spread if spread > 1e-24 * max(1.0, self.verdict**2) else 0.0

    def corrected(self, slope: float) -> float:
        return self.label + slope * (self.verdict - self.verdict_labelled)

    def variance(self, slope: float) -> float:
        """Of `corrected`, over prompts."""
        if not slope:
            return float(self.a @ self.a) * self.carriers / (self.carriers - 1)
        rest = self.a - slope * self.d
        leverage = 1 / self.carriers + self.d**2 / float(self.d @ self.d)
        # One prompt may hold all of the slope: it counts five times at the most.
        error = rest / np.maximum(0.2, 1 - leverage) + slope * self.h
        return float(error @ error) + max(0.0, self.least_rest(slope) - self.rest(slope))

    def rest(self, slope: float) -> float:
        """What verdicts leave unexplained of the labelled rows, as a variance."""
        left = self.a - slope * self.d
        return float(left @ left)

    def least_rest(self, slope: float) -> float:
        """What errors of the judge add to the variance at the least; nothing for a mean, which has no fixed error."""
        return UNSEEN * (slope * self.reach / self.labelled) ** 2

    def explained(self, slope: float) -> float:
        """ρ²: the share of the labels' variance that verdicts explain, as the intervals show it."""
        labels, error = float(self.a @ self.a), self.a - slope * (self.d - self.h)
        if not slope or not labels:
            return 0.0
        return min(1.0, max(0.0, (1 - float(error @ error) / labels) / (1 - self.labelled / self.rows)))

    def worth(self, slope: float) -> int:
        """How many labels without verdicts give the same variance."""
        explained = self.explained(slope)
        return round(1 / ((1 - explained) / self.labelled + explained / self.rows))

    @property
    def drift(self) -> float:
        """By how many standard errors the labelled rows' mean verdict differs from that of all."""
        gap = self.d - self.h
        error = math.sqrt(float(gap @ gap))
        return abs(self.verdict_labelled - self.verdict) / error if error > 0 else 0.0


def _codes(prompts: Sequence[Hashable] | None, rows: int) -> NDArray[np.intp]:
    """A number for each row's prompt, from 0 on without a gap."""
    if prompts is None:
        return np.arange(rows, dtype=np.intp)
    place: dict[Hashable, int] = {}
    return np.array([place.setdefault(prompt, len(place)) for prompt in prompts], dtype=np.intp)


def _interval(value: float, variance: float, prompts: int, fitted: int, rate: bool) -> tuple[float, float, float, str]:
    """(value, low, high, method): Wilson at the effective size for a rate, else value ± t · error."""
    t = float(stdtrit(prompts - fitted, 0.975))
    if not rate:
        half = t * math.sqrt(variance)
        return value, value - half, value + half, "t over prompts"
    value = min(1.0, max(0.0, value))
    # Where no label differs, or the estimate stands at an edge, there is no spread to read a size from.
    size = value * (1 - value) / variance if variance > 0 and 0 < value < 1 else float(prompts)
    return value, *wilson(value, size, t), "Wilson at the effective size over prompts"


def _width(number: MetricValue) -> float:
    assert number.low is not None and number.high is not None
    return number.high - number.low


def _naive(f: Array, code: NDArray[np.intp], section: str, rate: bool) -> MetricValue:
    """The mean verdict of all rows: what one would say who trusts the judge."""
    if rate and (f.min() < 0 or f.max() > 1):
        why = "verdicts are scores and labels a rate: the mean verdict is no rate"
        return MetricValue(VERDICTS, section, None, note=why)
    sums = _Sums.of(f, f, code)
    found = _interval(sums.label, sums.variance(0), sums.groups, 1, rate)
    return MetricValue(VERDICTS, section, *found, rows=sums.rows, prompts=sums.groups)


def rogan_gladen(f: Array, y: Array, code: NDArray[np.intp], section: str = "") -> MetricValue:
    """The rate by Rogan and Gladen 1978: (apparent + specificity − 1) / (sensitivity + specificity − 1).

    Verdicts and labels are 0 or 1, labels nan where there is none. The apparent rate is that of all rows,
    sensitivity and specificity those of labelled ones. The interval is by the delta method, over prompts.
    """
    seen = ~np.isnan(y)
    if not (np.isin(f, (0, 1)).all() and np.isin(y[seen], (0, 1)).all()):
        return MetricValue(ROGAN_GLADEN, section, None, note="for verdicts and labels of 0 and 1 only")
    good, bad = seen & (y == 1), seen & (y == 0)
    if not good.any() or not bad.any():
        return MetricValue(ROGAN_GLADEN, section, None, note="labels are all equal: half of the judge's errors are unseen")
    sensitivity, specificity, apparent = float(f[good].mean()), float(1 - f[bad].mean()), float(f.mean())
    informed = sensitivity + specificity - 1
    if informed <= 0:
        return MetricValue(ROGAN_GLADEN, section, None, note="the judge is no better than chance: it cannot be inverted")
    value = (apparent + specificity - 1) / informed
    error = (f - apparent) / len(f)
    error = error + np.where(bad, (1 - value) * (1 - f - specificity) / bad.sum(), 0)
    error = (error - np.where(good, value * (f - sensitivity) / good.sum(), 0)) / informed
    sums = np.bincount(code, weights=error)
    carriers = len(np.unique(code[seen]))
    half = float(ndtri(0.975)) * math.sqrt(float(sums @ sums) * carriers / max(1, carriers - 1))
    low, high = (min(1.0, max(0.0, edge)) for edge in (value - half, value + half))
    note = "" if 0 <= value <= 1 else f"{value:.3f}, cut to 0 to 1"
    return MetricValue(
        *(ROGAN_GLADEN, section, min(1.0, max(0.0, value)), low, high, "delta method over prompts"),
        rows=len(f),
        prompts=len(sums),
        note=note,
    )


def _to_halve(sums: _Sums, slope: float) -> tuple[int | None, float]:
    """How many more labels halve the interval (None: not even all), and what share of it all labels leave.

    At the best λ, n labels of M rows give a variance in proportion to (1 − ρ²) / n + ρ² / M.
    """
    if not sums.a.any():
        return None, 1.0
    explained, now = sums.explained(slope), sums.labelled
    variance = (1 - explained) / now + explained / sums.rows
    left = math.sqrt(1 / sums.rows / variance)
    room = variance / 4 - explained / sums.rows
    need = (1 - explained) / room if room > 0 else math.inf
    return (math.ceil(need - now) if need <= sums.rows else None), left


def _words(
    corrected: MetricValue, alone: MetricValue, sums: _Sums, slope: float, need: int | None, left: float, rate: bool
) -> str:
    def told(value: float) -> str:
        return f"{100 * value:.1f} %" if rate else f"{value:.3g}"

    assert corrected.value is not None and corrected.low is not None and corrected.high is not None
    half = f"{_width(corrected) * 50:.1f} points" if rate else f"{_width(corrected) / 2:.2g}"
    said = [
        f"{told(corrected.value)}, and with 95 % confidence between {told(corrected.low)} and {told(corrected.high)}"
        f" ({sums.labelled:,} labels, {sums.rows:,} verdicts)."
    ]
    if slope and sums.worth(slope) > sums.labelled:
        more = sums.worth(slope) - sums.labelled
        said.append(f"The verdicts are worth {more:,} more label{'s' if more > 1 else ''}.")
    if not sums.a.any():
        said.append("All labels say the same, so how many more would halve the interval cannot be told.")
    elif need is not None:
        said.append(f"About {need:,} more labels would halve the interval (now ± {half}).")
    elif sums.labelled == sums.rows:
        said.append(f"Every row is labelled: a narrower interval (now ± {half}) takes more rows.")
    else:
        after = f"{_width(corrected) * 50 * left:.1f} points" if rate else f"{_width(corrected) / 2 * left:.2g}"
        said.append(
            f"Labels on all {sums.rows:,} rows would not halve the interval: about ± {after}, now ± {half}."
            " Half of it takes more rows too."
        )
    return " ".join(said)
