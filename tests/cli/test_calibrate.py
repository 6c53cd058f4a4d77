"""`assay calibrate`: the temperature file, and what stops it."""

import json
import math
import subprocess
import sys

import pytest
from fakes import FixedScorer

from judges import load_scorer
from judges.cli.calibrate import run
from judges.errors import CannotRun
from judges.evaluation.benchmarks import load_benchmark
from judges.scorer import parse_spec
from judges.scorers.calibrated import Calibrated

ASSAY = [sys.executable, "-c", "from judges.cli import main; main()"]


def assay(*args):
    return subprocess.run([*ASSAY, *map(str, args)], capture_output=True, text=True, timeout=120)


def pairs(path, wrong_every=3, n=60):
    """Rows whose chosen response is longer by 10 or 20 characters, in each third row shorter by 10."""
    with open(path, "w") as out:
        for i in range(n):
            lead = -10 if i % wrong_every == 0 else 10 * (1 + i % 2)
            row = {"prompt": f"question {i}", "chosen": "x" * (40 + lead), "rejected": "x" * 40}
            out.write(json.dumps(row) + "\n")
    return path


def test_calibrate_writes_a_file_that_a_later_run_applies(tmp_path):
    out = tmp_path / "t.json"
    result = assay("calibrate", pairs(tmp_path / "in.jsonl"), "--scorer", "length", "-o", out)
    assert result.returncode == 0, result.stderr
    calibration = json.loads(out.read_text())
    # the chosen leads by 10 in 20 rows, by 20 in 20, by −10 in 20
    slope = sum(
        count * m / (1 + math.exp(m / calibration["temperature"])) for m, count in ((10, 20), (20, 20), (-10, 20))
    )
    assert abs(slope) < 1e-4
    assert (
        calibration["rows"] == 60
        and calibration["identity"] == {"scorer": "length"}
        and calibration["scorer"] == {"scorer": "length"}
    )
    assert len(calibration["data"]) == 16 and calibration["assay"]
    for name in ("ece, equal width", "ece, equal mass", "brier", "log loss", "temperature"):
        assert name in result.stdout
    scored = tmp_path / "scored.jsonl"
    assert assay("score", tmp_path / "in.jsonl", "--scorer", f"calibrated,file={out}", "-o", scored).returncode == 0
    row = next(r for r in map(json.loads, scored.open()) if r["row"] == 3)
    assert row["scores"] == [50, 40] and row["preference"][0] == pytest.approx(
        1 / (1 + math.exp(-10 / calibration["temperature"]))
    )


def test_a_calibrated_scorer_names_the_benchmark_it_was_fitted_on(tmp_path):
    rows, out = pairs(tmp_path / "in.jsonl"), tmp_path / "t.json"
    assert assay("calibrate", rows, "--scorer", "length", "-o", out).returncode == 0
    with Calibrated(out) as scorer:
        assert scorer.identity()["fitted_on"] == load_benchmark(str(rows)).digest
        assert scorer.identity()["fitted_on"] != load_benchmark(str(rows), limit=59).digest


class CountedScorer(FixedScorer):
    streams = 0

    def stream(self, items):
        CountedScorer.streams += 1
        return super().stream(items)


@pytest.mark.parametrize("place", ["folder", "file.txt/t.json", "in.jsonl/deeper/t.json"])
def test_calibrate_checks_the_output_before_it_judges(tmp_path, monkeypatch, place):
    monkeypatch.setattr("judges.cli.calibrate.load_scorer", lambda name: CountedScorer(2.0, 1.0))
    (tmp_path / "folder").mkdir()
    (tmp_path / "file.txt").write_text("")
    file = str(pairs(tmp_path / "in.jsonl"))
    CountedScorer.streams = 0
    with pytest.raises(CannotRun, match="cannot be written"):
        run(file, "result", tmp_path / place, None, True)
    assert CountedScorer.streams == 0
    with pytest.raises(CannotRun, match="no temperature"):
        run(file, "result", tmp_path / "t.json", None, True)
    assert CountedScorer.streams == 1


@pytest.mark.parametrize("spec", ["length", "panel,members={}"])
def test_calibrate_writes_its_file_and_nothing_else(tmp_path, spec):
    (tmp_path / "panel.yaml").write_text("[length, random]")
    pairs(tmp_path / "in.jsonl")
    before = set(tmp_path.iterdir())
    spec = spec.format(tmp_path / "panel.yaml")
    result = assay("calibrate", tmp_path / "in.jsonl", "--scorer", spec, "-o", tmp_path / "t.json")
    assert result.returncode == 0, result.stderr
    assert set(tmp_path.iterdir()) - before == {tmp_path / "t.json"}


def test_calibrate_prints_names_with_markup_unchanged(tmp_path):
    rows = pairs(tmp_path / "[red]in[b].jsonl")
    out = tmp_path / "[bold]t.json"
    result = assay("calibrate", rows, "--scorer", "length", "-o", out)
    assert result.returncode == 0, result.stderr
    assert "[red]in[b]" in result.stdout.splitlines()[0] and f"calibrated,file={out}" in result.stdout


def test_calibrate_prints_the_settings_that_must_be_given_again(tmp_path):
    (tmp_path / "panel.yaml").write_text("[length, random]")
    spec, out = f"panel,members={tmp_path / 'panel.yaml'}", tmp_path / "t.json"
    result = assay("calibrate", pairs(tmp_path / "in.jsonl"), "--scorer", spec, "-o", out)
    used = result.stdout.split("--scorer ")[1].strip()
    assert used == f"calibrated,file={out},members={tmp_path / 'panel.yaml'}"
    name, settings = parse_spec(used)
    with load_scorer(name, **settings) as scorer:
        assert scorer.identity()["of"]["scorer"] == "panel"


@pytest.mark.parametrize(
    "rows, message",
    [
        ({"wrong_every": 10**9}, "is wrong by a notable margin"),
        ({"wrong_every": 1}, "do not point to the chosen"),
    ],
)
def test_calibrate_writes_nothing_where_no_temperature_fits(tmp_path, rows, message):
    path = pairs(tmp_path / "in.jsonl", **rows)
    if "notable" in message:  # question 0 is wrong in every set
        path.write_text("".join(path.read_text().splitlines(keepends=True)[1:]))
    result = assay("calibrate", path, "--scorer", "length", "-o", tmp_path / "t.json")
    assert result.returncode == 2 and message in result.stderr and not (tmp_path / "t.json").exists()
