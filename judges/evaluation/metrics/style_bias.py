"""Style bias and self-preference: how verdicts depend on formatting and on the author of a response."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence

from judges.evaluation.benchmarks.rm_bench import STYLES
from judges.evaluation.metrics.pair_verdicts import Pair, PairMeans, gold_pairs, opposite
from judges.evaluation.results import MetricValue
from judges.types import Item, Scorecard

MIN_AUTHOR_PAIRS = 30
SELF_PREFERENCE = "self-preference"


def style_bias_numbers(items: Sequence[Item], cards: Mapping[str, Scorecard], seed: int = 0) -> tuple[MetricValue, ...]:
    """`style: easy minus hard`, where `meta["styles"]` names each response's style.

    Accuracy where the preferred response has the richer style, minus accuracy where it has the plainer, from plain
    to rich as in RM-Bench (Liu et al. 2024, arXiv 2410.16184). A tie is wrong, as in the paper. All prompts weigh
    the same, while RM-Bench's own `style gap` weighs its domains alike.
    """
    means = PairMeans()
    for pair in gold_pairs(items, cards):
        styles = pair.item.meta.get("styles")
        if pair.gold != 1 or not styles:
            continue
        first, second = (STYLES.index(s) if (s := styles[i]) in STYLES else None for i in (pair.first, pair.second))
        if first is None or second is None or first == second:
            continue
        right = None if pair.verdict is None else float(pair.verdict == 1)
        means.add("style: easy" if first > second else "style: hard", right, pair.name, pair.prompt)
    means.add_difference("style: easy minus hard", "style: easy", "style: hard")
    return tuple(means.metric_values(seed))


def author_bias_numbers(
    items: Sequence[Item], cards: Mapping[str, Scorecard], model: str = "", seed: int = 0
) -> tuple[MetricValue, ...]:
    """Preference for an author beyond gold's, where `meta["authors"]` names who wrote each response.

    `self-preference`, for the author that is the judge's own `model`: the share of its responses that the judge
    prefers to those of others, minus the share that gold does. `author: NAME preferred minus right`: the same for
    each author with 30 pairs or more. Pairs that gold ties count half.
    """
    own = normalize_model_name(model)
    by_author: dict[str, list[tuple[Pair, float | None, float]]] = defaultdict(list)
    names: dict[str, str] = {}
    for pair in gold_pairs(items, cards):
        authors = pair.item.meta.get("authors")
        if not authors or not (authors[pair.first] and authors[pair.second]):
            continue
        first, second = (str(authors[i]) for i in (pair.first, pair.second))
        first_key, second_key = normalize_model_name(first), normalize_model_name(second)
        if first_key != second_key:
            by_author[first_key].append((pair, pair.verdict, pair.gold))
            by_author[second_key].append((pair, opposite(pair.verdict), 1 - pair.gold))
            names |= {first_key: first, second_key: second}
    means = PairMeans()
    for author, rows in by_author.items():
        metrics = [SELF_PREFERENCE] if own and author == own else []
        metrics += [f"author: {names[author]}"] if len(rows) >= MIN_AUTHOR_PAIRS else []
        for metric in metrics:
            for pair, preferred, gold in rows:
                means.add(f"{metric} preferred", preferred, pair.name, pair.prompt)
                means.add(f"{metric} right", None if preferred is None else gold, pair.name, pair.prompt)
            difference = metric if metric == SELF_PREFERENCE else f"{metric} preferred minus right"
            means.add_difference(difference, f"{metric} preferred", f"{metric} right")
    return tuple(means.metric_values(seed))


def normalize_model_name(name: str) -> str:
    """A model's name without its owner, its release date and its punctuation, to match a judge with an author.

    >>> normalize_model_name("openai/GPT-4o-2024-05-13") == normalize_model_name("gpt-4o")
    True
    """
    bare = re.sub(r"[-_@]?20\d\d-?\d\d-?\d\d$", "", name.strip().lower())
    return re.sub(r"[^\w.]|_", "", re.split(r"[/:]", bare)[-1])
