"""JudgeBench: pairs of a right and a wrong response of one model to a hard question, judged in both orders.

Tan et al. 2024, arXiv 2410.12784; its code and data are ScalerLab/JudgeBench.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from judges.evaluation.benchmarks.base import Benchmark
from judges.evaluation.benchmarks.rows import Row, count_differences, read_rows
from judges.evaluation.benchmarks.verdicts import chosen_of_pair, higher_score, verdicts
from judges.evaluation.statistics.tally import Tally, mean_of
from judges.types import Gold, Item, Scorecard

HUB = "hf:ScalerLab/JudgeBench:gpt"
GPT_4O, CLAUDE = "gpt-4o-2024-05-13", "claude-3-5-sonnet-20240620"
# How a question's source begins, and the category it belongs to [arXiv 2410.12784].
CATEGORIES = {
    "mmlu-pro": "knowledge",
    "livebench-reasoning": "reasoning",
    "livebench-math": "math",
    "livecodebench": "coding",
}
# Pairs of each split, which is named by the model that answered [the repository's README].
PAIRS = {GPT_4O: 350, CLAUDE: 270}
# The GPT-4o split's pairs by category [counted in the published data].
COUNTS = {"knowledge": 154, "reasoning": 98, "math": 56, "coding": 42}
TITLES = {GPT_4O: "JudgeBench (GPT-4o pairs)", CLAUDE: "JudgeBench (Claude 3.5 Sonnet pairs)"}
EXPECTED = (
    "a row needs question, response_A, response_B, label (A>B or B>A) and source, or prompt, chosen, rejected,"
    " original_winner_position (a or b) and source"
)
LABELS = {"A>B": 0, "B>A": 1}


def load(source: str = HUB) -> Benchmark:
    """The pairs in the order in which they were published: response A, then B; `gold.chosen` is the label's side.

    `source` is the dataset (its split `claude` too), or a file with its columns or with the winner's position
    beside `chosen` and `rejected`. An Item's id is the published pair id, its subset the category; a file that
    does not name the model that answered is compared with the GPT-4o split. Raises CannotRun for a row of
    another shape.
    """
    seen: set[str] = set()
    items = tuple(_item(row, seen) for row in read_rows(source, EXPECTED))
    authors = sorted({str(model) for item in items for model in item.meta.get("authors", ())})
    model = authors[0] if authors else GPT_4O
    return Benchmark(
        name="judgebench",
        title=TITLES.get(model, "JudgeBench"),
        items=items,
        source=source,
        official=official,
        differs=_differs(items, authors, model),
    )


def official(items: Sequence[Item], cards: Mapping[str, Scorecard]) -> Tally:
    """The share of pairs judged rightly: `overall` over all pairs, and by category.

    Each order gives +1 for the label's side, −1 for the other and 0 for a tie or no verdict; a pair is right
    where the sum is positive, and every pair counts. Scores give the same in both orders; equal or missing ones
    give 0 (its reward models answer B>A to a tie in both orders, which sums to 0 as well). A judge that
    compared in only one order is right where that verdict is, as in the benchmark's single-game mode.
    """
    right = [(item, float(_sum(item, cards[item.id]) > 0)) for item in items]
    parts = {name: [(item, value) for item, value in right if item.subset == name] for name in COUNTS}
    means = {"overall": mean_of(right)} | {name: mean_of(part) for name, part in parts.items() if part}
    return Tally(
        means=means,
        numbers={name: {name: 1.0} for name in means},
        headline="overall",
        missing={name: f"there is no pair of {name}" for name, part in parts.items() if not part},
    )


def _sum(item: Item, card: Scorecard) -> int:
    right = chosen_of_pair(item)
    winners = verdicts(card, (0, 1)) or (higher_score(card, (0, 1)),)
    return sum(0 if winner is None else 1 if winner == right else -1 for winner in winners)


def _item(row: Row, seen: set[str]) -> Item:
    prompt, responses, right = row.published_pair("question", ("response_A", "response_B"), LABELS)
    origin = row.text("source")
    category = next((name for start, name in CATEGORIES.items() if origin.startswith(start)), origin)
    model = row.fields.get("response_model")
    name = str(row.fields.get("pair_id") or row.fields.get("id") or "").removeprefix("jb-")
    return Item(
        id=row.unique_id(seen, name),
        prompt=prompt,
        responses=responses,
        subset=category,
        meta={"source": origin} | ({"authors": [str(model)] * 2} if model else {}),
        gold=Gold(chosen=(right,)),
    )


def _differs(items: Sequence[Item], authors: Sequence[str], model: str) -> tuple[str, ...]:
    if len(authors) > 1:
        return (f"pairs of {len(authors)} models ({', '.join(authors)}), where a published split is of one",)
    if model not in PAIRS:
        return (f"the responses are {model}'s; the published splits are of {' and '.join(PAIRS)}",)
    found = Counter(item.subset or "" for item in items)
    if model == GPT_4O:
        return count_differences(found, COUNTS, "pairs")
    total = count_differences({"in all": len(items)}, {"in all": PAIRS[model]}, "pairs")
    return total + tuple(f"{name}: not a category of the published set" for name in found if name not in COUNTS)
