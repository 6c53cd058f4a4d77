"""The HTML page of a run: one self-contained file with a strict Content-Security-Policy."""

from __future__ import annotations

import base64
import hashlib
import html
from importlib.resources import files
from pathlib import Path

from judges.evaluation.report.data import page_data, script_json
from judges.evaluation.results import read_run

# The order matters: a script uses those before it.
SCRIPTS = ("dom.js", "tables.js", "charts.js", "panels.js", "scores.js", "judgment.js", "explorer.js", "report.js")


def write_report(folder: Path, output: Path | None = None) -> Path:
    """Write report.html for the run in `folder`, into `output` or else into `folder`, and return its path.

    Published scores are shown in a table section of their own where the run requested them. Raises CannotRun where
    `folder` holds no run, or one of the run's files ends in the middle of a line.
    """
    run = read_run(folder)
    data = page_data(folder, run)
    path = (output or folder) / "report.html"
    names = ", ".join(benchmark.title for benchmark in run.benchmarks)
    page = assemble_page(f"Assay report: {names}", script_json(data["run"]), script_json(data["explorer"]))
    write_atomically(path, page)
    return path


def assemble_page(title: str, run: str, explorer: str) -> str:
    """The text of the page. `run` and `explorer` are JSON from `script_json`.

    The policy permits only the page's own script and style, by their hashes. Nothing else may run or load, and no
    connection may be opened.
    """
    script = '"use strict";\n{\n' + "\n".join(read_page_file(name) for name in SCRIPTS) + "\n}\n"
    style = read_page_file("style.css")
    parts = {
        "title": html.escape(title),
        "policy": content_security_policy(style, script),
        "style": style,
        "script": script,
        "run": run,
        "explorer": explorer,
    }
    page = read_page_file("template.html")
    for name in parts:
        if page.count(f"%%{name}%%") != 1:
            raise ValueError(f"template.html must contain %%{name}%% exactly once")
    # The template is split before anything is inserted, so a placeholder inside a text of the run stays as it is.
    pieces = page.split("%%")
    return "".join(parts[piece] if i % 2 else piece for i, piece in enumerate(pieces))


def content_security_policy(style: str, script: str | None = None) -> str:
    """A Content-Security-Policy that permits one inline style and at most one inline script, by their hashes."""
    scripts = "'none'" if script is None else f"'sha256-{_sha256(script)}'"
    return (
        f"default-src 'none'; script-src {scripts}; style-src 'sha256-{_sha256(style)}'; "
        "img-src data:; connect-src 'none'; base-uri 'none'; form-action 'none'"
    )


def read_page_file(name: str) -> str:
    """The text of a file of the folder `page`."""
    return files("judges.evaluation.report").joinpath("page", name).read_text(encoding="utf-8")


def write_atomically(path: Path, text: str) -> None:
    """Write a file under a temporary name and rename it, so that a partly written file is never at `path`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    part.write_text(text, encoding="utf-8", errors="backslashreplace", newline="")
    part.replace(path)


def _sha256(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
