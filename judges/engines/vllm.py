"""The vLLM engine: vLLM's asynchronous engine, whose model runs in child processes."""

from __future__ import annotations

import asyncio
import itertools
import os
import threading
import time
from typing import Any

from judges.engines.base import Completion, Generation, LogLikelihood, Request, RequestFailed, event_loop
from judges.engines.chat_template import plain_ids
from judges.engines.embedded import fingerprint, resolve_model
from judges.engines.local import TEMPLATE_KWARGS, LocalEngine, next_token_sets, split_template_kwargs
from judges.engines.quiet import announce, hide_vllm_messages
from judges.engines.vllm_process import EngineProcess, RestartBudget
from judges.errors import CannotRun
from judges.types import Message, Usage


def cpu_settings(context: int) -> dict[str, Any]:
    """Engine arguments with which vLLM starts fast and samples safely on a CPU."""
    return {
        "dtype": "float32",  # bfloat16 without AVX-512 runs at a fifteenth of the speed
        "enforce_eager": True,  # compiling takes minutes and gains little here
        "gpu_memory_utilization": 0.3,
        "block_size": 32,  # the smallest that CPU attention supports: short prompts share more blocks
        # A seeded request whose prefill is chunked ends the engine ("CPU Generator does not use offset").
        "enable_chunked_prefill": False,
        "max_num_batched_tokens": max(32768, context),
    }


def prepare_environment(model: str) -> bool:
    """Set what vLLM reads from the environment, where the user has not, before it starts for `model`.

    Returns whether vLLM will run on a CPU. Raises CannotRun where vLLM is not installed.
    """
    announce(f"starting vLLM for {model}; this usually takes about a minute, longer for a large model")
    hide_vllm_messages()
    os.environ.setdefault("VLLM_WORKER_MULTIPROC_METHOD", "spawn")
    os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
    try:
        from vllm.platforms import current_platform
    except ImportError as error:
        raise CannotRun(
            "vLLM is not installed: pip install 'assay[cpu]' or 'assay[gpu]', or use engine=transformers"
        ) from error
    if not current_platform.is_cpu():
        return False
    cores = sorted(os.sched_getaffinity(0))
    os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "2")
    os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", ",".join(map(str, cores)))
    return True


class VLLMEngine(LocalEngine):
    """vLLM's AsyncLLM. `engine_args` are vLLM's, and override those that are set here.

    When its process dies it is restarted, a few times at most, and the unfinished requests are sent again. A request
    carries all that determines its completion, so the result is the same.

    `thinking_tokens` is the most tokens of a thought: vLLM then closes it, and the answer has what is left of the
    request's `max_tokens`. `chat_template_kwargs.KEY` are variables of the chat template (`enable_thinking`). The
    checkpoint's sampling defaults (`generation_config.json`) are not used: a request carries all its settings.
    """

    name = "vllm"

    def __init__(self, model: str, thinking_tokens: int | None = None, **settings_given: Any) -> None:
        engine_args, self.template_kwargs = split_template_kwargs(settings_given)
        if thinking_tokens is not None and not (type(thinking_tokens) is int and thinking_tokens >= 0):
            raise CannotRun(f"engine vllm: thinking_tokens is a whole number from 0 up, not {thinking_tokens!r}")
        self.model = model
        self._thinking_tokens = thinking_tokens
        self._args = engine_args
        self._ids = itertools.count()
        path = resolve_model(model)
        self._revision = fingerprint(path)
        on_cpu = prepare_environment(model)
        settings: dict[str, Any] = {
            "model": path,
            "enable_prefix_caching": True,
            "disable_log_stats": True,
            "use_tqdm_on_load": False,
        }
        if on_cpu:
            settings |= cpu_settings(int(engine_args.get("max_model_len") or 0))
        if thinking_tokens is not None:
            settings["reasoning_config"] = {"reasoning_start_str": "<think>", "reasoning_end_str": "</think>"}
        self._settings = settings | engine_args
        self._restarts = RestartBudget(model)
        self._lifecycle = threading.Lock()  # `close` is called on another thread than the event loop
        self._closed = False
        self._restart: asyncio.Task[None] | None = None
        self._process = EngineProcess(model, self._build, _close)
        self._engine = self._process.wait()
        self._tokenizer = self._engine.get_tokenizer()
        self._context = int(self._engine.model_config.max_model_len)

    def _build(self) -> Any:
        from vllm.engine.arg_utils import AsyncEngineArgs
        from vllm.v1.engine.async_llm import AsyncLLM

        return AsyncLLM.from_engine_args(AsyncEngineArgs(**self._settings))

    def identity(self) -> dict[str, Any]:
        from vllm import __version__

        identity = super().identity() | {"revision": self._revision, "vllm": __version__, "engine_args": self._args}
        if self.template_kwargs:
            identity[TEMPLATE_KWARGS] = dict(self.template_kwargs)
        if self._thinking_tokens is not None:
            identity["thinking_tokens"] = self._thinking_tokens
        return identity

    async def complete(self, request: Request) -> Completion:
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind, StructuredOutputsParams

        ids = self.request_ids(request)
        room = self._context - len(ids)
        if room < 1:
            raise RequestFailed(
                "too-long", f"the prompt has {len(ids)} tokens, the model's context holds {self._context}"
            )
        constraint = None
        if request.choice:
            constraint = StructuredOutputsParams(choice=list(request.choice))
        elif request.schema:
            constraint = StructuredOutputsParams(json=request.schema)
        parameters = SamplingParams(
            n=request.n,
            temperature=request.temperature,
            top_p=request.top_p,
            max_tokens=min(request.max_tokens, room),
            stop=list(request.stop) or None,
            seed=request.seed,
            structured_outputs=constraint,
            output_kind=RequestOutputKind.FINAL_ONLY,
        )
        if self._thinking_tokens is not None and constraint is None:
            parameters.thinking_token_budget = self._thinking_tokens
        output, seconds = await self._run(ids, parameters)
        in_thought = self.begins_in_thought(request)
        choices = tuple(
            Generation(
                text=o.text,
                finish="length" if o.finish_reason == "length" else "stop",
                token_ids=tuple(o.token_ids),
                in_thought=in_thought,
            )
            for o in output.outputs
        )
        generated = sum(len(c.token_ids) for c in choices)
        return Completion(choices, Usage(len(ids), output.num_cached_tokens or 0, generated, seconds))

    async def likelihood(self, before: list[int], after: list[int]) -> LogLikelihood:
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        ids = before + after
        if len(ids) >= self._context:
            raise RequestFailed("too-long", f"{len(ids)} tokens, the model's context holds {self._context}")
        parameters = SamplingParams(
            temperature=0,
            max_tokens=1,
            prompt_logprobs=0,
            detokenize=False,  # else every token of the prompt is turned back into text
            output_kind=RequestOutputKind.FINAL_ONLY,
        )
        output, seconds = await self._run(ids, parameters)
        total = sum(output.prompt_logprobs[i][ids[i]].logprob for i in range(len(before), len(ids)))
        usage = Usage(len(ids), output.num_cached_tokens or 0, 0, seconds)
        return LogLikelihood(total, len(after), usage)

    async def log_likelihoods(
        self,
        messages: tuple[Message, ...],
        prefix: str,
        continuations: tuple[str, ...],
        partial: Generation | None = None,
    ) -> list[LogLikelihood]:
        # Prompt logprobs would recompute the whole prompt. Generating one position after each distinct prefix of the
        # continuations uses the prefix cache instead: a single request where all labels are one token.
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        before = self.token_ids(messages, prefix, partial, answer=True)
        continuation_ids = [tuple(plain_ids(self._tokenizer, continuation)) for continuation in continuations]
        next_tokens = next_token_sets(continuation_ids)
        if len(before) + max(map(len, continuation_ids)) > self._context:
            raise RequestFailed("too-long", f"{len(before)} tokens, the model's context holds {self._context}")

        async def next_logprobs(ids: tuple[int, ...]) -> tuple[dict[int, float], Usage]:
            parameters = SamplingParams(
                temperature=0,
                max_tokens=1,
                logprob_token_ids=sorted(next_tokens[ids]),
                output_kind=RequestOutputKind.FINAL_ONLY,
            )
            output, seconds = await self._run([*before, *ids], parameters)
            logprobs = {token: float(entry.logprob) for token, entry in output.outputs[0].logprobs[0].items()}
            return logprobs, Usage(len(before) + len(ids), output.num_cached_tokens or 0, 1, seconds)

        results = dict(zip(next_tokens, await asyncio.gather(*map(next_logprobs, next_tokens)), strict=True))
        usage = sum((used for _, used in results.values()), Usage())
        totals = [sum(results[ids[:i]][0][ids[i]] for i in range(len(ids))) for ids in continuation_ids]
        # The first carries the usage of all.
        usages = [usage] + [Usage()] * (len(continuation_ids) - 1)
        return [LogLikelihood(t, len(i), u) for t, i, u in zip(totals, continuation_ids, usages, strict=True)]

    async def _run(self, ids: list[int], parameters: Any) -> tuple[Any, float]:
        from vllm.v1.engine.exceptions import EngineDeadError, EngineGenerateError

        while True:
            engine = self._engine
            if self._closed:
                raise RequestFailed("engine", "the engine was closed")
            started = time.perf_counter()
            final = None
            try:
                async for output in engine.generate(
                    {"prompt_token_ids": ids}, parameters, request_id=f"assay-{next(self._ids)}"
                ):
                    final = output
            except (EngineDeadError, EngineGenerateError) as error:
                if not engine.errored:
                    raise RequestFailed("engine", str(error.__cause__ or error).splitlines()[0]) from error
                await self._wait_for_restart(engine)
                continue
            except ValueError as error:
                raise RequestFailed("engine", str(error).splitlines()[0]) from error
            if final is None:
                raise RequestFailed("engine", "vLLM ended the request without an output")
            return final, time.perf_counter() - started

    async def _wait_for_restart(self, dead: Any) -> None:
        """Wait until another engine has replaced the dead one; all callers share one restart. Raises CannotRun."""
        if self._engine is not dead:
            return
        if self._restart is None or self._restart.done():
            self._restart = asyncio.get_running_loop().create_task(self._restart_engine())
            self._restart.add_done_callback(_retrieve_exception)
        await asyncio.shield(self._restart)  # a caller that is cancelled must not cancel it for the others

    async def _restart_engine(self) -> None:
        with self._lifecycle:
            if self._closed:
                raise CannotRun("the engine was closed")
            self._restarts.consume(self._process)
            self._process = process = EngineProcess(self.model, self._build, _close, replaces=self._process)
        engine = await asyncio.wrap_future(process.future)
        with self._lifecycle:
            if not self._closed:  # else the process was stopped, and the engine with it
                self._engine = engine

    def close(self) -> None:
        with self._lifecycle:
            was_closed, self._closed = self._closed, True
            self._engine = None
        if not was_closed:
            self._process.stop()
        self._restart = None  # the traceback of its exception refers to this engine


def _retrieve_exception(restart: asyncio.Task[None]) -> None:
    """Keep asyncio from logging an exception that no caller waits for any more."""
    if not restart.cancelled():
        restart.exception()


def _close(engine: Any) -> None:
    # The task that reads the engine's outputs is cancelled first: it would report the shutdown as a crash.
    if engine.output_handler is not None:
        event_loop().call_soon_threadsafe(engine.output_handler.cancel)
    engine.shutdown()
    engine.shutdown = lambda: None  # the object's destructor would call it again, and fail loudly as Python exits
