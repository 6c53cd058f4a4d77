"""transformers' generate, where vLLM is not installed: the same contract, slower."""

from __future__ import annotations

import asyncio
import gc
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from judges.engines.base import Completion, Generation, LogLikelihood, Request, RequestFailed
from judges.engines.chat_template import plain_ids
from judges.engines.embedded import fingerprint, resolve_model
from judges.engines.local import LocalEngine
from judges.errors import CannotRun
from judges.types import Usage


def _limits(waiting: tuple[Request, list[int], Any]) -> tuple[int, int | None]:
    return waiting[0].max_tokens, waiting[0].logprobs


class TransformersEngine(LocalEngine):
    """Greedy requests that wait together run as one padded batch; a seeded one runs alone, as its seed asks."""

    name = "transformers"

    def __init__(self, model: str, dtype: str = "auto", batch_size: int = 16, **unknown: Any) -> None:
        if unknown:
            raise CannotRun(
                f"engine transformers has no setting {', '.join(unknown)}; dtype and batch_size are its own"
            )
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer

        self.model = model
        self._dtype = dtype
        self._batch_size = batch_size
        path = resolve_model(model)
        self._revision = fingerprint(path)
        try:
            self._tokenizer = AutoTokenizer.from_pretrained(path)
            self._lm = AutoModelForCausalLM.from_pretrained(path, dtype=dtype, use_safetensors=True).eval()
        except (OSError, ValueError) as error:
            raise CannotRun(f"transformers could not load {model!r}: {str(error).splitlines()[0]}") from error
        if torch.cuda.is_available():
            self._lm.to("cuda")
        self._context = int(self._lm.config.max_position_embeddings)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="assay-transformers")
        self._waiting: list[tuple[Request, list[int], asyncio.Future[Completion]]] = []
        self._busy = False

    def identity(self) -> dict[str, Any]:
        return super().identity() | {"revision": self._revision, "dtype": self._dtype}

    async def complete(self, request: Request) -> Completion:
        if request.schema:
            raise CannotRun("engine transformers cannot limit a completion to JSON: read by text, or use vllm")
        ids = self.token_ids(request.messages, request.prefix, request.partial)
        if len(ids) >= self._context:
            raise RequestFailed(
                "too-long", f"the prompt has {len(ids)} tokens, the model's context holds {self._context}"
            )
        done: asyncio.Future[Completion] = asyncio.get_running_loop().create_future()
        self._waiting.append((request, ids, done))
        if not self._busy:
            self._busy = True
            asyncio.get_running_loop().create_task(self._drain())
        return await done

    async def _drain(self) -> None:
        running = asyncio.get_running_loop()
        try:
            await asyncio.sleep(0.005)  # requests issued together arrive together
            while self._waiting:
                batch = self._next_batch()
                try:
                    completions = await running.run_in_executor(self._thread, self._generate, batch)
                except Exception as error:  # whatever it is, those who wait must hear of it
                    failed = RequestFailed("engine", (str(error) or type(error).__name__).splitlines()[0])
                    for _, _, done in batch:
                        if not done.done():
                            done.set_exception(failed)
                    continue
                for (_, _, done), completion in zip(batch, completions, strict=True):
                    if not done.done():
                        done.set_result(completion)
        finally:
            self._busy = False

    def _next_batch(self) -> list[tuple[Request, list[int], asyncio.Future[Completion]]]:
        first = self._waiting[0]
        alike = [
            w for w in self._waiting if self._together(first) and self._together(w) and _limits(w) == _limits(first)
        ]
        batch = alike[: self._batch_size] or [first]
        self._waiting = [w for w in self._waiting if w not in batch]
        return batch

    def _together(self, waiting: tuple[Request, list[int], Any]) -> bool:
        request, ids, _ = waiting
        greedy = request.temperature == 0 and not request.choice and not request.stop and request.n == 1
        # One near the end of the context would cut its neighbours short.
        return greedy and len(ids) + request.max_tokens <= self._context

    def _generate(self, batch: list[tuple[Request, list[int], Any]]) -> list[Completion]:
        import torch

        started = time.perf_counter()
        request = batch[0][0]
        longest = max(len(ids) for _, ids, _ in batch)
        end = self._ends()
        rows = [[end[0]] * (longest - len(ids)) + ids for _, ids, _ in batch]
        mask = [[0] * (longest - len(ids)) + [1] * len(ids) for _, ids, _ in batch]
        settings: dict[str, Any] = {"do_sample": request.temperature > 0, "num_return_sequences": request.n}
        if request.temperature > 0:
            settings |= {"temperature": request.temperature, "top_p": request.top_p, "top_k": 0}
            torch.manual_seed(request.seed if request.seed is not None else 0)
        if request.choice:
            settings["prefix_allowed_tokens_fn"] = self._only(request.choice, longest, end[0])
        if request.stop:
            settings |= {"stop_strings": list(request.stop), "tokenizer": self._tokenizer}
        device = self._lm.device
        with torch.inference_mode():
            out = self._lm.generate(
                input_ids=torch.tensor(rows, device=device),
                attention_mask=torch.tensor(mask, device=device),
                max_new_tokens=min(request.max_tokens, self._context - longest),
                pad_token_id=end[0],
                eos_token_id=end,
                output_logits=request.logprobs is not None,
                return_dict_in_generate=True,
                **settings,
            )
        new = out.sequences[:, longest:].tolist()
        seconds = time.perf_counter() - started
        completions = []
        for place, (_, ids, _) in enumerate(batch):
            choices = tuple(
                self._generated(new[place * request.n + k], end, out, place * request.n + k, request)
                for k in range(request.n)
            )
            tokens = sum(len(c.token_ids) for c in choices)
            completions.append(Completion(choices, Usage(len(ids), 0, tokens, seconds / len(batch))))
        return completions

    def _generated(self, ids: list[int], end: list[int], out: Any, row: int, request: Request) -> Generation:
        stop = next((place for place, token in enumerate(ids) if token in end), None)
        kept = ids if stop is None else ids[: stop + 1]
        text = self._tokenizer.decode(kept, skip_special_tokens=True)
        cut = min((text.index(s) for s in request.stop if s in text), default=None)
        logprobs = None
        if request.logprobs is not None:
            logprobs = tuple(self._top(out.logits[p][row], request.logprobs, kept[p]) for p in range(len(kept)))
        finished = stop is not None or cut is not None or bool(request.choice and text in request.choice)
        return Generation(text[:cut], "stop" if finished else "length", tuple(kept), logprobs)

    def _top(self, logits: Any, count: int, sampled: int) -> dict[str, float]:
        values = logits.float().log_softmax(-1)
        best = values.topk(max(count, 1)).indices.tolist()
        return {self._tokenizer.decode([i]): float(values[i]) for i in {*best[:count], sampled}}

    def _ends(self) -> list[int]:
        ends = self._lm.generation_config.eos_token_id
        if ends is None:
            ends = self._tokenizer.eos_token_id
        return list(ends) if isinstance(ends, list | tuple) else [int(ends)]

    def _only(self, choice: tuple[str, ...], start: int, end: int) -> Any:
        spelled = [plain_ids(self._tokenizer, label) for label in choice]

        def allowed(_: int, so_far: Any) -> list[int]:
            done = so_far.tolist()[start:]
            following = {s[len(done)] for s in spelled if len(s) > len(done) and s[: len(done)] == done}
            return sorted(following | ({end} if done in spelled else set())) or [end]

        return allowed

    async def likelihood(self, before: list[int], after: list[int]) -> LogLikelihood:
        if len(before) + len(after) > self._context:
            raise RequestFailed("too-long", f"{len(before) + len(after)} tokens in a context of {self._context}")
        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, self._read, before, after)
        except RuntimeError as error:
            raise RequestFailed("engine", (str(error) or "out of memory").splitlines()[0]) from error

    def _read(self, before: list[int], after: list[int]) -> LogLikelihood:
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
        if torch.cuda.is_available():  # torch keeps what was freed; a training or another engine needs it
            gc.collect()
            torch.cuda.empty_cache()
