"""What a DPO-trained model prefers, without a reward head (Rafailov et al. 2023, arXiv 2305.18290)."""

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

    `model` is the policy π that DPO trained, `reference` the model it started from. The paper's reward holds
    one more term that depends on the prompt alone: it falls out between responses of one prompt, so rewards
    of different prompts are not on one scale. `preference` is the softmax of the rewards, which for two is
    the paper's σ of their difference.

    `normalise` divides by the number of tokens, so that a reward is a mean and longer responses do not move
    it further. `reference="none"` scores by β·log π alone: what RewardBench calls reference-free (its "sum",
    its "avg" with `normalise`); shorter responses are likelier, so expect a length bias.

    Each judgment's `readings` hold both log-likelihoods, in nats. A control string in the data stays plain
    text, except with engine=openai, where the server tokenizes. `window` is the most responses in flight;
    any `engine.KEY` goes to both engines as it is; `reference_base_url` is the reference's server where that
    is another one.
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
        # What it is scored by, the policy first.
        wanted = [(model, base_url)]
        if reference != NO_REFERENCE:
            wanted.append((reference, reference_base_url or base_url))
        user = f"scorer {self.name!r}"
        self._holds = [EngineHandle(user, m, engine, url, api_key, settings=engine_settings) for m, url in wanted]
        self._kind = self._holds[0].kind
        self._identities = [hold.identity() for hold in self._holds]
        if self._identities[1:] == self._identities[:1]:
            raise CannotRun(f"scorer {self.name!r}: model and reference are both {model!r}: every reward would be 0")
        self._engines: list[Engine] = []

    @property
    def engines(self) -> list[Engine]:
        """The policy's engine and the reference's, opened when first needed. Raises CannotRun."""
        if not self._engines:
            if self._kind != "openai":
                check_alike(self.model, self._holds[-1].model)
            if self._kind != "openai" and len(self._holds) == 2:
                self._tell_memory()
            try:
                self._engines = [hold.engine for hold in self._holds]
            except BaseException:
                self.close()
                raise
        return self._engines

    def _tell_memory(self) -> None:
        sizes = ", ".join(f"{hold.model} with {_weights(hold.model)}" for hold in self._holds)
        more = ""
        if self._kind == "vllm":
            more = (
                "; each vLLM engine also takes a cache of its own: where two do not fit,"
                f" set {ENGINE_PREFIX}gpu_memory_utilization below half"
            )
        warnings.warn(f"{self.name} holds two models in two engines: {sizes}{more}", stacklevel=3)

    def remember(self, path: Path) -> None:
        """Keep every log-likelihood in this store, and read it from there (before the engines are opened)."""
        for hold in self._holds:
            hold.remember(path)

    def reread(self, path: Path) -> None:
        """Read log-likelihoods from this store alone, without a model."""
        for hold in self._holds:
            hold.reread(path)

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
        return map_unordered(items, self.card, self.window, lambda item: len(item.responses))

    async def card(self, item: Item) -> Scorecard:
        """Score every response of an Item at once."""
        judgments = await asyncio.gather(*(self.judge(item, response) for response in item.responses))
        return Scorecard(item.id, tuple(judgments), preference=softmax_preference(judgments))

    async def judge(self, item: Item, response: str) -> Judgment:
        if not response.strip():
            return Judgment(failure=Failure("empty", "the response is empty"))
        asked = [engine.response_log_likelihood(item.messages, response) for engine in self.engines]
        told = await asyncio.gather(*asked, return_exceptions=True)
        for error in told:
            if isinstance(error, RequestFailed):
                return Judgment(failure=error.failure)
            if isinstance(error, BaseException):
                raise error
        found = [t for t in told if not isinstance(t, BaseException)]
        usage = sum((f.usage for f in found), Usage())
        readings: dict[str, float | Failure] = {
            name: f.total for name, f in zip(("policy", "reference"), found, strict=False)
        }
        tokens = found[0].tokens
        if any(f.tokens != tokens for f in found):
            other = f"{tokens} tokens for the policy and {found[1].tokens} for the reference"
            failure = Failure("engine", f"the response is {other}: their sums do not compare")
            return Judgment(failure=failure, readings=readings, usage=usage)
        if not all(math.isfinite(f.total) for f in found):
            failure = Failure("engine", f"a log-likelihood is not finite: {', '.join(str(f.total) for f in found)}")
            return Judgment(failure=failure, usage=usage)
        ratio = found[0].total - (found[1].total if len(found) > 1 else 0.0)
        score = self.beta * (ratio / tokens if self.normalise else ratio)
        return Judgment(score=score, read="reward", readings=readings, usage=usage)

    def close(self) -> None:
        self._engines = []
        for hold in self._holds:
            hold.close()


def check_alike(policy: str, reference: str) -> None:
    """Raise CannotRun unless two models turn a conversation into the same ids: else their sums do not compare.

    Tokens that only one of them added (a pad token) are no difference.
    """
    from transformers import AutoTokenizer

    pair = []
    for model in (policy, reference):
        try:
            pair.append(AutoTokenizer.from_pretrained(resolve_model(model)))
        except (OSError, ValueError) as error:
            raise CannotRun(f"transformers could not load the tokenizer of {model!r}: {error}") from error
    words = [tokenizer.get_vocab() for tokenizer in pair]
    added = {str(token) for tokenizer in pair for token in tokenizer.added_tokens_decoder.values()}
    apart = sorted({word for word, _ in words[0].items() ^ words[1].items()})
    both = words[0].keys() & words[1].keys()
    if wrong := [word for word in apart if word in both or word not in added]:
        raise CannotRun(
            f"{policy!r} and {reference!r} do not share a vocabulary ({len(wrong)} tokens differ, {wrong[0]!r} the"
            " first): their log-likelihoods do not compare; give the model that the policy was trained from"
        )
    if chat_ids(pair[0], PROBE) != chat_ids(pair[1], PROBE):
        raise CannotRun(
            f"the chat templates of {policy!r} and {reference!r} differ: the same conversation would be two texts;"
            " put the policy's tokenizer files beside the reference's weights"
        )


def _weights(model: str) -> str:
    """How large a model's weights are, where they lie on this machine."""
    folder = Path(resolve_model(model))
    size = sum(file.stat().st_size for file in folder.glob("*.safetensors")) if folder.is_dir() else 0
    return f"{size / 2**30:.2f} GiB of weights" if size else "weights from the hub"
