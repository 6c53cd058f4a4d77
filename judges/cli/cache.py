"""`assay cache`: the stored completions of a run."""

from __future__ import annotations

import re
import sys
import time
from contextlib import closing, nullcontext
from datetime import datetime
from pathlib import Path
from typing import Any

from judges.data.json_lines import to_line
from judges.engines.store import Store
from judges.errors import CannotRun
from judges.evaluation.report.markdown import escape_invisible

STORES = ("completions.sqlite", "candidates.sqlite")
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}


def print_contents(path: Path) -> None:
    for file in _stores(path):
        with closing(Store(file)) as store:
            contents = store.summaries()
        print(f"{file}: {sum(part.completions for part in contents):,} completions, {_mebibytes(file.stat().st_size)}")
        for part in contents:
            name, size = escape_invisible(str(part.engine.get("model"))), f"{_mebibytes(part.size)} of text"
            print(f"  {name}  {part.completions:,}, {size}, {_format_time(part.first)} to {_format_time(part.last)}")
            print(f"    {escape_invisible(_format_settings(part.engine))}")


def export(path: Path, output: str) -> None:
    """Write every completion as a JSON line."""
    stores, count = _stores(path), 0
    if output != "-" and Path(output).exists() and any(file.samefile(output) for file in stores):
        raise CannotRun(f"-o {output} is the store itself; give another -o")
    try:
        with nullcontext(sys.stdout.buffer) if output == "-" else open(output, "wb") as out:
            for file in stores:
                with closing(Store(file)) as store:
                    for row in store.rows():
                        out.write(to_line(row))
                        count += 1
            out.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        raise CannotRun(f"{output}: cannot be written: {error.strerror}") from error
    print(f"{count:,} completions", file=sys.stderr)


def prune(path: Path, older_than: str | None, model: str | None, everything: bool) -> None:
    if older_than is None and model is None and not everything:
        raise CannotRun("nothing to prune is given: use --older-than 30d, --model NAME, both, or --all")
    before = None if older_than is None else time.time() - _seconds(older_than)
    for file in _stores(path):
        size = file.stat().st_size
        with closing(Store(file)) as store:
            deleted = store.prune(before, model)
        print(f"{file}: {deleted:,} completions deleted, {_mebibytes(size - file.stat().st_size)} freed")


def _stores(path: Path) -> list[Path]:
    """The store of a path: the file itself, those in a run's folder, or those of the run that wrote an output."""
    if path.is_file() and _header(path) == b"SQLite format 3":
        return [path]
    folders = [path, path.with_name(path.name + ".run")]
    found = [folder / name for folder in folders for name in STORES if (folder / name).is_file()]
    if not found:
        raise CannotRun(
            f"{path}: no store of completions is there; give a store, or an output of assay score or compare"
        )
    return found


def _seconds(text: str) -> float:
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([smhdw])", text)
    if match is None:
        raise CannotRun(f"--older-than {text!r} is not a number followed by s, m, h, d or w, as in 30d")
    return float(match[1]) * _UNITS[match[2]]


def _format_settings(engine: dict[str, Any]) -> str:
    shown = {key: value for key, value in engine.items() if key not in ("model", "engine_settings") and value}
    return ", ".join(f"{key} {value}" for key, value in {**shown, **(engine.get("engine_settings") or {})}.items())


def _mebibytes(size: int) -> str:
    return f"{size / 2**20:,.1f} MiB"


def _format_time(seconds: int) -> str:
    return f"{datetime.fromtimestamp(seconds):%Y-%m-%d %H:%M}"


def _header(file: Path) -> bytes:
    with open(file, "rb") as data:
        return data.read(15)
