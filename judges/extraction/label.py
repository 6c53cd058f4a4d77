"""Labels: which response a judge that compares names as the better one.

A label follows its announcement, after "Response", "Assistant", "回答" or nothing, in any case. It is followed by
nothing, by punctuation, or by the statement that it is better. "A and B", "A > B", "A is worse" and "neither" are
malformed. A label without its announcement is missing.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache

from judges.extraction.announcement import last_announcement, unreadable_verdict
from judges.extraction.normalize import normalize
from judges.extraction.patterns import CLOSING, OPENING, SPACE, TRAILING
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
    before, after = _label_patterns(tuple(labels))
    match = before.match(visible, announced.end())
    if match is None or not after.match(visible, match.end()):
        return unreadable_verdict(text, visible, announced.end(), f"one of {', '.join(labels)} alone")
    return Reading(_spelling(match["label"], labels), match.span("label"))


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
    after = rf"(?!{another}){SPACE}(?:\Z|\n|[.,;!()。，；！、（）:|<—–](?!\w?\d)|-(?=\s)|{_BETTER}|{_BETTER_ZH})"
    return re.compile(before, re.IGNORECASE), re.compile(after, re.IGNORECASE)


def _spelling(written: str, labels: Sequence[str]) -> str:
    """The label that a text in any case stands for."""
    exact = [label for label in labels if normalize(label) == written]
    return exact[0] if exact else next(label for label in labels if normalize(label).lower() == written.lower())
