"""`RewardFunction`: a scorer as a TRL reward function, from prompts and completions to rewards or None."""

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

_COLUMNS = ("system", "reference", "rubric")  # dataset columns that a judge may read besides prompt and response


@dataclass(frozen=True, slots=True)
class Group:
    """The responses to one prompt as one Item, and the position of each response in the batch."""

    item: Item
    positions: tuple[int, ...]


def group_by_prompt(samples: Sequence[Item | Failure]) -> list[Group]:
    """Join Items of one response each that are equal except for the response; they need not be adjacent.

    The prompt is then computed once, and a judge that compares has responses to compare. Ids are derived from the
    content, so that the same group has the same id in every call.

    >>> first, second = (Item(id=str(i), prompt="Hi", responses=["yo" * i]) for i in (1, 2))
    >>> groups = group_by_prompt([first, Failure("empty", "no prompt"), second])
    >>> [(group.item.responses, group.positions) for group in groups]
    [(('yo', 'yoyo'), (0, 2))]
    """
    by_prompt: dict[str, list[tuple[int, Item]]] = {}
    for position, sample in enumerate(samples):
        if isinstance(sample, Item):
            key = json.dumps([sample.messages, sample.reference, sample.rubric])
            by_prompt.setdefault(key, []).append((position, sample))
    groups = []
    for key, members in by_prompt.items():
        responses = [response for _, item in members for response in item.responses]
        id = hashlib.blake2b(json.dumps([key, responses]).encode(), digest_size=12).hexdigest()
        item = replace(members[0][1], id=id, responses=responses)
        groups.append(Group(item, tuple(position for position, _ in members)))
    return groups


def collect_rewards(
    samples: Sequence[Item | Failure], groups: Sequence[Group], cards: Sequence[Scorecard]
) -> list[float | Failure]:
    """The score or Failure of each sample, in order. `cards` are the Scorecards of the groups, in their order."""
    rewards: list[float | Failure] = [
        sample if isinstance(sample, Failure) else Failure("missing", "not judged") for sample in samples
    ]
    for group, card in zip(groups, cards, strict=True):
        for position, judgment in zip(group.positions, card.judgments, strict=True):
            if judgment.failure is not None:
                rewards[position] = judgment.failure
            else:
                assert judgment.score is not None  # a Judgment has a score or a failure
                rewards[position] = float(judgment.score)
    return rewards


class RewardFunction:
    """The result of `scorer.as_reward_function()`: one of TRL's `reward_funcs`, for GRPO and RLOO.

    A call with `prompts` and `completions`, as texts or messages, and the dataset's columns returns a float for each
    completion, or None where there is a Failure. TRL leaves such a completion out of its group's mean and gives it no
    advantage. Completions of one prompt are scored as one Item, wherever they are in the batch.

    `system`, `reference` and `rubric` name the columns that judges read; a column with the same name as the field
    needs no setting. `name` is the name in TRL's logs, which must be unique within a trainer. A call raises ValueError
    for unequal numbers of prompts and completions, and CannotRun for a missing column.

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
        self._columns = dict(zip(_COLUMNS, (system, reference, rubric), strict=True))

    def __call__(
        self,
        prompts: Sequence[Any],
        completions: Sequence[Any],
        log_metric: Callable[[str, float], None] | None = None,
        **columns: Any,
    ) -> list[float | None]:
        if len(prompts) != len(completions):
            raise ValueError(f"{self.__name__}: {len(prompts)} prompts, and {len(completions)} completions")
        fields = self._item_fields(columns, len(prompts))
        samples = [sample_to_item(*sample) for sample in zip(prompts, completions, fields, strict=True)]
        groups = group_by_prompt(samples)
        rewards = collect_rewards(samples, groups, self._scorer.score([group.item for group in groups]))
        failures = [reward for reward in rewards if isinstance(reward, Failure)]
        if log_metric is not None and rewards:
            log_metric(f"rewards/{self.__name__}/failed", len(failures) / len(rewards))
        if failures:
            counts = Counter(failure.reason for failure in failures)
            reasons = ", ".join(f"{count} {reason}" for reason, count in counts.most_common())
            logging.getLogger(__name__).warning(
                "%s: %d of %d completions have no reward (%s); the first: %s",
                *(self.__name__, len(failures), len(rewards), reasons, failures[0].message),
            )
        return [None if isinstance(reward, Failure) else reward for reward in rewards]

    def _item_fields(self, columns: Mapping[str, Any], count: int) -> list[dict[str, Any]]:
        """The Item's fields of each completion that come from the dataset's columns."""
        rows: list[dict[str, Any]] = [{} for _ in range(count)]
        for field, column in self._columns.items():
            if column and column not in columns:
                raise CannotRun(f"reward function {self.__name__!r}: the dataset has no column {column!r} ({field}=)")
            values = columns.get(column or field)
            if isinstance(values, list) and len(values) == count:
                for row, value in zip(rows, values, strict=True):
                    number = isinstance(value, int | float) and not isinstance(value, bool)
                    row[field] = str(value) if number else value
        return rows


def sample_to_item(prompt: Any, completion: Any, fields: Mapping[str, Any]) -> Item | Failure:
    """An Item of one response from texts or messages.

    The response is the last message of a completion, which must be the assistant's; earlier messages, such as tool
    calls, are not scored. Messages may contain blocks of text; an image is a Failure.

    >>> sample_to_item([{"role": "user", "content": [{"type": "text", "text": "Hi"}]}], "Hello!", {}).messages
    ({'role': 'user', 'content': 'Hi'},)
    >>> sample_to_item("Hi", [{"role": "tool", "content": "4"}], {}).message
    'a completion must end with an assistant message'
    """
    if not isinstance(completion, str):
        last = completion[-1] if isinstance(completion, Sequence) and completion else None
        if not isinstance(last, Mapping) or last.get("role") != "assistant":
            return Failure("malformed", "a completion must end with an assistant message")
        completion = _text(last.get("content"))
    if not isinstance(prompt, str):
        turns = prompt if isinstance(prompt, Sequence) else [prompt]
        prompt = [
            {**turn, "content": _text(turn.get("content"))} if isinstance(turn, Mapping) else turn for turn in turns
        ]
    return to_item("", {**fields, "prompt": prompt, "response": completion})


def _text(content: Any) -> Any:
    """Blocks of text joined to one text; any other content is returned unchanged."""
    if not isinstance(content, list):
        return content
    texts = [
        block.get("text") if isinstance(block, Mapping) and block.get("type") == "text" else None for block in content
    ]
    parts = [text for text in texts if isinstance(text, str)]
    return "".join(parts) if len(parts) == len(texts) else content
