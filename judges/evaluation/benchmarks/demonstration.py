"""Assay's demonstration set: pairs written for this project, in the halves `train` and `test`."""

from __future__ import annotations

from pathlib import Path

from judges.data.items import to_item
from judges.errors import CannotRun
from judges.evaluation.benchmarks.base import Benchmark
from judges.evaluation.benchmarks.rows import checked, read_rows

DEMO_SPECS = ("demo", "demo:train", "demo:test")
_FOLDER = Path(__file__).parent / "demo"


def load(source: str = "") -> Benchmark:
    """The half named by `source`, "train" or "test" (the default). Raises CannotRun for another name."""
    spec = f"demo:{source}" if source else "demo"
    if spec not in DEMO_SPECS:
        raise CannotRun(f"no benchmark {spec!r}; there are {', '.join(DEMO_SPECS)}")
    half = "train" if source == "train" else "test"
    rows = [row for path in sorted(_FOLDER.glob("*.jsonl")) for row in read_rows(str(path))]
    items = tuple(checked(row, to_item(row.fields["id"], row.fields)) for row in rows if row.fields["split"] == half)
    return Benchmark(spec, "Assay's demonstration set", items, "assay")
