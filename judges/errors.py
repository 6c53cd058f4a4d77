"""What stops a run, told in one line; what stops only a row is a `Failure` (judges/types.py)."""


class CannotRun(Exception):
    """Nothing can be scored: a wrong spec, a missing file, a server that is down. Exit code 2.

    The message says what is wrong, where, and what to do.
    """
