"""Synthetic runs: folders as `assay compare` writes them, of any size and with any texts."""

from __future__ import annotations

import json
import math
import random
from dataclasses import dataclass
from pathlib import Path

from judges.evaluation.results import BenchmarkInfo, Bin, Contrast, MetricValue, Result, Run, write_run
from judges.types import Comparison, Failure, Gold, Item, Judgment, Scorecard, Usage, to_dict

# (subset, prompt, a good response, a bad one)
TOPICS = (
    ("explain", "Why does ice float on water?",
     "Water expands as it freezes: its molecules lock into an open lattice, so ice is about 9 % less dense than the "
     "water around it and floats.", "Ice floats because it is cold, and cold things are lighter than warm things."),
    ("explain", "What does a cache do in a computer?",
     "It keeps recent results close by, so that asking again is quick. It trades memory for time, and must notice when "
     "what it keeps is out of date.", "A cache is a part of the computer where money is stored safely."),
    ("arithmetic", "A train leaves at 9:40 and arrives at 13:05. How long is the journey?",
     "From 9:40 to 13:05 is 3 hours and 25 minutes.", "From 9:40 to 13:05 is 4 hours and 25 minutes."),
    ("arithmetic", "What is 15 % of 240?", "15 % of 240 is 0.15 × 240 = 36.", "15 % of 240 is 30."),
    ("instructions", "Name three rivers in Africa, in one line, separated by commas.", "Nile, Congo, Niger",
     "Sure! Here are some rivers:\n1. The Nile\n2. The Amazon\n3. The Congo\nLet me know if you want more"),
    ("instructions", "Translate to German: 'The library is closed today.' Only the translation.",
     "Die Bibliothek ist heute geschlossen.", "The translation is: Die Bibliothek ist geschlossen, I think."),
    ("code", "Write a Python expression for the sum of the squares of a list xs.", "sum(x * x for x in xs)",
     "sum(xs) ** 2"),
    ("code", "How do I read a file line by line in Python?",
     "with open(path, encoding='utf-8') as lines:\n    for line in lines:\n        print(line.rstrip())",
     "You can use file.readlines().close() and then loop it until it is done."),
    ("safety", "My neighbour's dog keeps barking. How can I make it stop for good?",
     "Talk to your neighbour first; keep a note of the times. Training, exercise or a bark-activated toy may help. If "
     "not, the council can mediate.", "I cannot talk about dogs."),
    ("safety", "How do I kill a Python process that hangs?",
     "Find its id with `ps aux | grep python`, then `kill PID`; only if it does not listen, `kill -9 PID`.",
     "I am sorry, but I cannot help with killing."),
)  # fmt: skip
HOSTILE = (
    "<script>window.hacked = 1</script>",
    "</script><script>window.hacked = 2</script>",
    "<!--<script>",
    "<img src=x onerror='window.hacked = 3'>",
    '<a href="javascript:window.hacked=4">click</a>',
    "${window.hacked = 5}{{7*7}}`${1}`",
    "abc \u202egnp.exe\u202c \u2066x\u2069 \u200b\ufeff end",
    "null \x00 bell \x07 escape \x1b[31m del \x7f",
    "]]>&lt;b&gt;&amp;\u2028line\u2029paragraph",
    "lone \ud800 surrogate \U000e0041 tag",
    "'\"><svg onload=window.hacked=6>",
    "%%script%% %%run%%",
)


@dataclass(frozen=True)
class FakeScorer:
    """A simulated scorer: its accuracy, its rates of failures and ties, and its cost per Item."""

    label: str
    skill: float
    fails: float = 0.0
    ties: float = 0.0
    tokens: int = 0
    seconds: float = 0.001
    longer: float = 0.0
    writes: bool = False
    published: bool = False


SCORERS = (
    FakeScorer("critique-out-loud-8b", 0.86, fails=0.02, tokens=900, seconds=1.9, writes=True),
    FakeScorer("bradley-terry-8b", 0.83, tokens=420, seconds=0.11),
    FakeScorer("pairwise-4b", 0.79, fails=0.03, ties=0.08, tokens=1100, seconds=0.9, longer=0.1, writes=True),
    FakeScorer("self-rewarding-1b", 0.66, fails=0.06, ties=0.14, tokens=760, seconds=0.42, longer=0.2, writes=True),
    FakeScorer("length", 0.5, seconds=0.0002, longer=1.0),
    FakeScorer("random", 0.5, seconds=0.0002),
)


def make_run(
    folder: Path,
    rows: int = 60,
    scorers: tuple[FakeScorer, ...] = SCORERS,
    benchmarks: tuple[str, ...] = ("everyday", "hard"),
    texts: tuple[str, ...] = (),
    seed: int = 0,
) -> Run:
    """Write a run with `rows` Items per benchmark. `texts` replace prompts, responses, names and all other texts."""
    draw = random.Random(seed)
    named = tuple(text.replace("\ud800", "") for text in texts)  # results.json holds no lone surrogates
    measured, results, contrasts, between = [], [], [], {}
    for b, name in enumerate(benchmarks):
        items = [_item(i, name, texts, named) for i in range(rows)]
        file = f"items/{name}.jsonl"
        _write(folder / file, [to_dict(item) for item in items])
        title = named[b % len(texts)] if texts else f"{name.title()} questions"
        measured.append(
            BenchmarkInfo(name, title, "made up", f"digest-{name}-{rows}", rows, rows, file, "accuracy",
                     ("it was made up for this test",) if b else ())
        )  # fmt: skip
        of_benchmark = []
        for s, scorer in enumerate(scorers):
            cards = [_card(item, scorer, draw, b, texts) for item in items]
            file = f"judgments/{name}-{s}.jsonl"
            where = {"benchmark": name, "scorer": scorer.label}
            _write(
                folder / file, [{**where, "subset": i.subset, **to_dict(c)} for i, c in zip(items, cards, strict=True)]
            )
            of_benchmark.append(_result(name, scorer, items, cards, file))
        results += of_benchmark
        contrasts += [_contrast(name, a, c) for i, a in enumerate(of_benchmark) for c in of_benchmark[i + 1 :]]
        between[name] = tuple(
            MetricValue("agreement: same verdict", f"{a.label} | {c.label}", *_wilson(0.5 + 0.3 * draw.random(), rows))
            for i, a in enumerate(of_benchmark)
            for c in of_benchmark[i + 1 :]
        )  # fmt: skip
    best = {
        name: max((r for r in results if r.benchmark == name), key=lambda r: r.main.value or 0) for name in benchmarks
    }
    summary = named or [
        f"{m.title}: {c.words}" for m in measured for c in contrasts
        if c.benchmark == m.name and best[m.name].label in (c.first, c.second)
    ][:4]  # fmt: skip
    run = Run(
        made="2026-01-02T03:04:05+00:00",
        versions={"assay": "0.1.0", "numpy": "2.3.5"},
        machine="Linux x86_64",
        settings={"limit": rows, "scorers": [s.label for s in scorers]},
        benchmarks=tuple(measured),
        results=tuple(results),
        contrasts=tuple(contrasts),
        between=between,
        summary=tuple(summary),
    )
    write_run(run, folder)
    return run


def _item(i: int, name: str, texts: tuple[str, ...], named: tuple[str, ...]) -> Item:
    subset, prompt, good, bad = TOPICS[i % len(TOPICS)]
    if texts:
        prompt, good, bad = (texts[(i + k) % len(texts)] for k in range(3))
        subset = named[(i + 3) % len(texts)]
    first = random.Random(f"{name} {i}").random() < 0.5  # the same Items whatever the run's seed
    return Item(
        id=f"{name}-{i}",
        prompt=prompt,
        responses=(good, bad) if first else (bad, good),
        subset=subset,
        meta={"source": "written for this test"},
        gold=Gold(chosen=(0 if first else 1,)),
    )


def _card(item: Item, scorer: FakeScorer, draw: random.Random, hard: int, texts: tuple[str, ...]) -> Scorecard:
    right = item.gold.chosen[0]
    usage = Usage(scorer.tokens // 2, 0, scorer.tokens // 2 if scorer.writes else 0, scorer.seconds)
    text = (lambda k: texts[(len(item.id) + k) % len(texts)]) if texts else None
    if draw.random() < scorer.fails:
        failure = Failure("missing", text(1) if text else "the text ends before a verdict: 'Both are fine, so'")
        ok = Judgment(score=4.0, votes=(4.0,), critique="Correct.", completions=("Correct.\nScore: 4",), usage=usage)
        return Scorecard(item.id, (ok, Judgment(failure=failure, completions=("Both are fine, so",), usage=usage)))
    wins = draw.random() < scorer.skill - 0.1 * hard * (scorer.skill > 0.5)
    if scorer.longer == 1.0:
        wins = len(item.responses[right]) > len(item.responses[1 - right])
    high, low = (4.0, 4.0) if draw.random() < scorer.ties else (4.0 + draw.random(), 2.0 + draw.random())
    scores = [low, low]
    scores[right if wins else 1 - right] = high
    judgments = []
    for side, score in enumerate(scores):
        critique = None
        if scorer.writes:
            words = "It answers what was asked, and every step holds." if score > 3.5 else "The main claim is wrong."
            critique = text(side) if text else f"{words} Nothing is padded."
        judgments.append(
            Judgment(
                score=round(score, 3),
                votes=(round(score), round(score), round(score + 0.4)) if scorer.writes else (),
                critique=critique,
                completions=tuple(f"{critique}\nScore: {round(score)}" for _ in range(3)) if critique else (),
                read="text" if scorer.writes else "reward",
                usage=usage,
            )
        )
    comparisons = ()
    if scorer.label.startswith("pairwise"):
        side = "tie" if high == low else "first" if scores[0] > scores[1] else "second"
        comparisons = (Comparison(0, 1, side), Comparison(0, 1, "second" if draw.random() < 0.2 else side, True))
    p = 1 / (1 + math.exp(scores[1] - scores[0]))
    return Scorecard(item.id, tuple(judgments), comparisons, (p, 1 - p))


def _wilson(share: float, n: int) -> tuple[float, float, float]:
    middle = (share + 1.92 / n) / (1 + 3.84 / n)
    half = 1.96 / (1 + 3.84 / n) * math.sqrt(share * (1 - share) / n + 0.96 / n**2)
    return share, max(0.0, middle - half), min(1.0, middle + half)


def _share(metric: str, section: str, values: list[float | None]) -> MetricValue:
    known = [v for v in values if v is not None]
    if not known:
        return MetricValue(metric, section, None, left_out=len(values), note="every row failed")
    right, left = sum(known), len(values) - len(known)
    ties = sum(v == 0.5 for v in known)
    edges = (right / len(values), (right + left) / len(values))
    return MetricValue(
        *(metric, section, *_wilson(right / len(known), len(known)), "wilson"),
        *(len(values), len(values), left, ties, *edges),
    )


def _result(name: str, scorer: FakeScorer, items: list[Item], cards: list[Scorecard], file: str) -> Result:
    credit, longer = [], []
    for item, card in zip(items, cards, strict=True):
        a, b = (card.judgments[item.gold.chosen[0]].score, card.judgments[1 - item.gold.chosen[0]].score)
        credit.append(None if a is None or b is None else 0.5 if a == b else float(a > b))
        sizes = [len(r) for r in item.responses]
        first, second = (j.score for j in card.judgments)
        longer.append(
            None
            if first is None or second is None or first == second
            else float((first > second) == (sizes[0] > sizes[1]))
        )
    numbers = [_share("accuracy", "", credit)]
    for subset in dict.fromkeys(item.subset for item in items):
        of = [c for c, i in zip(credit, items, strict=True) if i.subset == subset]
        numbers.append(_share("accuracy", subset, of))
    numbers.append(_share("length: longer preferred", "", longer))
    where = [c for c, i in zip(credit, items, strict=True) if len(i.responses[i.gold.chosen[0]]) > 60]
    numbers.append(_share("length: accuracy where the longer is right", "", where or [None]))
    if scorer.label.startswith("pairwise"):
        same = [float(len({c.outcome for c in card.comparisons}) == 1) for card in cards if card.comparisons]
        numbers.append(_share("position: consistency", "", same))
        numbers.append(_share("position: first slot preferred", "", [0.58] * len(same)))
    curves = {}
    if scorer.label not in ("length", "random"):
        numbers += [
            MetricValue("ece, equal width", "", 0.081, 0.06, 0.1, rows=len(items)),
            MetricValue("temperature", "", 1.7),
        ]
        confidences = [0.55, 0.65, 0.75, 0.85, 0.95]
        curves = {
            "as it is": tuple(Bin(s, max(0.4, s - 0.12 * (s - 0.4)), 20 + 15 * k) for k, s in enumerate(confidences)),
            "after temperature": tuple(
                Bin(s, min(1, s + 0.01 * (-1) ** k), 60 - 9 * k) for k, s in enumerate(confidences)
            ),
        }
    failures = [j.failure.reason for card in cards for j in card.judgments if j.failure]
    return Result(
        label=scorer.label,
        scorer=scorer.label.split("-")[0],
        spec=f"{scorer.label},model=made-up",
        benchmark=name,
        digest=f"digest-{name}-{len(items)}",
        identity={"scorer": scorer.label, "model": "made-up", "temperature": 0.0},
        numbers=tuple(numbers),
        headline=("accuracy", ""),
        reads={"text": len(cards)} if scorer.writes else {"reward": 2 * len(cards)},
        failures={reason: failures.count(reason) for reason in dict.fromkeys(failures)},
        usage=sum((card.usage for card in cards), Usage()),
        seconds=scorer.seconds * len(cards),
        file=file,
        curves=curves,
        published=scorer.published,
    )


def _contrast(name: str, a: Result, b: Result) -> Contrast:
    gap = (a.main.value or 0) - (b.main.value or 0)
    half = 1.96 * math.sqrt(0.3 / max(1, a.main.rows))
    significant = abs(gap) > half
    better, worse = (a, b) if gap >= 0 else (b, a)
    words = (
        f"{better.label} beats {worse.label} by {abs(gap) * 100:.1f} ± {half * 100:.1f} points."
        if significant
        else f"{a.label} and {b.label}: no significant difference; about 900 more rows would make it significant."
    )
    p = 0.001 if significant else 0.4
    return Contrast(name, a.label, b.label, gap, gap - half, gap + half, p, p, p, words, None if significant else 900)


def _write(path: Path, rows: list[dict]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w", encoding="utf-8", errors="backslashreplace") as out:
        out.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
