"""An ensemble of reward models in one folder: the reward of each member for each response."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from classic_rm.data import EncodedResponse
from classic_rm.reward_model import RewardBackend, TokenIds
from judges.errors import CannotRun
from judges.types import Failure, Message

MEMBERS = "ensemble.json"


def ensemble_members(model: str | Path) -> list[Path]:
    """The folders of an ensemble's members; empty for a folder of one model and for any other name.

    Raises CannotRun when a member's folder is missing."""
    folder = Path(model).expanduser()
    file = folder / MEMBERS
    if not file.is_file():
        return []
    members = [folder / name for name in json.loads(file.read_text(encoding="utf-8"))["members"]]
    for member in members:
        if not (member / "config.json").is_file():
            raise CannotRun(f"{file}: member {member.name} is missing")
    return members


def write_ensemble(folder: Path, members: Sequence[str]) -> None:
    """Write `ensemble.json`, which names the members' folders inside `folder`."""
    part = folder / f"{MEMBERS}.part"
    part.write_text(json.dumps({"members": list(members)}, indent=2) + "\n", encoding="utf-8")
    part.replace(folder / MEMBERS)


class Ensemble:
    """Reward models with one tokenizer (Eisenstein et al. 2023, arXiv 2312.09244).

    A member's mean reward on held-out responses is subtracted from its rewards, so that the spread of the members is
    their disagreement about a response, not the difference of their scales."""

    def __init__(self, load_members: Sequence[Callable[[], RewardBackend]], means: Sequence[float]) -> None:
        self.members = [load() for load in load_members]
        self._means = means
        self.tokenizer: Any = self.members[0].tokenizer
        self.max_length = min(member.max_length for member in self.members)

    def encode(self, messages: tuple[Message, ...], response: str) -> EncodedResponse | Failure:
        return self.members[0].encode(messages, response)

    def rewards(self, groups: Sequence[Sequence[TokenIds]]) -> list[list[tuple[float, ...]]]:
        """For each group of responses to one prompt, for each response, the reward of each member."""
        by_member = [member.rewards(groups) for member in self.members]
        return [
            [
                tuple(reward - mean for rewards, mean in zip(response, self._means, strict=True) for reward in rewards)
                for response in zip(*group, strict=True)
            ]
            for group in zip(*by_member, strict=True)
        ]

    def close(self) -> None:
        for member in self.members:
            member.close()
