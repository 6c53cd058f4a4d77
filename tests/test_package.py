"""What a user gets who installs the wheel in an empty environment."""

import json
import subprocess
import sys
import sysconfig
import zipfile

import pytest
from conftest import ROOT


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", folder, ROOT]
    subprocess.run(command, check=True, capture_output=True)
    return next(folder.glob("assay-*.whl"))


def test_the_wheel_finds_its_templates_and_its_demonstration_set(wheel, tmp_path):
    zipfile.ZipFile(wheel).extractall(tmp_path)
    code = (
        "import judges.template as t; from judges.evaluation.benchmarks import load_benchmark;"
        "print(t.template_names(), len(load_benchmark('demo').items), t.load_template('self-rewarding').path)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    written = sorted(path.stem for path in (ROOT / "prompts").glob("*.md"))
    assert "self-rewarding" in written and result.stdout.startswith(f"{written} 102 {tmp_path}")


def test_the_import_notices_the_unrelated_package_of_the_same_name(wheel, tmp_path):
    zipfile.ZipFile(wheel).extractall(tmp_path)
    other = tmp_path / "judges-0.1.0.dist-info"
    other.mkdir()
    (other / "METADATA").write_text("Metadata-Version: 2.1\nName: judges\nVersion: 0.1.0\n")
    result = subprocess.run([sys.executable, "-c", "import judges"], capture_output=True, text=True, cwd=tmp_path)
    assert result.returncode == 1 and "unrelated package 'judges'" in result.stderr


@pytest.fixture(scope="module")
def environment(wheel, tmp_path_factory):
    """An empty virtual environment with the wheel and the example plugin; dependencies are those of the tests."""
    folder = tmp_path_factory.mktemp("environment")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    python = folder / "bin" / "python"
    plugin = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", folder, ROOT / "examples" / "plugin"]
    subprocess.run(plugin, check=True, capture_output=True)
    wheels = [wheel, *folder.glob("assay_word_count-*.whl")]
    install = [sys.executable, "-m", "pip", "--python", python, "install", "-q", "--no-deps", *wheels]
    subprocess.run(install, check=True, capture_output=True)
    site_packages = next(folder.glob("lib/python*/site-packages"))
    (site_packages / "dependencies.pth").write_text(f"{sysconfig.get_path('purelib')}\n")
    return python


def run_in(environment, *arguments, cwd):
    return subprocess.run([environment, *arguments], capture_output=True, text=True, cwd=cwd)


def test_a_strict_type_checker_sees_the_types_of_the_installed_package(environment, tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        "from judges import Item, load_scorer\n"
        "from judges.extraction import extract_score\n\n"
        "with load_scorer('length') as scorer:\n"
        "    card = scorer.score([Item(id='a', prompt='Hi', responses=['four'])])[0]\n"
        "reveal_type(card.judgments[0].score)\n"
        "reveal_type(extract_score)\n"
    )
    mypy = [sys.executable, "-m", "mypy", "--strict", "--cache-dir", tmp_path / "cache"]
    command = [*mypy, "--python-executable", environment, script]
    result = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert result.returncode == 0, result.stdout
    assert '"float | None"' in result.stdout and "judges.types.Failure" in result.stdout


def test_an_installed_plugin_is_found_by_name(environment, tmp_path):
    (tmp_path / "rows.jsonl").write_text('{"prompt": "Hi", "response": "two words"}\n')
    command = ["score", "rows.jsonl", "--scorer", "word-count,target=5", "-o", "out.jsonl"]
    result = run_in(environment, "-m", "judges.cli", *command, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert json.loads((tmp_path / "out.jsonl").read_text())["score"] == -3.0
    unknown = run_in(
        environment, "-m", "judges.cli", "score", "rows.jsonl", "--scorer", "word-cout", "-o", "x.jsonl", cwd=tmp_path
    )
    assert unknown.returncode == 2 and "did you mean 'word-count'?" in unknown.stderr
