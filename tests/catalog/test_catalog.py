import subprocess
import sys
import zipfile

import pytest
import yaml
from conftest import ROOT

from judges.catalog import FOLDER, catalog_entries, find_entry, read_file, read_folder
from judges.errors import CannotRun
from judges.extraction import extract_score
from judges.scorer import SCORERS, load_scorer, parse_spec
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


def write_entry(folder, changes, name="mine"):
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
def test_a_hub_id_finds_its_entry(hub_id, name):
    assert find_entry(hub_id).name == name


@pytest.mark.parametrize("other", ["", "GAIR", "autoj-13b", "auto-j", "GAIR/autoj-13b-x"])
def test_another_text_finds_no_entry(other):
    assert find_entry(other) is None


def test_every_file_is_valid_and_none_is_marked_as_tried():
    models = catalog_entries()
    assert len(models) == 12 and [k.name for k in models] == sorted(k.name for k in models)
    assert not any(k.tried for k in models)
    assert {k.name for k in models if k.supported} == {
        "fsfairx",
        "grm-rewardmodel-ft",
        "skywork-reward",
        "skywork-reward-v2",
    }


@pytest.mark.parametrize("entry", catalog_entries(), ids=lambda k: k.name)
def test_every_spec_can_be_loaded(entry):
    name, settings = parse_spec(entry.spec_for(entry.models[0]))
    assert settings["model"] == entry.models[0]
    assert (name == "bradley-terry") == (entry.kind == "bradley-terry")
    if entry.kind == "bradley-terry":
        assert settings.get("max_length") == entry.max_length
        load_scorer(name, **settings).close()  # every setting is entry; weights are loaded only when scoring
    elif entry.supported:
        assert name in SCORERS


@pytest.mark.parametrize(
    ("changes", "message"),
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
        ({"models": ["me/mine", "me/mine"]}, "models has a text twice"),
        ({"quirks": [{"A verdict": "four"}]}, "quirks is not a list of texts"),
        ({"license": " "}, "license is not a text"),
        ({"kind": "classifier"}, "kind is bradley-terry or judge"),
        ({"spec": "bradley-terry,model=me/mine"}, "{model}"),
        ({"spec": "bradley-terry,model={model},remote_code=true"}, "remote_code must agree"),
        ({"remote_code": True}, "remote_code must agree"),
        ({"supported": False}, "missing lists"),
        ({"missing": ["Much."]}, "missing lists"),
        ({"quirks": ["It is small."]}, "no source"),
        ({"quirks": ["It is small [1]."]}, "no source"),
        ({"quirks": ["It is small. [1, 3]"]}, "no such source"),
        ({"quirks": ["It is small. [0]"]}, "no such source"),
        ({"license": "MIT [3]"}, "no such source"),
    ],
)
def test_an_invalid_file_is_refused_with_its_name(tmp_path, changes, message):
    path = write_entry(tmp_path, changes)
    with pytest.raises(CannotRun) as error:
        read_file(path)
    assert str(error.value).startswith(f"{path}: ") and message in str(error.value)


def test_a_valid_file_is_read(tmp_path):
    entry = read_file(write_entry(tmp_path, {}))
    assert entry.models == ("me/mine",) and entry.max_length == 512 and entry.missing == ()
    assert entry.spec_for("me/other") == "bradley-terry,model=me/other"
    assert read_file(write_entry(tmp_path, {"max_length": None})).max_length is None


@pytest.mark.parametrize("key", GOOD)
def test_every_key_is_required(tmp_path, key):
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump({k: v for k, v in GOOD.items() if k != key}))
    with pytest.raises(CannotRun, match=rf"mine\.yaml: {key} missing"):
        read_file(path)


@pytest.mark.parametrize("text", [b"", b"- a\n", b"a: b: c\n", b"\xff\n"])
def test_a_file_without_a_mapping_is_refused_with_its_name(tmp_path, text):
    path = tmp_path / "mine.yaml"
    path.write_bytes(text)
    with pytest.raises(CannotRun, match=r"mine\.yaml: "):
        read_file(path)


def test_a_name_is_the_files_and_a_hub_id_is_in_one_file_only(tmp_path):
    write_entry(tmp_path, {}, "first")
    path = write_entry(tmp_path, {"models": ["ME/Mine"]}, "second")
    with pytest.raises(CannotRun, match=r"second\.yaml: ME/Mine is in first\.yaml already"):
        read_folder(tmp_path)
    path.write_text(yaml.safe_dump({**GOOD, "models": ["me/other"]}))
    with pytest.raises(CannotRun, match=r"second\.yaml: name is 'mine'"):
        read_folder(tmp_path)


def test_the_quirks_about_extraction_are_true():
    prometheus = extract_score("Feedback: It is right. [RESULT] 4", Scale(1, 5, 1), "[RESULT]")
    assert isinstance(prometheus, Failure) and prometheus.reason == "missing"
    assert extract_score("It is right.\nRating: [[5]]", Scale(1, 10, 1), "Rating:") == 5


def test_the_quirk_about_transformers_is_true():
    from transformers.models.llama import modeling_llama

    assert not hasattr(modeling_llama, "LLAMA_INPUTS_DOCSTRING")


def test_list_prints_every_entry():
    result = assay("models", "list")
    assert result.returncode == 0, result.stderr
    for entry in catalog_entries():
        assert {entry.name, entry.models[0]} <= set(result.stdout.split())


def test_show_prints_the_spec_with_the_given_hub_id():
    result = assay("models", "show", "internlm/internlm2-20b-reward")
    assert result.returncode == 0, result.stderr
    assert "bradley-terry,model=internlm/internlm2-20b-reward,dtype=float16,remote_code=true" in result.stdout
    assert "supported    no" in result.stdout and "92527" in result.stdout and "(unverified)" in result.stdout
    assert "https://huggingface.co/internlm/internlm2-7b-reward/blob/main/config.json" in result.stdout
    assert "skywork-reward\n" in assay("models", "show", "skywork-reward").stdout


def test_show_of_an_unknown_model_lists_the_entries():
    result = assay("models", "show", "nobody/nothing")
    assert result.returncode == 2 and result.stdout == ""
    assert result.stderr.startswith("assay: unknown model 'nobody/nothing'") and "armorm, auto-j" in result.stderr


@pytest.mark.parametrize("command", ["list", "show"])
def test_the_commands_have_help_with_an_example(command):
    assert f"Example: assay models {command}" in assay("models", command, "--help").stdout


def test_the_wheel_has_every_file(tmp_path):
    command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", tmp_path, ROOT]
    subprocess.run(command, check=True, capture_output=True)
    inside = zipfile.ZipFile(next(tmp_path.glob("assay-*.whl"))).namelist()
    assert {f"judges/catalog/{path.name}" for path in FOLDER.glob("*.yaml")} <= set(inside)
