"""Published benchmark scores, shown beside measured ones and marked as published."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import yaml

_TABLE = Path(__file__).parent / "references.yaml"


@dataclass(frozen=True, slots=True)
class PublishedScore:
    """One published score, in percent.

    `section` is the name of a number of the benchmark's official Tally; `source` where the score was published,
    `read` where it was copied from (which may be a secondary source), `date` the source's date, YYYY-MM or
    YYYY-MM-DD.
    """

    model: str
    benchmark: str
    section: str
    score: float
    source: str
    read: str
    date: str
    note: str = ""


def published_scores(benchmark: str) -> tuple[PublishedScore, ...]:
    """The published scores of a benchmark, in the table's order; empty where `references.yaml` has none.

    >>> {p.model: p.score for p in published_scores("judgebench")}["o1-mini-2024-09-12"]
    65.71
    >>> published_scores("demo")
    ()
    """
    return tuple(
        PublishedScore(
            model=entry["model"],
            benchmark=entry["benchmark"],
            section=section,
            score=float(score),
            source=entry["source"],
            read=entry["read"],
            date=str(entry["date"]),
            note=entry["note"],
        )
        for entry in yaml.safe_load(_TABLE.read_text(encoding="utf-8"))
        if entry["benchmark"] == benchmark
        for section, score in entry["scores"].items()
    )
