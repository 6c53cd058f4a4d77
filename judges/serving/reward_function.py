"""A scorer as the reward function that RLHF trainers call: prompts and completions in, rewards or None out."""

from __future__ import annotations

import hashlib
import json
import logging
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from judges.data.items import to_item
from judges.errors import CannotRun
from judges.scorer import Scorer
from judges.types import Failure, Item, Scorecard

_COLUMNS = ("system", "reference", "rubric")  # of a dataset: what a judge may read beside prompt and response


@dataclass(frozen=True, slots=True)
class Group:
    """The responses to one prompt as one Item, and where each of them stood."""

    item: Item
    places: tuple[int, ...]


def grouped(asked: Sequence[Item | Failure]) -> list[Group]:
    """Items of one response each, joined where all but the response is equal, next to each other or not.

    So a prompt is computed once, and a judge that compares has something to compare. Ids are made of the
    content: the same group gets the same id in every call.

    >>> one, two = (Item(id=str(i), prompt="Hi", responses=["yo" * i]) for i in (1, 2))
    >>> [(g.item.responses, g.places) for g in grouped([one, Failure("empty", "no prompt"), two])]
    [(('yo', 'yoyo'), (0, 2))]
    """
    together: dict[str, list[tuple[int, Item]]] = {}
    for place, item in enumerate(asked):
        if isinstance(item, Item):
            key = json.dumps([item.messages, item.reference, item.rubric])
            together.setdefault(key, []).append((place, item))
    groups = []
    for key, members in together.items():
        responses = [response for _, item in members for response in item.responses]
        id = hashlib.blake2b(json.dumps([key, responses]).encode(), digest_size=12).hexdigest()
        item = replace(members[0][1], id=id, responses=responses)
        groups.append(Group(item, tuple(place for place, _ in members)))
    return groups


def rewards(
    asked: Sequence[Item | Failure], groups: Sequence[Group], cards: Sequence[Scorecard]
) -> list[float | Failure]:
    """The score or Failure of each that was asked, in its order; `cards` stand in the groups' order."""
    told: list[float | Failure] = [
        item if isinstance(item, Failure) else Failure("missing", "not judged") for item in asked
    ]
    for group, card in zip(groups, cards, strict=True):
        for place, judgment in zip(group.places, card.judgments, strict=True):
            told[place] = judgment.failure or _number(judgment.score)
    return told


def _number(score: float | None) -> float:
    assert score is not None  # a Judgment has a score or a failure
    return float(score)


class RewardFunction:
    """What `scorer.as_reward_function()` gives: one of TRL's `reward_funcs`, for GRPO and RLOO.

    Called with `prompts` and `completions`, texts or messages, and the dataset's columns, it returns a float
    for each completion, or None where there is a Failure: TRL leaves such a completion out of its group's mean
    and gives it no advantage. Completions of one prompt are one Item, wherever they stand in the batch.

    `system`, `reference` and `rubric` name the columns that judges read; a column of that very name is read
    without being named. `name` is what TRL logs by; two functions of one trainer need two.

    >>> from judges import load_scorer
    >>> reward = load_scorer("length").as_reward_function()
    >>> reward(prompts=["Hi", "Hi"], completions=["four", [{"role": "assistant", "content": "nine more"}]])
    [4.0, 9.0]
    >>> reward.__name__
    'length'
    """

    def __init__(self, scorer: Scorer, name: str = "", system: str = "", reference: str = "", rubric: str = "") -> None:
        self.__name__ = name or scorer.name
        self._scorer = scorer
        self._named = dict(zip(_COLUMNS, (system, reference, rubric), strict=True))

    def __call__(
        self,
        prompts: Sequence[Any],
        completions: Sequence[Any],
        log_metric: Callable[[str, float], None] | None = None,
        **columns: Any,
    ) -> list[float | None]:
        if len(prompts) != len(completions):
            raise ValueError(f"{self.__name__}: {len(prompts)} prompts, and {len(completions)} completions")
        beside = self._beside(columns, len(prompts))
        asked = [
            read_sample(prompt, completion, row)
            for prompt, completion, row in zip(prompts, completions, beside, strict=True)
        ]
        groups = grouped(asked)
        told = rewards(asked, groups, self._scorer.score([group.item for group in groups]))
        failures = [told_one for told_one in told if isinstance(told_one, Failure)]
        if log_metric is not None and told:
            log_metric(f"rewards/{self.__name__}/failed", len(failures) / len(told))
        if failures:
            reasons = ", ".join(f"{n} {reason}" for reason, n in Counter(f.reason for f in failures).most_common())
            logging.getLogger(__name__).warning(
                "%s: %d of %d completions have no reward (%s); the first: %s",
                *(self.__name__, len(failures), len(told), reasons, failures[0].message),
            )
        return [None if isinstance(reward, Failure) else reward for reward in told]

    def _beside(self, columns: Mapping[str, Any], count: int) -> list[dict[str, Any]]:
        """What the columns say of each completion, by the name of the Item's field."""
        found: list[dict[str, Any]] = [{} for _ in range(count)]
        for field, column in self._named.items():
            if column and column not in columns:
                raise CannotRun(f"reward function {self.__name__!r}: the dataset has no column {column!r} ({field}=)")
            values = columns.get(column or field)
            if isinstance(values, list) and len(values) == count:
                for row, value in zip(found, values, strict=True):
                    number = isinstance(value, int | float) and not isinstance(value, bool)
                    row[field] = str(value) if number else value
        return found


def read_sample(prompt: Any, completion: Any, beside: Mapping[str, Any]) -> Item | Failure:
    """An Item of one response, out of texts or messages.

    The response is the last message of a completion, an assistant's; what it said before, to call a tool, is
    not judged. Messages may hold blocks of text; an image is a Failure.

    >>> read_sample([{"role": "user", "content": [{"type": "text", "text": "Hi"}]}], "Hello!", {}).messages
    ({'role': 'user', 'content': 'Hi'},)
    >>> read_sample("Hi", [{"role": "tool", "content": "4"}], {}).message
    "a completion ends with an assistant's message"
    """
    if not isinstance(completion, str):
        last = completion[-1] if isinstance(completion, Sequence) and completion else None
        if not isinstance(last, Mapping) or last.get("role") != "assistant":
            return Failure("malformed", "a completion ends with an assistant's message")
        completion = _text(last.get("content"))
    if not isinstance(prompt, str):
        turns = prompt if isinstance(prompt, Sequence) else [prompt]
        prompt = [
            {**turn, "content": _text(turn.get("content"))} if isinstance(turn, Mapping) else turn for turn in turns
        ]
    return to_item("", {**beside, "prompt": prompt, "response": completion})


def _text(content: Any) -> Any:
    """Blocks of text as one text; anything else as it is."""
    if not isinstance(content, list) or not all(isinstance(b, Mapping) and b.get("type") == "text" for b in content):
        return content
    parts = [block.get("text") for block in content]
    return "".join(part for part in parts if isinstance(part, str)) if all(map(_is_text, parts)) else content


def _is_text(part: Any) -> bool:
    return isinstance(part, str)
