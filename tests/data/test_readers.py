"""A broken file gives one clear line that names the file and the row, and the good rows around it are scored."""

from __future__ import annotations

import gzip
import io
import json
import random
import subprocess
import sys
import zipfile
from dataclasses import dataclass, field

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from judges import load_scorer
from judges.batch.run import score_file
from judges.data import readers
from judges.errors import CannotRun


def row(length: int, **more) -> bytes:
    """A good row, which `length` scores with its length."""
    return json.dumps({"prompt": "p", "response": "x" * length, **more}).encode()


def lines(*parts: bytes) -> bytes:
    return b"".join(part + b"\n" for part in parts)


@dataclass(frozen=True)
class Case:
    """A file, its rows to score (number to score), its rows that fail (number to message), and the error."""

    description: str
    name: str
    data: bytes
    good: dict[int, float]
    bad: dict[int, str] = field(default_factory=dict)
    error: str = ""
    max_line_mib: int = 64


RANDOM = random.Random(0)
# Rows that compress badly, so that a truncated file still has some of them.
MANY = lines(
    *(json.dumps({"prompt": RANDOM.randbytes(40).hex(), "response": "x" * (n % 7)}).encode() for n in range(1, 2001))
)


def zipped(data: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("in.jsonl", data)
    return buffer.getvalue()


def nested(depth: int) -> bytes:
    return b'{"prompt": "p", "response": "xx", "deep": ' + b"[" * depth + b"]" * depth + b"}"


def parquet(columns: dict, **options) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(pa.table(columns), buffer, **options)
    return buffer.getvalue()


def cut(data: bytes, begin: int, length: int) -> bytes:
    """The bytes with a range of zeros."""
    return data[:begin] + bytes(length) + data[begin + length :]


MIXED = lines(
    row(1),
    b'{"prompt": "p", "responses": ["xx", "xxxx"]}',
    b'{"prompt": "p", "chosen": "xxx", "rejected": "x"}',
    b'{"messages": [{"role": "user", "content": "p"}, {"role": "assistant", "content": "xxxx"}]}',
    b'{"chosen": [{"role": "user", "content": "p"}, {"role": "assistant", "content": "x"}], "rejected": 7}',
    b'{"messages": [{"role": "user", "content": "p"}]}',
    b'{"prompt": {"text": "p"}, "response": "x"}',
    row(8),
)

BIG = "9" * 400
CASES = [
    # -- lines ---------------------------------------------------------------------------------------------
    Case(
        "a line that breaks off",
        "in.jsonl",
        lines(row(1), b'{"prompt": "p", "resp', row(3)),
        {1: 1, 3: 3},
        {2: "not JSON: Invalid control character at: line 1 column 22"},
    ),
    Case("no line end at the end", "in.jsonl", row(1) + b"\n" + row(2), {1: 1, 2: 2}),
    Case(
        "lines of no object",
        "in.jsonl",
        lines(row(1), b"7", b'"text"', b"null", b"[1]", row(6)),
        {1: 1, 6: 6},
        dict.fromkeys((2, 3, 4, 5), "the line is not a JSON object"),
    ),
    Case("blank lines between", "in.jsonl", lines(b"", row(1), b"  ", row(2), b""), {1: 1, 2: 2}),
    Case("a byte order mark", "in.jsonl", b"\xef\xbb\xbf" + lines(row(1), row(2)), {1: 1, 2: 2}),
    Case("lines that end in CR LF", "in.jsonl", row(1) + b"\r\n" + row(2) + b"\r\n", {1: 1, 2: 2}),
    Case(
        "bytes that are no UTF-8",
        "in.jsonl",
        lines(row(1), b'{"prompt": "\xff", "response": "x"}', row(3)),
        {1: 1, 3: 3},
        {2: "not UTF-8 at byte 13 of the line"},
    ),
    Case(
        "NUL bytes",
        "in.jsonl",
        lines(row(1), b"\0" * 40, b'{"prompt": "a\0b", "response": "x"}', row(4)),
        {1: 1, 4: 4},
        {2: "not JSON", 3: "not JSON"},
    ),
    Case("a line of 10 MB", "in.jsonl", lines(row(1), row(10_000_000), row(3)), {1: 1, 2: 10_000_000, 3: 3}),
    Case(
        "a line over the bound",
        "in.jsonl",
        lines(row(1), row(3 << 20), row(3)),
        {1: 1, 3: 3},
        {2: "the line is longer than 1 MiB"},
        max_line_mib=1,
    ),
    Case(
        "the last line over the bound",
        "in.jsonl",
        lines(row(1)) + row(1 << 20),
        {1: 1},
        {2: "the line is longer than 1 MiB"},
        max_line_mib=1,
    ),
    Case(
        "brackets 10,000 deep",
        "in.jsonl",
        lines(row(1), nested(10_000), row(3)),
        {1: 1, 3: 3},
        {2: "more than 200 levels deep"},
    ),
    Case(
        "brackets 500 deep, which can be read and not be written",
        "in.jsonl",
        lines(row(1), nested(500), row(3)),
        {1: 1, 3: 3},
        {2: "more than 200 levels deep"},
    ),
    Case("brackets 100 deep", "in.jsonl", lines(row(1), nested(100), row(3)), {1: 1, 2: 2, 3: 3}),
    Case(
        "a key twice: the last counts", "in.jsonl", lines(b'{"prompt": "p", "response": "x", "response": "xx"}'), {1: 2}
    ),
    # -- values --------------------------------------------------------------------------------------------
    Case(
        "nan and infinity",
        "in.jsonl",
        lines(
            b'{"prompt": "p", "response": "x", "a": NaN, "b": -Infinity}',
            b'{"prompt": "p", "response": "x", "margin": Infinity}',
            row(3),
        ),
        {1: 1, 3: 3},
        {2: "margin is not a finite number: inf"},
    ),
    Case(
        "an integer of 400 digits",
        "in.jsonl",
        lines(
            b'{"prompt": "p", "response": "x", "n": ' + BIG.encode() + b"}",
            b'{"prompt": "p", "response": "x", "margin": ' + BIG.encode() + b"}",
            row(3),
        ),
        {1: 1, 3: 3},
        {2: "margin is too large"},
    ),
    Case(
        "an integer of 5,000 digits",
        "in.jsonl",
        lines(row(1), b'{"prompt": "p", "response": "x", "n": ' + b"9" * 5000 + b"}", row(3)),
        {1: 1, 3: 3},
        {2: "not JSON: Exceeds the limit"},
    ),
    Case(
        "a lone surrogate in a scored text",
        "in.jsonl",
        lines(
            b'{"prompt": "\\ud800", "response": "x"}', b'{"prompt": "p", "response": "x", "note": "\\udfff"}', row(3)
        ),
        {2: 1, 3: 3},
        {1: "half of a surrogate pair"},
    ),
    Case(
        "ids that repeat and change their type",
        "in.jsonl",
        lines(
            row(1, id="a"),
            row(2, id="a"),
            row(3, id=1),
            row(4, id="1"),
            row(5, id=1.5),
            row(6, id=None),
            row(7, id="row-6"),
        ),
        {n: n for n in range(1, 8)},
    ),
    Case(
        "a column that changes its type",
        "in.jsonl",
        lines(row(1, tag=1), row(2, tag="1"), row(3, tag=[1]), row(4, tag={"a": 1}), row(5, tag=None)),
        {n: n for n in range(1, 6)},
    ),
    Case(
        "a response that is no text",
        "in.jsonl",
        lines(
            row(1),
            b'{"prompt": "p", "response": 7}',
            b'{"prompt": "p", "response": null}',
            b'{"prompt": "p", "responses": "xx"}',
            row(5),
        ),
        {1: 1, 5: 5},
        {2: "a response is not text", 3: "no response", 4: "responses is not a list"},
    ),
    Case(
        "a prompt that is missing or empty",
        "in.jsonl",
        lines(b'{"response": "x"}', b'{"prompt": "  ", "response": "x"}', b'{"prompt": [], "response": "x"}', row(4)),
        {4: 4},
        {1: "no prompt", 2: "no prompt", 3: "no prompt"},
    ),
    Case(
        "rows of every kind in one file",
        "in.jsonl",
        MIXED,
        {1: 1, 2: [2, 4], 3: [3, 1], 4: 4, 8: 8},
        {5: "not conversations that include it", 6: "no response", 7: "no prompt"},
    ),
    # -- files of another format -----------------------------------------------------------------------
    Case("an empty file", "in.jsonl", b"", {}, error="there are no rows in it"),
    Case("only blank lines", "in.jsonl", b"\n \n\r\n\n", {}, error="there are no rows in it"),
    Case("one JSON list", "in.jsonl", b"[" + row(1) + b",\n" + row(2) + b"]", {}, error="the file is one JSON list"),
    Case(
        "one JSON list after a byte order mark",
        "in.jsonl",
        b"\xef\xbb\xbf [" + row(1) + b"]",
        {},
        error="the file is one JSON list",
    ),
    Case(
        "JSON over several lines",
        "in.jsonl",
        json.dumps(json.loads(row(1)), indent=2).encode(),
        {},
        error="an object spans several lines",
    ),
    Case(
        "lines that end in CR",
        "in.jsonl",
        row(1) + b"\r" + row(2) + b"\r",
        {},
        error="its lines end in CR instead of LF",
    ),
    Case("UTF-16 with a byte order mark", "in.jsonl", row(1).decode().encode("utf-16"), {}, error="the text is UTF-16"),
    Case("UTF-16 without one", "in.jsonl", row(1).decode().encode("utf-16-le"), {}, error="the text is UTF-16"),
    Case(
        "UTF-16 from a spreadsheet", "in.csv", "prompt,response\np,x\n".encode("utf-16"), {}, error="the text is UTF-16"
    ),
    Case("gzip under another name", "in.jsonl", gzip.compress(lines(row(1))), {}, error="the file is compressed"),
    Case(
        "zst under another name",
        "in.csv",
        pa.Codec("zstd").compress(b"prompt,response\np,x\n", asbytes=True),
        {},
        error="the file is compressed",
    ),
    Case("a zip archive", "in.jsonl", zipped(row(1)), {}, error="a zip archive"),
    Case(
        "Parquet under another name",
        "in.jsonl",
        parquet({"prompt": ["p"], "response": ["x"]}),
        {},
        error="the file is Parquet",
    ),
    Case(
        "JSON lines under the name of gzip", "in.jsonl.gz", lines(row(1)), {}, error="after row 0: .*Not a gzipped file"
    ),
    Case(
        "JSON lines under the name of zst",
        "in.jsonl.zst",
        lines(row(1)),
        {},
        error="after row 0: .*[Uu]nknown frame descriptor",
    ),
    Case("a format that is not read", "in.xlsx", b"PK", {}, error="unknown format; supported are .jsonl"),
    Case("gzip in two parts", "in.jsonl.gz", gzip.compress(lines(row(1))) + gzip.compress(lines(row(2))), {1: 1, 2: 2}),
    Case(
        "gzip with something behind",
        "in.jsonl.gz",
        gzip.compress(lines(row(1))) + b"more",
        {1: 1},
        error="after row 1: .*Not a gzipped file",
    ),
    Case(
        "zst in two parts",
        "in.jsonl.zst",
        pa.Codec("zstd").compress(lines(row(1)), asbytes=True) + pa.Codec("zstd").compress(lines(row(2)), asbytes=True),
        {1: 1, 2: 2},
    ),
    # -- CSV -----------------------------------------------------------------------------------------------
    Case(
        "too few and too many columns",
        "in.csv",
        b"prompt,response\np,x\np\np,x,y\np,xxxx\n",
        {1: 1, 4: 4},
        {2: "1 columns where the header has 2", 3: "3 columns where the header has 2"},
    ),
    Case(
        "a header with a name twice",
        "in.csv",
        b"prompt,response,response\np,x,y\n",
        {},
        error="the header has 'response' twice",
    ),
    Case("no header", "in.csv", b"p,x\np,xx\n", {}, error="row 1: no column prompt, messages or chosen among 'p', 'x'"),
    Case("a header alone", "in.csv", b"prompt,response\n", {}, error="there are no rows in it"),
    Case("semicolons", "in.csv", b"prompt;response\np;x\n", {}, error="its columns are separated by ';'"),
    Case("tabs", "in.csv", b"prompt\tresponse\np\tx\n", {}, error=r"its columns are separated by '\\t'"),
    Case("blank lines in it", "in.csv", b"\n\nprompt,response\n\np,x\n\np,xx\n", {1: 1, 2: 2}),
    Case(
        "a byte order mark, and lines that end in CR",
        "in.csv",
        b"\xef\xbb\xbfprompt,response\rp,x\rp,xx\r",
        {1: 1, 2: 2},
    ),
    Case(
        "bytes that are no UTF-8 in a cell",
        "in.csv",
        b"prompt,response\np,x\np,\xff\np,xxx\n",
        {1: 1, 3: 3},
        {2: "line 3: not UTF-8"},
    ),
    Case("a header that is no UTF-8", "in.csv", b"prompt,r\xe9sponse\np,x\n", {}, error="the header is not UTF-8"),
    Case(
        "a quote that is never closed",
        "in.csv",
        b'prompt,response\np,x\np,"xx\np,xxx\np,xxxx\n',
        {1: 1},
        error="after row 1: .*a quote that is opened on line 3 is never closed",
    ),
    Case(
        "a quote that the next row's opens again",
        "in.csv",
        b'prompt,response\np,x\np,"xx\np,"xxx"\np,xxx\n',
        {1: 1, 3: 3},
        {2: "lines 3 to 4: "},
    ),
    Case(
        "a cell of 10 MB over several lines",
        "in.csv",
        b'prompt,response\np,"' + (b"x" * 99 + b"\n") * 100_000 + b'"\np,xx\n',
        {1: 10_000_000, 2: 2},
    ),
    Case(
        "a cell over the bound",
        "in.csv",
        b'prompt,response\np,x\np,"' + (b"x" * 97 + b'""\n') * 12_000 + b'"\np,"xxx"\n',
        {1: 1, 3: 3},
        {2: "lines 3 to 12003: a cell is longer than 1 MiB"},
        max_line_mib=1,
    ),
    Case(
        "a cell over the bound that is never closed",
        "in.csv",
        b'prompt,response\np,x\np,"' + (b"x" * 99 + b"\n") * 12_000,
        {1: 1},
        error="after row 1: .*a quote that is opened on line 3 is never closed",
        max_line_mib=1,
    ),
    Case(
        "a line over the bound in a CSV",
        "in.csv",
        b"prompt,response,a\np,x,\np,xx," + b"y" * (1 << 20) + b"\np,xxx,\n",
        {1: 1, 3: 3},
        {2: "line 3: it is longer than 1 MiB"},
        max_line_mib=1,
    ),
    Case("NUL bytes in a cell", "in.csv", b"prompt,response\np,x\0x\n", {1: 3}),
    # -- Parquet -------------------------------------------------------------------------------------------
    Case(
        "Parquet with a broken footer",
        "in.parquet",
        (lambda d: cut(d, len(d) - 60, 30))(parquet({"prompt": ["p"], "response": ["x"]})),
        {},
        error="after row 0: not a readable Parquet file",
    ),
    Case(
        "Parquet cut in the middle",
        "in.parquet",
        (lambda d: d[: len(d) // 2])(parquet({"prompt": ["p"] * 99, "response": ["x"] * 99})),
        {},
        error="after row 0: not a readable Parquet file",
    ),
    Case(
        "Parquet with a broken page",
        "in.parquet",
        (lambda d: cut(d, len(d) // 3, 200))(
            parquet(
                {"prompt": ["p"] * 600, "response": [RANDOM.randbytes(8).hex() for _ in range(600)]},
                use_dictionary=False,
            )
        ),
        {},
        error="after row [0-9]+: ",
    ),
    Case(
        "Parquet without a prompt column",
        "in.parquet",
        parquet({"question": ["p"], "answer": ["x"]}),
        {},
        error="row 1: no column prompt, messages or chosen among 'question', 'answer'",
    ),
    Case(
        "Parquet with null and strange prompts",
        "in.parquet",
        parquet({"prompt": ["p", None, "", "p"], "response": ["x", "x", "x", None]}),
        {1: 1},
        {2: "no prompt", 3: "no prompt", 4: "no response"},
    ),
    Case(
        "Parquet without rows",
        "in.parquet",
        parquet({"prompt": pa.array([], pa.string())}),
        {},
        error="there are no rows in it",
    ),
    Case(
        "Parquet with a date that Python has not",
        "in.parquet",
        parquet(
            {
                "prompt": ["p", "p", "p"],
                "response": ["x", "xx", "xxx"],
                "at": pa.array([0, 10**15, 1], pa.timestamp("s")),
            }
        ),
        {1: 1, 3: 3},
        {2: "a value cannot be read"},
    ),
    Case(
        "an empty file under the name of Parquet",
        "in.parquet",
        b"",
        {},
        error="after row 0: not a readable Parquet file",
    ),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.description)
def test_the_error_of_a_broken_file_is_one_line_and_its_good_rows_are_scored(tmp_path, monkeypatch, case):
    monkeypatch.setattr(readers, "LINE_BYTES", case.max_line_mib << 20)
    source, output = tmp_path / case.name, tmp_path / "out.jsonl"
    source.write_bytes(case.data)
    if case.error:
        with pytest.raises(CannotRun, match=f"{case.name}.*{case.error}") as error:
            score_file(str(source), load_scorer("length"), output)
        assert "\n" not in str(error.value)
    else:
        summary = score_file(str(source), load_scorer("length"), output)
        assert summary.written == len(case.good) + len(case.bad) and summary.failed == len(case.bad)
    rows = [json.loads(line) for line in output.read_bytes().splitlines()] if output.exists() else []
    scored = {r["row"]: r["scores"] if "scores" in r else r["score"] for r in rows if not r.get("failure")}
    failed = {r["row"]: r["failure"] for r in rows if r.get("failure")}
    assert scored == case.good and len(rows) == len(scored) + len(failed)
    assert failed.keys() == case.bad.keys()
    for number, message in case.bad.items():
        assert failed[number].keys() == {"reason", "message"} and failed[number]["reason"] in ("malformed", "empty")
        assert message in failed[number]["message"] and "\n" not in failed[number]["message"]


@pytest.mark.parametrize("compression", ["gz", "zst"])
def test_the_rows_before_the_end_of_a_truncated_compressed_file_are_scored(tmp_path, compression):
    data = gzip.compress(MANY) if compression == "gz" else pa.Codec("zstd").compress(MANY, asbytes=True)
    source, output = tmp_path / f"in.jsonl.{compression}", tmp_path / "out.jsonl"
    source.write_bytes(data[: len(data) * 2 // 3])
    with pytest.raises(CannotRun, match=rf"in.jsonl.{compression}, after row \d+: cannot be read: ") as error:
        score_file(str(source), load_scorer("length"), output)
    rows = [json.loads(line) for line in output.open()]
    last = int(str(error.value).split("after row ")[1].split(":")[0])
    assert [r["row"] for r in rows] == list(range(1, last + 1)) and 900 < last < 2000
    assert all(r["score"] == r["row"] % 7 for r in rows)


def test_ids_of_every_type_become_unique_texts_and_the_originals_stay(tmp_path):
    source, output = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_bytes(lines(row(1, id="a"), row(2, id="a"), row(3, id=1), row(4, id="1"), row(5), row(6, id="row-5")))
    score_file(str(source), load_scorer("length"), output)
    rows = [json.loads(line) for line in output.open()]
    assert [r["id"] for r in rows] == ["a", "a#2", "1", "1#4", "row-5", "row-5#6"]
    assert [r.get("input.id") for r in rows] == [None, "a", None, "1", None, "row-5"]


def test_the_command_exits_2_with_one_line_and_1_for_failed_rows(tmp_path):
    source = tmp_path / "in.csv"
    source.write_bytes(b'prompt,response\np,x\np,\xff\np,"xxx\n')

    def run(output: str) -> subprocess.CompletedProcess:
        command = [sys.executable, "-m", "judges.cli", "score", source, "--scorer", "length", "-o", tmp_path / output]
        return subprocess.run(command, capture_output=True, text=True, timeout=120)

    result = run("out.jsonl")
    assert result.returncode == 2 and result.stdout == ""
    line = f"assay: {source}, after row 2: cannot be read: a quote that is opened on line 4 is never closed\n"
    assert result.stderr == line
    rows = {r["row"]: r["score"] for r in map(json.loads, (tmp_path / "out.jsonl").open())}
    assert rows == {1: 1, 2: None}
    source.write_bytes(b"prompt,response\np,x\np,\xff\np,xxx\n")
    result = run("again.jsonl")
    assert result.returncode == 1 and "3 rows written, 0 already there, failed: 1 malformed" in result.stderr
