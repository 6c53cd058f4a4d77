"""What an output was made with, beside it: the same command goes on, another one is refused."""

from __future__ import annotations

import fcntl
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from judges.errors import CannotRun

# What only reads a completion: --reread may change it and keep the completions.
READING = ("template", "read", "force", "combine", "mapping")
FITTED = ("temperature", "fitted_on")  # of a calibrated scorer, beside that; a judge's temperature writes


@contextmanager
def alone(beside: Path, output: str) -> Iterator[None]:
    """Hold the run's folder for this process. Raises CannotRun where another run has it."""
    try:
        beside.mkdir(parents=True, exist_ok=True)
        lock = open(beside / "lock", "w")
    except OSError as error:
        raise CannotRun(f"{output}: cannot be written: {error}") from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise CannotRun(f"{output} is being written by another run") from error
        yield


def check(manifest: Path, now: Mapping[str, Any], output: str, reread: bool = False) -> bool:
    """Whether a manifest is there and says the same (`reread`: of how completions are read, it need not).

    Raises CannotRun where it says something else.
    """
    if not manifest.exists():
        return False
    try:
        before = json.loads(manifest.read_text(encoding="utf-8"))
    except ValueError as error:
        raise CannotRun(f"{manifest}: not a manifest; give another -o or remove it") from error
    if reread:
        before, now = _without_reading(before), _without_reading(now)
    changed = ", ".join(
        f"{key}: {before.get(key)!r} then, {now.get(key)!r} now"
        for key in sorted(before.keys() | now.keys())
        if before.get(key) != now.get(key)
    )
    if changed:
        raise CannotRun(f"{output} was made with other settings ({changed}); give another -o or remove it")
    return True


def _without_reading(told: Any) -> Any:
    """Also of a panel's members, and of the scorer that another is made of."""
    if isinstance(told, list):
        return [_without_reading(one) for one in told]
    if not isinstance(told, Mapping):
        return told
    free = READING + FITTED if told.get("scorer") == "calibrated" else READING
    return {key: _without_reading(value) for key, value in told.items() if key not in free}


def write(manifest: Path, now: Mapping[str, Any]) -> None:
    """Write it whole, by one rename."""
    part = manifest.with_suffix(".part")
    part.write_text(json.dumps(now, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    part.replace(manifest)
