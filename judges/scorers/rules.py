"""Instructions that a rule can check (after IFEval, Zhou et al. 2023, arXiv 2311.07911): no model, no opinion."""

from __future__ import annotations

import hashlib
import math
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import regex
import yaml

from judges.errors import CannotRun
from judges.scorer import Scorer, vote_preference
from judges.types import Failure, Item, Judgment, Scale, Scorecard

SECONDS = 2.0  # for all patterns of a file on one response
CHECKS = ("pattern", "every_line", "words", "lines", "sentences")
_KEYS = ("name", "points", "not", *CHECKS)
_A_WORD = re.compile(r"[^\W_]")
# Nothing is tried twice, however long a row of stops is: a response is hostile.
_END_OF_SENTENCE = re.compile(r"(?<![.!?…])[.!?…]++[\"'”’»)\]]*+(?=\s|\Z)|[。！？]+|\n\s*\n")

Check = Callable[[str, float], float]  # a response and the time by which it must be checked, to a share from 0 to 1


@dataclass(frozen=True, slots=True)
class Rule:
    """A name, what is earned where the check holds, and the check: the share of the points that a response earns."""

    name: str
    points: float
    check: Check


class Rules(Scorer):
    """A scorer made of rules: each gives its points where its check holds, and the score is their sum.

    `file` is YAML with a list under `rules:`. A rule has a `name`, `points` (1; below 0 it takes away) and one check:

    - `pattern`: a regular expression that is found in the response; `not: true`: that is not. As in Python's `re`,
      ^ and $ are the ends of the whole response unless the pattern begins with (?m).
    - `every_line`: one that each line with text on it matches from its start; the points come in proportion to the
      share of lines that do.
    - `words`, `lines`, `sentences`: a count, `{at_least: 3, at_most: 9}` or one of the two. Words stand between white
      space and have a letter or a digit; lines have text on them; a sentence ends with . ! ? or … before white
      space, with 。！？, or with its paragraph: an abbreviation's full stop counts as one.

    The scale runs from the sum of the points below 0 to the sum of those above. An empty response is judged like any
    other, so it may earn an `at_most` or a `not`: a rule with `at_least: 1` beside them tells it apart. The critique
    says what each rule gave.

    Responses are hostile and a pattern can be made to search for ever: patterns run in the package `regex`, which
    reads what `re` reads and can be stopped. A response on which a file's patterns take more than 2 seconds together
    has a Failure that names the rule.

    >>> import tempfile
    >>> with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
    ...     _ = file.write("rules: [{name: short, words: {at_most: 3}}, {name: proud, pattern: Sorry, not: true}]")
    ...     file.flush()
    ...     card = Rules(file.name).score([Item(id="a", prompt="Hi", responses=["Sorry, no."])])[0]
    >>> card.judgments[0].score, card.judgments[0].critique
    (1.0, 'short: 1 of 1; proud: 0 of 1')
    """

    name = "rules"

    def __init__(self, file: str | Path = "") -> None:
        self.rules, self._digest = read_rules(file)
        points = [rule.points for rule in self.rules]
        self.scale = Scale(math.fsum(p for p in points if p < 0), math.fsum(p for p in points if p > 0))

    def stream(self, items: Iterable[Item]) -> Iterator[Scorecard]:
        for item in items:
            judgments = tuple([self.judge(response) for response in item.responses])
            yield Scorecard(item.id, judgments, preference=vote_preference(judgments))

    def judge(self, response: str) -> Judgment:
        until = time.monotonic() + SECONDS
        earned = []
        for rule in self.rules:
            try:
                earned.append(rule.points * rule.check(response, until))
            except TimeoutError:
                told = f"rule {rule.name!r}: still searching after {SECONDS:g} seconds; write its pattern simpler"
                return Judgment(failure=Failure("timeout", told))
        said = [f"{r.name}: {got or 0:.3g} of {r.points:g}" for r, got in zip(self.rules, earned, strict=True)]
        return Judgment(score=math.fsum(earned), critique="; ".join(said), read="reward")

    def identity(self) -> dict[str, Any]:
        return {"scorer": self.name, "rules_sha256": self._digest}


def read_rules(file: str | Path) -> tuple[tuple[Rule, ...], str]:
    """The rules of a file and the digest of its content. Raises CannotRun with the file, the rule and what to do."""
    if not file:
        raise CannotRun("scorer 'rules' needs file=, a YAML file with a list of rules")
    try:
        raw = Path(file).expanduser().read_bytes()
        told = yaml.safe_load(raw.decode())
    except OSError as error:
        raise CannotRun(f"scorer 'rules': file={file} cannot be read: {error.strerror}") from error
    except (UnicodeDecodeError, yaml.YAMLError) as error:
        raise CannotRun(f"{file}: not YAML: {error}") from error
    if not isinstance(told, dict) or not isinstance(told.get("rules"), list) or not told["rules"]:
        raise CannotRun(f"{file}: there are no rules in it; it is a list under rules:, each with a name and a check")
    if other := [str(key) for key in told if key != "rules"]:
        raise CannotRun(f"{file}: unknown key {', '.join(other)}; there is only rules")
    found: dict[str, Rule] = {}
    for number, one in enumerate(told["rules"], 1):
        rule = _rule(one, f"{file}, rule {number}")
        if rule.name in found:
            raise CannotRun(f"{file}, rule {number}: another rule is called {rule.name!r} too; give it another name")
        found[rule.name] = rule
    return tuple(found.values()), hashlib.sha256(raw).hexdigest()


def _rule(told: Any, where: str) -> Rule:
    if not isinstance(told, dict):
        raise CannotRun(f"{where}: a rule is a mapping with a name and a check, not {told!r:.60}")
    name = told.get("name")
    if not isinstance(name, str) or not name.strip():
        raise CannotRun(f"{where}: it needs a name, which is a text")
    where = f"{where} ({name})"
    if unknown := [str(key) for key in told if key not in _KEYS]:
        raise CannotRun(f"{where}: unknown key {', '.join(unknown)}; there are {', '.join(_KEYS)}")
    checks = [key for key in CHECKS if key in told]
    if len(checks) != 1:
        has = " and ".join(checks) or "none"
        raise CannotRun(f"{where}: a rule has one check of {', '.join(CHECKS)}; it has {has}")
    points = told.get("points", 1)
    if not _is_number(points) or not points:
        raise CannotRun(f"{where}: points is a number above or below 0, not {points!r:.60}")
    turned = told.get("not", False)
    if not isinstance(turned, bool) or (turned and checks[0] != "pattern"):
        raise CannotRun(f"{where}: not is true or false and turns a pattern round; take it away or write a pattern")
    return Rule(name, float(points), _check(checks[0], told[checks[0]], turned, where))


def _check(kind: str, told: Any, turned: bool, where: str) -> Check:
    if kind == "pattern":
        found = _compiled(told, f"{where}: pattern")
        return lambda text, until: float((found.search(text, timeout=_left(until)) is not None) != turned)
    if kind == "every_line":
        each = _compiled(told, f"{where}: every_line")
        return lambda text, until: _share(_lines(text), lambda line: each.match(line, timeout=_left(until)) is not None)
    low, high = _bounds(told, f"{where}: {kind}")
    count = {"words": _words, "lines": lambda text: len(_lines(text)), "sentences": _sentences}[kind]
    return lambda text, _: float(low <= count(text) <= high)


def _compiled(told: Any, where: str) -> Any:
    if not isinstance(told, str) or not told:
        raise CannotRun(f"{where} is a regular expression, not {told!r:.60}; put it in quotes")
    try:
        re.compile(told)  # `regex` knows more than `re`, which nobody asked for
        return regex.compile(told)
    except (re.error, regex.error, OverflowError, RecursionError) as error:
        raise CannotRun(f"{where} {told!r:.60} is no regular expression of Python's: {error}") from error


def _bounds(told: Any, where: str) -> tuple[float, float]:
    known = isinstance(told, Mapping) and bool(told) and not set(told) - {"at_least", "at_most"}
    if not known or not all(isinstance(n, int) and not isinstance(n, bool) and n >= 0 for n in told.values()):
        raise CannotRun(f"{where} is {{at_least: N, at_most: N}} or one of the two in whole numbers, not {told!r:.60}")
    low, high = told.get("at_least", 0), told.get("at_most", math.inf)
    if low > high:
        raise CannotRun(f"{where}: at_least {low} is above at_most {high}")
    return low, high


def _left(until: float) -> float:
    left = until - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return left


def _share(lines: list[str], holds: Callable[[str], bool]) -> float:
    return sum(map(holds, lines)) / len(lines) if lines else 0.0


def _lines(text: str) -> list[str]:
    return [line for line in text.splitlines() if line.strip()]


def _words(text: str) -> int:
    return sum(_A_WORD.search(word) is not None for word in text.split())


def _sentences(text: str) -> int:
    """
    >>> _sentences("One. Two?! It is 3.5 (no more.) Four"), _sentences("一。二！"), _sentences(" ... ")
    (4, 2, 0)
    """
    return sum(_A_WORD.search(part) is not None for part in _END_OF_SENTENCE.split(text))


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e15
