"""Parquet outputs keep the values and types of the input."""

from __future__ import annotations

import math
from datetime import UTC, date, datetime, time
from decimal import Decimal

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
from format_files import read, score, write

from judges.data import parquet

BERLIN = "Europe/Berlin"
NANOSECONDS = 1_577_836_800_123_456_789


def typed(n: int) -> pa.Table:
    """Columns of all types that JSON lacks; the last value of each is null."""
    struct = pa.struct([("at", pa.timestamp("ns")), ("of", pa.list_(pa.decimal128(8, 2))), ("raw", pa.binary())])
    columns = {
        "prompt": pa.array(["p"] * n),
        "response": pa.array(["x" * k for k in range(1, n + 1)]),
        "seconds": pa.array([-1, 0, 253402300799, None], pa.timestamp("s")),
        "milliseconds": pa.array([1_577_836_800_123, -1, 0, None], pa.timestamp("ms")),
        "microseconds": pa.array([1_577_836_800_123_456, -1, 0, None], pa.timestamp("us")),
        "nanoseconds": pa.array([NANOSECONDS, -1, 0, None], pa.timestamp("ns")),
        "in_utc": pa.array([1_577_836_800_123_456, -1, 0, None], pa.timestamp("us", "UTC")),
        "in_berlin": pa.array([NANOSECONDS, NANOSECONDS + 15_000_000_000_000_000, 0, None], pa.timestamp("ns", BERLIN)),
        "day": pa.array([date(2020, 2, 29), date(1, 1, 1), date(9999, 12, 31), None]),
        "hour": pa.array([time(1, 2, 3, 4), time(0), time(23, 59, 59, 999999), None]),
        "decimal": pa.array([Decimal("1.10"), Decimal("-99999999999999999999.99"), Decimal("0.00"), None]),
        "bytes": pa.array([b"\x00\xff", b"", b"text", None], pa.binary()),
        "four_bytes": pa.array([b"\x00\xff\x00\xff", b"abcd", b"\0\0\0\0", None], pa.binary(4)),
        "large": pa.array(["\U0001f600", "", "x" * 70_000, None], pa.large_string()),
        "coded": pa.array(["a", "b", "a", None]).dictionary_encode(),
        "half": pa.array([1.5, math.inf, -2.0, None], pa.float16()),
        "single": pa.array([0.1, 3.4e38, -0.0, None], pa.float32()),
        "double": pa.array([0.1, 1e-300, 1e300, None], pa.float64()),
        "long": pa.array([2**63 - 1, -(2**63), 0, None], pa.int64()),
        "unsigned": pa.array([2**64 - 1, 2**63, 0, None], pa.uint64()),
        "small": pa.array([127, -128, 0, None], pa.int8()),
        "flag": pa.array([True, False, True, None]),
        "nothing": pa.array([None] * n, pa.null()),
        "lists": pa.array([[[1, 2], None], [], [[]], None], pa.list_(pa.list_(pa.int16()))),
        "pair": pa.array([[1.5, 2.5], [0.0, -1.0], [None, 1.0], None], pa.list_(pa.float32(), 2)),
        "mapped": pa.array([[("k", 1)], [], [("a", None)], None], pa.map_(pa.string(), pa.int32())),
        "nested": pa.array(
            [
                {"at": NANOSECONDS, "of": [Decimal("1.50"), None], "raw": b"\xff"},
                {"at": None, "of": None, "raw": None},
                {"at": 0, "of": [], "raw": b""},
                None,
            ],
            struct,
        ),
    }
    return pa.table(columns)


def test_parquet_to_parquet_keeps_values_and_types(tmp_path):
    pq.write_table(typed(4), tmp_path / "in.parquet")
    input_table = pq.read_table(tmp_path / "in.parquet")
    score(tmp_path / "in.parquet", tmp_path / "out.parquet")
    written = pq.read_table(tmp_path / "out.parquet")
    for name in input_table.column_names:
        before, after = input_table.column(name), written.column(name)
        if name in ("coded", "nothing"):  # these become plain text
            assert after.type == pa.string() and after.to_pylist() == before.to_pylist()
        else:
            assert after.type == before.type, name
            assert after.combine_chunks().equals(before.combine_chunks()), name
    assert written.column("score").to_pylist() == [1, 2, 3, 4]


def test_nan_in_parquet_is_nan_in_parquet_and_null_in_json(tmp_path):
    pq.write_table(
        pa.table({"prompt": ["p"], "response": ["x"], "a": [math.nan], "b": [[math.inf]]}), tmp_path / "in.parquet"
    )
    score(tmp_path / "in.parquet", tmp_path / "out.parquet")
    (written,) = read(tmp_path / "out.parquet")
    assert math.isnan(written["a"]) and written["b"] == [math.inf]
    score(tmp_path / "in.parquet", tmp_path / "out.jsonl")
    (written,) = read(tmp_path / "out.jsonl")
    assert written["a"] is None and written["b"] == [None]


def test_parquet_to_json_lines_writes_dates_bytes_and_decimals_as_text(tmp_path):
    pq.write_table(typed(4), tmp_path / "in.parquet")
    score(tmp_path / "in.parquet", tmp_path / "out.jsonl")
    first, second, third, last = read(tmp_path / "out.jsonl")
    assert first["nanoseconds"] == "2020-01-01T00:00:00.123456789"
    assert first["in_berlin"] == "2020-01-01T01:00:00.123456789+01:00"
    assert datetime.fromisoformat(first["in_utc"]) == datetime(2020, 1, 1, 0, 0, 0, 123456, UTC)
    assert (first["decimal"], second["decimal"]) == ("1.10", "-99999999999999999999.99")
    assert (first["bytes"], first["day"], first["hour"]) == ("AP8=", "2020-02-29", "01:02:03.000004")
    assert (first["long"], first["unsigned"]) == (2**63 - 1, 2**64 - 1)
    assert first["nested"]["at"] == "2020-01-01T00:00:00.123456789" and first["nested"]["of"] == ["1.50", None]
    assert third["large"] == "x" * 70_000
    assert all(last[name] is None for name in typed(4).column_names if name not in ("prompt", "response"))


def test_a_column_that_changes_its_type_is_json_in_parquet(tmp_path):
    tags = [1, "1", [1, {"a": None}], {"a": 1.5}, None, True, 2**70]
    write(tmp_path / "in.jsonl", [{"prompt": "p", "response": "x", "tag": tag} for tag in tags])
    score(tmp_path / "in.jsonl", tmp_path / "out.parquet")
    written = pq.read_table(tmp_path / "out.parquet")
    assert written.field("tag").type == pa.string() and written.field("tag").metadata == {b"assay": b"json"}
    assert written.column("tag").to_pylist() == ["1", "1", '[1,{"a":null}]', '{"a":1.5}', None, "true", str(2**70)]


@pytest.mark.parametrize(
    ("values", "kind", "expected"),
    [
        ([1, 2.5, -3], pa.float64(), [1.0, 2.5, -3.0]),
        ([1.5, 2**60 + 1, 1], pa.string(), ["1.5", str(2**60 + 1), "1"]),
        ([2**60 + 1, 1, 1.5], pa.string(), [str(2**60 + 1), "1", "1.5"]),
        ([2**64, 1, -1], pa.string(), [str(2**64), "1", "-1"]),
        ([True, 1, 1.5], pa.string(), ["true", "1", "1.5"]),
        ([None, None, 1], pa.int64(), [None, None, 1]),
        ([{}, {}, None], pa.string(), ["{}", "{}", None]),
        ([{"a": {}}, {"b": 1}, {}], pa.string(), ['{"a":{}}', '{"b":1}', "{}"]),
        ([[], [1], [None]], pa.list_(pa.int64()), [[], [1], [None]]),
        (
            [{"a": 1}, {"b": "x"}, {"a": 2.5}],
            None,
            [{"a": 1.0, "b": None}, {"a": None, "b": "x"}, {"a": 2.5, "b": None}],
        ),
        (["\ud800", "x", None], pa.string(), ["\\ud800", "x", None]),
    ],
)
@pytest.mark.parametrize("group", [1, 100])
def test_a_column_gets_a_type_that_holds_all_its_values_exactly(tmp_path, monkeypatch, group, values, kind, expected):
    monkeypatch.setattr(parquet, "GROUP_ROWS", group)
    write(tmp_path / "in.jsonl", [{"prompt": "p", "response": "x", "a": value} for value in values])
    score(tmp_path / "in.jsonl", tmp_path / "out.parquet")
    written = pq.read_table(tmp_path / "out.parquet")
    assert written.column("a").to_pylist() == expected
    assert kind is None or written.field("a").type.equals(kind)


def test_objects_of_thousands_of_keys_are_json_and_not_a_schema_of_them(tmp_path):
    write(tmp_path / "in.jsonl", [{"prompt": "p", "response": "x", "by": {f"k{i}": i}} for i in range(1200)])
    score(tmp_path / "in.jsonl", tmp_path / "out.parquet")
    written = pq.read_table(tmp_path / "out.parquet")
    assert written.field("by").type == pa.string() and written.column("by")[7].as_py() == '{"k7":7}'


def test_row_groups_have_at_most_the_maximal_number_of_rows(tmp_path, monkeypatch):
    monkeypatch.setattr(parquet, "GROUP_ROWS", 7)
    write(tmp_path / "in.jsonl", [{"prompt": "p", "response": "x" * i} for i in range(1, 24)])
    score(tmp_path / "in.jsonl", tmp_path / "out.parquet")
    metadata = pq.ParquetFile(tmp_path / "out.parquet").metadata
    assert [metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)] == [7, 7, 7, 2]
    assert [row["score"] for row in read(tmp_path / "out.parquet")] == list(range(1, 24))
