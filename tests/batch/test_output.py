"""Sources and outputs that a run refuses, each with one line that says why."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from batch_runs import rows

from judges import load_scorer
from judges.batch.output import ScoreOptions
from judges.batch.run import score_file
from judges.errors import CannotRun


def refused(source: Path | str, output: Path | str, message: str, **options: Any) -> None:
    with pytest.raises(CannotRun, match=message) as error:
        score_file(str(source), load_scorer("length"), Path(output), ScoreOptions(**options))
    assert "\n" not in str(error.value)


def make_file(tmp_path: Path) -> Path:
    (tmp_path / "in.jsonl").write_text(rows(2))
    return tmp_path / "in.jsonl"


def make_folder(tmp_path: Path, *names: str) -> Path:
    folder = tmp_path / "shards"
    folder.mkdir()
    for name in names:
        (folder / name).write_text(rows(1))
    return folder


def make_pipe(tmp_path: Path) -> Path:
    os.mkfifo(tmp_path / "in.jsonl")
    return tmp_path / "in.jsonl"


def make_broken_link(tmp_path: Path) -> Path:
    (tmp_path / "in.jsonl").symlink_to(tmp_path / "missing.jsonl")
    return tmp_path / "in.jsonl"


def make_folder_with_broken_link(tmp_path: Path) -> Path:
    (make_folder(tmp_path, "a.jsonl") / "b.jsonl").symlink_to(tmp_path / "missing.jsonl")
    return tmp_path / "shards"


def make_folder_named_as_a_file(tmp_path: Path) -> Path:
    (tmp_path / "in.jsonl").mkdir()
    return tmp_path / "in.jsonl"


def make_splits(tmp_path: Path) -> Path:
    (make_folder(tmp_path) / "dataset_dict.json").write_text('{"splits": ["train"]}')
    return tmp_path / "shards"


UNREAD = ("notes.txt", ".hidden.jsonl", "_metadata.parquet", "a.parquet.gz")


@pytest.mark.parametrize(
    "make, output, message, options",
    [
        (make_broken_link, "out.jsonl", "no file '.*in.jsonl'", {}),
        (make_folder_with_broken_link, "out", "b.jsonl is a broken link", {}),
        (make_pipe, "out.jsonl", "in.jsonl' is a pipe or a device, not a file", {}),
        (make_folder_named_as_a_file, "out", "in.jsonl': no file in it has a supported format", {}),
        (lambda path: make_folder(path, *UNREAD), "out", "shards': no file in it has a supported format", {}),
        (make_splits, "out", "shards' holds a dataset of several splits", {}),
        (make_file, "out.txt", "-o .*out.txt: unknown format", {}),
        (make_file, "in.jsonl/out.jsonl", "out.jsonl: cannot be written: ", {}),
        (
            make_file,
            "out.jsonl",
            r"in.jsonl, row 1: no column 'answer' \(--map response=answer\)",
            {"mapping": {"response": "answer"}},
        ),
        (
            make_file,
            "out.jsonl",
            "--map: unknown field 'answer'. Known: id, prompt",
            {"mapping": {"answer": "response"}},
        ),
        (lambda path: make_folder(path, "a.jsonl"), "out", "--format .xlsx: unknown format", {"format": ".xlsx"}),
        (
            lambda path: make_folder(path, "a.jsonl", "a.csv"),
            "out",
            "two files that would both become a.parquet",
            {"format": ".parquet"},
        ),
    ],
)
def test_a_source_or_output_that_cannot_be_used_is_refused(tmp_path, make, output, message, options):
    refused(make(tmp_path), tmp_path / output, message, **options)


def test_a_missing_file_leaves_nothing_behind(tmp_path):
    refused(tmp_path / "in.jsonl", tmp_path / "out.jsonl", "no file '.*in.jsonl'")
    assert list(tmp_path.iterdir()) == []


def test_a_file_without_read_permission(tmp_path):
    source = make_file(tmp_path)
    source.chmod(0)
    if os.access(source, os.R_OK):
        pytest.skip("root may read every file")
    refused(source, tmp_path / "out.jsonl", "in.jsonl: cannot be read: Permission denied")


def test_the_output_of_a_folder_is_a_folder(tmp_path):
    source = make_folder(tmp_path, "a.jsonl")
    refused(source, tmp_path / "out.jsonl", "is a folder: its files go to a folder, so -o .*out.jsonl cannot be a file")
    (tmp_path / "out").write_text("existing")
    refused(source, tmp_path / "out", "its files go to a folder, and .*out is a file")
    refused(source, "-", "is a folder: its files go to a folder; give -o FOLDER", ordered=True)
    assert (tmp_path / "out").read_text() == "existing"


def test_the_output_of_a_file_is_a_file_that_no_other_program_wrote(tmp_path):
    source, output = make_file(tmp_path), tmp_path / "out.jsonl"
    output.mkdir()
    refused(source, output, "-o .*out.jsonl is a folder")
    output.rmdir()
    output.write_text("existing\n")
    refused(source, output, "out.jsonl exists and has no manifest beside it")
    assert output.read_text() == "existing\n"


def test_an_output_that_is_the_input_is_refused_whatever_its_name(tmp_path):
    source = make_file(tmp_path)
    before = source.read_bytes()
    (tmp_path / "symbolic.jsonl").symlink_to(source)
    (tmp_path / "hard.jsonl").hardlink_to(source)
    for name in ("in", "symbolic", "hard"):
        refused(source, tmp_path / f"{name}.jsonl", f"-o .*{name}.jsonl is the input itself")
    assert source.read_bytes() == before
    folder = make_folder(tmp_path, "a.jsonl")
    refused(folder, folder, "-o .*shards is the input itself", format=".parquet")
    assert [file.name for file in folder.iterdir()] == ["a.jsonl"]


def test_broken_files_of_a_folder_do_not_stop_the_others(tmp_path):
    source, output = make_folder(tmp_path, "a.jsonl", "c.jsonl"), tmp_path / "out"
    (source / "b.jsonl.gz").write_bytes(b"not gzip")
    (source / "d.parquet").write_bytes(b"not Parquet")
    refused(source, output, "b.jsonl.gz, after row 0: cannot be read: Not a gzipped file.*; and 1 more file")
    for name in ("a.jsonl", "c.jsonl"):
        assert [json.loads(line)["score"] for line in (output / name).open()] == [1]
    assert not (output / "b.jsonl.gz").exists() and not (output / "d.parquet").exists()
