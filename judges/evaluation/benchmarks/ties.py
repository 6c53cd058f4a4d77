"""Pairs that may tie, with the votes of several annotators: a user's own file, PandaLM, MT-Bench human judgments."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from judges.errors import CannotRun
from judges.evaluation.benchmarks.base import Benchmark
from judges.evaluation.benchmarks.rows import (
    Fields,
    Row,
    authors,
    checked,
    count_difference,
    make_item,
    read_items,
    read_rows,
    unique_id,
    vote,
    votes,
)
from judges.types import Failure, Gold, Item

MT_BENCH = "hf:lmsys/mt_bench_human_judgments:human"
MT_BENCH_VOTES = 3355
PANDALM_ROWS = 999
EXPECTED = "a pair that may tie needs prompt, response_a, response_b and label (a, b or tie)"
MT_BENCH_EXPECTED = (
    "an MT-Bench vote needs question_id, turn (1 or 2), model_a, model_b, winner (model_a, model_b or tie), "
    "and conversation_a and conversation_b of that many turns"
)
_PANDALM_ANNOTATORS = ("1", "2", "3")  # the same three people judged every row [arXiv 2306.05087]
_PANDALM_LABELS = {"0": "tie", "1": "a", "2": "b"}


def to_tie(name: str, fields: Fields) -> Item | Failure:
    """An Item from `prompt`, `response_a`, `response_b` and `label`; without a label the majority of `votes`.

    Responses may be empty. `model_a` and `model_b` become `meta["authors"]`.

    >>> to_tie("x", {"prompt": "Hi", "response_a": "", "response_b": "Hello!", "label": "tie"}).gold.tie
    True
    """
    vote_meta = votes(fields.get("votes"))
    if isinstance(vote_meta, Failure):
        return vote_meta
    label = vote(fields.get("label")) if fields.get("label") not in (None, "") else majority(vote_meta.get("votes", ()))
    both = [fields.get("response_a"), fields.get("response_b")]
    if label is None or not all(isinstance(response, str) for response in both):
        return Failure("malformed", EXPECTED)
    return make_item(name, fields, both, gold_of(label), {**vote_meta, **authors(fields, "model_a", "model_b")})


def gold_of(label: str) -> Gold:
    """The gold of a pair from its label: "a", "b" or "tie"."""
    return Gold(tie=True) if label == "tie" else Gold(chosen=("ab".index(label),))


def majority(labels: Sequence[str]) -> str | None:
    """The most frequent label; a tie where two are equally frequent; None without a vote.

    >>> majority(["a", "b", "b"]), majority(["a", "b"]), majority(["a", "b", "tie"]), majority([])
    ('b', 'tie', 'tie', None)
    """
    counts = Counter(labels).most_common()
    if not counts:
        return None
    return counts[0][0] if len(counts) == 1 or counts[0][1] > counts[1][1] else "tie"


def pandalm(source: str = "") -> Benchmark:
    """PandaLM's test set (Wang et al. 2023, arXiv 2306.05087): 999 pairs, each judged by three annotators.

    Published as `data/testset-v1.json` of github.com/WeOpenML/PandaLM: `instruction`, `input`, `response1`,
    `response2`, `annotator1` to `annotator3` (0 a tie, 1 and 2 the better one), and `cmp_key`, the two models
    in the responses' order. Gold is the majority, as in its own evaluation.
    """
    if not source:
        raise CannotRun(
            "pandalm has no source: it is not on the hub under its authors' name; download data/testset-v1.json from "
            "github.com/WeOpenML/PandaLM and give pandalm:FILE"
        )
    items = read_items(source, _pandalm_row)
    return Benchmark("pandalm", "PandaLM", items, source, differs=count_difference(len(items), PANDALM_ROWS))


def _pandalm_row(name: str, fields: Fields) -> Item | Failure:
    columns: dict[str, Any] = dict(fields)
    if "response1" in fields or "annotator1" in fields:
        labels = [_PANDALM_LABELS.get(str(fields.get(f"annotator{i}"))) for i in (1, 2, 3)]
        if None in labels or not isinstance(fields.get("instruction"), str):
            return Failure(
                "malformed", "a PandaLM row needs instruction, response1, response2, annotator1 to 3 (0 to 2)"
            )
        context = fields.get("input")
        columns |= {
            "prompt": f"{fields['instruction']}\n\n{context}" if context else fields["instruction"],
            "response_a": fields.get("response1"),
            "response_b": fields.get("response2"),
            "votes": labels,
            "subset": fields.get("cmp_key"),
        }
    models = str(columns.get("subset") or "").split("_")
    if len(models) == 2 and "model_a" not in columns:
        columns |= {"model_a": models[0], "model_b": models[1]}
    item = to_tie(name, columns)
    if isinstance(item, Failure) or len(item.meta.get("votes", ())) != len(_PANDALM_ANNOTATORS):
        return item
    return replace(item, meta={**item.meta, "annotators": list(_PANDALM_ANNOTATORS)})


@dataclass(frozen=True, slots=True)
class _Poll:
    """The votes on one pair, and who gave each."""

    responses: tuple[str, str]
    prompt: str
    votes: list[str] = field(default_factory=list)
    annotators: list[str] = field(default_factory=list)


def mt_bench_human(source: str = MT_BENCH) -> Benchmark:
    """MT-Bench's human judgments (Zheng et al. 2023, arXiv 2306.05685): one Item a question, turn and model pair.

    Each source row is one vote. The votes on one pair become one Item whose gold is their majority, experts and
    authors alike; `meta["annotators"]` names who gave each of `meta["votes"]`. Response a is that of the model whose
    name sorts first, as in the benchmark's own agreement. The conversations of a second turn differ from the first
    reply on, and an Item has one prompt: its response is the first reply, the second question and the second reply,
    as a transcript. All Items of a question are resampled together.
    """
    polls: dict[tuple[Any, ...], _Poll] = {}
    items: list[Item] = []
    seen: set[str] = set()
    count = 0
    for row in read_rows(source, MT_BENCH_EXPECTED):
        count += 1
        if "winner" not in row.fields:
            items.append(checked(replace(row, expected=""), to_tie(row.unique_id(seen), row.fields)))
            continue
        key, responses, prompt, label = _mt_bench_vote(row)
        poll = polls.setdefault(key, _Poll(responses, prompt))
        poll.votes.append(label)
        poll.annotators.append(str(row.fields.get("judge")))
    items += [_mt_bench_item(key, poll, seen) for key, poll in polls.items()]
    differs = count_difference(count, MT_BENCH_VOTES, "votes")
    return Benchmark("mt-bench-human", "MT-Bench human judgments", tuple(items), source, differs=differs)


def _mt_bench_vote(row: Row) -> tuple[tuple[Any, ...], tuple[str, str], str, str]:
    """What is compared (question, turn, models), its two responses, the prompt, and the vote."""
    fields = row.fields
    turn, models = fields.get("turn"), [fields.get("model_a"), fields.get("model_b")]
    winner = str(fields.get("winner"))
    label = {"model_a": "a", "model_b": "b"}.get(winner) or ("tie" if winner.startswith("tie") else None)
    conversations = [_split_conversation(fields.get(f"conversation_{side}"), turn) for side in "ab"]
    if label is None or turn not in (1, 2) or None in conversations or not all(isinstance(m, str) for m in models):
        raise row.error("not a vote")
    (prompt, first), (_, second) = (pair for pair in conversations if pair is not None)
    if str(models[0]) > str(models[1]):
        models.reverse()
        first, second = second, first
        label = {"a": "b", "b": "a"}.get(label, label)
    return (fields.get("question_id"), turn, *models), (first, second), prompt, label


def _split_conversation(turns: Any, turn: Any) -> tuple[str, str] | None:
    """The first question, and all after it up to the reply of `turn`; None where there are fewer turns."""
    if not isinstance(turns, list) or turn not in (1, 2) or len(turns) < 2 * turn:
        return None
    texts = [t.get("content") if isinstance(t, Mapping) else None for t in turns[: 2 * turn]]
    if not all(isinstance(text, str) for text in texts) or not texts[0]:
        return None
    question, reply, *more = (str(text) for text in texts)
    return question, reply if turn == 1 else f"{reply}\n\nHuman: {more[0]}\n\nAssistant: {more[1]}"


def _mt_bench_item(key: tuple[Any, ...], poll: _Poll, seen: set[str]) -> Item:
    question, turn, first, second = key
    label = majority(poll.votes)
    assert label is not None, "a poll has a vote"
    return Item(
        id=unique_id(f"{question}-{turn}-{first}-{second}", len(seen), seen),
        prompt=poll.prompt,
        responses=poll.responses,
        subset=f"turn-{turn}",
        meta={
            "prompt": str(question),
            "votes": poll.votes,
            "annotators": poll.annotators,
            "authors": [first, second],
        },
        gold=gold_of(label),
    )
