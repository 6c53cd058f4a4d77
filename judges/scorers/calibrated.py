"""A scorer whose preference can be believed: another one, its scores divided by a temperature fitted before."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from judges.errors import CannotRun
from judges.scorer import Scorer, load_scorer, parse_spec, plain, reread_from, softmax_preference
from judges.types import Item, Scorecard

SECRET = "api_key"
# What reaches beyond the scores (runs code, opens an address or a file, goes to an engine as it is) is taken from
# whoever runs a scorer, not from a file that may come from anywhere.
OWN_SAY = (SECRET, "base_url", "reference_base_url", "remote_code", "store", "members", "file", "of")
OWN_PREFIX = "engine."
WANTED: Mapping[str, tuple[type, ...]] = {
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
    """What `assay calibrate` writes: a temperature, and all that says where it holds.

    `rows` are the pairs it was fitted on, `benchmark` and `data` their name and digest. `scorer` is the scorer
    as a mapping ({"scorer": NAME, key: value}, without a key to a server), `identity` what decides its scores.
    """

    temperature: float
    rows: int
    benchmark: str
    data: str
    scorer: Mapping[str, Any]
    identity: Mapping[str, Any]
    assay: str


def write_calibration(calibration: Calibration, path: Path) -> None:
    """Write the file, whole or not at all. Raises CannotRun."""
    part = path.with_name(path.name + ".part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part.write_text(json.dumps(asdict(calibration), indent=2, ensure_ascii=False, default=str) + "\n", "utf-8")
        part.replace(path)
    except OSError as error:
        raise CannotRun(f"{path}: cannot be written: {error.strerror}") from error


def check_writable(path: Path) -> None:
    """Raises CannotRun where `write_calibration` would; makes the folders above it."""
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
    """The file that `assay calibrate` wrote. Raises CannotRun for another, with the file's name."""
    try:
        told = json.loads(Path(path).expanduser().read_text(encoding="utf-8"))
        made = Calibration(**told)
    except OSError as error:
        raise CannotRun(f"scorer 'calibrated': file={path} cannot be read: {error.strerror}") from error
    except (ValueError, TypeError, RuntimeError) as error:
        raise CannotRun(f"{path} is not a file of assay calibrate: {error}") from error
    for key, kinds in WANTED.items():
        if isinstance(told[key], bool) or not isinstance(told[key], kinds):
            named = " or ".join(kind.__name__ for kind in kinds)
            raise CannotRun(f"{path} is not a file of assay calibrate: {key} is of type {named}, not {told[key]!r:.60}")
    if not 0 < made.temperature <= sys.float_info.max:
        raise CannotRun(f"{path}: the temperature is a number above 0, not {made.temperature!r:.60}")
    name = made.scorer.get("scorer")
    if not isinstance(name, str) or not name:
        raise CannotRun(f"{path} is not a file of assay calibrate: its scorer has no name")
    if name == Calibrated.name:  # it might name itself
        raise CannotRun(f"{path}: its scorer is calibrated too; a temperature belongs to a scorer without one")
    return made


class Calibrated(Scorer):
    """Another scorer with a temperature: `preference` becomes the softmax of scores / T, scores stay.

    `file` is what `assay calibrate` wrote; it names the scorer, so that `calibrated,file=temperature.json` is a
    whole SPEC. `of` names another way to it: a spec, a mapping ({"scorer": "length"}) or a Scorer, as a panel's
    members are. Further settings go to that scorer, over those in the file. What runs code, opens an address or a
    file, or goes to an engine as it is must be given so (`own_say`): the file may come from anywhere. A scorer
    whose identity is not that in the file is refused: a temperature belongs to the scores that it was fitted on.
    `identity()["fitted_on"]` is the digest of the benchmark that it was fitted on.
    """

    name = "calibrated"

    def __init__(self, file: str | Path = "", of: str | Mapping[str, Any] | Scorer = "", **settings: Any) -> None:
        if not file:
            raise CannotRun("scorer 'calibrated' needs file=, which assay calibrate writes")
        self.calibration = read_calibration(file)
        if not of:
            _check_own_say(file, self.calibration.scorer, settings)
        self.scorer = _built(of or self.calibration.scorer, settings)
        self.scale = self.scorer.scale
        now, then = plain(self.scorer.identity()), plain(self.calibration.identity)
        if now != then:
            self.scorer.close()
            other = [
                f"{key}: {then.get(key)} then, {now.get(key)} now"
                for key in sorted({*now, *then})
                if now.get(key) != then.get(key)
            ]
            raise CannotRun(f"{file} was fitted for another scorer ({'; '.join(other)}): calibrate this one")

    def stream(self, items: Iterable[Item]) -> Iterator[Scorecard]:
        for card in self.scorer.stream(items):
            yield replace(card, preference=softmax_preference(card.judgments, self.calibration.temperature))

    def remember(self, path: Path) -> None:
        """Pass the store of completions on to a scorer that keeps one."""
        if keep := getattr(self.scorer, "remember", None):
            keep(path)

    def reread(self, path: Path) -> None:
        """Judge from this store alone. Raises CannotRun where the scorer keeps no completions."""
        reread_from(self.scorer, path)

    def identity(self) -> dict[str, Any]:
        return {
            "scorer": self.name,
            "temperature": self.calibration.temperature,
            "fitted_on": self.calibration.data,
            "of": self.scorer.identity(),
        }

    def close(self) -> None:
        self.scorer.close()


def as_mapping(spec: str) -> dict[str, Any]:
    """A spec as a mapping that can be kept in a file: without a key to a server.

    >>> as_mapping("random,seed=3")
    {'scorer': 'random', 'seed': 3}
    """
    name, settings = parse_spec(spec)
    return {"scorer": name, **{key: value for key, value in settings.items() if key != SECRET}}


def own_say(scorer: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a scorer as a mapping that a file may not switch on: SPEC must give them again.

    >>> own_say({"scorer": "bradley-terry", "model": "m", "remote-code": True, "engine.dtype": "float32"})
    {'remote_code': True, 'engine.dtype': 'float32'}
    """
    told = {str(key).replace("-", "_"): value for key, value in scorer.items()}
    # A list or mapping may hold scorers with settings of their own; no SPEC writes one.
    return {
        key: value
        for key, value in told.items()
        if key in OWN_SAY or key.startswith(OWN_PREFIX) or isinstance(value, list | dict)
    }


def _check_own_say(file: str | Path, scorer: Mapping[str, Any], given: Mapping[str, Any]) -> None:
    asked = {key: value for key, value in own_say(scorer).items() if key not in given}
    if asked:
        named = ", ".join(key if key == SECRET else f"{key}={value!r:.60}" for key, value in asked.items())
        again = "".join(f",{key}=…" for key in asked)
        raise CannotRun(
            f"{file} sets {named} for its scorer, which is not taken from a file;"
            f" where you want it, give it yourself: calibrated,file={file}{again}"
        )


def _built(entry: str | Mapping[str, Any] | Scorer, settings: Mapping[str, Any]) -> Scorer:
    if isinstance(entry, Scorer):
        if settings:
            raise CannotRun(f"scorer 'calibrated': {entry.name!r} is built already and takes no {', '.join(settings)}")
        return entry
    if isinstance(entry, str):
        name, told = parse_spec(entry)
    else:
        told = {str(key).replace("-", "_"): value for key, value in entry.items()}
        name = told.pop("scorer", "")
    if not isinstance(name, str) or not name:
        raise CannotRun("scorer 'calibrated': of= is a spec, or a mapping with scorer: NAME")
    if "name" in told:
        raise CannotRun(f"scorer {name!r} has no setting name")
    return load_scorer(name, **{**told, **settings})
