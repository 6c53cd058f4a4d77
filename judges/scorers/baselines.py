"""Baselines without a model: the length of a response, and a random number."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from judges.errors import CannotRun
from judges.scorer import Scorer, vote_preference
from judges.types import REAL_LINE, Item, Judgment, Scale, Scorecard


def _scorecards(items: Iterable[Item], score: Callable[[Item, str], float]) -> Iterator[Scorecard]:
    for item in items:
        judgments = tuple([Judgment(score=score(item, response), read="reward") for response in item.responses])
        yield Scorecard(id=item.id, judgments=judgments, preference=vote_preference(judgments))


class Length(Scorer):
    """The number of characters of a response; an empty one scores 0. It shows how far length alone predicts gold."""

    name = "length"
    scale = REAL_LINE

    def stream(self, items: Iterable[Item]) -> Iterator[Scorecard]:
        return _scorecards(items, lambda _, response: float(len(response)))


class Random(Scorer):
    """A number in [0, 1), derived from the seed, the prompt and the response: equal in any order, on any machine."""

    name = "random"
    scale = Scale(0, 1)

    def __init__(self, seed: int = 0) -> None:
        if not isinstance(seed, int) or isinstance(seed, bool):
            raise CannotRun(f"random: seed is a whole number, not {seed!r}")
        self.seed = seed

    def _draw(self, item: Item, response: str) -> float:
        text = "\x1f".join([str(self.seed), *(m["content"] for m in item.messages), response])
        return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=6).digest()) / 2**48

    def stream(self, items: Iterable[Item]) -> Iterator[Scorecard]:
        return _scorecards(items, self._draw)

    def identity(self) -> dict[str, Any]:
        return {"scorer": self.name, "seed": self.seed}
