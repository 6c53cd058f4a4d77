"""The configuration of `assay compare`, from options and from a YAML file."""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml

from judges.errors import CannotRun, is_secret, redact
from judges.plugins import unknown_name
from judges.scorer import parse_spec

KEYS = ("benchmarks", "scorers", "judgments", "limit", "attacks")


@dataclass(frozen=True, slots=True)
class CompareConfig:
    """The benchmarks, scorers and files of judgments to compare.

    `limit` is the number of rows of each benchmark, `attacks` the number of pairs to attack. `rows` has, by SPEC, the
    number of rows of each benchmark for the scorers that are not given all.
    """

    benchmarks: tuple[str, ...] = ()
    scorers: tuple[str, ...] = ()
    judgments: tuple[str, ...] = ()
    limit: int | None = None
    attacks: int | None = None
    rows: Mapping[str, int] = field(default_factory=dict)

    def settings(self) -> dict[str, Any]:
        """The configuration for results.json, without API keys."""
        return {
            "benchmarks": list(self.benchmarks),
            "scorers": [redacted(spec) for spec in self.scorers],
            "judgments": list(self.judgments),
            "limit": self.limit,
            "attacks": self.attacks,
            "rows": {redacted(spec): rows for spec, rows in self.rows.items()},
        }


def merge_config(path: Path | None, options: CompareConfig) -> CompareConfig:
    """The lists of the file, then those of the options; an option's number takes precedence. Raises CannotRun."""
    config = _read(path) if path is not None else CompareConfig()
    config = replace(
        config,
        benchmarks=config.benchmarks + options.benchmarks,
        scorers=config.scorers + options.scorers,
        judgments=config.judgments + options.judgments,
        limit=options.limit or config.limit,
        attacks=options.attacks or config.attacks,
    )
    if not config.benchmarks or not (config.scorers or config.judgments):
        raise CannotRun("compare needs at least one --benchmark and one --scorer or --judgments, or a config with both")
    for name, count in Counter(config.benchmarks + config.scorers + config.judgments).items():
        if count > 1:
            raise CannotRun(f"{redacted(name)!r} is given twice")
    return config


def scorer_labels(specs: Sequence[str], files: Sequence[str]) -> dict[str, str]:
    """A unique name for each SPEC and file: a scorer's name, with the settings that differ between its SPECs.

    >>> list(scorer_labels(["length", "random,seed=1", "random,seed=2"], ["runs/judge.jsonl"]).values())
    ['length', 'random seed=1', 'random seed=2', 'judge']
    """
    labels: dict[str, str] = {}
    for spec in specs:
        name, settings = parse_spec(spec)
        others = [parse_spec(other)[1] for other in specs if other != spec and parse_spec(other)[0] == name]
        different = [
            redact(f"{key}={value}")
            for key, value in settings.items()
            if not is_secret(key) and any(other.get(key) != value for other in others)
        ]
        labels[spec] = " ".join([name, *different])
    for file in files:
        stem = re.sub(r"\.(jsonl|csv|parquet|json)(\.gz|\.zst)?$", "", Path(file).name)
        labels[file] = stem if stem not in labels.values() else file
    ambiguous = [label for label, count in Counter(labels.values()).items() if count > 1]
    return {key: redacted(key) if label in ambiguous else label for key, label in labels.items()}


def redacted(spec: str) -> str:
    """A SPEC without its keys and passwords."""
    return redact(spec)


def _read(path: Path) -> CompareConfig:
    if not path.is_file():
        raise CannotRun(f"no config file {str(path)!r}")
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise CannotRun(f"{path}: not YAML: {error}") from error
    if not isinstance(values, dict):
        raise CannotRun(f"{path}: a config is a mapping with the keys {', '.join(KEYS)}")
    for key in values:
        if key not in KEYS:
            raise CannotRun(unknown_name(f"{path}: unknown key", str(key), KEYS))
    for key in ("limit", "attacks"):
        if key in values and not _is_count(values[key]):
            raise CannotRun(f"{path}: {key} is a whole number above 0, not {values[key]!r}")
    scorers = [_spec(path, entry) for entry in _list(path, values, "scorers")]
    return CompareConfig(
        benchmarks=tuple(_expanded(path, entry) for entry in _list(path, values, "benchmarks")),
        scorers=tuple(spec for spec, _ in scorers),
        judgments=tuple(_expanded(path, entry) for entry in _list(path, values, "judgments")),
        limit=values.get("limit"),
        attacks=values.get("attacks"),
        rows={spec: rows for spec, rows in scorers if rows is not None},
    )


def _list(path: Path, values: dict[str, Any], key: str) -> list[Any]:
    value = values.get(key, [])
    if not isinstance(value, list):
        raise CannotRun(f"{path}: {key} is a list, not {value!r}")
    return value


def _expanded(path: Path, entry: Any) -> str:
    """A name or path with its $VARIABLES replaced."""
    if not isinstance(entry, str):
        raise CannotRun(f"{path}: {entry!r} is not a string")
    expanded = os.path.expandvars(entry)
    if unset := re.search(r"\$\{?(\w+)", expanded):
        raise CannotRun(f"{path}: {entry!r} needs the environment variable {unset[1]}, which is not set")
    return expanded


def _spec(path: Path, entry: Any) -> tuple[str, int | None]:
    """A SPEC, and the number of rows of each benchmark (`rows`); None stands for all."""
    if isinstance(entry, str):
        return _expanded(path, entry), None
    if not isinstance(entry, dict) or "name" not in entry:
        raise CannotRun(f"{path}: a scorer is a SPEC, or a mapping that has a name, not {entry!r}")
    rows = entry.get("rows")
    if rows is not None and not _is_count(rows):
        raise CannotRun(f"{path}: rows is a whole number above 0, not {rows!r}")
    settings = {key: value for key, value in entry.items() if key not in ("name", "rows")}
    if nested := [key for key, value in settings.items() if isinstance(value, list | dict)]:
        raise CannotRun(f"{path}: scorer {entry['name']}: {nested[0]} is a string or a number, not a list or a mapping")
    texts = [f"{key}={json.dumps(v) if isinstance(v, str) and ',' in v else v}" for key, v in settings.items()]
    return _expanded(path, ",".join([str(entry["name"]), *texts])), rows


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0
