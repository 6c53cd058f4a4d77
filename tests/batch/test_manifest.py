"""A run with another scorer, input or setting is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
from batch_runs import interrupted_score, rows, score, write_shards, write_source

from judges import load_scorer
from judges.batch import manifest
from judges.errors import CannotRun


@pytest.fixture
def source(tmp_path) -> Path:
    return write_source(tmp_path)


@pytest.fixture
def shards(tmp_path) -> Path:
    return write_shards(tmp_path)


def test_another_scorer_input_or_mapping_is_refused_and_the_change_named(source, tmp_path):
    output = tmp_path / "out.jsonl"
    score(source, output, load_scorer("random", seed=1))
    before = output.read_bytes()
    with pytest.raises(CannotRun, match=r"made with other settings \(seed: 1 then, 2 now\); give another -o"):
        score(source, output, load_scorer("random", seed=2))
    with pytest.raises(CannotRun, match=r"scorer: 'random' then, 'length' now, seed: 1 then, None now"):
        score(source, output)
    with pytest.raises(CannotRun, match=r"mapping: {} then, {'response': 'prompt'} now"):
        score(source, output, load_scorer("random", seed=1), mapping={"response": "prompt"})
    source.write_text(rows(21))
    with pytest.raises(CannotRun, match=r"made with other settings \(input_sha256: '[0-9a-f]{64}' then"):
        score(source, output, load_scorer("random", seed=1))
    assert output.read_bytes() == before


def test_the_same_input_under_another_name_resumes(source, tmp_path):
    interrupted_score(source, tmp_path / "out.jsonl", 3)
    moved = source.rename(tmp_path / "moved.jsonl")
    assert score(moved, tmp_path / "out.jsonl").resumed == 3


def test_a_file_added_to_a_folder_is_refused(shards, tmp_path):
    score(shards, tmp_path / "out")
    (shards / "d.jsonl").write_text(rows(1))
    with pytest.raises(CannotRun, match=r"out was made with other settings \(input_files: "):
        score(shards, tmp_path / "out")


def test_a_file_that_is_not_a_manifest_is_named(source, tmp_path):
    score(source, tmp_path / "out.jsonl")
    (tmp_path / "out.jsonl.run" / "manifest.json").write_text("{")
    with pytest.raises(CannotRun, match=r"manifest\.json: not a manifest; give another -o"):
        score(source, tmp_path / "out.jsonl")


def test_a_second_run_of_the_same_output_is_refused_while_the_first_runs(source, tmp_path):
    output = tmp_path / "out.jsonl"
    with (
        manifest.lock_run_folder(tmp_path / "out.jsonl.run", str(output)),
        pytest.raises(CannotRun, match=r"out\.jsonl is being written by another run"),
    ):
        score(source, output)
    assert score(source, output).written == 20
