"""Prediction-powered inference (PPI++): a rate or mean from a judge's verdicts on all rows and labels on some."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri, stdtrit

from judges.evaluation.results import MetricValue
from judges.evaluation.statistics.intervals import wilson

MIN_LABELLED = 15  # labelled prompts: at 10, 95 % intervals covered 98 to 100 % and were very wide
RECOMMENDED_LABELLED = 30  # below, coverage was 95 to 99.6 %; from 60 on 93.6 to 97.5 %
MIN_RARE_LABELS = 3  # labels of the rarer class: below, a slope fitted on them is unreliable
MIN_ERRORS = 2  # errors of the judge on labelled rows that the variance of a rate allows for at the least
MAX_WIDENING = 1.05  # by how much verdicts may widen the interval of the labels
MAX_DRIFT = 3.3  # standard errors between labelled rows and all rows (probability 0.1 %)
LARGEST = 1e100  # largest absolute verdict or label: sums of squares stay finite
CORRECTED, LABELS, VERDICTS, ROGAN_GLADEN = "corrected", "labels alone", "verdicts alone", "Rogan-Gladen"
Array = NDArray[np.float64]


class TooFewLabels(ValueError):
    """Too few labelled prompts for an interval with correct coverage."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """The corrected rate or mean beside the uncorrected ones; each MetricValue has a 95 % interval.

    `verdicts_alone` is the naive mean verdict; its value is None where verdicts and labels have different units.
    `rogan_gladen` has the value None where labels or verdicts are not 0 and 1. `power` is λ of PPI++: 0 uses no
    verdict, 1 treats a verdict as a label. `more_labels` is about how many more labels would halve the interval; None
    where labels on all rows would not, or where all labels are equal (`words` has the reason). `worth` is how many
    labels without verdicts would give an interval as narrow. `rate` is True where all labels are between 0 and 1.
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

    The estimate is that of PPI++ (Angelopoulos, Duchi and Zrnic 2023, arXiv 2311.01453, example 1), mean label +
    λ · (mean verdict of unlabelled − of labelled rows), at the λ of least variance. It is computed as
    the regression estimator, Ȳ + β · (f̄ of all − f̄ of labelled) with λ = β · unlabelled / rows, whose variance
    is stable with few unlabelled rows and adds up over prompts.

    Corrections for small samples, chosen by measured coverage: a t quantile with two degrees of freedom fewer than
    labelled prompts; for a rate Wilson's interval at the effective size; each prompt's error divided by one minus
    its leverage (as in HC3), since the slope is fitted on it too; and for a rate the variance allows for two errors
    of the judge on labelled rows even if fewer were observed, without which some intervals covered 75 % at 20
    labels. λ = 0 (labels alone) where fewer than 3 labels are of the rarer class, or where the verdicts would widen
    the interval by more than 5 %. Scores with a long tail need more labels: coverage of lognormal ones was 87 % at
    30 labels, 91 % at 100 and 94 % at 200.

    Raises TooFewLabels below 15 labelled prompts, and ValueError where lengths differ, a verdict is missing or not
    finite, or a number is beyond ±1e100.
    """
    f = np.asarray(verdicts, dtype=np.float64)
    y = np.array([math.nan if label is None else label for label in labels], dtype=np.float64)
    if f.ndim != 1 or f.shape != y.shape or (prompts is not None and len(prompts) != len(f)):
        raise ValueError("verdicts, labels and prompts differ in length: each needs one entry per row")
    if not np.all(np.isfinite(f)) or np.any(np.isinf(y)):
        raise ValueError(
            "a verdict or label is not finite: every row needs a finite verdict, and a finite label or none"
        )
    if any(np.any(np.abs(column) > LARGEST) for column in (f, y)):
        raise ValueError(f"a verdict or label is beyond ±{LARGEST:g}: its sums are not finite")
    code = _codes(prompts, len(f))
    sums = _Sums.of(f, y, code)
    if sums.labelled_prompts < MIN_LABELLED:
        raise TooFewLabels(
            f"{sums.labelled_prompts} labelled prompts are too few: label at least {MIN_LABELLED}, better"
            f" {RECOMMENDED_LABELLED}, drawn at random"
        )
    rate = sums.rate
    unlabelled = sums.rows - sums.labelled
    slope = sums.slope if unlabelled else 0.0
    label_interval = _interval(sums.label, sums.variance(0), sums.labelled_prompts, 1, rate)
    alone = MetricValue(LABELS, section, *label_interval, rows=sums.labelled, prompts=sums.labelled_prompts)
    notes = []
    if sums.labelled_prompts < RECOMMENDED_LABELLED:
        notes.append(
            f"{sums.labelled_prompts} labelled prompts: below {RECOMMENDED_LABELLED} the interval is"
            " approximate and tends to be too wide"
        )
    corrected_interval = _interval(sums.corrected(slope), sums.variance(slope), sums.labelled_prompts, 2, rate)
    rarer = min(np.nansum(y), np.nansum(1 - y)) if rate else math.inf
    if not unlabelled:
        notes.append("every row is labelled: the estimate is that of the labels alone")
    elif rarer < MIN_RARE_LABELS:
        slope = 0.0
        notes.append(f"{rarer:g} labels of the rarer class: below {MIN_RARE_LABELS} the verdicts are not used")
    elif slope == 0:
        notes.append("verdicts do not correlate with the labels: they are not used")
    elif corrected_interval[2] - corrected_interval[1] > MAX_WIDENING * _width(alone):
        slope = 0.0
        notes.append("verdicts would widen the interval: they are not used")
    elif sums.least_residual(slope) > sums.residual(slope):
        notes.append(f"the judge has almost no error on labelled rows: the interval allows for {MIN_ERRORS}")
    if slope == 0:
        corrected_interval = label_interval
    if sums.drift > MAX_DRIFT:
        notes.append(
            f"labelled rows may not be a random sample: their mean verdict is {sums.verdict_labelled:.3g}, that of all"
            f" rows {sums.verdict:.3g}"
        )
    corrected = MetricValue(CORRECTED, section, *corrected_interval, rows=sums.rows, prompts=sums.groups)
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
    """`estimate` for each group, in the order of first rows; the TooFewLabels error where a group has too few."""
    results: dict[str, Estimate | TooFewLabels] = {}
    for group in dict.fromkeys(groups):
        rows = [i for i, g in enumerate(groups) if g == group]
        of_group = None if prompts is None else [prompts[i] for i in rows]
        try:
            results[group] = estimate([verdicts[i] for i in rows], [labels[i] for i in rows], of_group, group)
        except TooFewLabels as error:
            results[group] = error
    return results


@dataclass(frozen=True, slots=True)
class _Sums:
    """Means, and the contribution of each prompt to their errors.

    `a` and `d` are each prompt's contribution to the error of the mean label and of the labelled rows' mean verdict,
    `h` to that of the mean verdict of all rows: the sum of its rows' deviations from the mean, divided by the count.
    """

    label: float
    verdict_labelled: float
    verdict: float
    a: Array
    d: Array
    h: Array
    rows: int
    labelled: int
    labelled_prompts: int
    verdict_range: float  # highest verdict minus lowest; 0 where labels are no rate
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
            labelled_prompts=int((np.bincount(code[seen], minlength=groups) > 0).sum()),
            verdict_range=float(np.ptp(f)) if rate else 0.0,
            rate=rate,
        )

    @property
    def groups(self) -> int:
        return len(self.h)

    @property
    def slope(self) -> float:
        """The regression slope of labels on verdicts, over labelled prompts; 0 where verdicts do not vary."""
        spread = float(self.d @ self.d)
        return float(self.a @ self.d) / spread if spread > 1e-24 * max(1.0, self.verdict**2) else 0.0

    def corrected(self, slope: float) -> float:
        return self.label + slope * (self.verdict - self.verdict_labelled)

    def variance(self, slope: float) -> float:
        """The variance of `corrected`, over prompts."""
        if not slope:
            return float(self.a @ self.a) * self.labelled_prompts / (self.labelled_prompts - 1)
        residual = self.a - slope * self.d
        leverage = 1 / self.labelled_prompts + self.d**2 / float(self.d @ self.d)
        # A single prompt may determine the slope; its error is multiplied by five at most.
        error = residual / np.maximum(0.2, 1 - leverage) + slope * self.h
        return float(error @ error) + max(0.0, self.least_residual(slope) - self.residual(slope))

    def residual(self, slope: float) -> float:
        """The residual variance of labels given verdicts, over labelled rows."""
        left = self.a - slope * self.d
        return float(left @ left)

    def least_residual(self, slope: float) -> float:
        """The residual variance that MIN_ERRORS errors of the judge would give; 0 for a mean."""
        return MIN_ERRORS * (slope * self.verdict_range / self.labelled) ** 2

    def explained(self, slope: float) -> float:
        """ρ²: the share of the labels' variance that verdicts explain, by the variances of the two estimates."""
        labels, error = float(self.a @ self.a), self.a - slope * (self.d - self.h)
        if not slope or not labels:
            return 0.0
        return min(1.0, max(0.0, (1 - float(error @ error) / labels) / (1 - self.labelled / self.rows)))

    def worth(self, slope: float) -> int:
        """The number of labels that would give the same variance without verdicts."""
        explained = self.explained(slope)
        return round(1 / ((1 - explained) / self.labelled + explained / self.rows))

    @property
    def drift(self) -> float:
        """The difference of the mean verdicts of labelled rows and of all rows, in standard errors."""
        gap = self.d - self.h
        error = math.sqrt(float(gap @ gap))
        return abs(self.verdict_labelled - self.verdict) / error if error > 0 else 0.0


def _codes(prompts: Sequence[Hashable] | None, rows: int) -> NDArray[np.intp]:
    """The prompt of each row as a code from 0 up."""
    if prompts is None:
        return np.arange(rows, dtype=np.intp)
    codes: dict[Hashable, int] = {}
    return np.array([codes.setdefault(prompt, len(codes)) for prompt in prompts], dtype=np.intp)


def _interval(value: float, variance: float, prompts: int, fitted: int, rate: bool) -> tuple[float, float, float, str]:
    """(value, low, high, method): Wilson at the effective size for a rate, else value ± t · error."""
    t = float(stdtrit(prompts - fitted, 0.975))
    if not rate:
        half = t * math.sqrt(variance)
        return value, value - half, value + half, "t over prompts"
    value = min(1.0, max(0.0, value))
    # All labels equal, or an estimate of 0 or 1: the variance does not determine an effective size.
    size = value * (1 - value) / variance if variance > 0 and 0 < value < 1 else float(prompts)
    return value, *wilson(value, size, t), "Wilson at the effective size over prompts"


def _width(number: MetricValue) -> float:
    assert number.low is not None and number.high is not None
    return number.high - number.low


def _naive(f: Array, code: NDArray[np.intp], section: str, rate: bool) -> MetricValue:
    """The mean verdict of all rows, without correction."""
    if rate and (f.min() < 0 or f.max() > 1):
        why = "verdicts are scores and labels a rate: the mean verdict is no rate"
        return MetricValue(VERDICTS, section, None, note=why)
    sums = _Sums.of(f, f, code)
    interval = _interval(sums.label, sums.variance(0), sums.groups, 1, rate)
    return MetricValue(VERDICTS, section, *interval, rows=sums.rows, prompts=sums.groups)


def rogan_gladen(f: Array, y: Array, code: NDArray[np.intp], section: str = "") -> MetricValue:
    """The rate by Rogan and Gladen (1978): (apparent + specificity − 1) / (sensitivity + specificity − 1).

    Verdicts and labels are 0 or 1, labels nan where there is none. The apparent rate is that of all rows,
    sensitivity and specificity those of labelled ones. The interval is by the delta method, over prompts.
    """
    seen = ~np.isnan(y)
    if not (np.isin(f, (0, 1)).all() and np.isin(y[seen], (0, 1)).all()):
        return MetricValue(ROGAN_GLADEN, section, None, note="for verdicts and labels of 0 and 1 only")
    good, bad = seen & (y == 1), seen & (y == 0)
    if not good.any() or not bad.any():
        return MetricValue(
            ROGAN_GLADEN, section, None, note="labels are all equal: sensitivity or specificity is unknown"
        )
    sensitivity, specificity, apparent = float(f[good].mean()), float(1 - f[bad].mean()), float(f.mean())
    youden = sensitivity + specificity - 1
    if youden <= 0:
        return MetricValue(ROGAN_GLADEN, section, None, note="the judge is no better than chance: no correction exists")
    value = (apparent + specificity - 1) / youden
    error = (f - apparent) / len(f)
    error = error + np.where(bad, (1 - value) * (1 - f - specificity) / bad.sum(), 0)
    error = (error - np.where(good, value * (f - sensitivity) / good.sum(), 0)) / youden
    sums = np.bincount(code, weights=error)
    labelled_prompts = len(np.unique(code[seen]))
    half = float(ndtri(0.975)) * math.sqrt(float(sums @ sums) * labelled_prompts / max(1, labelled_prompts - 1))
    low, high = (min(1.0, max(0.0, edge)) for edge in (value - half, value + half))
    note = "" if 0 <= value <= 1 else f"{value:.3f}, clipped to [0, 1]"
    return MetricValue(
        *(ROGAN_GLADEN, section, min(1.0, max(0.0, value)), low, high, "delta method over prompts"),
        rows=len(f),
        prompts=len(sums),
        note=note,
    )


def _to_halve(sums: _Sums, slope: float) -> tuple[int | None, float]:
    """(how many more labels would halve the interval, the ratio of the width with all rows labelled to this one).

    The number is None where labels on all rows would not halve it. At the best λ, the variance with n labels of M
    rows is proportional to (1 − ρ²) / n + ρ² / M.
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
    def text(value: float) -> str:
        return f"{100 * value:.1f} %" if rate else f"{value:.3g}"

    assert corrected.value is not None and corrected.low is not None and corrected.high is not None
    half = f"{_width(corrected) * 50:.1f} points" if rate else f"{_width(corrected) / 2:.2g}"
    sentences = [
        f"{text(corrected.value)}, 95 % confidence interval {text(corrected.low)} to {text(corrected.high)}"
        f" ({sums.labelled:,} labels, {sums.rows:,} verdicts)."
    ]
    if slope and sums.worth(slope) > sums.labelled:
        more = sums.worth(slope) - sums.labelled
        sentences.append(f"The verdicts add as much information as {more:,} more label{'s' if more > 1 else ''}.")
    if not sums.a.any():
        sentences.append("All labels are equal, so the number of labels that would halve the interval is unknown.")
    elif need is not None:
        sentences.append(f"About {need:,} more labels would halve the interval (now ± {half}).")
    elif sums.labelled == sums.rows:
        sentences.append(f"Every row is labelled: a narrower interval (now ± {half}) needs more rows.")
    else:
        after = f"{_width(corrected) * 50 * left:.1f} points" if rate else f"{_width(corrected) / 2 * left:.2g}"
        sentences.append(
            f"Labels on all {sums.rows:,} rows would not halve the interval: about ± {after}, now ± {half}."
            " That needs more rows too."
        )
    return " ".join(sentences)
