"""Prompts with several responses and what humans said of each: a user's own file, SummEval.

Items keep the source's order, and some sources list the best response first. That leaks nothing to a scorer, which
scores each response by itself; judges that compare balance the orders of every pair they show.
"""

from __future__ import annotations

from typing import Any

from judges.data.items import conversation, to_item
from judges.evaluation.benchmarks.base import Benchmark
from judges.evaluation.benchmarks.rows import Fields, count_differs, group, read_items, with_gold
from judges.types import Failure, Item

SUMMEVAL = "hf:mteb/summeval:test"
SUMMEVAL_ROWS = 100
SUMMEVAL_ASPECTS = ("coherence", "consistency", "fluency", "relevance")
WANTED = "a ranking needs prompt, responses (two or more) and one of human_scores, scores, ranking, best_first: true"


def to_ranking(name: str, fields: Fields) -> Item | Failure:
    """An Item from `prompt`, `responses` and `human_scores` or `scores` (higher is better), `ranking` (1 is best),
    or `best_first: true` for responses that stand in that order.

    `aspects` (name to one score for each response) and `systems` go to `meta` as aspects and authors. `pairs`, a
    list of [first, second, outcome], are the comparisons that matter. A `context` stands before the question.

    >>> to_ranking("a", {"prompt": "Hi", "responses": ["x", "y"], "best_first": True}).gold.ranking
    (1.0, 2.0)
    """
    responses = fields.get("responses")
    if not isinstance(responses, list) or len(responses) < 2:
        return Failure("malformed", WANTED)
    told = dict(fields)
    if fields.get("human_scores") is not None:
        told["scores"] = fields["human_scores"]
    if fields.get("best_first") is True and told.get("scores") is None and told.get("ranking") is None:
        told["ranking"] = [float(place) for place in range(1, len(responses) + 1)]
    if isinstance(context := fields.get("context"), str) and context.strip():
        told["prompt"] = _after(context, fields.get("prompt"))
    read = to_item(name, told)
    if isinstance(read, Failure):
        return read
    if read.gold is None:
        return Failure("malformed", WANTED)
    meta: dict[str, Any] = group(fields)
    aspects = fields.get("aspects")
    if aspects is not None:
        if not isinstance(aspects, dict) or any(
            not isinstance(values, list) or len(values) != len(responses) for values in aspects.values()
        ):
            return Failure("malformed", f"aspects is a name for each list of {len(responses)} scores")
        meta["aspects"] = aspects
    if isinstance(systems := fields.get("systems"), list):
        if len(systems) != len(responses):
            return Failure("malformed", f"systems names {len(systems)} authors of {len(responses)} responses")
        meta["authors"] = systems
    comparisons = None
    if (pairs := fields.get("pairs")) is not None:
        if not isinstance(pairs, list) or not all(_is_pair(pair, len(responses)) for pair in pairs):
            return Failure("malformed", "pairs is a list of [first, second, outcome], two places of responses")
        meta["pairs"] = pairs
        comparisons = [(pair[0], pair[1]) for pair in pairs]
    return with_gold(read, read.gold, meta, comparisons)


def _is_pair(pair: Any, count: int) -> bool:
    if not isinstance(pair, list) or len(pair) < 2:
        return False
    return pair[0] != pair[1] and all(isinstance(place, int) and 0 <= place < count for place in pair[:2])


def _after(context: str, prompt: Any) -> Any:
    """The prompt with the context before its first message."""
    turns = conversation(prompt)
    if isinstance(turns, Failure):
        return prompt
    if isinstance(turns, str):
        return f"{context}\n\n{turns}"
    return [{**turns[0], "content": f"{context}\n\n{turns[0]['content']}"}, *turns[1:]]


def summeval(source: str = SUMMEVAL) -> Benchmark:
    """SummEval (Fabbri et al. 2021, arXiv 2007.12626): 100 articles, each with the summaries of 16 systems.

    The hub's columns are `text`, `machine_summaries` and one list for each aspect, the mean of three experts from
    1 to 5. A summary's score is the mean of its four aspects. The human summaries are not judged.
    """
    items = read_items(source, _summeval_row)
    return Benchmark("summeval", "SummEval", items, source, differs=count_differs(len(items), SUMMEVAL_ROWS))


def _summeval_row(name: str, fields: Fields) -> Item | Failure:
    if "machine_summaries" not in fields:
        return to_ranking(name, fields)
    summaries, text = fields["machine_summaries"], fields.get("text")
    lists = [fields.get(aspect) for aspect in SUMMEVAL_ASPECTS]
    if not isinstance(text, str) or any(not isinstance(v, list) or len(v) != len(summaries) for v in lists):
        wanted = ", ".join(SUMMEVAL_ASPECTS)
        return Failure("malformed", f"a SummEval row needs text, machine_summaries and, for each of them, {wanted}")
    rated = [values for values in lists if isinstance(values, list)]
    if not all(isinstance(value, int | float) for values in rated for value in values):
        return Failure("malformed", "an aspect's score is not a number")
    told = {
        "prompt": f"Summarize the following article.\n\n{text}",
        "responses": summaries,
        "human_scores": [sum(scores) / len(scores) for scores in zip(*rated, strict=True)],
        "aspects": dict(zip(SUMMEVAL_ASPECTS, rated, strict=True)),
    }
    return to_ranking(name, told)
