"""The command `assay`: one file a command, each imported only when it is called."""

from __future__ import annotations

import signal
import sys


def main() -> None:
    """Run the command line; exit 0, 1 (some rows failed) or 2 (could not run), 130 after Ctrl-C."""
    from judges.cli.app import app
    from judges.errors import CannotRun

    # A closed pipe and a polite kill end a run as Ctrl-C does: engines are closed, what is written stays.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        app(standalone_mode=True)
    except CannotRun as error:
        print(f"assay: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(2)
    except (KeyboardInterrupt, SystemExit) as stop:
        # typer turns Ctrl-C into a silent exit 130
        if isinstance(stop, SystemExit) and stop.code != 130:
            raise
        print("assay: interrupted; what is finished is on disk, the same command goes on", file=sys.stderr)
        sys.exit(130)
