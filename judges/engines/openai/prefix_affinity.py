"""Prefix affinity: which servers were sent a text with the same beginning, and so have it in their prefix caches."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Generic, TypeVar

S = TypeVar("S")
BLOCK = 128  # characters: about the tokens of one block of a prefix cache


class PrefixAffinity(Generic[S]):
    """Remembers which server was sent which prefixes: the `most` recently sent ones.

    >>> known = PrefixAffinity[str]()
    >>> known.add("rubric " * 40 + "question one " * 20, "a")
    >>> known.add("rubric " * 40 + "question two " * 20, "b")
    >>> sorted(known.holders("rubric " * 40)), known.holders("rubric " * 40 + "question two " * 30)
    (['a', 'b'], {'b'})
    """

    def __init__(self, most: int = 50_000) -> None:
        self._most = most
        self._servers: dict[int, set[S]] = {}  # by the hash of a prefix, the most recently sent last

    def holders(self, text: str) -> set[S]:
        """The servers that were sent the longest known prefix of the text."""
        found: set[S] = set()
        for prefix in _prefix_hashes(text):
            if prefix not in self._servers:
                break
            found = self._servers[prefix]
        return found

    def add(self, text: str, server: S) -> None:
        """Note that the text was sent to the server."""
        for prefix in _prefix_hashes(text):
            holders = self._servers.pop(prefix, set())
            holders.add(server)
            self._servers[prefix] = holders
        while len(self._servers) > self._most:
            del self._servers[next(iter(self._servers))]


def _prefix_hashes(text: str) -> Iterator[int]:
    """A hash of each prefix of the text that ends with a whole block."""
    prefix = 0
    for start in range(0, len(text) - BLOCK + 1, BLOCK):
        prefix = hash((prefix, text[start : start + BLOCK]))
        yield prefix
