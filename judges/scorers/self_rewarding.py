"""LLM-as-a-judge with an additive rubric and several sampled votes (Yuan et al. 2024, arXiv 2401.10020)."""

from __future__ import annotations

import asyncio
import statistics
from dataclasses import replace
from typing import Any, ClassVar

from judges.engines.base import sampling_for
from judges.engines.concurrency import gather
from judges.errors import CannotRun
from judges.scorer import vote_preference
from judges.scorers.llm_judge import Continuation, LLMJudge, Messages
from judges.scorers.voting import COMBINES, Combine, aggregate_votes, outcome_decided
from judges.types import Failure, Item, Judgment, Scorecard, Usage


class SelfRewarding(LLMJudge):
    """A rationale, then a score; several `votes` are combined by their mean, median or majority.

    One vote is greedy unless a temperature is set; several are sampled (temperature 0.7, top_p 0.9 by default).
    With `force`, a rationale that ends without a verdict gets one more decode limited to the scale, on the same
    cached prefix; such a judgment has `read="forced"`.

    `adaptive` stops sampling for an Item once further votes could not change which response is the best (0), or
    would change it with at most that probability (0.05). There are at least two votes.
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
        self.sampling = sampling_for(f"scorer {self.name!r}", "votes", votes, temperature, top_p)
        if combine not in COMBINES:
            raise CannotRun(f"scorer {self.name!r}: combine is {', '.join(COMBINES)}, not {combine!r}")
        if adaptive is not None and not 0 <= adaptive < 1:
            raise CannotRun(f"scorer {self.name!r}: adaptive is a probability below 1, not {adaptive}")
        if adaptive is not None and self.scale.step is None:
            raise CannotRun(f"scorer {self.name!r}: adaptive needs a scale with a step; {self.scale} has none")
        if self.template.kind == "score" and votes > 1:
            raise CannotRun(
                f"scorer {self.name!r}: template {self.template.name!r} generates no rationale to sample; set votes=1"
            )
        self.votes, self.combine, self.adaptive = votes, combine, adaptive

    def identity(self) -> dict[str, Any]:
        return super().identity() | {
            "votes": self.votes,
            "combine": self.combine,
            "temperature": self.sampling.temperature,
            "top_p": self.sampling.top_p,
            "adaptive": self.adaptive,
        }

    async def judge(self, item: Item, index: int) -> Judgment:
        return aggregate_votes(await self.sample_votes(item, index), self.combine)

    async def sample_votes(self, item: Item, index: int) -> list[Judgment]:
        """The votes on one response, each a Judgment."""
        return await self._votes(item, index, range(self.votes))

    async def score_item(self, item: Item) -> Scorecard:
        if self.adaptive is None:
            return await super().score_item(item)
        indices = [i for i, response in enumerate(item.responses) if response.strip()]
        votes: dict[int, list[Judgment]] = {i: [] for i in indices}
        count = 0
        while count < self.votes and indices:
            batch = range(count, min(max(2, count + 1), self.votes))
            sampled = await asyncio.gather(*(self._votes(item, i, batch) for i in indices))
            for i, more in zip(indices, sampled, strict=True):
                votes[i] += more
            count = batch.stop
            scores = [[v.score for v in votes[i] if v.score is not None] for i in indices]
            if outcome_decided(scores, self.votes - count, self.scale, self.combine, self.adaptive, self.seed):
                break
        empty = Judgment(failure=Failure("empty", "the response is empty"))
        judgments = [self._aggregate_early(votes[i]) if i in votes else empty for i in range(len(item.responses))]
        return Scorecard(id=item.id, judgments=tuple(judgments), preference=vote_preference(judgments))

    def _aggregate_early(self, votes: list[Judgment]) -> Judgment:
        """Fewer votes than `votes` as one Judgment, with the tokens that stopping early saved."""
        judgment = aggregate_votes(votes, self.combine)
        tokens_per_vote = statistics.fmean(v.usage.generated_tokens for v in votes)
        saved = Usage(saved_tokens=round(tokens_per_vote * (self.votes - len(votes))))
        return replace(judgment, usage=judgment.usage + saved)

    async def _votes(self, item: Item, index: int, numbers: range) -> list[Judgment]:
        messages = self.template.render(item, (index,))
        return await gather([self._vote(messages, number) for number in numbers])

    async def _vote(self, messages: Messages, number: int) -> Judgment:
        labels = self.template.labels
        if self.template.kind == "score":
            verdict = await self.verdict_after(Continuation(messages, f"{self.template.announcement} ", labels))
        else:
            verdict = await self.verdict(messages, number, labels, self.sampling)
        return verdict.judgment()
