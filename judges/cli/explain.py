"""`assay explain`: how one row is judged, from the messages to the score."""

from __future__ import annotations

from judges.data.rows import read_rows
from judges.engines.base import Completion, Engine, Generation, LogLikelihood, Request
from judges.errors import CannotRun
from judges.evaluation.benchmarks import is_benchmark_name, load_benchmark
from judges.scorer import Scorer, load_scorer, parse_spec
from judges.scorers.llm_judge import LLMJudge
from judges.types import Failure, Item, Message, Scorecard


class _RecordingEngine(Engine):
    """Passes calls to an engine and records each with its result, in order."""

    name = "recording"

    def __init__(self, engine: Engine) -> None:
        self.engine, self.model = engine, engine.model
        self.calls: list[tuple[tuple[Message, ...], str, list[int] | None, str]] = []

    async def complete(self, request: Request) -> Completion:
        completion = await self.engine.complete(request)
        constraint = f", limited to {', '.join(map(repr, request.choice))}" if request.choice else ""
        constraint = constraint or (", limited to JSON" if request.schema else "")
        for choice in completion.choices:
            result = f"completion{constraint} ({choice.finish}):\n{choice.text}"
            ids = self.token_ids(request.messages, request.prefix, request.partial)
            self.calls.append((request.messages, request.prefix, ids, result))
        return completion

    async def log_likelihood(
        self, messages: tuple[Message, ...], prefix: str, continuation: str, partial: Generation | None = None
    ) -> LogLikelihood:
        return (await self.log_likelihoods(messages, prefix, (continuation,), partial))[0]

    async def log_likelihoods(
        self,
        messages: tuple[Message, ...],
        prefix: str,
        continuations: tuple[str, ...],
        partial: Generation | None = None,
    ) -> list[LogLikelihood]:
        found = await self.engine.log_likelihoods(messages, prefix, continuations, partial)
        lines = [f"  {text!r}: {f.total:.4f}" for text, f in zip(continuations, found, strict=True)]
        ids = self.token_ids(messages, prefix, partial)
        self.calls.append((messages, prefix, ids, "log-likelihoods of the continuations:\n" + "\n".join(lines)))
        return found

    def token_ids(
        self, messages: tuple[Message, ...], prefix: str = "", partial: Generation | None = None
    ) -> list[int] | None:
        return self.engine.token_ids(messages, prefix, partial)


def run(file: str, spec: str, row: int) -> None:
    item = _read_item(file, row)
    name, settings = parse_spec(spec)
    with load_scorer(name, **settings) as scorer:
        if isinstance(scorer, LLMJudge):
            scorer.use_engine(recording := _RecordingEngine(scorer.engine))
            card = scorer.score([item])[0]
            _print_calls(recording)
        else:
            card = scorer.score([item])[0]
        _print_card(item, card, scorer)


def _print_calls(engine: _RecordingEngine) -> None:
    prompts: list[tuple[Message, ...]] = []
    for messages, prefix, ids, result in engine.calls:
        if messages not in prompts:
            prompts.append(messages)
            print(f"=== prompt {len(prompts)}")
            for message in messages:
                print(f"--- message, {message['role']}:\n{message['content']}")
        number = prompts.index(messages) + 1
        print(f"--- prompt {number}, token ids: {'known to the server only' if ids is None else ids}")
        if prefix:
            print(f"--- prompt {number}, start of the assistant's turn:\n{prefix}")
        print(f"--- prompt {number}, {result}")


def _print_card(item: Item, card: Scorecard, scorer: Scorer) -> None:
    for index, judgment in enumerate(card.judgments):
        print(f"=== response {index + 1} of {len(item.responses)}, item {item.id}")
        if isinstance(scorer, LLMJudge) and scorer.template.kind == "pointwise":
            for vote, text in enumerate(judgment.completions):
                print(f"--- vote {vote + 1}, {_describe_span(scorer, text)}")
        for method, value in judgment.readings.items():
            print(f"--- score by {method}: {value}")
        if len(judgment.votes) > 1:
            print(f"--- votes: {', '.join(map(str, judgment.votes))}")
        if judgment.mass is not None:
            print(f"--- the labels have {judgment.mass:.4f} of the probability")
        print(f"--- score {judgment.score}, extracted by: {judgment.read}, failure: {judgment.failure}")
        print(f"--- {judgment.usage}")
    for c in card.comparisons:
        order = (c.second, c.first) if c.swapped else (c.first, c.second)
        positions = " then ".join(str(i + 1) for i in order)
        winner = {"first": f"{c.first + 1} wins", "second": f"{c.second + 1} wins"}.get(str(c.outcome), c.outcome)
        print(f"=== order {positions}: {winner}")
    print(f"=== preference {card.preference}")


def _describe_span(scorer: LLMJudge, text: str) -> str:
    reading = scorer.parse(text, "json" if "json" in scorer.read_methods else "text", scorer.template.labels)
    if isinstance(reading, Failure):
        return f"no score in this completion: {reading}"
    start, end = reading.span
    return f"read from characters {start} to {end}: {text[start:end]!r}"


def _read_item(file: str, row: int) -> Item:
    if is_benchmark_name(file):
        items = load_benchmark(file).items
        if row > len(items):
            raise CannotRun(f"{file} has {len(items)} rows, no row {row}")
        return items[row - 1]
    for found in read_rows(file):
        if found.number == row:
            if isinstance(found.item, Failure):
                raise CannotRun(f"{file}, row {row}: {found.item}")
            return found.item
    raise CannotRun(f"{file} has no row {row}")
