"""Judged rows to files: the output row, and the file that is made of a run's rows at its end."""

from __future__ import annotations

import csv
import gzip
import io
import os
from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import IO, Any

from judges.data.json_lines import from_line, to_text
from judges.data.readers import format_of
from judges.data.rows import Row
from judges.engines.policy import PolicyOutput
from judges.types import Failure, Judgment, Scorecard, plain_usage

# What an output row adds; an input column of the same name is kept as "input.NAME" (`renamed`).
OURS = frozenset(
    ("row", "score", "scores", "failure", "failures", "critique", "votes", "usage", "read", "truncated", "preference")
)
# What it adds where candidates were drawn.
DRAWN = frozenset(("response", "responses", "generation"))


@lru_cache(1024)
def renamed(name: str, ours: frozenset[str] = OURS) -> str:
    """The name of an input column in the output, unlike any of ours; two columns never get the same one.

    >>> renamed("score"), renamed("input.score"), renamed("input.text")
    ('input.score', 'input.input.score', 'input.text')
    """
    bare = name
    while bare.startswith("input."):
        bare = bare[6:]
    return f"input.{name}" if bare in ours or (bare == "id" and name != "id") else name


def output_row(row: Row, card: Scorecard | Failure, sampled: PolicyOutput | None = None) -> dict[str, Any]:
    """The input row, its number and id, the candidates where some were drawn, and what was said of it."""
    ours = OURS if sampled is None else OURS | DRAWN
    base = {renamed(key, ours): value for key, value in row.columns.items()}
    if (own := base.get("id", "")) not in (None, "") and str(own) != row.id:
        base["input.id"] = own
    base["row"], base["id"] = row.number, row.id
    if sampled is not None:
        base |= _candidates(sampled)
    if isinstance(card, Failure):
        return base | {"score": None, "failure": failure(card), "critique": None, "votes": [], "usage": None}
    if len(card.judgments) == 1:
        judgment = card.judgments[0]
        base["score"] = judgment.score
        base["failure"] = failure(judgment.failure)
        base["critique"] = judgment.critique
        base["votes"] = votes(judgment)
        base["read"] = judgment.read
        base["truncated"] = judgment.truncated
        base["usage"] = plain_usage(judgment.usage)
        return base
    return base | {
        "scores": [j.score for j in card.judgments],
        "failures": [failure(j.failure) for j in card.judgments],
        "preference": card.preference,
        "critique": [j.critique for j in card.judgments],
        "votes": [votes(j) for j in card.judgments],
        "read": [j.read for j in card.judgments],
        "truncated": [j.truncated for j in card.judgments],
        "usage": plain_usage(card.usage),
    }


def _candidates(sampled: PolicyOutput) -> dict[str, Any]:
    """The candidates as an input row would hold them, and what they cost."""
    if isinstance(sampled.item, Failure):
        return {"generation": None}
    cost = {"truncated": sampled.truncated, "usage": plain_usage(sampled.usage)}
    if len(sampled.item.responses) == 1:
        return {"response": sampled.item.responses[0], "generation": cost}
    return {"responses": sampled.item.responses, "generation": cost}


def failure(one: Failure | None) -> dict[str, str] | None:
    return None if one is None else {"reason": one.reason, "message": one.message}


def votes(judgment: Judgment) -> list[Any]:
    return [failure(vote) if isinstance(vote, Failure) else vote for vote in judgment.votes]


def reason_of(card: Scorecard | Failure) -> str | None:
    """Why a row counts as failed: the reason of its first failure."""
    if isinstance(card, Failure):
        return card.reason
    for judgment in card.judgments:
        if judgment.failure is not None:
            return judgment.failure.reason
    return None


def reason_told(columns: Mapping[str, Any]) -> str | None:
    """The same, of a row that was written. Raises KeyError, TypeError for one that is not ours."""
    if "failures" in columns:
        return next((one["reason"] for one in columns["failures"] if one), None)
    one = columns["failure"]
    return one["reason"] if one else None


# -- files -----------------------------------------------------------------------------------------------


def write_rows(lines: Callable[[], Iterable[bytes]], target: Path, like: Path | None = None) -> None:
    """Write rows, given as lines of JSON, to a file in the format of its name; it appears whole, by one rename.

    `lines` may be asked for them more than once. Columns that a Parquet input (`like`) has keep its types.
    """
    form = format_of(target.name)
    assert form is not None
    part = target.with_name(f".{target.name}.part")
    try:
        with open(part, "wb") as raw:
            if form[0] == ".parquet":
                from judges.data.parquet import write_parquet

                write_parquet(lines, raw, like)
            else:
                with packed(raw, form[1]) as out:
                    if form[0] == ".csv":
                        _write_csv(lines, out)
                    else:
                        for line in lines():
                            out.write(line)
            raw.flush()
            os.fsync(raw.fileno())
    except BaseException:  # a full disk: give back what it took
        part.unlink(missing_ok=True)
        raise
    part.replace(target)


def packed(raw: IO[bytes], packing: str) -> Any:
    """A stream that packs what is written to it; closing it leaves `raw` open."""
    if packing == ".gz":
        return gzip.GzipFile(filename="", fileobj=raw, mode="wb", mtime=0)
    if packing == ".zst":
        import pyarrow as pa

        return pa.CompressedOutputStream(pa.PythonFile(_Kept(raw), mode="w"), "zstd")
    return _Kept(raw)


class _Kept:
    """A stream that is not closed with what writes to it."""

    closed = False

    def __init__(self, raw: IO[bytes]) -> None:
        self.write, self.flush = raw.write, raw.flush

    def close(self) -> None:
        pass

    def __enter__(self) -> _Kept:
        return self

    def __exit__(self, *_: object) -> None:
        pass


def _columns(lines: Iterable[bytes]) -> list[str]:
    """Every column of any row, in the order of their first appearance, ours behind the input's."""
    seen: dict[str, None] = {}
    for line in lines:
        seen.update(dict.fromkeys(from_line(line)))
    ours = [name for name in seen if name in OURS]
    return [name for name in seen if name not in OURS] + ours


def _write_csv(lines: Callable[[], Iterable[bytes]], out: Any) -> None:
    """Lists and objects as JSON in their cell, null as an empty one."""
    names = _columns(lines())
    text = io.StringIO(newline="")
    rows = csv.writer(text)
    rows.writerow(names)
    for line in lines():
        columns = from_line(line)
        rows.writerow([_cell(columns.get(name)) for name in names])
        out.write(text.getvalue().encode("utf-8", "backslashreplace"))
        text.seek(0)
        text.truncate()
    out.write(text.getvalue().encode())


def _cell(value: Any) -> Any:
    if value is None:
        return ""
    if isinstance(value, dict | list | bool):
        return to_text(value)
    return value
