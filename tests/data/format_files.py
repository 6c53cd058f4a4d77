"""Writes and reads files of every format without any code of the package."""

from __future__ import annotations

import csv
import gzip
import io
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from judges import load_scorer
from judges.batch.output import ScoreOptions
from judges.batch.run import ScoreSummary, score_file

TEXTS = [
    {"prompt": "plain", "response": "x", "note": "n"},
    {"prompt": 'with "quotes", commas', "response": "two\nlines\r\nthree", "note": "  spaces  "},
    {"prompt": "中文 ü \U0001f600", "response": "é", "note": "'; -- =1+1"},
]


def compress(data: bytes, name: str) -> bytes:
    if name.endswith(".gz"):
        return gzip.compress(data)
    return pa.Codec("zstd").compress(data, asbytes=True) if name.endswith(".zst") else data


def decompress(file: Path) -> bytes:
    if file.name.endswith(".gz"):
        return gzip.decompress(file.read_bytes())
    if file.name.endswith(".zst"):
        with pa.CompressedInputStream(pa.OSFile(str(file)), "zstd") as stream:
            return stream.read()
    return file.read_bytes()


def write(file: Path, rows: list[dict[str, Any]]) -> Path:
    """Write rows to a file without any code of the package."""
    if file.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), file)
    elif ".csv" in file.name:
        text = io.StringIO(newline="")
        table = csv.DictWriter(text, list(rows[0]))
        table.writeheader()
        table.writerows(rows)
        file.write_bytes(compress(text.getvalue().encode(), file.name))
    else:
        file.write_bytes(compress("".join(json.dumps(r) + "\n" for r in rows).encode(), file.name))
    return file


def read(file: Path) -> list[dict[str, Any]]:
    """Read the rows of a file without any code of the package."""
    if file.suffix == ".parquet":
        return pq.read_table(file).to_pylist()
    if ".csv" in file.name:
        return list(csv.DictReader(io.StringIO(decompress(file).decode(), newline="")))
    return [json.loads(line) for line in decompress(file).splitlines()]


def score(source: Path, output: Path, options: ScoreOptions = ScoreOptions(), scorer: Any = None) -> ScoreSummary:
    return score_file(str(source), scorer or load_scorer("length"), output, options)
