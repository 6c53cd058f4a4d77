"""A real `vllm serve` of the embedded model, on a port of this machine."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Sequence

from judges.engines.embedded import resolve_model

_SETTINGS = "--dtype float32 --enforce-eager --gpu-memory-utilization 0.3 --block-size 32 --max-model-len 2048"


class RealServer:
    """Serves the model as "small". `cores` are the CPU cores it computes on, all where none is named."""

    def __init__(self, more: Sequence[str] = (), cores: str = "") -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self._port = probe.getsockname()[1]
        command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model"]
        command += [resolve_model("embedded:smollm2-135m"), "--served-model-name", "small", "--host", "127.0.0.1"]
        command += ["--port", str(self._port), *_SETTINGS.split(), "--no-enable-chunked-prefill", *more]
        env = os.environ | {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_NO_USAGE_STATS": "1", "VLLM_LOGGING_LEVEL": "ERROR"}
        if cores:
            env["VLLM_CPU_OMP_THREADS_BIND"] = cores
        self._process = subprocess.Popen(
            command, env=env, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}/v1"

    def wait(self) -> None:
        """Until it answers."""
        until = time.monotonic() + 280
        while time.monotonic() < until:
            assert self._process.poll() is None, "vllm serve ended while starting"
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{self._port}/health", timeout=2)
                return
            except OSError:
                time.sleep(1)
        raise AssertionError("vllm serve did not start in time")

    def kill(self) -> None:
        """Every process of it, at once."""
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def close(self) -> None:
        if self._process.poll() is not None:
            return
        os.killpg(self._process.pid, signal.SIGTERM)
        try:
            self._process.wait(30)
        except subprocess.TimeoutExpired:
            self.kill()
