"""Several reward models as one: each reward with its spread."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from classic_rm.data import Encoded
from classic_rm.reward_model import Ids, Rewards
from judges.errors import CannotRun
from judges.types import Failure, Message

MEMBERS = "ensemble.json"


def members_of(model: str | Path) -> list[Path]:
    """The members of an ensemble's folder; empty for a folder that holds one model, and for any other name.

    Raises CannotRun when a member is not there."""
    folder = Path(model).expanduser()
    file = folder / MEMBERS
    if not file.is_file():
        return []
    found = [folder / name for name in json.loads(file.read_text(encoding="utf-8"))["members"]]
    for member in found:
        if not (member / "config.json").is_file():
            raise CannotRun(f"{file} names {member.name}, which is not there")
    return found


def write_ensemble(folder: Path, members: Sequence[str]) -> None:
    part = folder / f"{MEMBERS}.part"
    part.write_text(json.dumps({"members": list(members)}, indent=2) + "\n", encoding="utf-8")
    part.replace(folder / MEMBERS)


class Ensemble:
    """Members side by side, of one tokenizer. Each reward is taken from its member's mean, so that what is left
    to differ is what they think of the response, not where their scales happen to lie."""

    def __init__(self, build: Sequence[Callable[[], Rewards]], means: Sequence[float]) -> None:
        self.members = [make() for make in build]
        self._means = means
        self.tokenizer: Any = self.members[0].tokenizer
        self.max_length = min(member.max_length for member in self.members)

    def encode(self, messages: tuple[Message, ...], response: str) -> Encoded | Failure:
        return self.members[0].encode(messages, response)

    def rewards(self, groups: Sequence[Sequence[Ids]]) -> list[list[tuple[float, ...]]]:
        """For each group of responses to one prompt, for each response, the reward of each member."""
        told = [member.rewards(groups) for member in self.members]
        return [
            [
                tuple(value - mean for values, mean in zip(of, self._means, strict=True) for value in values)
                for of in zip(*group, strict=True)
            ]
            for group in zip(*told, strict=True)
        ]

    def close(self) -> None:
        for member in self.members:
            member.close()
