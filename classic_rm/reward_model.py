"""Token ids to raw rewards."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from typing import Any, Literal, Protocol

import torch

from classic_rm.data import Encoded, encode
from classic_rm.model import RewardNetwork, load_model, max_length_of, pad_rows
from classic_rm.prefix_sharing import allow_sharing, pack, share
from judges.types import Failure, Message

BATCH_TOKENS = 8192  # a packed batch of long prompts closes before it holds batch_size responses

Ids = Sequence[int]


class Rewards(Protocol):
    """What turns token ids into rewards: under transformers, in vLLM, or several models as one."""

    tokenizer: Any
    max_length: int

    def encode(self, messages: tuple[Message, ...], response: str) -> Encoded | Failure: ...

    def rewards(self, groups: Sequence[Sequence[Ids]]) -> list[list[tuple[float, ...]]]:
        """For each group of responses to one prompt, for each response, the reward of each member."""
        ...

    def close(self) -> None: ...


class RewardModel:
    """A one-label sequence classifier under transformers, without a sigmoid.

    Rewards do not depend on the batch, its order, or the padding side. A prompt is computed once for all its
    responses where the model allows it (`shares` says why not).
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
        loaded = self.network.plain
        # An encoder is read at its first token, which must then be the text's first: it is padded on the right.
        self.padding_side = padding_side if self.network.decoder else "right"
        limit = max_length_of(loaded, self.tokenizer)
        self.max_length = min(max_length, limit) if max_length else limit
        self._pad = self.tokenizer.pad_token_id
        if self._pad is None:
            self._pad = self.tokenizer.eos_token_id or 0
        classifier = isinstance(self.network, RewardNetwork)
        if classifier and self.network.decoder and self._pad == self.tokenizer.eos_token_id:
            warnings.warn(
                f"{model}: the pad token is also the end of turn; the reward is read at the last attended token,"
                " transformers itself reads the last token that is not the pad, so its rewards differ",
                stacklevel=2,
            )
        if torch.cuda.is_available():
            self.network.to("cuda")
        self._types = not self.network.decoder and "token_type_ids" in self.tokenizer.model_input_names
        self.shares = "asked not to" if not share_prompts else "it is an encoder"
        if share_prompts and self.network.decoder:
            self.shares = allow_sharing(loaded, self.max_length) or ""

    def _load(self, model: str, dtype: str, remote_code: bool) -> tuple[Any, Any]:
        """(network, tokenizer): the network gives rewards and the states they are read from."""
        loaded, tokenizer = load_model(model, dtype, remote_code)
        return RewardNetwork(loaded).eval(), tokenizer

    def encode(self, messages: tuple[Message, ...], response: str) -> Encoded | Failure:
        return encode(self.tokenizer, messages, response, self.max_length, self._add_bos)

    def rewards(self, groups: Sequence[Sequence[Ids]]) -> list[list[tuple[float, ...]]]:
        """For each group of responses to one prompt, for each response, the reward of each head."""
        found: list[list[tuple[float, ...]]] = [[] for _ in groups]
        with torch.inference_mode():
            if not self.shares:
                for places in self._packs(groups):
                    batch = pack([share(groups[i]) for i in places])
                    values = iter(self._run(batch))
                    for i in places:
                        found[i] = [next(values) for _ in groups[i]]
                return found
            flat = [(i, ids) for i, group in enumerate(groups) for ids in group]
            order = sorted(range(len(flat)), key=lambda k: -len(flat[k][1]))
            each: dict[int, tuple[float, ...]] = {}
            for start in range(0, len(order), self.batch_size):
                chunk = order[start : start + self.batch_size]
                batch = pad_rows([flat[k][1] for k in chunk], self._pad, self.padding_side)
                if self._types:
                    batch["token_type_ids"] = _second_part(batch["input_ids"], self.tokenizer.sep_token_id)
                each.update(zip(chunk, self._run(batch), strict=True))
            for k, (i, _) in enumerate(flat):
                found[i].append(each[k])
        return found

    def _packs(self, groups: Sequence[Sequence[Ids]]) -> Iterator[list[int]]:
        """Groups of which a batch is made: at least one, then up to batch_size responses and BATCH_TOKENS."""
        places: list[int] = []
        responses = tokens = 0
        for i, group in enumerate(groups):
            size = max(map(len, group), default=0) + sum(len(ids) for ids in group) // 2
            if places and (responses + len(group) > self.batch_size or tokens + size > BATCH_TOKENS):
                yield places
                places, responses, tokens = [], 0, 0
            if group:
                places.append(i)
                responses += len(group)
                tokens += size
        if places:
            yield places

    def _run(self, batch: dict[str, torch.Tensor]) -> list[tuple[float, ...]]:
        device = next(self.network.parameters()).device
        values, _ = self.network(**{name: tensor.to(device) for name, tensor in batch.items()})
        return [tuple(row) for row in values.tolist()]

    def close(self) -> None:
        """Free the weights."""
        del self.network


def _second_part(ids: torch.Tensor, sep: int) -> torch.Tensor:
    """Token types of "[CLS] prompt [SEP] response [SEP]": 1 behind the first separator."""
    before = (ids == sep).cumsum(1) - (ids == sep).long()
    return (before > 0).long()
