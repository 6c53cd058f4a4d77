"""Single responses with a human score each: a user's own file, Topical-Chat."""

from __future__ import annotations

import math
from typing import Any

from judges.errors import CannotRun
from judges.evaluation.benchmarks.base import Benchmark
from judges.evaluation.benchmarks.rows import Fields, Row, checked, count_difference, make_item, read_items, read_rows
from judges.types import Failure, Gold, Item

TOPICAL_CHAT_ROWS = 360
EXPECTED = "a row with a human score needs prompt, response and human_score (or score), a number"
_USR = {
    "Understandable": "understandability",
    "Natural": "naturalness",
    "Maintains Context": "coherence",
    "Engaging": "engagingness",
    "Uses Knowledge": "groundedness",
}


def to_pointwise(name: str, fields: Fields) -> Item | Failure:
    """An Item of one response from `prompt`, `response` and `human_score` or `score`; or from `messages`.

    `group` names the context that rows share: they are resampled, and correlated, together. `aspects` go to `meta`.
    In rows with `task: pointwise`, `system` is the author of the response; otherwise it is the system prompt.

    >>> to_pointwise("a", {"prompt": "Hi", "response": "Hello!", "human_score": "4.5"}).gold.scores
    (4.5,)
    """
    given = fields.get("human_score") if fields.get("human_score") not in (None, "") else fields.get("score")
    score = _number(given)
    columns: dict[str, Any] = dict(fields)
    response, messages = fields.get("response"), fields.get("messages")
    if response is None and isinstance(messages, list) and messages and isinstance(messages[-1], dict):
        response, columns["messages"] = messages[-1].get("content"), messages[:-1]
    if score is None and isinstance(given, int) and not isinstance(given, bool):
        return Failure("malformed", "the human score is too large a number")
    if score is None or not isinstance(response, str):
        return Failure("malformed", EXPECTED)
    meta: dict[str, Any] = {}
    if isinstance(fields.get("aspects"), dict):
        meta["aspects"] = fields["aspects"]
    if fields.get("task") == "pointwise" and isinstance(columns.get("system"), str):
        meta["authors"] = [columns.pop("system")]
    return make_item(name, columns, [response], Gold(scores=(score,)), meta)


def _number(value: Any) -> float | None:
    if isinstance(value, bool):
        return None
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def topical_chat(source: str = "") -> Benchmark:
    """USR's annotations of Topical-Chat (Mehri and Eskenazi 2020, arXiv 2005.00456): 60 contexts of 6 replies.

    Published as one JSON list: `context`, `fact`, and `responses`, each with `response`, `model` and, from three
    annotators, `Overall` (1 to 5) and five aspects. A reply's score is the mean of `Overall`.
    """
    if not source:
        raise CannotRun(
            "topical-chat has no source: it is not on the hub; download USR's annotations, tc_usr_data.json, and give"
            " topical-chat:FILE"
        )
    items: list[Item] = []
    seen: set[str] = set()
    nested = False
    for row in read_rows(source):
        if "responses" not in row.fields:
            break
        nested = True
        items += _replies(row, seen)
    all_items = tuple(items) if nested else read_items(source, to_pointwise)
    differs = count_difference(len(all_items), TOPICAL_CHAT_ROWS, "replies")
    return Benchmark("topical-chat", "Topical-Chat (USR)", all_items, source, differs=differs)


def _replies(row: Row, seen: set[str]) -> list[Item]:
    context, fact, replies = row.fields.get("context"), row.fields.get("fact"), row.fields["responses"]
    if not isinstance(context, str) or not isinstance(replies, list):
        raise row.error("a USR row needs context and responses")
    hint = f"Use this if it helps: {fact.strip()}\n\n" if isinstance(fact, str) and fact.strip() else ""
    prompt = f"Write the next message of this conversation.\n\n{hint}{context.strip()}"
    return [
        checked(row, _reply(row.unique_id(seen, f"{row.number}-{i}"), str(row.number), prompt, reply))
        for i, reply in enumerate(replies)
    ]


def _reply(name: str, context: str, prompt: str, reply: Any) -> Item | Failure:
    score = _mean(reply.get("Overall")) if isinstance(reply, dict) else None
    if score is None or not isinstance(reply.get("response"), str):
        return Failure("malformed", "each of responses needs response and Overall, the annotators' scores")
    aspects = {aspect: mean for column, aspect in _USR.items() if (mean := _mean(reply.get(column))) is not None}
    meta = {"prompt": context, "aspects": aspects, "authors": [str(reply.get("model"))]}
    return make_item(name, {"prompt": prompt}, [reply["response"].strip()], Gold(scores=(score,)), meta)


def _mean(values: Any) -> float | None:
    if not isinstance(values, list) or not values or any(_number(value) is None for value in values):
        return None
    return sum(float(value) for value in values) / len(values)
