"""vLLM's processes: started out of reach of Ctrl-C, stopped even in mid-start, restarted a few times after a crash."""

from __future__ import annotations

import multiprocessing
import signal
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from multiprocessing import resource_tracker
from multiprocessing.process import BaseProcess
from typing import Any

from judges.engines import watchdog
from judges.engines.quiet import ChildLog
from judges.errors import CannotRun

MAX_RESTARTS = 3  # of one engine: one that dies again and again dies of its requests
_STOP_SECONDS = 30.0
_VLLM_NAMES = ("EngineCore", "VLLM")  # what vLLM calls its processes; those of a data loader are not to be ended here
# One engine starts at a time: its processes are those that appear meanwhile.
_start_lock = threading.Lock()


class EngineProcess:
    """A vLLM engine of `model` that `build` starts on a thread of its own, and `close` shuts down.

    One that `replaces` another stops that first, because its memory is needed.

    The thread blocks SIGINT, and the processes that it starts inherit that. Ctrl-C in a terminal reaches every
    process of its group; vLLM's would die of it in the middle of a step, with long tracebacks. This way only the
    parent gets it, and closes the engine. The main thread stays interruptible, and Python does not wait for the
    thread at exit. What the processes print goes to a log, which is quoted where the start fails.
    """

    def __init__(
        self,
        model: str,
        build: Callable[[], Any],
        close: Callable[[Any], None],
        replaces: EngineProcess | None = None,
    ) -> None:
        self.future: Future[Any] = Future()
        self.future.set_running_or_notify_cancel()  # a caller that waits may be cancelled, the start may not
        self.processes: list[BaseProcess] = []
        self.log = ChildLog()
        self._model, self._build, self._close, self._replaces = model, build, close, replaces
        self._before: set[BaseProcess] | None = None
        self._descendants: list[Any] = []
        self._stopped = False
        self._thread = threading.Thread(target=self._run, name="assay-vllm-start", daemon=True)
        self._thread.start()

    def wait(self) -> Any:
        """The engine, once it has started. Raises CannotRun where vLLM cannot start it."""
        try:
            return self.future.result()
        except BaseException:  # of the start, or Ctrl-C in the thread that waits: no process may be left
            self.stop()
            raise

    def died(self) -> bool:
        """Whether a process of the engine has ended."""
        return any(not process.is_alive() for process in self.processes)

    def stop(self) -> None:
        """Stop the engine and all its processes, also while it is starting. Safe to call twice."""
        self._stopped = True
        deadline = time.monotonic() + _STOP_SECONDS
        while self._thread.is_alive() and time.monotonic() < deadline:
            self._kill()  # vLLM's start fails as soon as its process is gone
            self._thread.join(0.1)
        if self.future.done() and self.future.exception() is None:
            self._close(self.future.result())
            self.future = Future()  # vLLM complains of an engine that is still referenced when Python exits
            self.future.set_exception(CannotRun("the engine was closed"))
        self._kill()
        self.log.close()

    def _run(self) -> None:
        try:
            with _start_lock, watchdog.guard(), self.log.redirect_children():
                resource_tracker.ensure_running()  # its first start unblocks the signal
                signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
                if self._replaces is not None:
                    self._replaces.stop()
                    self._replaces = None
                self._before = set(multiprocessing.active_children())
                if self._stopped:
                    raise CannotRun("the engine was closed")
                engine = self._build()
                self._record_processes()
                if self._stopped:
                    self._close(engine)
                    raise CannotRun("the engine was closed")
        except (OSError, ValueError, RuntimeError, TypeError) as error:
            self.future.set_exception(self._failure(error))
        except BaseException as error:
            self.log.unlink()
            self.future.set_exception(error)
        else:
            self.log.unlink()
            self.future.set_result(engine)

    def _failure(self, error: Exception) -> CannotRun:
        """One line on a start that failed. The log is kept where it says more."""
        cause = self.log.cause()
        if self._stopped or not cause:
            self.log.unlink()
        lines = (str(error).strip() or type(error).__name__).splitlines()
        reason = lines[1].strip() if len(lines) > 1 and "validation error" in lines[0] else lines[0]
        more = f"full log: {self.log.path}" if cause else "--verbose or ASSAY_VERBOSE=1 shows what vLLM prints"
        message = f"vLLM could not start {self._model!r}: {cause or reason} ({more})"
        failure = CannotRun("the engine was closed" if self._stopped else message)
        failure.__cause__ = error
        return failure

    def _record_processes(self) -> None:
        """Record the processes that appeared since the start began, and their descendants."""
        import psutil

        if self._before is None:
            return
        known = {process.pid for process in self._descendants}
        for process in set(multiprocessing.active_children()) - self._before - set(self.processes):
            if process.name.startswith(_VLLM_NAMES):
                self.processes.append(process)
        for process in self.processes:
            with suppress(psutil.Error):
                parent = psutil.Process(process.pid)
                self._descendants += [p for p in (parent, *parent.children(recursive=True)) if p.pid not in known]

    def _kill(self) -> None:
        import psutil

        if self._thread.is_alive():
            self._record_processes()
        for process in self._descendants:
            with suppress(psutil.Error):  # it has ended, and its number may belong to another process
                process.kill()
        psutil.wait_procs(self._descendants, timeout=3)


class RestartBudget:
    """How often one engine may still be restarted."""

    def __init__(self, model: str) -> None:
        self.left = MAX_RESTARTS
        self._model = model

    def consume(self, dead: EngineProcess) -> None:
        """Count and report one restart in place of `dead`. Raises CannotRun when none is left."""
        cause = dead.log.cause()
        why = f" ({cause})" if cause else ""
        if not self.left:
            raise CannotRun(f"the vLLM engine died{why}; what is finished is safe, run the same command again")
        self.left -= 1
        print(
            f"assay: the vLLM engine of {self._model!r} died{why} and is restarted"
            f" ({MAX_RESTARTS - self.left} of {MAX_RESTARTS}); its unfinished requests are sent again",
            file=sys.stderr,
            flush=True,
        )
