"""Generated text to a score or a label, or to a Failure that says why not.

Contract. Only what was GENERATED is read. Nothing is clamped, rescaled or guessed; where two readings can be
defended, the reading is a Failure.

- Thinking is set aside: a `<think>` block, one left open, and all that stands before an end tag without a start.
- The LAST announcement ("Score:", in any case, bold, in brackets, "Score (0-5):") decides, well-formed or not; a
  malformed one never falls back to an earlier mention. One that is quoted (in quotation marks or backticks within a
  line, or in a line that begins with ">") is malformed too: it may be the response's own.
- A number is digits, "four", "八" or "八十五", with "points", "stars", "分". "4/5", "4 out of 5" must name the scale's
  top, "80%" a top of 100; anything else is off-scale. A range, a sum, a decimal comma, "4 and a half", "4+", "4?",
  "about 4", "1e1", "1 point for style", "4 criteria" are malformed, and so are "N/A" and a row of stars.
- Without an announcement only ONE plain rating ("I rate it 8 out of 10", "打9分", or a line of its own) or a text
  that is a number counts; several such ratings are malformed.
- A label follows its announcement, after "Response", "Assistant", "回答" or nothing, in any case. Behind it stands
  nothing, punctuation, or that it is better. "A and B", "A > B", "A is worse", "neither" are malformed. A label alone,
  without its announcement, is missing.
- JSON: the last object that has the key at its top level decides, its case and a colon aside. A key twice with
  unlike values, null, true, a list, and any object that is not whole JSON are malformed, and nothing after an object
  that is not whole is read. A verdict in a string is read by the rules above and has to fill it.
- `refused` needs a text that begins with "I cannot rate …", "抱歉，我无法评分" or the like, and holds no verdict.

Repeats in patterns are bounded: time is linear in the text. A span points into the original text.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from judges.extraction.json_object import json_members
from judges.extraction.thinking import THINK_END, THINK_TAG, thoughts
from judges.types import Failure, Scale

ANNOUNCEMENTS = ("score", "rating", "评分", "得分", "打分", "分数", "总分", "評分", "分數", "總分")
_WORDS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"]
_CHINESE = "零一二三四五六七八九"
_WORD_VALUES = {word: float(i) for i, word in enumerate(_WORDS)}
_WORD_VALUES |= {c: float(i) for i, c in enumerate(_CHINESE)} | {"〇": 0.0, "两": 2.0, "一百": 100.0}
_SPACE = r"[^\S\n]{0,8}"
_DIGITS = r"\d{1,12}(?:\.\d{1,12})?(?!\.{0,3}\d)"
_SPELLED = rf"\b(?:{'|'.join(_WORDS)})\b|一百|[一二三四五六七八九]?十[一二三四五六七八九]?|[{_CHINESE}〇两]"
_NUMBER = rf"(?:[-+]?{_DIGITS}|{_SPELLED})"
_MARKS = r"*_`\"'“”‘’"
_OPEN = rf"(?:\\boxed\{{|\\[(\[]|[\s{_MARKS}<(\[{{「『【《:=$]){{0,24}}"
_CLOSE = rf"[{_MARKS}>)\]}}」』】》$]{{0,12}}"
_UNIT = rf"(?:{_SPACE}(?:-?stars?\b|(?:points?(?!\s(?:\d|{'|'.join(_WORDS[1:])}))|pts?|marks?)\b|分|颗?星))?"
_OUT_OF = (
    rf"(?:/|out\s{{1,4}}of\b|of\b|满分(?:为|是|:)?)"
    rf"{_SPACE}(?:(?:an?|the)\s{{1,4}})?(?:(?:possible|total|max|maximum)\s{{1,4}})?(?:of\s{{1,4}})?[{_MARKS}(\[<]{{0,4}}"
)
_VERDICT = re.compile(
    rf"(?P<open>{_OPEN})(?P<number>{_NUMBER})(?P<close>{_CLOSE})(?P<unit>{_UNIT})(?P<close2>{_CLOSE})"
    rf"(?:{_SPACE}[,(]?{_SPACE}(?:(?P<percent>%|per\s?cent\b)|(?P<of>{_OUT_OF})(?P<top>{_NUMBER})?{_UNIT}){_CLOSE})?",
    re.IGNORECASE,
)
# What follows a number and makes it something else. Each is tried where the verdict ends, in this order.
_AFTER = (
    (
        "a range",
        rf"{_SPACE}\(?(?:->|→|=>|to\b|or\b|and\b|vs\b|[-–—~到至或和、&]){_SPACE}(?:[-+]?{_DIGITS}|[{_CHINESE}十])",
    ),
    ("a range", rf"(?:{_SPACE}\(?(?:to|or|and|vs){_SPACE}|[-–—~]){_NUMBER}"),
    (
        "a sum or a longer number",
        rf"{_SPACE}[+=×]|\s?\d|[,:]{_SPACE}\d|点|分?半|[{_CHINESE}十百千万亿成]|[-^](?=\s|\Z)",
    ),
    ("a sum or a longer number", rf"{_SPACE}(?:and\s(?:a\s)?(?:half|quarter)|point\s|plus\b|minus\b)"),
    ("in doubt", r"\?"),
    ("a word", r"[^\W\d]|/"),
    ("the points of one criterion", rf"(?:(?<=point)|(?<=points)|(?<=pts)){_SPACE}(?:for|to)\b"),
    (
        "a count of something else",
        rf"{_SPACE}(?:criteri|statement|reason|error|issue|requirement|flaw|mistake|item|test)",
    ),
)
_GOES_ON = [(why, re.compile(pattern, re.IGNORECASE)) for why, pattern in _AFTER]
_SENTENCE = re.compile(r"[^\n。；;.]{0,400}")
_IN_BRACKETS = re.compile(r"\([^()]{0,400}\)")
# After "one" or "一": punctuation, a bracket or a reason; "one of the best" is no number.
_AFTER_WORD = re.compile(rf"(?!-\w){_SPACE}(?:[^\w\s]|\n|\Z|(?:because|since|as|for|due|overall)\b)", re.IGNORECASE)
_PHRASE = re.compile(
    rf"(?<![A-Za-z0-9_.=+*/^$€£-])(?:(?P<number>{_NUMBER}){_SPACE}(?:/|out\s{{1,4}}of\b){_SPACE}(?P<top>{_NUMBER})"
    rf"|打[了出]?{_SPACE}(?P<zh>{_NUMBER}){_SPACE}分(?!半)){_UNIT}"
    rf"(?=\s{{0,8}}\Z|{_SPACE}\n|{_SPACE}[^\w\s/%]|{_SPACE}(?:overall|for|because|since|as|due|given|but)\b|[的，])",
    re.IGNORECASE,
)
_RATES = re.compile(
    r"\bI(?:'d|'ll)?\s(?:\w{1,12}\s){0,2}(?:give|rate|score|grade|award|assign)|\b(?:rat(?:ing|ed)|scor(?:e|es|ed)|graded?"
    r"|deserves?|earns?|merits?|overall|a\s(?:solid|strong|weak|clear|fair|good|clean|perfect))\b|评|打|得分|总分",
    re.IGNORECASE,
)
_NEGATED = re.compile(r"\b(?:not|never|cannot)\b|n['’]t\b|不", re.IGNORECASE)
# An opening word that can be nothing but a refusal: "I cannot fault it" and "I cannot rate it higher" are verdicts.
_TASK = (
    r"(?:rate|score|grade|judge|evaluate|assess|compare|rank|assist|comply|help(?!\s(?:but|notic|feel|think))"
    r"|(?:provide|give|assign|offer)\s(?:(?:you|with|an?|any|this|that|such|the|requested|numerical)\s){0,4}"
    r"(?:scores?|ratings?|grade|verdict|judge?ment|evaluation|assessment|comparison|assistance|help)\b)"
)
_REFUSAL = re.compile(
    r"\W{0,8}(?:(?:I['’]?\s?a?m\s(?:very\s)?sorry|sorry|I\sapologi[sz]e|unfortunately|as\san\sAI[\w\s]{0,20})\W{1,3}(?:but\s)?)?"
    rf"I(?:['’]m|\sam)?\s(?:cannot|can['’]?t|can\snot|won['’]?t|will\snot|unable\sto|not\sable\sto|must\sdecline\sto)\s{_TASK}"
    r"(?![^.!?\n]{0,200}\b(?:higher|lower|more|less|above|better|full|perfect|than|whether|how|if|but|as)\b)"
    r"|\W{0,4}(?:(?:很|非常|十分)?(?:抱歉|对不起|遗憾)\W{0,3})?(?:但)?(?:作为[^，,。\n]{0,16}\W)?我(?:无法|不能|拒绝|不便)"
    r"(?:对[^，。\n]{0,20})?(?:进行|给出|提供|做出)?(?:评分|评判|评估|评价|打分|比较|回答|协助|帮助)(?![^。\n]{0,60}(?:更高|满分|但|是否))",
    re.IGNORECASE,
)
_NOUN = r"(?:response|answer|assistant|model|output|option|candidate|回答|答案|回复|助手|模型|选项|选择)"
_BETTER = (
    r"(?:(?:is|was)\s(?!(?:\w{1,12}\s){0,3}(?:not|no|never|hardly|less|worse)\b)(?:\w{1,12}\s){0,3}"
    r"(?:better|best|stronger|superior|preferred|winner)\b|wins\b|(?:because|since|as|for|by|between|overall)\b)"
)
_BETTER_ZH = r"(?:号?(?:回答|答案)?(?:更好|更优|更佳|较好|最好|最佳|胜出|获胜|胜)(?!吗)|号(?![^\W_]))"
_TRAIL = re.compile(r"[\s.。!]{0,64}\Z")


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
    found = _last_announcement(text, announcement)
    if isinstance(found, Failure):
        return found
    plain, announced = found
    if announced is not None:
        named = re.findall(_DIGITS, announced["named"] or "")
        if named and float(named[-1]) != scale.high:
            return Failure("off-scale", f"{announced[0]!r} does not name the scale {scale}")
        match = _VERDICT.match(plain, announced.end())
        return _number(plain, match, scale) if match else _unreadable(text, plain, announced.end(), "a number")
    whole = _VERDICT.match(plain)
    if whole and _TRAIL.match(plain, whole.end()):
        return _number(plain, whole, scale)
    ratings = [m for m in _PHRASE.finditer(plain) if _is_rating(plain, m)]
    if len(ratings) > 1:
        return Failure("malformed", f"{len(ratings)} ratings, and no announcement says which is the verdict")
    if ratings:
        group = "zh" if ratings[0]["zh"] else "number"
        return _on_scale(ratings[0][group], ratings[0]["top"], scale, ratings[0].span(group))
    return _missing(plain, "no announcement of a score and no plain rating in the text")


def read_json_score(text: str, scale: Scale, key: str) -> Reading | Failure:
    """The number under `key` of the JSON object that was generated, on the scale.

    >>> read_json_score('{"why": "short", "score": 7}', Scale(1, 10, 1), "score")
    Reading(value=7.0, span=(26, 27))
    """
    found = _json_value(text, key)
    if isinstance(found, Failure):
        return found
    value, span = found
    if isinstance(value, str):
        plain = _plain(value)
        match = _VERDICT.match(plain)
        if match is None or not _TRAIL.match(plain, match.end()):
            return Failure("malformed", f"{key!r} holds {value[:40]!r}, not a number")
        reading = _number(plain, match, scale)
        return reading if isinstance(reading, Failure) else Reading(reading.value, span)
    if not isinstance(value, float):
        return Failure("malformed", f"{key!r} holds {str(value)[:40]}, not a number")
    if value not in scale:
        return Failure("off-scale", f"{value:g} is not on the scale {scale}")
    return Reading(value + 0.0, span)


def read_label(text: str, labels: Sequence[str], announcement: str) -> Reading | Failure:
    """The label that a comparing judge announces last.

    >>> read_label("Both are short. **Verdict:** [[B]]", ["A", "B", "tie"], "Verdict:")
    Reading(value='B', span=(31, 32))
    >>> read_label("Verdict: A and B", ["A", "B", "tie"], "Verdict:").reason
    'malformed'
    """
    found = _last_announcement(text, announcement)
    if isinstance(found, Failure):
        return found
    plain, announced = found
    if announced is None:
        return _missing(plain, f"no {announcement!r} in the text")
    before, after = _label_patterns(tuple(labels))
    match = before.match(plain, announced.end())
    if match is None or not after.match(plain, match.end()):
        return _unreadable(text, plain, announced.end(), f"one of {', '.join(labels)} alone")
    return Reading(_which(match["label"], labels), match.span("label"))


def read_json_label(text: str, labels: Sequence[str], key: str) -> Reading | Failure:
    """The label under `key` of the JSON object that was generated; a number may stand for a label of digits."""
    found = _json_value(text, key)
    if isinstance(found, Failure):
        return found
    value, span = found
    said = f"{value:g}" if isinstance(value, float) else _plain(value) if isinstance(value, str) else ""
    before, _ = _label_patterns(tuple(labels))
    match = before.match(said)
    if match is None or not _TRAIL.match(said, match.end()):
        return Failure("malformed", f"{key!r} holds {str(value)[:40]!r}, which is none of {', '.join(labels)}")
    return Reading(_which(match["label"], labels), span)


def _said(text: str) -> str | Failure:
    """The text in plain characters with its thinking blank, as long as it was: spans stay true."""
    plain = _plain(text)
    parts, at = [], 0
    for start, end in thoughts(text):
        parts += [plain[at:start], " " * (end - start)]
        at = end
    said = "".join(parts) + plain[at:]
    if said.strip():
        return said
    return Failure("empty", "only a thinking block was generated" if text.strip() else "the judge generated nothing")


def _plain(text: str) -> str:
    return text if text.isascii() else "".join(map(_fold, text))


@lru_cache(maxsize=4096)
def _fold(character: str) -> str:
    """Full-width, small and mathematical letters as plain ones, what has no width as a space; one stays one."""
    if character in "−∶":
        return "-" if character == "−" else ":"
    if unicodedata.category(character) == "Cf":
        return " "
    form, _, code = unicodedata.decomposition(character).partition(" ")
    return chr(int(code, 16)) if form in ("<wide>", "<narrow>", "<font>", "<small>") and " " not in code else character


@lru_cache(maxsize=64)
def _announcement(asked: str | None) -> re.Pattern[str]:
    words = [w for w in [(asked or "").strip().rstrip(":：").strip()] if w] or list(ANNOUNCEMENTS)
    body = "|".join(re.escape(_plain(w)).replace(r"\ ", r"\s{1,4}") for w in words)
    # A colon or an equals sign must follow, closing marks of bold or quotes between: "**Score**: 4". Where no
    # announcement was asked for, "is" will do too; where one was, "the score is one point below" is prose.
    follows = "[:=]" if asked else r"(?:[:=]|\bis\b|为|是)"
    close = rf"[\s{_MARKS}\])}}>」』】》]{{0,12}}"
    return re.compile(
        rf"(?:(?<![^\W_])|(?<=[一-鿿]))(?:{body})(?P<close>{close})(?:\((?P<named>[^()\n:]{{0,40}})\){close})?{follows}",
        re.IGNORECASE,
    )


def _last_announcement(text: str, asked: str | None) -> tuple[str, re.Match[str] | None] | Failure:
    """What was said, in plain characters, and the announcement that decides."""
    plain, last = _said(text), None
    if isinstance(plain, Failure):
        return plain
    for last in _announcement(asked).finditer(plain):  # noqa: B007
        pass
    # In '"score": 7' the quotation ends before the colon: a key, not a quotation.
    if last is not None and not set(last["close"]) & set("\"'`”’") and _quoted(plain, last.start()):
        return Failure("malformed", f"the last announcement is a quotation: {plain[last.start() :][:40]!r}")
    return plain, last


def _quoted(plain: str, start: int) -> bool:
    """Whether this place is inside quotation marks that its line holds, or the line is one of a markdown quotation."""
    begin = max(plain.rfind("\n", max(0, start - 400), start) + 1, start - 400, 0)
    rest = plain[start : start + 400].split("\n", 1)[0]
    line = plain[begin:start].replace("```", "   ")
    if line.lstrip().startswith(">"):
        return True
    inside = any(line.count(mark) % 2 and mark in rest for mark in '"`')
    inside |= any(line.rfind(o) > line.rfind(c) and c in rest for o, c in ("“”", "‘’", "「」", "『』", "«»"))
    inside |= re.search(r"(?:^|[\s(:,])'\Z", line) is not None and "'" in rest
    # A last line that is nothing but the verdict in quotation marks copies what the prompt showed.
    alone = not line.strip(" \t*_-#\"'“‘「『`") and re.compile(r"\s*\Z").match(plain, start + len(rest)) is not None
    return inside and not alone


def _unreadable(text: str, plain: str, start: int, wanted: str) -> Failure:
    if not plain[start : start + 200].strip(" \n\t*_`\"'<([{:="):
        return Failure("missing", "the text ends where the verdict should stand")
    return Failure(
        "malformed", f"the last announcement is followed by {text[start : start + 40].strip()!r}, not {wanted}"
    )


def _missing(plain: str, why: str) -> Failure:
    if _REFUSAL.match(plain.lstrip()):
        return Failure("refused", f"the judge declined: {plain.strip()[:60]!r}")
    return Failure("missing", why)


def _is_rating(plain: str, match: re.Match[str]) -> bool:
    """Whether "3/5" rates: alone on its line, or in a sentence that rates; in "x = 3/5" it does not."""
    before = re.split(r"[.!?。！？;\n]", plain[max(0, match.start() - 160) : match.start() + bool(match["zh"])])[-1]
    rates = _RATES.search(before) or not re.search(r"\w", before)
    return bool(rates) and not _NEGATED.search(before) and not _quoted(plain, match.start())


def _number(plain: str, match: re.Match[str], scale: Scale) -> Reading | Failure:
    why = _not_a_number(plain, match)
    if why is not None:
        shown = plain[match.start("number") : match.end() + 12].split("\n", 1)[0].strip()
        return Failure("malformed", f"the verdict is {why}: {shown!r}")
    return _on_scale(match["number"], "100" if match["percent"] else match["top"], scale, match.span("number"))


def _not_a_number(plain: str, match: re.Match[str]) -> str | None:
    """What a number after the announcement really is, when it is not the verdict."""
    number, end = match["number"], match.end()
    closed = match["close"] + match["close2"]
    if match["of"] and not match["top"]:
        return "a part of something else"
    if any(o in match["open"] and c not in plain[match.end("number") : end] for o, c in ("<>", "$$")):
        return "not a number alone"
    if "\n" in match["open"] and re.match(r"[.)][^\S\n]+\S", plain[match.end("number") :][:16]):
        return "an item of a list"
    alone = not match["unit"] and not match["of"] and not match["percent"]
    if not number[-1].isdigit() and alone and not closed and not _AFTER_WORD.match(plain, end):
        return "a word or a longer number"
    for why, pattern in _GOES_ON:
        found = pattern.match(plain, end)
        if found is None:
            continue
        # "8分因为": behind a unit a Chinese word begins anew; after "4" alone it makes it another number.
        if why == "a word" and "一" <= found[0] <= "鿿" and not alone:
            continue
        return why
    if unicodedata.category(plain[end : end + 1] or " ") == "No":
        return "a sum or a longer number"
    sentence = _SENTENCE.match(plain, end)
    if sentence and re.search(r"[+=×]\s?\d", _IN_BRACKETS.sub("", sentence[0])):
        return "a sum or a longer number"
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


@lru_cache(maxsize=64)
def _label_patterns(labels: tuple[str, ...]) -> tuple[re.Pattern[str], re.Pattern[str]]:
    """A label as it may be introduced, and what may stand behind it."""
    spelled = [re.escape(_plain(label)) for label in sorted(labels, key=len, reverse=True)]
    words = "|".join(
        s for s, label in zip(spelled, sorted(labels, key=len, reverse=True), strict=True) if len(label) > 1
    )
    article = rf"(?:(?:an?|the)\s(?=(?:{words})(?!\w)))?" if words else ""
    any_label = rf"(?:{'|'.join(spelled)})"
    end = r"(?![A-Za-z0-9_]|[.,]\d)"
    before = rf"{_OPEN}(?:(?:the\s)?{_NOUN}[\s#]{{0,4}}{_OPEN})?#?{article}(?P<label>{any_label}){end}{_CLOSE}"
    another = rf"{_SPACE}[,/|&、]{_SPACE}(?:{_NOUN}\s?)?{any_label}(?!\w)"
    after = rf"(?!{another}){_SPACE}(?:\Z|\n|[.,;!()。，；！、（）:|<—–](?!\w?\d)|-(?=\s)|{_BETTER}|{_BETTER_ZH})"
    return re.compile(before, re.IGNORECASE), re.compile(after, re.IGNORECASE)


def _which(said: str, labels: Sequence[str]) -> str:
    exact = [label for label in labels if _plain(label) == said]
    return exact[0] if exact else next(label for label in labels if _plain(label).lower() == said.lower())


# -- JSON ---------------------------------------------------------------------------------------------------


def _json_value(text: str, key: str) -> tuple[Any, tuple[int, int]] | Failure:
    """The value of a key of the last JSON object that has it, and where it stands (a string without its quotes)."""
    said = _said(text)
    if isinstance(said, Failure):
        return said
    wanted = _key(key)
    begins = re.compile(rf"{THINK_TAG.pattern}|\[\s*\{{|\{{\s*(?:[\"'}}]|{re.escape(wanted)}\s*:)", re.IGNORECASE)
    held: list[tuple[Any, tuple[int, int]]] = []
    at, start, seen = 0, 0, False
    while (begin := begins.search(text, at)) is not None:
        at = begin.end()
        if begin["end"] is None:
            seen = True
            try:
                members, at = json_members(text, begin.start())
                named = [(value, span) for name, value, span in members if _key(name) == wanted]
                held, start = (named, begin.start()) if named else (held, start)
                continue
            except (ValueError, RecursionError):
                pass  # unless this was thought
        elif begin["end"]:
            held, seen = [], False
            continue
        closing = THINK_END.search(text, at)
        if closing is None and begin["end"] is None:
            return Failure("malformed", f"not a whole JSON object: {text[begin.start() :][:40]!r}")
        if closing is None:
            break
        at = closing.end()
        if begin["end"] is None:
            held, seen = [], False
    if not held:
        return (
            Failure("missing", f"no JSON object has {key!r}") if seen else _missing(said, "no JSON object in the text")
        )
    if _quoted(text, start):
        return Failure("malformed", "the last JSON object is a quotation")
    if any((type(value), value) != (type(held[0][0]), held[0][0]) for value, _ in held):
        return Failure("malformed", f"{key!r} stands twice, with unlike values")
    return held[-1]


def _key(name: str) -> str:
    return _plain(name).strip().rstrip(":").strip().lower()
