"""`CannotRun`, the error that stops a run. What fails only one row is a `Failure` (judges/types.py)."""


class CannotRun(Exception):
    """Nothing can be scored: a wrong spec, a missing file, a server that is down. Commands exit with 2.

    The message is one line: what is wrong, where, and what to do.
    """
