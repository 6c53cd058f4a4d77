"""Rule-based rewards: verifiable instructions, checked without a model (IFEval: Zhou et al. 2023, arXiv 2311.07911)."""

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

TIMEOUT = 2.0  # seconds for all patterns of a file on one response
CHECKS = ("pattern", "every_line", "words", "lines", "sentences")
_KEYS = ("name", "points", "not", *CHECKS)
_A_WORD = re.compile(r"[^\W_]")
# Possessive, so that a long row of full stops takes linear time: responses may be hostile.
_END_OF_SENTENCE = re.compile(r"(?<![.!?…])[.!?…]++[\"'”’»)\]]*+(?=\s|\Z)|[。！？]+|\n\s*\n")

Check = Callable[[str, float], float]  # (response, deadline) -> share of the points, from 0 to 1


@dataclass(frozen=True, slots=True)
class Rule:
    """A named check, and the points that a response earns where it is satisfied."""

    name: str
    points: float
    check: Check


class Rules(Scorer):
    """The sum of the points of all rules whose check a response satisfies.

    `file` is YAML with a list under `rules:`. A rule has a `name`, `points` (1 by default; a penalty below 0) and one
    check:

    - `pattern`: a regular expression that is found in the response; with `not: true`, that is not found. As in
      Python's `re`, ^ and $ are the ends of the whole response unless the pattern begins with (?m).
    - `every_line`: a regular expression that each non-blank line matches from its start; the points are proportional
      to the share of lines that match.
    - `words`, `lines`, `sentences`: a count, `{at_least: 3, at_most: 9}` or one of the two. Words are separated by
      white space and have a letter or a digit; lines are not blank; a sentence ends with . ! ? or … before white
      space, with 。！？, or with its paragraph. The full stop of an abbreviation counts as an end.

    The scale runs from the sum of the points below 0 to the sum of those above. An empty response is judged like any
    other, so it may satisfy an `at_most` or a `not`; add a rule with `at_least: 1` to tell it from the others. The
    critique lists the points of each rule.

    A hostile response can make a pattern search without end, so patterns run in the package `regex`, which has the
    syntax of `re` and a timeout. A response on which a file's patterns take more than 2 seconds together has a Failure
    that names the rule.

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
        deadline = time.monotonic() + TIMEOUT
        earned = []
        for rule in self.rules:
            try:
                earned.append(rule.points * rule.check(response, deadline))
            except TimeoutError:
                message = f"rule {rule.name!r}: still searching after {TIMEOUT:g} seconds; simplify its pattern"
                return Judgment(failure=Failure("timeout", message))
        # `or 0` turns -0.0 into 0.
        parts = [f"{r.name}: {points or 0:.3g} of {r.points:g}" for r, points in zip(self.rules, earned, strict=True)]
        return Judgment(score=math.fsum(earned), critique="; ".join(parts), read="reward")

    def identity(self) -> dict[str, Any]:
        return {"scorer": self.name, "rules_sha256": self._digest}


def read_rules(file: str | Path) -> tuple[tuple[Rule, ...], str]:
    """(rules, SHA-256 of the content) of a file. Raises CannotRun with the file, the rule and what to do."""
    if not file:
        raise CannotRun("scorer 'rules' needs file=, a YAML file with a list of rules")
    try:
        raw = Path(file).expanduser().read_bytes()
        content = yaml.safe_load(raw.decode())
    except OSError as error:
        raise CannotRun(f"scorer 'rules': file={file} cannot be read: {error.strerror}") from error
    except (UnicodeDecodeError, yaml.YAMLError) as error:
        raise CannotRun(f"{file}: not YAML: {error}") from error
    if not isinstance(content, dict) or not isinstance(content.get("rules"), list) or not content["rules"]:
        raise CannotRun(f"{file}: no rules; the file needs a list under rules:, of mappings with a name and a check")
    if unknown := [str(key) for key in content if key != "rules"]:
        raise CannotRun(f"{file}: unknown key {', '.join(unknown)}; the only key is rules")
    rules: dict[str, Rule] = {}
    for number, entry in enumerate(content["rules"], 1):
        rule = _parse_rule(entry, f"{file}, rule {number}")
        if rule.name in rules:
            raise CannotRun(f"{file}, rule {number}: the name {rule.name!r} is used twice; rename one of the rules")
        rules[rule.name] = rule
    return tuple(rules.values()), hashlib.sha256(raw).hexdigest()


def _parse_rule(entry: Any, where: str) -> Rule:
    if not isinstance(entry, dict):
        raise CannotRun(f"{where}: a rule is a mapping with a name and a check, not {entry!r:.60}")
    name = entry.get("name")
    if not isinstance(name, str) or not name.strip():
        raise CannotRun(f"{where}: no name; a rule needs a name, which is a text")
    where = f"{where} ({name})"
    if unknown := [str(key) for key in entry if key not in _KEYS]:
        raise CannotRun(f"{where}: unknown key {', '.join(unknown)}; there are {', '.join(_KEYS)}")
    checks = [key for key in CHECKS if key in entry]
    if len(checks) != 1:
        has = " and ".join(checks) or "none"
        raise CannotRun(f"{where}: a rule has one check of {', '.join(CHECKS)}; it has {has}")
    points = entry.get("points", 1)
    if not _is_number(points) or not points:
        raise CannotRun(f"{where}: points is a number above or below 0, not {points!r:.60}")
    negated = entry.get("not", False)
    if not isinstance(negated, bool) or (negated and checks[0] != "pattern"):
        raise CannotRun(f"{where}: not is true or false and negates a pattern; remove it or use a pattern")
    return Rule(name, float(points), _build_check(checks[0], entry[checks[0]], negated, where))


def _build_check(kind: str, value: Any, negated: bool, where: str) -> Check:
    if kind == "pattern":
        pattern = _compile(value, f"{where}: pattern")
        return lambda text, deadline: float(
            (pattern.search(text, timeout=_seconds_left(deadline)) is not None) != negated
        )
    if kind == "every_line":
        pattern = _compile(value, f"{where}: every_line")
        return lambda text, deadline: _share_of_lines(
            text, lambda line: pattern.match(line, timeout=_seconds_left(deadline)) is not None
        )
    low, high = _bounds(value, f"{where}: {kind}")
    count = {"words": _words, "lines": lambda text: len(_lines(text)), "sentences": _sentences}[kind]
    return lambda text, _: float(low <= count(text) <= high)


def _compile(pattern: Any, where: str) -> Any:
    if not isinstance(pattern, str) or not pattern:
        raise CannotRun(f"{where} is a regular expression, not {pattern!r:.60}; put it in quotes")
    try:
        re.compile(pattern)  # refuses the extensions of `regex`
        return regex.compile(pattern)
    except (re.error, regex.error, OverflowError, RecursionError) as error:
        raise CannotRun(f"{where} {pattern!r:.60} is not a regular expression of Python's: {error}") from error


def _bounds(value: Any, where: str) -> tuple[float, float]:
    known = isinstance(value, Mapping) and bool(value) and not set(value) - {"at_least", "at_most"}
    if not known or not all(isinstance(n, int) and not isinstance(n, bool) and n >= 0 for n in value.values()):
        raise CannotRun(f"{where} is {{at_least: N, at_most: N}} or one of the two in whole numbers, not {value!r:.60}")
    low, high = value.get("at_least", 0), value.get("at_most", math.inf)
    if low > high:
        raise CannotRun(f"{where}: at_least {low} is above at_most {high}")
    return low, high


def _seconds_left(deadline: float) -> float:
    seconds = deadline - time.monotonic()
    if seconds <= 0:
        raise TimeoutError
    return seconds


def _share_of_lines(text: str, matches: Callable[[str], bool]) -> float:
    lines = _lines(text)
    return sum(map(matches, lines)) / len(lines) if lines else 0.0


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
