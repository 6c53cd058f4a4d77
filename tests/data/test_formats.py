"""Every input format to every output format: what was in a row comes through, and others read what is written."""

from __future__ import annotations

import csv
import gzip
import io
import json
import math
from collections.abc import Iterable, Iterator
from datetime import UTC, date, datetime, time
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from judges import Failure, Judgment, Scorecard, load_scorer
from judges.batch.output import Options
from judges.batch.run import Summary, score_file
from judges.data import parquet
from judges.scorers.baselines import Length

OURS = ["score", "failure", "critique", "votes", "read", "truncated", "usage", "row"]
TEXTS = [
    {"prompt": "plain", "response": "x", "note": "n"},
    {"prompt": 'with "quotes", commas', "response": "two\nlines\r\nthree", "note": "  spaces  "},
    {"prompt": "中文 ü \U0001f600", "response": "é", "note": "'; -- =1+1"},
]


def packed(data: bytes, name: str) -> bytes:
    if name.endswith(".gz"):
        return gzip.compress(data)
    return pa.Codec("zstd").compress(data, asbytes=True) if name.endswith(".zst") else data


def unpacked(file: Path) -> bytes:
    if file.name.endswith(".gz"):
        return gzip.decompress(file.read_bytes())
    if file.name.endswith(".zst"):
        with pa.CompressedInputStream(pa.OSFile(str(file)), "zstd") as stream:
            return stream.read()
    return file.read_bytes()


def write(file: Path, rows: list[dict[str, Any]]) -> Path:
    """Rows to a file without anything of ours."""
    if file.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), file)
    elif ".csv" in file.name:
        text = io.StringIO(newline="")
        table = csv.DictWriter(text, list(rows[0]))
        table.writeheader()
        table.writerows(rows)
        file.write_bytes(packed(text.getvalue().encode(), file.name))
    else:
        file.write_bytes(packed("".join(json.dumps(r) + "\n" for r in rows).encode(), file.name))
    return file


def read(file: Path) -> list[dict[str, Any]]:
    """Rows of a file, by libraries that are not ours."""
    if file.suffix == ".parquet":
        return pq.read_table(file).to_pylist()
    if ".csv" in file.name:
        return list(csv.DictReader(io.StringIO(unpacked(file).decode(), newline="")))
    return [json.loads(line) for line in unpacked(file).splitlines()]


def score(source: Path, output: Path, options: Options = Options(), scorer: Any = None) -> Summary:
    return score_file(str(source), scorer or load_scorer("length"), output, options)


NAMES = ["jsonl", "jsonl.gz", "jsonl.zst", "ndjson", "csv", "csv.gz", "csv.zst", "parquet"]


@pytest.mark.parametrize("end_in", NAMES)
@pytest.mark.parametrize("end_out", NAMES)
def test_texts_come_through_from_every_format_to_every_format(tmp_path, end_in, end_out):
    source = write(tmp_path / f"in.{end_in}", TEXTS)
    output = tmp_path / f"out.{end_out}"
    summary = score(source, output)
    made = read(output)
    assert summary.written == 3 and summary.failed == 0
    assert [{key: row[key] for key in TEXTS[0]} for row in made] == TEXTS
    assert [float(row["score"]) for row in made] == [1.0, 16.0, 1.0]
    assert [int(row["row"]) for row in made] == [1, 2, 3]
    assert [row["id"] for row in made] == ["row-1", "row-2", "row-3"]
    assert not list(tmp_path.glob(".*"))


# -- Parquet ---------------------------------------------------------------------------------------------------

BERLIN = "Europe/Berlin"
NANOSECONDS = 1_577_836_800_123_456_789


def typed(n: int) -> pa.Table:
    """Columns of every type that JSON has no form for, the last value of each null."""
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
    given_table = pq.read_table(tmp_path / "in.parquet")
    score(tmp_path / "in.parquet", tmp_path / "out.parquet")
    made = pq.read_table(tmp_path / "out.parquet")
    for name in given_table.column_names:
        before, after = given_table.column(name), made.column(name)
        if name in ("coded", "nothing"):  # plain text is what those are
            assert after.type == pa.string() and after.to_pylist() == before.to_pylist()
        else:
            assert after.type == before.type, name
            assert after.combine_chunks().equals(before.combine_chunks()), name
    assert made.column("score").to_pylist() == [1, 2, 3, 4]


def test_nan_in_parquet_is_nan_in_parquet_and_null_in_json(tmp_path):
    pq.write_table(
        pa.table({"prompt": ["p"], "response": ["x"], "a": [math.nan], "b": [[math.inf]]}), tmp_path / "in.parquet"
    )
    score(tmp_path / "in.parquet", tmp_path / "out.parquet")
    (made,) = read(tmp_path / "out.parquet")
    assert math.isnan(made["a"]) and made["b"] == [math.inf]
    score(tmp_path / "in.parquet", tmp_path / "out.jsonl")
    (made,) = read(tmp_path / "out.jsonl")
    assert made["a"] is None and made["b"] == [None]


def test_parquet_to_json_lines_tells_dates_bytes_and_decimals_as_texts(tmp_path):
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
    made = pq.read_table(tmp_path / "out.parquet")
    assert made.field("tag").type == pa.string() and made.field("tag").metadata == {b"assay": b"json"}
    told = made.column("tag").to_pylist()
    assert told == ["1", "1", '[1,{"a":null}]', '{"a":1.5}', None, "true", str(2**70)]


@pytest.mark.parametrize(
    ("values", "kind", "told"),
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
def test_a_column_gets_a_type_that_holds_all_its_values_exactly(tmp_path, monkeypatch, group, values, kind, told):
    monkeypatch.setattr(parquet, "GROUP_ROWS", group)
    write(tmp_path / "in.jsonl", [{"prompt": "p", "response": "x", "a": value} for value in values])
    score(tmp_path / "in.jsonl", tmp_path / "out.parquet")
    made = pq.read_table(tmp_path / "out.parquet")
    assert made.column("a").to_pylist() == told
    assert kind is None or made.field("a").type.equals(kind)


def test_objects_of_thousands_of_keys_are_json_and_not_a_schema_of_them(tmp_path):
    write(tmp_path / "in.jsonl", [{"prompt": "p", "response": "x", "by": {f"k{i}": i}} for i in range(1200)])
    score(tmp_path / "in.jsonl", tmp_path / "out.parquet")
    made = pq.read_table(tmp_path / "out.parquet")
    assert made.field("by").type == pa.string() and made.column("by")[7].as_py() == '{"k7":7}'


def test_a_row_group_holds_no_more_rows_than_it_may(tmp_path, monkeypatch):
    monkeypatch.setattr(parquet, "GROUP_ROWS", 7)
    write(tmp_path / "in.jsonl", [{"prompt": "p", "response": "x" * i} for i in range(1, 24)])
    score(tmp_path / "in.jsonl", tmp_path / "out.parquet")
    told = pq.ParquetFile(tmp_path / "out.parquet").metadata
    assert [told.row_group(i).num_rows for i in range(told.num_row_groups)] == [7, 7, 7, 2]
    assert [row["score"] for row in read(tmp_path / "out.parquet")] == list(range(1, 24))


# -- JSON lines ------------------------------------------------------------------------------------------------


def test_numbers_and_texts_of_json_come_through_exactly(tmp_path):
    columns = {
        "long": 12345678901234567890123456789,
        "negative": -(2**63) - 1,
        "edge": 2**64,
        "small": 0.1 + 0.2,
        "tiny": 5e-324,
        "huge": 1.7976931348623157e308,
        "whole": 1e22,
        "zero": -0.0,
        "text": "\u0000 \u2028 \ufeff \U0001f600 \\ud800",
        "deep": {"": [{"a": [None, True, [[]]]}], "ü": {}},
    }
    line = json.dumps({"prompt": "p", "response": "x", **columns, "half": "\ud800"})
    (tmp_path / "in.jsonl").write_text(line + "\n")
    score(tmp_path / "in.jsonl", tmp_path / "out.jsonl")
    (made,) = read(tmp_path / "out.jsonl")
    assert {key: made[key] for key in columns} == columns and made["half"] == "\ud800"
    assert math.copysign(1, made["zero"]) == -1
    raw = (tmp_path / "out.jsonl").read_bytes()
    assert b"12345678901234567890123456789" in raw and "\U0001f600".encode() in raw


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=8,
)
NAME = st.text() | st.sampled_from([*OURS, "id", "input.score", "input.input.score", "scores", "input.id"])


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(rows=st.lists(st.dictionaries(NAME, JSON, max_size=5), min_size=1, max_size=5))
def test_every_column_of_any_rows_is_in_the_output_as_it_was(tmp_path_factory, rows):
    folder = tmp_path_factory.mktemp("any")
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    (folder / "in.jsonl").write_text(lines)
    score(folder / "in.jsonl", folder / "out.jsonl")
    made = read(folder / "out.jsonl")
    assert [r["row"] for r in made] == list(range(1, len(rows) + 1))
    assert len({r["id"] for r in made}) == len(rows)
    for before, after in zip(map(json.loads, lines.splitlines()), made, strict=True):
        for name, value in before.items():
            if name == "id":
                kept = after["input.id"] if "input.id" in after else after["id"]
                assert value in (None, "") or str(kept) == str(value)
            else:
                assert repr(after[kept_as(name)]) == repr(value)


def kept_as(name: str) -> str:
    """Where a column of the input stands in the output, worked out apart."""
    parts = name.split("input.")
    ours = {*OURS, "scores", "failures", "preference"}
    chain = all(part == "" for part in parts[:-1]) and parts[-1] in (ours | ({"id"} if len(parts) > 1 else set()))
    return f"input.{name}" if chain else name


def test_columns_named_like_ours_are_kept_beside_them_and_judging_again_keeps_both(tmp_path):
    write(tmp_path / "1.jsonl", [{"prompt": "p", "response": "xx", "score": 7, "row": "r", "usage": None}])
    for n in (1, 2, 3):
        score(tmp_path / f"{n}.jsonl", tmp_path / f"{n + 1}.jsonl")
    (made,) = read(tmp_path / "4.jsonl")
    assert made["score"] == made["input.score"] == made["input.input.score"] == 2.0
    assert made["input.input.input.score"] == 7 and made["input.input.input.row"] == "r"
    assert made["input.input.row"] == made["input.row"] == made["row"] == 1


# -- what other libraries read ---------------------------------------------------------------------------------


class Odd(Length):
    """Votes, and failures of some of them; every third row fails."""

    def stream(self, items: Iterable[Any]) -> Iterator[Scorecard]:
        for card in super().stream(items):
            n = int(card.judgments[0].score or 0)
            votes = (float(n), Failure("missing", 'none, "said"\n'), 0.5)
            failure = None if n % 3 else Failure("truncated", "cut, off")
            judgments = tuple(
                Judgment(
                    score=None if failure else j.score, failure=failure, votes=votes, critique=f"c\n{n}", read="text"
                )
                for j in card.judgments
            )
            yield Scorecard(card.id, judgments)


VOTES = [1.0, {"reason": "missing", "message": 'none, "said"\n'}, 0.5]


@pytest.mark.parametrize("end", ["parquet", "csv"])
def test_votes_and_failures_are_in_every_format(tmp_path, end):
    write(tmp_path / "in.jsonl", [{"prompt": "p", "response": "x" * i} for i in range(1, 7)])
    assert score(tmp_path / "in.jsonl", tmp_path / f"out.{end}", scorer=Odd()).failures == {"truncated": 2}
    made = read(tmp_path / f"out.{end}")
    assert json.loads(made[0]["votes"]) == VOTES and made[0]["critique"] == "c\n1"
    why = {"reason": "truncated", "message": "cut, off"}
    empty = {"parquet": None, "csv": ""}[end]
    told = [row["failure"] and (row["failure"] if end == "parquet" else json.loads(row["failure"])) for row in made]
    assert told == [empty, empty, why, empty, empty, why]
    scores = [None if row["score"] in (None, "") else float(row["score"]) for row in made]
    assert scores == [1.0, 2.0, None, 4.0, 5.0, None]


@pytest.mark.parametrize("end", ["parquet", "csv"])
def test_rows_of_one_and_of_several_responses_go_into_one_table(tmp_path, end):
    rows = [{"prompt": "p", "response": "xx"}, {"prompt": "p", "responses": ["x", "xxx"]}, {"prompt": "p", "chosen": 1}]
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    score(tmp_path / "in.jsonl", tmp_path / f"out.{end}")
    made = read(tmp_path / f"out.{end}")
    if end == "csv":
        assert [row["scores"] for row in made] == ["", "[1.0,3.0]", ""]
        assert [row["score"] for row in made] == ["2.0", "", ""]
        assert json.loads(made[2]["failure"])["reason"] == "empty"
    else:
        assert [row["scores"] for row in made] == [None, [1.0, 3.0], None]
        assert [row["preference"] for row in made] == [None, [0.0, 1.0], None]
        assert made[2]["failure"]["reason"] == "empty"


@pytest.mark.parametrize("end", ["jsonl", "jsonl.gz", "csv", "csv.gz", "parquet"])
def test_datasets_reads_the_output(tmp_path, monkeypatch, end):
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    import datasets

    write(tmp_path / "in.jsonl", [{"prompt": "p", "response": "x" * i, "n": i, "meta": {}} for i in range(1, 7)])
    score(tmp_path / "in.jsonl", tmp_path / f"out.{end}", scorer=Odd())
    kind = {"j": "json", "c": "csv", "p": "parquet"}[end[0]]
    files = str(tmp_path / f"out.{end}")
    made = datasets.load_dataset(kind, data_files=files, split="train", cache_dir=str(tmp_path / "cache"))
    assert made["score"][:2] == [1.0, 2.0] and made["score"][2] is None and made["n"] == [1, 2, 3, 4, 5, 6]


def test_pyarrow_reads_the_csv_and_its_numbers_are_numbers(tmp_path):
    write(tmp_path / "in.jsonl", [{"prompt": "a\nb", "response": "x" * i} for i in range(1, 4)])
    score(tmp_path / "in.jsonl", tmp_path / "out.csv")
    options = pa.csv.ParseOptions(newlines_in_values=True)
    made = pa.csv.read_csv(tmp_path / "out.csv", parse_options=options)
    assert made.column("score").to_pylist() == [1.0, 2.0, 3.0] and made.column("prompt").to_pylist() == ["a\nb"] * 3


def test_a_dataset_that_was_saved_to_disk_is_read_row_by_row(tmp_path):
    import datasets

    datasets.Dataset.from_list(TEXTS).save_to_disk(str(tmp_path / "saved"))
    score(tmp_path / "saved", tmp_path / "out.jsonl")
    assert [{key: row[key] for key in TEXTS[0]} for row in read(tmp_path / "out.jsonl")] == TEXTS


# -- folders and order -----------------------------------------------------------------------------------------


def shards(folder: Path) -> dict[str, list[dict[str, Any]]]:
    folder.mkdir()
    made = {}
    for place, name in enumerate(["a.jsonl", "b.csv.gz", "c.parquet", "d.jsonl.zst", "e.csv"]):
        made[name] = [{"prompt": f"{name} {i}", "response": "x" * (10 * place + i)} for i in range(1, 4)]
        write(folder / name, made[name])
    return made


def test_a_folder_of_every_format_becomes_a_folder_of_the_same(tmp_path):
    given_rows = shards(tmp_path / "in")
    summary = score(tmp_path / "in", tmp_path / "out")
    assert summary.written == 15 and sorted(f.name for f in (tmp_path / "out").iterdir()) == sorted(given_rows)
    for place, (name, rows) in enumerate(given_rows.items()):
        made = read(tmp_path / "out" / name)
        assert [{"prompt": r["prompt"], "response": r["response"]} for r in made] == rows
        assert [float(r["score"]) for r in made] == [10 * place + i for i in range(1, 4)]
        assert [r["id"] for r in made] == [f"{name[0]}/row-{i}" for i in range(1, 4)]


@pytest.mark.parametrize("form", [".parquet", ".jsonl", ".csv", ".jsonl.gz"])
def test_a_folder_may_become_one_of_one_format(tmp_path, form):
    given_rows = shards(tmp_path / "in")
    score(tmp_path / "in", tmp_path / "out", Options(format=form))
    assert sorted(f.name for f in (tmp_path / "out").iterdir()) == [f"{letter}{form}" for letter in "abcde"]
    for name, rows in given_rows.items():
        made = read(tmp_path / "out" / f"{name[0]}{form}")
        assert [{"prompt": r["prompt"], "response": r["response"]} for r in made] == rows


class Backwards(Length):
    """Holds its items, gives their cards from the last to the first, and fails where `odd` says so."""

    odd = True

    def stream(self, items: Iterable[Any]) -> Iterator[Scorecard]:
        for card in reversed(list(super().stream(items))):
            n = int(card.judgments[0].score or 0)
            failed = Judgment(failure=Failure("timeout", "no answer"))
            yield Scorecard(card.id, (failed,)) if self.odd and n % 5 == 0 else card


class Stopping(Backwards):
    """Breaks off after eight rows."""

    def stream(self, items: Iterable[Any]) -> Iterator[Scorecard]:
        for count, card in enumerate(super().stream(items)):
            if count == 8:
                raise RuntimeError("stopped")
            yield card


@pytest.mark.parametrize("end", ["jsonl", "csv", "parquet"])
def test_ordered_is_the_inputs_order_also_after_a_break_and_a_retry(tmp_path, end):
    source = write(tmp_path / "in.jsonl", [{"prompt": "p", "response": "x" * i} for i in range(1, 31)])
    output = tmp_path / f"out.{end}"
    with pytest.raises(RuntimeError, match="stopped"):
        score(source, output, Options(ordered=True), Stopping())
    assert not output.exists()
    summary = score(source, output, Options(ordered=True), Backwards())
    assert (summary.resumed, summary.written) == (8, 22) and summary.failures == {"timeout": 6}
    assert [int(r["row"]) for r in read(output)] == list(range(1, 31))
    mended = Backwards()
    mended.odd = False
    summary = score(source, output, Options(ordered=True, retry_failed=True), mended)
    assert (summary.resumed, summary.written, summary.failed) == (24, 6, 0)
    assert [int(r["row"]) for r in read(output)] == list(range(1, 31))
    assert [float(r["score"]) for r in read(output)] == list(range(1, 31))


def test_unordered_rows_stand_as_they_finished(tmp_path):
    source = write(tmp_path / "in.jsonl", [{"prompt": "p", "response": "x" * i} for i in range(1, 5)])
    score(source, tmp_path / "out.jsonl", scorer=Backwards())
    assert [r["row"] for r in read(tmp_path / "out.jsonl")] == [4, 3, 2, 1]
