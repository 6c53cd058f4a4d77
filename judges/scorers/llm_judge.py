"""What every generating judge shares: its engine, its template, its window, its votes."""

from __future__ import annotations

import hashlib
import json
import math
import re
from abc import abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from judges.engines.base import Engine, Generation, Request, RequestFailed
from judges.engines.concurrency import gather, map_unordered
from judges.engines.registry import EngineHandle
from judges.errors import CannotRun
from judges.extraction import Reading, read_json_score, read_score
from judges.extraction.thinking import thinking
from judges.scorer import Scorer, vote_preference
from judges.template import check_read, load_template
from judges.types import Failure, Item, Judgment, Message, Read, Scorecard, Usage

Messages = tuple[Message, ...]
Labels = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Sampling:
    """How a rationale is written: greedy at temperature 0."""

    temperature: float = 0.0
    top_p: float = 1.0


@dataclass(frozen=True, slots=True)
class Answer:
    """One verdict of a judge: a score, or the label of a comparison, or the Failure that stands for it.

    `readings` has what each way gave that was tried; `probabilities` the labels', where they were read.
    """

    verdict: float | str | Failure
    read: Read | None
    readings: Mapping[str, float | str | Failure] = field(default_factory=dict)
    probabilities: Mapping[str, float] | None = None
    mass: float | None = None
    text: str = ""
    truncated: bool = False
    usage: Usage = Usage()


class LLMJudge(Scorer):
    """A judge that generates. Subclasses write `judge`, a coroutine per response.

    Settings shared by all: `model`; `engine` (vllm, openai, transformers); `template` (a name or a file.md);
    `read`, how a verdict is read ("text", "json", "expected", "forced", or several: "text+expected"; the
    template's by default); `force`, one more decode limited to the labels where a rationale ends without a
    verdict; `max_tokens`, `seed`; `window`, the responses in flight; `base_url`, `api_key` for a server; and
    any `engine.KEY`, passed to the engine as it is.
    """

    default_template: ClassVar[str]
    kinds: ClassVar[tuple[str, ...]]

    def __init__(
        self,
        model: str = "embedded:smollm2-135m",
        engine: str = "",
        template: str = "",
        read: str = "",
        force: bool = True,
        max_tokens: int = 256,
        seed: int = 0,
        window: int = 64,
        base_url: str | Sequence[str] = "",
        api_key: str = "",
        store: str = "",
        **engine_settings: Any,
    ) -> None:
        self._hold = EngineHandle(f"scorer {self.name!r}", model, engine, base_url, api_key, store, engine_settings)
        if max_tokens < 1 or window < 1:
            raise CannotRun(f"scorer {self.name!r}: max_tokens and window are at least 1")
        self.template = load_template(template or self.default_template)
        if self.template.kind not in self.kinds:
            wanted = " or ".join(self.kinds)
            raise CannotRun(f"template {self.template.name!r} is {self.template.kind}; {self.name} needs {wanted}")
        self.ways = check_read(read or self.template.read, self.template.kind, f"scorer {self.name!r}")
        if "json" in self.ways and "text" in self.ways:
            raise CannotRun(f"scorer {self.name!r}: a completion is text or JSON, not both")
        self.force = force
        self.scale = self.template.scale
        self.model, self.max_tokens, self.seed, self.window = model, max_tokens, seed, window

    @property
    def engine(self) -> Engine:
        """The engine, opened when first needed: building a judge is cheap."""
        return self._hold.engine

    @property
    def shares(self) -> tuple[str, ...]:
        """Judges that are equal here use one engine."""
        return (self._hold.kind, self.model, repr(sorted(self._hold.settings.items())))

    def remember(self, path: Path) -> None:
        """Keep every completion in this store, and read it from there (before the engine is opened)."""
        self._hold.remember(path)

    def reread(self, path: Path) -> None:
        """Judge from the completions in this store alone, without a model; one that is not there is a Failure."""
        self._hold.reread(path)

    def use(self, engine: Engine) -> None:
        """Ask this engine from now on, until the judge is closed."""
        self._hold.use(engine)

    def identity(self) -> dict[str, Any]:
        return self._hold.identity() | {
            "scorer": self.name,
            "template": f"{self.template.name} {self.template.version} {self.template.digest}",
            "read": "+".join(self.ways),
            "force": self.force,
            "max_tokens": self.max_tokens,
            "seed": self.seed,
        }

    def close(self) -> None:
        self._hold.close()

    @abstractmethod
    async def judge(self, item: Item, index: int) -> Judgment:
        """Judge one response. RequestFailed may pass through: it becomes the row's Failure."""

    def stream(self, items: Iterable[Item]) -> Iterator[Scorecard]:
        _ = self.engine
        return map_unordered(items, self.card, self.window, lambda item: len(item.responses))

    async def card(self, item: Item) -> Scorecard:
        """Judge every response of an Item at once."""
        judgments = await gather([self._guarded(item, i) for i in range(len(item.responses))])
        return Scorecard(id=item.id, judgments=tuple(judgments), preference=vote_preference(judgments))

    async def _guarded(self, item: Item, index: int) -> Judgment:
        if not item.responses[index].strip():
            return Judgment(failure=Failure("empty", "the response is empty"))
        try:
            return await self.judge(item, index)
        except RequestFailed as error:
            return Judgment(failure=error.failure)

    def seed_for(self, messages: Messages, vote: int) -> int:
        """A seed of its own for every request: one for all would make samples repeat across prompts."""
        text = json.dumps([self.seed, vote, messages], ensure_ascii=False)
        return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=4).digest()) >> 1

    # -- one verdict --------------------------------------------------------------------------------------

    def parse(self, text: str, way: str, labels: Labels) -> Reading | Failure:
        """The verdict that a completion announces, by "text" or "json". Judges that compare override it."""
        if way == "json":
            return read_json_score(text, self.scale, self.template.announcement)
        return read_score(text, self.scale, self.template.announcement)

    def decide(self, probabilities: Mapping[str, float]) -> float | str:
        """The verdict that probabilities of the labels come to: their expectation on a scale."""
        return sum(float(label) * p for label, p in probabilities.items())

    async def answer(self, messages: Messages, vote: int, labels: Labels, sampling: Sampling) -> Answer:
        """A rationale and its verdict, read in every way that was asked for; the first way that gives one decides.

        A rationale that ends without a verdict, or is cut off before it, is read by one more decode limited to
        the labels where `force` is set, and by nothing else: it is never scored as if whole.
        """
        as_json = "json" in self.ways
        kept: dict[str, Any] = {"readings": {}}
        usage = Usage()
        try:
            completion = await self.engine.complete(
                Request(
                    messages,
                    temperature=sampling.temperature,
                    top_p=sampling.top_p,
                    max_tokens=self.max_tokens,
                    schema=self.schema(labels) if as_json else None,
                    seed=self.seed_for(messages, vote) if sampling.temperature > 0 else None,
                )
            )
            usage, written = completion.usage, completion.choices[0]
            kept |= {"text": written.text, "truncated": written.finish == "length"}
            first = "json" if as_json else "text"
            reading = _whole(self.parse(written.text, first, labels), written)
            kept["readings"][first] = reading if isinstance(reading, Failure) else reading.value
            unread = isinstance(reading, Failure) and reading.reason in ("missing", "malformed", "truncated")
            ways = [way for way in self.ways if way != first]
            if unread and self.force and "forced" not in ways and "expected" not in ways:
                ways.append("forced")
            if isinstance(reading, Reading):
                prefix = written.text[: reading.span[0]]
            else:
                prefix = (json_up_to if as_json else text_up_to)(written.text, self.template.announcement)
                prefix += '"' if as_json and not self.template.scaled else ""
        except RequestFailed as error:
            return Answer(error.failure, None, usage=usage, **kept)
        if isinstance(reading, Failure) and not (unread and self.force):
            kept["readings"] |= dict.fromkeys(ways, reading)
            ways = []
        return await self._answered(kept, usage, messages, prefix, labels, ways, written)

    async def verdict_after(
        self, messages: Messages, prefix: str, labels: Labels, partial: Generation | None = None
    ) -> Answer:
        """The verdict alone, after a prefix that ends with its announcement: by "expected", "forced" or "text"."""
        return await self._answered({"readings": {}}, Usage(), messages, prefix, labels, self.ways, partial)

    async def _answered(
        self,
        kept: dict[str, Any],
        usage: Usage,
        messages: Messages,
        prefix: str,
        labels: Labels,
        ways: Sequence[Read],
        partial: Generation | None,
    ) -> Answer:
        """What was read so far (`kept`) and is read in these ways after the prefix, as one Answer."""
        readings: dict[str, float | str | Failure] = kept["readings"]
        try:
            for way in ways:
                readings[way], more, how = await self._after(messages, prefix, labels, way, partial)
                kept |= how
                usage += more
        except RequestFailed as error:
            return Answer(error.failure, None, usage=usage, **kept)
        order: list[Read] = [way for way in (*self.ways, "forced") if way in readings]
        read = next((way for way in order if not isinstance(readings[way], Failure)), None)
        return Answer(readings[read or order[0]], read, usage=usage, **kept)

    async def _after(
        self, messages: Messages, prefix: str, labels: Labels, way: str, partial: Generation | None
    ) -> tuple[float | str | Failure, Usage, dict[str, Any]]:
        if way == "expected":
            probabilities, mass, usage = await self.probabilities(messages, prefix, labels, partial)
            return self.decide(probabilities), usage, {"probabilities": probabilities, "mass": mass}
        if way == "forced":
            label, usage = await self.constrained(messages, prefix, labels, partial)
            return self.decide({label: 1.0}), usage, {}
        completion = await self.engine.complete(
            Request(messages, prefix=_open_end(prefix)[0], partial=partial, max_tokens=16)
        )
        written = completion.choices[0]
        head = self.template.announcement
        reading = _whole(self.parse(f"{head} {written.text.lstrip()}", "text", labels), written)
        return reading if isinstance(reading, Failure) else reading.value, completion.usage, {}

    def schema(self, labels: Labels) -> str:
        """The JSON schema of a verdict: a rationale, then the label under the announcement's key."""
        values = [float(label) if self.template.scaled else label for label in labels]
        plain = [int(v) if isinstance(v, float) and v.is_integer() else v for v in values]
        properties = {"rationale": {"type": "string"}, self.template.announcement: {"enum": plain}}
        return json.dumps(
            {
                "type": "object",
                "properties": properties,
                "required": list(properties),
                "additionalProperties": False,
            }
        )

    async def constrained(
        self, messages: Messages, prefix: str, labels: Labels, partial: Generation | None = None
    ) -> tuple[str, Usage]:
        """One more decode on the same cached prefix, limited to the labels."""
        prefix, space = _open_end(prefix)
        completion = await self.engine.complete(
            Request(messages, prefix, partial, max_tokens=16, choice=tuple(space + label for label in labels))
        )
        text = completion.choices[0].text.strip()
        if text not in labels:
            raise RequestFailed("malformed", f"the constrained verdict is {text!r}")
        return text, completion.usage

    async def probabilities(
        self, messages: Messages, prefix: str, labels: Labels, partial: Generation | None = None
    ) -> tuple[dict[str, float], float, Usage]:
        """P of each label after the prefix, each scored whole, with the mass they hold gather.

        A label of two tokens ("10") is scored as two. P is renormalised over the labels. Raises
        RequestFailed when they hold next to no mass.
        """
        prefix, space = _open_end(prefix)
        found = await self.engine.log_likelihoods(messages, prefix, tuple(space + label for label in labels), partial)
        # "1" begins "10": P("1") holds both, so the longer label's share is taken out of the shorter's.
        p = {label: math.exp(f.total) for label, f in zip(labels, found, strict=True)}
        tokens = {label: f.tokens for label, f in zip(labels, found, strict=True)}
        p = {label: max(0.0, p[label] - sum(p[other] for other in _next_longer(label, tokens))) for label in labels}
        mass = sum(p.values())
        usage = sum((f.usage for f in found), Usage())
        if mass < 1e-6:
            raise RequestFailed("missing", "the labels hold no probability after the announcement")
        return {label: share / mass for label, share in p.items()}, mass, usage


def _open_end(prefix: str) -> tuple[str, str]:
    """A prefix without its last spaces, and those: " A" is one token in most vocabularies, " " and "A" are not."""
    kept = prefix.rstrip(" ")
    return kept, prefix[len(kept) :]


def _whole(reading: Reading | Failure, written: Generation) -> Reading | Failure:
    """A verdict that the token limit cut off is truncated, not missing; "1" at the limit may begin "10"."""
    if written.finish != "length":
        return reading
    if isinstance(reading, Failure):
        if reading.reason in ("missing", "malformed"):
            return Failure("truncated", "the token limit came before the verdict; raise max_tokens")
        return reading
    if reading.span[1] == len(written.text.rstrip()):
        return Failure("truncated", "the token limit came within the verdict; raise max_tokens")
    return reading


def text_up_to(text: str, announcement: str) -> str:
    """The rationale, a thinking block closed, and the announcement that it lacks, up to where the verdict stands."""
    if thinking(text):
        text = f"{text.rstrip()}\n</think>"
    return f"{text.rstrip()}\n{announcement} "


def json_up_to(text: str, key: str) -> str:
    """A JSON object that was cut off, closed and gone on with up to the value of `key`.

    >>> json_up_to('{"rationale": "It is', "score")
    '{"rationale": "It is", "score": '
    """
    # Its shape is the schema's: a rationale first. What a cut left of an escape goes.
    partial = re.match(r'\s*\{\s*"rationale"\s*:\s*"(?:[^"\\]|\\u[0-9a-fA-F]{4}|\\[^u])*', text)
    return f'{partial[0]}", "{key}": ' if partial else "{" + f'"{key}": '


def _next_longer(label: str, tokens: Mapping[str, int]) -> list[str]:
    """The labels that go on where `label` ends, in tokens of their own, with none between.

    >>> _next_longer("1", {"1": 1, "10": 2, "100": 3, "2": 1}), _next_longer("1", {"1": 1, "10": 1})
    (['10'], [])
    """
    longer = [other for other in tokens if other.startswith(label) and tokens[other] > tokens[label]]
    return [o for o in longer if not any(m != o and o.startswith(m) and tokens[m] < tokens[o] for m in longer)]
