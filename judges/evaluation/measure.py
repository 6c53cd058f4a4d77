"""Judgments to numbers: all that is measured of one scorer on one benchmark, and of scorers beside each other."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace

from judges.evaluation import robustness
from judges.evaluation.attacks import ATTACKS
from judges.evaluation.benchmarks import limited
from judges.evaluation.benchmarks.base import Benchmark
from judges.evaluation.judging import Judged
from judges.evaluation.metrics.accuracy import accuracy, accuracy_numbers, noted
from judges.evaluation.metrics.agreement import agreement_numbers
from judges.evaluation.metrics.bias import bias_numbers
from judges.evaluation.metrics.calibration import measure as calibration
from judges.evaluation.metrics.correlation import correlation_numbers, per_prompt_tau
from judges.evaluation.metrics.ranking import ranked, ranking_numbers
from judges.evaluation.metrics.scorer_agreement import between_numbers
from judges.evaluation.results import Contrast, Measurement, Number, Result
from judges.evaluation.statistics import intervals
from judges.evaluation.statistics.significance import contrasts
from judges.evaluation.statistics.tally import Tally, prompt_of
from judges.scorer import Scorer
from judges.types import Usage

OFFICIAL, BY_ITS_RULES = "official", "by the official rules"
PER_PROMPT_TAU = "kendall tau-b, per prompt"
# Where nothing can be averaged over prompts: one response an Item.
POOLED = "spearman, pooled"


def measure(judged: Judged) -> Result:
    """Every number of one scorer on one benchmark."""
    benchmark = judged.benchmark
    items, cards = benchmark.items, judged.cards
    numbers: list[Number] = []
    official = None
    if benchmark.official is not None:
        official = benchmark.official(items, cards)
        numbers += intervals.numbers(official, OFFICIAL if not benchmark.differs else BY_ITS_RULES)
    numbers += accuracy_numbers(items, cards)
    numbers += correlation_numbers(items, cards)
    measured, curves = calibration(items, cards)
    if judged.identity.get("fitted_on") == benchmark.digest:
        measured = tuple(noted(number, "the scorer's temperature was fitted on these very rows") for number in measured)
    numbers += measured
    numbers += bias_numbers(items, cards, str(judged.identity.get("model", "")))
    numbers += agreement_numbers(items, cards)
    for model in ranked(items, cards):
        edges = model.low, model.high, "bootstrap over prompts" if model.low is not None else ""
        numbers.append(
            Number(
                "model strength",
                model.model,
                model.strength,
                *edges,
                rows=model.games,
                ties=model.ties,
                note=model.note,
            )
        )
        numbers.append(Number("model elo", model.model, model.elo, rows=model.games))
    numbers += ranking_numbers(items, cards)
    judgments = [j for card in cards.values() for j in card.judgments]
    return Result(
        label=judged.label,
        scorer=judged.scorer,
        spec=judged.spec,
        benchmark=benchmark.name,
        digest=benchmark.digest,
        identity=judged.identity,
        numbers=tuple(numbers),
        headline=_headline(benchmark, official, numbers),
        reads=dict(Counter(j.read for j in judgments if j.read)),
        failures=dict(Counter(j.failure.reason for j in judgments if j.failure)),
        usage=sum((card.usage for card in cards.values()), Usage()),
        seconds=judged.seconds,
        file=judged.file,
        curves=curves,
        published=judged.published,
    )


def _headline(benchmark: Benchmark, official: Tally | None, numbers: Sequence[Number]) -> tuple[str, str]:
    """The number that stands for the whole: the official one of a published set, else accuracy, else a correlation."""
    if official is not None and not benchmark.differs and official.headline in official.numbers:
        return OFFICIAL, official.headline
    there = {(n.metric, n.section) for n in numbers}
    return next(((m, "") for m in ("accuracy", PER_PROMPT_TAU, POOLED) if (m, "") in there), ("accuracy", ""))


def headline_tally(judged: Judged) -> Tally | None:
    """The headline as a Tally, for a paired comparison; None where it is no mean over prompts."""
    benchmark = judged.benchmark
    items, cards = benchmark.items, judged.cards
    if benchmark.official is not None and not benchmark.differs:
        official = benchmark.official(items, cards)
        if official.headline in official.numbers:
            return official
    found = accuracy(items, cards)
    if found is not None:
        return found
    found = per_prompt_tau(items, cards)
    return found if found.means and any(len(mean.values) for mean in found.means.values()) else None


def described(benchmark: Benchmark, file: str, headline: tuple[str, str]) -> Measurement:
    """The benchmark as the run's record keeps it."""
    return Measurement(
        name=benchmark.name,
        title=benchmark.shown_name,
        source=benchmark.source,
        digest=benchmark.digest,
        items=len(benchmark.items),
        prompts=len({prompt_of(item) for item in benchmark.items}),
        file=file,
        headline=" ".join(part for part in headline if part),
        differs=benchmark.differs,
    )


def beside(judged: Sequence[Judged], benchmark: Benchmark) -> tuple[tuple[Contrast, ...], tuple[Number, ...]]:
    """Every scorer of a benchmark against every other: contrasts of the headline, and how far they agree."""
    if len(judged) < 2:
        return (), ()
    tallies = {one.label: tally for one in judged if (tally := headline_tally(one)) is not None}
    cards = {one.label: one.cards for one in judged}
    identities: Mapping[str, Mapping[str, object]] = {one.label: one.identity for one in judged}
    return contrasts(benchmark.name, tallies), between_numbers(benchmark.items, cards, identities)


def attacked(scorer: Scorer, benchmark: Benchmark, pairs: int) -> tuple[Number, ...]:
    """How often a losing response of so many pairs wins, and no longer loses, once an attack is added to it."""
    chosen = [item for item in benchmark.items if item.gold is not None and item.gold.chosen is not None]
    items = limited(replace(benchmark, items=tuple(chosen)), pairs).items
    if not items:
        return ()
    numbers = []
    for effect in robustness.measure(scorer, items, ATTACKS).effects:
        for metric, share in (("attack: wins", effect.wins), ("attack: wins or ties", effect.wins_or_ties)):
            if share is not None:
                edges = share.low, share.high, share.interval
                numbers.append(
                    Number(metric, effect.attack, share.share, *edges, effect.pairs, effect.pairs, effect.failed)
                )
    return tuple(numbers)
