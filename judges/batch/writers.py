"""Judged rows to files: the output row, and the formats that a run's rows are written in at its end."""

from __future__ import annotations

import base64
import csv
import gzip
import io
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import date, datetime
from decimal import Decimal
from pathlib import Path
from typing import IO, Any

from judges.batch.jsonlines import from_line, to_text
from judges.batch.readers import Row, format_of
from judges.candidates import Sampled
from judges.types import Failure, Judgment, Scorecard, Usage

# What an output row adds; an input column of the same name is kept as "input.NAME".
OURS = frozenset(
    ("row", "score", "scores", "failure", "failures", "critique", "votes", "usage", "read", "truncated", "preference")
)
# What it adds where candidates were drawn.
_DRAWN = frozenset(("response", "responses", "generation"))
# Parquet wants one type a column: these are JSON in a text, for a vote is a number or a failure.
AS_JSON = ("votes",)
GROUP_ROWS = 10_000  # of a Parquet row group


def output_row(row: Row, card: Scorecard | Failure, sampled: Sampled | None = None) -> dict[str, Any]:
    """The input row, its number and id, the candidates where some were drawn, and what was said of it."""
    ours = OURS if sampled is None else OURS | _DRAWN
    base = dict(row.columns)
    if not ours.isdisjoint(base):
        base = {(f"input.{key}" if key in ours else key): value for key, value in base.items()}
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
        base["usage"] = usage(judgment.usage)
        return base
    return base | {
        "scores": [j.score for j in card.judgments],
        "failures": [failure(j.failure) for j in card.judgments],
        "preference": card.preference,
        "critique": [j.critique for j in card.judgments],
        "votes": [votes(j) for j in card.judgments],
        "read": [j.read for j in card.judgments],
        "truncated": [j.truncated for j in card.judgments],
        "usage": usage(card.usage),
    }


def _candidates(sampled: Sampled) -> dict[str, Any]:
    """The candidates as an input row would hold them, and what they cost."""
    if isinstance(sampled.item, Failure):
        return {"generation": None}
    cost = {"truncated": sampled.truncated, "usage": usage(sampled.usage)}
    if len(sampled.item.responses) == 1:
        return {"response": sampled.item.responses[0], "generation": cost}
    return {"responses": sampled.item.responses, "generation": cost}


def failure(one: Failure | None) -> dict[str, str] | None:
    return None if one is None else {"reason": one.reason, "message": one.message}


def votes(judgment: Judgment) -> list[Any]:
    return [failure(vote) if isinstance(vote, Failure) else vote for vote in judgment.votes]


def usage(cost: Usage) -> dict[str, float]:
    return {
        "prompt_tokens": cost.prompt_tokens,
        "cached_tokens": cost.cached_tokens,
        "generated_tokens": cost.generated_tokens,
        "seconds": cost.seconds,
        "saved_tokens": cost.saved_tokens,
    }


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
    with open(part, "wb") as raw:
        if form[0] == ".parquet":
            _write_parquet(lines, raw, like)
        else:
            with packed(raw, form[1]) as out:
                if form[0] == ".csv":
                    _write_csv(lines, out)
                else:
                    for line in lines():
                        out.write(line)
        raw.flush()
        os.fsync(raw.fileno())
    part.replace(target)


def packed(raw: IO[bytes], packing: str) -> Any:
    """A stream that packs what is written to it; closing it leaves `raw` open."""
    if packing == ".gz":
        return gzip.GzipFile(filename="", fileobj=raw, mode="wb", mtime=0)
    if packing == ".zst":
        import pyarrow as pa

        return pa.CompressedOutputStream(pa.PythonFile(raw, mode="w"), "zstd")
    return _Kept(raw)


class _Kept:
    """A stream that is not closed with its block."""

    def __init__(self, raw: IO[bytes]) -> None:
        self.write = raw.write

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


def _write_parquet(lines: Callable[[], Iterable[bytes]], raw: IO[bytes], like: Path | None) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    given = _types(like)
    schema = _schema(lines, given)
    with pq.ParquetWriter(raw, schema, compression="zstd") as out:
        for group in _groups(lines()):
            arrays = [_array([row.get(field.name) for row in group], field, given) for field in schema]
            out.write_table(pa.Table.from_arrays(arrays, schema=schema))


def _groups(lines: Iterable[bytes]) -> Iterator[list[dict[str, Any]]]:
    group: list[dict[str, Any]] = []
    for line in lines:
        group.append(from_line(line))
        if len(group) == GROUP_ROWS:
            yield group
            group = []
    if group:
        yield group


def _types(like: Path | None) -> dict[str, Any]:
    """The columns of a Parquet input whose values JSON gives back whole, by their names in the output."""
    if like is None or format_of(like.name) != (".parquet", ""):
        return {}
    import pyarrow.parquet as pq

    kept = [field for field in pq.read_schema(like) if _comes_back(field.type)]
    return {(f"input.{field.name}" if field.name in OURS else field.name): field.type for field in kept}


def _comes_back(kind: Any) -> bool:
    from pyarrow import types

    if types.is_struct(kind):
        return all(_comes_back(kind.field(i).type) for i in range(kind.num_fields))
    if types.is_list(kind) or types.is_large_list(kind):
        return _comes_back(kind.value_type)
    tests = (
        *(types.is_boolean, types.is_integer, types.is_floating, types.is_string, types.is_large_string),
        *(types.is_binary, types.is_large_binary, types.is_timestamp, types.is_date, types.is_decimal),
    )
    return any(test(kind) for test in tests)


def _own_types() -> dict[str, Any]:
    """The types of our columns, the same in every file, whatever its rows happen to hold."""
    import pyarrow as pa

    count, number, text = pa.int64(), pa.float64(), pa.string()
    why = pa.struct([("reason", text), ("message", text)])
    cost = [(name, number if name == "seconds" else count) for name in usage(Usage())]
    return {
        "row": count,
        "id": text,
        "score": number,
        "scores": pa.list_(number),
        "failure": why,
        "failures": pa.list_(why),
        "preference": pa.list_(number),
        "usage": pa.struct(cost),
        "votes": text,
    }


def _schema(lines: Callable[[], Iterable[bytes]], given: Mapping[str, Any]) -> Any:
    """One type a column: the input's where it has one, ours for ours, else what all its values fit; where none does,
    text, in which a value that is no text is JSON."""
    import pyarrow as pa

    known = {**given, **_own_types()}
    found: dict[str, Any] = {}
    for group in _groups(lines()):
        for name in dict.fromkeys(name for row in group for name in row):
            if name in known:
                found.setdefault(name, known[name])
                continue
            values = [row.get(name) for row in group]
            try:
                here = pa.array(values).type
                both = [pa.schema([(name, kind)]) for kind in (found.get(name, here), here)]
                found[name] = pa.unify_schemas(both, promote_options="permissive").field(0).type
            except (pa.ArrowException, OverflowError, ValueError):
                found[name] = known[name] = pa.string()
    plain = {name: pa.string() if pa.types.is_null(kind) else kind for name, kind in found.items()}
    ordered = [name for name in plain if name not in OURS] + [name for name in plain if name in OURS]
    as_json = {name for name in plain if name not in given and (name in AS_JSON or known.get(name) == pa.string())}
    return pa.schema(
        [pa.field(n, plain[n], metadata={"assay": "json"} if n in as_json and n != "id" else None) for n in ordered]
    )


def _array(values: Sequence[Any], field: Any, given: Mapping[str, Any]) -> Any:
    import pyarrow as pa

    if field.metadata and field.metadata.get(b"assay") == b"json":
        as_it_is = str if field.name not in AS_JSON else ()
        texts = [v if v is None or isinstance(v, as_it_is) else to_text(v, keep_nan=True) for v in values]
        return pa.array(texts, pa.string())
    if field.name not in given:
        return pa.array(values, field.type)
    if pa.types.is_timestamp(field.type):  # Arrow reads nanoseconds, datetime does not
        return pa.array(values, pa.string()).cast(field.type)
    return pa.array([_restored(value, field.type) for value in values], field.type)


def _restored(value: Any, kind: Any) -> Any:
    """A value of an input column as it was before it was JSON."""
    from pyarrow import types

    if value is None:
        return None
    if types.is_struct(kind):
        fields = [kind.field(i) for i in range(kind.num_fields)]
        return {field.name: _restored(value.get(field.name), field.type) for field in fields}
    if types.is_list(kind) or types.is_large_list(kind):
        return [_restored(one, kind.value_type) for one in value]
    if types.is_binary(kind) or types.is_large_binary(kind):
        return base64.b64decode(value)
    if types.is_timestamp(kind):
        return datetime.fromisoformat(value)
    if types.is_date(kind):
        return date.fromisoformat(value)
    return Decimal(value) if types.is_decimal(kind) else value
