"""Scores: the number that a judge's completion announces, on its scale.

A number is digits, "four", "八" or "八十五", with "points", "stars", "分". "4/5" and "4 out of 5" must name the scale's
top, "80%" a top of 100; any other is off-scale. A sum counts where it is right and
ends its line ("1+1+1+0 = 3"). A range, another sum, a decimal comma, "4 and a half", "4+", "4?", "about 4",
"1e1", "1 point for style", "4 criteria" are malformed, and so are "N/A" and a row of stars. Without an announcement,
only one rating ("I rate it 8 out of 10", "打9分", or a line of its own) or a text that is only a number counts.
"""

from __future__ import annotations

import re
import unicodedata

from judges.extraction.announcement import is_quoted, last_announcement, unreadable_verdict
from judges.extraction.patterns import CLOSING, MARKS, OPENING, SPACE, TRAILING
from judges.extraction.reading import Reading, missing_verdict
from judges.types import Failure, Scale

_WORDS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"]
_CHINESE = "零一二三四五六七八九"
_WORD_VALUES = {word: float(i) for i, word in enumerate(_WORDS)}
_WORD_VALUES |= {c: float(i) for i, c in enumerate(_CHINESE)} | {"〇": 0.0, "两": 2.0, "一百": 100.0}
_DIGITS = r"\d{1,12}(?:\.\d{1,12})?(?!\.{0,3}\d)"
_SPELLED = rf"\b(?:{'|'.join(_WORDS)})\b|一百|[一二三四五六七八九]?十[一二三四五六七八九]?|[{_CHINESE}〇两]"
_NUMBER = rf"(?:[-+]?{_DIGITS}|{_SPELLED})"
_UNIT = rf"(?:{SPACE}(?:-?stars?\b|(?:points?(?!\s(?:\d|{'|'.join(_WORDS[1:])}))|pts?|marks?)\b|分|颗?星))?"
_OUT_OF = (
    rf"(?:/|out\s{{1,4}}of\b|of\b|满分(?:为|是|:)?)"
    rf"{SPACE}(?:(?:an?|the)\s{{1,4}})?(?:(?:possible|total|max|maximum)\s{{1,4}})?(?:of\s{{1,4}})?[{MARKS}(\[<]{{0,4}}"
)
_VERDICT = re.compile(
    rf"(?P<open>{OPENING})(?P<number>{_NUMBER})(?P<close>{CLOSING})(?P<unit>{_UNIT})(?P<close2>{CLOSING})"
    rf"(?:{SPACE}[,(]?{SPACE}(?:(?P<percent>%|per\s?cent\b)|(?P<of>{_OUT_OF})(?P<top>{_NUMBER})?{_UNIT}){CLOSING})?",
    re.IGNORECASE,
)
# What may follow a number and make it something else. They are tried where the verdict ends, in this order.
_CONTINUATIONS = (
    (
        "a range",
        rf"{SPACE}\(?(?:->|→|=>|to\b|or\b|and\b|vs\b|[-–—~到至或和、&]){SPACE}(?:[-+]?{_DIGITS}|[{_CHINESE}十])",
    ),
    ("a range", rf"(?:{SPACE}\(?(?:to|or|and|vs){SPACE}|[-–—~]){_NUMBER}"),
    (
        "a sum or a longer number",
        rf"{SPACE}[+=×]|\s?\d|[,:]{SPACE}\d|点|分?半|[{_CHINESE}十百千万亿成]|[-^](?=\s|\Z)",
    ),
    ("a sum or a longer number", rf"{SPACE}(?:and\s(?:a\s)?(?:half|quarter)|point\s|plus\b|minus\b)"),
    ("in doubt", r"\?"),
    ("in doubt", rf"{SPACE}(?:would|could|might|may|should|seems?|(?:is|was)\s(?:too|not))\b"),
    ("a word", r"[^\W\d]|/"),
    ("the points of one criterion", rf"(?:(?<=point)|(?<=points)|(?<=pts)){SPACE}(?:for|to)\b"),
    (
        "a count of something else",
        rf"{SPACE}(?:criteri|statement|reason|error|issue|requirement|flaw|mistake|item|test)",
    ),
)
_CONTINUATION_PATTERNS = [(kind, re.compile(pattern, re.IGNORECASE)) for kind, pattern in _CONTINUATIONS]
_SENTENCE = re.compile(r"[^\n。；;.]{0,400}")
# A sum of points that ends its line: "1+1+1+0 = 3".
_SUM = re.compile(
    rf"{OPENING}(?P<parts>{_DIGITS}(?:{SPACE}\+{SPACE}{_DIGITS}){{1,16}}){SPACE}={SPACE}[{MARKS}]{{0,4}}(?P<total>{_DIGITS})"
    rf"(?:{SPACE}/{SPACE}(?P<top>{_DIGITS}))?{CLOSING}\.?{SPACE}(?=\n|\Z)"
)
# A second number that takes the announced one back: "Score: 4; no, I give 3".
_TAKEN_BACK = re.compile(
    r"(?:\b(?:I(?:'d|\swould|\swill|'ll)?\s(?:\w{1,12}\s)?(?:give|rate|score|assign|choose|say|award)|no|actually|rather|instead"
    r"|but|wait|make\sit|make\sthat|or)\b|不对|应为|应该|改为|而是)[^\d\n]{0,30}\d",
    re.IGNORECASE,
)
_IN_BRACKETS = re.compile(r"\([^()]{0,400}\)")
# After "one" or "一": punctuation, a bracket or a reason; "one of the best" is no number.
_AFTER_WORD = re.compile(rf"(?!-\w){SPACE}(?:[^\w\s]|\n|\Z|(?:because|since|as|for|due|overall)\b)", re.IGNORECASE)
_PHRASE = re.compile(
    rf"(?<![A-Za-z0-9_.=+*/^$€£-])(?:(?P<number>{_NUMBER}){SPACE}(?:/|out\s{{1,4}}of\b){SPACE}(?P<top>{_NUMBER})"
    rf"|打[了出]?{SPACE}(?P<zh>{_NUMBER}){SPACE}分(?!半)){_UNIT}"
    rf"(?=\s{{0,8}}\Z|{SPACE}\n|{SPACE}[^\w\s/%]|{SPACE}(?:overall|for|because|since|as|due|given|but)\b|[的，])",
    re.IGNORECASE,
)
_RATES = re.compile(
    r"\bI(?:'d|'ll)?\s(?:\w{1,12}\s){0,2}(?:give|rate|score|grade|award|assign)|\b(?:rat(?:ing|ed)|scor(?:e|es|ed)|graded?"
    r"|deserves?|earns?|merits?|overall|a\s(?:solid|strong|weak|clear|fair|good|clean|perfect))\b|评|打|得分|总分",
    re.IGNORECASE,
)
_NEGATED = re.compile(r"\b(?:not|never|cannot)\b|n['’]t\b|不", re.IGNORECASE)


def extract_score(text: str, scale: Scale, announcement: str | None = None) -> float | Failure:
    """The score that a judge's completion announces, or a Failure: missing, malformed, off-scale, empty or refused.

    `announcement` is the one that the template asks for ("Score:"); by default the usual ones in English and Chinese.
    The denominator of a fraction must be the scale's top.

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
    """The score as a `Reading`, with the span it was read from; otherwise the same as `extract_score`."""
    found = last_announcement(text, announcement)
    if isinstance(found, Failure):
        return found
    visible, announced = found
    if announced is not None:
        bounds = re.findall(_DIGITS, announced["scale"] or "")
        if bounds and float(bounds[-1]) != scale.high:
            return Failure("off-scale", f"{announced[0]!r} does not name the scale {scale}")
        if (total := _SUM.match(visible, announced.end())) is not None:
            parts = [float(part) for part in re.findall(_DIGITS, total["parts"])]
            if abs(sum(parts) - float(total["total"])) > 1e-9:
                return Failure("malformed", f"the sum is wrong: {total[0].strip()!r}")
            return _on_scale(total["total"], total["top"], scale, total.span("total"))
        match = _VERDICT.match(visible, announced.end())
        if match is None:
            return unreadable_verdict(text, visible, announced.end(), "a number")
        return _number(visible, match, scale)
    if (reading := read_bare_number(visible, scale)) is not None:
        return reading
    ratings = [m for m in _PHRASE.finditer(visible) if _is_rating(visible, m)]
    if len(ratings) > 1:
        return Failure("malformed", f"{len(ratings)} ratings, and no announcement says which is the verdict")
    if ratings:
        group = "zh" if ratings[0]["zh"] else "number"
        return _on_scale(ratings[0][group], ratings[0]["top"], scale, ratings[0].span(group))
    return missing_verdict(visible, "no announcement of a score and no rating in the text")


def read_bare_number(text: str, scale: Scale) -> Reading | Failure | None:
    """The score of a normalized text that is only a number; None for any other text.

    >>> read_bare_number("4 / 5", Scale(0, 5, 1)), read_bare_number("4 errors", Scale(0, 5, 1))
    (Reading(value=4.0, span=(0, 1)), None)
    """
    match = _VERDICT.match(text)
    return _number(text, match, scale) if match and TRAILING.match(text, match.end()) else None


def _is_rating(text: str, match: re.Match[str]) -> bool:
    """Whether "3/5" is a rating: alone on its line, or in a sentence that rates; in "x = 3/5" it is not."""
    before = re.split(r"[.!?。！？;\n]", text[max(0, match.start() - 160) : match.start() + bool(match["zh"])])[-1]
    rates = _RATES.search(before) or not re.search(r"\w", before)
    return bool(rates) and not _NEGATED.search(before) and not is_quoted(text, match.start())


def _number(text: str, match: re.Match[str], scale: Scale) -> Reading | Failure:
    kind = _not_a_number(text, match)
    if kind is not None:
        excerpt = text[match.start("number") : match.end() + 12].split("\n", 1)[0].strip()
        return Failure("malformed", f"the verdict is {kind}: {excerpt!r}")
    return _on_scale(match["number"], "100" if match["percent"] else match["top"], scale, match.span("number"))


def _not_a_number(text: str, match: re.Match[str]) -> str | None:
    """What a number after the announcement is instead of the verdict; None where it is the verdict."""
    number, end = match["number"], match.end()
    closed = match["close"] + match["close2"]
    if match["of"] and not match["top"]:
        return "a part of another number"
    if any(o in match["open"] and c not in text[match.end("number") : end] for o, c in ("<>", "$$")):
        return "not a number alone"
    if "\n" in match["open"] and re.match(r"[.)][^\S\n]+\S", text[match.end("number") :][:16]):
        return "an item of a list"
    alone = not match["unit"] and not match["of"] and not match["percent"]
    if not number[-1].isdigit() and alone and not closed and not _AFTER_WORD.match(text, end):
        return "a word or a longer number"
    for kind, pattern in _CONTINUATION_PATTERNS:
        found = pattern.match(text, end)
        if found is None:
            continue
        # In "8分因为" the word after the unit begins a clause; a Chinese word right after "4" makes another number.
        if kind == "a word" and "一" <= found[0] <= "鿿" and not alone:
            continue
        return kind
    if unicodedata.category(text[end : end + 1] or " ") == "No":
        return "a sum or a longer number"
    sentence = _SENTENCE.match(text, end)
    if sentence and re.search(r"[+=×]\s?\d", _IN_BRACKETS.sub("", sentence[0])):
        return "a sum or a longer number"
    line = text[end : end + 200].split("\n", 1)[0]
    if _TAKEN_BACK.search(re.split(r"[.。!！](?=\s|\Z)", line)[0]):
        return "followed by a second number"
    return None


def _value(number: str) -> float:
    word = number.lower()
    if word not in _WORD_VALUES and "十" in word:
        tens, ones = word.split("十")
        return 10 * _WORD_VALUES.get(tens, 1.0) + _WORD_VALUES.get(ones, 0.0)
    return _WORD_VALUES[word] if word in _WORD_VALUES else float(number) + 0.0


def _on_scale(number: str, top: str | None, scale: Scale, span: tuple[int, int]) -> Reading | Failure:
    score = _value(number)
    if top is not None and _value(top) != scale.high:
        return Failure("off-scale", f"{number}/{top} does not name the scale {scale}")
    if score not in scale:
        return Failure("off-scale", f"{number} is not on the scale {scale}")
    return Reading(score, span)
