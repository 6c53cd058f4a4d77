"""Rewards from vLLM's pooling runner."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from classic_rm.data import Encoded, encode
from classic_rm.model import load_tokenizer
from classic_rm.reward_model import Ids
from judges.engines import watchdog
from judges.engines.embedded import resolve_model
from judges.engines.vllm import cpu_settings, quiet_environment, without_interrupts
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
        from vllm import LLM

        try:
            with watchdog.guard():
                self._engine: Any = without_interrupts(lambda: LLM(**settings))
        except (OSError, ValueError, RuntimeError, TypeError) as error:
            reason = str(error).strip().splitlines() or [type(error).__name__]
            raise CannotRun(
                f"vLLM could not start {model!r}: {reason[0]} (VLLM_LOGGING_LEVEL=INFO shows more)"
            ) from error
        self.max_length = int(self._engine.model_config.max_model_len)

    def encode(self, messages: tuple[Message, ...], response: str) -> Encoded | Failure:
        return encode(self.tokenizer, messages, response, self.max_length, self._add_bos)

    def rewards(self, groups: Sequence[Sequence[Ids]]) -> list[list[tuple[float, ...]]]:
        """For each group of responses to one prompt, for each response, its reward."""
        from vllm import PoolingParams

        prompts = [{"prompt_token_ids": list(ids)} for group in groups for ids in group]
        if not prompts:
            return [[] for _ in groups]
        values = iter(self._values(prompts, PoolingParams(use_activation=False)))
        return [[next(values) for _ in group] for group in groups]

    def _values(self, prompts: list[Any], parameters: Any) -> list[tuple[float, ...]]:
        told = self._engine.classify(prompts, pooling_params=parameters, use_tqdm=False)
        return [tuple(float(v) for v in output.outputs.probs) for output in told]

    def close(self) -> None:
        """End the engine's process."""
        if self._engine is not None:
            self._engine.llm_engine.engine_core.shutdown()
            self._engine = None
