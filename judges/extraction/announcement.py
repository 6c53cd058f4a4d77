"""The announcement of a verdict ("Score:", "Verdict:"): the last one of a text decides."""

from __future__ import annotations

import re
from functools import lru_cache

from judges.extraction.normalize import normalize, visible_text
from judges.extraction.patterns import MARKS
from judges.types import Failure

ANNOUNCEMENTS = ("score", "rating", "评分", "得分", "打分", "分数", "总分", "評分", "分數", "總分")


@lru_cache(maxsize=64)
def _announcement_pattern(announcement: str | None) -> re.Pattern[str]:
    words = [w for w in [(announcement or "").strip().rstrip(":：").strip()] if w] or list(ANNOUNCEMENTS)
    body = "|".join(re.escape(normalize(w)).replace(r"\ ", r"\s{1,4}") for w in words)
    # A colon or an equals sign must follow; closing marks of bold or quotations may stand between: "**Score**: 4".
    # Without a given announcement "is" is enough; with one, "the score is one point below" is prose.
    follows = "[:=]" if announcement else r"(?:[:=]|\bis\b|为|是)"
    close = rf"[\s{MARKS}\])}}>」』】》]{{0,12}}"
    return re.compile(
        rf"(?:(?<![^\W_])|(?<=[一-鿿]))(?:{body})(?P<close>{close})(?:\((?P<scale>[^()\n:]{{0,40}})\){close})?{follows}",
        re.IGNORECASE,
    )


# Words before an announcement that make it one of another kind, and words that leave it the verdict's own.
_OTHER_KIND = re.compile(
    r"(?:\b(?:max\.?|maximum|min|minimum|highest|lowest|top|possible|perfect|full|higher|lower|better|worse|confidence"
    r"|certainty|previous|prior|earlier|old|initial|first|original|last|past|reference|average|mean|baseline|relevance"
    r"|style|clarity|accuracy|helpfulness|correctness|completeness|fluency|safety|depth|tone|format|sub)"
    rf"[\s_{MARKS}-]{{1,4}}|(?:最高|最低|满|更高|上次|上一次|之前|此前|先前|原|初始|初步|历史|参考|平均|置信度?|信心|风格|[性度])的?)\Z",
    re.IGNORECASE,
)
_OWN = re.compile(
    r"\b(?:overall|final|total|quality|combined|resulting|revised|updated|corrected|adjusted|new|the|my|this|a|its|your|and"
    r"|so|is|thus|therefore|hence|verdict|evaluation|response|answer)\Z",
    re.IGNORECASE,
)


def _kind(text: str, start: int) -> str:
    """ "own", "other" or "unknown": what the words before an announcement, in its line, make of it."""
    before = text[max(0, start - 40) : start].rsplit("\n", 1)[-1]
    if _OTHER_KIND.search(before):
        return "other"
    bare = before.rstrip(" \t_" + MARKS)
    return "own" if not re.search(r"[A-Za-z]\Z", bare) or _OWN.search(bare) else "unknown"


def _number_after(text: str, end: int) -> str | None:
    found = re.compile(r"[^\w\n]{0,12}(\d{1,12}(?:\.\d{1,12})?)").match(text, end)
    return found[1] if found else None


def _deciding(text: str, found: list[re.Match[str]]) -> re.Match[str] | Failure:
    """The last announcement that is the verdict's own; one of another kind decides only where there is no own one."""
    kinds = [_kind(text, match.start()) for match in found]
    own = max((i for i, kind in enumerate(kinds) if kind == "own"), default=None)
    rest = (
        [m for m, kind in zip(found, kinds, strict=True) if kind == "unknown"]
        if own is None
        else [m for m, kind in zip(found[own:], kinds[own:], strict=True) if kind == "unknown"]
    )
    deciding = found[own] if own is not None else (rest or found)[-1]
    numbers = {_number_after(text, m.end()) for m in [deciding, *(rest or (found if own is None else []))]}
    if len(numbers) > 1:
        return Failure("malformed", "announcements of different kinds have different verdicts")
    return deciding


def last_announcement(text: str, announcement: str | None) -> tuple[str, re.Match[str] | None] | Failure:
    """(visible text, match) of the last announcement; the match is None where there is none.

    `announcement` is the template's ("Score:"); None stands for the usual ones in `ANNOUNCEMENTS`. A text that is
    empty and an announcement inside a quotation are Failures. The match has a group `scale`: what stands in
    parentheses, as in "Score (0-5):".
    """
    visible = visible_text(text)
    if isinstance(visible, Failure):
        return visible
    found = list(_announcement_pattern(announcement).finditer(visible))
    last = found[-1] if found else None
    # In '"score": 7' the quotation ends before the colon: a key, not a quotation.
    if last is not None and not set(last["close"]) & set("\"'`”’") and is_quoted(visible, last.start()):
        return Failure("malformed", f"the last announcement is a quotation: {visible[last.start() :][:40]!r}")
    if last is None or len(found) == 1:
        return visible, last
    deciding = _deciding(visible, found)
    return deciding if isinstance(deciding, Failure) else (visible, deciding)


def is_quoted(text: str, position: int) -> bool:
    """Whether a position is inside quotation marks that open and close in its line, or in a markdown quotation."""
    begin = max(text.rfind("\n", max(0, position - 400), position) + 1, position - 400, 0)
    rest = text[position : position + 400].split("\n", 1)[0]
    line = text[begin:position].replace("```", "   ")
    if line.lstrip().startswith(">"):
        return True
    inside = any(line.count(mark) % 2 and mark in rest for mark in '"`')
    inside |= any(line.rfind(o) > line.rfind(c) and c in rest for o, c in ("“”", "‘’", "「」", "『』", "«»"))
    inside |= re.search(r"(?:^|[\s(:,])'\Z", line) is not None and "'" in rest
    # A last line that is nothing but the verdict in quotation marks copies the form that the prompt showed.
    alone = not line.strip(" \t*_-#\"'“‘「『`") and re.compile(r"\s*\Z").match(text, position + len(rest)) is not None
    return inside and not alone


def unreadable_verdict(text: str, visible: str, start: int, expected: str) -> Failure:
    """The Failure of an announcement that ends at `start` and is not followed by the `expected` verdict."""
    if not visible[start : start + 200].strip(" \n\t*_`\"'<([{:="):
        return Failure("missing", "the text ends after the announcement, without a verdict")
    return Failure(
        "malformed", f"the last announcement is followed by {text[start : start + 40].strip()!r}, not {expected}"
    )
