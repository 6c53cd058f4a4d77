"""`PoolingModel`: raw rewards from vLLM's pooling runner."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from multiprocessing import connection
from typing import Any, ClassVar

from classic_rm.data import EncodedResponse, encode
from classic_rm.model import load_tokenizer
from classic_rm.reward_model import TokenIds
from judges.engines.embedded import resolve_model
from judges.engines.vllm import cpu_settings, prepare_environment
from judges.engines.vllm_process import EngineProcess, RestartBudget
from judges.errors import CannotRun
from judges.types import Failure, Message


class PoolingModel:
    """A sequence classifier with one label in vLLM, without a sigmoid.

    Its prefix cache computes the shared beginning of responses once. A dead engine process is restarted, within a
    budget.
    """

    _extra_settings: ClassVar[dict[str, Any]] = {}  # engine settings of a subclass

    def __init__(
        self,
        model: str,
        max_length: int | None = None,
        dtype: str = "float32",
        add_bos: bool = False,
    ) -> None:
        from transformers import AutoConfig
        from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING_NAMES

        self._add_bos = add_bos
        path = resolve_model(model)
        self.tokenizer: Any = load_tokenizer(path)
        encoder = AutoConfig.from_pretrained(path).model_type in MODEL_FOR_MASKED_LM_MAPPING_NAMES
        if encoder and "token_type_ids" in self.tokenizer.model_input_names:
            raise CannotRun(f"{model!r} reads token types, which Assay does not pass to vLLM: use engine=transformers")
        on_cpu = prepare_environment(model)
        settings: dict[str, Any] = {
            "model": path,
            "runner": "pooling",
            "dtype": dtype,
            "enable_prefix_caching": not encoder,  # an encoder has no cache
            "disable_log_stats": True,
        }
        settings |= self._extra_settings
        if on_cpu:
            settings |= cpu_settings(max_length or 0) | {"dtype": dtype}
        if max_length:
            settings["max_model_len"] = max_length
        self._model, self._settings = model, settings
        self._restart_budget = RestartBudget(model)
        self._lock = threading.Lock()  # close() may be called from another thread
        self._closed = False
        self._process = EngineProcess(model, self._build, _close)
        self._open()
        self.max_length = int(self._engine.model_config.max_model_len)

    def encode(self, messages: tuple[Message, ...], response: str) -> EncodedResponse | Failure:
        return encode(self.tokenizer, messages, response, self.max_length, self._add_bos)

    def rewards(self, groups: Sequence[Sequence[TokenIds]]) -> list[list[tuple[float, ...]]]:
        """For each group of responses to one prompt, for each response, its reward."""
        from vllm import PoolingParams

        prompts = [{"prompt_token_ids": list(ids)} for group in groups for ids in group]
        if not prompts:
            return [[] for _ in groups]
        values = iter(self._run_restarting(prompts, PoolingParams(use_activation=False)))
        return [[next(values) for _ in group] for group in groups]

    def _run_restarting(self, prompts: list[Any], parameters: Any) -> list[tuple[float, ...]]:
        from vllm.v1.engine.exceptions import EngineDeadError

        while True:
            try:
                return self._run(prompts, parameters)
            except Exception as error:  # a dead process also shows as errors of its sockets
                if self._closed:
                    raise CannotRun("the reward model was closed") from error
                if not isinstance(error, EngineDeadError) and not self._process.died():
                    raise
                self._restart()

    def _restart(self) -> None:
        with self._lock:
            if self._closed:
                raise CannotRun("the reward model was closed")
            self._restart_budget.consume(self._process)
            self._process = EngineProcess(self._model, self._build, _close, replaces=self._process)
        self._open()

    def _build(self) -> Any:
        from vllm import LLM

        return LLM(**self._settings)

    def _open(self) -> None:
        self._engine: Any = self._process.wait()
        # vLLM's own monitor of the process ends the thread that would notify callers, which would wait for ever.
        queue = getattr(self._engine.llm_engine.engine_core, "outputs_queue", None)
        if queue is not None:
            arguments = (self._process.processes, queue)
            threading.Thread(target=_notify_of_death, args=arguments, name="assay-vllm-watch", daemon=True).start()

    def _run(self, prompts: list[Any], parameters: Any) -> list[tuple[float, ...]]:
        outputs = self._engine.classify(prompts, pooling_params=parameters, use_tqdm=False)
        return [tuple(float(v) for v in output.outputs.probs) for output in outputs]

    def close(self) -> None:
        """End the engine's process. Safe to call twice."""
        with self._lock:
            self._closed, was_closed = True, self._closed
            self._engine = None
        if not was_closed:
            self._process.stop()


def _close(engine: Any) -> None:
    engine.llm_engine.engine_core.shutdown()


def _notify_of_death(processes: Sequence[Any], queue: Any) -> None:
    """Wait until one of the processes ends, then raise EngineDeadError in the thread that waits on `queue`."""
    from vllm.v1.engine.exceptions import EngineDeadError

    if connection.wait([process.sentinel for process in processes]):
        queue.put_nowait(EngineDeadError())
