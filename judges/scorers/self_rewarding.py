"""A model that grades with a rubric and is asked n times (Yuan et al. 2024, arXiv 2401.10020)."""

from __future__ import annotations

import asyncio
import statistics
from dataclasses import replace
from typing import Any, ClassVar

from judges.engines.concurrency import gather
from judges.errors import CannotRun
from judges.scorer import vote_preference
from judges.scorers.llm_judge import Answer, LLMJudge, Messages, Sampling
from judges.scorers.voting import COMBINES, Combine, decided, joined
from judges.types import Failure, Item, Judgment, Scorecard, Usage


class SelfRewarding(LLMJudge):
    """Rationale, then a score; `votes` of them combined by their mean, median or majority.

    One vote is greedy unless a temperature is set; several are sampled (0.7, top_p 0.9 by default).
    With `force`, a rationale that ends without a verdict gets one more decode limited to the scale, on
    the same cached prefix; such a judgment is marked as read by force.

    `adaptive` stops asking for an Item once more votes could not change which response is the best (0), or
    would with at most that probability (0.05); after two votes at the least.
    """

    name = "self-rewarding"
    default_template = "self-rewarding"
    kinds: ClassVar[tuple[str, ...]] = ("pointwise", "score")

    def __init__(
        self,
        votes: int = 3,
        combine: Combine = "mean",
        temperature: float | None = None,
        top_p: float = 0.9,
        adaptive: float | None = None,
        **settings: Any,
    ) -> None:
        super().__init__(**settings)
        if votes < 1:
            raise CannotRun(f"scorer {self.name!r}: votes is at least 1")
        if combine not in COMBINES:
            raise CannotRun(f"scorer {self.name!r}: combine is {', '.join(COMBINES)}, not {combine!r}")
        if adaptive is not None and not 0 <= adaptive < 1:
            raise CannotRun(f"scorer {self.name!r}: adaptive is a risk from 0 to below 1, not {adaptive}")
        if adaptive is not None and self.scale.step is None:
            raise CannotRun(f"scorer {self.name!r}: adaptive needs a scale with a step; {self.scale} has none")
        if votes > 1 and temperature == 0:
            raise CannotRun(f"scorer {self.name!r}: {votes} votes at temperature 0 are one vote; give a temperature")
        if self.template.kind == "score" and votes > 1:
            raise CannotRun(f"scorer {self.name!r}: template {self.template.name!r} samples nothing; give votes=1")
        self.votes, self.combine, self.adaptive = votes, combine, adaptive
        self.sampling = Sampling(
            temperature if temperature is not None else (0.0 if votes == 1 else 0.7),
            top_p if votes > 1 or temperature else 1.0,
        )

    def identity(self) -> dict[str, Any]:
        return super().identity() | {
            "votes": self.votes,
            "combine": self.combine,
            "temperature": self.sampling.temperature,
            "top_p": self.sampling.top_p,
            "adaptive": self.adaptive,
        }

    async def judge(self, item: Item, index: int) -> Judgment:
        return joined(await self.each_vote(item, index), self.combine)

    async def each_vote(self, item: Item, index: int) -> list[Judgment]:
        """The votes on one response, not combined."""
        return await self._votes(item, index, range(self.votes))

    async def card(self, item: Item) -> Scorecard:
        if self.adaptive is None:
            return await super().card(item)
        asked = [i for i, response in enumerate(item.responses) if response.strip()]
        votes: dict[int, list[Judgment]] = {i: [] for i in asked}
        count = 0
        while count < self.votes and asked:
            ahead = range(count, min(max(2, count + 1), self.votes))
            for i, more in zip(asked, await asyncio.gather(*(self._votes(item, i, ahead) for i in asked)), strict=True):
                votes[i] += more
            count = ahead.stop
            scores = [[v.score for v in votes[i] if v.score is not None] for i in asked]
            if decided(scores, self.votes - count, self.scale, self.combine, self.adaptive, self.seed):
                break
        empty = Judgment(failure=Failure("empty", "the response is empty"))
        judgments = [self._stopped(votes[i]) if i in votes else empty for i in range(len(item.responses))]
        return Scorecard(id=item.id, judgments=tuple(judgments), preference=vote_preference(judgments))

    def _stopped(self, votes: list[Judgment]) -> Judgment:
        judgment = joined(votes, self.combine)
        each = statistics.fmean(v.usage.generated_tokens for v in votes)
        saved = Usage(saved_tokens=round(each * (self.votes - len(votes))))
        return replace(judgment, usage=judgment.usage + saved)

    async def _votes(self, item: Item, index: int, which: range) -> list[Judgment]:
        messages = self.template.render(item, (index,))
        return await gather([self._vote(messages, vote) for vote in which])

    async def _vote(self, messages: Messages, vote: int) -> Judgment:
        if self.template.kind == "score":
            prefix = f"{self.template.announcement} "
            return scored(await self.verdict_after(messages, prefix, self.template.labels))
        return scored(await self.answer(messages, vote, self.template.labels, self.sampling))


def scored(answer: Answer, **more: Any) -> Judgment:
    """An answer on a scale as a Judgment."""
    kept: dict[str, Any] = {
        "completions": (answer.text,) if answer.text else (),
        "truncated": answer.truncated,
        "usage": answer.usage,
        "readings": answer.readings,
        "mass": answer.mass,
        **more,
    }
    if isinstance(answer.verdict, Failure):
        return Judgment(failure=answer.verdict, **kept)
    return Judgment(score=float(answer.verdict), read=answer.read, **kept)
