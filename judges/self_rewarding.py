"""A model that grades with an additive rubric and is asked n times (Yuan et al. 2024, arXiv 2401.10020)."""

from __future__ import annotations

import asyncio
from typing import Any

from judges.engines.base import Generated, Request, RequestFailed
from judges.errors import CannotRun
from judges.extraction import read_score
from judges.llm_judge import LLMJudge, mean_judgment
from judges.types import Failure, Item, Judgment, Message, Usage


class SelfRewarding(LLMJudge):
    """Rationale, then a score; the mean of `votes`.

    One vote is greedy unless a temperature is set; several are sampled (0.7, top_p 0.9 by default).
    With `force`, a rationale that ends without a verdict gets one more decode limited to the scale, on
    the same cached prefix; such a judgment is marked as read by force.
    """

    name = "self-rewarding"
    default_template = "self-rewarding"

    def __init__(
        self,
        votes: int = 3,
        temperature: float | None = None,
        top_p: float = 0.9,
        force: bool = True,
        **settings: Any,
    ) -> None:
        super().__init__(**settings)
        if votes < 1:
            raise CannotRun(f"scorer {self.name!r}: votes is at least 1")
        if self.template.kind != "pointwise":
            raise CannotRun(f"template {self.template.name!r} is {self.template.kind}; {self.name} needs pointwise")
        self.votes, self.top_p, self.force = votes, top_p, force
        self.temperature = temperature if temperature is not None else (0.0 if votes == 1 else 0.7)

    def identity(self) -> dict[str, Any]:
        own = {"votes": self.votes, "temperature": self.temperature, "top_p": self.top_p, "force": self.force}
        return super().identity() | own

    async def judge(self, item: Item, index: int) -> Judgment:
        messages = self.template.render(item, (index,))
        return mean_judgment(await asyncio.gather(*(self._vote(messages, v) for v in range(self.votes))))

    async def _vote(self, messages: tuple[Message, ...], vote: int) -> Judgment:
        sampled = self.temperature > 0
        usage = Usage()
        completions: tuple[str, ...] = ()
        try:
            completion = await self.engine.complete(
                Request(
                    messages,
                    temperature=self.temperature,
                    top_p=self.top_p if sampled else 1.0,
                    max_tokens=self.max_tokens,
                    seed=self.seed_for(messages, vote) if sampled else None,
                )
            )
            usage, written = completion.usage, completion.choices[0]
            completions = (written.text,)
            reading = read_score(written.text, self.scale, self.template.announcement)
            ended = not isinstance(reading, Failure) and reading.span[1] == len(written.text.rstrip())
            if ended and written.finish == "length":  # "1" may be the beginning of "10"
                reading = Failure("missing", "the token limit came within the verdict")
            if not isinstance(reading, Failure):
                return Judgment(score=reading.score, read="text", completions=completions, usage=usage)
            if not (self.force and reading.reason in ("missing", "malformed")):
                return Judgment(failure=_cut(reading, written), completions=completions, usage=usage)
            score, more = await self.constrained(messages, _up_to_verdict(written.text, self.template.announcement))
        except RequestFailed as error:
            return Judgment(failure=error.failure, completions=completions, usage=usage)
        cut = written.finish == "length"
        return Judgment(score=score, read="forced", truncated=cut, completions=completions, usage=usage + more)


def _cut(failure: Failure, written: Generated) -> Failure:
    """A verdict that the token limit cut off is truncated, not missing."""
    if written.finish == "length" and failure.reason in ("missing", "malformed"):
        return Failure("truncated", "the token limit came before the verdict; raise max_tokens")
    return failure


def _up_to_verdict(text: str, announcement: str) -> str:
    """The rationale, and the announcement that it lacks, up to where the number stands."""
    return f"{text.rstrip()}\n{announcement} "
