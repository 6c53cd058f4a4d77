"""Rows that a tiny model learns within a second."""

from __future__ import annotations

from judges.types import Gold, Item

WORDS = ["river", "stone", "cloud", "lamp", "bread", "chair", "clock", "grass"]


def rows(count: int = 48, long: int = 0) -> list[tuple[int, Item]]:
    """Numbered pairs of which the chosen response agrees; `long` pads the prompt with so many words."""
    return [
        (
            i + 1,
            Item(
                id=str(i),
                prompt=f"Say {WORDS[i % 8]} {i}" + " and again" * (long // 2),
                responses=[f"Yes: {WORDS[i % 8]}", f"No, {WORDS[i % 8]} never"],
                gold=Gold(chosen=(0,)),
                subset="even" if i % 2 == 0 else "odd",
            ),
        )
        for i in range(count)
    ]
