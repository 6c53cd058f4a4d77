"""Critique-out-Loud: a critique, then the score as its continuation (Ankner et al. 2024, arXiv 2408.11791)."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

from judges.engines.base import Generation, Request, RequestFailed, sampling_for
from judges.engines.capabilities import NotSupported
from judges.errors import CannotRun
from judges.scorer import softmax_preference
from judges.scorers.critique_head import TrainedHead, has_head
from judges.scorers.llm_judge import Continuation, LLMJudge, Messages, text_prefix
from judges.scorers.voting import aggregate_votes
from judges.types import REAL_LINE, Item, Judgment, Scorecard, Usage


class CritiqueOutLoud(LLMJudge):
    """A critique, then the score as a continuation of the same assistant turn.

    `read="expected"` is the expected score over the scale, from the labels' probabilities; "text" reads what the model
    writes next; "forced" is one decode limited to the scale. Several `critiques` are sampled at temperature 0.5 (as in
    the paper) and their scores averaged. A critique that meets its token limit is marked `truncated`; with `finish` it
    may continue for as many tokens again. One that is still cut off is scored after a line that says so.

    `read="head"`, the default for a folder of `assay train --kind critique-out-loud`, is the raw reward of the trained
    head at the critique's end, under transformers or vLLM (`head_engine`); `preference` is the softmax of the rewards.
    The prompt and `max_tokens` are then those of its training, and `finish` is on by default. A critique that is still
    cut off is a Failure, because the head was trained on complete ones only.
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
        if "head" in self.read_methods and self.head is None:
            raise CannotRun(
                f"scorer {self.name!r}: read=head cannot be combined and needs model=, a folder with a trained head,"
                " which 'assay train --kind critique-out-loud' writes;"
                f" here model={self.model!r}, read={'+'.join(self.read_methods)}"
            )
        if self.head is not None:
            self.scale = REAL_LINE
        sampling = sampling_for(f"scorer {self.name!r}", "critiques", critiques, temperature, top_p, default=0.5)
        self.critiques = critiques
        self.finish = finish if finish is not None else self.head is not None
        self.sampling = replace(sampling, top_p=top_p)  # also where it is greedy: it is part of the identity

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
            raise CannotRun(
                f"scorer {self.name!r}: a trained head needs its model; it cannot score from stored completions"
            )
        super().reread(path)

    def stream(self, items: Iterable[Item]) -> Iterator[Scorecard]:
        if self.head is not None:
            self.head.open()
        return super().stream(items)

    def close(self) -> None:
        super().close()
        if self.head is not None:
            self.head.close()

    def check_engine(self) -> None:
        if self.head is None:
            super().check_engine()
        if self.finish and not self.engine.capabilities.prefix_continuation:
            raise CannotRun(
                f"scorer {self.name!r}: finish needs a server that continues assistant turns; raise max_tokens instead"
            )

    async def score_item(self, item: Item) -> Scorecard:
        card = await super().score_item(item)
        if self.head is None:
            return card
        return replace(card, preference=softmax_preference(card.judgments, self.head.temperature))

    async def judge(self, item: Item, index: int) -> Judgment:
        messages = self.template.render(item, (index,))
        numbers = range(self.critiques)
        return aggregate_votes(await asyncio.gather(*(self._judge_once(messages, number) for number in numbers)))

    async def _judge_once(self, messages: Messages, number: int) -> Judgment:
        try:
            generation, usage = await self.critique(messages, number)
        except RequestFailed as error:
            return Judgment(failure=error.failure, usage=error.usage)
        critique = generation.answer.strip()
        try:
            judgment = await self._score_critique(messages, generation)
        except RequestFailed as error:
            judgment = Judgment(failure=error.failure, usage=error.usage)
        return replace(
            judgment,
            critique=critique,
            completions=(generation.tagged_text,),
            truncated=generation.finish == "length",
            usage=usage + judgment.usage,
        )

    async def _score_critique(self, messages: Messages, generation: Generation) -> Judgment:
        """The score after a critique. Raises RequestFailed."""
        if not generation.answer.strip():
            raise _no_critique(generation)
        if self.head is not None:
            reward, usage = await self.head.reward(messages, complete_critique(generation))
            return Judgment(score=reward, read="head", usage=usage)
        ending = " [cut off]\n" if generation.finish == "length" else "\n"
        announcement = "\n" + self.template.announcement
        prefix = text_prefix(generation.text.rstrip() + ending, announcement, generation.in_thought)
        continuation = Continuation(messages, prefix, self.template.labels, generation)
        return (await self.verdict_after(continuation)).judgment()

    async def critique(self, messages: Messages, number: int) -> tuple[Generation, Usage]:
        """(critique, usage) of one sample; a critique of two requests is one Generation. Raises RequestFailed."""
        await self.require_verdict()
        usage, partial = Usage(), Generation("", "length")
        for _ in range(2 if self.finish else 1):
            request = Request(
                messages,
                prefix=partial.text,
                partial=partial if partial.text else None,
                temperature=self.sampling.temperature,
                top_p=self.sampling.top_p,
                max_tokens=self.max_tokens,
                seed=self.seed_for(messages, number) if self.sampling.temperature > 0 else None,
            )
            try:
                completion = await self.engine.complete(request)
            except NotSupported as error:
                usage += error.usage
                break  # the server cannot go on: the critique stays cut off
            except RequestFailed as error:
                raise RequestFailed(error.failure.reason, error.failure.message, usage + error.usage) from error
            generation = completion.choices[0]
            partial = Generation(
                partial.text + generation.text,
                generation.finish,
                partial.token_ids + generation.token_ids,
                partial.reasoning + generation.reasoning,
                partial.in_thought if partial.text else generation.in_thought,
            )
            usage += completion.usage
            if generation.finish != "length":
                break
        return partial, usage


def complete_critique(generation: Generation) -> str:
    """The text of a critique without its thinking; the trained head reads the reward at its end.

    Raises RequestFailed for a critique that the token limit cut off, and for an empty one.

    >>> complete_critique(Generation("<think>Hm.</think> It is right. ", "stop"))
    'It is right.'
    """
    if generation.finish == "length":
        raise RequestFailed("truncated", "the critique was cut off by the token limit; raise max_tokens")
    critique = generation.answer.strip()
    if not critique:
        raise _no_critique(generation)
    return critique


def _no_critique(generation: Generation) -> RequestFailed:
    if generation.finish == "length":
        return RequestFailed("truncated", "the token limit came before the critique; raise max_tokens")
    return RequestFailed("empty", "the judge wrote no critique")
