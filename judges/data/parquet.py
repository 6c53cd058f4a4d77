"""Writes output rows as Parquet: finds one type per column, and restores the types of a Parquet input."""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import date, time
from decimal import Decimal
from pathlib import Path
from typing import IO, Any

from judges.data.json_lines import from_line, to_text
from judges.data.output_row import OUTPUT_COLUMNS, output_name
from judges.data.readers import format_of
from judges.types import Usage, usage_to_dict

JSON_COLUMNS = ("votes",)  # stored as JSON text, because a vote is a number or a failure
GROUP_ROWS = 10_000  # rows per row group
MAX_STRUCT_FIELDS = 1_000  # objects with more keys are stored as JSON text, not as a struct


def write_parquet(lines: Callable[[], Iterable[bytes]], raw: IO[bytes], like: Path | None) -> None:
    """Write rows, given as lines of JSON, as Parquet; columns of a Parquet input (`like`) keep their types."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    input_types = _input_types(like)
    schema = _infer_schema(lines, input_types)
    with pq.ParquetWriter(raw, schema, compression="zstd") as out:
        for group in _groups(lines()):
            arrays = [_to_array([row.get(field.name) for row in group], field, input_types) for field in schema]
            out.write_table(pa.Table.from_arrays(arrays, schema=schema))


def _groups(lines: Iterable[bytes]) -> Iterator[list[dict[str, Any]]]:
    group: list[dict[str, Any]] = []
    for line in lines:
        row = from_line(line)
        group.append(_escape_surrogates(row) if b"\\ud" in line else row)
        if len(group) == GROUP_ROWS:
            yield group
            group = []
    if group:
        yield group


def _escape_surrogates(value: Any) -> Any:
    """The value with lone surrogates written as backslash escapes, because Arrow rejects them."""
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode()
    if isinstance(value, list):
        return [_escape_surrogates(element) for element in value]
    if isinstance(value, dict):
        return {_escape_surrogates(key): _escape_surrogates(element) for key, element in value.items()}
    return value


def _input_types(like: Path | None) -> dict[str, Any]:
    """The types of a Parquet input's columns that survive JSON unchanged, by the column's name in the output."""
    if like is None or format_of(like.name) != (".parquet", ""):
        return {}
    import pyarrow.parquet as pq

    return {output_name(field.name): field.type for field in pq.read_schema(like) if _survives_json(field.type)}


def _survives_json(kind: Any) -> bool:
    from pyarrow import types

    if types.is_struct(kind):
        return all(_survives_json(kind.field(i).type) for i in range(kind.num_fields))
    if _is_list(kind):
        return _survives_json(kind.value_type)
    if types.is_map(kind):
        return _survives_json(kind.key_type) and _survives_json(kind.item_type)
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


def _output_types() -> dict[str, Any]:
    """The types of the columns that scoring adds. They are the same in every file, whatever values its rows have."""
    import pyarrow as pa

    count, number, text = pa.int64(), pa.float64(), pa.string()
    failure = pa.struct([("reason", text), ("message", text)])
    usage = [(name, number if name == "seconds" else count) for name in usage_to_dict(Usage())]
    return {
        "row": count,
        "id": text,
        "score": number,
        "scores": pa.list_(number),
        "failure": failure,
        "failures": pa.list_(failure),
        "preference": pa.list_(number),
        "usage": pa.struct(usage),
        "votes": text,
    }


def _infer_schema(lines: Callable[[], Iterable[bytes]], input_types: Mapping[str, Any]) -> Any:
    """One type per column: the input's, the fixed one of an added column, or else the narrowest that fits all values.

    A column whose values fit no common type is text, in which every value that is not text is JSON.
    """
    import pyarrow as pa

    fixed = {**input_types, **_output_types()}
    found: dict[str, Any] = {}
    widened: set[str] = set()  # columns whose first rows had a narrower type than the final one
    for group in _groups(lines()):
        for name in dict.fromkeys(name for row in group for name in row):
            if name in fixed:
                found.setdefault(name, fixed[name])
                continue
            before = found.get(name, pa.null())
            found[name] = _unify_type(before, [row.get(name) for row in group])
            if found[name] is None:
                found[name] = fixed[name] = pa.string()
            elif before not in (pa.null(), found[name]):
                widened.add(name)
    for group in _groups(lines()) if widened else ():  # 2**60 + 1 is not a float
        for name in [name for name in widened if name not in fixed]:
            if _unify_type(found[name], [row.get(name) for row in group]) is None:
                found[name] = fixed[name] = pa.string()
    for name in found.keys() - fixed.keys():
        if not _is_storable(found[name]):
            found[name] = fixed[name] = pa.string()

    def is_json(name: str) -> bool:
        if name in input_types or name == "id":
            return False
        return name in JSON_COLUMNS or fixed.get(name) == pa.string()

    return pa.schema(
        pa.field(
            name,
            pa.string() if pa.types.is_null(found[name]) else found[name],
            metadata={"assay": "json"} if is_json(name) else None,
        )
        for name in sorted(found, key=OUTPUT_COLUMNS.__contains__)
    )


def _unify_type(kind: Any, values: Sequence[Any]) -> Any:
    """The narrowest type that holds both the values of `kind` and these; None where there is none."""
    import pyarrow as pa

    try:
        inferred = pa.array(values).type
        schemas = [pa.schema([("", each)]) for each in (kind, inferred)]
        unified = pa.unify_schemas(schemas, promote_options="permissive").field(0).type
        if unified != inferred:
            pa.array(values, unified)
    except (pa.ArrowException, OverflowError, ValueError):
        return None
    mixed = not pa.types.is_boolean(unified) and any(isinstance(value, bool) for value in values)
    return None if mixed else unified  # Arrow would turn true among numbers into 1


def _is_storable(kind: Any) -> bool:
    """Whether Parquet can store the type: a struct needs at least one field, and too many make the schema huge."""
    from pyarrow import types

    if types.is_struct(kind):
        fields = [kind.field(i).type for i in range(kind.num_fields)]
        return 0 < len(fields) <= MAX_STRUCT_FIELDS and all(map(_is_storable, fields))
    return _is_storable(kind.value_type) if _is_list(kind) else True


def _to_array(values: Sequence[Any], field: Any, input_types: Mapping[str, Any]) -> Any:
    import pyarrow as pa

    if field.metadata and field.metadata.get(b"assay") == b"json":
        unquoted = str if field.name not in JSON_COLUMNS else ()
        texts = [v if v is None or isinstance(v, unquoted) else to_text(v, keep_nan=True) for v in values]
        return pa.array(texts, pa.string())
    if field.name not in input_types:
        return pa.array(values, field.type)
    if pa.types.is_timestamp(field.type):
        return _timestamps(values, field.type)
    return pa.array([_restore(value, field.type) for value in values], field.type)


def _timestamps(texts: Sequence[str | None], kind: Any) -> Any:
    """Parse ISO 8601 by Arrow, which unlike `datetime` reads nanoseconds; it reads no milliseconds from six digits."""
    import pyarrow as pa

    finer = kind if kind.unit == "ns" else pa.timestamp("us", kind.tz)
    return pa.array(texts, pa.string()).cast(finer).cast(kind)


def _restore(value: Any, kind: Any) -> Any:
    """The value that an input column had before it became JSON."""
    from pyarrow import types

    if value is None:
        return None
    if types.is_struct(kind):
        fields = [kind.field(i) for i in range(kind.num_fields)]
        return {field.name: _restore(value.get(field.name), field.type) for field in fields}
    if _is_list(kind):
        return [_restore(element, kind.value_type) for element in value]
    if types.is_map(kind):
        return [(_restore(key, kind.key_type), _restore(element, kind.item_type)) for key, element in value]
    if _is_binary(kind):
        return base64.b64decode(value)
    if types.is_timestamp(kind):
        return _timestamps([value], kind)[0].value
    if types.is_date(kind):
        return date.fromisoformat(value)
    if types.is_time(kind):
        return time.fromisoformat(value)
    return Decimal(value) if types.is_decimal(kind) else value
