"""A scorer inside another one (a panel's member, the scorer that is calibrated): a spec, a mapping or a Scorer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from judges.errors import CannotRun
from judges.scorer import Scorer, load_scorer, parse_spec

Entry = str | Mapping[str, Any] | Scorer


def parse_entry(entry: Entry) -> tuple[str | Scorer | None, dict[str, Any]]:
    """(name or Scorer, settings) of a spec, of a mapping with `scorer: NAME`, or of a Scorer; None without a name.

    >>> parse_entry("random,seed=3"), parse_entry({"scorer": "bradley-terry", "remote-code": True})
    (('random', {'seed': 3}), ('bradley-terry', {'remote_code': True}))
    """
    if isinstance(entry, Scorer):
        return entry, {}
    if isinstance(entry, str):
        return parse_spec(entry)
    settings = {str(key).replace("-", "_"): value for key, value in entry.items()}
    name = settings.pop("scorer", None)
    return name if isinstance(name, str | Scorer) else None, settings


def build_scorer(owner: str, name: str | Scorer | None, settings: Mapping[str, Any]) -> Scorer:
    """The scorer of a parsed entry. Raises CannotRun for wrong settings, with the `owner` ("panel")."""
    if isinstance(name, Scorer):
        if settings:
            raise CannotRun(f"scorer {owner!r}: {name.name!r} is built already and takes no {', '.join(settings)}")
        return name
    if not name:
        raise CannotRun(f"scorer {owner!r} needs a spec, or a mapping with scorer: NAME")
    if "name" in settings:
        raise CannotRun(f"scorer {name!r} has no setting name")
    return load_scorer(name, **settings)
