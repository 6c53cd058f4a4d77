"""`RewardModel`, raw rewards from token ids with transformers, and `RewardBackend`, the interface of all backends."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from typing import Any, Literal, Protocol

import torch

from classic_rm.data import EncodedResponse, encode
from classic_rm.model import RewardNetwork, context_length, load_model, pad_rows
from classic_rm.prefix_sharing import enable_prefix_sharing, pack, split_prefix
from judges.types import Failure, Message

BATCH_TOKENS = 8192  # a packed batch may end before it has batch_size responses

TokenIds = Sequence[int]


class RewardBackend(Protocol):
    """Computes rewards from token ids: one model under transformers or vLLM, or an ensemble of models."""

    tokenizer: Any
    max_length: int

    def encode(self, messages: tuple[Message, ...], response: str) -> EncodedResponse | Failure: ...

    def rewards(self, groups: Sequence[Sequence[TokenIds]]) -> list[list[tuple[float, ...]]]:
        """Compute the reward of each response.

        `groups` has one list of token sequences for each prompt: the conversation with each of its responses. The
        result has the same form, with a tuple of one reward per head or ensemble member for each response."""
        ...

    def close(self) -> None: ...


class RewardModel:
    """A sequence classifier with one label under transformers, without a sigmoid.

    Rewards do not depend on the batch, its order, or the padding side. A prompt is computed once for all its
    responses where the model allows it; `unshared_reason` is empty then, and says otherwise why it does not.
    """

    def __init__(
        self,
        model: str,
        batch_size: int = 16,
        max_length: int | None = None,
        dtype: str = "float32",
        padding_side: Literal["left", "right"] = "right",
        remote_code: bool = False,
        share_prompts: bool = True,
        add_bos: bool = False,
    ) -> None:
        self.name = model
        self.batch_size = batch_size
        self._add_bos = add_bos
        self.network, self.tokenizer = self._load(model, dtype, remote_code)
        model_without_adapters = self.network.pretrained
        # An encoder is read at the first index, so it is padded on the right.
        self.padding_side = padding_side if self.network.decoder else "right"
        limit = context_length(model_without_adapters, self.tokenizer)
        self.max_length = min(max_length, limit) if max_length else limit
        self._pad = self.tokenizer.pad_token_id
        if self._pad is None:
            self._pad = self.tokenizer.eos_token_id or 0
        classifier = isinstance(self.network, RewardNetwork)
        if classifier and self.network.decoder and self._pad == self.tokenizer.eos_token_id:
            warnings.warn(
                f"{model}: the pad token is also the end of turn. Assay reads the reward at the last attended token,"
                " transformers at the last token that is not the pad token, so their rewards differ",
                stacklevel=2,
            )
        if torch.cuda.is_available():
            self.network.to("cuda")
        self._uses_token_types = not self.network.decoder and "token_type_ids" in self.tokenizer.model_input_names
        self.unshared_reason = "share_prompts is off" if not share_prompts else "it is an encoder"
        if share_prompts and self.network.decoder:
            self.unshared_reason = enable_prefix_sharing(model_without_adapters, self.max_length) or ""

    def _load(self, model: str, dtype: str, remote_code: bool) -> tuple[Any, Any]:
        """Load (network, tokenizer); the network returns rewards and the states that they are read from."""
        loaded, tokenizer = load_model(model, dtype, remote_code)
        return RewardNetwork(loaded).eval(), tokenizer

    def encode(self, messages: tuple[Message, ...], response: str) -> EncodedResponse | Failure:
        """Token ids of a conversation that ends with `response`; see `data.encode`."""
        return encode(self.tokenizer, messages, response, self.max_length, self._add_bos)

    def rewards(self, groups: Sequence[Sequence[TokenIds]]) -> list[list[tuple[float, ...]]]:
        """For each group of responses to one prompt, for each response, the reward of each head."""
        with torch.inference_mode():
            return self._padded_rewards(groups) if self.unshared_reason else self._packed_rewards(groups)

    def _packed_rewards(self, groups: Sequence[Sequence[TokenIds]]) -> list[list[tuple[float, ...]]]:
        result: list[list[tuple[float, ...]]] = [[] for _ in groups]
        for indices in self._plan_batches(groups):
            rewards = iter(self._run(pack([split_prefix(groups[i]) for i in indices])))
            for i in indices:
                result[i] = [next(rewards) for _ in groups[i]]
        return result

    def _padded_rewards(self, groups: Sequence[Sequence[TokenIds]]) -> list[list[tuple[float, ...]]]:
        rows = [(i, ids) for i, group in enumerate(groups) for ids in group]
        longest_first = sorted(range(len(rows)), key=lambda k: -len(rows[k][1]))
        rewards: dict[int, tuple[float, ...]] = {}
        for start in range(0, len(rows), self.batch_size):
            indices = longest_first[start : start + self.batch_size]
            batch = pad_rows([rows[k][1] for k in indices], self._pad, self.padding_side)
            if self._uses_token_types:
                batch["token_type_ids"] = _response_token_types(batch["input_ids"], self.tokenizer.sep_token_id)
            rewards.update(zip(indices, self._run(batch), strict=True))
        result: list[list[tuple[float, ...]]] = [[] for _ in groups]
        for k, (i, _) in enumerate(rows):
            result[i].append(rewards[k])
        return result

    def _plan_batches(self, groups: Sequence[Sequence[TokenIds]]) -> Iterator[list[int]]:
        """Indices of the groups of each batch: at least one, then up to batch_size responses and BATCH_TOKENS."""
        indices: list[int] = []
        responses = tokens = 0
        for i, group in enumerate(groups):
            size = max(map(len, group), default=0) + sum(len(ids) for ids in group) // 2
            if indices and (responses + len(group) > self.batch_size or tokens + size > BATCH_TOKENS):
                yield indices
                indices, responses, tokens = [], 0, 0
            if group:
                indices.append(i)
                responses += len(group)
                tokens += size
        if indices:
            yield indices

    def _run(self, batch: dict[str, torch.Tensor]) -> list[tuple[float, ...]]:
        device = next(self.network.parameters()).device
        values, _ = self.network(**{name: tensor.to(device) for name, tensor in batch.items()})
        return [tuple(row) for row in values.tolist()]

    def close(self) -> None:
        """Free the weights."""
        del self.network


def _response_token_types(ids: torch.Tensor, sep: int) -> torch.Tensor:
    """Token types of "[CLS] prompt [SEP] response [SEP]": 1 after the first separator."""
    separators_before = (ids == sep).cumsum(1) - (ids == sep).long()
    return (separators_before > 0).long()
