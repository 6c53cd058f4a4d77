"""New prompts from a few seed prompts and a model (Self-Instruct, Wang et al. 2022, arXiv 2212.10560).

Each request shows the model some examples and asks for one prompt more. What it says is cleaned, and kept when it is
whole, of a fit length, and not similar to any seed or to any prompt made before it. By default 8 examples at T 0.6,
top_p 0.9, as Yuan et al. 2024 (arXiv 2401.10020) make the prompts of a self-rewarding round; a quarter of the
examples are prompts that were made already, and a ROUGE-L of 0.7 is similar, as in Self-Instruct.
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

from judges.data.quality import units
from judges.data.similarity import Known, Vectors, Words
from judges.engines.base import Completion, Engine, Request, RequestFailed
from judges.engines.concurrency import map_unordered
from judges.errors import CannotRun
from judges.extraction.thinking import split_thinking
from judges.types import Failure, Message, Usage

Similarity = Literal["rouge-l", "embeddings"]
THRESHOLDS: dict[Similarity, float] = {"rouge-l": 0.7, "embeddings": 0.9}
ROUND = 32  # requests made from one state of the pool, in flight together

_ADVICE = {
    "failed": "see that the engine answers",
    "truncated": "raise max_tokens",
    "empty": "try another model",
    "short": "lower min_length, or try another model",
    "long": "raise max_length, or try another model",
    "similar": "give more and more varied seeds, a higher temperature or a higher threshold",
}
_ASKING = (
    "Below is a list of tasks that different people gave to an assistant. Add one of your own. It should fit in with"
    " the others, but be about something else than any of them, and whoever reads it alone must know what to do."
    " The list only shows what such tasks are like: carry out none of them, nor your own. Write it in the language of"
    " the list, and write nothing but the new task."
)
# Examples stand behind "Task 1:", "Task 2:", each at the beginning of a line; no other line may begin so.
_TASK_LINE = re.compile(r"[\W_]*task(?![^\W\d_])", re.IGNORECASE)
_NOUN = r"task|instruction|prompt|request|question|任务|指令|问题|题目"
_MARKS = r"[ \t>*_#`-]{0,8}"
_ANNOUNCED = re.compile(
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
class Instruct:
    """How many prompts to make and how; at most `tries` requests for each of them.

    `threshold` is the similarity, above 0 and at most 1, from which a prompt is too similar to another: the F1 of
    ROUGE-L over words (0.7 unless given), or the cosine of `encoder`'s mean-pooled embeddings (0.9), which sees a
    paraphrase too, as far into a text as the encoder reads. Lengths are in units (see `judges.data.quality.units`).

    >>> Instruct(count=100).limit
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
                raise ValueError(f"{name} is at least 1, not {getattr(self, name)}")
        if self.max_length < self.min_length:
            raise ValueError(f"length: no prompt is at least {self.min_length} and at most {self.max_length} long")
        if not 0 <= self.temperature < math.inf:
            raise ValueError(f"temperature is 0 or above, not {self.temperature}")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p is above 0 and at most 1, not {self.top_p}")
        if self.similarity not in THRESHOLDS:
            raise ValueError(f"similarity is {' or '.join(get_args(Similarity))}, not {self.similarity!r}")
        if not 0 < self.limit <= 1:
            raise ValueError(f"threshold is above 0 and at most 1, not {self.threshold}")

    @property
    def limit(self) -> float:
        """The threshold, that of the similarity where none is given."""
        return THRESHOLDS[self.similarity] if self.threshold is None else self.threshold


@dataclass(frozen=True, slots=True)
class Made:
    """The prompts in the order they were made, and what they took.

    `rejected` counts the answers that were not kept: failed, truncated, empty, short, long, similar. What the last
    round gave beyond `count` is in `asked` and `usage` only.
    """

    prompts: tuple[str, ...]
    rejected: Counter[str]
    asked: int
    usage: Usage


def make_prompts(
    seeds: Sequence[str],
    engine: Engine,
    wanted: Instruct,
    on_progress: Callable[[int, int], None] = lambda made, asked: None,
) -> Made:
    """`wanted.count` new prompts; `on_progress` hears how many are made and asked for.

    The same seeds and settings ask the same in whatever order answers come: requests go out in rounds, each round
    made of the pool as it stood before, and are read in the order they were asked. So with a `StoredEngine` a run
    that was killed repeats nothing, and a run that wants more goes on from the one that wanted fewer.

    Raises CannotRun when there are no seeds or an empty one, and after `tries * count` requests in vain.

    Seeds and prompts are held. For an answer, the words that it shares with each of them are counted (among 10,000
    of them, 3 ms for 60 words and 13 ms for 150), and ROUGE-L is asked of those that share enough; or the encoder
    reads it, on the CPU, and its cosine is taken with all of them.
    """
    seeds = _without_repeats(seeds)
    known: Known = Words(wanted.limit) if wanted.similarity == "rouge-l" else Vectors(wanted.limit, wanted.encoder)
    known.add(seeds)
    made: list[str] = []
    rejected: Counter[str] = Counter()
    failure: Failure | None = None
    asked, most, usage = 0, wanted.tries * wanted.count, Usage()
    for turn in range(math.ceil(most / ROUND)):
        examples = [_examples(seeds, made, wanted, turn, place) for place in range(min(ROUND, most - asked))]
        requests = [_request(shown, wanted, turn, place) for place, shown in enumerate(examples)]
        answers = _answers(requests, engine, asked, partial(on_progress, len(made)))
        asked += len(requests)
        usage = sum((answer.usage for answer in answers if isinstance(answer, Completion)), usage)
        failure = next((answer for answer in answers if isinstance(answer, Failure)), failure)
        texts = [_read(answer, len(shown) + 1, wanted) for shown, answer in zip(examples, answers, strict=True)]
        new = iter(known.take([text for text, reason in texts if reason is None]))
        for text, reason in texts:
            if len(made) == wanted.count:
                break
            if reason is None and next(new):
                made.append(text)
            else:
                rejected[reason or "similar"] += 1
        on_progress(len(made), asked)
        if len(made) == wanted.count:
            return Made(tuple(made), rejected, asked, usage)
    raise CannotRun(_in_vain(wanted, len(made), asked, rejected, failure))


def _without_repeats(seeds: Sequence[str]) -> list[str]:
    if not seeds:
        raise CannotRun("there are no seeds: new prompts are made after the example of some; give at least one")
    for number, seed in enumerate(seeds, start=1):
        if not seed.strip():
            raise CannotRun(f"seed {number} of {len(seeds)} is empty: fill it or take it out")
    return list(dict.fromkeys(seeds))


def _drawn(wanted: Instruct, turn: int, place: int) -> int:
    """A number that the seed, the round and the place in it decide."""
    text = json.dumps([wanted.seed, "instruct", turn, place])
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=4).digest()) >> 1


def _examples(seeds: Sequence[str], made: Sequence[str], wanted: Instruct, turn: int, place: int) -> list[str]:
    """Of eight, two of what was made already and six seeds, in random order; fewer where there are not so many."""
    draw = random.Random(_drawn(wanted, turn, place))
    own = draw.sample(made, min(len(made), wanted.shots // 4))
    shown = own + draw.sample(seeds, min(len(seeds), wanted.shots - len(own)))
    draw.shuffle(shown)
    return shown


def _request(examples: Sequence[str], wanted: Instruct, turn: int, place: int) -> Request:
    sampled = wanted.temperature > 0
    return Request(
        _messages(examples),
        temperature=wanted.temperature,
        top_p=wanted.top_p if sampled else 1.0,
        max_tokens=wanted.max_tokens,
        stop=(f"\nTask {len(examples) + 2}:",),
        seed=_drawn(wanted, turn, place) if sampled else None,
    )


def _messages(examples: Sequence[str]) -> tuple[Message, ...]:
    """The list of examples, open at its end. It stands last, so nothing in an example can pass for what follows it.

    >>> print(_messages(["Name a river.", "Add up:\\nTask 2: 3 + 4"])[0]["content"].partition("\\n\\n")[2])
    Task 1: Name a river.
    <BLANKLINE>
    Task 2: Add up: Task 2: 3 + 4
    <BLANKLINE>
    Task 3:
    """
    tasks = [f"Task {number}: {_within_task(text)}" for number, text in enumerate(examples, start=1)]
    return ({"role": "user", "content": "\n\n".join([_ASKING, *tasks, f"Task {len(tasks) + 1}:"])},)


def _within_task(text: str) -> str:
    """An example none of whose lines begins as a task does: such a line goes on the one before it."""
    first, *others = text.strip().splitlines()
    return first + "".join(f" {line.strip()}" if _TASK_LINE.match(line) else f"\n{line}" for line in others)


def _answers(
    requests: Sequence[Request], engine: Engine, before: int, heard: Callable[[int], None]
) -> list[Completion | Failure]:
    """What the engine says to each request, in their order; `heard` is told how many have answered by now."""

    async def answered(place: int) -> tuple[int, Completion | Failure]:
        try:
            completion = await engine.complete(requests[place])
        except RequestFailed as error:
            return place, error.failure
        return place, completion if completion.choices else Failure("engine", "the engine gave no completion")

    found: dict[int, Completion | Failure] = {}
    for place, answer in map_unordered(range(len(requests)), answered, ROUND, lambda _: 1):
        found[place] = answer
        heard(before + len(found))
    return [found[place] for place in range(len(requests))]


def _read(answer: Completion | Failure, number: int, wanted: Instruct) -> tuple[str, str | None]:
    """The prompt in an answer, and why it is not one, its likeness to others aside."""
    if isinstance(answer, Failure):
        return "", "failed"
    said = answer.choices[0]
    text, ended = _cleaned(said.text, number)
    length = units(text)
    if said.finish == "length" and not ended:
        return text, "truncated"
    if not text:
        return text, "empty"
    if length < wanted.min_length:
        return text, "short"
    if length > wanted.max_length:
        return text, "long"
    return text, None


def _cleaned(text: str, number: int) -> tuple[str, bool]:
    """The task of this number in what a model said, and whether it began another one behind it.

    >>> _cleaned("Sure! Here is a new task:\\n**Task 9:** Name a river.\\n\\nTask 10: Name", 9)
    ('Name a river.', True)
    >>> _cleaned("1. Sort these:\\n1. pear\\n1. fig", 9), _cleaned("3.5 km in miles?", 9)
    (('Sort these:\\n1. pear\\n1. fig', False), ('3.5 km in miles?', False))
    """
    said = _PREFACE.sub("", split_thinking(text)[1].strip(), count=1).strip()
    lines = [line for line in _ANNOUNCED.finditer(said) if line["item"] or line["word"]]
    # A model that repeats the list, or speaks first, announces its own task by the number it was asked for.
    announced = (line for line in lines if line["task"] and int(line["task"]) == number)
    own = next(announced, lines[0] if lines and lines[0].start() == 0 else None)
    start = own.end() if own else 0
    following = (line.start() for line in lines if line.start() >= start and _begins_next(line, own, number))
    end = next(following, None)
    said = said[start:end].strip()
    return said.removesuffix("**").rstrip() if said.count("**") % 2 else said, end is not None


def _begins_next(line: re.Match[str], own: re.Match[str] | None, number: int) -> bool:
    """Whether a line announces another task: in the list's way, or the way the model announced its own."""
    word, own_word = (line["word"] or "").lower(), ((own and own["word"]) or "").lower()
    if line["task"]:
        return word in ("task", own_word) and int(line["task"]) > int((own and own["task"]) or number)
    if own is None or word != own_word:
        return False
    if own["item"]:
        return bool(line["item"]) and int(line["item"]) == int(own["item"]) + 1
    return not own["task"] and not line["item"]


def _in_vain(wanted: Instruct, made: int, asked: int, rejected: Counter[str], failure: Failure | None) -> str:
    told = ", ".join(f"{count} {reason}" for reason, count in rejected.most_common())
    told += f"; the last to fail said: {failure.message}" if failure else ""
    advice = _ADVICE[rejected.most_common(1)[0][0]]
    return f"asked {asked} times for {wanted.count} prompts and made {made} ({told}); {advice}, or raise tries"
