"""Whatever a file holds: one clear line that names the file and the row, and the good rows around it are judged."""

from __future__ import annotations

import gzip
import io
import json
import os
import random
import subprocess
import sys
import zipfile
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from judges import load_scorer
from judges.batch.output import Options
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
    """A file, the rows that must be judged (number to score) and must fail (number to message), and what stops it."""

    what: str
    name: str
    data: bytes
    good: dict[int, float]
    bad: dict[int, str] = field(default_factory=dict)
    stops: str = ""
    bound: int = 64  # MiB of a line


DRAW = random.Random(0)
# Rows whose packed bytes are not their neighbours' again, so that a cut file has some of them.
MANY = lines(
    *(json.dumps({"prompt": DRAW.randbytes(40).hex(), "response": "x" * (n % 7)}).encode() for n in range(1, 2001))
)


def zipped(data: bytes) -> bytes:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as archive:
        archive.writestr("in.jsonl", data)
    return made.getvalue()


def nested(depth: int) -> bytes:
    return b'{"prompt": "p", "response": "xx", "deep": ' + b"[" * depth + b"]" * depth + b"}"


def parquet(columns: dict, **options) -> bytes:
    made = io.BytesIO()
    pq.write_table(pa.table(columns), made, **options)
    return made.getvalue()


def cut(data: bytes, begin: int, length: int) -> bytes:
    """The same bytes with zeros at one place."""
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
    Case("a mark at the beginning", "in.jsonl", b"\xef\xbb\xbf" + lines(row(1), row(2)), {1: 1, 2: 2}),
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
        bound=1,
    ),
    Case(
        "the last line over the bound",
        "in.jsonl",
        lines(row(1)) + row(1 << 20),
        {1: 1},
        {2: "the line is longer than 1 MiB"},
        bound=1,
    ),
    Case(
        "brackets 10,000 deep",
        "in.jsonl",
        lines(row(1), nested(10_000), row(3)),
        {1: 1, 3: 3},
        {2: "more than 200 deep"},
    ),
    Case(
        "brackets 500 deep, which can be read and not be written",
        "in.jsonl",
        lines(row(1), nested(500), row(3)),
        {1: 1, 3: 3},
        {2: "more than 200 deep"},
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
        {2: "margin is a finite number, not inf"},
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
        "half a surrogate pair where text is judged",
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
        {5: "not whole conversations", 6: "no response", 7: "no prompt"},
    ),
    # -- files that are something else -----------------------------------------------------------------------
    Case("an empty file", "in.jsonl", b"", {}, stops="there are no rows in it"),
    Case("only blank lines", "in.jsonl", b"\n \n\r\n\n", {}, stops="there are no rows in it"),
    Case("one JSON list", "in.jsonl", b"[" + row(1) + b",\n" + row(2) + b"]", {}, stops="the file is one JSON list"),
    Case(
        "one JSON list behind a mark",
        "in.jsonl",
        b"\xef\xbb\xbf [" + row(1) + b"]",
        {},
        stops="the file is one JSON list",
    ),
    Case(
        "JSON over several lines",
        "in.jsonl",
        json.dumps(json.loads(row(1)), indent=2).encode(),
        {},
        stops="an object goes over several lines",
    ),
    Case(
        "lines that end in CR alone", "in.jsonl", row(1) + b"\r" + row(2) + b"\r", {}, stops="its lines end in CR alone"
    ),
    Case("UTF-16 with a mark", "in.jsonl", row(1).decode().encode("utf-16"), {}, stops="the text is UTF-16"),
    Case("UTF-16 without one", "in.jsonl", row(1).decode().encode("utf-16-le"), {}, stops="the text is UTF-16"),
    Case(
        "UTF-16 from a spreadsheet", "in.csv", "prompt,response\np,x\n".encode("utf-16"), {}, stops="the text is UTF-16"
    ),
    Case("gzip under another name", "in.jsonl", gzip.compress(lines(row(1))), {}, stops="the file is packed"),
    Case(
        "zst under another name",
        "in.csv",
        pa.Codec("zstd").compress(b"prompt,response\np,x\n", asbytes=True),
        {},
        stops="the file is packed",
    ),
    Case("a zip archive", "in.jsonl", zipped(row(1)), {}, stops="a zip archive"),
    Case(
        "Parquet under another name",
        "in.jsonl",
        parquet({"prompt": ["p"], "response": ["x"]}),
        {},
        stops="the file is Parquet",
    ),
    Case(
        "JSON lines under the name of gzip", "in.jsonl.gz", lines(row(1)), {}, stops="after row 0: .*Not a gzipped file"
    ),
    Case(
        "JSON lines under the name of zst",
        "in.jsonl.zst",
        lines(row(1)),
        {},
        stops="after row 0: .*[Uu]nknown frame descriptor",
    ),
    Case("a format that is not read", "in.xlsx", b"PK", {}, stops="unknown format; there are .jsonl"),
    Case("gzip in two parts", "in.jsonl.gz", gzip.compress(lines(row(1))) + gzip.compress(lines(row(2))), {1: 1, 2: 2}),
    Case(
        "gzip with something behind",
        "in.jsonl.gz",
        gzip.compress(lines(row(1))) + b"more",
        {1: 1},
        stops="after row 1: .*Not a gzipped file",
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
        stops="the header has 'response' twice",
    ),
    Case("no header", "in.csv", b"p,x\np,xx\n", {}, stops="row 1: no column prompt, messages or chosen among 'p', 'x'"),
    Case("a header alone", "in.csv", b"prompt,response\n", {}, stops="there are no rows in it"),
    Case("semicolons", "in.csv", b"prompt;response\np;x\n", {}, stops="its columns stand between ';'"),
    Case("tabs", "in.csv", b"prompt\tresponse\np\tx\n", {}, stops=r"its columns stand between '\\t'"),
    Case("blank lines in it", "in.csv", b"\n\nprompt,response\n\np,x\n\np,xx\n", {1: 1, 2: 2}),
    Case("a mark, and lines that end in CR", "in.csv", b"\xef\xbb\xbfprompt,response\rp,x\rp,xx\r", {1: 1, 2: 2}),
    Case(
        "bytes that are no UTF-8 in a cell",
        "in.csv",
        b"prompt,response\np,x\np,\xff\np,xxx\n",
        {1: 1, 3: 3},
        {2: "line 3: not UTF-8"},
    ),
    Case("a header that is no UTF-8", "in.csv", b"prompt,r\xe9sponse\np,x\n", {}, stops="the header is not UTF-8"),
    Case(
        "a quote that is never closed",
        "in.csv",
        b'prompt,response\np,x\np,"xx\np,xxx\np,xxxx\n',
        {1: 1},
        stops="after row 1: .*a quote that is opened on line 3 is never closed",
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
        bound=1,
    ),
    Case(
        "a cell over the bound that is never closed",
        "in.csv",
        b'prompt,response\np,x\np,"' + (b"x" * 99 + b"\n") * 12_000,
        {1: 1},
        stops="after row 1: .*a quote that is opened on line 3 is never closed",
        bound=1,
    ),
    Case(
        "a line over the bound in a CSV",
        "in.csv",
        b"prompt,response,a\np,x,\np,xx," + b"y" * (1 << 20) + b"\np,xxx,\n",
        {1: 1, 3: 3},
        {2: "line 3: it is longer than 1 MiB"},
        bound=1,
    ),
    Case("NUL bytes in a cell", "in.csv", b"prompt,response\np,x\0x\n", {1: 3}),
    # -- Parquet -------------------------------------------------------------------------------------------
    Case(
        "Parquet with a broken footer",
        "in.parquet",
        (lambda d: cut(d, len(d) - 60, 30))(parquet({"prompt": ["p"], "response": ["x"]})),
        {},
        stops="after row 0: not a readable Parquet file",
    ),
    Case(
        "Parquet cut in the middle",
        "in.parquet",
        (lambda d: d[: len(d) // 2])(parquet({"prompt": ["p"] * 99, "response": ["x"] * 99})),
        {},
        stops="after row 0: not a readable Parquet file",
    ),
    Case(
        "Parquet with a broken page",
        "in.parquet",
        (lambda d: cut(d, len(d) // 3, 200))(
            parquet(
                {"prompt": ["p"] * 600, "response": [DRAW.randbytes(8).hex() for _ in range(600)]}, use_dictionary=False
            )
        ),
        {},
        stops="after row [0-9]+: ",
    ),
    Case(
        "Parquet without a column to judge",
        "in.parquet",
        parquet({"question": ["p"], "answer": ["x"]}),
        {},
        stops="row 1: no column prompt, messages or chosen among 'question', 'answer'",
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
        stops="there are no rows in it",
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
        stops="after row 0: not a readable Parquet file",
    ),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.what)
def test_a_broken_file_is_told_in_one_line_and_its_good_rows_are_judged(tmp_path, monkeypatch, case):
    monkeypatch.setattr(readers, "LINE_BYTES", case.bound << 20)
    source, output = tmp_path / case.name, tmp_path / "out.jsonl"
    source.write_bytes(case.data)
    if case.stops:
        with pytest.raises(CannotRun, match=f"{case.name}.*{case.stops}") as told:
            score_file(str(source), load_scorer("length"), output)
        assert "\n" not in str(told.value)
    else:
        summary = score_file(str(source), load_scorer("length"), output)
        assert summary.written == len(case.good) + len(case.bad) and summary.failed == len(case.bad)
    made = [json.loads(line) for line in output.read_bytes().splitlines()] if output.exists() else []
    judged = {r["row"]: r["scores"] if "scores" in r else r["score"] for r in made if not r.get("failure")}
    failed = {r["row"]: r["failure"] for r in made if r.get("failure")}
    assert judged == case.good and len(made) == len(judged) + len(failed)
    assert failed.keys() == case.bad.keys()
    for number, message in case.bad.items():
        assert failed[number].keys() == {"reason", "message"} and failed[number]["reason"] in ("malformed", "empty")
        assert message in failed[number]["message"] and "\n" not in failed[number]["message"]


def test_there_are_more_than_forty_kinds_of_broken_files():
    assert len({case.what for case in CASES}) == len(CASES) > 40


@pytest.mark.parametrize("packing", ["gz", "zst"])
def test_of_a_packed_file_that_breaks_off_the_rows_before_are_judged(tmp_path, packing):
    data = gzip.compress(MANY) if packing == "gz" else pa.Codec("zstd").compress(MANY, asbytes=True)
    source, output = tmp_path / f"in.jsonl.{packing}", tmp_path / "out.jsonl"
    source.write_bytes(data[: len(data) * 2 // 3])
    with pytest.raises(CannotRun, match=rf"in.jsonl.{packing}, after row \d+: cannot be read: ") as told:
        score_file(str(source), load_scorer("length"), output)
    made = [json.loads(line) for line in output.open()]
    last = int(str(told.value).split("after row ")[1].split(":")[0])
    assert [r["row"] for r in made] == list(range(1, last + 1)) and 900 < last < 2000
    assert all(r["score"] == r["row"] % 7 for r in made)


def test_ids_of_every_type_are_unique_texts_and_the_others_stay(tmp_path):
    source, output = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_bytes(lines(row(1, id="a"), row(2, id="a"), row(3, id=1), row(4, id="1"), row(5), row(6, id="row-5")))
    score_file(str(source), load_scorer("length"), output)
    made = [json.loads(line) for line in output.open()]
    assert [r["id"] for r in made] == ["a", "a#2", "1", "1#4", "row-5", "row-5#6"]
    assert [r.get("input.id") for r in made] == [None, "a", None, "1", None, "row-5"]


# -- what is no file, or the wrong one -------------------------------------------------------------------------


def good(tmp_path: Path) -> Path:
    source = tmp_path / "in.jsonl"
    source.write_bytes(lines(row(1), row(2)))
    return source


def folder(tmp_path: Path, *names: str) -> Path:
    made = tmp_path / "shards"
    made.mkdir()
    for name in names:
        (made / name).write_bytes(lines(row(1)))
    return made


def refused(source, output, message: str, options: Options = Options()) -> None:
    with pytest.raises(CannotRun, match=message) as told:
        score_file(str(source), load_scorer("length"), Path(output), options)
    assert "\n" not in str(told.value)


def test_a_missing_file(tmp_path):
    refused(tmp_path / "in.jsonl", tmp_path / "out.jsonl", "no file '.*in.jsonl'")
    assert list(tmp_path.iterdir()) == []


def test_a_link_that_leads_nowhere(tmp_path):
    (tmp_path / "in.jsonl").symlink_to(tmp_path / "gone.jsonl")
    refused(tmp_path / "in.jsonl", tmp_path / "out.jsonl", "no file '.*in.jsonl'")


def test_a_link_that_leads_nowhere_in_a_folder_is_not_passed_over(tmp_path):
    source = folder(tmp_path, "a.jsonl")
    (source / "b.jsonl").symlink_to(tmp_path / "gone.jsonl")
    refused(source, tmp_path / "out", "b.jsonl is a link that leads nowhere")


def test_a_named_pipe_is_refused_and_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "in.jsonl")
    refused(tmp_path / "in.jsonl", tmp_path / "out.jsonl", "in.jsonl' is a pipe or a device, not a file")


def test_a_file_that_may_not_be_read(tmp_path):
    source = good(tmp_path)
    source.chmod(0)
    if os.access(source, os.R_OK):
        pytest.skip("root may read every file")
    refused(source, tmp_path / "out.jsonl", "in.jsonl: cannot be read: Permission denied")


def test_a_folder_whose_name_is_a_files(tmp_path):
    (tmp_path / "in.jsonl").mkdir()
    refused(tmp_path / "in.jsonl", tmp_path / "out", "in.jsonl': no file in it has a known format")


def test_a_folder_without_a_file_that_is_read(tmp_path):
    source = folder(tmp_path)
    for name in ("notes.txt", ".hidden.jsonl", "_metadata.parquet", "a.parquet.gz"):
        (source / name).write_bytes(b"x")
    refused(source, tmp_path / "out", "shards': no file in it has a known format")


def test_a_folder_of_splits_is_named_as_one(tmp_path):
    source = folder(tmp_path)
    (source / "dataset_dict.json").write_text('{"splits": ["train"]}')
    refused(source, tmp_path / "out", "shards' holds a dataset of several splits")


def test_a_folder_goes_to_a_folder(tmp_path):
    source = folder(tmp_path, "a.jsonl")
    refused(source, tmp_path / "out.jsonl", "is a folder: its files go to a folder, so -o .*out.jsonl cannot be a file")
    (tmp_path / "out").write_text("mine")
    refused(source, tmp_path / "out", "its files go to a folder, and .*out is a file")
    refused(source, "-", "is a folder: its files go to a folder; give -o FOLDER", Options(ordered=True))
    assert (tmp_path / "out").read_text() == "mine"


def test_a_file_goes_to_a_file(tmp_path):
    (tmp_path / "out.jsonl").mkdir()
    refused(good(tmp_path), tmp_path / "out.jsonl", "-o .*out.jsonl is a folder")
    refused(good(tmp_path), tmp_path / "out.txt", "-o .*out.txt: unknown format")


def test_an_output_on_top_of_the_input_is_refused_whatever_its_name(tmp_path):
    source = good(tmp_path)
    before = source.read_bytes()
    refused(source, source, "-o .*in.jsonl is the input itself")
    (tmp_path / "same.jsonl").symlink_to(source)
    refused(source, tmp_path / "same.jsonl", "-o .*same.jsonl is the input itself")
    (tmp_path / "hard.jsonl").hardlink_to(source)
    refused(source, tmp_path / "hard.jsonl", "-o .*hard.jsonl is the input itself")
    assert source.read_bytes() == before


def test_a_folders_outputs_do_not_go_among_its_inputs(tmp_path):
    source = folder(tmp_path, "a.jsonl")
    refused(source, source, "-o .*shards is the input itself", Options(format=".parquet"))
    assert [file.name for file in source.iterdir()] == ["a.jsonl"]


def test_an_output_that_something_else_made_is_kept(tmp_path):
    (tmp_path / "out.jsonl").write_text("mine\n")
    refused(good(tmp_path), tmp_path / "out.jsonl", "out.jsonl exists and has no manifest beside it")
    assert (tmp_path / "out.jsonl").read_text() == "mine\n"


def test_an_output_in_a_place_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    refused(good(tmp_path), tmp_path / "file" / "out.jsonl", "out.jsonl: cannot be written: ")


def test_a_mapping_to_a_column_that_is_not_there(tmp_path):
    options = Options(mapping={"response": "answer"})
    refused(
        good(tmp_path),
        tmp_path / "out.jsonl",
        r"in.jsonl, row 1: no column 'answer' \(--map response=answer\)",
        options,
    )


def test_a_mapping_of_a_field_that_is_not_known(tmp_path):
    options = Options(mapping={"answer": "response"})
    refused(good(tmp_path), tmp_path / "out.jsonl", "--map answer=…: unknown field; there are id, prompt", options)


def test_a_format_that_is_not_written(tmp_path):
    refused(folder(tmp_path, "a.jsonl"), tmp_path / "out", "--format .xlsx: there are", Options(format=".xlsx"))


def test_two_files_that_would_become_one(tmp_path):
    source = folder(tmp_path, "a.jsonl", "a.csv")
    refused(source, tmp_path / "out", "two files that would both become a.parquet", Options(format=".parquet"))


def test_one_broken_file_of_a_folder_does_not_hold_up_the_others(tmp_path):
    source, output = folder(tmp_path, "a.jsonl", "c.jsonl"), tmp_path / "out"
    (source / "b.jsonl.gz").write_bytes(b"not gzip")
    (source / "d.parquet").write_bytes(b"not Parquet")
    refused(source, output, "b.jsonl.gz, after row 0: cannot be read: Not a gzipped file.*; and 1 more file")
    for name in ("a.jsonl", "c.jsonl"):
        assert [json.loads(line)["score"] for line in (output / name).open()] == [1]
    assert not (output / "b.jsonl.gz").exists() and not (output / "d.parquet").exists()


def test_the_command_says_it_in_one_line_and_exits_2_and_1_for_failed_rows(tmp_path):
    source = tmp_path / "in.csv"
    source.write_bytes(b'prompt,response\np,x\np,\xff\np,"xxx\n')

    def run(output: str) -> subprocess.CompletedProcess:
        given = [sys.executable, "-m", "judges.cli", "score", source, "--scorer", "length", "-o", tmp_path / output]
        return subprocess.run(given, capture_output=True, text=True, timeout=120)

    told = run("out.jsonl")
    assert told.returncode == 2 and told.stdout == ""
    line = f"assay: {source}, after row 2: cannot be read: a quote that is opened on line 4 is never closed\n"
    assert told.stderr == line
    made = {r["row"]: r["score"] for r in map(json.loads, (tmp_path / "out.jsonl").open())}
    assert made == {1: 1, 2: None}
    source.write_bytes(b"prompt,response\np,x\np,\xff\np,xxx\n")
    told = run("again.jsonl")
    assert told.returncode == 1 and "3 rows written, 0 there before, failed: 1 malformed" in told.stderr
