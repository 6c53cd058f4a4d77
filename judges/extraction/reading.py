"""What reading a verdict returns: a `Reading`, or the `Failure` of a text without one (missing, or a refusal)."""

from __future__ import annotations

import re
from dataclasses import dataclass

from judges.types import Failure

# An opening phrase that can only be a refusal: "I cannot fault it" and "I cannot rate it higher" are verdicts.
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


@dataclass(frozen=True, slots=True)
class Reading:
    """A verdict (a score, or the label of a comparison) and the span (start, end) of the text it was read from."""

    value: float | str
    span: tuple[int, int]


def missing_verdict(text: str, message: str) -> Failure:
    """The Failure of a text without a verdict: "refused" where the judge declines the task, else "missing".

    >>> missing_verdict("Sorry, I cannot rate this.", "no score").reason
    'refused'
    """
    if _REFUSAL.match(text.lstrip()):
        return Failure("refused", f"the judge declined: {text.strip()[:60]!r}")
    return Failure("missing", message)
