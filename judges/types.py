"""The data types that all modules share: Item, Judgment, Scorecard, Failure, Scale, Gold, Usage. All are frozen."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, TypedDict, get_args

FailureReason = Literal[
    "missing",  # the text holds no verdict
    "malformed",  # the verdict is there and cannot be read
    "off-scale",  # a number that the scale does not hold
    "truncated",  # the token limit came before the verdict
    "empty",  # nothing to judge, or nothing generated
    "too-long",  # does not fit the model's context
    "refused",  # the judge declined
    "timeout",
    "server",
    "engine",
    "needs-two",  # a comparing judge was given one response
]
FAILURE_REASONS: tuple[str, ...] = get_args(FailureReason)
# "top-logprobs" is "expected" by the tokens that a server lists; "forced-schema" and "forced-text" are "forced" in a
# turn of its own, by a JSON schema or as text.
Read = Literal["text", "json", "expected", "forced", "head", "reward", "top-logprobs", "forced-schema", "forced-text"]
Role = Literal["system", "user", "assistant"]


class Message(TypedDict):
    role: Role
    content: str


@dataclass(frozen=True, slots=True)
class Failure:
    """Why there is no score. A failure is a state of its own, never a score of zero or a tie."""

    reason: FailureReason
    message: str

    def __post_init__(self) -> None:
        if self.reason not in FAILURE_REASONS:
            raise ValueError(f"unknown failure reason {self.reason!r}; one of {', '.join(FAILURE_REASONS)}")

    def __str__(self) -> str:
        return f"{self.reason}: {self.message}"


@dataclass(frozen=True, slots=True)
class Scale:
    """The scores that a judge may give: from `low` to `high` in steps of `step`; any real number between when None.

    >>> Scale(0, 5, 1).labels()
    ('0', '1', '2', '3', '4', '5')
    >>> 4.5 in Scale(0, 5, 1), 4.5 in Scale(0, 5, 0.5), 4.5 in Scale(0, 5), 6 in Scale(0, 5)
    (False, True, True, False)
    """

    low: float
    high: float
    step: float | None = None

    def __post_init__(self) -> None:
        if not self.low < self.high:
            raise ValueError(f"low {self.low} is not below high {self.high}")
        if self.step is not None and not (0 < self.step <= self.high - self.low):
            raise ValueError(f"step {self.step} does not fit between {self.low} and {self.high}")

    def __contains__(self, score: float) -> bool:
        if not math.isfinite(score) or not self.low <= score <= self.high:
            return False
        if self.step is None:
            return True
        steps = (score - self.low) / self.step
        return abs(steps - round(steps)) < 1e-9

    def labels(self) -> tuple[str, ...]:
        """Every score as it is written; raises ValueError for a scale without a step."""
        if self.step is None or not math.isfinite(self.high - self.low):
            raise ValueError("a scale without a step has no list of labels")
        count = math.floor((self.high - self.low) / self.step + 1e-9) + 1
        return tuple(f"{round(self.low + i * self.step, 9):g}" for i in range(count))

    def __str__(self) -> str:
        return f"{self.low:g} to {self.high:g}" + (f" in steps of {self.step:g}" if self.step else "")


REAL_LINE = Scale(-math.inf, math.inf)


@dataclass(frozen=True, slots=True)
class Usage:
    """What a judgment cost. Tokens are counts; `seconds` is wall time spent waiting for the engine.

    `saved_tokens` estimates what votes that were not needed would have generated.
    """

    prompt_tokens: int = 0
    cached_tokens: int = 0
    generated_tokens: int = 0
    seconds: float = 0.0
    saved_tokens: int = 0

    def __add__(self, other: Usage) -> Usage:
        return Usage(
            self.prompt_tokens + other.prompt_tokens,
            self.cached_tokens + other.cached_tokens,
            self.generated_tokens + other.generated_tokens,
            self.seconds + other.seconds,
            self.saved_tokens + other.saved_tokens,
        )


def usage_to_dict(usage: Usage) -> dict[str, Any]:
    """A Usage as a dict, ten times faster than `to_dict`: one is written with every completion."""
    return {
        "prompt_tokens": usage.prompt_tokens,
        "cached_tokens": usage.cached_tokens,
        "generated_tokens": usage.generated_tokens,
        "seconds": usage.seconds,
        "saved_tokens": usage.saved_tokens,
    }


@dataclass(frozen=True, slots=True)
class Gold:
    """Human labels of an Item's responses: exactly one of the four fields is set.

    `chosen`: indices of the preferred responses. `ranking`: a rank for each response, 1 is best.
    `scores`: a score for each response, higher is better. `tie`: neither of two responses is better.
    """

    chosen: tuple[int, ...] | None = None
    ranking: tuple[float, ...] | None = None
    scores: tuple[float, ...] | None = None
    tie: bool = False

    def __post_init__(self) -> None:
        fields = [self.chosen is not None, self.ranking is not None, self.scores is not None, self.tie]
        if sum(fields) != 1:
            raise ValueError("gold must be exactly one of chosen, ranking, scores and tie")


@dataclass(frozen=True, slots=True)
class Item:
    """One prompt and its responses: the unit that scorers, benchmarks and writers work on.

    `prompt` is a string (one user message) or a list of chat messages; there is at least one response.
    `comparisons` are the index pairs of responses to compare (all pairs when None). Raises ValueError for an Item
    without a prompt or responses, and for a comparison that does not name two of them.

    >>> item = Item(id="a", prompt="2 + 2?", responses=["4", "5"], gold=Gold(chosen=(0,)))
    >>> item.messages
    ({'role': 'user', 'content': '2 + 2?'},)
    >>> item.pairs()
    ((0, 1),)
    """

    id: str
    prompt: str | Sequence[Message]
    responses: Sequence[str]
    system: str | None = None
    reference: str | None = None
    rubric: str | None = None
    subset: str | None = None
    meta: Mapping[str, Any] = field(default_factory=dict)
    comparisons: Sequence[tuple[int, int]] | None = None
    gold: Gold | None = None

    def __post_init__(self) -> None:
        if isinstance(self.responses, str):
            raise TypeError(f"item {self.id!r}: responses is a list of strings, not one string")
        object.__setattr__(self, "responses", tuple(self.responses))
        if not isinstance(self.prompt, str):
            object.__setattr__(self, "prompt", tuple(self.prompt))
        if self.comparisons is not None:
            object.__setattr__(self, "comparisons", tuple(self.comparisons))
        if not self.prompt:
            raise ValueError(f"item {self.id!r} has no prompt")
        if not self.responses:
            raise ValueError(f"item {self.id!r} has no responses")
        for pair in self.comparisons or ():
            if len(set(pair)) != 2 or not all(0 <= i < len(self.responses) for i in pair):
                raise ValueError(f"item {self.id!r}: comparison {pair} is not two of {len(self.responses)} responses")

    @property
    def messages(self) -> tuple[Message, ...]:
        """The conversation before the response, `system` first where there is one."""
        if isinstance(self.prompt, str):
            turns: tuple[Message, ...] = ({"role": "user", "content": self.prompt},)
        else:
            turns = tuple(self.prompt)
        if self.system is not None:
            return ({"role": "system", "content": self.system}, *turns)
        return turns

    def pairs(self) -> tuple[tuple[int, int], ...]:
        """The index pairs to compare."""
        if self.comparisons is not None:
            return tuple(self.comparisons)
        n = len(self.responses)
        return tuple((i, j) for i in range(n) for j in range(i + 1, n))


@dataclass(frozen=True, slots=True)
class Judgment:
    """A scorer's result for one response. Exactly one of `score` and `failure` is set.

    `votes` holds the score or Failure of each vote, `completions` their raw texts in the same order. `read` is how
    the verdict was read, `readings` the result of each way of reading that was tried. `mass` is the total
    probability of the labels where the score is an expectation. `truncated`: a critique reached its token limit.
    """

    score: float | None = None
    failure: Failure | None = None
    votes: tuple[float | Failure, ...] = ()
    critique: str | None = None
    completions: tuple[str, ...] = ()
    read: Read | None = None
    truncated: bool = False
    usage: Usage = Usage()
    readings: Mapping[str, float | Failure] = field(default_factory=dict)
    mass: float | None = None

    def __post_init__(self) -> None:
        if (self.score is None) == (self.failure is None):
            raise ValueError("a judgment has either a score or a failure")
        if self.score is not None and not math.isfinite(self.score):
            raise ValueError(f"a score must be a finite number, not {self.score}")

    @property
    def spread(self) -> float | None:
        """The standard deviation of the votes that have a score; None for fewer than two."""
        scores = [v for v in self.votes if not isinstance(v, Failure)]
        return statistics.pstdev(scores) if len(scores) > 1 else None


@dataclass(frozen=True, slots=True)
class Comparison:
    """One comparison of responses `first` and `second` of an Item.

    `outcome` is the winner, "tie", or a Failure. `swapped`: `second` was shown first.
    """

    first: int
    second: int
    outcome: Literal["first", "second", "tie"] | Failure
    swapped: bool = False


@dataclass(frozen=True, slots=True)
class Scorecard:
    """A scorer's result for one Item: a Judgment of each response, in the responses' order.

    `preference` is the probability that each response is the best (they sum to 1), None where a failure leaves it
    open. Official benchmark metrics use scores and comparisons, never this probability.
    """

    id: str
    judgments: tuple[Judgment, ...]
    comparisons: tuple[Comparison, ...] = ()
    preference: tuple[float, ...] | None = None

    @property
    def usage(self) -> Usage:
        return sum((j.usage for j in self.judgments), Usage())


def to_dict(value: Any) -> Any:
    """A dataclass of this module as a JSON-ready dict."""
    return asdict(value)


def scorecard_from_dict(payload: Mapping[str, Any]) -> Scorecard:
    """The inverse of `to_dict` for a Scorecard; other keys are ignored. Raises KeyError, TypeError, ValueError.

    >>> card = Scorecard("a", (Judgment(score=1.0), Judgment(failure=Failure("empty", "no text"))))
    >>> scorecard_from_dict(to_dict(card)) == card
    True
    """
    preference = payload["preference"]
    return Scorecard(
        id=payload["id"],
        judgments=tuple(map(_judgment_from_dict, payload["judgments"])),
        comparisons=tuple(Comparison(**{**c, "outcome": _parse_failure(c["outcome"])}) for c in payload["comparisons"]),
        preference=None if preference is None else tuple(preference),
    )


def _judgment_from_dict(payload: Mapping[str, Any]) -> Judgment:
    return Judgment(
        **{
            **payload,
            "failure": _parse_failure(payload["failure"]),
            "votes": tuple(map(_parse_failure, payload["votes"])),
            "completions": tuple(payload["completions"]),
            "usage": Usage(**payload["usage"]),
            "readings": {read: _parse_failure(value) for read, value in payload["readings"].items()},
        }
    )


def _parse_failure(value: Any) -> Any:
    """A Failure where the value is one as a dict; any other value as it is."""
    return Failure(**value) if isinstance(value, Mapping) else value
