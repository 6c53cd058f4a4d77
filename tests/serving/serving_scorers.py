"""Scorers that wait for the test, and a server in a process of its own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import httpx

from judges import Failure, Item, Judgment, Scorecard
from judges.engines.concurrency import map_unordered
from judges.errors import CannotRun
from judges.scorer import Scorer
from judges.scorers.baselines import Length
from judges.serving.service import WARM_UP
from judges.types import REAL_LINE

ASSAY = """
import sys
from judges.cli import main
from judges.scorer import SCORERS
SCORERS.builtins["gated"] = "serving_scorers:GatedScorer"
main()
"""


class GatedScorer(Length):
    """Like `length`, but scores nothing before the file `gate` exists; the response "boom" raises."""

    name = "gated"

    def __init__(self, gate: str = "", opens: str = "") -> None:
        self._gate, self._opens = Path(gate), opens

    def stream(self, items: Iterable[Item]) -> Iterator[Scorecard]:
        while self._opens and not Path(self._opens).exists():
            time.sleep(0.005)
        for card, item in ((next(iter(super(GatedScorer, self).stream([item]))), item) for item in items):
            while item.id != WARM_UP.id and not self._gate.exists():
                time.sleep(0.005)
            if "boom" in item.responses:
                raise CannotRun("the model has gone")
            yield card


class HeldScorer(Scorer):
    """Scores by length, concurrently and the last item first, once `go` is set."""

    name = "held"
    scale = REAL_LINE

    def __init__(self, window: int = 8) -> None:
        self.go = threading.Event()
        self.seen: list[Item] = []
        self._window = window

    def stream(self, items: Iterable[Item]) -> Iterator[Scorecard]:
        return map_unordered(items, self._card, self._window, lambda item: len(item.responses))

    async def _card(self, item: Item) -> Scorecard:
        import asyncio

        self.seen.append(item)
        position = len(self.seen)
        while item.id != WARM_UP.id and not self.go.is_set():
            await asyncio.sleep(0.005)
        await asyncio.sleep(0.02 / position)
        judgments = [
            Judgment(failure=Failure("empty", "the response is empty")) if not r else Judgment(score=float(len(r)))
            for r in item.responses
        ]
        return Scorecard(item.id, tuple(judgments))


class Server:
    """`assay serve` in a process of its own, on a free port; `url` once it is ready."""

    def __init__(self, *arguments: object, token: str = "", threads: int | None = None) -> None:
        environment = {key: value for key, value in os.environ.items() if key != "ASSAY_TOKEN"}
        environment["PYTHONPATH"] = str(Path(__file__).parent)
        if token:
            environment["ASSAY_TOKEN"] = token
        if threads:
            environment["OMP_NUM_THREADS"] = str(threads)
        self.process = subprocess.Popen(
            [sys.executable, "-c", ASSAY, "serve", *map(str, arguments), "--port", "0"],
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
        )
        self.stderr_lines: list[str] = []
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.stderr_lines.append(line)
            if line.startswith("serving "):
                self.url = line.split()[-1]
                break
        else:
            raise AssertionError("".join(self.stderr_lines))

    def client(self, **more: object) -> httpx.Client:
        return httpx.Client(base_url=self.url, timeout=60, **more)  # type: ignore[arg-type]

    def send_signal(self, number: int = signal.SIGTERM) -> None:
        self.process.send_signal(number)

    def end(self) -> tuple[int, str]:
        """Wait for the end of the process; its exit code and all that it wrote to standard error."""
        assert self.process.stderr is not None
        rest = self.process.stderr.read()
        return self.process.wait(timeout=60), "".join(self.stderr_lines) + rest

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        assert self.process.stderr is not None
        self.process.stderr.close()


def wait_until(condition) -> None:
    """Wait wait_until a condition is true, for at most a minute."""
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end, "the condition never became true"
        time.sleep(0.005)
