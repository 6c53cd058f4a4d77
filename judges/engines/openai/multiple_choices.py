"""Several completions of one prompt from servers that give one at a time, whatever `n` says."""

from __future__ import annotations

import asyncio
import hashlib
import re
from collections.abc import Awaitable, Callable
from dataclasses import replace

from judges.engines.base import Completion, Generation, Request, RequestFailed
from judges.types import Failure, Usage

_REFUSES_N = re.compile(
    r"only one (completion )?choice|\bn\b.{0,40}(must be|should be|at most|less than or equal to|equal to) ['\"`]?1\b"
    r"|(unsupported|unknown|unrecognized|unexpected|invalid|not support\w*|not permitted)\b.{0,60}"
    r"['\"`:]\s*n['\"`]?(\W|$)"
    r"|['\"`]n['\"`].{0,60}(unsupported|unknown|unrecognized|unexpected|not (supported|permitted|allowed))"
    r"|multiple (completions|choices|candidates).{0,40}not (supported|allowed)",
    re.IGNORECASE,
)


class MultipleChoices:
    """Remembers whether a server gives several completions for one request, and asks for those that are missing.

    A server that ignores `n` or refuses it is asked once for each missing completion, with a seed of its own, and from
    then on for one completion at a time: the k-th has the same seed in both cases. One that is withheld by a filter
    is not asked for again, since that would select among the completions.
    """

    def __init__(self) -> None:
        self.one_at_a_time = False

    async def complete(self, request: Request, ask: Callable[[Request], Awaitable[Completion]]) -> Completion:
        """`request.n` completions by calls of `ask`. Raises RequestFailed where all of them fail."""
        if request.n == 1:
            return await ask(request)
        first = Completion((), Usage())
        if not self.one_at_a_time:
            try:
                first = await ask(request)
            except RequestFailed as error:
                if not _REFUSES_N.search(error.failure.message):
                    raise
                self.one_at_a_time = True
        count = len(first.choices) + len(first.failures)
        if count == 1:
            self.one_at_a_time = True
        if count >= request.n:
            return first
        further = [replace(request, n=1, seed=choice_seed(request.seed, k)) for k in range(count, request.n)]
        results = await asyncio.gather(*map(ask, further), return_exceptions=True)
        return _joined(first, results)


def _joined(first: Completion, results: list[Completion | BaseException]) -> Completion:
    """One Completion of all. Raises RequestFailed where none has a generation, and any other exception."""
    choices: list[Generation] = list(first.choices)
    failures: list[Failure] = list(first.failures)
    usage = first.usage
    for result in results:
        if isinstance(result, RequestFailed):
            failures.append(result.failure)
            usage += result.usage
        elif isinstance(result, BaseException):
            raise result
        else:
            choices += result.choices
            failures += result.failures
            usage += result.usage
    if not choices:
        raise RequestFailed(failures[0].reason, failures[0].message, usage)
    return Completion(tuple(choices), usage, tuple(failures))


def choice_seed(seed: int | None, index: int) -> int | None:
    """The seed of the completion at `index` where each is a request of its own; the first has the request's seed.

    >>> choice_seed(7, 0), choice_seed(7, 1) != choice_seed(7, 2), choice_seed(None, 1)
    (7, True, None)
    """
    if seed is None or index == 0:
        return seed
    return int.from_bytes(hashlib.blake2b(f"{seed} {index}".encode(), digest_size=4).digest()) >> 1
