import pytest
from conftest import ROOT

from judges.cli.app import COMMANDS, GROUPS
from judges.cli.reference import pages, write

FOLDER = ROOT / "docs" / "cli"


def test_the_committed_pages_are_current():
    committed = {path.name: path.read_text(encoding="utf-8") for path in FOLDER.glob("*.md")}
    assert committed == pages(), "run: make docs"


@pytest.mark.parametrize("name", [name for name, *_ in (*COMMANDS, *GROUPS)])
def test_every_command_has_a_page_with_an_example(name):
    text = pages()[f"{name}.md"]
    assert f"assay {name}" in text and "Example:" in text


def test_a_page_has_types_bounds_defaults_and_both_names_of_a_flag():
    text = pages()["train.md"]
    assert "| `--dropout` | number, 0 to 0.9 | `0.1` |" in text
    assert "| `--share-prompts`, `--no-share-prompts` | flag | on |" in text
    assert "| `--kind` | `bradley-terry` or `critique-out-loud` | `bradley-terry` |" in text
    assert "assay train FILE --output OUTPUT [OPTIONS]" in text


def test_pages_of_removed_commands_are_deleted(tmp_path):
    (tmp_path / "gone.md").write_text("old")
    write(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == set(pages())
