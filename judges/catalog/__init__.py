"""A catalog of published reward models and judges: the SPEC that runs each of them, and its quirks. One YAML file each.

Every fact has its sources. A quirk ends with the numbers of its sources, with "(unverified)" where none was found, or
with "(Assay)" where it is about Assay itself.
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
_SOURCE = re.compile(r"(?:\[(?P<numbers>\d+(?:, \d+)*)\]|\(unverified\)|\(Assay\))\Z")
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


@dataclass(frozen=True)
class CatalogEntry:
    """A published model and its variants on the hub (`models`).

    `spec` is the value of --scorer, with {model} for the hub id; where `supported` is false it is the closest one, and
    `missing` lists what Assay does not implement yet. `max_length` is the number of tokens that the authors trained,
    evaluated or served at, None where it is not known. `tried` is true where the model has been run in Assay and its
    results compared with published ones.
    """

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
        """The SPEC for one of the models, by its hub id or its folder."""
        return self.spec.replace("{model}", model)


@lru_cache(maxsize=1)
def catalog_entries() -> tuple[CatalogEntry, ...]:
    """All entries, sorted by name."""
    return tuple(read_folder(FOLDER))


def find_entry(hub_id: str) -> CatalogEntry | None:
    """The entry that has a hub id, in upper or lower case; None for an unknown one.

    >>> find_entry("sfairXC/FsfairX-LLaMA3-RM-v0.1").name
    'fsfairx'
    >>> find_entry("somebody/something") is None
    True
    """
    model = hub_id.casefold()
    return next((entry for entry in catalog_entries() if model in (m.casefold() for m in entry.models)), None)


def read_folder(folder: Path) -> list[CatalogEntry]:
    """The entries of all YAML files in a folder. Raises CannotRun, with the file's name, for an invalid one."""
    entries = [read_file(path) for path in sorted(folder.glob("*.yaml"), key=lambda path: path.stem)]
    names: dict[str, str] = {}
    for entry in entries:
        for model in entry.models:
            name = names.setdefault(model.casefold(), entry.name)
            if name != entry.name:
                raise CannotRun(f"{folder / entry.name}.yaml: {model} is in {name}.yaml already")
    return entries


def read_file(path: Path) -> CatalogEntry:
    """One entry. Raises CannotRun, with the file's name, for missing, unknown and contradictory values."""
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise CannotRun(f"{path}: cannot be read: {str(error).splitlines()[0]}") from error
    if problem := _find_problem(data, path.stem):
        raise CannotRun(f"{path}: {problem}")
    values: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in data.items()}
    return CatalogEntry(**values)


def _find_problem(data: Any, stem: str) -> str | None:
    """What is wrong with a file's content; None for a valid one."""
    if not isinstance(data, dict):
        return "not a mapping of keys to values"
    keys = [field.name for field in fields(CatalogEntry)]
    if unknown := [str(key) for key in data if key not in keys]:
        return f"unknown key {', '.join(unknown)}; there are {', '.join(keys)}"
    if missing := [key for key in keys if key not in data]:
        return f"{', '.join(missing)} missing"
    for key in ("name", "kind", "spec", "license"):
        if not _is_text(data[key]):
            return f"{key} is not a text"
    for key in ("models", "missing", "quirks", "sources"):
        if not isinstance(data[key], list) or not all(_is_text(value) for value in data[key]):
            return f"{key} is not a list of texts (quote one that holds ': ')"
        if len(set(data[key])) < len(data[key]):
            return f"{key} has a text twice"
    for key in ("supported", "remote_code", "tried"):
        if not isinstance(data[key], bool):
            return f"{key} is true or false"
    length = data["max_length"]
    if length is not None and (type(length) is not int or length < 1):
        return "max_length is a number of tokens, or null"
    return _find_contradiction(data, stem)


def _find_contradiction(data: dict[str, Any], stem: str) -> str | None:
    if data["name"] != stem:
        return f"name is {data['name']!r}; it must be the file's, {stem!r}"
    if data["kind"] not in KINDS:
        return f"kind is {' or '.join(KINDS)}, not {data['kind']!r}"
    if not data["models"]:
        return "models is empty"
    if bad := [model for model in data["models"] if not _HUB_ID.fullmatch(model)]:
        return f"{bad[0]!r} is not a hub id, OWNER/NAME"
    if data["spec"].count("{model}") != 1:
        return "spec must have {model} once"
    if data["supported"] == bool(data["missing"]):
        return "missing lists what Assay lacks where supported is false, and is empty elsewhere"
    if data["remote_code"] != ("remote_code=true" in data["spec"]):
        return "remote_code must agree with the spec's remote_code=true"
    for text in (data["license"], *data["quirks"]):
        source = _SOURCE.search(text)
        if source is None:
            return f"no source: {text!r} must end with one, like [1], or with (unverified) or (Assay)"
        if any(not 1 <= int(number) <= len(data["sources"]) for number in re.findall(r"\d+", source["numbers"] or "")):
            return f"no such source: {text!r}"
    return None


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip())
