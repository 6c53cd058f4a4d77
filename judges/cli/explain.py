"""`assay explain`: one row, from the messages to the number."""

from __future__ import annotations

from judges.batch.readers import read_rows
from judges.errors import CannotRun
from judges.evaluation.benchmarks import NAMED, load_benchmark
from judges.llm_judge import LLMJudge
from judges.scorer import load_scorer, parse_spec
from judges.types import Failure, Item


def run(file: str, spec: str, row: int) -> None:
    item = _item(file, row)
    name, settings = parse_spec(spec)
    with load_scorer(name, **settings) as scorer:
        card = scorer.score([item])[0]
        announcement = scorer.template.announcement if isinstance(scorer, LLMJudge) else None
        for index, judgment in enumerate(card.judgments):
            print(f"=== response {index + 1} of {len(item.responses)}, item {item.id}")
            if isinstance(scorer, LLMJudge):
                messages = scorer.template.render(item, (index,))
                for message in messages:
                    print(f"--- sent, {message['role']}:\n{message['content']}")
                ids = scorer.engine.token_ids(messages)
                print(f"--- token ids: {'known to the server only' if ids is None else ids}")
            for vote, text in enumerate(judgment.completions):
                print(f"--- came back, vote {vote + 1}:\n{text}")
                if not isinstance(scorer, LLMJudge) or scorer.template.kind == "critique":
                    continue
                way = "json" if "json" in scorer.ways else "text"
                reading = scorer.parse(text, way, scorer.template.labels)
                if isinstance(reading, Failure):
                    print(f"--- in this text: {reading}")
                else:
                    start, end = reading.span
                    print(f"--- read from characters {start} to {end}: {text[start:end]!r}")
            if judgment.read in ("expected", "forced"):
                how = (
                    "probabilities of the scale's labels" if judgment.read == "expected" else "one decode limited to it"
                )
                print(f"--- then, on the same prefix, after {announcement!r}: {how}")
            print(f"--- score {judgment.score}, read: {judgment.read}, failure: {judgment.failure}")
            print(f"--- {judgment.usage}")
    print(f"=== preference {card.preference}")


def _item(file: str, row: int) -> Item:
    if file in NAMED:
        items = load_benchmark(file)
        if row > len(items):
            raise CannotRun(f"{file} has {len(items)} rows, no row {row}")
        return items[row - 1]
    for found in read_rows(file):
        if found.number == row:
            if isinstance(found.item, Failure):
                raise CannotRun(f"{file}, row {row}: {found.item}")
            return found.item
    raise CannotRun(f"{file} has no row {row}")
