"""Generated text to a score, or to a Failure that says why not.

Contract: only what was GENERATED is read. The last announcement decides, well-formed or not; a malformed
one never falls back to an earlier mention. Without an announcement, only a plain rating phrase or a text
that is a number counts. Nothing is clamped, rescaled or guessed.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

from judges.types import Failure, Scale

ANNOUNCEMENTS = ("score", "rating", "评分", "得分", "打分", "分数")
_WORDS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"]
_CHINESE = "零一二三四五六七八九十"
_WORD_VALUES = {word: float(i) for i, word in enumerate(_WORDS)} | {c: float(i) for i, c in enumerate(_CHINESE)}
_NUMBER = rf"[-+]?\d+(?:\.\d+)?(?![\d.]*\d)|\b(?:{'|'.join(_WORDS)})\b|十[一二三四五六七八九]?|[{_CHINESE}]"
_OPEN = r"[\s*_`\"'<(\[{:=]*"
_TOP = rf"(?P<top>\d+(?:\.\d+)?|{'|'.join(_WORDS)})"
_VERDICT = re.compile(
    rf"{_OPEN}(?P<number>{_NUMBER})(?P<rest>(?:[^\S\n]*(?:points?\b|分))?[^\S\n*_`\"'>)\]}}]*[*_`\"'>)\]}}]*"
    rf"(?:[^\S\n]*[(（]?[^\S\n]*(?:/|out[^\S\n]+of\b|of\b|满分)[^\S\n]*{_TOP})?)",
    re.IGNORECASE,
)
# What follows a number and makes it something else: a sum, a decimal comma, a fraction, a longer numeral.
_GOES_ON = re.compile(rf"[^\S\n]*[+=×]|[,，]\d|[½⅓⅔¼¾]|点|[{_CHINESE}百千]")
_RANGE = re.compile(rf"[^\S\n]*(?:[-–—~～]|to\b|到|or\b)[^\S\n]*(?:{_NUMBER})", re.IGNORECASE)
_AFTER_CHINESE = re.compile(r"[^\S\n]*(?:分|/|[\W_]|\Z)")
_PHRASE = re.compile(
    rf"(?P<number>{_NUMBER})\s*(?:/|out\s+of)\s*{_TOP}|打\s*(?P<zh>{_NUMBER})\s*分",
    re.IGNORECASE,
)
# A block that a template opened in the prompt has only its end in what was generated.
_THINK = re.compile(r"<think(?:ing)?>.*?(?:</think(?:ing)?>|\Z)|\A(?:(?!<think).)*?</think(?:ing)?>", re.DOTALL | re.I)


@dataclass(frozen=True, slots=True)
class Reading:
    """A verdict (a score, or the label of a comparison) and the span of the text (start, end) it was read from."""

    value: float | str
    span: tuple[int, int]


def extract_score(text: str, scale: Scale, announcement: str | None = None) -> float | Failure:
    """The score that a judge's completion announces.

    `announcement` is what the template asks for ("Score:"); by default the usual ones in English and
    Chinese. Fractions name the scale's top or are off the scale.

    >>> extract_score("Clear and right. Score: 4/5", Scale(0, 5, 1))
    4.0
    >>> extract_score("Score: 3/5", Scale(1, 10, 1)).reason
    'off-scale'
    >>> extract_score("I add 1 point for relevance.", Scale(0, 5, 1)).reason
    'missing'
    """
    reading = read_score(text, scale, announcement)
    return reading if isinstance(reading, Failure) else float(reading.value)


def read_score(text: str, scale: Scale, announcement: str | None = None) -> Reading | Failure:
    """As `extract_score`, with the span that the score was read from."""
    # One character stays one character, so that spans in the plain text are spans in the original.
    plain = "".join(_fold(c) for c in text)
    plain = _THINK.sub(lambda m: " " * len(m[0]), plain)
    if not plain.strip():
        reason = "only a thinking block was generated" if text.strip() else "the judge generated nothing"
        return Failure("empty", reason)
    announced = list(_announcement(announcement).finditer(plain))
    if announced:
        start = announced[-1].end()
        match = _VERDICT.match(plain, start)
        if match is None:
            if not plain[start:].strip(" \n\t*_`\"'<([{:="):
                return Failure("missing", "the text ends where the verdict should stand")
            shown = text[start : start + 40].strip()
            return Failure("malformed", f"the last announcement is followed by {shown!r}, not by a number")
        if (why := _not_a_number(plain, start, match)) is not None:
            shown = text[match.start("number") : match.end() + 12].splitlines()[0].strip()
            return Failure("malformed", f"the verdict is {why}: {shown!r}")
        return _on_scale(match["number"], match["top"], scale, match.span("number"))
    phrases = list(_PHRASE.finditer(plain))
    if phrases:
        last = phrases[-1]
        group = "zh" if last["zh"] else "number"
        return _on_scale(last[group], last["top"], scale, last.span(group))
    whole = re.fullmatch(
        rf"[\s*_`\"'<(\[]*(?P<number>{_NUMBER})\s*(?:points?|分)?[\s*_`\"'>)\].。!]*", plain, re.IGNORECASE
    )
    if whole:
        return _on_scale(whole["number"], None, scale, whole.span("number"))
    return Failure("missing", "no announcement of a score and no plain rating in the text")


def split_thinking(text: str) -> tuple[str, str]:
    """What a model thought, and what it then said.

    >>> split_thinking("<think>Is it?</think>It is.")
    ('<think>Is it?</think>', 'It is.')
    """
    thought = "".join(m[0] for m in _THINK.finditer(text))
    return thought, _THINK.sub("", text)


def _not_a_number(plain: str, start: int, match: re.Match[str]) -> str | None:
    """What a number after the announcement really is, when it is not the verdict."""
    number, end = match["number"], match.end("number")
    if _RANGE.match(plain, match.end()):
        return "a range"
    if _GOES_ON.match(plain, end):
        return "a sum or a longer number"
    if number[0] in _CHINESE and not _AFTER_CHINESE.match(plain, end):
        return "a word"
    if "\n" in plain[start : match.start("number")] and re.match(r"[.)][^\S\n]+\S", plain[end:]):
        return "an item of a list"
    return None


def _fold(character: str) -> str:
    folded = unicodedata.normalize("NFKC", character)
    return folded if len(folded) == 1 else character


def _announcement(asked: str | None) -> re.Pattern[str]:
    words = [asked.strip().rstrip(":：").strip()] if asked else list(ANNOUNCEMENTS)
    body = "|".join(re.escape("".join(_fold(c) for c in w)).replace(r"\ ", r"\s+") for w in words)
    # A colon or an equals sign must follow, closing marks of bold or quotes between: "**Score**: 4". Where no
    # announcement was asked for, "is" will do too; where one was, "the score is one point below" is prose.
    follows = "[:=]" if asked else r"(?:[:=]|\bis\b|为|是)"
    return re.compile(rf"(?:(?<![^\W_])|(?<=[一-鿿]))(?:{body})[\s*_`\"'\])]*{follows}", re.IGNORECASE)


def _value(number: str) -> float:
    word = number.lower()
    if word in _WORD_VALUES:
        return _WORD_VALUES[word]
    if len(word) == 2 and word[0] == "十":
        return 10 + _WORD_VALUES[word[1]]
    return float(number)


def _on_scale(number: str, top: str | None, scale: Scale, span: tuple[int, int]) -> Reading | Failure:
    score = _value(number)
    if top is not None and _value(top) != scale.high:
        return Failure("off-scale", f"{number}/{top} does not name the scale {scale}")
    if score not in scale:
        return Failure("off-scale", f"{number} is not on the scale {scale}")
    return Reading(score, span)


def read_json_score(text: str, scale: Scale, key: str) -> Reading | Failure:
    """The number under `key` of the JSON object that was generated, on the scale."""
    found = _json_value(text, key)
    if isinstance(found, Failure):
        return found
    value, span = found
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return Failure("malformed", f"{key!r} holds {value!r}, not a number")
    try:
        score = float(value)
    except ValueError:
        return Failure("malformed", f"{key!r} holds {value!r}, not a number")
    if score not in scale:
        return Failure("off-scale", f"{value} is not on the scale {scale}")
    return Reading(score, span)


def read_label(text: str, labels: Sequence[str], announcement: str) -> Reading | Failure:
    """The label that a comparing judge announces last: "Verdict: A"."""
    plain = _THINK.sub(lambda m: " " * len(m[0]), "".join(_fold(c) for c in text))
    if not plain.strip():
        return Failure("empty", "the judge generated nothing")
    announced = list(_announcement(announcement).finditer(plain))
    if not announced:
        return Failure("missing", f"no {announcement!r} in the text")
    start = announced[-1].end()
    spelled = "|".join(re.escape(label) for label in sorted(labels, key=len, reverse=True))
    match = re.compile(rf"{_OPEN}(?P<label>{spelled})(?![\w])", re.IGNORECASE).match(plain, start)
    if match is None:
        if not plain[start:].strip(" \n\t*_`\"'<([{:="):
            return Failure("missing", "the text ends where the verdict should stand")
        shown = text[start : start + 40].strip()
        return Failure("malformed", f"the last announcement is followed by {shown!r}, not by a label")
    said = next(label for label in labels if label.lower() == match["label"].lower())
    return Reading(said, match.span("label"))


def read_json_label(text: str, labels: Sequence[str], key: str) -> Reading | Failure:
    """The label under `key` of the JSON object that was generated."""
    found = _json_value(text, key)
    if isinstance(found, Failure):
        return found
    value, span = found
    if str(value) not in labels:
        return Failure("malformed", f"{key!r} holds {value!r}, which is none of {', '.join(labels)}")
    return Reading(str(value), span)


def _json_value(text: str, key: str) -> tuple[object, tuple[int, int]] | Failure:
    """The value of a key of the last JSON object in the text, and where it stands."""
    if not text.strip():
        return Failure("empty", "the judge generated nothing")
    start = text.find("{")
    if start < 0:
        return Failure("missing", "no JSON object in the text")
    try:
        found, end = json.JSONDecoder().raw_decode(text, start)
    except ValueError:
        return Failure("malformed", "the JSON object is not whole")
    if key not in found:
        return Failure("missing", f"the JSON object has no {key!r}")
    places = [m for m in re.finditer(rf'"{re.escape(key)}"\s*:\s*', text) if m.end() < end]
    begin = places[-1].end()
    return found[key], (begin, end - 1)
