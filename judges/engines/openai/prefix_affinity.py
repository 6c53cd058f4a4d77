"""What was computed where: the servers that hold a text's beginning in their prefix caches."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Generic, TypeVar

S = TypeVar("S")
BLOCK = 128  # characters: about the tokens of one block of a prefix cache


class PrefixAffinity(Generic[S]):
    """Who was asked which beginnings of late; `most` beginnings are remembered, the latest asked longest.

    >>> known = PrefixAffinity[str]()
    >>> known.add("rubric " * 40 + "question one " * 20, "a")
    >>> known.add("rubric " * 40 + "question two " * 20, "b")
    >>> sorted(known.holders("rubric " * 40)), known.holders("rubric " * 40 + "question two " * 30)
    (['a', 'b'], {'b'})
    """

    def __init__(self, most: int = 50_000) -> None:
        self._most = most
        self._asked: dict[int, set[S]] = {}  # a beginning's hash to who was asked it, the latest asked last

    def holders(self, text: str) -> set[S]:
        """Who was asked the longest known beginning of the text."""
        found: set[S] = set()
        for beginning in _beginnings(text):
            if beginning not in self._asked:
                break
            found = self._asked[beginning]
        return found

    def add(self, text: str, who: S) -> None:
        for beginning in _beginnings(text):
            holders = self._asked.pop(beginning, set())
            holders.add(who)
            self._asked[beginning] = holders
        while len(self._asked) > self._most:
            del self._asked[next(iter(self._asked))]


def _beginnings(text: str) -> Iterator[int]:
    """A hash of each beginning of the text that ends with a block."""
    beginning = 0
    for start in range(0, len(text) - BLOCK + 1, BLOCK):
        beginning = hash((beginning, text[start : start + BLOCK]))
        yield beginning
