"""The transformers engine: Hugging Face's `generate` in this process, for where vLLM is not installed."""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from judges.engines.base import Completion, Generation, LogLikelihood, Request, RequestFailed
from judges.engines.chat_template import plain_ids
from judges.engines.concurrency import Batcher
from judges.engines.embedded import fingerprint, resolve_model
from judges.engines.local import TEMPLATE_KWARGS, LocalEngine, next_token_sets, split_template_kwargs
from judges.engines.quiet import hide_loading_bars
from judges.errors import CannotRun
from judges.plugins import unknown_name
from judges.types import Message, Usage


@dataclass(frozen=True, slots=True)
class _Job:
    """A request and the token ids of its prompt."""

    request: Request
    ids: list[int]


class TransformersEngine(LocalEngine):
    """A causal LM in transformers.

    Greedy requests that wait together run as one padded batch of at most `batch_size`. Sampled ones run one at a
    time, so that a completion depends on its own seed alone. `dtype` and `revision` are those of `from_pretrained`, and
    `chat_template_kwargs.KEY` are variables of the chat template (`enable_thinking`). Of the checkpoint's
    `generation_config.json` only the tokens that end a turn are used, as under vLLM: its sampling defaults (such as
    top_k and repetition_penalty) would change what a request asks for.
    """

    name = "transformers"

    def __init__(
        self, model: str, dtype: str = "auto", batch_size: int = 16, revision: str = "", **settings: Any
    ) -> None:
        unknown, self.template_kwargs = split_template_kwargs(settings)
        if unknown:
            known = ("dtype", "batch_size", "revision", f"{TEMPLATE_KWARGS}.KEY")
            raise CannotRun(unknown_name("engine transformers has no setting", next(iter(unknown)), known, "It takes"))
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

        self.model = model
        self._dtype = dtype
        self._batch_size = batch_size
        path = resolve_model(model)
        self._revision = fingerprint(path)
        try:
            self._tokenizer = AutoTokenizer.from_pretrained(path, revision=revision or None)
            with hide_loading_bars():
                self._lm = AutoModelForCausalLM.from_pretrained(
                    path, dtype=dtype, use_safetensors=True, revision=revision or None
                ).eval()
        except (OSError, ValueError) as error:
            raise CannotRun(f"transformers could not load {model!r}: {str(error).splitlines()[0]}") from error
        if torch.cuda.is_available():
            self._lm.to("cuda")
        own = self._lm.generation_config
        self._end = own.eos_token_id
        self._lm.generation_config = GenerationConfig(bos_token_id=own.bos_token_id, eos_token_id=own.eos_token_id)
        self._context = int(self._lm.config.max_position_embeddings)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="assay-transformers")
        # Requests that are issued together arrive within the delay.
        self._batches = Batcher(self._generate, self._thread, delay=0.005, select=self._select_batch)

    def identity(self) -> dict[str, Any]:
        identity = super().identity() | {"revision": self._revision, "dtype": self._dtype}
        return identity | ({TEMPLATE_KWARGS: dict(self.template_kwargs)} if self.template_kwargs else {})

    async def complete(self, request: Request) -> Completion:
        if request.schema:
            raise CannotRun("engine transformers cannot limit a completion to JSON: read by text, or use vllm")
        ids = self.request_ids(request)
        if len(ids) >= self._context:
            raise RequestFailed(
                "too-long", f"the prompt has {len(ids)} tokens, the model's context holds {self._context}"
            )
        try:
            return await self._batches.submit(_Job(request, ids))
        except Exception as error:
            raise RequestFailed.from_error(error) from error

    def _select_batch(self, waiting: Sequence[_Job]) -> list[int]:
        """Indices of the jobs to run next: the first, and those that can share its padded batch."""
        first = waiting[0]
        if not self._can_share_batch(first):
            return [0]
        alike = [
            i
            for i, job in enumerate(waiting)
            if self._can_share_batch(job) and job.request.max_tokens == first.request.max_tokens
        ]
        return alike[: self._batch_size]

    def _can_share_batch(self, job: _Job) -> bool:
        request = job.request
        greedy = request.temperature == 0 and not request.choice and not request.stop and request.n == 1
        # A prompt near the end of the context would cut the completions beside it short.
        return greedy and len(job.ids) + request.max_tokens <= self._context

    def _generate(self, batch: list[_Job]) -> list[Completion]:
        import torch

        started = time.perf_counter()
        request = batch[0].request
        longest = max(len(job.ids) for job in batch)
        end = self._end_ids()
        rows = [[end[0]] * (longest - len(job.ids)) + job.ids for job in batch]
        mask = [[0] * (longest - len(job.ids)) + [1] * len(job.ids) for job in batch]
        settings: dict[str, Any] = {"do_sample": request.temperature > 0, "num_return_sequences": request.n}
        if request.temperature > 0:
            settings |= {"temperature": request.temperature, "top_p": request.top_p, "top_k": 0}
            torch.manual_seed(request.seed if request.seed is not None else 0)
        if request.choice:
            settings["prefix_allowed_tokens_fn"] = self._allowed_tokens(request.choice, longest, end[0])
        if request.stop:
            settings |= {"stop_strings": list(request.stop), "tokenizer": self._tokenizer}
        device = self._lm.device
        with torch.inference_mode():
            sequences = self._lm.generate(
                input_ids=torch.tensor(rows, device=device),
                attention_mask=torch.tensor(mask, device=device),
                max_new_tokens=min(request.max_tokens, self._context - longest),
                pad_token_id=end[0],
                eos_token_id=end,
                **settings,
            )
        generated = sequences[:, longest:].tolist()
        seconds = time.perf_counter() - started
        completions = []
        for i, job in enumerate(batch):
            choices = tuple(
                self._to_generation(ids, end, request) for ids in generated[i * request.n : (i + 1) * request.n]
            )
            tokens = sum(len(c.token_ids) for c in choices)
            completions.append(Completion(choices, Usage(len(job.ids), 0, tokens, seconds / len(batch))))
        return completions

    def _to_generation(self, ids: list[int], end: list[int], request: Request) -> Generation:
        stop = next((i for i, token in enumerate(ids) if token in end), None)
        ids = ids if stop is None else ids[: stop + 1]
        text = self._tokenizer.decode(ids, skip_special_tokens=True)
        cut = min((text.index(s) for s in request.stop if s in text), default=None)
        finished = stop is not None or cut is not None or bool(request.choice and text in request.choice)
        finish = "stop" if finished else "length"
        return Generation(text[:cut], finish, tuple(ids), in_thought=self.begins_in_thought(request))

    def _end_ids(self) -> list[int]:
        ends = self._end if self._end is not None else self._tokenizer.eos_token_id
        return list(ends) if isinstance(ends, list | tuple) else [int(ends)]

    def _allowed_tokens(self, choice: tuple[str, ...], start: int, end: int) -> Callable[[int, Any], list[int]]:
        """The `prefix_allowed_tokens_fn` that limits what is generated from position `start` on to the choices."""
        choice_ids = [plain_ids(self._tokenizer, label) for label in choice]

        def allowed(_: int, sequence: Any) -> list[int]:
            generated = sequence.tolist()[start:]
            length = len(generated)
            following = {ids[length] for ids in choice_ids if len(ids) > length and ids[:length] == generated}
            return sorted(following | ({end} if generated in choice_ids else set())) or [end]

        return allowed

    async def likelihood(self, before: list[int], after: list[int]) -> LogLikelihood:
        if len(before) + len(after) > self._context:
            raise RequestFailed("too-long", f"{len(before) + len(after)} tokens in a context of {self._context}")
        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, self._sum_logprobs, before, after)
        except RuntimeError as error:
            raise RequestFailed.from_error(error) from error

    async def log_likelihoods(
        self,
        messages: tuple[Message, ...],
        prefix: str,
        continuations: tuple[str, ...],
        partial: Generation | None = None,
    ) -> list[LogLikelihood]:
        # One forward pass for each distinct beginning of the continuations: a single one where all are one token.
        before = self.token_ids(messages, prefix, partial, answer=True)
        continuation_ids = [tuple(plain_ids(self._tokenizer, continuation)) for continuation in continuations]
        longest = len(before) + max(map(len, continuation_ids))
        if longest > self._context:
            raise RequestFailed("too-long", f"{longest} tokens in a context of {self._context}")
        loop = asyncio.get_running_loop()
        try:
            return await loop.run_in_executor(self._thread, self._label_logprobs, before, continuation_ids)
        except RuntimeError as error:
            raise RequestFailed.from_error(error) from error

    def _label_logprobs(self, before: list[int], continuations: list[tuple[int, ...]]) -> list[LogLikelihood]:
        import torch

        started = time.perf_counter()
        logprobs: dict[tuple[int, ...], dict[int, float]] = {}
        tokens = 0
        for beginning, following in next_token_sets(continuations).items():
            ids = torch.tensor([[*before, *beginning]], device=self._lm.device)
            with torch.inference_mode():
                row = self._lm(ids, logits_to_keep=1).logits[0, -1].float().log_softmax(-1)
            chosen = sorted(following)
            logprobs[beginning] = dict(zip(chosen, row[chosen].tolist(), strict=True))
            tokens += ids.shape[1]
        usage = Usage(tokens, 0, 0, time.perf_counter() - started)
        totals = [sum(logprobs[ids[:i]][ids[i]] for i in range(len(ids))) for ids in continuations]
        # The first carries the usage of all.
        usages = [usage] + [Usage()] * (len(continuations) - 1)
        return [LogLikelihood(t, len(i), u) for t, i, u in zip(totals, continuations, usages, strict=True)]

    def _sum_logprobs(self, before: list[int], after: list[int]) -> LogLikelihood:
        import torch

        started = time.perf_counter()
        ids = torch.tensor([before + after], device=self._lm.device)
        with torch.inference_mode():
            logits = self._lm(ids, logits_to_keep=len(after) + 1).logits[0, :-1].float()
        picked = logits.log_softmax(-1).gather(1, ids[0, len(before) :, None])
        usage = Usage(ids.shape[1], 0, 0, time.perf_counter() - started)
        return LogLikelihood(float(picked.sum()), len(after), usage)

    def close(self) -> None:
        import torch

        self._thread.shutdown(wait=False, cancel_futures=True)
        self._lm = None
        if torch.cuda.is_available():  # torch keeps freed memory, which a training or another engine needs
            gc.collect()
            torch.cuda.empty_cache()
