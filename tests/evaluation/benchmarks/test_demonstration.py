"""The demonstration set: its size, its halves, and that length does not give the answer away."""

import json

from judges.evaluation.benchmarks import demonstration, load_benchmark


def test_the_set_is_balanced_and_split_by_topic():
    files = sorted(demonstration._FOLDER.glob("*.jsonl"))
    rows = [json.loads(line) for path in files for line in path.open(encoding="utf-8")]
    assert len(rows) == 204 and len({row["id"] for row in rows}) == 204
    halves = {half: {(r["subset"], r["topic"]) for r in rows if r["split"] == half} for half in ("train", "test")}
    assert not halves["train"] & halves["test"]
    items = load_benchmark("demo").items
    longer = sum(len(item.responses[0]) > len(item.responses[1]) for item in items)
    assert len(items) == 102 and 0.4 < longer / len(items) < 0.6
    assert {i.subset for i in load_benchmark("demo", limit=6).items} == {i.subset for i in items}
