"""A watchdog process that ends an engine's processes when the process that started them has died, for any reason.

Runs beside the engine as `python -m judges.engines.watchdog MARK`. Its standard input is a pipe whose other end only
the parent holds, so end of file means that the parent is dead. Processes started within `guard()` carry MARK in their
environment, so they are found even when the parent died while it was starting them. A process that renames itself, as
vLLM's do, overwrites its environment, so marked processes are collected while an engine starts: a "+" on the pipe
begins that, a "-" ends it.
"""

from __future__ import annotations

import os
import select
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager

MARK_VARIABLE = "ASSAY_ENGINE_MARK"
SCAN_SECONDS = 0.3

_started: list[tuple[subprocess.Popen[bytes], str]] = []


@contextmanager
def guard() -> Iterator[None]:
    """Processes that are started in this block are ended when this process dies."""
    if not _started:
        mark = f"{os.getpid()}-{uuid.uuid4().hex}"
        child = subprocess.Popen(
            [sys.executable, "-m", "judges.engines.watchdog", mark],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # so that Ctrl-C in the terminal does not reach it
            bufsize=0,
        )
        _started.append((child, mark))
    watchdog, mark = _started[0]
    os.environ[MARK_VARIABLE] = mark
    _signal(watchdog, b"+")
    try:
        yield
    finally:
        del os.environ[MARK_VARIABLE]
        _signal(watchdog, b"-")


def _signal(watchdog: subprocess.Popen[bytes], sign: bytes) -> None:
    if watchdog.stdin is not None and watchdog.poll() is None:
        watchdog.stdin.write(sign)


def _marked(mark: str) -> set[tuple[int, float]]:
    """(pid, start time) of every process that carries the mark; a pid alone may be reused."""
    import psutil

    found = set()
    for process in psutil.process_iter():
        try:
            if process.environ().get(MARK_VARIABLE) == mark:
                found.add((process.pid, process.create_time()))
        except psutil.Error:
            continue  # it has ended, or belongs to another user
    return found


def _watch(mark: str, parent: int) -> None:
    import psutil

    known: set[tuple[int, float]] = set()
    starting = 0
    while True:
        ready, _, _ = select.select([parent], [], [], SCAN_SECONDS if starting else None)
        signs = os.read(parent, 64) if ready else b""
        known |= _marked(mark)
        if ready and not signs:
            break
        starting += signs.count(b"+") - signs.count(b"-")
    until = time.monotonic() + 3
    while time.monotonic() < until:
        for pid, created in known | _marked(mark):
            try:
                process = psutil.Process(pid)
                if process.create_time() == created:
                    process.kill()
            except psutil.Error:
                continue
        time.sleep(0.2)


if __name__ == "__main__":
    os.environ.pop(MARK_VARIABLE, None)
    _watch(sys.argv[1], sys.stdin.fileno())
