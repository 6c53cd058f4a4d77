"""`assay score`: rows in, the same rows with scores out, resumable after any death."""

from __future__ import annotations

import fcntl
import hashlib
import json
import math
import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from judges.batch.readers import Row, read_rows
from judges.errors import CannotRun
from judges.llm_judge import LLMJudge
from judges.scorer import Scorer
from judges.types import Failure, Item, Judgment, Scorecard, Usage, to_plain

# What an output row adds; an input column of the same name is kept as "input.NAME".
OURS = frozenset(
    ("row", "score", "scores", "failure", "failures", "critique", "votes", "usage", "read", "truncated", "preference")
)


@dataclass
class Summary:
    """What a run did. `failures` counts rows by reason; a failed row is written like the others."""

    written: int = 0
    resumed: int = 0
    failures: Counter[str] = field(default_factory=Counter)
    usage: Usage = Usage()

    @property
    def failed(self) -> int:
        return self.failures.total()


def score_file(
    source: str,
    scorer: Scorer,
    output: Path,
    mapping: dict[str, str] | None = None,
    limit: int | None = None,
    on_row: Callable[[Summary], None] = lambda _: None,
) -> Summary:
    """Score every row of a file and append it to `output`, in the order of finishing.

    Rows whose id is in the output already are not judged again. Raises CannotRun when the output was made
    with another input, scorer, model or template, or is being written by another run.
    """
    beside = output.with_name(output.name + ".run")
    try:
        beside.mkdir(parents=True, exist_ok=True)
        lock = open(beside / "lock", "w")
    except OSError as error:
        raise CannotRun(f"{output}: cannot be written: {error}") from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise CannotRun(f"{output} is being written by another run") from error
        _check_manifest(source, scorer, output, beside / "manifest.json", mapping or {})
        summary = Summary()
        done = _finished_ids(output, summary)
        if isinstance(scorer, LLMJudge):
            scorer.remember(beside / "completions.sqlite")
        pending: dict[str, Row] = {}

        def items(rows: Iterator[Row]) -> Iterator[Item]:
            for row in rows:
                if row.id in done:
                    continue
                pending[row.id] = row
                if isinstance(row.item, Item):
                    yield row.item
                else:
                    bad.append(row)

        bad: list[Row] = []
        with open(output, "ab", buffering=0) as out:

            def write(row: Row, card: Scorecard | Failure) -> None:
                line = json.dumps(output_row(row, card), ensure_ascii=False, allow_nan=False, default=str)
                data = line.encode("utf-8", "backslashreplace") + b"\n"
                if out.write(data) != len(data):
                    raise CannotRun(f"{output}: the disk took only a part of a line; make room and run again")
                summary.written += 1
                if isinstance(card, Scorecard):
                    summary.usage += card.usage
                summary.failures.update(_reasons(card))
                on_row(summary)

            def write_bad() -> None:
                while bad:
                    row = bad.pop()
                    del pending[row.id]
                    write(row, row.item if isinstance(row.item, Failure) else Failure("malformed", "bad row"))

            rows = islice(read_rows(source, mapping), limit)
            try:
                cards = scorer.stream(items(rows))
                try:
                    for card in cards:
                        write(pending.pop(card.id), card)
                        write_bad()
                finally:  # cancel what is in flight, where the scorer has something in flight
                    getattr(cards, "close", lambda: None)()
                write_bad()
            except OSError as error:
                raise CannotRun(f"{output}: {error.strerror}; what is written is safe, run again") from error
    return summary


def output_row(row: Row, card: Scorecard | Failure) -> dict[str, Any]:
    """The input row, its number and id, and what was said of it."""
    base = {(f"input.{key}" if key in OURS else key): _finite(value) for key, value in row.columns.items()}
    base |= {"row": row.number, "id": row.id}
    if isinstance(card, Failure):
        return base | {"score": None, "failure": to_plain(card), "critique": None, "votes": [], "usage": None}
    if len(card.judgments) == 1:
        judgment = card.judgments[0]
        return base | {"score": judgment.score, "failure": _plain(judgment.failure)} | _details(judgment)
    return base | {
        "scores": [j.score for j in card.judgments],
        "failures": [_plain(j.failure) for j in card.judgments],
        "preference": card.preference,
        "critique": [j.critique for j in card.judgments],
        "votes": [_votes(j) for j in card.judgments],
        "usage": to_plain(card.usage),
    }


def _finite(value: Any) -> Any:
    """JSON has no nan: such a number in a column of the input is null in the output."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {key: _finite(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_finite(inner) for inner in value]
    return value


def _details(judgment: Judgment) -> dict[str, Any]:
    return {
        "critique": judgment.critique,
        "votes": _votes(judgment),
        "read": judgment.read,
        "truncated": judgment.truncated,
        "usage": to_plain(judgment.usage),
    }


def _votes(judgment: Judgment) -> list[Any]:
    return [_plain(v) if isinstance(v, Failure) else v for v in judgment.votes]


def _plain(failure: Failure | None) -> Any:
    return None if failure is None else to_plain(failure)


def _reasons(card: Scorecard | Failure) -> Sequence[str]:
    if isinstance(card, Failure):
        return [card.reason]
    return next(([j.failure.reason] for j in card.judgments if j.failure), [])


def _finished_ids(output: Path, summary: Summary) -> set[str]:
    """The ids in an output; what a kill left of an unfinished last line is cut off."""
    done: set[str] = set()
    if not output.exists():
        return done
    whole = 0
    with open(output, "rb") as lines:
        for number, line in enumerate(lines, start=1):
            if not line.endswith(b"\n"):
                break
            try:
                done.add(json.loads(line)["id"])
            except (ValueError, KeyError, TypeError) as error:
                raise CannotRun(f"{output}, line {number}: not a row of a scored file; give another -o") from error
            whole += len(line)
    if whole < output.stat().st_size:
        os.truncate(output, whole)
    summary.resumed = len(done)
    return done


def _check_manifest(source: str, scorer: Scorer, output: Path, manifest: Path, mapping: dict[str, str]) -> None:
    now = {
        "input_sha256": _file_hash(source),
        "mapping": mapping,
        **json.loads(json.dumps(scorer.identity(), default=str)),
    }
    if manifest.exists():
        before = json.loads(manifest.read_text())
        if before != now:
            changed = ", ".join(
                f"{key}: {before.get(key)!r} then, {now.get(key)!r} now"
                for key in sorted(before.keys() | now.keys())
                if before.get(key) != now.get(key)
            )
            raise CannotRun(f"{output} was made with other settings ({changed}); give another -o or remove it")
        return
    if output.exists() and output.stat().st_size:
        raise CannotRun(f"{output} exists and has no manifest beside it; give another -o or remove it")
    part = manifest.with_suffix(".part")
    part.write_text(json.dumps(now, indent=2, ensure_ascii=False) + "\n")
    part.replace(manifest)


def _file_hash(path: str) -> str:
    file = Path(path).expanduser()
    if not file.is_file():
        raise CannotRun(f"no file {path!r}")
    with open(file, "rb") as data:
        return hashlib.file_digest(data, "sha256").hexdigest()
