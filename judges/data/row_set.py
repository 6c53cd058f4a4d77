"""A set of row numbers in one bit per row."""

from __future__ import annotations


class RowSet:
    """A growing set of row numbers, stored as a bit array."""

    def __init__(self) -> None:
        self._bits = bytearray()
        self._count = 0

    def add(self, number: int) -> None:
        byte, bit = number >> 3, 1 << (number & 7)
        if byte >= len(self._bits):
            self._bits.extend(bytes(byte + 1 - len(self._bits)))
        if not self._bits[byte] & bit:
            self._bits[byte] |= bit
            self._count += 1

    def __contains__(self, number: object) -> bool:
        if not isinstance(number, int):
            return False
        byte, bit = number >> 3, number & 7
        return byte < len(self._bits) and bool(self._bits[byte] >> bit & 1)

    def __len__(self) -> int:
        return self._count
