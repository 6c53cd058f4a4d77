import json
import math
import subprocess
import sys
from dataclasses import asdict

import pytest

from judges import Item, Judgment, Scorecard, load_scorer
from judges.cli.calibrate import run
from judges.errors import CannotRun
from judges.evaluation.benchmarks import load_benchmark
from judges.evaluation.metrics.calibration import measure
from judges.scorer import Scorer, parse_spec
from judges.scorers.calibrated import Calibrated, Calibration, as_mapping, read_calibration, write_calibration
from judges.types import REAL_LINE, Failure, Gold

ASSAY = [sys.executable, "-c", "from judges.cli import main; main()"]


class Told(Scorer):
    """Gives every Item the scores it was told."""

    name = "told"
    scale = REAL_LINE

    def __init__(self, *scores, version=1):
        self.scores, self.version = scores, version
        self.closed, self.remembered = 0, []

    def identity(self):
        return {"scorer": self.name, "version": self.version, "ways": ("a", "b")}

    def remember(self, path):
        self.remembered.append(path)

    def close(self):
        self.closed += 1

    def stream(self, items):
        for item in items:
            made = (Judgment(failure=s) if isinstance(s, Failure) else Judgment(score=s) for s in self.scores)
            yield Scorecard(item.id, tuple(made), preference=(1.0, 0.0))


def item(k=2):
    return Item(id="a", prompt="a question", responses=[f"response {i}" for i in range(k)])


@pytest.fixture
def file(tmp_path):
    return kept(tmp_path / "t.json", Told().identity(), {"scorer": "told"})


def kept(path, identity, scorer, temperature=2.0):
    write_calibration(Calibration(temperature, 100, "demo", "0123", scorer, identity, "0.1.0"), path)
    return path


def told_of(**changed):
    """The text of a file of assay calibrate, with these fields changed."""
    made = Calibration(2.0, 100, "demo", "0123", {"scorer": "length"}, {"scorer": "length"}, "0.1.0")
    return json.dumps(asdict(made) | changed)


def assay(*args):
    return subprocess.run([*ASSAY, *map(str, args)], capture_output=True, text=True, timeout=120)


# -- the scorer -----------------------------------------------------------------------------------------------


def test_preference_is_the_softmax_of_scores_over_the_temperature_and_scores_stay(file):
    (card,) = Calibrated(file, Told(3.0, 1.0, 1.0)).score([item(3)])
    assert [j.score for j in card.judgments] == [3, 1, 1]
    weights = [math.exp(1.5), math.exp(0.5), math.exp(0.5)]
    assert card.preference == pytest.approx([w / sum(weights) for w in weights])


def test_a_failure_stays_one_and_leaves_the_preference_open(file):
    (card,) = Calibrated(file, Told(3.0, Failure("timeout", "slow"))).score([item()])
    assert card.preference is None and card.judgments[1].failure.reason == "timeout"


def test_another_scorer_than_the_files_is_refused_with_the_difference_and_closed(file):
    other = Told(1.0, 2.0, version=2)
    with pytest.raises(CannotRun, match=r"fitted for another scorer \(version: 1 then, 2 now\)"):
        Calibrated(file, other)
    assert other.closed == 1


def test_the_file_alone_names_the_scorer_and_settings_go_to_it(tmp_path):
    path = kept(tmp_path / "t.json", load_scorer("random", seed=3).identity(), as_mapping("random,seed=3"))
    name, settings = parse_spec(f"calibrated,file={path}")
    with load_scorer(name, **settings) as scorer:
        assert isinstance(scorer, Calibrated) and scorer.scorer.seed == 3 and scorer.scale == scorer.scorer.scale
    with pytest.raises(CannotRun, match="seed: 3 then, 4 now"):
        load_scorer("calibrated", file=str(path), seed=4)
    with pytest.raises(CannotRun, match="has no setting sede"):
        load_scorer("calibrated", file=str(path), sede=3)


@pytest.mark.parametrize("of", ["random,seed=3", {"scorer": "random", "seed": 3}, load_scorer("random", seed=3)])
def test_the_scorer_may_be_given_as_a_panels_members_are(tmp_path, of):
    path = kept(tmp_path / "t.json", load_scorer("random", seed=3).identity(), {"scorer": "nothing"})
    assert Calibrated(path, of).identity()["of"] == {"scorer": "random", "seed": 3}


def test_it_passes_on_what_belongs_to_the_scorer_inside(file, tmp_path):
    inside = Told(1.0, 2.0)
    scorer = Calibrated(file, inside)
    scorer.remember(tmp_path / "s.sqlite")
    scorer.close()
    assert inside.remembered == [tmp_path / "s.sqlite"] and inside.closed == 1
    told = scorer.identity()
    assert (told["temperature"], told["fitted_on"], told["of"]) == (2, "0123", inside.identity())


def test_a_key_to_a_server_is_not_written_into_the_file():
    assert as_mapping("self-rewarding,api_key=secret,votes=3") == {"scorer": "self-rewarding", "votes": 3}


@pytest.mark.parametrize(
    "text, says",
    [
        ("{", "not a file of assay calibrate"),
        ("[1]", "not a file of assay calibrate"),
        ('{"temperature": 1}', "not a file of assay calibrate"),
        ("[" * 100_000, "not a file of assay calibrate"),
        (told_of(temperature=0), "a number above 0"),
        (told_of(temperature=10**400), "a number above 0"),
        (told_of(temperature=math.nan), "a number above 0"),
        (told_of(temperature=True), "temperature is of type int or float, not True"),
        (told_of(rows="many"), "rows is of type int"),
        (told_of(identity=[]), r"identity is of type dict, not \[\]"),
        (told_of(scorer=5), "scorer is of type dict, not 5"),
        (told_of(scorer={"model": "m"}), "its scorer has no name"),
        (told_of(scorer={"scorer": ["length"]}), "its scorer has no name"),
        (told_of(assay=None), "assay is of type str"),
    ],
)
def test_a_file_that_is_none_cannot_run(tmp_path, text, says):
    (tmp_path / "t.json").write_text(text)
    with pytest.raises(CannotRun, match=says) as refused:
        read_calibration(tmp_path / "t.json")
    assert str(tmp_path / "t.json") in str(refused.value)
    with pytest.raises(CannotRun, match="cannot be read"):
        read_calibration(tmp_path / "none.json")
    with pytest.raises(CannotRun, match="needs file="):
        Calibrated()


def test_a_file_that_names_itself_is_refused(tmp_path):
    path = tmp_path / "t.json"
    path.write_text(told_of(scorer={"scorer": "calibrated", "file": str(path)}))
    with pytest.raises(CannotRun, match="its scorer is calibrated too"):
        Calibrated(path)
    member = {"scorer": "calibrated", "file": str(path)}
    path.write_text(told_of(scorer={"scorer": "panel", "members": [member, member]}))
    with pytest.raises(CannotRun, match="sets members="):
        Calibrated(path)


@pytest.mark.parametrize(
    "key, value",
    [
        ("remote_code", True),
        ("remote-code", True),
        ("base_url", "http://elsewhere/v1"),
        ("reference_base_url", "http://elsewhere/v1"),
        ("api_key", "theirs"),
        ("engine.trust_remote_code", True),
        ("store", "/anywhere"),
        ("members", "panel.yaml"),
        ("anything", [{"scorer": "length"}]),
    ],
)
def test_what_reaches_beyond_the_scores_is_not_taken_from_the_file(tmp_path, monkeypatch, key, value):
    built = []

    def build(name, **settings):
        built.append(settings)
        return Told()

    monkeypatch.setattr("judges.scorers.calibrated.load_scorer", build)
    path = kept(tmp_path / "t.json", Told().identity(), {"scorer": "told", "version": 1, key: value})
    key = key.replace("-", "_")
    with pytest.raises(CannotRun, match=rf"sets {key}.*give it yourself: calibrated,file=.*,{key}=…") as refused:
        Calibrated(path)
    assert not built and "theirs" not in str(refused.value)
    Calibrated(path, **{key: "mine"})
    Calibrated(path, {"scorer": "told", key: value})
    assert built == [{"version": 1, key: "mine"}, {key: value}]


def test_a_file_that_gives_a_scorer_a_setting_it_cannot_have_is_refused(tmp_path):
    path = kept(tmp_path / "t.json", {"scorer": "length"}, {"scorer": "length", "name": "random"})
    with pytest.raises(CannotRun, match="no setting name"):
        Calibrated(path)


# -- the commands ---------------------------------------------------------------------------------------------


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
    told = assay("calibrate", pairs(tmp_path / "in.jsonl"), "--scorer", "length", "-o", out)
    assert told.returncode == 0, told.stderr
    made = json.loads(out.read_text())
    # the chosen leads by 10 in 20 rows, by 20 in 20, by −10 in 20
    slope = sum(count * m / (1 + math.exp(m / made["temperature"])) for m, count in ((10, 20), (20, 20), (-10, 20)))
    assert abs(slope) < 1e-4
    assert made["rows"] == 60 and made["identity"] == {"scorer": "length"} and made["scorer"] == {"scorer": "length"}
    assert len(made["data"]) == 16 and made["assay"]
    for name in ("ece, equal width", "ece, equal mass", "brier", "log loss", "temperature"):
        assert name in told.stdout
    scored = tmp_path / "scored.jsonl"
    assert assay("score", tmp_path / "in.jsonl", "--scorer", f"calibrated,file={out}", "-o", scored).returncode == 0
    row = next(r for r in map(json.loads, scored.open()) if r["row"] == 3)
    assert row["scores"] == [50, 40] and row["preference"][0] == pytest.approx(
        1 / (1 + math.exp(-10 / made["temperature"]))
    )


def test_a_calibrated_scorer_names_the_benchmark_it_was_fitted_on(tmp_path):
    rows, out = pairs(tmp_path / "in.jsonl"), tmp_path / "t.json"
    assert assay("calibrate", rows, "--scorer", "length", "-o", out).returncode == 0
    with Calibrated(out) as scorer:
        assert scorer.identity()["fitted_on"] == load_benchmark(str(rows)).digest
        assert scorer.identity()["fitted_on"] != load_benchmark(str(rows), limit=59).digest


class Watched(Told):
    asked = 0

    def stream(self, items):
        Watched.asked += 1
        return super().stream(items)


@pytest.mark.parametrize("place", ["folder", "file.txt/t.json", "in.jsonl/deeper/t.json"])
def test_calibrate_finds_out_that_it_cannot_write_before_it_judges(tmp_path, monkeypatch, place):
    monkeypatch.setattr("judges.cli.calibrate.load_scorer", lambda name: Watched(2.0, 1.0))
    (tmp_path / "folder").mkdir()
    (tmp_path / "file.txt").write_text("")
    file = str(pairs(tmp_path / "in.jsonl"))
    Watched.asked = 0
    with pytest.raises(CannotRun, match="cannot be written"):
        run(file, "told", tmp_path / place, None, True)
    assert Watched.asked == 0
    with pytest.raises(CannotRun, match="no temperature"):
        run(file, "told", tmp_path / "t.json", None, True)
    assert Watched.asked == 1


@pytest.mark.parametrize("spec", ["length", "panel,members={}"])
def test_calibrate_leaves_its_file_and_nothing_else(tmp_path, spec):
    (tmp_path / "panel.yaml").write_text("[length, random]")
    pairs(tmp_path / "in.jsonl")
    before = set(tmp_path.iterdir())
    spec = spec.format(tmp_path / "panel.yaml")
    told = assay("calibrate", tmp_path / "in.jsonl", "--scorer", spec, "-o", tmp_path / "t.json")
    assert told.returncode == 0, told.stderr
    assert set(tmp_path.iterdir()) - before == {tmp_path / "t.json"}


def test_calibrate_shows_names_with_markup_as_they_are(tmp_path):
    rows = pairs(tmp_path / "[red]in[b].jsonl")
    out = tmp_path / "[bold]t.json"
    told = assay("calibrate", rows, "--scorer", "length", "-o", out)
    assert told.returncode == 0, told.stderr
    assert "[red]in[b]" in told.stdout.splitlines()[0] and f"calibrated,file={out}" in told.stdout


def test_calibrate_tells_what_must_be_given_again_with_its_file(tmp_path):
    (tmp_path / "panel.yaml").write_text("[length, random]")
    spec, out = f"panel,members={tmp_path / 'panel.yaml'}", tmp_path / "t.json"
    told = assay("calibrate", pairs(tmp_path / "in.jsonl"), "--scorer", spec, "-o", out)
    used = told.stdout.split("--scorer ")[1].strip()
    assert used == f"calibrated,file={out},members={tmp_path / 'panel.yaml'}"
    name, settings = parse_spec(used)
    with load_scorer(name, **settings) as scorer:
        assert scorer.identity()["of"]["scorer"] == "panel"


def test_a_calibrated_scorer_is_measured_as_it_is_with_its_temperature(tmp_path):
    path = kept(tmp_path / "t.json", {"scorer": "length"}, {"scorer": "length"}, temperature=25.0)
    items = [
        Item(id=str(i), prompt=str(i), responses=["x" * (60 if i % 3 else 30), "x" * 40], gold=Gold(chosen=(0,)))
        for i in range(30)
    ]
    with Calibrated(path) as scorer:
        cards = {card.id: card for card in scorer.score(items)}
    brier = next(n for n in measure(items, cards, draws=5)[0] if n.metric == "brier")
    right, wrong = 1 / (1 + math.exp(-20 / 25)), 1 / (1 + math.exp(10 / 25))
    assert brier.value == pytest.approx((20 * (1 - right) ** 2 + 10 * (1 - wrong) ** 2) / 30)
    assert "own preference" in brier.note


@pytest.mark.parametrize(
    "rows, says",
    [
        ({"wrong_every": 10**9}, "is wrong by more than a hair"),
        ({"wrong_every": 1}, "do not point to the chosen"),
    ],
)
def test_calibrate_writes_nothing_where_no_temperature_fits(tmp_path, rows, says):
    path = pairs(tmp_path / "in.jsonl", **rows)
    if "hair" in says:  # question 0 is wrong in every set
        path.write_text("".join(path.read_text().splitlines(keepends=True)[1:]))
    told = assay("calibrate", path, "--scorer", "length", "-o", tmp_path / "t.json")
    assert told.returncode == 2 and says in told.stderr and not (tmp_path / "t.json").exists()


def judged(path, n=200, labelled=60):
    """Every second row won by its label; the judge errs on each tenth row. Two groups, pairs of rows a prompt."""
    with open(path, "w") as out:
        for i in range(n):
            truth = i % 2
            row = {"verdict": 1 - truth if i % 10 < 2 else truth, "group": "ab"[i % 4 // 2], "prompt": f"p{i // 2}"}
            row["human"] = truth if i < labelled else ("" if i % 3 else None)
            out.write(json.dumps(row) + "\n")
    return path


def test_estimate_prints_the_four_numbers_and_the_sentence(tmp_path):
    flags = ["--verdict", "verdict", "--label", "human"]
    told = assay("estimate", judged(tmp_path / "in.jsonl"), *flags)
    assert told.returncode == 0, told.stderr
    assert "60 of 200" in told.stdout and "50.0 %" in told.stdout and "drawn at random" in told.stdout
    assert "labels would halve" in told.stdout or "would not halve" in told.stdout
    grouped = assay("estimate", tmp_path / "in.jsonl", *flags, "--group", "group", "--prompt", "prompt")
    assert grouped.returncode == 0, grouped.stderr
    assert "30 of 100" in grouped.stdout and "all" in grouped.stdout and grouped.stdout.count("50.0 %") >= 3


def test_estimate_reads_csv_with_words_for_wins_and_empty_labels(tmp_path):
    lines = [f"{'true' if i % 2 else 'False'},{i % 2 if i < 40 else ''}" for i in range(100)]
    (tmp_path / "in.csv").write_text("won,human\n" + "\n".join(lines) + "\n")
    told = assay("estimate", tmp_path / "in.csv", "--verdict", "won", "--label", "human")
    assert told.returncode == 0 and "40 of 100" in told.stdout, told.stderr


def test_estimate_leaves_out_rows_without_a_verdict_and_exits_1(tmp_path):
    path = judged(tmp_path / "in.jsonl")
    with path.open("a") as out:
        out.write('{"verdict": null, "human": 1, "group": "c"}\n')
    told = assay("estimate", path, "--verdict", "verdict", "--label", "human")
    assert told.returncode == 1 and "row 201: no verdict" in told.stderr and "60 of 200" in told.stdout


@pytest.mark.parametrize(
    "line, flags, says",
    [
        ('{"verdict": "good", "human": 1}', [], "row 201, verdict: a number is needed"),
        ('{"verdict": 1, "human": "yes"}', [], "row 201, human: a number is needed"),
        (f'{{"verdict": 1{"0" * 400}, "human": 1}}', [], "row 201, verdict: a number is needed"),
        (f'{{"verdict": 1, "human": -1{"0" * 400}}}', [], "row 201, human: a number is needed"),
        ('{"verdict": 1e308, "human": 1}', [], "row 201, verdict: a number is needed"),
        ('{"verdict": 1, "human": "-1e308"}', [], "row 201, human: a number is needed"),
        ('{"verdict": 1, "prompt": null}', ["--prompt", "prompt"], "row 201, prompt (--prompt): it is empty"),
        ('{"verdict": 1, "prompt": " "}', ["--prompt", "prompt"], "row 201, prompt (--prompt): it is empty"),
        ('{"verdict": 1, "group": null}', ["--group", "group"], "row 201, group (--group): it is empty"),
        ('{"verdict": 1, "group": NaN}', ["--group", "group"], "row 201, group (--group): it is empty"),
        ('{"verdict": NaN, "human": "inf"}', [], None),
        ('{"verdict": 1, "human": "inf"}', [], "row 201, human"),
        ("nothing", [], "row 201: not JSON"),
        ('{"human": 1}', [], "row 201: no column 'verdict' (--verdict)"),
        ('{"verdict": 1}', ["--group", "group"], "row 201: no column 'group' (--group)"),
        ('{"verdict": 1}', ["--label", "nobody"], "no row has a column 'nobody' (--label)"),
    ],
)
def test_estimate_names_the_row_that_is_wrong(tmp_path, line, flags, says):
    path = judged(tmp_path / "in.jsonl")
    with path.open("a") as out:
        out.write(line + "\n")
    told = assay("estimate", path, "--verdict", "verdict", "--label", "human", *flags)
    assert told.returncode == (2 if says else 1), told.stderr
    assert (says or "row 201: no verdict") in told.stderr


def test_estimate_shows_groups_with_markup_as_they_are(tmp_path):
    path = judged(tmp_path / "in.jsonl")
    path.write_text(path.read_text().replace('"group": "a"', '"[g]": "[/x]b"').replace('"group"', '"[g]"'))
    with path.open("a") as out:
        out.write('{"verdict": 1, "human": 1, "[g]": "\\u001b[31m[b]few"}\n')
    told = assay("estimate", path, "--verdict", "verdict", "--label", "human", "--group", "[g]")
    assert told.returncode == 1, told.stderr
    lines = told.stdout.splitlines()
    assert lines[0].split()[0] == "[g]" and any(line.split()[:1] == ["[/x]b"] for line in lines)
    assert "[U+001B][31m[b]few: 1 labelled prompts" in told.stdout and "\x1b" not in told.stdout


def test_estimate_refuses_too_few_labels_and_goes_on_with_other_groups(tmp_path):
    told = assay("estimate", judged(tmp_path / "a.jsonl", labelled=14), "--verdict", "verdict", "--label", "human")
    assert told.returncode == 2 and "14 labelled prompts: 15 at the least" in told.stderr
    path = judged(tmp_path / "b.jsonl")
    with path.open("a") as out:
        out.write('{"verdict": 1, "human": 1, "group": "c"}\n')
    told = assay("estimate", path, "--verdict", "verdict", "--label", "human", "--group", "group")
    assert told.returncode == 1 and "c: 1 labelled prompts" in told.stdout and "30 of 100" in told.stdout
