"""Scorers, engines and any other registry find what other distributions add, and say whose fault a failure is."""

from __future__ import annotations

import subprocess
import sys

import pytest

from judges import CannotRun, Item, load_scorer
from judges.engines.registry import ENGINES, open_engine, release
from judges.plugins import Registry
from judges.scorer import SCORERS

MODULE = """
from judges.engines.base import Engine
from judges.scorer import Scorer
from judges.scorers.baselines import Length

class Shout(Length):
    name = "shout"

def build(loud: int = 1) -> Scorer:
    return Shout()

def number() -> int:
    return 3

class Echo(Engine):
    name = "echo"

    def __init__(self, model: str) -> None:
        self.model = model

    async def complete(self, request):
        raise NotImplementedError

    async def log_likelihood(self, messages, prefix, continuation, partial=None):
        raise NotImplementedError

VALUE = 3
"""


@pytest.fixture
def install(tmp_path, monkeypatch):
    """Install a distribution as pip would leave it: modules, and a dist-info folder with its entry points."""
    monkeypatch.syspath_prepend(tmp_path)
    for registry in (SCORERS, ENGINES):
        monkeypatch.delitem(registry.__dict__, "_plugins", raising=False)

    def installed(distribution: str, entry_points: dict[str, dict[str, str]], module: str = MODULE) -> None:
        (tmp_path / f"{distribution}.py").write_text(module)
        folder = tmp_path / f"{distribution}-1.0.dist-info"
        folder.mkdir()
        (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.0\n")
        lines = [
            line
            for group, entries in entry_points.items()
            for line in (f"[{group}]", *(f"{name} = {target}" for name, target in entries.items()))
        ]
        (folder / "entry_points.txt").write_text("\n".join(lines) + "\n")

    yield installed
    for registry in (SCORERS, ENGINES):
        registry.__dict__.pop("_plugins", None)


def test_a_scorer_of_another_distribution_loads_by_name(install, capsys):
    install("loud_judges", {"assay.scorers": {"shout": "loud_judges:Shout", "built": "loud_judges:build"}})
    for name in ("shout", "built"):
        with load_scorer(name) as scorer:
            assert scorer.score([Item(id="a", prompt="Hi", responses=["four"])])[0].judgments[0].score == 4.0
    assert SCORERS.names()[-2:] == ["built", "shout"] and "shout" in SCORERS
    with pytest.raises(
        CannotRun, match=r"unknown scorer 'shuot'; did you mean 'shout'\? Known: bradley-terry, .*shout"
    ):
        load_scorer("shuot")
    assert capsys.readouterr().err == ""


def test_an_engine_of_another_distribution_opens_by_name(install):
    install("echoes", {"assay.engines": {"echo": "echoes:Echo", "wrong": "echoes:number"}})
    engine = open_engine("echo", "m")
    assert (engine.name, engine.model) == ("echo", "m")
    release(engine)
    with pytest.raises(CannotRun, match=r"^engine 'wrong' of distribution 'echoes' is .*not a subclass of Engine"):
        open_engine("wrong", "m")
    with pytest.raises(CannotRun, match=r"^unknown engine 'vlm'; did you mean 'vllm'\? Known: vllm, .*echo"):
        open_engine("vlm", "m")


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("broken:VALUE", "cannot be imported: ModuleNotFoundError: No module named 'nowhere'"),
        ("broken_b:missing", "cannot be imported: AttributeError: .*'missing'"),
        ("broken_b:VALUE", "is 3, not a Scorer's class or a function that returns a Scorer"),
        ("broken_b:Echo", "is <class 'broken_b.Echo'>, not a Scorer's class"),
        ("broken_b:number", "returned a int, not a Scorer"),
    ],
)
def test_a_plugin_that_does_not_work_is_named_and_the_others_work(install, target, message):
    install("broken", {"assay.scorers": {"bad": target}}, "import nowhere")
    install("broken_b", {"assay.scorers": {"good": "broken_b:Shout"}})
    with pytest.raises(CannotRun, match=f"^scorer 'bad' of distribution 'broken' {message}") as raised:
        load_scorer("bad")
    assert "\n" not in str(raised.value)
    load_scorer("good").close()
    load_scorer("length").close()


def test_a_name_that_is_taken_stays_with_its_first_owner_and_is_reported_once(install, capsys):
    install("first", {"assay.scorers": {"length": "first:VALUE", "shout": "first:Shout"}})
    install("second", {"assay.scorers": {"shout": "second:VALUE", "whisper": "second:Shout"}})
    for name in ("length", "shout", "whisper", "length"):
        load_scorer(name).close()
    assert SCORERS.distribution("shout") == "first" and SCORERS.distribution("length") is None
    assert capsys.readouterr().err.splitlines() == [
        "assay: scorer 'length' of distribution 'first' is ignored: the name is already built in",
        "assay: scorer 'shout' of distribution 'second' is ignored: the name is already provided by "
        "distribution 'first'",
    ]


def test_plugins_are_imported_only_when_loaded(install):
    install("quiet_one", {"assay.scorers": {"shout": "quiet_one:Shout"}})
    load_scorer("length").close()
    assert "shout" in SCORERS.names() and "quiet_one" not in sys.modules


def test_no_entry_points_are_read_by_an_import():
    code = "import sys, judges.cli; from judges.scorer import SCORERS; sys.exit('_plugins' in vars(SCORERS))"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_builtins_of_a_registry_can_be_any_object():
    numbers = Registry("number", "assay.no-such-group", {"tau": "math:tau"})
    assert numbers.names() == ["tau"] and numbers.load("tau") > 6
    with pytest.raises(CannotRun, match=r"^unknown number 'x'\. Known: tau$"):
        numbers.load("x")
