"""Well-known reward models and judges: how Assay runs them, and what to beware of. One YAML file each.

Facts are kept with their sources. A quirk ends with the numbers of its sources, with "(unverified)" where
none was found, or with "(Assay)" where it is about Assay itself.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, fields
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import yaml

from judges.errors import CannotRun

Kind = Literal["bradley-terry", "judge"]
KINDS = ("bradley-terry", "judge")
FOLDER = Path(__file__).parent
_MARK = re.compile(r"(?:\[(?P<numbers>\d+(?:, \d+)*)\]|\(unverified\)|\(Assay\))\Z")
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


@dataclass(frozen=True)
class Known:
    """A known model's file. `spec` is what to write behind --scorer, with {model} for the hub id; where
    `supported` is false it is the nearest one, and `missing` says what Assay does not do yet. `max_length`
    is the length that the authors trained, evaluated or served at, None where it is not known. `tried` says
    whether somebody has run it in Assay and compared."""

    name: str
    models: tuple[str, ...]
    kind: Kind
    spec: str
    supported: bool
    missing: tuple[str, ...]
    remote_code: bool
    max_length: int | None
    license: str
    quirks: tuple[str, ...]
    tried: bool
    sources: tuple[str, ...]

    def spec_for(self, model: str) -> str:
        """The SPEC with a model's hub id, or the folder it lies in."""
        return self.spec.replace("{model}", model)


@lru_cache(maxsize=1)
def _packaged() -> tuple[Known, ...]:
    return tuple(read_folder(FOLDER))


def known_models() -> list[Known]:
    """Every known model, by name."""
    return list(_packaged())


def find(model_name: str) -> Known | None:
    """The known model that a hub id belongs to, in any case of letters.

    >>> find("sfairXC/FsfairX-LLaMA3-RM-v0.1").name
    'fsfairx'
    >>> find("somebody/something") is None
    True
    """
    wanted = model_name.casefold()
    return next((k for k in _packaged() if wanted in (m.casefold() for m in k.models)), None)


def read_folder(folder: Path) -> list[Known]:
    """Known models of all YAML files in a folder. Raises CannotRun, naming the file, where one is wrong."""
    found = [read_file(path) for path in sorted(folder.glob("*.yaml"), key=lambda path: path.stem)]
    owner: dict[str, str] = {}
    for known in found:
        for model in known.models:
            other = owner.setdefault(model.casefold(), known.name)
            if other != known.name:
                raise CannotRun(f"{folder / known.name}.yaml: {model} is in {other}.yaml already")
    return found


def read_file(path: Path) -> Known:
    """One file, checked strictly. Raises CannotRun, naming it, for whatever is not as it should be."""
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise CannotRun(f"{path}: cannot be read: {str(error).splitlines()[0]}") from error
    wrong = _wrong(data, path.stem)
    if wrong:
        raise CannotRun(f"{path}: {wrong}")
    values: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in data.items()}
    return Known(**values)


def _wrong(data: Any, stem: str) -> str | None:
    """What is wrong with a file's content, None where nothing is."""
    if not isinstance(data, dict):
        return "not a mapping of keys to values"
    keys = [field.name for field in fields(Known)]
    if unknown := [str(key) for key in data if key not in keys]:
        return f"unknown key {', '.join(unknown)}; there are {', '.join(keys)}"
    if absent := [key for key in keys if key not in data]:
        return f"{', '.join(absent)} missing"
    for key in ("name", "kind", "spec", "license"):
        if not _is_text(data[key]):
            return f"{key} is not a text"
    for key in ("models", "missing", "quirks", "sources"):
        if not isinstance(data[key], list) or not all(_is_text(value) for value in data[key]):
            return f"{key} is not a list of texts (quote one that holds ': ')"
        if len(set(data[key])) < len(data[key]):
            return f"{key} holds a text twice"
    for key in ("supported", "remote_code", "tried"):
        if not isinstance(data[key], bool):
            return f"{key} is true or false"
    length = data["max_length"]
    if length is not None and (type(length) is not int or length < 1):
        return "max_length is a number of tokens, or null"
    return _contradiction(data, stem)


def _contradiction(data: dict[str, Any], stem: str) -> str | None:
    if data["name"] != stem:
        return f"name is {data['name']!r}; it must be the file's, {stem!r}"
    if data["kind"] not in KINDS:
        return f"kind is {' or '.join(KINDS)}, not {data['kind']!r}"
    if not data["models"]:
        return "models is empty"
    if bad := [model for model in data["models"] if not _HUB_ID.fullmatch(model)]:
        return f"{bad[0]!r} is not a hub id, OWNER/NAME"
    if data["spec"].count("{model}") != 1:
        return "spec must hold {model} once"
    if data["supported"] == bool(data["missing"]):
        return "missing says what stands in the way where supported is false, and only there"
    if data["remote_code"] != ("remote_code=true" in data["spec"]):
        return "remote_code must agree with the spec's remote_code=true"
    for text in (data["license"], *data["quirks"]):
        mark = _MARK.search(text)
        if mark is None:
            return f"no source, like [1], nor (unverified) nor (Assay) behind {text!r}"
        if any(not 1 <= int(number) <= len(data["sources"]) for number in re.findall(r"\d+", mark["numbers"] or "")):
            return f"there is no such source: {text!r}"
    return None


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip())
