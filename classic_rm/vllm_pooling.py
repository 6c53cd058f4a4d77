"""Rewards from vLLM's pooling runner."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from multiprocessing import connection
from typing import Any, ClassVar

from classic_rm.data import Encoded, encode
from classic_rm.model import load_tokenizer
from classic_rm.reward_model import Ids
from judges.engines.embedded import resolve_model
from judges.engines.vllm import cpu_settings, quiet_environment
from judges.engines.vllm_process import RestartBudget, Start
from judges.errors import CannotRun
from judges.types import Failure, Message


class PoolingModel:
    """A one-label sequence classifier in vLLM, without a sigmoid; what responses begin with comes from its
    prefix cache."""

    _runner: ClassVar[dict[str, Any]] = {}  # what else the pooling runner is told

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
            raise CannotRun(f"{model!r} reads token types, which vLLM is not given here: use engine=transformers")
        on_cpu = quiet_environment()
        settings: dict[str, Any] = {
            "model": path,
            "runner": "pooling",
            "dtype": dtype,
            "enable_prefix_caching": not encoder,  # an encoder keeps nothing that could be cached
            "disable_log_stats": True,
        }
        settings |= self._runner
        if on_cpu:
            settings |= cpu_settings(max_length or 0) | {"dtype": dtype}
        if max_length:
            settings["max_model_len"] = max_length
        self._model, self._settings = model, settings
        self._lives = RestartBudget(model)
        self._changing = threading.Lock()  # who closes may be on another thread
        self._closed = False
        self._start = Start(model, self._build, _close)
        self._open()
        self.max_length = int(self._engine.model_config.max_model_len)

    def encode(self, messages: tuple[Message, ...], response: str) -> Encoded | Failure:
        return encode(self.tokenizer, messages, response, self.max_length, self._add_bos)

    def rewards(self, groups: Sequence[Sequence[Ids]]) -> list[list[tuple[float, ...]]]:
        """For each group of responses to one prompt, for each response, its reward."""
        from vllm import PoolingParams

        prompts = [{"prompt_token_ids": list(ids)} for group in groups for ids in group]
        if not prompts:
            return [[] for _ in groups]
        values = iter(self._told(prompts, PoolingParams(use_activation=False)))
        return [[next(values) for _ in group] for group in groups]

    def _told(self, prompts: list[Any], parameters: Any) -> list[tuple[float, ...]]:
        from vllm.v1.engine.exceptions import EngineDeadError

        while True:
            try:
                return self._values(prompts, parameters)
            except Exception as error:  # what a socket says that its death closed, among others
                if self._closed:
                    raise CannotRun("the reward model was closed") from error
                if not isinstance(error, EngineDeadError) and not self._start.died():
                    raise
                self._start_again()

    def _start_again(self) -> None:
        with self._changing:
            if self._closed:
                raise CannotRun("the reward model was closed")
            self._lives.spend()
            self._start = Start(self._model, self._build, _close, in_place_of=self._start)
        self._open()

    def _build(self) -> Any:
        from vllm import LLM

        return LLM(**self._settings)

    def _open(self) -> None:
        self._engine: Any = self._start.result()
        # vLLM's own watch over the process ends the thread that would tell who waits: they would wait for ever.
        told = getattr(self._engine.llm_engine.engine_core, "outputs_queue", None)
        if told is not None:
            watch = (self._start.processes, told)
            threading.Thread(target=_tell_of_death, args=watch, name="assay-vllm-watch", daemon=True).start()

    def _values(self, prompts: list[Any], parameters: Any) -> list[tuple[float, ...]]:
        told = self._engine.classify(prompts, pooling_params=parameters, use_tqdm=False)
        return [tuple(float(v) for v in output.outputs.probs) for output in told]

    def close(self) -> None:
        """End the engine's process. Safe to call twice."""
        with self._changing:
            self._closed, closed = True, self._closed
            self._engine = None
        if not closed:
            self._start.end()


def _close(engine: Any) -> None:
    engine.llm_engine.engine_core.shutdown()


def _tell_of_death(processes: Sequence[Any], told: Any) -> None:
    from vllm.v1.engine.exceptions import EngineDeadError

    if connection.wait([process.sentinel for process in processes]):
        told.put_nowait(EngineDeadError())
