"""Judged rows as Parquet, which wants one type a column."""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import date, time
from decimal import Decimal
from pathlib import Path
from typing import IO, Any

from judges.data.json_lines import from_line, to_text
from judges.data.readers import format_of
from judges.data.writers import OURS, renamed
from judges.types import Usage, plain_usage

AS_JSON = ("votes",)  # JSON in a text, for a vote is a number or a failure
GROUP_ROWS = 10_000  # of a row group
WIDE = 1_000  # keys in a column's objects: with more it is JSON, not a struct


def write_parquet(lines: Callable[[], Iterable[bytes]], raw: IO[bytes], like: Path | None) -> None:
    """Rows, given as lines of JSON, as Parquet; columns that a Parquet input (`like`) has keep its types."""
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
        row = from_line(line)
        group.append(_as_text(row) if b"\\ud" in line else row)
        if len(group) == GROUP_ROWS:
            yield group
            group = []
    if group:
        yield group


def _as_text(value: Any) -> Any:
    """The same with every half of a surrogate pair spelled out, which Arrow does not take."""
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode()
    if isinstance(value, list):
        return [_as_text(one) for one in value]
    return {_as_text(key): _as_text(one) for key, one in value.items()} if isinstance(value, dict) else value


def _types(like: Path | None) -> dict[str, Any]:
    """The columns of a Parquet input whose values JSON gives back whole, by their names in the output."""
    if like is None or format_of(like.name) != (".parquet", ""):
        return {}
    import pyarrow.parquet as pq

    kept = [field for field in pq.read_schema(like) if _comes_back(field.type)]
    return {renamed(field.name): field.type for field in kept}


def _comes_back(kind: Any) -> bool:
    from pyarrow import types

    if types.is_struct(kind):
        return all(_comes_back(kind.field(i).type) for i in range(kind.num_fields))
    if _is_list(kind):
        return _comes_back(kind.value_type)
    if types.is_map(kind):
        return _comes_back(kind.key_type) and _comes_back(kind.item_type)
    tests = (
        *(types.is_boolean, types.is_integer, types.is_floating, types.is_string, types.is_large_string),
        *(_is_binary, types.is_timestamp, types.is_date, types.is_decimal, _is_time),
    )
    return any(test(kind) for test in tests)


def _is_list(kind: Any) -> bool:
    from pyarrow import types

    return bool(types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind))


def _is_binary(kind: Any) -> bool:
    from pyarrow import types

    return bool(types.is_binary(kind) or types.is_large_binary(kind) or types.is_fixed_size_binary(kind))


def _is_time(kind: Any) -> bool:
    from pyarrow import types

    return bool(types.is_time(kind)) and kind.unit != "ns"  # Python's time has microseconds


def _own_types() -> dict[str, Any]:
    """The types of our columns, the same in every file, whatever its rows happen to hold."""
    import pyarrow as pa

    count, number, text = pa.int64(), pa.float64(), pa.string()
    why = pa.struct([("reason", text), ("message", text)])
    cost = [(name, number if name == "seconds" else count) for name in plain_usage(Usage())]
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
    wider: set[str] = set()  # columns whose first rows were of another type than all
    for group in _groups(lines()):
        for name in dict.fromkeys(name for row in group for name in row):
            if name in known:
                found.setdefault(name, known[name])
                continue
            before = found.get(name, pa.null())
            found[name] = _wide_enough(before, [row.get(name) for row in group])
            if found[name] is None:
                found[name] = known[name] = pa.string()
            elif before not in (pa.null(), found[name]):
                wider.add(name)
    for group in _groups(lines()) if wider else ():  # 2**60 + 1 is no float
        for name in [name for name in wider if name not in known]:
            if _wide_enough(found[name], [row.get(name) for row in group]) is None:
                found[name] = known[name] = pa.string()
    for name in found.keys() - known.keys():
        if not _storable(found[name]):
            found[name] = known[name] = pa.string()
    plain = {name: pa.string() if pa.types.is_null(kind) else kind for name, kind in found.items()}
    ordered = [name for name in plain if name not in OURS] + [name for name in plain if name in OURS]
    as_json = {name for name in plain if name not in given and (name in AS_JSON or known.get(name) == pa.string())}
    return pa.schema(
        [pa.field(n, plain[n], metadata={"assay": "json"} if n in as_json and n != "id" else None) for n in ordered]
    )


def _wide_enough(kind: Any, values: Sequence[Any]) -> Any:
    """A type that is this one or takes its values too, and these; None where there is none."""
    import pyarrow as pa

    try:
        here = pa.array(values).type
        both = [pa.schema([("", one)]) for one in (kind, here)]
        found = pa.unify_schemas(both, promote_options="permissive").field(0).type
        if found != here:
            pa.array(values, found)
    except (pa.ArrowException, OverflowError, ValueError):
        return None
    mixed = not pa.types.is_boolean(found) and any(isinstance(value, bool) for value in values)
    return None if mixed else found  # Arrow makes true among numbers 1


def _storable(kind: Any) -> bool:
    """Whether Parquet has it: a struct has at least one field; and no more than a file's schema can bear."""
    from pyarrow import types

    if types.is_struct(kind):
        fields = [kind.field(i).type for i in range(kind.num_fields)]
        return 0 < len(fields) <= WIDE and all(map(_storable, fields))
    return _storable(kind.value_type) if _is_list(kind) else True


def _array(values: Sequence[Any], field: Any, given: Mapping[str, Any]) -> Any:
    import pyarrow as pa

    if field.metadata and field.metadata.get(b"assay") == b"json":
        as_it_is = str if field.name not in AS_JSON else ()
        texts = [v if v is None or isinstance(v, as_it_is) else to_text(v, keep_nan=True) for v in values]
        return pa.array(texts, pa.string())
    if field.name not in given:
        return pa.array(values, field.type)
    if pa.types.is_timestamp(field.type):
        return _timestamps(values, field.type)
    return pa.array([_restored(value, field.type) for value in values], field.type)


def _timestamps(texts: Sequence[str | None], kind: Any) -> Any:
    """Arrow reads nanoseconds, datetime does not; but it reads no milliseconds from a text of six digits."""
    import pyarrow as pa

    finer = kind if kind.unit == "ns" else pa.timestamp("us", kind.tz)
    return pa.array(texts, pa.string()).cast(finer).cast(kind)


def _restored(value: Any, kind: Any) -> Any:
    """A value of an input column as it was before it was JSON."""
    from pyarrow import types

    if value is None:
        return None
    if types.is_struct(kind):
        fields = [kind.field(i) for i in range(kind.num_fields)]
        return {field.name: _restored(value.get(field.name), field.type) for field in fields}
    if _is_list(kind):
        return [_restored(one, kind.value_type) for one in value]
    if types.is_map(kind):
        return [(_restored(key, kind.key_type), _restored(one, kind.item_type)) for key, one in value]
    if _is_binary(kind):
        return base64.b64decode(value)
    if types.is_timestamp(kind):
        return _timestamps([value], kind)[0].value
    if types.is_date(kind):
        return date.fromisoformat(value)
    if types.is_time(kind):
        return time.fromisoformat(value)
    return Decimal(value) if types.is_decimal(kind) else value
