"""The command `assay`. The work of each command is in a file of its own, imported when the command is called."""

from __future__ import annotations

import os
import signal
import sys
import threading
from typing import Any

CLOSING_SECONDS = 8.0
INTERRUPTED = "assay: interrupted; finished rows are on disk, the same command resumes"


def main() -> None:
    """Run the command line; exit 0, 1 (some rows failed) or 2 (could not run), 130 after Ctrl-C."""
    from judges.cli.app import app
    from judges.errors import CannotRun, redact

    # SIGTERM ends a run as Ctrl-C does: engines are closed, and what is written stays.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    signal.signal(signal.SIGINT, _interrupt)
    try:
        app(prog_name="assay")
    except CannotRun as error:
        from judges.evaluation.report.markdown import escape_invisible

        # The message may contain text of a file: control characters must not reach the terminal.
        print(f"assay: {escape_invisible(redact(' '.join(str(error).split())))}", file=sys.stderr)
        sys.exit(2)
    except (KeyboardInterrupt, SystemExit) as stop:
        # Typer turns Ctrl-C into a silent exit 130
        if isinstance(stop, SystemExit) and stop.code != 130:
            raise
        _exit_interrupted()


def _interrupt(*_: Any) -> None:
    """End the run; exit at once on a second Ctrl-C, or if closing takes longer than CLOSING_SECONDS.

    Nothing is lost by an immediate exit: rows and completions are on disk when they are finished, and the watchdog
    ends the engine's processes.
    """
    signal.signal(signal.SIGINT, lambda *_: _exit_interrupted())
    timer = threading.Timer(CLOSING_SECONDS, _exit_interrupted)
    timer.daemon = True
    timer.start()
    raise KeyboardInterrupt


def _exit_interrupted() -> None:
    print(INTERRUPTED, file=sys.stderr, flush=True)
    os._exit(130)
