"""Third-party output while models load: hidden unless ASSAY_VERBOSE is set, and kept in a log until an engine runs."""

from __future__ import annotations

import logging
import multiprocessing.util
import os
import re
import sys
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

_ERROR_LINE = re.compile(r"\b[A-Za-z_.]*(?:Error|Exception)\b: \S")

_TAIL_BYTES = 65536


def is_verbose() -> bool:
    """Whether the user wants to see what other libraries print."""
    return os.environ.get("ASSAY_VERBOSE", "") not in ("", "0")


def announce(message: str) -> None:
    """Print one line on stderr about something that takes long, unless ASSAY_QUIET is set."""
    if os.environ.get("ASSAY_QUIET", "") in ("", "0"):
        print(f"assay: {message}", file=sys.stderr, flush=True)


def hide_vllm_messages() -> None:
    """Hide what vLLM and torch log and warn of in this process. To be called before vLLM is imported."""
    if is_verbose():
        return
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    logging.getLogger("vllm").setLevel(logging.ERROR)  # until vLLM reads its own setting, in the middle of its import
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"(vllm|torch)\b")


@contextmanager
def hide_loading_bars() -> Iterator[None]:
    """Hide transformers' progress bars of weights and GGUF tensors. Those of downloads stay."""
    if is_verbose():
        yield
        return
    from huggingface_hub.utils.tqdm import enable_progress_bars
    from transformers.utils.logging import disable_progress_bar, enable_progress_bar, is_progress_bar_enabled

    gguf: Any = import_module("transformers.modeling_gguf_pytorch_utils")
    were_shown, tqdm = is_progress_bar_enabled(), gguf.tqdm
    gguf.tqdm = lambda tensors, **_: tensors
    if were_shown:
        disable_progress_bar()  # those of downloads with them
        enable_progress_bars()
    try:
        yield
    finally:
        gguf.tqdm = tqdm
        if were_shown:
            enable_progress_bar()


class ChildLog:
    """A file that child processes write to instead of the terminal. With ASSAY_VERBOSE it stays empty."""

    def __init__(self) -> None:
        self._file = tempfile.NamedTemporaryFile(prefix="assay-vllm-", suffix=".log", delete=False)
        self.path = Path(self._file.name)

    @contextmanager
    def redirect_children(self) -> Iterator[None]:
        """Processes that multiprocessing spawns in this block write both output streams to the log, for all their life.

        A shell redirects and then becomes the process: redirecting this process, for its children to inherit that,
        would also catch what other threads print meanwhile.
        """
        if is_verbose():
            yield
            return
        util: Any = multiprocessing.util
        spawn = util.spawnv_passfds

        log = self._file.fileno()  # not its path, which may be unlinked by the time the shell runs

        def spawn_redirected(path: bytes, args: list[Any], passfds: Sequence[int]) -> int:
            command = ["/bin/sh", "-c", 'exec >>"/dev/fd/$0" 2>&1; exec "$@"', str(log), *args]
            process_id: int = spawn(b"/bin/sh", [os.fsencode(arg) for arg in command], [*passfds, log])
            return process_id

        util.spawnv_passfds = spawn_redirected
        try:
            yield
        finally:
            util.spawnv_passfds = spawn

    def cause(self) -> str:
        """The last line that reports an error, else the last line; "" where the log is empty or closed."""
        if self._file.closed:
            return ""
        self._file.seek(max(0, self._file.seek(0, os.SEEK_END) - _TAIL_BYTES))
        lines = [line.strip() for line in self._file.read().decode(errors="replace").splitlines() if line.strip()]
        errors = [line for line in lines if _ERROR_LINE.search(line)]
        return (errors or lines or [""])[-1][:500]

    def unlink(self) -> None:
        """Remove the file's name. Processes go on writing to it, and `cause` goes on reading it, until `close`."""
        self.path.unlink(missing_ok=True)

    def close(self) -> None:
        self._file.close()
