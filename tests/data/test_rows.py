"""Unusual rows are read or become failures of their own, and ids are unique."""

import json

import pytest

from judges import load_scorer
from judges.batch.run import score_file
from judges.data.rows import read_rows
from judges.errors import CannotRun
from judges.evaluation.benchmarks import load_benchmark
from judges.types import Failure


def write_file(tmp_path, text, encoding="utf-8", name="in.jsonl"):
    path = tmp_path / name
    path.write_bytes(text.encode(encoding) if isinstance(text, str) else text)
    return str(path)


def test_ids_are_unique_in_any_file(tmp_path):
    ids = ["a#3", "a", "a", "row-5"]
    text = "".join(json.dumps({"id": i, "prompt": "p", "response": "r"}) + "\n" for i in ids) + "broken\n"
    found = [row.id for row in read_rows(write_file(tmp_path, text))]
    assert len(set(found)) == 5 and found[:2] == ["a#3", "a"]


def test_unusual_rows_are_failures_and_the_others_are_scored(tmp_path):
    lines = [
        '{"prompt": "p\\ud800", "response": "r"}',
        '{"prompt": "Human: \\n\\nAssistant: ", "response": "r"}',
        '{"prompt": "p", "response": 7}',
        '{"prompt": "p", "responses": []}',
        '{"prompt": [{"role": "tool", "content": "x"}], "response": "r"}',
        '{"prompt": "p", "response": "fine", "human": NaN, "score": 3, "deep": {"x": [Infinity]}}',
    ]
    out = tmp_path / "out.jsonl"
    summary = score_file(write_file(tmp_path, "\n".join(lines)), load_scorer("random"), out)
    rows = {r["row"]: r for r in map(json.loads, out.open())}
    assert summary.written == 6 and summary.failed == 5
    assert rows[6]["failure"] is None and rows[6]["input.score"] == 3
    assert rows[6]["human"] is None and rows[6]["deep"] == {"x": [None]}


def test_a_csv_with_a_byte_order_mark_and_empty_cells(tmp_path):
    text = "prompt,response,reference\np,r,\n"
    (row,) = read_rows(write_file(tmp_path, text, "utf-8-sig", "in.csv"))
    assert not isinstance(row.item, Failure) and row.item.reference is None


def test_a_mapped_column_that_one_row_lacks_fails_only_that_row(tmp_path):
    text = '{"prompt": "p", "answer": "r"}\n{"prompt": "p"}\n'
    rows = list(read_rows(write_file(tmp_path, text), {"response": "answer"}))
    assert [isinstance(r.item, Failure) for r in rows] == [False, True]


def test_a_numeric_subset_becomes_text(tmp_path):
    rows = [{"prompt": "p", "response": "r", "subset": subset} for subset in (2020, 2020.0, "2020", None, True)]
    text = "\n".join(map(json.dumps, rows))
    assert [row.item.subset for row in read_rows(write_file(tmp_path, text))] == ["2020", "2020", "2020", None, None]


@pytest.mark.parametrize("labels", [{"scores": [10**400, 1]}, {"ranking": [10**400, 1]}, {"margin": 10**400}])
def test_a_number_beyond_the_range_of_floats_fails_only_its_row(tmp_path, labels):
    good = {"prompt": "p", "responses": ["x", "y"]}
    rows = list(read_rows(write_file(tmp_path, f"{json.dumps(good)}\n{json.dumps(good | labels)}\n")))
    assert not isinstance(rows[0].item, Failure)
    assert rows[1].item.reason == "malformed" and "too large" in rows[1].item.message


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "p", "response": "r", "human_score": 10**400},
        {"prompt": "p", "responses": ["x", "y"], "scores": [10**400, 1]},
    ],
)
def test_a_benchmark_with_a_number_too_large_names_the_row(tmp_path, row):
    path = write_file(tmp_path, json.dumps(row) + "\n")
    with pytest.raises(CannotRun, match=r"in.jsonl, row 1: .* too large"):
        load_benchmark(path)
