"""Published scores are whole, plausible, and named like the official numbers."""

import re

import pytest

from judges.evaluation.benchmarks import BENCHMARKS
from judges.evaluation.benchmarks.base import Benchmark
from judges.evaluation.references import published_scores
from judges.types import Comparison, Gold, Item, Judgment, Scorecard

COVERED = ("rewardbench", "rm-bench", "judgebench")
FOUR = ("Chat", "Chat Hard", "Safety", "Reasoning")
ALL = [p for name in COVERED for p in published_scores(name)]


def by_model(benchmark):
    models = {p.model for p in published_scores(benchmark)}
    return {m: {p.section: p.score for p in published_scores(benchmark) if p.model == m} for m in models}


def test_the_table_holds_scores_of_no_other_benchmark_than_known_ones():
    import yaml

    from judges.evaluation import references as module

    entries = yaml.safe_load(module._TABLE.read_text(encoding="utf-8"))
    assert {e["benchmark"] for e in entries} == set(COVERED) <= set(BENCHMARKS.names())
    assert sum(len(e["scores"]) for e in entries) == len(ALL) > 50
    assert len({(p.benchmark, p.model, p.section) for p in ALL}) == len(ALL)


@pytest.mark.parametrize("published", ALL, ids=lambda p: f"{p.benchmark}-{p.model}-{p.section}")
def test_each_score_is_a_percentage_with_its_source_and_date(published):
    assert 0 < published.score < 100
    assert len(published.source) > 10 and len(published.read) > 10
    assert re.fullmatch(r"202[3-6]-(0[1-9]|1[0-2])(-[0-3]\d)?", published.date)


def test_section_names_are_those_of_the_official_numbers():
    from judges.evaluation.benchmarks import judgebench, rewardbench, rm_bench

    def judged(items):
        cards = [
            Scorecard(
                i.id,
                tuple(Judgment(score=float(-n)) for n in range(len(i.responses))),
                tuple(Comparison(a, b, "first") for a, b in i.pairs()),
            )
            for i in items
        ]
        return {c.id: c for c in cards}

    def pair(n, subset, responses=2, **meta):
        texts = [f"r{k}" for k in range(responses)]
        return Item(str(n), f"p{n}", texts, subset=subset, gold=Gold(chosen=(0,)), meta=meta)

    subsets = [s for section in rewardbench.SECTIONS.values() for s in section]
    prior = ["anthropic_helpful", "anthropic_hhh", "shp", "summarize"]
    made = {
        "rewardbench": (rewardbench, [pair(n, s) for n, s in enumerate([*subsets, *prior])]),
        "judgebench": (judgebench, [pair(n, s) for n, s in enumerate(("knowledge", "reasoning", "math", "coding"))]),
        "rm-bench": (
            rm_bench,
            [
                Item(str(n), f"p{n}", list("abcdef"), subset=s, gold=Gold(chosen=(0, 1, 2)))
                for n, s in enumerate(("chat", "math", "code", "safety-refuse", "safety-response"))
            ],
        ),
    }
    for name, (module, items) in made.items():
        assert isinstance(Benchmark(name, name, tuple(items), "test").digest, str)
        official = module.official(items, judged(items))
        assert {p.section for p in published_scores(name)} <= set(official.numbers), name


def test_rewardbench_overall_scores_follow_from_their_sections():
    """Rounded to a tenth, a mean of four rounded numbers is off by less than 0.11."""
    whole = [s for s in by_model("rewardbench").values() if {*FOUR, "overall, four sections"} <= set(s)]
    assert len(whole) >= 5
    for scores in whole:
        assert scores["overall, four sections"] == pytest.approx(sum(scores[s] for s in FOUR) / 4, abs=0.11)
    prior = {"RLHFlow/ArmoRM-Llama3-8B-v0.1": 74.3, "sfairXC/FsfairX-LLaMA3-RM-v0.1": 74.9, "gpt-4o-2024-05-13": 72.6}
    for model, mean in prior.items():
        scores = by_model("rewardbench")[model]
        found = (2 * sum(scores[s] for s in FOUR) + mean) / 9
        assert scores["overall with prior sets"] == pytest.approx(found, abs=0.11)


def test_rm_bench_scores_agree_with_each_other():
    for scores in by_model("rm-bench").values():
        levels = sum(scores[s] for s in ("easy", "normal", "hard")) / 3
        domains = sum(scores[s] for s in ("chat", "math", "code", "safety")) / 4
        assert scores["overall"] == pytest.approx(levels, abs=0.11) == pytest.approx(domains, abs=0.11)


def test_judgebench_scores_are_shares_of_350_pairs():
    for scores in by_model("judgebench").values():
        right = scores["overall"] * 350 / 100
        assert abs(right - round(right)) < 0.02


# Subset accuracies as rows right, from the published files: [ArmoRM, Skywork-Reward-Llama-3.1-8B], of so many.
SAFETY = {
    "refusals-dangerous": (93, 92, 100),
    "refusals-offensive": (97, 98, 100),
    "xstest-should-refuse": (154, 147, 154),
    "xstest-should-respond": (218, 243, 250),
    "donotanswer": (108, 92, 136),
}


@pytest.mark.parametrize(
    ("place", "model", "swapped"),
    [(0, "RLHFlow/ArmoRM-Llama3-8B-v0.1", 92.2), (1, "Skywork/Skywork-Reward-Llama-3.1-8B", 90.6)],
)
def test_safety_is_weighted_with_the_counts_the_right_way_round(place, model, swapped):
    right = sum(row[place] for row in SAFETY.values()) / sum(row[2] for row in SAFETY.values())
    assert by_model("rewardbench")[model]["Safety"] == pytest.approx(100 * right, abs=0.05)
    counts = {name: row[2] for name, row in SAFETY.items()}
    counts |= {"xstest-should-refuse": 250, "xstest-should-respond": 154}
    wrong = sum(row[place] / row[2] * counts[name] for name, row in SAFETY.items()) / sum(counts.values())
    assert 100 * wrong == pytest.approx(swapped, abs=0.05)
