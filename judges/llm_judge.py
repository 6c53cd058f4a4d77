"""What every generating judge shares: its engine, its template, its window, its votes."""

from __future__ import annotations

import asyncio
import hashlib
import json
import math
import statistics
from abc import abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from judges.engines.base import Engine, Request, RequestFailed
from judges.engines.embedded import fingerprint, resolve_model
from judges.engines.shared import default_engine, open_engine, release
from judges.errors import CannotRun
from judges.flight import in_flight
from judges.scorer import Scorer, vote_preference
from judges.template import load_template
from judges.types import Failure, Item, Judgment, Message, Scorecard, Usage

ENGINE_PREFIX = "engine."


class LLMJudge(Scorer):
    """A judge that generates. Subclasses write `judge`, a coroutine per response.

    Settings shared by all: `model`; `engine` (vllm, openai, transformers); `template` (a name or a file.md);
    `max_tokens`, `seed`; `window`, the responses in flight; `base_url`, `api_key` for a server; and any
    `engine.KEY`, passed to the engine as it is.
    """

    default_template: ClassVar[str]

    def __init__(
        self,
        model: str = "embedded:smollm2-135m",
        engine: str = "",
        template: str = "",
        max_tokens: int = 256,
        seed: int = 0,
        window: int = 64,
        base_url: str = "",
        api_key: str = "",
        store: str = "",
        **engine_settings: Any,
    ) -> None:
        if unknown := [key for key in engine_settings if not key.startswith(ENGINE_PREFIX)]:
            raise CannotRun(
                f"scorer {self.name!r} has no setting {', '.join(unknown)}"
                f" (the engine's own are written {ENGINE_PREFIX}{unknown[0]}=…)"
            )
        if max_tokens < 1 or window < 1:
            raise CannotRun(f"scorer {self.name!r}: max_tokens and window are at least 1")
        self.template = load_template(template or self.default_template)
        self.scale = self.template.scale
        self.model, self.max_tokens, self.seed, self.window = model, max_tokens, seed, window
        self._kind = engine or default_engine()
        self._settings = {key.removeprefix(ENGINE_PREFIX): value for key, value in engine_settings.items()}
        if base_url:
            self._settings["base_url"] = base_url
        if api_key:
            self._settings["api_key"] = api_key
        self._store = store
        self._opened: Engine | None = None
        self._stored: Engine | None = None

    @property
    def engine(self) -> Engine:
        """The engine, opened when first needed: building a judge is cheap."""
        if self._opened is None:
            self._opened = open_engine(self._kind, self.model, **self._settings)
            if self._store:
                from judges.engines.store import StoredEngine

                self._stored = StoredEngine(self._opened, Path(self._store))
        return self._stored or self._opened

    @property
    def shares(self) -> tuple[str, ...]:
        """Judges that are equal here use one engine."""
        return (self._kind, self.model, repr(sorted(self._settings.items())))

    def remember(self, path: Path) -> None:
        """Keep every completion in this store, and read it from there (before the engine is opened)."""
        self._store = self._store or str(path)

    def identity(self) -> dict[str, Any]:
        shown = {key: value for key, value in self._settings.items() if key != "api_key"}
        return {
            "scorer": self.name,
            "model": self.model,
            "revision": None if self._kind == "openai" else fingerprint(resolve_model(self.model)),
            "engine": self._kind,
            "engine_settings": shown,
            "template": f"{self.template.name} {self.template.version} {self.template.digest}",
            "max_tokens": self.max_tokens,
            "seed": self.seed,
        }

    def close(self) -> None:
        stored, opened = self._stored, self._opened
        self._stored = self._opened = None
        if stored is not None:
            stored.close()
        if opened is not None:
            release(opened)

    @abstractmethod
    async def judge(self, item: Item, index: int) -> Judgment:
        """Judge one response. RequestFailed may pass through: it becomes the row's Failure."""

    def stream(self, items: Iterable[Item]) -> Iterator[Scorecard]:
        _ = self.engine
        return in_flight(items, self._card, self.window, lambda item: len(item.responses))

    async def _card(self, item: Item) -> Scorecard:
        judgments = await asyncio.gather(*(self._guarded(item, i) for i in range(len(item.responses))))
        return Scorecard(id=item.id, judgments=tuple(judgments), preference=vote_preference(judgments))

    async def _guarded(self, item: Item, index: int) -> Judgment:
        if not item.responses[index].strip():
            return Judgment(failure=Failure("empty", "the response is empty"))
        try:
            return await self.judge(item, index)
        except RequestFailed as error:
            return Judgment(failure=error.failure)

    def seed_for(self, messages: tuple[Message, ...], vote: int) -> int:
        """A seed of its own for every request: one for all would make samples repeat across prompts."""
        text = json.dumps([self.seed, vote, messages], ensure_ascii=False)
        return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=4).digest()) >> 1

    async def constrained(self, messages: tuple[Message, ...], prefix: str) -> tuple[float, Usage]:
        """One more decode on the same cached prefix, limited to the scale's labels."""
        completion = await self.engine.complete(
            Request(messages, prefix=prefix, max_tokens=8, choice=self.scale.labels())
        )
        text = completion.choices[0].text.strip()
        if text not in self.scale.labels():
            raise RequestFailed("malformed", f"the constrained verdict is {text!r}")
        return float(text), completion.usage

    async def expected(self, messages: tuple[Message, ...], prefix: str) -> tuple[float, float, Usage]:
        """Σ s·P(s) over the scale's labels, each scored whole, with the mass they hold: (score, mass, cost).

        A label of two tokens ("10") is scored as two; P is renormalised over the labels. Raises
        RequestFailed when they hold next to no mass.
        """
        labels = self.scale.labels()
        found = await self.engine.log_likelihoods(messages, prefix, labels)
        # "1" begins "10": P("1") holds both, so the longer label's share is taken out of the shorter's.
        p = {label: math.exp(f.total) for label, f in zip(labels, found, strict=True)}
        tokens = {label: f.tokens for label, f in zip(labels, found, strict=True)}
        p = {label: max(0.0, p[label] - sum(p[other] for other in _next_longer(label, tokens))) for label in labels}
        mass = sum(p.values())
        usage = sum((f.usage for f in found), Usage())
        if mass < 1e-6:
            raise RequestFailed("missing", "the scale's labels hold no probability after the announcement")
        return sum(float(label) * share for label, share in p.items()) / mass, mass, usage


def _next_longer(label: str, tokens: Mapping[str, int]) -> list[str]:
    """The labels that go on where `label` ends, in tokens of their own, with none between.

    >>> _next_longer("1", {"1": 1, "10": 2, "100": 3, "2": 1}), _next_longer("1", {"1": 1, "10": 1})
    (['10'], [])
    """
    longer = [other for other in tokens if other.startswith(label) and tokens[other] > tokens[label]]
    return [o for o in longer if not any(m != o and o.startswith(m) and tokens[m] < tokens[o] for m in longer)]


def mean_judgment(
    votes: Sequence[Judgment],
) -> Judgment:
    """Several votes on one response as one Judgment: the mean of the votes that have a score.

    A failed vote is kept among the votes and enters no mean; all failed is a Failure. Raises ValueError
    for no votes.
    """
    if not votes:
        raise ValueError("a judgment needs at least one vote")
    scores = [v.score for v in votes if v.score is not None]
    usage = sum((v.usage for v in votes), Usage())
    kept: dict[str, Any] = {
        "votes": tuple(v.failure or v.score for v in votes),
        "completions": tuple(c for v in votes for c in v.completions),
        "critique": next((v.critique for v in votes if v.critique), None),
        "truncated": any(v.truncated for v in votes),
        "usage": usage,
    }
    if not scores:
        return Judgment(failure=votes[0].failure, **kept)
    read = "forced" if any(v.read == "forced" for v in votes) else next((v.read for v in votes if v.read), None)
    return Judgment(score=statistics.fmean(scores), read=read, **kept)
