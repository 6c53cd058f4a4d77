"""A judge that writes a critique, then scores on the same prefix (Ankner et al. 2024, arXiv 2408.11791)."""

from __future__ import annotations

import asyncio
from typing import Any, Literal

from judges.engines.base import Request, RequestFailed
from judges.errors import CannotRun
from judges.llm_judge import LLMJudge, mean_judgment
from judges.types import Item, Judgment, Message, Usage


class CritiqueOutLoud(LLMJudge):
    """Critique first, then the score as a continuation of the same turn.

    `read="expected"` takes the expected score over the scale from the labels' probabilities;
    `read="forced"` one decode limited to the scale. `critiques` of them are averaged, sampled at
    temperature 0.5 (the paper's) when more than one. A critique that meets its token limit is marked
    `truncated`; the score is then read after a line that says it ended early.
    """

    name = "critique-out-loud"
    default_template = "critique-out-loud"

    def __init__(
        self,
        critiques: int = 1,
        temperature: float | None = None,
        read: Literal["expected", "forced"] = "expected",
        **settings: Any,
    ) -> None:
        super().__init__(**settings)
        if critiques < 1:
            raise CannotRun(f"scorer {self.name!r}: critiques is at least 1")
        if read not in ("expected", "forced"):
            raise CannotRun(f"scorer {self.name!r}: read is expected or forced, not {read!r}")
        if self.template.kind != "critique":
            raise CannotRun(f"template {self.template.name!r} is {self.template.kind}; {self.name} needs critique")
        self.critiques, self.read = critiques, read
        self.temperature = temperature if temperature is not None else (0.0 if critiques == 1 else 0.5)

    def identity(self) -> dict[str, Any]:
        return super().identity() | {
            "critiques": self.critiques,
            "temperature": self.temperature,
            "read": self.read,
        }

    async def judge(self, item: Item, index: int) -> Judgment:
        messages = self.template.render(item, (index,))
        return mean_judgment(await asyncio.gather(*(self._critique(messages, k) for k in range(self.critiques))))

    async def _critique(self, messages: tuple[Message, ...], k: int) -> Judgment:
        usage = Usage()
        kept: dict[str, Any] = {}
        try:
            completion = await self.engine.complete(
                Request(
                    messages,
                    temperature=self.temperature,
                    max_tokens=self.max_tokens,
                    seed=self.seed_for(messages, k) if self.temperature > 0 else None,
                )
            )
            written, usage = completion.choices[0], completion.usage
            truncated = written.finish == "length"
            kept = {"critique": written.text.strip(), "completions": (written.text,), "truncated": truncated}
            if not kept["critique"]:
                raise RequestFailed("empty", "the judge wrote no critique")
            ended = " [cut off]" if truncated else ""
            prefix = f"{written.text.rstrip()}{ended}\n\n{self.template.announcement} "
            if self.read == "expected":
                score, _, more = await self.expected(messages, prefix)
            else:
                score, more = await self.constrained(messages, prefix)
        except RequestFailed as error:
            return Judgment(failure=error.failure, usage=usage, **kept)
        return Judgment(score=score, read=self.read, usage=usage + more, **kept)
