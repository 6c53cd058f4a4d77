"""Temperature scaling: a scorer whose preference is calibrated, and the file that `assay calibrate` writes."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from judges.errors import CannotRun, is_secret, redact_settings
from judges.scorer import Scorer, json_round_trip, parse_spec, softmax_preference
from judges.scorers.nested import Entry, build_scorer, parse_entry
from judges.types import Item, Scorecard

# Settings that run code, open an address or a file, or go to an engine unchanged are accepted from the person who runs
# a scorer, not from a file that may come from anywhere.
UNTRUSTED = ("api_key", "base_url", "reference_base_url", "remote_code", "store", "members", "file", "of")
FIELD_TYPES: Mapping[str, tuple[type, ...]] = {
    "temperature": (int, float),
    "rows": (int,),
    "benchmark": (str,),
    "data": (str,),
    "scorer": (dict,),
    "identity": (dict,),
    "assay": (str,),
}


@dataclass(frozen=True, slots=True)
class Calibration:
    """The file of `assay calibrate`: a temperature, and the scorer and data that it belongs to.

    `rows` is the number of pairs that it was fitted on, `benchmark` and `data` their name and digest. `scorer` is the
    scorer as a mapping ({"scorer": NAME, key: value}, without an API key), `identity` its identity.
    """

    temperature: float
    rows: int
    benchmark: str
    data: str
    scorer: Mapping[str, Any]
    identity: Mapping[str, Any]
    assay: str


def write_calibration(calibration: Calibration, path: Path) -> None:
    """Write the file atomically. Raises CannotRun."""
    part = path.with_name(path.name + ".part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part.write_text(json.dumps(asdict(calibration), indent=2, ensure_ascii=False, default=str) + "\n", "utf-8")
        part.replace(path)
    except OSError as error:
        raise CannotRun(f"{path}: cannot be written: {error.strerror}") from error


def ensure_writable(path: Path) -> None:
    """Raise CannotRun where `write_calibration` would; creates the parent folders."""
    if path.is_dir():
        raise CannotRun(f"{path}: cannot be written: it is a folder")
    part = path.with_name(path.name + ".part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part.touch()
        part.unlink()
    except OSError as error:
        raise CannotRun(f"{path}: cannot be written: {error.strerror}") from error


def read_calibration(path: str | Path) -> Calibration:
    """Read a file of `assay calibrate`. Raises CannotRun, with the file's name, for any other file."""
    try:
        content = json.loads(Path(path).expanduser().read_text(encoding="utf-8"))
        calibration = Calibration(**content)
    except OSError as error:
        raise CannotRun(f"scorer 'calibrated': file={path} cannot be read: {error.strerror}") from error
    except (ValueError, TypeError, RuntimeError) as error:
        raise CannotRun(f"{path} is not a file of assay calibrate: {error}") from error
    for key, types in FIELD_TYPES.items():
        value = content[key]
        if isinstance(value, bool) or not isinstance(value, types):
            names = " or ".join(t.__name__ for t in types)
            raise CannotRun(f"{path} is not a file of assay calibrate: {key} is of type {names}, not {value!r:.60}")
    if not 0 < calibration.temperature <= sys.float_info.max:
        raise CannotRun(f"{path}: the temperature is a number above 0, not {calibration.temperature!r:.60}")
    name = calibration.scorer.get("scorer")
    if not isinstance(name, str) or not name:
        raise CannotRun(f"{path} is not a file of assay calibrate: its scorer has no name")
    if name == Calibrated.name:  # the file might refer to itself
        raise CannotRun(f"{path}: its scorer is calibrated too; a temperature belongs to a scorer without one")
    return calibration


class Calibrated(Scorer):
    """Another scorer with temperature scaling (Guo et al. 2017, arXiv 1706.04599).

    `preference` is the softmax of scores / T; the scores do not change. `file` is written by `assay calibrate` and
    names the scorer, so that `calibrated,file=temperature.json` is a complete SPEC. `of` gives the scorer in another
    way: a spec, a mapping ({"scorer": "length"}) or a Scorer. Further settings go to that scorer and override those in
    the file. Settings that run code, open an address or a file, or go to an engine unchanged must be given in this way
    (`untrusted_settings`), because the file may come from anywhere. A scorer whose identity differs from that in the
    file is refused: a temperature is valid for the scores that it was fitted on. `identity()["fitted_on"]` is the
    digest of the benchmark that it was fitted on.
    """

    name = "calibrated"

    def __init__(self, file: str | Path = "", of: Entry = "", **settings: Any) -> None:
        if not file:
            raise CannotRun("scorer 'calibrated' needs file=, which assay calibrate writes")
        self.calibration = read_calibration(file)
        if not of:
            _check_untrusted(file, self.calibration.scorer, settings)
        name, own_settings = parse_entry(of or self.calibration.scorer)
        self.scorer = build_scorer(self.name, name, {**own_settings, **settings})
        self.scale = self.scorer.scale
        current, fitted = json_round_trip(self.scorer.identity()), json_round_trip(self.calibration.identity)
        if current != fitted:
            self.scorer.close()
            differences = [
                f"{key}: {fitted.get(key)} then, {current.get(key)} now"
                for key in sorted({*current, *fitted})
                if current.get(key) != fitted.get(key)
            ]
            raise CannotRun(f"{file} was fitted for another scorer ({'; '.join(differences)}): calibrate this one")

    def stream(self, items: Iterable[Item]) -> Iterator[Scorecard]:
        for card in self.scorer.stream(items):
            yield replace(card, preference=softmax_preference(card.judgments, self.calibration.temperature))

    def use_store(self, path: Path) -> None:
        self.scorer.use_store(path)

    def reread(self, path: Path) -> None:
        self.scorer.reread(path)

    def identity(self) -> dict[str, Any]:
        return {
            "scorer": self.name,
            "temperature": self.calibration.temperature,
            "fitted_on": self.calibration.data,
            "of": self.scorer.identity(),
        }

    def close(self) -> None:
        self.scorer.close()


def spec_mapping(spec: str) -> dict[str, Any]:
    """A spec as a mapping for a file, without keys and passwords.

    >>> spec_mapping("random,seed=3")
    {'scorer': 'random', 'seed': 3}
    """
    name, settings = parse_spec(spec)
    return {"scorer": name, **redact_settings(settings)}


def untrusted_settings(scorer: Mapping[str, Any]) -> dict[str, Any]:
    """The settings in a scorer's mapping that are not accepted from a file: the SPEC must give them again.

    >>> untrusted_settings({"scorer": "bradley-terry", "model": "m", "remote-code": True, "engine.dtype": "float32"})
    {'remote_code': True, 'engine.dtype': 'float32'}
    """
    # A list or mapping may contain scorers with settings of their own; no SPEC has one.
    return {
        key: value
        for key, value in parse_entry(scorer)[1].items()
        if key in UNTRUSTED or key.startswith("engine.") or isinstance(value, list | dict)
    }


def _check_untrusted(file: str | Path, scorer: Mapping[str, Any], given: Mapping[str, Any]) -> None:
    missing = {key: value for key, value in untrusted_settings(scorer).items() if key not in given}
    if missing:
        listed = ", ".join(
            key if is_secret(key) else f"{key}={redact_settings(value)!r:.60}" for key, value in missing.items()
        )
        again = "".join(f",{key}=…" for key in missing)
        raise CannotRun(
            f"{file} sets {listed} for its scorer, which is not accepted from a file;"
            f" if you want it, give it yourself: calibrated,file={file}{again}"
        )
