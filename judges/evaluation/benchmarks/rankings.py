"""Prompts with several responses, each with a human score or rank: a user's own file, SummEval.

Items keep the source's order, and some sources list the best response first. This gives nothing away: scorers score
each response by itself, and judges that compare balance the orders of every pair.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from judges.data.items import parse_prompt, to_item
from judges.evaluation.benchmarks.base import Benchmark
from judges.evaluation.benchmarks.rows import Fields, count_difference, group, read_items
from judges.types import Failure, Item

SUMMEVAL = "hf:mteb/summeval:test"
SUMMEVAL_ROWS = 100
SUMMEVAL_ASPECTS = ("coherence", "consistency", "fluency", "relevance")
EXPECTED = "a ranking needs prompt, responses (two or more) and one of human_scores, scores, ranking, best_first: true"


def to_ranking(name: str, fields: Fields) -> Item | Failure:
    """An Item from `prompt`, `responses` and `human_scores` or `scores` (higher is better), `ranking` (1 is best),
    or `best_first: true` for responses in order of quality.

    `aspects` (name to one score for each response) and `systems` go to `meta` as aspects and authors. `pairs`, a
    list of [first, second, outcome], are the comparisons that matter. A `context` is put before the prompt.

    >>> to_ranking("a", {"prompt": "Hi", "responses": ["x", "y"], "best_first": True}).gold.ranking
    (1.0, 2.0)
    """
    responses = fields.get("responses")
    if not isinstance(responses, list) or len(responses) < 2:
        return Failure("malformed", EXPECTED)
    columns = dict(fields)
    if fields.get("human_scores") is not None:
        columns["scores"] = fields["human_scores"]
    if fields.get("best_first") is True and columns.get("scores") is None and columns.get("ranking") is None:
        columns["ranking"] = [float(rank) for rank in range(1, len(responses) + 1)]
    if isinstance(context := fields.get("context"), str) and context.strip():
        columns["prompt"] = _prepend_context(context, fields.get("prompt"))
    item = to_item(name, columns)
    if isinstance(item, Failure):
        return item
    if item.gold is None:
        return Failure("malformed", EXPECTED)
    meta: dict[str, Any] = group(fields)
    aspects = fields.get("aspects")
    if aspects is not None:
        if not isinstance(aspects, dict) or any(
            not isinstance(values, list) or len(values) != len(responses) for values in aspects.values()
        ):
            return Failure("malformed", f"aspects must map each name to a list of {len(responses)} scores")
        meta["aspects"] = aspects
    if isinstance(systems := fields.get("systems"), list):
        if len(systems) != len(responses):
            return Failure("malformed", f"systems names {len(systems)} authors of {len(responses)} responses")
        meta["authors"] = systems
    comparisons = None
    if (pairs := fields.get("pairs")) is not None:
        if not isinstance(pairs, list) or not all(_is_pair(pair, len(responses)) for pair in pairs):
            return Failure("malformed", "pairs must be a list of [first, second, outcome], with two response indices")
        meta["pairs"] = pairs
        comparisons = [(pair[0], pair[1]) for pair in pairs]
    return replace(item, meta={**item.meta, **meta}, comparisons=comparisons)


def _is_pair(pair: Any, count: int) -> bool:
    if not isinstance(pair, list) or len(pair) < 2:
        return False
    return pair[0] != pair[1] and all(isinstance(index, int) and 0 <= index < count for index in pair[:2])


def _prepend_context(context: str, prompt: Any) -> Any:
    """The prompt with the context before its first message."""
    turns = parse_prompt(prompt)
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
    return Benchmark("summeval", "SummEval", items, source, differs=count_difference(len(items), SUMMEVAL_ROWS))


def _summeval_row(name: str, fields: Fields) -> Item | Failure:
    if "machine_summaries" not in fields:
        return to_ranking(name, fields)
    summaries, text = fields["machine_summaries"], fields.get("text")
    lists = [fields.get(aspect) for aspect in SUMMEVAL_ASPECTS]
    if not isinstance(text, str) or any(not isinstance(v, list) or len(v) != len(summaries) for v in lists):
        aspects = ", ".join(SUMMEVAL_ASPECTS)
        return Failure("malformed", f"a SummEval row needs text, machine_summaries and, for each of them, {aspects}")
    rated = [values for values in lists if isinstance(values, list)]
    if not all(isinstance(value, int | float) for values in rated for value in values):
        return Failure("malformed", "an aspect's score is not a number")
    columns = {
        "prompt": f"Summarize the following article.\n\n{text}",
        "responses": summaries,
        "human_scores": [sum(scores) / len(scores) for scores in zip(*rated, strict=True)],
        "aspects": dict(zip(SUMMEVAL_ASPECTS, rated, strict=True)),
    }
    return to_ranking(name, columns)
