"""vLLM's processes: started where Ctrl-C does not reach them, ended however far the start went, and, where one
dies, started again a few times."""

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
from judges.errors import CannotRun

RESTARTS = 3  # in an engine's life: one that dies again and again dies of what it is asked
_END_SECONDS = 30.0
_OURS = ("EngineCore", "VLLM")  # what vLLM calls its processes; a data loader's are not ours to end
# One engine starts at a time: it is known by the processes that came meanwhile.
_one_at_a_time = threading.Lock()


class Start:
    """An engine of `model` being started by `build`, on a thread of its own; `close` ends one that is there.

    One that takes another's place ends that first: its memory is needed.

    The thread blocks SIGINT, and the processes that it starts inherit that: Ctrl-C in a terminal reaches every
    process of its group; vLLM's would die of it in the middle of a step, loudly. This way only the parent
    hears it, which closes the engine. The main thread stays interruptible. The thread is a daemon: who leaves
    does not wait for it.
    """

    def __init__(
        self,
        model: str,
        build: Callable[[], Any],
        close: Callable[[Any], None],
        in_place_of: Start | None = None,
    ) -> None:
        self.future: Future[Any] = Future()
        self.future.set_running_or_notify_cancel()  # whoever waits for it may be cancelled, the start is not
        self.processes: list[BaseProcess] = []
        self._model, self._build, self._close, self._in_place_of = model, build, close, in_place_of
        self._before: set[BaseProcess] | None = None
        self._below: list[Any] = []
        self._ended = False
        self._thread = threading.Thread(target=self._run, name="assay-vllm-start", daemon=True)
        self._thread.start()

    def result(self) -> Any:
        """The engine, once it is there. Raises CannotRun where vLLM cannot start it."""
        try:
            return self.future.result()
        except BaseException:  # of the start or, by Ctrl-C, of who waits: nothing that was begun stays behind
            self.end()
            raise

    def died(self) -> bool:
        """Whether a process of the engine is gone."""
        return any(not process.is_alive() for process in self.processes)

    def end(self) -> None:
        """End the engine and every process of the start, also of one that is still under way. Safe to call twice."""
        self._ended = True
        until = time.monotonic() + _END_SECONDS
        while self._thread.is_alive() and time.monotonic() < until:
            self._kill()  # vLLM's start fails as soon as its process is gone
            self._thread.join(0.1)
        if self.future.done() and self.future.exception() is None:
            self._close(self.future.result())
            self.future = Future()  # vLLM complains of an engine that is still held when Python ends
            self.future.set_exception(CannotRun("the engine was closed"))
        self._kill()

    def _run(self) -> None:
        resource_tracker.ensure_running()  # its first start would unblock the signal again
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            with _one_at_a_time, watchdog.guard():
                if self._in_place_of is not None:
                    self._in_place_of.end()
                    self._in_place_of = None
                self._before = set(multiprocessing.active_children())
                if self._ended:
                    raise CannotRun("the engine was closed")
                engine = self._build()
                self._note()
                if self._ended:
                    self._close(engine)
                    raise CannotRun("the engine was closed")
        except (OSError, ValueError, RuntimeError, TypeError) as error:
            reason = str(error).strip().splitlines() or [type(error).__name__]
            told = f"vLLM could not start {self._model!r}: {reason[0]} (VLLM_LOGGING_LEVEL=INFO shows more)"
            failure = CannotRun("the engine was closed" if self._ended else told)
            failure.__cause__ = error
            self.future.set_exception(failure)
        except BaseException as error:
            self.future.set_exception(error)
        else:
            self.future.set_result(engine)

    def _note(self) -> None:
        """Take down the processes that came since the start began, and theirs."""
        import psutil

        if self._before is None:
            return
        known = {process.pid for process in self._below}
        for process in set(multiprocessing.active_children()) - self._before - set(self.processes):
            if process.name.startswith(_OURS):
                self.processes.append(process)
        for process in self.processes:
            with suppress(psutil.Error):
                above = psutil.Process(process.pid)
                self._below += [p for p in (above, *above.children(recursive=True)) if p.pid not in known]

    def _kill(self) -> None:
        import psutil

        if self._thread.is_alive():
            self._note()
        for process in self._below:
            with suppress(psutil.Error):  # gone already, its number perhaps given again
                process.kill()
        psutil.wait_procs(self._below, timeout=3)


class RestartBudget:
    """How often one engine may still be started again."""

    def __init__(self, model: str) -> None:
        self.left = RESTARTS
        self._model = model

    def spend(self) -> None:
        """Tell of one restart more. Raises CannotRun when there were too many."""
        if not self.left:
            raise CannotRun("the vLLM engine died; what is finished is safe, run the same command again")
        self.left -= 1
        print(
            f"assay: the vLLM engine of {self._model!r} died and is started again"
            f" ({RESTARTS - self.left} of {RESTARTS}); what was in flight is asked again",
            file=sys.stderr,
            flush=True,
        )
