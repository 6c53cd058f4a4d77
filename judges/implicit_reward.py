"""What a DPO-trained model prefers, without a reward head (Rafailov et al. 2023, arXiv 2305.18290)."""

from __future__ import annotations

import asyncio
import math
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from judges.engines.base import Engine, RequestFailed
from judges.engines.chat import chat_ids
from judges.engines.embedded import fingerprint, resolve_model
from judges.engines.shared import default_engine, open_engine, release
from judges.engines.store import StoredEngine
from judges.errors import CannotRun
from judges.flight import in_flight
from judges.llm_judge import ENGINE_PREFIX
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
        if unknown := [key for key in engine_settings if not key.startswith(ENGINE_PREFIX)]:
            raise CannotRun(
                f"scorer {self.name!r} has no setting {', '.join(unknown)}"
                f" (the engines' own are written {ENGINE_PREFIX}{unknown[0]}=…)"
            )
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
        self._kind = engine or default_engine()
        shown = {key.removeprefix(ENGINE_PREFIX): value for key, value in engine_settings.items()}
        # What it is to be scored by: (model, settings of its engine), the policy first.
        self._wanted: list[tuple[str, dict[str, Any]]] = [(model, _with(shown, base_url))]
        if reference != NO_REFERENCE:
            self._wanted.append((reference, _with(shown, reference_base_url or base_url)))
        self._api_key = api_key
        if len(self._wanted) == 2 and self._wanted[0] == self._wanted[1]:
            raise CannotRun(f"scorer {self.name!r}: model and reference are both {model!r}: every reward would be 0")
        self._revisions = [None if self._kind == "openai" else fingerprint(resolve_model(m)) for m, _ in self._wanted]
        self._store: Path | None = None
        self._opened: list[Engine] = []
        self._stored: list[StoredEngine] = []

    @property
    def engines(self) -> list[Engine]:
        """The policy's engine and the reference's, opened when first needed. Raises CannotRun."""
        if not self._opened:
            if self._kind != "openai":
                check_alike(self.model, self._wanted[-1][0])
            if self._kind != "openai" and len(self._wanted) == 2:
                self._tell_memory()
            key = {"api_key": self._api_key} if self._api_key else {}
            try:
                for model, settings in self._wanted:
                    self._opened.append(open_engine(self._kind, model, **settings, **key))
                if self._store is not None:
                    self._stored += [StoredEngine(engine, self._store) for engine in self._opened]
            except BaseException:
                self.close()
                raise
        return list(self._stored or self._opened)

    def _tell_memory(self) -> None:
        sizes = ", ".join(f"{model} with {_weights(model)}" for model, _ in self._wanted)
        more = ""
        if self._kind == "vllm":
            more = (
                "; each vLLM engine also takes a cache of its own: where two do not fit,"
                f" set {ENGINE_PREFIX}gpu_memory_utilization below half"
            )
        warnings.warn(f"{self.name} holds two models in two engines: {sizes}{more}", stacklevel=3)

    def remember(self, path: Path) -> None:
        """Keep every log-likelihood in this store, and read it from there (before the engines are opened)."""
        self._store = path

    def identity(self) -> dict[str, Any]:
        policy, *reference = self._wanted
        return {
            "scorer": self.name,
            "model": self.model,
            "revision": self._revisions[0],
            "reference": self.reference,
            "reference_revision": self._revisions[1] if reference else None,
            "engine": self._kind,
            "engine_settings": policy[1],
            "reference_engine_settings": reference[0][1] if reference else None,
            "beta": self.beta,
            "normalise": self.normalise,
        }

    def stream(self, items: Iterable[Item]) -> Iterator[Scorecard]:
        _ = self.engines
        return in_flight(items, self.card, self.window, lambda item: len(item.responses))

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
        stored, opened = self._stored, self._opened
        self._stored, self._opened = [], []
        for kept in stored:
            kept.close()
        for engine in opened:
            release(engine)


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


def _with(settings: dict[str, Any], base_url: str) -> dict[str, Any]:
    return settings | {"base_url": base_url} if base_url else dict(settings)


def _weights(model: str) -> str:
    """How large a model's weights are, where they lie on this machine."""
    folder = Path(resolve_model(model))
    size = sum(file.stat().st_size for file in folder.glob("*.safetensors")) if folder.is_dir() else 0
    return f"{size / 2**30:.2f} GiB of weights" if size else "weights from the hub"
