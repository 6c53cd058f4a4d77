"""What all generating judges share: engine, template, decoding, and how a completion becomes a verdict."""

from __future__ import annotations

import hashlib
import json
import re
from abc import abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

from judges.engines.base import Completion, Engine, Generation, Request, RequestFailed, Sampling
from judges.engines.capabilities import Capabilities, NotSupported
from judges.engines.concurrency import gather, map_unordered
from judges.engines.registry import EngineHandle
from judges.engines.thoughts import CLOSE_THOUGHT, OPEN_THOUGHT, ends_in_thinking
from judges.errors import CannotRun
from judges.extraction.expected_score import expected_score, label_probabilities
from judges.extraction.json_verdict import read_json_score
from judges.extraction.reading import Reading
from judges.extraction.score import read_score
from judges.extraction.top_logprobs import listed_probabilities
from judges.scorer import Scorer, vote_preference
from judges.template import READS, load_template, parse_read
from judges.types import Failure, Item, Judgment, Message, Read, Scorecard, Usage

Messages = tuple[Message, ...]
Labels = tuple[str, ...]
TOP_LOGPROBS = 20  # the most that hosted servers list
# The ways in which each method of reading is done: its own, and those for servers that cannot do it.
WAYS: Mapping[str, tuple[Read, ...]] = {
    "expected": ("expected", "top-logprobs"),
    "forced": ("forced", "forced-schema", "forced-text"),
}


@dataclass(frozen=True, slots=True)
class Verdict:
    """One verdict of a judge. `value` is a score, the label of a comparison, or the Failure in its place.

    `read` is the method that gave the value, `readings` the result of every method that was tried. `probabilities`
    are those of the labels and `mass` is their sum before renormalisation, where the method "expected" was used.
    """

    value: float | str | Failure
    read: Read | None = None
    readings: Mapping[str, float | str | Failure] = field(default_factory=dict)
    probabilities: Mapping[str, float] | None = None
    mass: float | None = None
    text: str = ""
    truncated: bool = False
    usage: Usage = Usage()

    def judgment(self) -> Judgment:
        """A verdict that is a number, as a Judgment of one response."""
        return Judgment(
            score=None if isinstance(self.value, Failure) else float(self.value),
            failure=self.value if isinstance(self.value, Failure) else None,
            completions=(self.text,) if self.text else (),
            read=self.read,
            truncated=self.truncated,
            usage=self.usage,
            readings=self.readings,  # type: ignore[arg-type]  # numbers, as the value is
            mass=self.mass,
        )


@dataclass(frozen=True, slots=True)
class Continuation:
    """Where a verdict is read by a further request: one of `labels`, after `prefix` in the assistant's turn.

    `partial` is the generation that wrote the prefix; its token ids are sent again, so that its cache is reused.
    `verdict_at` is the index of its character with which the verdict begins, where it has one.
    """

    messages: Messages
    prefix: str
    labels: Labels
    partial: Generation | None = None
    verdict_at: int | None = None


class LLMJudge(Scorer):
    """A judge that generates. Subclasses write `judge`, a coroutine per response.

    Settings of all of them: `model`; `engine` (vllm, openai, transformers); `template` (a name or a file.md);
    `read`, how a verdict is read ("text", "json", "expected", "forced", or several: "text+expected"; the
    template's by default); `force`, one more decode limited to the labels where a rationale ends without a
    verdict; `max_tokens`, `seed`; `window`, the responses in flight; `base_url`, `api_key` for a server; and
    any `engine.KEY`, which is passed to the engine unchanged.
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
        self._handle = EngineHandle(
            f"scorer {self.name!r}", type(self), model, engine, base_url, api_key, store, engine_settings
        )
        if max_tokens < 1 or window < 1:
            raise CannotRun(f"scorer {self.name!r}: max_tokens and window are at least 1")
        self.template = load_template(template or self.default_template)
        if self.template.kind not in self.kinds:
            kinds = " or ".join(self.kinds)
            raise CannotRun(f"template {self.template.name!r} is {self.template.kind}; {self.name} needs {kinds}")
        self.read_methods = parse_read(read or self.template.read, self.template.kind, f"scorer {self.name!r}")
        if "json" in self.read_methods and "text" in self.read_methods:
            raise CannotRun(f"scorer {self.name!r}: read has text and json; a completion is text or JSON, not both")
        self.force = force
        self.scale = self.template.scale
        self.model, self.max_tokens, self.seed, self.window = model, max_tokens, seed, window

    @property
    def engine(self) -> Engine:
        """The engine. It is opened at the first access, so that creating a judge is cheap."""
        return self._handle.engine

    @property
    def engine_key(self) -> tuple[str, ...]:
        """Judges with equal keys share one engine."""
        return (self._handle.kind, self.model, repr(sorted(self._handle.settings.items())))

    def use_store(self, path: Path) -> None:
        """Keep every completion in this store, and read it from there (before the engine is opened)."""
        self._handle.use_store(path)

    def reread(self, path: Path) -> None:
        """Judge from the completions in this store alone, without a model; one that is not there is a Failure."""
        self._handle.reread(path)

    def use_engine(self, engine: Engine) -> None:
        """Ask this engine from now on, until the judge is closed."""
        self._handle.use_engine(engine)

    def identity(self) -> dict[str, Any]:
        return self._handle.identity() | {
            "scorer": self.name,
            "template": f"{self.template.name} {self.template.version} {self.template.digest}",
            "read": "+".join(self.read_methods),
            "force": self.force,
            "max_tokens": self.max_tokens,
            "seed": self.seed,
        }

    def close(self) -> None:
        self._handle.close()

    @abstractmethod
    async def judge(self, item: Item, index: int) -> Judgment:
        """Judge one response. A RequestFailed that it raises becomes the response's Failure."""

    def stream(self, items: Iterable[Item]) -> Iterator[Scorecard]:
        self.check_engine()
        return map_unordered(items, self.score_item, self.window, lambda item: len(item.responses))

    async def score_item(self, item: Item) -> Scorecard:
        """Judge all responses of an Item concurrently."""
        judgments = await gather([self._judge_or_failure(item, i) for i in range(len(item.responses))])
        return Scorecard(id=item.id, judgments=tuple(judgments), preference=vote_preference(judgments))

    async def _judge_or_failure(self, item: Item, index: int) -> Judgment:
        if not item.responses[index].strip():
            return Judgment(failure=Failure("empty", "the response is empty"))
        try:
            return await self.judge(item, index)
        except RequestFailed as error:
            return Judgment(failure=error.failure, usage=error.usage)

    def seed_for(self, messages: Messages, vote: int) -> int:
        """The seed of a request. With one seed for all, samples would repeat across prompts."""
        text = json.dumps([self.seed, vote, messages], ensure_ascii=False)
        return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=4).digest()) >> 1

    # -- one verdict --------------------------------------------------------------------------------------

    def parse(self, text: str, method: str, labels: Labels) -> Reading | Failure:
        """The verdict in a completion, read by "text" or "json". Judges that compare override it."""
        read = read_json_score if method == "json" else read_score
        return read(text, self.scale, self.template.announcement)

    def decide(self, probabilities: Mapping[str, float]) -> float | str:
        """The verdict that follows from the labels' probabilities: on a scale their expectation."""
        return expected_score(probabilities)

    async def verdict(self, messages: Messages, vote: int, labels: Labels, sampling: Sampling) -> Verdict:
        """Generate a rationale with its verdict, and read it by every method of `read`.

        The first method that succeeds gives the value. Where the rationale has no readable verdict or is cut off
        before it, one more decode limited to the labels reads it if `force` is set, and nothing else: it is never
        scored as if it were complete.
        """
        first: Read = "json" if "json" in self.read_methods else "text"
        try:
            capabilities = await self.require_verdict()
        except RequestFailed as error:
            return Verdict(error.failure)
        listed = "expected" in self.read_methods and not capabilities.label_logprobs
        request = Request(
            messages,
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            max_tokens=self.max_tokens,
            schema=self.schema(labels) if first == "json" else None,
            seed=self.seed_for(messages, vote) if sampling.temperature > 0 else None,
            top_logprobs=TOP_LOGPROBS if listed and capabilities.top_logprobs else 0,
        )
        try:
            completion = await self._complete(request)
        except RequestFailed as error:
            return Verdict(error.failure, usage=error.usage)
        generation = completion.choices[0]
        reading = self._read(generation, first, labels)
        value = reading if isinstance(reading, Failure) else reading.value
        verdict = Verdict(
            value,
            readings={first: value},
            text=generation.tagged_text,
            truncated=generation.finish == "length",
            usage=completion.usage,
        )
        methods = [method for method in self.read_methods if method != first]
        if isinstance(reading, Reading):
            prefix = generation.text[: reading.span[0]]
        elif self.force and (reading.reason in ("missing", "malformed", "truncated") or generation.is_all_thought):
            prefix = self._announced(generation)
            if "forced" not in methods and "expected" not in methods:
                methods.append("forced")
        else:
            return replace(verdict, readings={**verdict.readings, **dict.fromkeys(methods, reading)})
        verdict_at = reading.span[0] if isinstance(reading, Reading) else None
        return await self._read_after(Continuation(messages, prefix, labels, generation, verdict_at), methods, verdict)

    async def _complete(self, request: Request) -> Completion:
        """A completion, without log-probabilities where the server turns out to have none. Raises RequestFailed."""
        try:
            return await self.engine.complete(request)
        except NotSupported as error:
            if error.feature == "top_logprobs" and set(self.read_methods) != {"expected"}:
                return await self.engine.complete(replace(request, top_logprobs=0))
            raise RequestFailed("missing", f"{error}: use read=text or read=forced", error.usage) from error

    async def require_verdict(self) -> Capabilities:
        """The engine's capabilities. Raises RequestFailed where no method of `read` is possible with them."""
        if "expected" in self.read_methods:
            await self.engine.find_label_scoring()
        if set(self.read_methods) == {"expected"} and not self.engine.capabilities.expected:
            raise RequestFailed("missing", "the server gives no log-probabilities: use read=text or read=forced")
        return self.engine.capabilities

    def check_engine(self) -> None:
        """Raise CannotRun where the engine is known to lack what the judge needs. Opens the engine."""
        capabilities = self.engine.capabilities  # opened here: on the event loop, opening it would wait for itself
        if "expected" in self.read_methods and not capabilities.expected:
            others = [method for method in READS[self.template.kind] if method not in ("expected", "head")]
            raise CannotRun(
                f"scorer {self.name!r}: {self.model!r} gives no log-probabilities, which read=expected needs;"
                f" use {' or '.join(f'read={method}' for method in others)}"
            )

    async def verdict_after(self, continuation: Continuation) -> Verdict:
        """The verdict after a prefix that ends with its announcement, read by "expected", "forced" or "text"."""
        try:
            await self.require_verdict()
        except RequestFailed as error:
            return Verdict(error.failure)
        unread = Verdict(Failure("missing", "no verdict was read"))
        return await self._read_after(continuation, self.read_methods, unread)

    async def _read_after(self, continuation: Continuation, methods: Sequence[Read], verdict: Verdict) -> Verdict:
        """`verdict` with a further reading by each of `methods`, and the value that follows from all readings.

        A request that fails ends it: the value is then its Failure, and what was read before remains.
        """
        try:
            for method in methods:
                verdict = await self._add_reading(verdict, method, continuation)
        except RequestFailed as error:
            return replace(verdict, value=error.failure, read=None, usage=verdict.usage + error.usage)
        names: list[Read] = list(dict.fromkeys((*self.read_methods, "forced")))
        order: list[Read] = [way for m in names for way in WAYS.get(m, (m,)) if way in verdict.readings]
        read = next((m for m in order if not isinstance(verdict.readings[m], Failure)), None)
        if read is None:
            # A judge that was asked for the label alone and gave none says more than one that did not announce it.
            first, last = verdict.readings[order[0]], verdict.readings[order[-1]]
            cut = isinstance(first, Failure) and first.reason == "truncated"
            return replace(verdict, value=last if order[-1] in WAYS["forced"] and not cut else first, read=None)
        return replace(verdict, value=verdict.readings[read], read=read)

    async def _add_reading(self, verdict: Verdict, method: Read, continuation: Continuation) -> Verdict:
        """`verdict` with the reading by one method, and its usage. Raises RequestFailed."""
        value: float | str | Failure
        way = method
        capabilities = self.engine.capabilities
        try:
            if method == "expected" and capabilities.label_logprobs:
                probabilities, mass, usage = await self.label_probabilities(continuation)
                value = self.decide(probabilities)
                verdict = replace(verdict, probabilities=probabilities, mass=mass)
            elif method == "expected":
                way = "top-logprobs"
                listed, usage = await self._listed_probabilities(continuation)
                if isinstance(listed, Failure):
                    value = listed
                else:
                    value = self.decide(listed[0])
                    verdict = replace(verdict, probabilities=listed[0], mass=listed[1])
            elif method == "forced" and capabilities.forced_in_prefix:
                label, usage = await self._constrained_label(continuation)
                value = self.decide({label: 1.0})
            elif method == "forced":
                way = "forced-schema" if capabilities.json_schema else "forced-text"
                generation, usage = await self._ask_verdict(continuation, capabilities.json_schema)
                value = self._asked_value(generation, continuation.labels)
            elif capabilities.prefix_continuation:
                value, usage = await self._continued_text(continuation)
            else:
                generation, usage = await self._ask_verdict(continuation)
                value = self._asked_value(generation, continuation.labels)
        except NotSupported as error:  # the engine has learned something: read in the way that is left
            verdict = replace(verdict, usage=verdict.usage + error.usage)
            if method == "expected" and error.feature == "top_logprobs":
                failure = Failure("missing", f"{error}: use read=text or read=forced")
                return replace(verdict, readings={**verdict.readings, way: failure})
            return await self._add_reading(verdict, method, continuation)
        return replace(verdict, readings={**verdict.readings, way: value}, usage=verdict.usage + usage)

    async def _ask_verdict(
        self, continuation: Continuation, as_json: bool = False, top_logprobs: int = 0
    ) -> tuple[Generation, Usage]:
        """The answer to a second user turn that asks for the verdict alone. Raises RequestFailed."""
        messages = continuation.messages
        if continuation.partial is not None:
            question = self.template.verdict_question(continuation.labels, as_json)
            answer = continuation.partial.answer.strip()
            if answer:
                messages = (
                    *messages,
                    {"role": "assistant", "content": answer},
                    {"role": "user", "content": question},
                )
            else:
                last = messages[-1]
                messages = (*messages[:-1], {"role": last["role"], "content": f"{last['content']}\n\n{question}"})
        completion = await self.engine.complete(
            Request(
                messages,
                max_tokens=max(64, self.max_tokens),
                schema=_verdict_schema(continuation.labels) if as_json else None,
                top_logprobs=top_logprobs,
            )
        )
        return completion.choices[0], completion.usage

    def _asked_value(self, generation: Generation, labels: Labels) -> float | str | Failure:
        """The verdict in an answer to `_ask_verdict`: JSON, a bare label, or a text that announces it."""
        reading = self._asked_reading(generation, labels)
        return reading if isinstance(reading, Failure) else reading.value

    def _asked_reading(self, generation: Generation, labels: Labels) -> Reading | Failure:
        answer = generation.answer.strip()
        start = generation.text.rfind(answer)
        with suppress(ValueError, KeyError, TypeError, AttributeError):
            label = str(json.loads(answer)["verdict"]).strip()
            if label in labels:
                return Reading(self.decide({label: 1.0}), (start, start + len(answer)))
        bare = answer.strip("*`\"'[]() .。")
        if bare in labels and generation.finish == "stop":
            at = start + answer.index(bare)
            return Reading(self.decide({bare: 1.0}), (at, at + len(bare)))
        reading = self._read(generation, "text", labels)
        if isinstance(reading, Failure) and reading.reason == "missing":
            return Failure("malformed", f"the verdict alone was asked for; the answer is {answer!r:.200}")
        return reading

    async def _listed_probabilities(
        self, continuation: Continuation
    ) -> tuple[tuple[dict[str, float], float] | Failure, Usage]:
        """(P of each label and their mass, usage), from the tokens that the server lists. Raises RequestFailed."""
        generation, usage, at = continuation.partial, Usage(), continuation.verdict_at
        if generation is None or at is None or not generation.logprobs:
            if not self.engine.capabilities.top_logprobs:
                return Failure("missing", "the server gives no log-probabilities: use read=text or read=forced"), usage
            generation, usage = await self._ask_verdict(continuation, top_logprobs=TOP_LOGPROBS)
            reading = self._asked_reading(generation, continuation.labels)
            if isinstance(reading, Failure):
                return reading, usage
            at = reading.span[0]
        if not generation.logprobs:
            return Failure("missing", "the server returned no log-probabilities: use read=text or read=forced"), usage
        positions = [(position.token, position.top) for position in generation.logprobs]
        whole_numbers = self.engine.capabilities.single_token_numbers
        return listed_probabilities(positions, at, continuation.labels, whole_numbers), usage

    async def label_probabilities(self, continuation: Continuation) -> tuple[dict[str, float], float, Usage]:
        """(P of each label, their mass, usage); a label of two tokens ("10") is scored as two.

        Raises RequestFailed when the labels have next to no mass.
        """
        prefix, spaces = _split_trailing_spaces(continuation.prefix)
        labels = continuation.labels
        results = await self.engine.log_likelihoods(
            continuation.messages, prefix, tuple(spaces + label for label in labels), continuation.partial
        )
        by_label = dict(zip(labels, results, strict=True))
        probabilities, mass = label_probabilities(
            {label: result.total for label, result in by_label.items()},
            {label: result.tokens for label, result in by_label.items()},
        )
        usage = sum((result.usage for result in results), Usage())
        if not probabilities:
            raise RequestFailed("missing", "the labels have no probability after the announcement", usage)
        return probabilities, mass, usage

    async def _constrained_label(self, continuation: Continuation) -> tuple[str, Usage]:
        """The label that one decode limited to the labels gives. Raises RequestFailed."""
        prefix, spaces = _split_trailing_spaces(continuation.prefix)
        choice = tuple(spaces + label for label in continuation.labels)
        completion = await self.engine.complete(
            Request(continuation.messages, prefix, continuation.partial, max_tokens=16, choice=choice)
        )
        generation = completion.choices[0]
        label = generation.text.strip()
        if not label and generation.finish == "length":  # all of it was thought
            raise RequestFailed(
                "truncated", "the token limit came before the verdict; raise max_tokens", completion.usage
            )
        if label not in continuation.labels:
            raise RequestFailed("malformed", f"the constrained verdict is {label!r:.200}", completion.usage)
        return label, completion.usage

    async def _continued_text(self, continuation: Continuation) -> tuple[float | str | Failure, Usage]:
        """The verdict in what the model writes after the prefix. Raises RequestFailed."""
        prefix, _ = _split_trailing_spaces(continuation.prefix)
        completion = await self.engine.complete(
            Request(continuation.messages, prefix, continuation.partial, max_tokens=16)
        )
        generation = completion.choices[0]
        text = f"{self.template.announcement} {generation.text.lstrip()}"
        reading = _check_truncation(self.parse(text, "text", continuation.labels), generation)
        return reading if isinstance(reading, Failure) else reading.value, completion.usage

    def _read(self, generation: Generation, method: Read, labels: Labels) -> Reading | Failure:
        """The verdict in what a generation says outside of its thought; the span is one of its text."""
        text = generation.tagged_text
        reading = self.parse(text, method, labels)
        added = len(text) - len(generation.text)
        if isinstance(reading, Reading) and added:
            reading = Reading(reading.value, (reading.span[0] - added, reading.span[1] - added))
        return _check_truncation(reading, generation)

    def _announced(self, generation: Generation) -> str:
        """A completion without a verdict, continued to where its verdict begins; an open thought is closed."""
        text = generation.text
        if "json" not in self.read_methods:
            return text_prefix(text, self.template.announcement, generation.in_thought)
        if ends_in_thinking(generation.tagged_text):
            return f"{text.rstrip()}{CLOSE_THOUGHT}{json_prefix('', self.template.announcement)}" + (
                "" if self.template.scaled else '"'
            )
        return json_prefix(text, self.template.announcement) + ("" if self.template.scaled else '"')

    def schema(self, labels: Labels) -> str:
        """The JSON schema of a verdict: a rationale, then the label under the announcement's key."""
        values = [float(label) if self.template.scaled else label for label in labels]
        enum = [int(v) if isinstance(v, float) and v.is_integer() else v for v in values]
        properties = {"rationale": {"type": "string"}, self.template.announcement: {"enum": enum}}
        return json.dumps(
            {
                "type": "object",
                "properties": properties,
                "required": list(properties),
                "additionalProperties": False,
            }
        )


def _verdict_schema(labels: Labels) -> str:
    """The JSON schema of a verdict alone. Labels are strings: not every server takes numbers in an `enum`."""
    verdict = {"type": "string", "enum": list(labels)}
    schema = {"type": "object", "properties": {"verdict": verdict}, "required": ["verdict"]}
    return json.dumps(schema | {"additionalProperties": False}, ensure_ascii=False)


def _split_trailing_spaces(prefix: str) -> tuple[str, str]:
    """(prefix without its last spaces, these): " A" is one token in most vocabularies, " " and "A" are not."""
    stripped = prefix.rstrip(" ")
    return stripped, prefix[len(stripped) :]


def _check_truncation(reading: Reading | Failure, generation: Generation) -> Reading | Failure:
    """A verdict that the token limit cut off is truncated, not missing; "1" at the limit may be the start of "10"."""
    if generation.finish != "length":
        return reading
    if isinstance(reading, Failure):
        if generation.is_all_thought:
            return Failure("truncated", "the token limit came before the end of the model's thought; raise max_tokens")
        if reading.reason in ("missing", "malformed", "empty"):
            return Failure("truncated", "the token limit came before the verdict; raise max_tokens")
        return reading
    if reading.span[1] == len(generation.text.rstrip()):
        return Failure("truncated", "the token limit came within the verdict; raise max_tokens")
    return reading


def text_prefix(text: str, announcement: str, in_thought: bool = False) -> str:
    """A rationale without a verdict, followed by the announcement; an open thinking block is closed.

    `in_thought` says that the text begins inside a thought.

    >>> text_prefix("It is", "Score:")
    'It is\\nScore: '
    >>> text_prefix("Is it", "Score:", in_thought=True)
    'Is it\\n</think>\\nScore: '
    """
    if ends_in_thinking(OPEN_THOUGHT + text if in_thought else text):
        text = f"{text.rstrip()}\n</think>"
    return f"{text.rstrip()}\n{announcement} "


def json_prefix(text: str, key: str) -> str:
    """A JSON object that was cut off, closed and continued up to the value of `key`.

    >>> json_prefix('{"rationale": "It is', "score")
    '{"rationale": "It is", "score": '
    """
    # The schema puts a rationale first. An escape sequence that was cut in two is dropped.
    partial = re.match(r'\s*\{\s*"rationale"\s*:\s*"(?:[^"\\]|\\u[0-9a-fA-F]{4}|\\[^u])*', text)
    return f'{partial[0]}", "{key}": ' if partial else "{" + f'"{key}": '
