import subprocess
import sys
import zipfile

import pytest
import yaml
from conftest import ROOT

from judges.catalog import FOLDER, find, known_models, read_file, read_folder
from judges.errors import CannotRun
from judges.extraction import extract_score
from judges.scorer import REGISTRY, load_scorer, parse_spec
from judges.types import Failure, Scale

GOOD = {
    "name": "mine",
    "models": ["me/mine"],
    "kind": "bradley-terry",
    "spec": "bradley-terry,model={model}",
    "supported": True,
    "missing": [],
    "remote_code": False,
    "max_length": 512,
    "license": "MIT [1]",
    "quirks": ["It is small. [1, 2]", "Its age. (unverified)", "It is read at its last token. (Assay)"],
    "tried": False,
    "sources": ["https://example.org/a", "https://example.org/b"],
}


def written(folder, changes, name="mine"):
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(GOOD | {"name": name} | changes))
    return path


def assay(*args):
    command = [sys.executable, "-c", "from judges.cli import main; main()", *args]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


@pytest.mark.parametrize(
    ("hub_id", "name"),
    [
        ("Skywork/Skywork-Reward-Llama-3.1-8B-v0.2", "skywork-reward"),
        ("Skywork/Skywork-Reward-V2-Llama-3.1-8B", "skywork-reward-v2"),
        ("RLHFlow/ArmoRM-Llama3-8B-v0.1", "armorm"),
        ("sfairXC/FsfairX-LLaMA3-RM-v0.1", "fsfairx"),
        ("internlm/internlm2-1_8b-reward", "internlm2-reward"),
        ("internlm/internlm2-7b-reward", "internlm2-reward"),
        ("internlm/internlm2-20b-reward", "internlm2-reward"),
        ("Ray2333/GRM-Llama3-8B-rewardmodel-ft", "grm-rewardmodel-ft"),
        ("Ray2333/GRM-llama3-8B-sftreg", "grm-sftreg"),
        ("Ray2333/GRM-Llama3-8B-sftreg", "grm-sftreg"),  # the hub's own spelling differs in case
        ("nicolinho/QRM-Llama3.1-8B-v2", "qrm"),
        ("prometheus-eval/prometheus-7b-v2.0", "prometheus-2"),
        ("ankner/Llama3-8B-CLoud-RM", "cloud"),
        ("Skywork/Skywork-Critic-Llama-3.1-8B", "skywork-critic"),
        ("GAIR/autoj-13b", "auto-j"),
    ],
)
def test_a_hub_id_finds_its_model(hub_id, name):
    assert find(hub_id).name == name


@pytest.mark.parametrize("other", ["", "GAIR", "autoj-13b", "auto-j", "GAIR/autoj-13b-x"])
def test_what_is_no_hub_id_of_theirs_finds_nothing(other):
    assert find(other) is None


def test_every_file_is_read_and_none_claims_to_be_tried():
    models = known_models()
    assert len(models) == 12 and [k.name for k in models] == sorted(k.name for k in models)
    assert not any(k.tried for k in models)
    assert {k.name for k in models if k.supported} == {
        "fsfairx",
        "grm-rewardmodel-ft",
        "skywork-reward",
        "skywork-reward-v2",
    }


def test_a_caller_who_changes_the_list_changes_only_that_list():
    known_models().clear()
    assert known_models()


@pytest.mark.parametrize("known", known_models(), ids=lambda k: k.name)
def test_a_spec_is_one_that_assay_takes(known):
    name, settings = parse_spec(known.spec_for(known.models[0]))
    assert settings["model"] == known.models[0]
    assert (name == "bradley-terry") == (known.kind == "bradley-terry")
    if known.kind == "bradley-terry":
        assert settings.get("max_length") == known.max_length
        load_scorer(name, **settings).close()  # every setting is known; weights are loaded only when scoring
    elif known.supported:
        assert name in REGISTRY


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"colour": "red"}, "unknown key colour"),
        ({1: "red"}, "unknown key 1"),
        ({"supported": "partly"}, "supported is true or false"),
        ({"tried": 0}, "tried is true or false"),
        ({"max_length": True}, "max_length"),
        ({"max_length": 0}, "max_length"),
        ({"models": []}, "models is empty"),
        ({"models": "me/mine"}, "models is not a list"),
        ({"models": ["mine"]}, "'mine' is not a hub id"),
        ({"models": ["me/mine", "me/mine"]}, "models holds a text twice"),
        ({"quirks": [{"A verdict": "four"}]}, "quirks is not a list of texts"),
        ({"license": " "}, "license is not a text"),
        ({"kind": "classifier"}, "kind is bradley-terry or judge"),
        ({"spec": "bradley-terry,model=me/mine"}, "{model}"),
        ({"spec": "bradley-terry,model={model},remote_code=true"}, "remote_code must agree"),
        ({"remote_code": True}, "remote_code must agree"),
        ({"supported": False}, "missing says"),
        ({"missing": ["Much."]}, "missing says"),
        ({"quirks": ["It is small."]}, "no source"),
        ({"quirks": ["It is small [1]."]}, "no source"),
        ({"quirks": ["It is small. [1, 3]"]}, "no such source"),
        ({"quirks": ["It is small. [0]"]}, "no such source"),
        ({"license": "MIT [3]"}, "no such source"),
    ],
)
def test_a_wrong_file_is_refused_by_name(tmp_path, changes, told):
    path = written(tmp_path, changes)
    with pytest.raises(CannotRun) as error:
        read_file(path)
    assert str(error.value).startswith(f"{path}: ") and told in str(error.value)


def test_a_right_file_is_read_as_it_stands(tmp_path):
    known = read_file(written(tmp_path, {}))
    assert known.models == ("me/mine",) and known.max_length == 512 and known.missing == ()
    assert known.spec_for("me/other") == "bradley-terry,model=me/other"
    assert read_file(written(tmp_path, {"max_length": None})).max_length is None


@pytest.mark.parametrize("key", GOOD)
def test_every_key_must_be_there(tmp_path, key):
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump({k: v for k, v in GOOD.items() if k != key}))
    with pytest.raises(CannotRun, match=rf"mine\.yaml: {key} missing"):
        read_file(path)


@pytest.mark.parametrize("text", [b"", b"- a\n", b"a: b: c\n", b"\xff\n"])
def test_what_is_no_mapping_is_refused_by_name(tmp_path, text):
    path = tmp_path / "mine.yaml"
    path.write_bytes(text)
    with pytest.raises(CannotRun, match=r"mine\.yaml: "):
        read_file(path)


def test_a_name_is_its_files_and_a_hub_id_is_one_files_only(tmp_path):
    written(tmp_path, {}, "first")
    path = written(tmp_path, {"models": ["ME/Mine"]}, "second")
    with pytest.raises(CannotRun, match=r"second\.yaml: ME/Mine is in first\.yaml already"):
        read_folder(tmp_path)
    path.write_text(yaml.safe_dump({**GOOD, "models": ["me/other"]}))
    with pytest.raises(CannotRun, match=r"second\.yaml: name is 'mine'"):
        read_folder(tmp_path)


def test_what_the_files_say_of_extraction_holds():
    prometheus = extract_score("Feedback: It is right. [RESULT] 4", Scale(1, 5, 1), "[RESULT]")
    assert isinstance(prometheus, Failure) and prometheus.reason == "missing"
    assert extract_score("It is right.\nRating: [[5]]", Scale(1, 10, 1), "Rating:") == 5


def test_what_the_files_say_of_transformers_holds():
    from transformers.models.llama import modeling_llama

    assert not hasattr(modeling_llama, "LLAMA_INPUTS_DOCSTRING")


def test_list_names_every_model():
    told = assay("models", "list")
    assert told.returncode == 0, told.stderr
    for known in known_models():
        assert {known.name, known.models[0]} <= set(told.stdout.split())


def test_show_puts_the_hub_id_that_was_asked_for_into_the_spec():
    told = assay("models", "show", "internlm/internlm2-20b-reward")
    assert told.returncode == 0, told.stderr
    assert "bradley-terry,model=internlm/internlm2-20b-reward,dtype=float16,remote_code=true" in told.stdout
    assert "supported    no" in told.stdout and "92527" in told.stdout and "(unverified)" in told.stdout
    assert "https://huggingface.co/internlm/internlm2-7b-reward/blob/main/config.json" in told.stdout
    assert "skywork-reward\n" in assay("models", "show", "skywork-reward").stdout


def test_show_of_an_unknown_model_tells_what_there_is():
    told = assay("models", "show", "nobody/nothing")
    assert told.returncode == 2 and told.stdout == ""
    assert told.stderr.startswith("assay: no known model 'nobody/nothing'; there are armorm,")


@pytest.mark.parametrize("command", ["list", "show"])
def test_the_commands_have_help_with_an_example(command):
    assert f"Example: assay models {command}" in assay("models", command, "--help").stdout


def test_the_wheel_carries_every_file(tmp_path):
    command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", tmp_path, ROOT]
    subprocess.run(command, check=True, capture_output=True)
    inside = zipfile.ZipFile(next(tmp_path.glob("assay-*.whl"))).namelist()
    assert {f"judges/known/{path.name}" for path in FOLDER.glob("*.yaml")} <= set(inside)
