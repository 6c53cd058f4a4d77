"""Named implementations: the built-in ones, and those that other distributions add through entry points."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Iterable, Mapping
from difflib import get_close_matches
from functools import cached_property
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from judges.errors import CannotRun

_NAMED = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)


def unknown_name(problem: str, name: str, known: Iterable[str], label: str = "Known") -> str:
    """The message for an unknown name: the problem, the closest known name where one is close, and all of them.

    >>> unknown_name("unknown scorer", "pairwize", ["panel", "pairwise"])
    "unknown scorer 'pairwize'; did you mean 'pairwise'? Known: panel, pairwise"
    """
    names = list(known)
    close = get_close_matches(name, names, n=1)
    hint = f"; did you mean {close[0]!r}?" if close else "."
    return f"{problem} {name!r}{hint} {label}: {', '.join(names) or 'none'}"


def setting_names(factory: Callable[..., Any]) -> list[str]:
    """The keyword arguments of a function, or of a class and those of its bases that its `**settings` pass on to."""
    names: dict[str, None] = {}
    bases = factory.__mro__ if isinstance(factory, type) else ()
    for function in [vars(base)["__init__"] for base in bases if "__init__" in vars(base)] or [factory]:
        parameters = inspect.signature(function).parameters.values()
        names |= dict.fromkeys(p.name for p in parameters if p.kind in _NAMED and p.name != "self")
        if not any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters):
            break
    return list(names)


class Registry:
    """Finds an object by name and imports it only then.

    `kind` is what messages call one entry ("scorer"), `group` the entry-point group of other distributions
    ("assay.scorers"), and `builtins` maps each built-in name to "module:attribute". A plugin whose name is taken is
    left out, with one warning on stderr. Entry points are read when a name is first asked for.

    >>> numbers = Registry("number", "assay.example", {"pi": "math:pi", "e": "math:e"})
    >>> numbers.names(), round(numbers.load("pi"), 2)
    (['pi', 'e'], 3.14)
    >>> numbers.load("pie")
    Traceback (most recent call last):
    judges.errors.CannotRun: unknown number 'pie'; did you mean 'pi'? Known: pi, e
    """

    def __init__(self, kind: str, group: str, builtins: Mapping[str, str]) -> None:
        self.kind, self.group, self.builtins = kind, group, dict(builtins)

    def names(self) -> list[str]:
        """Every known name: the built-in ones in their order, then the plugins' alphabetically."""
        return [*self.builtins, *self._plugins]

    def __contains__(self, name: object) -> bool:
        return name in self.builtins or name in self._plugins

    def load(self, name: str) -> Any:
        """The object of this name. Raises CannotRun for an unknown name, and for a plugin that fails to import."""
        plugin = self._plugins.get(name)
        if name in self.builtins:
            module, _, attribute = self.builtins[name].partition(":")
            return getattr(import_module(module), attribute)
        if plugin is None:
            raise CannotRun(unknown_name(f"unknown {self.kind}", name, self.names()))
        try:
            return plugin.load()
        except Exception as error:  # a plugin's module can raise anything
            raise self.error(name, f"cannot be imported: {type(error).__name__}: {error}") from error

    def distribution(self, name: str) -> str | None:
        """The distribution that provides a name; None for a built-in or unknown one."""
        plugin = None if name in self.builtins else self._plugins.get(name)
        return None if plugin is None else _distribution(plugin)

    def error(self, name: str, problem: str) -> CannotRun:
        """The error to raise where an entry cannot be used: "KIND 'NAME' [of distribution 'X'] PROBLEM"."""
        origin = self.distribution(name)
        return CannotRun(f"{self.kind} {name!r}{f' of distribution {origin!r}' if origin else ''} {problem}")

    @cached_property
    def _plugins(self) -> dict[str, EntryPoint]:
        found: dict[str, EntryPoint] = {}
        for plugin in sorted(entry_points(group=self.group), key=lambda p: (p.name, _distribution(p))):
            if plugin.name in self.builtins:
                owner = "built in"
            elif plugin.name in found and found[plugin.name] != plugin:
                owner = f"provided by distribution {_distribution(found[plugin.name])!r}"
            else:
                found[plugin.name] = plugin
                continue
            print(
                f"assay: {self.kind} {plugin.name!r} of distribution {_distribution(plugin)!r} is ignored: "
                f"the name is already {owner}",
                file=sys.stderr,
            )
        return found


def _distribution(plugin: EntryPoint) -> str:
    return plugin.dist.name if plugin.dist is not None else "unknown"
