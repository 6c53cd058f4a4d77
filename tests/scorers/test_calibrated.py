"""The calibrated scorer: its preference, and the files that it accepts."""

import json
import math
from dataclasses import asdict

import pytest
from fakes import FixedScorer

from judges import Item, load_scorer
from judges.errors import CannotRun
from judges.evaluation.metrics.calibration import measure
from judges.scorer import parse_spec
from judges.scorers.calibrated import Calibrated, Calibration, read_calibration, spec_mapping, write_calibration
from judges.types import Failure, Gold


def item(k=2):
    return Item(id="a", prompt="a question", responses=[f"response {i}" for i in range(k)])


@pytest.fixture
def file(tmp_path):
    return write_file(tmp_path / "t.json", FixedScorer().identity(), {"scorer": "fixed"})


def write_file(path, identity, scorer, temperature=2.0):
    write_calibration(Calibration(temperature, 100, "demo", "0123", scorer, identity, "0.1.0"), path)
    return path


def file_text(**changed):
    """The text of a file of assay calibrate, with these fields changed."""
    calibration = Calibration(2.0, 100, "demo", "0123", {"scorer": "length"}, {"scorer": "length"}, "0.1.0")
    return json.dumps(asdict(calibration) | changed)


def test_preference_is_the_softmax_of_scores_over_the_temperature_and_scores_stay(file):
    (card,) = Calibrated(file, FixedScorer(3.0, 1.0, 1.0)).score([item(3)])
    assert [j.score for j in card.judgments] == [3, 1, 1]
    weights = [math.exp(1.5), math.exp(0.5), math.exp(0.5)]
    assert card.preference == pytest.approx([w / sum(weights) for w in weights])


def test_a_failure_leaves_no_preference(file):
    (card,) = Calibrated(file, FixedScorer(3.0, Failure("timeout", "slow"))).score([item()])
    assert card.preference is None and card.judgments[1].failure.reason == "timeout"


def test_a_scorer_with_another_identity_is_refused_and_closed(file):
    other = FixedScorer(1.0, 2.0, version=2)
    with pytest.raises(CannotRun, match=r"fitted for another scorer \(version: 1 then, 2 now\)"):
        Calibrated(file, other)
    assert other.closed == 1


def test_the_file_alone_names_the_scorer_and_settings_go_to_it(tmp_path):
    path = write_file(tmp_path / "t.json", load_scorer("random", seed=3).identity(), spec_mapping("random,seed=3"))
    name, settings = parse_spec(f"calibrated,file={path}")
    with load_scorer(name, **settings) as scorer:
        assert isinstance(scorer, Calibrated) and scorer.scorer.seed == 3 and scorer.scale == scorer.scorer.scale
    with pytest.raises(CannotRun, match="seed: 3 then, 4 now"):
        load_scorer("calibrated", file=str(path), seed=4)
    with pytest.raises(CannotRun, match="has no setting 'sede'"):
        load_scorer("calibrated", file=str(path), sede=3)


@pytest.mark.parametrize("of", ["random,seed=3", {"scorer": "random", "seed": 3}, load_scorer("random", seed=3)])
def test_of_takes_a_spec_a_mapping_or_a_scorer(tmp_path, of):
    path = write_file(tmp_path / "t.json", load_scorer("random", seed=3).identity(), {"scorer": "nothing"})
    assert Calibrated(path, of).identity()["of"] == {"scorer": "random", "seed": 3}


def test_the_store_and_close_reach_the_inner_scorer(file, tmp_path):
    inside = FixedScorer(1.0, 2.0)
    scorer = Calibrated(file, inside)
    scorer.use_store(tmp_path / "s.sqlite")
    scorer.close()
    assert inside.stores == [tmp_path / "s.sqlite"] and inside.closed == 1
    result = scorer.identity()
    assert (result["temperature"], result["fitted_on"], result["of"]) == (2, "0123", inside.identity())


def test_a_key_to_a_server_is_not_written_into_the_file():
    assert spec_mapping("self-rewarding,api_key=secret,votes=3") == {"scorer": "self-rewarding", "votes": 3}


@pytest.mark.parametrize(
    "text, message",
    [
        ("{", "not a file of assay calibrate"),
        ("[1]", "not a file of assay calibrate"),
        ('{"temperature": 1}', "not a file of assay calibrate"),
        ("[" * 100_000, "not a file of assay calibrate"),
        (file_text(temperature=0), "a number above 0"),
        (file_text(temperature=10**400), "a number above 0"),
        (file_text(temperature=math.nan), "a number above 0"),
        (file_text(temperature=True), "temperature is of type int or float, not True"),
        (file_text(rows="many"), "rows is of type int"),
        (file_text(identity=[]), r"identity is of type dict, not \[\]"),
        (file_text(scorer=5), "scorer is of type dict, not 5"),
        (file_text(scorer={"model": "m"}), "its scorer has no name"),
        (file_text(scorer={"scorer": ["length"]}), "its scorer has no name"),
        (file_text(assay=None), "assay is of type str"),
    ],
)
def test_an_invalid_file_cannot_run(tmp_path, text, message):
    (tmp_path / "t.json").write_text(text)
    with pytest.raises(CannotRun, match=message) as refused:
        read_calibration(tmp_path / "t.json")
    assert str(tmp_path / "t.json") in str(refused.value)
    with pytest.raises(CannotRun, match="cannot be read"):
        read_calibration(tmp_path / "none.json")
    with pytest.raises(CannotRun, match="needs file="):
        Calibrated()


def test_a_file_that_names_itself_is_refused(tmp_path):
    path = tmp_path / "t.json"
    path.write_text(file_text(scorer={"scorer": "calibrated", "file": str(path)}))
    with pytest.raises(CannotRun, match="its scorer is calibrated too"):
        Calibrated(path)
    member = {"scorer": "calibrated", "file": str(path)}
    path.write_text(file_text(scorer={"scorer": "panel", "members": [member, member]}))
    with pytest.raises(CannotRun, match="sets members="):
        Calibrated(path)


@pytest.mark.parametrize(
    "key, value",
    [
        ("remote_code", True),
        ("remote-code", True),
        ("base_url", "http://elsewhere/v1"),
        ("reference_base_url", "http://elsewhere/v1"),
        ("api_key", "from_file"),
        ("engine.trust_remote_code", True),
        ("store", "/anywhere"),
        ("members", "panel.yaml"),
        ("anything", [{"scorer": "length"}]),
    ],
)
def test_untrusted_settings_are_not_accepted_from_the_file(tmp_path, monkeypatch, key, value):
    built = []

    def build(name, **settings):
        built.append(settings)
        return FixedScorer()

    monkeypatch.setattr("judges.scorers.nested.load_scorer", build)
    path = write_file(tmp_path / "t.json", FixedScorer().identity(), {"scorer": "fixed", "version": 1, key: value})
    key = key.replace("-", "_")
    with pytest.raises(CannotRun, match=rf"sets {key}.*give it yourself: calibrated,file=.*,{key}=…") as refused:
        Calibrated(path)
    assert not built and "from_file" not in str(refused.value)
    Calibrated(path, **{key: "given"})
    Calibrated(path, {"scorer": "fixed", key: value})
    assert built == [{"version": 1, key: "given"}, {key: value}]


def test_a_file_with_a_setting_called_name_is_refused(tmp_path):
    path = write_file(tmp_path / "t.json", {"scorer": "length"}, {"scorer": "length", "name": "random"})
    with pytest.raises(CannotRun, match="no setting name"):
        Calibrated(path)


def test_a_calibrated_scorer_is_measured_with_its_own_preference(tmp_path):
    path = write_file(tmp_path / "t.json", {"scorer": "length"}, {"scorer": "length"}, temperature=25.0)
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
