"""Generate new prompts from a few seed prompts (Self-Instruct, Wang et al. 2022, arXiv 2212.10560).

Each request shows the model some examples and asks for one new prompt. The prompt is extracted from the completion, and
accepted if it is complete, of a suitable length, and not similar to a seed or an earlier prompt. The defaults are 8
examples at temperature 0.6 and top_p 0.9, as Yuan et al. 2024 (arXiv 2401.10020) generate the prompts of a
self-rewarding round. As in Self-Instruct, a quarter of the examples are generated prompts, and a ROUGE-L of 0.7 or more
is similar.
"""

from __future__ import annotations

import hashlib
import json
import math
import random
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal, get_args

from judges.data.quality import count_units
from judges.data.similarity import EmbeddingIndex, RougeIndex, SimilarityIndex
from judges.engines.base import Completion, Engine, Request, RequestFailed
from judges.engines.concurrency import map_unordered
from judges.errors import CannotRun
from judges.extraction.thinking import split_thinking
from judges.types import Failure, Message, Usage

Similarity = Literal["rouge-l", "embeddings"]
THRESHOLDS: dict[Similarity, float] = {"rouge-l": 0.7, "embeddings": 0.9}
BATCH_SIZE = 32  # requests with examples from the same pool, in flight together

_ADVICE = {
    "failed": "check that the engine answers",
    "truncated": "raise max_tokens",
    "empty": "try another model",
    "short": "lower min_length, or try another model",
    "long": "raise max_length, or try another model",
    "similar": "give more and more varied seeds, a higher temperature or a higher threshold",
}
_INSTRUCTION = (
    "Below is a list of tasks that different people gave to an assistant. Add one of your own. It should fit in with"
    " the others, but be about something else than any of them, and whoever reads it alone must know what to do."
    " The list only shows what such tasks are like: carry out none of them, nor your own. Write it in the language of"
    " the list, and write nothing but the new task."
)
# The examples are listed as "Task 1:", "Task 2:", each at the start of a line; no other line may start like that.
_TASK_LINE = re.compile(r"[\W_]*task(?![^\W\d_])", re.IGNORECASE)
_NOUN = r"task|instruction|prompt|request|question|任务|指令|问题|题目"
_MARKS = r"[ \t>*_#`-]{0,8}"
_TASK_HEADING = re.compile(
    rf"^{_MARKS}(?:(?P<item>\d{{1,3}})[.)](?=\s))?"
    rf"(?:{_MARKS}(?:(?:new|next)[ ])?(?P<word>{_NOUN})(?:[ ]?#?(?P<task>\d{{1,3}}))?[ *_]{{0,4}}"
    rf"(?:[:：]|(?<=\d)[.)]|$)[*_]{{0,3}}){{0,3}}",
    re.IGNORECASE | re.MULTILINE,
)
_PREFACE = re.compile(
    r"\A(?:(?:sure|certainly|of course|okay|absolutely|当然|好的)[!.,！。，]\s{0,8})?"
    rf"(?:(?:here(?:['’]s| is)|以下是|这是)[^\n:：]{{0,60}}(?:{_NOUN})[^\n:：]{{0,40}}[:：]\s{{0,8}})?",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class SelfInstructSettings:
    """How many prompts to generate, and how. Raises ValueError for values out of range.

    - `count`: the number of new prompts; at most `tries` times as many requests are sent.
    - `shots`: examples per request. `temperature`, `top_p` and `max_tokens` are those of the requests.
    - `similarity`: "rouge-l", the F1 of ROUGE-L over words, or "embeddings", the cosine of mean-pooled embeddings by
      `encoder`, which also finds paraphrases but reads no more of a text than the encoder does.
    - `threshold`: the similarity, above 0 and at most 1, from which a prompt is rejected; by default 0.7 for ROUGE-L
      and 0.9 for embeddings.
    - `min_length`, `max_length`: in units, see `judges.data.quality.count_units`.

    >>> SelfInstructSettings(count=100).limit
    0.7
    """

    count: int
    shots: int = 8
    temperature: float = 0.6
    top_p: float = 0.9
    max_tokens: int = 256
    similarity: Similarity = "rouge-l"
    threshold: float | None = None
    encoder: str = "embedded:minilm"
    min_length: int = 4
    max_length: int = 150
    seed: int = 0
    tries: int = 10

    def __post_init__(self) -> None:
        for name in ("count", "shots", "max_tokens", "min_length", "tries"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}")
        if self.max_length < self.min_length:
            raise ValueError(f"max_length must be at least min_length, {self.min_length}, not {self.max_length}")
        if not 0 <= self.temperature < math.inf:
            raise ValueError(f"temperature must be 0 or above, not {self.temperature}")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p must be above 0 and at most 1, not {self.top_p}")
        if self.similarity not in THRESHOLDS:
            raise ValueError(f"similarity must be {' or '.join(get_args(Similarity))}, not {self.similarity!r}")
        if not 0 < self.limit <= 1:
            raise ValueError(f"threshold must be above 0 and at most 1, not {self.threshold}")

    @property
    def limit(self) -> float:
        """The threshold, or the default of the similarity."""
        return THRESHOLDS[self.similarity] if self.threshold is None else self.threshold

    def similarity_index(self) -> SimilarityIndex:
        if self.similarity == "rouge-l":
            return RougeIndex(self.limit)
        return EmbeddingIndex(self.limit, self.encoder)


@dataclass(frozen=True, slots=True)
class GeneratedPrompts:
    """The new prompts in the order of their requests, and the cost.

    `rejected` counts completions by reason: failed, truncated, empty, short, long, similar. `requests` and `usage`
    include the completions of the last batch that were not needed.
    """

    prompts: tuple[str, ...]
    rejected: Counter[str]
    requests: int
    usage: Usage


def make_prompts(
    seeds: Sequence[str],
    engine: Engine,
    settings: SelfInstructSettings,
    on_progress: Callable[[int, int], None] = lambda accepted, requests: None,
) -> GeneratedPrompts:
    """Generate `settings.count` new prompts; `on_progress` gets the number of accepted prompts and of requests.

    The result does not depend on the order in which completions arrive: requests are sent in batches, whose examples
    come from the pool before the batch, and are evaluated in the order of the requests. With a `StoredEngine`, an
    interrupted run resumes without repeating a request, and a run with a larger `count` continues a smaller one.

    Raises CannotRun without seeds, for an empty seed, and if `tries * count` requests do not give enough prompts.

    All seeds and prompts are in memory. With ROUGE-L a completion is compared to 10,000 texts in 3 ms (60 words) to
    13 ms (150 words). With embeddings the encoder runs on the CPU.
    """
    seeds = _check_seeds(seeds)
    index = settings.similarity_index()
    index.add(seeds)
    accepted: list[str] = []
    rejected: Counter[str] = Counter()
    failure: Failure | None = None
    sent, maximum, usage = 0, settings.tries * settings.count, Usage()
    for batch in range(math.ceil(maximum / BATCH_SIZE)):
        size = min(BATCH_SIZE, maximum - sent)
        examples = [_sample_examples(seeds, accepted, settings, batch, place) for place in range(size)]
        requests = [_build_request(shots, settings, batch, place) for place, shots in enumerate(examples)]
        completions = _complete_all(requests, engine, sent, partial(on_progress, len(accepted)))
        sent += size
        usage = sum((completion.usage for completion in completions if isinstance(completion, Completion)), usage)
        failure = next((completion for completion in completions if isinstance(completion, Failure)), failure)
        results = [
            _parse_completion(completion, len(shots) + 1, settings)
            for shots, completion in zip(examples, completions, strict=True)
        ]
        dissimilar = iter(index.add_new([text for text, reason in results if reason is None]))
        for text, reason in results:
            if len(accepted) == settings.count:
                break
            if reason is None and next(dissimilar):
                accepted.append(text)
            else:
                rejected[reason or "similar"] += 1
        on_progress(len(accepted), sent)
        if len(accepted) == settings.count:
            return GeneratedPrompts(tuple(accepted), rejected, sent, usage)
    reasons = ", ".join(f"{count} {reason}" for reason, count in rejected.most_common())
    reasons += f"; last failure: {failure.message}" if failure else ""
    raise CannotRun(
        f"{sent} requests gave only {len(accepted)} of {settings.count} prompts ({reasons});"
        f" {_ADVICE[rejected.most_common(1)[0][0]]}, or raise tries"
    )


def _check_seeds(seeds: Sequence[str]) -> list[str]:
    """The seeds without duplicates."""
    if not seeds:
        raise CannotRun("there are no seeds; give at least one prompt as an example")
    for number, seed in enumerate(seeds, start=1):
        if not seed.strip():
            raise CannotRun(f"seed {number} of {len(seeds)} is empty: fill it or remove it")
    return list(dict.fromkeys(seeds))


def _request_seed(settings: SelfInstructSettings, batch: int, place: int) -> int:
    text = json.dumps([settings.seed, "instruct", batch, place])
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=4).digest()) >> 1


def _sample_examples(
    seeds: Sequence[str], accepted: Sequence[str], settings: SelfInstructSettings, batch: int, place: int
) -> list[str]:
    """A quarter of accepted prompts and the rest seeds, in random order; fewer if there are not enough."""
    rng = random.Random(_request_seed(settings, batch, place))
    generated = rng.sample(accepted, min(len(accepted), settings.shots // 4))
    examples = generated + rng.sample(seeds, min(len(seeds), settings.shots - len(generated)))
    rng.shuffle(examples)
    return examples


def _build_request(examples: Sequence[str], settings: SelfInstructSettings, batch: int, place: int) -> Request:
    sampled = settings.temperature > 0
    return Request(
        _build_messages(examples),
        temperature=settings.temperature,
        top_p=settings.top_p if sampled else 1.0,
        max_tokens=settings.max_tokens,
        stop=(f"\nTask {len(examples) + 2}:",),
        seed=_request_seed(settings, batch, place) if sampled else None,
    )


def _build_messages(examples: Sequence[str]) -> tuple[Message, ...]:
    """The instruction and the numbered list of examples, which the model continues.

    The list comes last, so that no example can be mistaken for the end of the list.

    >>> print(_build_messages(["Name a river.", "Add up:\\nTask 2: 3 + 4"])[0]["content"].partition("\\n\\n")[2])
    Task 1: Name a river.
    <BLANKLINE>
    Task 2: Add up: Task 2: 3 + 4
    <BLANKLINE>
    Task 3:
    """
    tasks = [f"Task {number}: {_join_task_lines(text)}" for number, text in enumerate(examples, start=1)]
    return ({"role": "user", "content": "\n\n".join([_INSTRUCTION, *tasks, f"Task {len(tasks) + 1}:"])},)


def _join_task_lines(text: str) -> str:
    """Append every line of an example that starts like a task heading to the line before it."""
    first, *others = text.strip().splitlines()
    return first + "".join(f" {line.strip()}" if _TASK_LINE.match(line) else f"\n{line}" for line in others)


def _complete_all(
    requests: Sequence[Request], engine: Engine, sent_before: int, on_completion: Callable[[int], None]
) -> list[Completion | Failure]:
    """The completions in the order of the requests; `on_completion` gets the number of requests so far."""

    async def complete(index: int) -> tuple[int, Completion | Failure]:
        try:
            completion = await engine.complete(requests[index])
        except RequestFailed as error:
            return index, error.failure
        return index, completion if completion.choices else Failure("engine", "the engine returned no completion")

    completions: dict[int, Completion | Failure] = {}
    for index, completion in map_unordered(range(len(requests)), complete, BATCH_SIZE, lambda _: 1):
        completions[index] = completion
        on_completion(sent_before + len(completions))
    return [completions[index] for index in range(len(requests))]


def _parse_completion(
    completion: Completion | Failure, number: int, settings: SelfInstructSettings
) -> tuple[str, str | None]:
    """The prompt in a completion, and the reason to reject it; similarity is checked elsewhere."""
    if isinstance(completion, Failure):
        return "", "failed"
    generation = completion.choices[0]
    text, ended = _extract_task(generation.tagged_text, number)
    length = count_units(text)
    if generation.finish == "length" and not ended:
        return text, "truncated"
    if not text:
        return text, "empty"
    if length < settings.min_length:
        return text, "short"
    if length > settings.max_length:
        return text, "long"
    return text, None


def _extract_task(text: str, number: int) -> tuple[str, bool]:
    """The task with this number in a completion, and whether the completion continues with another task.

    >>> _extract_task("Sure! Here is a new task:\\n**Task 9:** Name a river.\\n\\nTask 10: Name", 9)
    ('Name a river.', True)
    >>> _extract_task("1. Sort these:\\n1. pear\\n1. fig", 9), _extract_task("3.5 km in miles?", 9)
    (('Sort these:\\n1. pear\\n1. fig', False), ('3.5 km in miles?', False))
    """
    text = _PREFACE.sub("", split_thinking(text)[1].strip(), count=1).strip()
    headings = [match for match in _TASK_HEADING.finditer(text) if match["item"] or match["word"]]
    # A model that repeats the list or starts with a remark announces its task by the number that was asked for.
    numbered = (match for match in headings if match["task"] and int(match["task"]) == number)
    own = next(numbered, headings[0] if headings and headings[0].start() == 0 else None)
    start = own.end() if own else 0
    following = (match.start() for match in headings if match.start() >= start and _starts_next(match, own, number))
    end = next(following, None)
    text = text[start:end].strip()
    return text.removesuffix("**").rstrip() if text.count("**") % 2 else text, end is not None


def _starts_next(heading: re.Match[str], own: re.Match[str] | None, number: int) -> bool:
    """Whether a heading starts another task: in the format of the list, or in that of the task's own heading."""
    word, own_word = (heading["word"] or "").lower(), ((own and own["word"]) or "").lower()
    if heading["task"]:
        return word in ("task", own_word) and int(heading["task"]) > int((own and own["task"]) or number)
    if own is None or word != own_word:
        return False
    if own["item"]:
        return bool(heading["item"]) and int(heading["item"]) == int(own["item"]) + 1
    return not own["task"] and not heading["item"]
