"""What `assay score` itself costs: rows, memory, and what lies between a judge's requests and its engine.

    python tests/benchmarks/batch_overhead.py [--rows 1000000] [--engine]

Files: 100,000 and then `--rows` rows, JSON lines to JSON lines with the `length` scorer, each in a process of its
own on one core, with its peak memory; the rate is of all its time, start included. Requests: the self-rewarding
judge on an engine that answers at once, with rendering, extraction and a store on disk; tokenizing the same
messages is timed apart; each stage alone beside it, on the same rows. With --engine, the same judge on vLLM and the
embedded model with and without a store, taking turns on prompts that none saw before.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from judges import Item, load_scorer
from judges.engines.base import Completion, Engine, Generation, LogLikelihood, Request
from judges.engines.store import StoredEngine
from judges.extraction import read_score
from judges.types import Usage

WORDS = [
    "the",
    "river",
    "ran",
    "down",
    "from",
    "hill",
    "to",
    "sea",
    "and",
    "no",
    "one",
    "saw",
    "how",
    "it",
    "began",
    "but",
]
ANSWER = "The response is relevant and answers the question plainly, with a small slip in its second half.\n\nScore: 4"


def write(path: Path, count: int) -> None:
    draw = random.Random(0)
    text = lambda n: " ".join(draw.choices(WORDS, k=n))  # noqa: E731
    with open(path, "w", encoding="utf-8") as out:
        for number in range(count):
            row = {"id": f"q{number}", "prompt": text(20), "response": text(40), "source": "made"}
            out.write(json.dumps(row) + "\n")


def scored(source: Path, output: Path, count: int) -> tuple[float, float]:
    """(seconds, peak MiB) of one run on one core; raises where a row is missing."""
    code = "from judges.cli import main; main()"
    command = [sys.executable, "-c", code, "score", str(source), "--scorer", "length", "-o", str(output), "--quiet"]
    core = min(os.sched_getaffinity(0))
    started = time.perf_counter()
    run = subprocess.Popen(command, preexec_fn=lambda: os.sched_setaffinity(0, {core}))
    _, status, used = os.wait4(run.pid, 0)
    seconds = time.perf_counter() - started
    assert os.waitstatus_to_exitcode(status) == 0
    with open(output, "rb") as lines:
        assert sum(1 for _ in lines) == count
    return seconds, used.ru_maxrss / 1024


class Instant(Engine):
    """Answers at once."""

    name = model = "instant"

    async def complete(self, request: Request) -> Completion:
        return Completion((Generation(ANSWER, "stop", tuple(range(40))),), Usage(200, 0, 40))

    async def log_likelihood(self, messages, prefix, continuation, partial=None) -> LogLikelihood:
        raise NotImplementedError


def requests(folder: Path, count: int) -> None:
    draw = random.Random(1)
    text = lambda n: " ".join(draw.choices(WORDS, k=n))  # noqa: E731
    items = [Item(id=str(i), prompt=f"{text(20)} {i}", responses=[text(60)]) for i in range(count)]

    def whole(stored: bool) -> float:
        with load_scorer("self-rewarding", votes=1) as judge:
            engine: Engine = Instant()
            if stored:
                engine = StoredEngine(engine, folder / f"{time.monotonic_ns()}.sqlite")
            judge.use_engine(engine)
            cpu, started = time.process_time(), time.perf_counter()
            assert all(card.judgments[0].score == 4 for card in judge.stream(iter(items)))
            seconds, busy = time.perf_counter() - started, time.process_time() - cpu
            engine.close()
        print(
            f"  {'with a store' if stored else 'without one':<14} {seconds / count * 1e6:6.0f} µs a request"
            f" ({busy / count * 1e6:.0f} µs of CPU)"
        )
        return seconds

    print(f"{count:,} requests to an engine of no latency, 64 responses in flight, one vote:")
    whole(False)
    kept = min(whole(True) for _ in range(3))
    judge = load_scorer("self-rewarding", votes=1)

    def each(name: str, work) -> None:
        started = time.perf_counter()
        for item in items:
            work(item)
        print(f"  {name:<14} {(time.perf_counter() - started) / count * 1e6:6.0f} µs, alone")

    each("rendering", lambda item: judge.template.render(item, (0,)))
    each("extraction", lambda item: read_score(ANSWER, judge.scale, judge.template.announcement))
    each("tokenizing", tokenizer(judge))
    print(f"rendering, extraction and storing: {kept / count * 1e6:.0f} µs a request (goal: under 300)")


def engine_share(folder: Path, rounds: int, count: int) -> None:
    draw = random.Random(2)
    told: dict[bool, list[float]] = {True: [], False: []}
    with load_scorer("self-rewarding", votes=1, max_tokens=32) as judge:
        engine = judge.engine
        for turn in range(2 * rounds + 1):
            stored = turn % 2 == 0
            items = [
                Item(id=str(i), prompt=f"{' '.join(draw.choices(WORDS, k=20))} {turn}", responses=["It is so."])
                for i in range(count)
            ]
            judge.use_engine(StoredEngine(engine, folder / f"engine-{turn}.sqlite") if stored else engine)
            started = time.perf_counter()
            cards = list(judge.stream(iter(items)))
            seconds = time.perf_counter() - started
            assert len(cards) == count
            if turn:  # the first one warms up
                told[stored].append(seconds)
    with_store, without = statistics.median(told[True]), statistics.median(told[False])
    print(f"vLLM, {count} responses a turn: with a store {_listed(told[True])} s, without {_listed(told[False])} s")
    print(f"storing: {with_store / without - 1:+.1%} of the engine's time by the medians (goal: under 3 %)")


def _listed(seconds: list[float]) -> str:
    return ", ".join(f"{one:.1f}" for one in seconds)


def tokenizer(judge):
    from transformers import AutoTokenizer

    from judges.engines.chat_template import chat_ids
    from judges.engines.embedded import resolve_model

    words = AutoTokenizer.from_pretrained(resolve_model("embedded:smollm2-135m"))
    chat_ids(words, judge.template.render(Item(id="a", prompt="warm", responses=["up"]), (0,)))
    return lambda item: chat_ids(words, judge.template.render(item, (0,)))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--engine", action="store_true", help="also measure what storing costs beside a real engine")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="assay-bench-") as name:
        folder = Path(name)
        sizes = sorted({given.rows // 10, given.rows // 3, given.rows})
        told = {}
        for count in sizes:
            write(folder / "in.jsonl", count)
            told[count] = scored(folder / "in.jsonl", folder / f"out-{count}.jsonl", count)
            seconds, peak = told[count]
            print(
                f"{count:>10,} rows  {seconds:7.1f} s  {count / seconds:8,.0f} rows/s  peak {peak:6.1f} MiB", flush=True
            )
        small, large = told[sizes[0]], told[sizes[-1]]
        print(
            f"memory: {large[1] / small[1]:.3f} times that of a tenth of the rows (goal: at most 1.10, under 500 MiB)"
        )
        between = (large[0] - small[0]) / (sizes[-1] - sizes[0])
        print(f"time: {between * 1e6:.1f} µs for each further row, {1 / between:,.0f} rows/s (goal: at least 20,000)")
        requests(folder, given.requests)
        if given.engine:
            engine_share(folder, 4, 192)


if __name__ == "__main__":
    main()
