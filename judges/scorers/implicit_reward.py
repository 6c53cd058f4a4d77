"""The implicit reward of a DPO-trained model (Rafailov et al. 2023, arXiv 2305.18290)."""

from __future__ import annotations

import asyncio
import math
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from judges.engines.base import Engine, RequestFailed
from judges.engines.chat_template import chat_ids
from judges.engines.concurrency import map_unordered
from judges.engines.embedded import resolve_model
from judges.engines.registry import ENGINE_PREFIX, EngineHandle
from judges.errors import CannotRun
from judges.scorer import Scorer, softmax_preference
from judges.types import REAL_LINE, Failure, Item, Judgment, Message, Scorecard, Usage

NO_REFERENCE = "none"
PROBE: tuple[Message, ...] = (
    {"role": "user", "content": "How many are 12 + 30? 一共多少?"},
    {"role": "assistant", "content": "They are 42.\n\n\tdef f(x): return x  # 🙂"},
    {"role": "user", "content": "Thanks!"},
)


class ImplicitReward(Scorer):
    """β·(log π(y|x) − log π_ref(y|x)), any real number, summed over the response's tokens and its end of turn.

    `model` is the policy π that DPO trained, `reference` the model it started from. The paper's reward has another
    term that depends on the prompt only and cancels between responses of one prompt, so rewards of different prompts
    are not on one scale. `preference` is the softmax of the rewards; for two it is the paper's σ of their difference.

    `normalise` divides by the number of tokens, so that a reward does not grow with the response's length.
    `reference="none"` scores by β·log π alone, which RewardBench calls reference-free (its "sum", its "avg" with
    `normalise`); shorter responses are more likely, so expect a length bias.

    Each judgment's `readings` have both log-likelihoods, in nats. A control string in the data is plain text, except
    with engine=openai, where the server tokenizes. `window` bounds the responses in flight; any `engine.KEY` goes to
    both engines; `reference_base_url` is the reference's server if it is another one.
    """

    name = "implicit-reward"
    scale = REAL_LINE

    def __init__(
        self,
        model: str = "",
        reference: str = "",
        beta: float = 0.1,
        normalise: bool = False,
        engine: str = "",
        window: int = 32,
        base_url: str = "",
        reference_base_url: str = "",
        api_key: str = "",
        **engine_settings: Any,
    ) -> None:
        if not model:
            raise CannotRun(f"scorer {self.name!r} needs model=, the policy that DPO trained")
        if not reference:
            raise CannotRun(
                f"scorer {self.name!r} needs reference=, the model that DPO started from"
                f" (or reference={NO_REFERENCE} to score by log π alone)"
            )
        if not beta > 0 or not math.isfinite(beta):
            raise CannotRun(f"scorer {self.name!r}: beta is above 0, not {beta}")
        if window < 1:
            raise CannotRun(f"scorer {self.name!r}: window is at least 1")
        self.model, self.reference, self.beta, self.normalise = model, reference, beta, normalise
        self.window = window
        servers = [(model, base_url)]
        if reference != NO_REFERENCE:
            servers.append((reference, reference_base_url or base_url))
        user = f"scorer {self.name!r}"
        self._handles = [
            EngineHandle(user, type(self), m, engine, url, api_key, settings=engine_settings) for m, url in servers
        ]
        self._kind = self._handles[0].kind
        self._identities = [handle.identity() for handle in self._handles]
        if self._identities[1:] == self._identities[:1]:
            raise CannotRun(f"scorer {self.name!r}: model and reference are both {model!r}: every reward would be 0")
        self._engines: list[Engine] = []

    @property
    def engines(self) -> list[Engine]:
        """The policy's engine and the reference's, opened when first needed. Raises CannotRun."""
        if not self._engines:
            if self._kind != "openai":
                check_same_tokenization(self.model, self._handles[-1].model)
            if self._kind != "openai" and len(self._handles) == 2:
                self._warn_of_memory()
            try:
                self._engines = [handle.engine for handle in self._handles]
            except BaseException:
                self.close()
                raise
        return self._engines

    def _warn_of_memory(self) -> None:
        sizes = ", ".join(f"{handle.model} with {_weights_size(handle.model)}" for handle in self._handles)
        advice = ""
        if self._kind == "vllm":
            advice = (
                "; each vLLM engine also has a cache of its own: where two do not fit,"
                f" set {ENGINE_PREFIX}gpu_memory_utilization below half"
            )
        warnings.warn(f"{self.name} holds two models in two engines: {sizes}{advice}", stacklevel=3)

    def use_store(self, path: Path) -> None:
        """Keep every log-likelihood in this store, and read it from there (before the engines are opened)."""
        for handle in self._handles:
            handle.use_store(path)

    def reread(self, path: Path) -> None:
        """Read log-likelihoods from this store alone, without a model."""
        for handle in self._handles:
            handle.reread(path)

    def identity(self) -> dict[str, Any]:
        policy, *reference = self._identities
        return policy | {
            "scorer": self.name,
            "reference": self.reference,
            "reference_revision": reference[0]["revision"] if reference else None,
            "reference_engine_settings": reference[0]["engine_settings"] if reference else None,
            "beta": self.beta,
            "normalise": self.normalise,
        }

    def stream(self, items: Iterable[Item]) -> Iterator[Scorecard]:
        _ = self.engines
        return map_unordered(items, self.score_item, self.window, lambda item: len(item.responses))

    async def score_item(self, item: Item) -> Scorecard:
        """Score all responses of an Item concurrently."""
        judgments = await asyncio.gather(*(self.judge(item, response) for response in item.responses))
        return Scorecard(item.id, tuple(judgments), preference=softmax_preference(judgments))

    async def judge(self, item: Item, response: str) -> Judgment:
        if not response.strip():
            return Judgment(failure=Failure("empty", "the response is empty"))
        requests = [engine.response_log_likelihood(item.messages, response) for engine in self.engines]
        results = await asyncio.gather(*requests, return_exceptions=True)
        for error in results:
            if isinstance(error, RequestFailed):
                billed = [result.usage for result in results if not isinstance(result, BaseException)]
                billed += [result.usage for result in results if isinstance(result, RequestFailed)]
                return Judgment(failure=error.failure, usage=sum(billed, Usage()))
            if isinstance(error, BaseException):
                raise error
        logs = [result for result in results if not isinstance(result, BaseException)]
        usage = sum((log.usage for log in logs), Usage())
        readings: dict[str, float | Failure] = {
            name: log.total for name, log in zip(("policy", "reference"), logs, strict=False)
        }
        tokens = logs[0].tokens
        if any(log.tokens != tokens for log in logs):
            counts = f"{tokens} tokens for the policy and {logs[1].tokens} for the reference"
            failure = Failure("engine", f"the response is {counts}: their log-likelihoods are not comparable")
            return Judgment(failure=failure, readings=readings, usage=usage)
        if not all(math.isfinite(log.total) for log in logs):
            totals = ", ".join(str(log.total) for log in logs)
            return Judgment(failure=Failure("engine", f"a log-likelihood is not finite: {totals}"), usage=usage)
        ratio = logs[0].total - (logs[1].total if len(logs) > 1 else 0.0)
        score = self.beta * (ratio / tokens if self.normalise else ratio)
        return Judgment(score=score, read="reward", readings=readings, usage=usage)

    def close(self) -> None:
        self._engines = []
        for handle in self._handles:
            handle.close()


def check_same_tokenization(policy: str, reference: str) -> None:
    """Raise CannotRun unless two models tokenize a conversation alike; else their log-likelihoods are not comparable.

    Tokens that only one of them added (a pad token) do not matter.
    """
    from transformers import AutoTokenizer

    pair = []
    for model in (policy, reference):
        try:
            pair.append(AutoTokenizer.from_pretrained(resolve_model(model)))
        except (OSError, ValueError) as error:
            raise CannotRun(f"transformers could not load the tokenizer of {model!r}: {error}") from error
    vocabularies = [tokenizer.get_vocab() for tokenizer in pair]
    added = {str(token) for tokenizer in pair for token in tokenizer.added_tokens_decoder.values()}
    differing = sorted({token for token, _ in vocabularies[0].items() ^ vocabularies[1].items()})
    shared = vocabularies[0].keys() & vocabularies[1].keys()
    if wrong := [token for token in differing if token in shared or token not in added]:
        raise CannotRun(
            f"{policy!r} and {reference!r} do not share a vocabulary ({len(wrong)} tokens differ, {wrong[0]!r} is the"
            " first): their log-likelihoods are not comparable; set reference= to the model that DPO started from"
        )
    if chat_ids(pair[0], PROBE) != chat_ids(pair[1], PROBE):
        raise CannotRun(
            f"the chat templates of {policy!r} and {reference!r} differ, so that one conversation has two texts;"
            " copy the policy's tokenizer files to the reference's weights"
        )


def _weights_size(model: str) -> str:
    """The size of a model's weights, if they are on this machine."""
    folder = Path(resolve_model(model))
    size = sum(file.stat().st_size for file in folder.glob("*.safetensors")) if folder.is_dir() else 0
    return f"{size / 2**30:.2f} GiB of weights" if size else "weights from the hub"
