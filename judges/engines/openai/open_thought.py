"""Whether a server's chat template opens a thought, which a completion that was cut inside it does not show."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

from judges.engines.base import Completion, Generation, Request, RequestFailed
from judges.engines.thoughts import THINK_TAG, ends_in_thinking, split_leading_thought


def without_thought(prefix: str) -> str:
    """An assistant turn to go on with, without its thought: chat templates drop it, and a server then refuses the turn.

    A turn that holds nothing else is unchanged.

    >>> without_thought("Is it? 4\\n</think>\\nScore:"), without_thought("Good. Score:")
    ('Score:', 'Good. Score:')
    """
    thought, rest = split_leading_thought(prefix)
    return rest.lstrip() if thought and rest.strip() else prefix


class OpenThought:
    """Marks the completions of one server that begin inside a thought (`Generation.in_thought`).

    `tokenize` gives vLLM's answer about the prompt of a new turn, with `token_strs`; it is asked once, for the first
    completion without a tag and without a thought in a field of its own. A server without `tokenize` shows it by a
    completion that has an end tag without a start tag; a later one without tags that was cut off is then a thought.
    """

    def __init__(self, tokenize: Callable[[], Awaitable[dict[str, Any]]] | None) -> None:
        self._tokenize = tokenize
        self._lock = asyncio.Lock()
        self._opens: bool | None = None
        self._end_without_start = False

    async def mark(self, request: Request, completion: Completion) -> Completion:
        """The completion, with its generations marked. A constrained or continued one holds no open thought."""
        if request.prefix or request.choice or request.schema:
            return completion
        for choice in completion.choices:
            tag = THINK_TAG.search(choice.text)
            if tag is not None and tag["end"] and not choice.reasoning:
                self._end_without_start = True
        choices = tuple([await self._mark_one(choice) for choice in completion.choices])
        return replace(completion, choices=choices)

    async def _mark_one(self, choice: Generation) -> Generation:
        tag = THINK_TAG.search(choice.text)
        if choice.reasoning or not choice.text.strip() or (tag is not None and not tag["end"]):
            return choice
        if self._tokenize is None:
            return replace(choice, in_thought=self._end_without_start and choice.finish == "length")
        return replace(choice, in_thought=await self._opens_thought())

    async def _opens_thought(self) -> bool:
        if self._opens is None:
            async with self._lock:
                if self._opens is None:
                    self._opens = await self._ask()
        return self._opens

    async def _ask(self) -> bool:
        assert self._tokenize is not None
        try:
            strings = (await self._tokenize()).get("token_strs")
        except RequestFailed:
            return False
        return isinstance(strings, list) and ends_in_thinking("".join(str(string) for string in strings))
