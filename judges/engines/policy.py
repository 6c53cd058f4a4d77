"""Candidate sampling: a policy model writes n responses to a prompt, which become an Item for any scorer."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from judges.engines.base import Engine, Generation, Request, RequestFailed, sampling_for, submit
from judges.engines.concurrency import map_unordered
from judges.engines.registry import EngineHandle
from judges.engines.thoughts import THINK_TAG, split_leading_thought
from judges.errors import CannotRun
from judges.types import Failure, Item, Message, Usage


@dataclass(frozen=True, slots=True)
class Prompt:
    """An Item that has no responses yet.

    >>> Prompt(id="a", prompt="2 + 2?").with_responses(["4", "5"]).responses
    ('4', '5')
    """

    id: str
    prompt: str | Sequence[Message]
    system: str | None = None
    reference: str | None = None
    rubric: str | None = None
    subset: str | None = None
    meta: Mapping[str, Any] = field(default_factory=dict)

    def with_responses(self, responses: Sequence[str]) -> Item:
        """The Item of this prompt and these responses."""
        return Item(
            id=self.id,
            prompt=self.prompt,
            responses=responses,
            system=self.system,
            reference=self.reference,
            rubric=self.rubric,
            subset=self.subset,
            meta=self.meta,
        )

    @property
    def messages(self) -> tuple[Message, ...]:
        """The conversation to answer, `system` first where there is one."""
        return self.with_responses([""]).messages


@dataclass(frozen=True, slots=True)
class PolicyOutput:
    """The candidates sampled for a Prompt: an Item with them in sampling order, or the Failure of the request.

    `truncated` is, for each candidate, whether it reached the token limit. `failures` are those of candidates that
    the server withheld or broke off; the Item has the others. `thoughts` are those of the candidates, which are no
    part of the responses: nothing that judges or trains on a response sees them.
    """

    prompt: Prompt
    item: Item | Failure
    truncated: tuple[bool, ...] = ()
    usage: Usage = Usage()
    failures: tuple[Failure, ...] = ()
    thoughts: tuple[str, ...] = ()


class Policy:
    """A model that samples `candidates` responses to each prompt.

    The defaults are those of Yuan et al. 2024 (arXiv 2401.10020): 4 candidates, temperature 0.7, top_p 0.9. All
    candidates of a prompt are one request, so the prompt is computed once; its seed is derived from `seed` and the
    prompt's text. `window` bounds the candidates in flight. An empty candidate is kept for the scorer to judge. Of a
    candidate with a thought the response is what was said after it; one that ended inside its thought is empty.
    `engine`, `base_url`, `api_key`, `store` and `engine.KEY` mean what they mean for an LLM judge, and the engine is
    shared with every scorer that has the same model and settings. Raises CannotRun for invalid settings.
    """

    def __init__(
        self,
        model: str,
        candidates: int = 4,
        temperature: float = 0.7,
        top_p: float = 0.9,
        max_tokens: int = 512,
        seed: int = 0,
        window: int = 64,
        engine: str = "",
        base_url: str | Sequence[str] = "",
        api_key: str = "",
        store: str = "",
        **engine_settings: Any,
    ) -> None:
        self._handle = EngineHandle("a policy", Policy, model, engine, base_url, api_key, store, engine_settings)
        sampling = sampling_for("a policy", "candidates", candidates, temperature, top_p)
        if max_tokens < 1 or window < 1:
            raise CannotRun("a policy's max_tokens and window are at least 1")
        self.model, self.candidates, self.max_tokens = model, candidates, max_tokens
        self.temperature, self.top_p = sampling.temperature, sampling.top_p
        self.seed, self.window = seed, window
        self._sampling: set[asyncio.Task[Any]] = set()

    @property
    def engine(self) -> Engine:
        """The engine, opened when first needed."""
        return self._handle.engine

    def use_engine(self, engine: Engine) -> None:
        """Send requests to this engine until the policy is closed."""
        self._handle.use_engine(engine)

    def use_store(self, path: Path) -> None:
        """Keep every candidate in the store at `path`, and take from it those that are there already."""
        self._handle.use_store(path)

    def reread(self, path: Path) -> None:
        """Take candidates from this store alone, without a model."""
        self._handle.reread(path)

    def identity(self) -> dict[str, Any]:
        """What another run must share to sample the same candidates: written in manifests."""
        return self._handle.identity() | {
            "candidates": self.candidates,
            "temperature": self.temperature,
            "top_p": self.top_p,
            "max_tokens": self.max_tokens,
            "seed": self.seed,
        }

    async def _sample(self, prompt: Prompt, engine: Engine) -> PolicyOutput:
        messages = prompt.messages
        request = Request(
            messages,
            n=self.candidates,
            temperature=self.temperature,
            top_p=self.top_p,
            max_tokens=self.max_tokens,
            seed=self._seed_for(messages) if self.temperature > 0 else None,
        )
        try:
            completion = await engine.complete(request)
        except RequestFailed as error:
            return PolicyOutput(prompt, error.failure, usage=error.usage)
        choices, failures = completion.choices, completion.failures
        if not choices or len(choices) + len(failures) != self.candidates:
            message = f"the policy's engine returned {len(choices)} of {self.candidates} candidates"
            return PolicyOutput(prompt, Failure("engine", message), usage=completion.usage)
        thoughts = tuple(_thought(choice) for choice in choices)
        item = prompt.with_responses([_response(choice) for choice in choices])
        truncated = tuple(choice.finish == "length" for choice in choices)
        return PolicyOutput(prompt, item, truncated, completion.usage, failures, thoughts if any(thoughts) else ())

    def stream(self, prompts: Iterable[Prompt | Item]) -> Iterator[PolicyOutput | Item]:
        """Yield the candidates of each Prompt as they are finished, in any order, with bounded memory.

        A request that fails is the Failure of its own prompt only. An Item in the source already has responses and
        is passed on as it is.
        """

        def open_before_first_prompt() -> Iterator[Prompt | Item]:
            for source in prompts:
                if not isinstance(source, Item):
                    _ = self.engine  # opened on the feeding thread, and only where something is to be generated
                yield source

        async def sample(source: Prompt | Item) -> PolicyOutput | Item:
            if isinstance(source, Item):
                return source
            if task := asyncio.current_task():
                self._sampling.add(task)
                task.add_done_callback(self._sampling.discard)
            return await self._sample(source, self.engine)

        def weight(source: Prompt | Item) -> int:
            return 1 if isinstance(source, Item) else self.candidates

        return map_unordered(open_before_first_prompt(), sample, self.window, weight)

    def _seed_for(self, messages: tuple[Message, ...]) -> int:
        text = json.dumps([self.seed, "candidates", messages], ensure_ascii=False)
        return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=4).digest()) >> 1

    async def _cancel(self) -> None:
        tasks = list(self._sampling)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def close(self) -> None:
        """Cancel the requests in flight and release the engine. Safe to call twice."""
        # A scorer whose stream is abandoned leaves this stream open on its feeding thread, where nothing closes it.
        if self._sampling:
            submit(self._cancel()).result()
        self._handle.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _thought(generation: Generation) -> str:
    return generation.reasoning or THINK_TAG.sub("", split_leading_thought(generation.tagged_text)[0]).strip()


def _response(generation: Generation) -> str:
    """What a candidate said. A text without a thought is unchanged; else the white space after the thought is dropped.

    >>> _response(Generation("<think>Easy.</think>\\n\\n4", "stop")), _response(Generation(" 4", "stop"))
    ('4', ' 4')
    """
    thought, answer = split_leading_thought(generation.tagged_text)
    return answer.lstrip() if thought else answer
