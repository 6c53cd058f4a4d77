"""Pairs of a chosen and a rejected response: a user's own file, HH and HHH-Alignment.

The chosen response comes first in an Item of a chosen/rejected row, as it does in the source. Scorers score
each response by itself; judges that compare balance the orders.
"""

from __future__ import annotations

from collections.abc import Iterator

from judges.data.items import conversation, to_item
from judges.errors import CannotRun
from judges.evaluation.benchmarks.base import Benchmark
from judges.evaluation.benchmarks.rows import (
    Fields,
    authors,
    count_differs,
    group,
    make,
    numbered,
    read_items,
    unique,
    votes,
    with_gold,
    wrong,
)
from judges.types import Failure, Gold, Item

HH = "hf:Anthropic/hh-rlhf:test"
HH_ROWS = 8552
HHH = "hf:HuggingFaceH4/hhh_alignment"
HHH_SUBSETS = ("harmless", "helpful", "honest", "other")
HHH_ROWS = 221
WANTED = "a pair needs prompt, chosen and rejected"
_REPLY = "\n\nAssistant:"


def to_pair(name: str, fields: Fields) -> Item | Failure:
    """An Item from a row of `prompt`, `chosen`, `rejected` (or two whole conversations).

    `votes`, `chosen_model` and `rejected_model`, and `group` go to `meta` as votes, authors and prompt.

    >>> to_pair("a", {"prompt": "Hi", "chosen": "Hello!", "rejected": "No.", "votes": ["a", "b"]}).meta
    {'votes': ['a', 'b']}
    """
    if isinstance(fields.get("responses"), list):
        return Failure("malformed", f"{WANTED}, not responses")
    read = to_item(name, fields)
    if isinstance(read, Failure):
        return read
    if read.gold is None:
        return Failure("malformed", WANTED)
    voted = votes(fields.get("votes"))
    if isinstance(voted, Failure):
        return voted
    wrote = authors(fields, "chosen_model", "rejected_model")
    return with_gold(read, Gold(chosen=(0,)), {**group(fields), **voted, **wrote})


def hh(source: str = HH) -> Benchmark:
    """Anthropic's helpful and harmless preferences (Bai et al. 2022, arXiv 2204.05862), the test split.

    A row is two transcripts that share all but the last reply, which may be empty. The few rows whose
    transcripts part earlier compare more than a response: they are left out, and `differs` counts them.
    """
    items: list[Item] = []
    parted = 0
    seen: set[str] = set()
    for number, fields in numbered(source):
        name = unique(fields.get("id"), number, seen)
        read = to_pair(name, fields) if "prompt" in fields else _transcripts(name, fields)
        if isinstance(read, Failure):
            raise wrong(source, number, read.message)
        if read is None:
            parted += 1
        else:
            items.append(read)
    if not items:
        raise CannotRun(f"{source}: no row's transcripts share all but their last reply")
    differs = count_differs(len(items) + parted, HH_ROWS)
    if parted:
        differs += (f"Rows left out, as their transcripts differ before the last reply: {parted:,}",)
    return Benchmark("hh", "HH (helpful and harmless)", tuple(items), source, differs=differs)


def _transcripts(name: str, fields: Fields) -> Item | Failure | None:
    """An Item of two transcripts; None where they part before the last reply."""
    sides = [fields.get("chosen"), fields.get("rejected")]
    if not all(isinstance(side, str) and side.startswith("\n\nHuman:") and _REPLY in side for side in sides):
        return Failure("malformed", r"an HH row needs chosen and rejected, each '\n\nHuman: … \n\nAssistant: …'")
    (first, _, chosen), (second, _, rejected) = (str(side).rpartition(_REPLY) for side in sides)
    if first != second:
        return None
    # A reader makes messages of a transcript that holds a reply: give it one, and take it away again.
    whole = conversation(f"{first}{_REPLY} .")
    if isinstance(whole, Failure):
        return whole
    return make(name, {**fields, "prompt": list(whole[:-1])}, [chosen.strip(), rejected.strip()], Gold(chosen=(0,)), {})


def hhh_alignment(source: str = HHH) -> Benchmark:
    """HHH-Alignment (Askell et al. 2021, arXiv 2112.00861): `input`, and `targets` of two choices with labels.

    On the hub each subset is a configuration of its own.
    """
    if source == HHH:
        items = tuple(item for subset in HHH_SUBSETS for item in _hhh_subset(subset))
    else:
        items = read_items(source, _hhh_row)
    return Benchmark("hhh-alignment", "HHH-Alignment", items, source, differs=count_differs(len(items), HHH_ROWS))


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
    # Some inputs are whole conversations that end in an open reply.
    prompt = f"\n\n{request.strip()}" if request.strip().startswith("Human:") else request
    told = conversation(f"{prompt.removesuffix(_REPLY)}{_REPLY} .") if prompt.startswith("\n\nHuman:") else prompt
    if isinstance(told, Failure):
        return told
    asked = told if isinstance(told, str) else list(told[:-1])
    return make(name, {**fields, "prompt": asked}, choices, Gold(chosen=(labels.index(1),)), {})
