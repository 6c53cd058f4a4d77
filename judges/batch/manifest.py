"""The manifest of a run: the input and settings an output was made with, which a resumed run must match."""

from __future__ import annotations

import fcntl
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from judges.errors import CannotRun

# Settings that only affect how a completion is read: --reread may change them without new completions.
READING_SETTINGS = ("template", "read", "force", "combine", "mapping")
CALIBRATION_SETTINGS = (
    "temperature",
    "fitted_on",
)  # of a calibrated scorer; a judge's temperature changes its completions


@contextmanager
def lock_run_folder(run_folder: Path, output: str) -> Iterator[None]:
    """Lock the run's folder for this process. Raises CannotRun where another run has locked it."""
    try:
        run_folder.mkdir(parents=True, exist_ok=True)
        lock = open(run_folder / "lock", "w")
    except OSError as error:
        raise CannotRun(f"{output}: cannot be written: {error}") from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise CannotRun(f"{output} is being written by another run") from error
        yield


def check(manifest: Path, current: Mapping[str, Any], output: str, reread: bool = False) -> bool:
    """Whether a manifest exists. Raises CannotRun where it differs from `current`.

    With `reread`, settings that only affect how completions are read may differ.
    """
    if not manifest.exists():
        return False
    try:
        recorded = json.loads(manifest.read_text(encoding="utf-8"))
    except ValueError as error:
        raise CannotRun(f"{manifest}: not a manifest; give another -o or remove it") from error
    if reread:
        recorded, current = _without_reading_settings(recorded), _without_reading_settings(current)
    changed = ", ".join(
        f"{key}: {recorded.get(key)!r} then, {current.get(key)!r} now"
        for key in sorted(recorded.keys() | current.keys())
        if recorded.get(key) != current.get(key)
    )
    if changed:
        raise CannotRun(f"{output} was made with other settings ({changed}); give another -o or remove it")
    return True


def _without_reading_settings(identity: Any) -> Any:
    """The identity without its reading settings, including those of the scorers that a scorer is made of."""
    if isinstance(identity, list):
        return [_without_reading_settings(element) for element in identity]
    if not isinstance(identity, Mapping):
        return identity
    ignored = READING_SETTINGS + CALIBRATION_SETTINGS if identity.get("scorer") == "calibrated" else READING_SETTINGS
    return {key: _without_reading_settings(value) for key, value in identity.items() if key not in ignored}


def write(manifest: Path, current: Mapping[str, Any]) -> None:
    """Write the manifest atomically, by one rename."""
    part = manifest.with_suffix(".part")
    part.write_text(json.dumps(current, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    part.replace(manifest)
