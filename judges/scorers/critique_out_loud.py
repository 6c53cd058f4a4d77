"""A judge that writes a critique, then scores on the same prefix (Ankner et al. 2024, arXiv 2408.11791)."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

from judges.engines.base import Generation, Request, RequestFailed
from judges.errors import CannotRun
from judges.extraction.thinking import split_thinking
from judges.scorer import softmax_preference
from judges.scorers.critique_head import TrainedHead, has_head
from judges.scorers.llm_judge import LLMJudge, Messages, Sampling, text_up_to
from judges.scorers.self_rewarding import scored
from judges.scorers.voting import joined
from judges.types import REAL_LINE, Item, Judgment, Scorecard, Usage


class CritiqueOutLoud(LLMJudge):
    """Critique first, then the score as a continuation of the same turn.

    `read="expected"` takes the expected score over the scale from the labels' probabilities; "text" what the
    model goes on to write; "forced" one decode limited to the scale. `critiques` of them are averaged, sampled
    at temperature 0.5 (the paper's) when more than one. A critique that meets its token limit is marked
    `truncated`; with `finish` it may go on for as many tokens again; one that is still cut is scored after a
    line that says it ended early.

    `read="head"`, which a folder of `assay train --kind critique-out-loud` gets by itself, takes the raw reward
    that the trained head reads at the critique's end, under transformers or vLLM (`head_engine`); preference is
    the rewards' softmax. The prompt and `max_tokens` are then those of its training, and a cut critique may go on
    unless `finish` says no: one that is still cut is a Failure, for the head knows only whole ones.
    """

    name = "critique-out-loud"
    default_template = "critique-out-loud"
    kinds: ClassVar[tuple[str, ...]] = ("critique",)

    def __init__(
        self,
        critiques: int = 1,
        temperature: float | None = None,
        top_p: float = 1.0,
        finish: bool | None = None,
        head_engine: str = "transformers",
        **settings: Any,
    ) -> None:
        self.head: TrainedHead | None = None
        if has_head(str(settings.get("model", ""))) and settings.get("read", "") in ("", "head"):
            self.head = TrainedHead(str(settings["model"]), head_engine)
            settings = self.head.settings(settings)
        super().__init__(**settings)
        if "head" in self.ways and self.head is None:
            raise CannotRun(
                f"scorer {self.name!r}: read=head stands alone and needs model=, a folder with a trained head: 'assay"
                f" train --kind critique-out-loud' makes one; model={self.model!r}, read={'+'.join(self.ways)}"
            )
        if self.head is not None:
            self.scale = REAL_LINE
        if critiques < 1:
            raise CannotRun(f"scorer {self.name!r}: critiques is at least 1")
        if critiques > 1 and temperature == 0:
            raise CannotRun(f"scorer {self.name!r}: {critiques} critiques at temperature 0 are one")
        self.critiques = critiques
        self.finish = finish if finish is not None else self.head is not None
        self.sampling = Sampling(temperature if temperature is not None else (0.0 if critiques == 1 else 0.5), top_p)

    def identity(self) -> dict[str, Any]:
        head = {} if self.head is None else {"head_engine": self.head.engine}
        return (
            super().identity()
            | head
            | {
                "critiques": self.critiques,
                "temperature": self.sampling.temperature,
                "top_p": self.sampling.top_p,
                "finish": self.finish,
            }
        )

    def reread(self, path: Path) -> None:
        if self.head is not None:
            raise CannotRun(f"scorer {self.name!r}: a trained head reads rewards from its model, not from completions")
        super().reread(path)

    def stream(self, items: Iterable[Item]) -> Iterator[Scorecard]:
        if self.head is not None:
            self.head.open()
        return super().stream(items)

    def close(self) -> None:
        super().close()
        if self.head is not None:
            self.head.close()

    async def card(self, item: Item) -> Scorecard:
        card = await super().card(item)
        if self.head is None:
            return card
        return replace(card, preference=softmax_preference(card.judgments, self.head.temperature))

    async def judge(self, item: Item, index: int) -> Judgment:
        messages = self.template.render(item, (index,))
        return joined(await asyncio.gather(*(self._critique(messages, k) for k in range(self.critiques))))

    async def _critique(self, messages: Messages, k: int) -> Judgment:
        usage = Usage()
        kept: dict[str, Any] = {}
        try:
            written, usage = await self.critique(messages, k)
            truncated = written.finish == "length"
            critique = split_thinking(written.text)[1].strip()
            kept = {"critique": critique, "completions": (written.text,), "truncated": truncated}
            if not critique:
                raise RequestFailed("empty", "the judge wrote no critique")
            if self.head is not None:
                reward, more = await self.head.reward(messages, whole(written))
                return Judgment(score=reward, read="head", usage=usage + more, **kept)
            ended = f"{written.text.rstrip()} [cut off]\n" if truncated else f"{written.text.rstrip()}\n"
            prefix = text_up_to(ended, "\n" + self.template.announcement)
            answer = await self.verdict_after(messages, prefix, self.template.labels, written)
        except RequestFailed as error:
            return Judgment(failure=error.failure, usage=usage, **kept)
        return scored(answer, **kept | {"usage": usage + answer.usage})

    async def critique(self, messages: Messages, k: int) -> tuple[Generation, Usage]:
        """The k-th critique. Raises RequestFailed."""
        usage, partial = Usage(), Generation("", "length")
        for _ in range(2 if self.finish else 1):
            completion = await self.engine.complete(
                Request(
                    messages,
                    prefix=partial.text,
                    partial=partial if partial.text else None,
                    temperature=self.sampling.temperature,
                    top_p=self.sampling.top_p,
                    max_tokens=self.max_tokens,
                    seed=self.seed_for(messages, k) if self.sampling.temperature > 0 else None,
                )
            )
            written = completion.choices[0]
            partial = Generation(partial.text + written.text, written.finish, partial.token_ids + written.token_ids)
            usage += completion.usage
            if written.finish != "length":
                break
        return partial, usage


def whole(written: Generation) -> str:
    """A finished critique, without what was thought before it: what a reward is read at the end of.

    Raises RequestFailed for one that the token limit cut off, and for an empty one.

    >>> whole(Generation("<think>Hm.</think> It is right. ", "stop"))
    'It is right.'
    """
    if written.finish == "length":
        raise RequestFailed("truncated", "the token limit cut the critique off; raise max_tokens")
    critique = split_thinking(written.text)[1].strip()
    if not critique:
        raise RequestFailed("empty", "the judge wrote no critique")
    return critique
