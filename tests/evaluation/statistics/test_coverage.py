"""A nominal 95 % interval holds the truth 93 to 97 % of the time, on simulated benchmarks whose truth is known."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest

from judges.evaluation.statistics.intervals import intervals
from judges.evaluation.statistics.significance import contrasts, mcnemar
from judges.evaluation.statistics.tally import Mean, Tally

BENCHMARKS = 1000


@dataclass(frozen=True)
class Design:
    """`prompts` and `right` (the true accuracy) of each subset; the rows of a prompt (1 to `most`, at random)
    correlate by `alike`; `ties` says how often a row that could go either way is ½. Weights make the overall."""

    prompts: tuple[int, ...]
    right: tuple[float, ...]
    weights: tuple[float, ...] = (1.0,)
    most: int = 4
    alike: float = 0.3
    ties: float = 0.3

    @property
    def truth(self) -> float:
        return float(np.dot(self.weights, self.right))

    def simulated(self, rng: np.random.Generator) -> list[Mean]:
        means = []
        for subset, (n, right) in enumerate(zip(self.prompts, self.right, strict=True)):
            rows = rng.integers(1, self.most + 1, size=n)
            k = 1 / self.alike - 1 if self.alike else np.inf
            chance = rng.beta(right * k, (1 - right) * k, size=n) if self.alike else np.full(n, right)
            of = np.repeat(np.arange(n), rows)
            tie = self.ties * 2 * np.minimum(chance, 1 - chance)[of]
            u = rng.random(len(of))
            # P(right) + P(tie) / 2 is the prompt's chance, so the truth is the subset's.
            sure = chance[of] - tie / 2
            values = np.where(u < sure, 1.0, np.where(u < sure + tie, 0.5, 0.0))
            means.append(
                Mean(values, tuple(f"{subset}.{i}" for i in range(len(of))), tuple(f"{subset}:{p}" for p in of))
            )
        return means


def coverage(design: Design, benchmarks: int = BENCHMARKS, seed: int = 1, draws: int = 1000) -> tuple[float, set[str]]:
    """The share of the intervals that cover the truth, and their methods."""
    rng = np.random.default_rng(seed)
    covered, methods = 0, set()
    for i in range(benchmarks):
        means = design.simulated(rng)
        (interval,) = intervals(means, np.array([design.weights]), seed=i, draws=draws)
        covered += interval.low - 1e-12 <= design.truth <= interval.high + 1e-12
        methods.add(interval.method.split()[0])
    return covered / benchmarks, methods


# The four sections of an overall, each with its own accuracy.
SECTIONS = (0.95, 0.85, 0.7, 0.6)
QUARTERS = (0.25, 0.25, 0.25, 0.25)


@pytest.mark.parametrize(
    "design",
    [
        Design((100,), (0.5,), alike=0.6, most=6, ties=0.0),
        Design((150,), (0.9,)),
        Design((200,), (0.97,)),
        Design((60, 40, 30, 50), SECTIONS, QUARTERS),
        Design((130, 70), (0.75, 0.9), (0.35, 0.65)),
    ],
    ids=str,
)
def test_from_100_prompts_up_the_interval_covers_the_truth(design):
    covered, methods = coverage(design, draws=500)
    assert 0.93 <= covered <= 0.97, covered
    # Few prompts that are wrong are an edge, and have the edges' method.
    assert "bootstrap" in methods or min(design.right) > 0.95


@pytest.mark.parametrize(
    "design",
    [
        Design((12,), (0.6,)),
        Design((20,), (0.8,), alike=0.6, most=6, ties=0.0),
        Design((40,), (0.9,)),
        Design((80,), (0.97,)),
        Design((12, 12, 12, 12), SECTIONS, QUARTERS),
        Design((30, 40), (0.75, 0.9), (0.35, 0.65)),
    ],
    ids=str,
)
def test_below_100_prompts_its_own_method_covers_the_truth(design):
    covered, methods = coverage(design)
    assert 0.93 <= covered <= 0.97, covered
    assert methods == {"Wilson"}


def test_over_benchmarks_of_all_kinds_the_interval_covers_the_truth():
    rng = np.random.default_rng(3)
    covered = 0
    for i in range(BENCHMARKS):
        k = int(rng.integers(1, 5))
        design = Design(
            tuple(int(n) for n in rng.integers(100 // k + 1, 400 // k, size=k)),
            tuple(rng.uniform(0.5, 0.97, size=k)),
            tuple(rng.dirichlet([8.0] * k)),
            int(rng.integers(1, 7)),
            float(rng.choice([0.0, 0.1, 0.3, 0.6])),
            float(rng.choice([0.0, 0.3])),
        )
        (interval,) = intervals(design.simulated(rng), np.array([design.weights]), seed=i, draws=500)
        covered += interval.low <= design.truth <= interval.high
    assert 0.93 <= covered / BENCHMARKS <= 0.97


def null_rejections(prompts: int, most: int, seed: int = 5) -> tuple[float, float]:
    """How often the difference of two equally good scorers is significant, by bootstrap and by McNemar."""
    rng = np.random.default_rng(seed)
    bootstrap = mcnemar = 0
    for i in range(BENCHMARKS):
        of = np.repeat(np.arange(prompts), rng.integers(1, most + 1, size=prompts))
        names = tuple(map(str, of))
        rows = tuple(map(str, range(len(of))))
        tallies = {}
        for label in "ab":
            chance = rng.beta(1.5, 0.5, size=prompts)[of]
            mean = Mean((rng.random(len(of)) < chance).astype(float), rows, names)
            tallies[label] = Tally({"m": mean}, {"n": {"m": 1.0}}, "n")
        (found,) = contrasts("bench", tallies, seed=i, draws=500)
        bootstrap += found.p_bootstrap < 0.05
        assert found.p_mcnemar is not None
        mcnemar += found.p_mcnemar < 0.05
    return bootstrap / BENCHMARKS, mcnemar / BENCHMARKS


@pytest.mark.parametrize(("prompts", "most"), [(40, 5), (150, 1), (150, 5)])
def test_a_true_null_is_rejected_about_one_time_in_twenty(prompts, most):
    for rejected in null_rejections(prompts, most):
        assert 0.03 <= rejected <= 0.07, rejected


def test_counting_rows_of_a_prompt_as_independent_would_reject_too_often():
    rng = np.random.default_rng(6)
    rejected = 0
    for _ in range(BENCHMARKS):
        votes = np.repeat(rng.choice([-1, 1], size=40), 5)
        by_row, by_prompt = (
            mcnemar({"m": Mean(votes.astype(float), rows, prompts)}, {"m": 1.0})
            for rows in [tuple(map(str, range(200)))]
            for prompts in (rows, tuple(str(i // 5) for i in range(200)))
        )
        rejected += by_row < 0.05
        assert by_prompt >= by_row
    assert rejected / BENCHMARKS > 0.3


@pytest.mark.slow
@pytest.mark.parametrize("prompts", [10, 20, 40, 80, 100, 200, 400])
def test_every_clustering_and_accuracy_is_covered(prompts):
    """A share over so few independent prompts takes but a few values, so one cell may stray (Wilson's own 95 % is
    92.4 at .7 over 10); all together may not."""
    cells = []
    for right in (0.5, 0.7, 0.85, 0.93, 0.97):
        for alike, most, ties in ((0.0, 1, 0.0), (0.1, 4, 0.3), (0.3, 4, 0.3), (0.6, 6, 0.0)):
            cells.append(coverage(Design((prompts,), (right,), (1.0,), most, alike, ties), draws=500)[0])
    assert 0.93 <= np.mean(cells) <= 0.97, cells
    assert min(cells) >= 0.91, cells
    assert max(cells) <= 0.99, cells
