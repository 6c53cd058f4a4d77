"""An ensemble's score is the mean of its members' rewards, which are its votes; the conservative score is lower."""

from __future__ import annotations

import statistics

import pytest
from classic_rm_rows import rows

from classic_rm.ensemble import ensemble_members, write_ensemble
from classic_rm.model import read_statistics
from classic_rm.settings import ModelSettings, TrainingSettings
from classic_rm.training import train
from judges import load_scorer
from judges.errors import CannotRun

ITEMS = [item for _, item in rows(6)]


@pytest.fixture(scope="module")
def ensemble(tiny_decoder, tmp_path_factory):
    folder = tmp_path_factory.mktemp("many") / "rm"
    settings = TrainingSettings(
        start=ModelSettings(base=str(tiny_decoder)), epochs=2, learning_rate=2e-3, max_length=128
    )
    for i in range(3):
        train(rows(), settings, folder / f"member-{i}", member=i)
    write_ensemble(folder, [f"member-{i}" for i in range(3)])
    return folder


def scores(model, **more):
    with load_scorer("bradley-terry", model=str(model), **more) as scorer:
        return [judgment for card in scorer.score(ITEMS) for judgment in card.judgments]


def test_the_mean_and_the_votes_are_the_members_each_from_its_own_mean(ensemble):
    members = [scores(folder) for folder in ensemble_members(ensemble)]
    means = [read_statistics(folder)["mean"] for folder in ensemble_members(ensemble)]
    for judgment, *each in zip(scores(ensemble), *members, strict=True):
        expected = [member.score - mean for member, mean in zip(each, means, strict=True)]
        assert judgment.votes == pytest.approx(expected, abs=1e-5)
        assert judgment.score == pytest.approx(statistics.fmean(expected), abs=1e-5)
        assert statistics.pstdev(expected) > 0


def test_the_conservative_score_is_the_mean_less_k_deviations(ensemble):
    for neutral, careful in zip(scores(ensemble), scores(ensemble, conservative=2.0), strict=True):
        assert careful.votes == neutral.votes
        assert careful.score == pytest.approx(neutral.score - 2 * statistics.pstdev(neutral.votes), abs=1e-6)


def test_members_differ_and_share_their_held_out_rows(ensemble):
    first, second = (read_statistics(folder) for folder in ensemble_members(ensemble)[:2])
    assert first["mean"] != second["mean"] and first["responses"] == second["responses"]


def test_heads_on_one_backbone_are_an_ensemble_too(tiny_decoder, tmp_path):
    start = ModelSettings(base=str(tiny_decoder), heads=3)
    settings = TrainingSettings(start=start, epochs=2, learning_rate=2e-3, max_length=128)
    train(rows(), settings, tmp_path / "rm")
    found = scores(tmp_path / "rm", conservative=1.0)
    assert all(len(j.votes) == 3 and len(set(j.votes)) == 3 for j in found)
    assert all(j.score < statistics.fmean(j.votes) for j in found)


def test_a_missing_member_is_named(ensemble, tmp_path):
    import shutil

    shutil.copytree(ensemble, tmp_path / "rm")
    shutil.rmtree(tmp_path / "rm" / "member-1")
    with pytest.raises(CannotRun, match="member-1"):
        load_scorer("bradley-terry", model=str(tmp_path / "rm"))
