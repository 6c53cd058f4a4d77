"""Ends an engine's processes when the process that started them is gone, however it went.

Run beside the engine as `python -m judges.engines.watchdog MARK`. Its standard input is a pipe whose other
end only the parent holds: end of file means that the parent is dead. The engine's processes carry MARK in
their environment, so they are found even when the parent died while it was starting them.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
import uuid

VARIABLE = "ASSAY_ENGINE_MARK"


def guard() -> None:
    """Mark this process's future children and start the watchdog; once per process."""
    if _started:
        return
    mark = f"{os.getpid()}-{uuid.uuid4().hex}"
    child = subprocess.Popen(
        [sys.executable, "-m", "judges.engines.watchdog", mark],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,  # Ctrl-C in the terminal is not for it
    )
    _started.append(child)
    os.environ[VARIABLE] = mark


_started: list[subprocess.Popen[bytes]] = []


def _end_marked(mark: str, seconds: float = 4.0) -> None:
    import psutil

    until = time.monotonic() + seconds
    while time.monotonic() < until:
        for process in psutil.process_iter():
            try:
                if process.pid != os.getpid() and process.environ().get(VARIABLE) == mark:
                    process.kill()
            except psutil.Error:
                continue  # gone already, or another user's
        time.sleep(0.2)


if __name__ == "__main__":
    sys.stdin.buffer.read()
    _end_marked(sys.argv[1])
