"""Rows are unchanged from every input format to every output format, and other libraries can read the output."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv
import pytest
from format_files import TEXTS, read, score, write
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from judges import Failure, Judgment, Scorecard
from judges.batch.output import ScoreOptions
from judges.scorers.baselines import Length

ADDED = ["score", "failure", "critique", "votes", "read", "truncated", "usage", "row"]
NAMES = ["jsonl", "jsonl.gz", "jsonl.zst", "ndjson", "csv", "csv.gz", "csv.zst", "parquet"]


@pytest.mark.parametrize("end_in", NAMES)
@pytest.mark.parametrize("end_out", NAMES)
def test_texts_are_unchanged_from_every_format_to_every_format(tmp_path, end_in, end_out):
    source = write(tmp_path / f"in.{end_in}", TEXTS)
    output = tmp_path / f"out.{end_out}"
    summary = score(source, output)
    written = read(output)
    assert summary.written == 3 and summary.failed == 0
    assert [{key: row[key] for key in TEXTS[0]} for row in written] == TEXTS
    assert [float(row["score"]) for row in written] == [1.0, 16.0, 1.0]
    assert [int(row["row"]) for row in written] == [1, 2, 3]
    assert [row["id"] for row in written] == ["row-1", "row-2", "row-3"]
    assert not list(tmp_path.glob(".*"))


def test_numbers_and_texts_of_json_are_unchanged(tmp_path):
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
    (written,) = read(tmp_path / "out.jsonl")
    assert {key: written[key] for key in columns} == columns and written["half"] == "\ud800"
    assert math.copysign(1, written["zero"]) == -1
    raw = (tmp_path / "out.jsonl").read_bytes()
    assert b"12345678901234567890123456789" in raw and "\U0001f600".encode() in raw


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=8,
)
NAME = st.text() | st.sampled_from([*ADDED, "id", "input.score", "input.input.score", "scores", "input.id"])


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(rows=st.lists(st.dictionaries(NAME, JSON, max_size=5), min_size=1, max_size=5))
def test_every_input_column_is_in_the_output_unchanged(tmp_path_factory, rows):
    folder = tmp_path_factory.mktemp("any")
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    (folder / "in.jsonl").write_text(lines)
    score(folder / "in.jsonl", folder / "out.jsonl")
    written = read(folder / "out.jsonl")
    assert [r["row"] for r in written] == list(range(1, len(rows) + 1))
    assert len({r["id"] for r in written}) == len(rows)
    for before, after in zip(map(json.loads, lines.splitlines()), written, strict=True):
        for name, value in before.items():
            if name == "id":
                output_id = after["input.id"] if "input.id" in after else after["id"]
                assert value in (None, "") or str(output_id) == str(value)
            else:
                assert repr(after[expected_name(name)]) == repr(value)


def expected_name(name: str) -> str:
    """The name of an input column in the output, computed independently."""
    parts = name.split("input.")
    added = {*ADDED, "scores", "failures", "preference"}
    chain = all(part == "" for part in parts[:-1]) and parts[-1] in (added | ({"id"} if len(parts) > 1 else set()))
    return f"input.{name}" if chain else name


def test_input_columns_with_the_names_of_output_columns_are_renamed_in_every_pass(tmp_path):
    write(tmp_path / "1.jsonl", [{"prompt": "p", "response": "xx", "score": 7, "row": "r", "usage": None}])
    for n in (1, 2, 3):
        score(tmp_path / f"{n}.jsonl", tmp_path / f"{n + 1}.jsonl")
    (written,) = read(tmp_path / "4.jsonl")
    assert written["score"] == written["input.score"] == written["input.input.score"] == 2.0
    assert written["input.input.input.score"] == 7 and written["input.input.input.row"] == "r"
    assert written["input.input.row"] == written["input.row"] == written["row"] == 1


class MixedScorer(Length):
    """Cards with votes and failed votes; every third row fails."""

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
    assert score(tmp_path / "in.jsonl", tmp_path / f"out.{end}", scorer=MixedScorer()).failures == {"truncated": 2}
    written = read(tmp_path / f"out.{end}")
    assert json.loads(written[0]["votes"]) == VOTES and written[0]["critique"] == "c\n1"
    failed = {"reason": "truncated", "message": "cut, off"}
    empty = {"parquet": None, "csv": ""}[end]
    failures = [
        row["failure"] and (row["failure"] if end == "parquet" else json.loads(row["failure"])) for row in written
    ]
    assert failures == [empty, empty, failed, empty, empty, failed]
    scores = [None if row["score"] in (None, "") else float(row["score"]) for row in written]
    assert scores == [1.0, 2.0, None, 4.0, 5.0, None]


@pytest.mark.parametrize("end", ["parquet", "csv"])
def test_rows_of_one_and_of_several_responses_go_into_one_table(tmp_path, end):
    rows = [{"prompt": "p", "response": "xx"}, {"prompt": "p", "responses": ["x", "xxx"]}, {"prompt": "p", "chosen": 1}]
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    score(tmp_path / "in.jsonl", tmp_path / f"out.{end}")
    written = read(tmp_path / f"out.{end}")
    if end == "csv":
        assert [row["scores"] for row in written] == ["", "[1.0,3.0]", ""]
        assert [row["score"] for row in written] == ["2.0", "", ""]
        assert json.loads(written[2]["failure"])["reason"] == "empty"
    else:
        assert [row["scores"] for row in written] == [None, [1.0, 3.0], None]
        assert [row["preference"] for row in written] == [None, [0.0, 1.0], None]
        assert written[2]["failure"]["reason"] == "empty"


@pytest.mark.parametrize("end", ["jsonl", "jsonl.gz", "csv", "csv.gz", "parquet"])
def test_datasets_reads_the_output(tmp_path, monkeypatch, end):
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    import datasets

    write(tmp_path / "in.jsonl", [{"prompt": "p", "response": "x" * i, "n": i, "meta": {}} for i in range(1, 7)])
    score(tmp_path / "in.jsonl", tmp_path / f"out.{end}", scorer=MixedScorer())
    kind = {"j": "json", "c": "csv", "p": "parquet"}[end[0]]
    files = str(tmp_path / f"out.{end}")
    written = datasets.load_dataset(kind, data_files=files, split="train", cache_dir=str(tmp_path / "cache"))
    assert written["score"][:2] == [1.0, 2.0] and written["score"][2] is None and written["n"] == [1, 2, 3, 4, 5, 6]


def test_pyarrow_reads_the_csv_and_its_numbers_are_numbers(tmp_path):
    write(tmp_path / "in.jsonl", [{"prompt": "a\nb", "response": "x" * i} for i in range(1, 4)])
    score(tmp_path / "in.jsonl", tmp_path / "out.csv")
    options = pa.csv.ParseOptions(newlines_in_values=True)
    written = pa.csv.read_csv(tmp_path / "out.csv", parse_options=options)
    assert (
        written.column("score").to_pylist() == [1.0, 2.0, 3.0] and written.column("prompt").to_pylist() == ["a\nb"] * 3
    )


def test_a_dataset_that_was_saved_to_disk_is_read_row_by_row(tmp_path):
    import datasets

    datasets.Dataset.from_list(TEXTS).save_to_disk(str(tmp_path / "saved"))
    score(tmp_path / "saved", tmp_path / "out.jsonl")
    assert [{key: row[key] for key in TEXTS[0]} for row in read(tmp_path / "out.jsonl")] == TEXTS


def shards(folder: Path) -> dict[str, list[dict[str, Any]]]:
    folder.mkdir()
    written = {}
    for index, name in enumerate(["a.jsonl", "b.csv.gz", "c.parquet", "d.jsonl.zst", "e.csv"]):
        written[name] = [{"prompt": f"{name} {i}", "response": "x" * (10 * index + i)} for i in range(1, 4)]
        write(folder / name, written[name])
    return written


def test_a_folder_keeps_the_formats_of_its_files(tmp_path):
    input_rows = shards(tmp_path / "in")
    summary = score(tmp_path / "in", tmp_path / "out")
    assert summary.written == 15 and sorted(f.name for f in (tmp_path / "out").iterdir()) == sorted(input_rows)
    for index, (name, rows) in enumerate(input_rows.items()):
        written = read(tmp_path / "out" / name)
        assert [{"prompt": r["prompt"], "response": r["response"]} for r in written] == rows
        assert [float(r["score"]) for r in written] == [10 * index + i for i in range(1, 4)]
        assert [r["id"] for r in written] == [f"{name[0]}/row-{i}" for i in range(1, 4)]


@pytest.mark.parametrize("form", [".parquet", ".jsonl", ".csv", ".jsonl.gz"])
def test_a_folder_can_be_written_in_one_format(tmp_path, form):
    input_rows = shards(tmp_path / "in")
    score(tmp_path / "in", tmp_path / "out", ScoreOptions(format=form))
    assert sorted(f.name for f in (tmp_path / "out").iterdir()) == [f"{letter}{form}" for letter in "abcde"]
    for name, rows in input_rows.items():
        written = read(tmp_path / "out" / f"{name[0]}{form}")
        assert [{"prompt": r["prompt"], "response": r["response"]} for r in written] == rows


class ReversedScorer(Length):
    """Yields the cards from the last to the first; with `fails`, every fifth row fails."""

    fails = True

    def stream(self, items: Iterable[Any]) -> Iterator[Scorecard]:
        for card in reversed(list(super().stream(items))):
            n = int(card.judgments[0].score or 0)
            failed = Judgment(failure=Failure("timeout", "no answer"))
            yield Scorecard(card.id, (failed,)) if self.fails and n % 5 == 0 else card


class InterruptedScorer(ReversedScorer):
    """Raises after eight rows."""

    def stream(self, items: Iterable[Any]) -> Iterator[Scorecard]:
        for count, card in enumerate(super().stream(items)):
            if count == 8:
                raise RuntimeError("stopped")
            yield card


@pytest.mark.parametrize("end", ["jsonl", "csv", "parquet"])
def test_ordered_output_has_the_order_of_the_input_also_after_an_interruption_and_a_retry(tmp_path, end):
    source = write(tmp_path / "in.jsonl", [{"prompt": "p", "response": "x" * i} for i in range(1, 31)])
    output = tmp_path / f"out.{end}"
    with pytest.raises(RuntimeError, match="stopped"):
        score(source, output, ScoreOptions(ordered=True), InterruptedScorer())
    assert not output.exists()
    summary = score(source, output, ScoreOptions(ordered=True), ReversedScorer())
    assert (summary.resumed, summary.written) == (8, 22) and summary.failures == {"timeout": 6}
    assert [int(r["row"]) for r in read(output)] == list(range(1, 31))
    repaired = ReversedScorer()
    repaired.fails = False
    summary = score(source, output, ScoreOptions(ordered=True, retry_failed=True), repaired)
    assert (summary.resumed, summary.written, summary.failed) == (24, 6, 0)
    assert [int(r["row"]) for r in read(output)] == list(range(1, 31))
    assert [float(r["score"]) for r in read(output)] == list(range(1, 31))


def test_unordered_rows_are_in_the_order_in_which_they_finished(tmp_path):
    source = write(tmp_path / "in.jsonl", [{"prompt": "p", "response": "x" * i} for i in range(1, 5)])
    score(source, tmp_path / "out.jsonl", scorer=ReversedScorer())
    assert [r["row"] for r in read(tmp_path / "out.jsonl")] == [4, 3, 2, 1]
