"""From judgments to numbers: every metric of one scorer on one benchmark, and comparisons of several scorers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace

from judges.evaluation.attacks import ATTACKS
from judges.evaluation.benchmark_run import BenchmarkRun
from judges.evaluation.benchmarks import limit_items
from judges.evaluation.benchmarks.base import Benchmark
from judges.evaluation.metrics.accuracy import accuracy, accuracy_numbers, with_note
from judges.evaluation.metrics.agreement import agreement_numbers
from judges.evaluation.metrics.calibration import measure as calibration
from judges.evaluation.metrics.correlation import correlation_numbers, per_prompt_tau
from judges.evaluation.metrics.length_bias import length_bias_numbers
from judges.evaluation.metrics.position_bias import position_bias_numbers
from judges.evaluation.metrics.ranking import ranked, ranking_numbers
from judges.evaluation.metrics.scorer_agreement import scorer_agreement_numbers
from judges.evaluation.metrics.style_bias import author_bias_numbers, style_bias_numbers
from judges.evaluation.results import BenchmarkInfo, Contrast, MetricValue, Result
from judges.evaluation.robustness import measure_robustness
from judges.evaluation.statistics import intervals
from judges.evaluation.statistics.significance import contrasts
from judges.evaluation.statistics.tally import Tally, prompt_of
from judges.scorer import Scorer
from judges.types import Usage

OFFICIAL, BY_ITS_RULES = "official", "by the official rules"
PER_PROMPT_TAU = "kendall tau-b, per prompt"
# The headline of Items with one response each, which have nothing to average over prompts.
POOLED = "spearman, pooled"


def compute_result(run: BenchmarkRun) -> Result:
    """Every metric of one scorer on one benchmark, with the counts of its failures and its usage."""
    benchmark = run.benchmark
    items, cards = benchmark.items, run.cards
    numbers: list[MetricValue] = []
    official = None
    if benchmark.official is not None:
        official = benchmark.official(items, cards)
        numbers += intervals.numbers(official, OFFICIAL if not benchmark.differs else BY_ITS_RULES)
    numbers += accuracy_numbers(items, cards)
    numbers += correlation_numbers(items, cards)
    calibration_numbers, curves = calibration(items, cards)
    if run.identity.get("fitted_on") == benchmark.digest:
        note = "the scorer's temperature was fitted on these very rows"
        calibration_numbers = tuple(with_note(number, note) for number in calibration_numbers)
    numbers += calibration_numbers
    numbers += position_bias_numbers(items, cards)
    numbers += length_bias_numbers(items, cards)
    numbers += style_bias_numbers(items, cards)
    numbers += author_bias_numbers(items, cards, str(run.identity.get("model", "")))
    numbers += agreement_numbers(items, cards)
    for model in ranked(items, cards):
        interval = model.low, model.high, "bootstrap over prompts" if model.low is not None else ""
        numbers.append(
            MetricValue(
                "model strength",
                model.model,
                model.strength,
                *interval,
                rows=model.games,
                ties=model.ties,
                note=model.note,
            )
        )
        numbers.append(MetricValue("model elo", model.model, model.elo, rows=model.games))
    numbers += ranking_numbers(items, cards)
    judgments = [j for card in cards.values() for j in card.judgments]
    return Result(
        label=run.label,
        scorer=run.scorer,
        spec=run.spec,
        benchmark=benchmark.name,
        digest=benchmark.digest,
        identity=run.identity,
        numbers=tuple(numbers),
        headline=_headline(benchmark, official, numbers),
        reads=dict(Counter(j.read for j in judgments if j.read)),
        failures=dict(Counter(j.failure.reason for j in judgments if j.failure)),
        usage=sum((card.usage for card in cards.values()), Usage()),
        seconds=run.seconds,
        file=run.file,
        curves=curves,
        published=run.published,
    )


def _headline(benchmark: Benchmark, official: Tally | None, numbers: Sequence[MetricValue]) -> tuple[str, str]:
    """The metric and section of the headline: the official score of a published set, else accuracy or a correlation."""
    if official is not None and not benchmark.differs and official.headline in official.numbers:
        return OFFICIAL, official.headline
    measured = {(n.metric, n.section) for n in numbers}
    return next(((m, "") for m in ("accuracy", PER_PROMPT_TAU, POOLED) if (m, "") in measured), ("accuracy", ""))


def headline_tally(run: BenchmarkRun) -> Tally | None:
    """The headline as a Tally, for a paired comparison; None where it is not a mean over prompts."""
    benchmark = run.benchmark
    items, cards = benchmark.items, run.cards
    if benchmark.official is not None and not benchmark.differs:
        official = benchmark.official(items, cards)
        if official.headline in official.numbers:
            return official
    tally = accuracy(items, cards)
    if tally is not None:
        return tally
    tally = per_prompt_tau(items, cards)
    return tally if tally.means and any(len(mean.values) for mean in tally.means.values()) else None


def describe_benchmark(benchmark: Benchmark, file: str, headline: tuple[str, str]) -> BenchmarkInfo:
    """The benchmark's entry in `results.json`. `file` holds its Items, relative to the run's folder."""
    return BenchmarkInfo(
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


def compare_scorers(
    runs: Sequence[BenchmarkRun], benchmark: Benchmark
) -> tuple[tuple[Contrast, ...], tuple[MetricValue, ...]]:
    """All pairs of scorers on a benchmark: contrasts of the headline, and measures of their agreement."""
    if len(runs) < 2:
        return (), ()
    tallies = {run.label: tally for run in runs if (tally := headline_tally(run)) is not None}
    cards = {run.label: run.cards for run in runs}
    identities: Mapping[str, Mapping[str, object]] = {run.label: run.identity for run in runs}
    return contrasts(benchmark.name, tallies), scorer_agreement_numbers(benchmark.items, cards, identities)


def attack_numbers(scorer: Scorer, benchmark: Benchmark, pairs: int) -> tuple[MetricValue, ...]:
    """For up to `pairs` pairs: how often the rejected response wins, or no longer loses, under each attack."""
    with_chosen = [item for item in benchmark.items if item.gold is not None and item.gold.chosen is not None]
    items = limit_items(replace(benchmark, items=tuple(with_chosen)), pairs).items
    if not items:
        return ()
    return tuple(
        MetricValue(
            metric,
            effect.attack,
            share.share,
            share.low,
            share.high,
            share.interval,
            rows=effect.pairs,
            prompts=effect.pairs,
            left_out=effect.failed,
        )
        for effect in measure_robustness(scorer, items, ATTACKS).effects
        for metric, share in (("attack: wins", effect.wins), ("attack: wins or ties", effect.wins_or_ties))
        if share is not None
    )
