"""Token ids to raw rewards."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any, Literal

import torch

from classic_rm.data import Encoded, encode
from classic_rm.model import load_model, max_length_of, pad_rows, reads_last_token, rewards_of
from judges.types import Failure, Message


class RewardModel:
    """A one-label sequence classifier under transformers: rewards of token ids, without a sigmoid.

    Rewards do not depend on the batch, its order, or the padding side.
    """

    def __init__(
        self,
        model: str,
        batch_size: int = 16,
        max_length: int | None = None,
        dtype: str = "float32",
        padding_side: Literal["left", "right"] = "right",
    ) -> None:
        self.name = model
        self.batch_size = batch_size
        self.model, self.tokenizer = load_model(model, dtype)
        # An encoder is read at its first token, which must then be the text's first: it is padded on the right.
        self.padding_side = padding_side if reads_last_token(self.model) else "right"
        limit = max_length_of(self.model, self.tokenizer)
        self.max_length = min(max_length, limit) if max_length else limit
        self._pad = self.tokenizer.pad_token_id
        if self._pad is None:
            self._pad = self.tokenizer.eos_token_id or 0
        if reads_last_token(self.model) and self._pad == self.tokenizer.eos_token_id:
            warnings.warn(
                f"{model}: the pad token is also the end of turn; the reward is read at the last attended token,"
                " transformers itself reads the last token that is not the pad, so its rewards differ",
                stacklevel=2,
            )
        if torch.cuda.is_available():
            self.model.to("cuda")

    def encode(self, messages: tuple[Message, ...], response: str) -> Encoded | Failure:
        return encode(self.tokenizer, messages, response, self.max_length)

    def rewards(self, rows: Sequence[list[int]]) -> list[float]:
        """The reward of each row of ids, in their order; batches hold rows of like length."""
        order = sorted(range(len(rows)), key=lambda i: -len(rows[i]))
        found: list[Any] = [None] * len(rows)
        with torch.inference_mode():
            for start in range(0, len(order), self.batch_size):
                places = order[start : start + self.batch_size]
                ids, mask = pad_rows([rows[i] for i in places], self._pad, self.padding_side)
                device = self.model.device
                for place, value in zip(
                    places, rewards_of(self.model, ids.to(device), mask.to(device)).tolist(), strict=True
                ):
                    found[place] = value
        return found
