"""Labels: which response a judge that compares names as the better one.

A label follows its announcement, after "Response", "Assistant", "回答" or nothing, in any case. It is followed by
nothing, by punctuation, or by the statement that it is better. "A and B" and "A is worse" are malformed; "neither",
"draw" and "both equal" stand for the tie where there is one. A label without its announcement is missing.

"A > B" and "A >> B" stand for A, "A < B" and "A << B" for B, and "A = B" for the tie, where there are two labels beside
the tie. Every other relation ("A <= B", "A > B > C") is malformed, and so is a label that the rest of its line takes
back ("A; no, B", "A (B is better)").
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache

from judges.extraction.announcement import last_announcement, unreadable_verdict
from judges.extraction.normalize import normalize
from judges.extraction.patterns import CLOSING, MARKS, OPENING, SPACE, TRAILING
from judges.extraction.reading import Reading, missing_verdict
from judges.types import Failure

_NOUN = r"(?:response|answer|assistant|model|output|option|candidate|回答|答案|回复|助手|模型|选项|选择)"
_BETTER = (
    r"(?:(?:is|was)\s(?!(?:\w{1,12}\s){0,3}(?:not|no|never|hardly|less|worse)\b)(?:\w{1,12}\s){0,3}"
    r"(?:better|best|stronger|superior|preferred|winner)\b|wins\b|(?:because|since|as|for|by|between|overall)\b)"
)
_BETTER_ZH = r"(?:号?(?:回答|答案)?(?:更好|更优|更佳|较好|最好|最佳|胜出|获胜|胜)(?!吗)|号(?![^\W_]))"


def read_label(text: str, labels: Sequence[str], announcement: str) -> Reading | Failure:
    """The label that a judge announces last, in the spelling of `labels`, or a Failure.

    >>> read_label("Both are short. **Verdict:** [[B]]", ["A", "B", "tie"], "Verdict:")
    Reading(value='B', span=(31, 32))
    >>> read_label("Verdict: A and B", ["A", "B", "tie"], "Verdict:").reason
    'malformed'
    """
    found = last_announcement(text, announcement)
    if isinstance(found, Failure):
        return found
    visible, announced = found
    if announced is None:
        return missing_verdict(visible, f"no {announcement!r} in the text")
    relation = _relation_pattern(tuple(labels)).match(visible, announced.end())
    if relation is not None and "<" not in relation["open"]:
        return _related(relation, labels)
    before, after = _label_patterns(tuple(labels))
    match = before.match(visible, announced.end())
    ties = [label for label in labels if label.lower() in _TIES]
    unread = match is None or not after.match(visible, match.end())
    if unread and len(ties) == 1 and (equal := _EQUAL.match(visible, announced.end())) is not None:
        return Reading(ties[0], equal.span("equal"))
    if match is None or not after.match(visible, match.end()):
        return unreadable_verdict(text, visible, announced.end(), f"one of {', '.join(labels)} alone")
    label = _spelling(match["label"], labels)
    if _taken_back(visible[match.end() : match.end() + 400].split("\n", 1)[0], label, labels):
        return Failure("malformed", f"the line that announces {label!r} also names another label as the better one")
    return Reading(label, match.span("label"))


_TIES = {"tie", "tied", "draw", "equal", "even", "same", "平局", "平手", "相当", "持平"}


# What stands for the tie where ties are allowed, alone on its line.
_EQUAL = re.compile(
    rf"{OPENING}(?P<equal>neither|(?:a\s)?(?:draw|tie)|both\s(?:are\s)?equal|平局|平手|不分上下|两者相当){CLOSING}\.?。?{SPACE}(?=\n|\Z)",
    re.IGNORECASE,
)


@lru_cache(maxsize=64)
def _relation_pattern(labels: tuple[str, ...]) -> re.Pattern[str]:
    sides = "|".join(re.escape(normalize(label)) for label in sorted(labels, key=len, reverse=True))
    noun = rf"(?:(?:the\s)?{_NOUN}[\s#]{{0,4}})?"
    marks = rf"[*_`]{{0,3}}{SPACE}"
    return re.compile(
        rf"(?P<open>{OPENING}){noun}(?P<left>{sides}){marks}(?P<sign>[<>=≤≥≻≺]{{1,3}}){marks}{noun}(?P<right>{sides})(?!\w)"
        rf"{CLOSING}(?P<end>{SPACE}(?:[.,;。，；(]|\n|\Z))?",
        re.IGNORECASE,
    )


def _related(relation: re.Match[str], labels: Sequence[str]) -> Reading | Failure:
    """The verdict of a relation of two labels: the greater one, or the tie."""
    sides = [label for label in labels if label.lower() not in _TIES]
    ties = [label for label in labels if label.lower() in _TIES]
    left, right = _spelling(relation["left"], labels), _spelling(relation["right"], labels)
    sign = relation["sign"]
    side = {">": "left", ">>": "left", "≻": "left", "<": "right", "<<": "right", "≺": "right"}.get(sign)
    if len(sides) == 2 and {left, right} == set(sides) and relation["end"] is not None:
        if side is not None:
            return Reading(left if side == "left" else right, relation.span(side))
        if sign in ("=", "==") and len(ties) == 1:
            return Reading(ties[0], relation.span("sign"))
    return Failure("malformed", f"the relation {relation[0].strip()!r} names no one label")


def _taken_back(rest: str, label: str, labels: Sequence[str]) -> bool:
    """Whether the rest of the announcing line names another label as the better one, or corrects the verdict to it."""
    for other in labels:
        if other == label:
            continue
        flags = re.IGNORECASE if len(other) > 1 else 0  # "a" is an article
        name = rf"(?<![A-Za-z0-9_])(?:{_NOUN}\s?)?{re.escape(normalize(other))}(?![A-Za-z0-9_])"
        better = rf"{name}[{MARKS}]{{0,3}}\s?(?:{_BETTER.split('|(?:because')[0]})|{_BETTER_ZH})"
        turn = r"(?:\b(?:no|actually|rather|instead|but|wait|sorry|or|I\smean)\b|不|应为|而是|改为)"
        back = rf"{turn}[\s,:，、]{{0,4}}(?:the\s)?{name}"
        alone = rf"[,;(:–—-]\s?{name}\s?(?:[.,;)。]|\Z)"
        if any(re.search(pattern, rest, flags) for pattern in (better, back, alone)):
            return True
    return False


def read_bare_label(text: str, labels: Sequence[str]) -> str | None:
    """The label of a normalized text that is only a label; None for any other text."""
    match = _label_patterns(tuple(labels))[0].match(text)
    return _spelling(match["label"], labels) if match and TRAILING.match(text, match.end()) else None


@lru_cache(maxsize=64)
def _label_patterns(labels: tuple[str, ...]) -> tuple[re.Pattern[str], re.Pattern[str]]:
    """(A label with what may introduce it, what may follow it.)"""
    spelled = [re.escape(normalize(label)) for label in sorted(labels, key=len, reverse=True)]
    words = "|".join(
        s for s, label in zip(spelled, sorted(labels, key=len, reverse=True), strict=True) if len(label) > 1
    )
    article = rf"(?:(?:an?|the)\s(?=(?:{words})(?!\w)))?" if words else ""
    any_label = rf"(?:{'|'.join(spelled)})"
    end = r"(?![A-Za-z0-9_]|[.,]\d)"
    before = rf"{OPENING}(?:(?:the\s)?{_NOUN}[\s#]{{0,4}}{OPENING})?#?{article}(?P<label>{any_label}){end}{CLOSING}"
    another = rf"{SPACE}[,/|&、]{SPACE}(?:{_NOUN}\s?)?{any_label}(?!\w)"
    after = (
        rf"(?!{another}){SPACE}(?:\Z|\n|[.,;!()。，；！、（）:|—–](?!\w?\d)|<(?=[/|])|-(?=\s)|{_BETTER}|{_BETTER_ZH})"
    )
    return re.compile(before, re.IGNORECASE), re.compile(after, re.IGNORECASE)


def _spelling(written: str, labels: Sequence[str]) -> str:
    """The label that a text in any case stands for."""
    exact = [label for label in labels if normalize(label) == written]
    return exact[0] if exact else next(label for label in labels if normalize(label).lower() == written.lower())
