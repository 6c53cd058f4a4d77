"""Pairs of a chosen and a rejected response: a user's own file, HH and HHH-Alignment.

The chosen response comes first in an Item of a chosen/rejected row, as in the source. This gives nothing away:
scorers score each response by itself, and judges that compare balance the orders.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from judges.data.items import parse_prompt, to_item
from judges.errors import CannotRun
from judges.evaluation.benchmarks.base import Benchmark
from judges.evaluation.benchmarks.rows import (
    Fields,
    authors,
    checked,
    count_difference,
    group,
    make_item,
    read_items,
    read_rows,
    votes,
)
from judges.types import Failure, Gold, Item

HH = "hf:Anthropic/hh-rlhf:test"
HH_ROWS = 8552
HHH = "hf:HuggingFaceH4/hhh_alignment"
HHH_SUBSETS = ("harmless", "helpful", "honest", "other")
HHH_ROWS = 221
EXPECTED = "a pair needs prompt, chosen and rejected"
_REPLY = "\n\nAssistant:"


def to_pair(name: str, fields: Fields) -> Item | Failure:
    """An Item from a row of `prompt`, `chosen`, `rejected` (or of two complete conversations).

    `votes`, `chosen_model` and `rejected_model`, and `group` go to `meta` as votes, authors and prompt.

    >>> to_pair("a", {"prompt": "Hi", "chosen": "Hello!", "rejected": "No.", "votes": ["a", "b"]}).meta
    {'votes': ['a', 'b']}
    """
    if isinstance(fields.get("responses"), list):
        return Failure("malformed", f"{EXPECTED}, not responses")
    item = to_item(name, fields)
    if isinstance(item, Failure):
        return item
    if item.gold is None:
        return Failure("malformed", EXPECTED)
    vote_meta = votes(fields.get("votes"))
    if isinstance(vote_meta, Failure):
        return vote_meta
    meta = {**item.meta, **group(fields), **vote_meta, **authors(fields, "chosen_model", "rejected_model")}
    return replace(item, gold=Gold(chosen=(0,)), meta=meta, comparisons=None)


def hh(source: str = HH) -> Benchmark:
    """Anthropic's helpful and harmless preferences (Bai et al. 2022, arXiv 2204.05862), the test split.

    A row is two transcripts that share all but the last reply, which may be empty. The few rows whose
    transcripts diverge earlier compare more than a response: they are left out, and `differs` counts them.
    """
    items: list[Item] = []
    divergent = 0
    seen: set[str] = set()
    for row in read_rows(source):
        name = row.unique_id(seen)
        item = to_pair(name, row.fields) if "prompt" in row.fields else _transcripts(name, row.fields)
        if item is None:
            divergent += 1
        else:
            items.append(checked(row, item))
    if not items:
        raise CannotRun(f"{source}: no row's transcripts share all but their last reply")
    differs = count_difference(len(items) + divergent, HH_ROWS)
    if divergent:
        differs += (f"Rows left out because their transcripts differ before the last reply: {divergent:,}",)
    return Benchmark("hh", "HH (helpful and harmless)", tuple(items), source, differs=differs)


def _transcripts(name: str, fields: Fields) -> Item | Failure | None:
    """An Item of two transcripts; None where they diverge before the last reply."""
    sides = [fields.get("chosen"), fields.get("rejected")]
    if not all(isinstance(side, str) and side.startswith("\n\nHuman:") and _REPLY in side for side in sides):
        return Failure("malformed", r"an HH row needs chosen and rejected, each '\n\nHuman: … \n\nAssistant: …'")
    (first, _, chosen), (second, _, rejected) = (str(side).rpartition(_REPLY) for side in sides)
    if first != second:
        return None
    turns = _open_conversation(first)
    if isinstance(turns, Failure):
        return turns
    return make_item(name, {**fields, "prompt": turns}, [chosen.strip(), rejected.strip()], Gold(chosen=(0,)), {})


def _open_conversation(transcript: str) -> list[object] | Failure:
    """The messages of a transcript without its last reply. `conversation` needs one, so it is added and removed."""
    turns = parse_prompt(f"{transcript}{_REPLY} .")
    return turns if isinstance(turns, Failure) else list(turns[:-1])


def hhh_alignment(source: str = HHH) -> Benchmark:
    """HHH-Alignment (Askell et al. 2021, arXiv 2112.00861): `input`, and `targets` of two choices with labels.

    On the hub each subset is a configuration of its own.
    """
    if source == HHH:
        items = tuple(item for subset in HHH_SUBSETS for item in _hhh_subset(subset))
    else:
        items = read_items(source, _hhh_row)
    return Benchmark("hhh-alignment", "HHH-Alignment", items, source, differs=count_difference(len(items), HHH_ROWS))


def _hhh_subset(subset: str) -> Iterator[Item]:
    yield from read_items(
        f"{HHH}/{subset}:test", lambda name, fields: _hhh_row(f"{subset}-{name}", {**fields, "subset": subset})
    )


def _hhh_row(name: str, fields: Fields) -> Item | Failure:
    if "targets" not in fields:
        return to_pair(name, fields)
    targets = fields["targets"]
    choices, labels = (targets.get("choices"), targets.get("labels")) if isinstance(targets, dict) else (None, None)
    if not isinstance(choices, list) or not isinstance(labels, list) or sorted(labels) != [0, 1] or len(choices) != 2:
        return Failure("malformed", "targets needs two choices and their labels, 1 for the better and 0")
    request = fields.get("input")
    if not isinstance(request, str) or not request.strip():
        return Failure("empty", "the row has no input")
    # Some inputs are conversations that end in an open reply.
    prompt = f"\n\n{request.strip()}" if request.strip().startswith("Human:") else request
    turns = _open_conversation(prompt.removesuffix(_REPLY)) if prompt.startswith("\n\nHuman:") else prompt
    if isinstance(turns, Failure):
        return turns
    return make_item(name, {**fields, "prompt": turns}, choices, Gold(chosen=(labels.index(1),)), {})
