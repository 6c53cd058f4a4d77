"""Generate and judge: a prompt without responses becomes an Item of n candidates, which any scorer takes."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from judges.engines.base import Engine, Request, RequestFailed, submit
from judges.engines.concurrency import map_unordered
from judges.engines.registry import EngineHandle
from judges.errors import CannotRun
from judges.types import Failure, Item, Message, Usage


@dataclass(frozen=True, slots=True)
class Prompt:
    """An Item that has no responses yet.

    >>> Prompt(id="a", prompt="2 + 2?").answered(["4", "5"]).responses
    ('4', '5')
    """

    id: str
    prompt: str | Sequence[Message]
    system: str | None = None
    reference: str | None = None
    rubric: str | None = None
    subset: str | None = None
    meta: Mapping[str, Any] = field(default_factory=dict)

    def answered(self, responses: Sequence[str]) -> Item:
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
        return self.answered([""]).messages


@dataclass(frozen=True, slots=True)
class PolicyOutput:
    """What a policy made of a Prompt: an Item of its candidates in the order drawn, or why there is none.

    `truncated` says of each candidate whether the token limit cut it off.
    """

    prompt: Prompt
    item: Item | Failure
    truncated: tuple[bool, ...] = ()
    usage: Usage = Usage()


class Policy:
    """A model that answers prompts, `candidates` times each (Yuan et al. 2024 draw 4 at T 0.7, top_p 0.9).

    All candidates of a prompt are one request, so the prompt is computed once; its seed comes from `seed` and
    the prompt's own text. `window` bounds the candidates in flight. An empty candidate is kept: what it is
    worth is the scorer's to say. `engine`, `base_url`, `api_key` and `engine.KEY` are those of an LLM judge: the
    engine is shared with every scorer that names the same. Raises CannotRun for settings that cannot be.
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
        self._hold = EngineHandle("a policy", model, engine, base_url, api_key, store, engine_settings)
        if candidates < 1 or max_tokens < 1 or window < 1:
            raise CannotRun("a policy's candidates, max_tokens and window are at least 1")
        if candidates > 1 and temperature == 0:
            raise CannotRun(f"{candidates} candidates at temperature 0 are one; give the policy a temperature")
        self.model, self.candidates, self.max_tokens = model, candidates, max_tokens
        self.temperature, self.top_p = temperature, top_p if temperature > 0 else 1.0
        self.seed, self.window = seed, window
        self._drawing: set[asyncio.Task[Any]] = set()

    @property
    def engine(self) -> Engine:
        """The engine, opened when first needed."""
        return self._hold.engine

    def use(self, engine: Engine) -> None:
        """Ask this engine from now on, until the policy is closed."""
        self._hold.use(engine)

    def remember(self, path: Path) -> None:
        """Keep every candidate in this store, and read it from there (before the engine is opened)."""
        self._hold.remember(path)

    def reread(self, path: Path) -> None:
        """Take candidates from this store alone, without a model."""
        self._hold.reread(path)

    def identity(self) -> dict[str, Any]:
        """What another run must share to draw the same candidates."""
        return self._hold.identity() | {
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
            return PolicyOutput(prompt, error.failure)
        drawn = completion.choices
        if len(drawn) != self.candidates:
            told = f"the policy's engine gave {len(drawn)} of the {self.candidates} candidates asked for"
            return PolicyOutput(prompt, Failure("engine", told), usage=completion.usage)
        item = prompt.answered([one.text for one in drawn])
        return PolicyOutput(prompt, item, tuple(one.finish == "length" for one in drawn), completion.usage)

    def stream(self, prompts: Iterable[Prompt | Item]) -> Iterator[PolicyOutput | Item]:
        """Yield what was drawn for each Prompt as it finishes, in any order, with bounded memory.

        A request that fails is its prompt's Failure, nothing else's. An Item among them has its responses already
        and passes through.
        """

        def opened() -> Iterator[Prompt | Item]:
            for one in prompts:
                if not isinstance(one, Item):
                    _ = self.engine  # on the feeding thread, and only where something is to be written
                yield one

        async def drawn(one: Prompt | Item) -> PolicyOutput | Item:
            if isinstance(one, Item):
                return one
            if task := asyncio.current_task():
                self._drawing.add(task)
                task.add_done_callback(self._drawing.discard)
            return await self._sample(one, self.engine)

        return map_unordered(opened(), drawn, self.window, lambda one: 1 if isinstance(one, Item) else self.candidates)

    def _seed_for(self, messages: tuple[Message, ...]) -> int:
        text = json.dumps([self.seed, "candidates", messages], ensure_ascii=False)
        return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=4).digest()) >> 1

    async def _cancel(self) -> None:
        drawing = list(self._drawing)
        for task in drawing:
            task.cancel()
        await asyncio.gather(*drawing, return_exceptions=True)

    def close(self) -> None:
        """Cancel what is being drawn and give the engine back. Safe to call twice."""
        # A scorer that is left early leaves this stream behind on its feeding thread, which nobody can close.
        if self._drawing:
            submit(self._cancel()).result()
        self._hold.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
