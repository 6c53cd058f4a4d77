"""vLLM in this process, on its asynchronous engine."""

from __future__ import annotations

import asyncio
import itertools
import os
import threading
import time
from typing import Any

from judges.engines.base import Completion, Generation, LogLikelihood, Request, RequestFailed, loop
from judges.engines.chat_template import plain_ids
from judges.engines.embedded import fingerprint, resolve_model
from judges.engines.local import LocalEngine
from judges.engines.vllm_process import RestartBudget, Start
from judges.errors import CannotRun
from judges.types import Message, Usage


def cpu_settings(context: int) -> dict[str, Any]:
    """What vLLM needs to start fast and sample safely on a CPU."""
    return {
        "dtype": "float32",  # bfloat16 without AVX-512 runs at a fifteenth of the speed
        "enforce_eager": True,  # compiling takes minutes and gains little here
        "gpu_memory_utilization": 0.3,
        "block_size": 32,  # the smallest that CPU attention takes: short prompts share more
        # A seeded request whose prefill is chunked ends the engine ("CPU Generator does not use offset").
        "enable_chunked_prefill": False,
        "max_num_batched_tokens": max(32768, context),
    }


def quiet_environment() -> bool:
    """Set what vLLM reads from the environment, where the user has not; whether it will run on a CPU.

    Raises CannotRun where vLLM is not installed."""
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
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
    """vLLM's AsyncLLM. `engine_args` go to vLLM as they are and win over what is chosen here.

    When its process dies it is started again, a few times in its life, and what was in flight is asked again:
    a request carries all that decides its completion, so a second answer is the first one.
    """

    name = "vllm"

    def __init__(self, model: str, **engine_args: Any) -> None:
        self.model = model
        self._args = engine_args
        self._ids = itertools.count()
        path = resolve_model(model)
        self._revision = fingerprint(path)
        on_cpu = quiet_environment()
        settings: dict[str, Any] = {
            "model": path,
            "enable_prefix_caching": True,
            "disable_log_stats": True,
            "use_tqdm_on_load": False,
        }
        if on_cpu:
            settings |= cpu_settings(int(engine_args.get("max_model_len") or 0))
        self._settings = settings | engine_args
        self._lives = RestartBudget(model)
        self._changing = threading.Lock()  # who closes is on another thread than the loop
        self._closed = False
        self._restart: asyncio.Task[None] | None = None
        self._start = Start(model, self._build, _close)
        self._engine = self._start.result()
        self._tokenizer = self._engine.get_tokenizer()
        self._context = int(self._engine.model_config.max_model_len)

    def _build(self) -> Any:
        from vllm.engine.arg_utils import AsyncEngineArgs
        from vllm.v1.engine.async_llm import AsyncLLM

        return AsyncLLM.from_engine_args(AsyncEngineArgs(**self._settings))

    def identity(self) -> dict[str, Any]:
        from vllm import __version__

        return super().identity() | {"revision": self._revision, "vllm": __version__, "engine_args": self._args}

    async def complete(self, request: Request) -> Completion:
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind, StructuredOutputsParams

        ids = self.token_ids(request.messages, request.prefix, request.partial)
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
            logprobs=request.logprobs,
            seed=request.seed,
            structured_outputs=constraint,
            output_kind=RequestOutputKind.FINAL_ONLY,
        )
        output, seconds = await self._run(ids, parameters)
        choices = tuple(
            Generation(
                text=o.text,
                finish="length" if o.finish_reason == "length" else "stop",
                token_ids=tuple(o.token_ids),
                logprobs=None if o.logprobs is None else tuple(_top(position) for position in o.logprobs),
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
        # Prompt logprobs recompute the whole prompt. One generated position for each distinct beginning of
        # the continuations finds the prefix cached instead: one request for one-token labels.
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        before = self.token_ids(messages, prefix, partial)
        spelled = [tuple(plain_ids(self._tokenizer, continuation)) for continuation in continuations]
        following: dict[tuple[int, ...], set[int]] = {}
        for ids in spelled:
            for place in range(len(ids)):
                following.setdefault(ids[:place], set()).add(ids[place])
        if len(before) + max(map(len, spelled)) > self._context:
            raise RequestFailed("too-long", f"{len(before)} tokens, the model's context holds {self._context}")

        async def ask(beginning: tuple[int, ...]) -> tuple[dict[int, float], Usage]:
            parameters = SamplingParams(
                temperature=0,
                max_tokens=1,
                logprob_token_ids=sorted(following[beginning]),
                output_kind=RequestOutputKind.FINAL_ONLY,
            )
            output, seconds = await self._run([*before, *beginning], parameters)
            found = {token: float(entry.logprob) for token, entry in output.outputs[0].logprobs[0].items()}
            used = Usage(len(before) + len(beginning), output.num_cached_tokens or 0, 1, seconds)
            return found, used

        answers = dict(zip(following, await asyncio.gather(*map(ask, following)), strict=True))
        cost = sum((used for _, used in answers.values()), Usage())
        totals = [sum(answers[ids[:p]][0][ids[p]] for p in range(len(ids))) for ids in spelled]
        # The cost is one: it is told with the first.
        costs = [cost] + [Usage()] * (len(spelled) - 1)
        return [LogLikelihood(t, len(i), c) for t, i, c in zip(totals, spelled, costs, strict=True)]

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
                await self._another(engine)
                continue
            except ValueError as error:
                raise RequestFailed("engine", str(error).splitlines()[0]) from error
            if final is None:
                raise RequestFailed("engine", "vLLM ended the request without an output")
            return final, time.perf_counter() - started

    async def _another(self, dead: Any) -> None:
        """Wait for the engine that takes the dead one's place: one for all who ask. Raises CannotRun."""
        if self._engine is not dead:
            return
        if self._restart is None or self._restart.done():
            self._restart = asyncio.get_running_loop().create_task(self._start_again())
            self._restart.add_done_callback(_heard)
        # It belongs to nobody: who is cancelled leaves it to the others.
        await asyncio.shield(self._restart)

    async def _start_again(self) -> None:
        with self._changing:
            if self._closed:
                raise CannotRun("the engine was closed")
            self._lives.spend()
            self._start = start = Start(self.model, self._build, _close, in_place_of=self._start)
        engine = await asyncio.wrap_future(start.future)
        with self._changing:
            if not self._closed:  # else the start was ended, and the engine with it
                self._engine = engine

    def close(self) -> None:
        with self._changing:
            self._closed, closed = True, self._closed
            self._engine = None
        if not closed:
            self._start.end()
        self._restart = None  # what it raised holds this engine


def _heard(restart: asyncio.Task[None]) -> None:
    """Take note of its end: whoever asked for it may be gone."""
    if not restart.cancelled():
        restart.exception()


def _close(engine: Any) -> None:
    # The task that reads the engine's answers goes first: it would report the end as a crash.
    if engine.output_handler is not None:
        loop().call_soon_threadsafe(engine.output_handler.cancel)
    engine.shutdown()
    engine.shutdown = lambda: None  # it would be called again when the object goes, and fail loudly as Python ends


def _top(position: Any) -> dict[str, float]:
    return {str(entry.decoded_token): float(entry.logprob) for entry in position.values()}
