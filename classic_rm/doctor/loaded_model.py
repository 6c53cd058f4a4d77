"""`LoadedModel`, the model that the doctor examines: loaded with transformers and its own tokenizer, unchanged."""

from __future__ import annotations

import gc
import math
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations
from pathlib import Path
from typing import Any, Literal

import torch

from classic_rm.data import EncodedResponse, encode
from classic_rm.doctor.texts import CONVERSATIONS, SHORT
from classic_rm.ensemble import ensemble_members
from classic_rm.model import pad_rows, quiet_loading, quiet_transformers, read_statistics, reads_last_token
from judges.engines.embedded import resolve_model
from judges.errors import CannotRun
from judges.types import Message

Level = Literal["ok", "note", "warning", "fault"]

SHORT_SECONDS = 8.0  # the time for all short texts; a slow model scores fewer of them
PAIRS = "pairs in another order"


@dataclass(frozen=True, slots=True)
class Finding:
    """The result of one check: its severity, a message with what was measured, and advice on what to do."""

    check: str
    level: Level
    message: str
    advice: str = "Nothing."


@dataclass(frozen=True, slots=True)
class Shift:
    """The difference between two outputs for the same texts.

    `largest` is the largest absolute difference, `spread` the range of the outputs that it is compared with. `changed`
    counts the pairs whose order differs, or the first tokens that differ, out of `total`; `unit` says which.
    """

    largest: float
    spread: float
    changed: int
    total: int
    unit: str

    @property
    def share(self) -> float:
        """The largest difference as a share of the spread."""
        if not self.largest:
            return 0.0
        return self.largest / self.spread if self.spread else math.inf

    @property
    def level(self) -> Level:
        """A thousandth of the spread is negligible; a tenth of it decides close pairs."""
        if not self.share <= 0.1:  # also nan
            return "fault"
        return "ok" if self.share <= 1e-3 else "note" if self.share <= 1e-2 else "warning"

    def __str__(self) -> str:
        """
        >>> print(Shift(0.5, 2.0, 3, 28, PAIRS))
        by up to 0.5, 25 % of their spread (3 of 28 pairs in another order)
        """
        if not self.largest:
            return "not at all"
        percent = 100 * self.share
        part = f", {percent:.2g} % of their spread" if percent < 10 else f", {percent:,.0f} % of their spread"
        return f"by up to {self.largest:.2g}{part * (self.unit == PAIRS)} ({self.changed} of {self.total} {self.unit})"


def measure_shift(before: Sequence[float], after: Sequence[float]) -> Shift:
    """Compare two lists of rewards of the same texts.

    >>> measure_shift([0.0, 1.0, 2.0], [0.0, 2.0, 1.5])
    Shift(largest=1.0, spread=2.0, changed=1, total=3, unit='pairs in another order')
    >>> measure_shift([0.0, 1.0], [0.5, 0.5]).changed  # a tie has no order
    1
    """
    pairs = list(combinations(range(len(before)), 2))
    flips = sum(_order(before[i] - before[j]) != _order(after[i] - after[j]) for i, j in pairs)
    largest = max((abs(a - b) for a, b in zip(before, after, strict=True)), default=0.0)
    return Shift(largest, max(before) - min(before), flips, len(pairs), PAIRS)


def _order(difference: float) -> int:
    return (difference > 0) - (difference < 0)


class ModelError(Exception):
    """The model raised an error; the message is its first line."""


@dataclass(frozen=True, slots=True)
class TokenRow:
    """The token ids of one text, and its token type ids where the tokenizer produces them."""

    ids: list[int]
    type_ids: list[int] | None = None


class LoadedModel:
    """A reward model or judge. The config and tokenizer are read at once, the weights by `load`.

    Raises CannotRun when there is no model of that name."""

    def __init__(self, name: str, remote_code: bool = False) -> None:
        from transformers import AutoConfig, AutoTokenizer

        self.name, self.remote_code = name, remote_code
        if members := ensemble_members(name):
            raise CannotRun(f"{name!r} is an ensemble: examine each member, starting with {members[0].name}")
        self.path = resolve_model(name)
        with quiet_loading(name, "--remote-code"):
            self.config: Any = AutoConfig.from_pretrained(self.path, trust_remote_code=remote_code)
            self.tokenizer: Any = AutoTokenizer.from_pretrained(self.path, trust_remote_code=remote_code)
        architectures = str(getattr(self.config, "architectures", None) or "")
        mapped = getattr(self.config, "auto_map", None) or {}
        self.custom_code = remote_code and "AutoModelForSequenceClassification" in mapped
        classifies = "SequenceClassification" in architectures or "AutoModelForSequenceClassification" in mapped
        self.is_judge = not classifies and any(
            word in architectures for word in ("CausalLM", "LMHead", "ConditionalGeneration")
        )
        self.statistics = read_statistics(self.path)  # of a model that Assay trained
        self.model: Any = None
        self.loading_info: dict[str, Any] = {}
        self.decoder = False

    @property
    def text_config(self) -> Any:
        return self.config.get_text_config()

    @property
    def positions(self) -> int | None:
        """The number of positions of the model; None where it has no limit."""
        positions = getattr(self.text_config, "max_position_embeddings", None)
        return int(positions) if positions and int(positions) > 0 else None

    def load(self) -> None:
        """Load the weights in the dtype of the checkpoint. Raises ModelError."""
        from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

        kind = AutoModelForCausalLM if self.is_judge else AutoModelForSequenceClassification
        with model_errors(), quiet_transformers():
            self.model, self.loading_info = kind.from_pretrained(
                self.path, dtype="auto", trust_remote_code=self.remote_code, output_loading_info=True
            )
        self.model.eval()
        if torch.cuda.is_available() and next(self.model.parameters()).device.type == "cpu":
            self.model.to("cuda")
        self.config = self.model.config
        self.decoder = not self.is_judge and reads_last_token(self.model)

    def free(self) -> None:
        """Release the weights."""
        if self.model is not None:
            self.model = None
            gc.collect()

    def encode_conversation(self, prompt: str, response: str) -> TokenRow:
        """Encode a finished conversation with the chat template, or in the tokenizer's form of pairs."""
        if self.tokenizer.chat_template:
            turns = [{"role": "user", "content": prompt}, {"role": "assistant", "content": response}]
            return TokenRow(self._apply_template(turns, False))
        if self.tokenizer.sep_token_id is not None:
            encoded = self.tokenizer(prompt, response)
            return TokenRow(list(encoded["input_ids"]), encoded.get("token_type_ids"))
        return TokenRow(self.assay_ids(prompt, response))

    def encode_prompt(self, prompt: str) -> TokenRow:
        """Encode a prompt up to the beginning of the assistant's turn."""
        if not self.tokenizer.chat_template:
            return TokenRow(list(self.tokenizer(prompt)["input_ids"]))
        return TokenRow(self._apply_template([{"role": "user", "content": prompt}], True))

    def _apply_template(self, turns: list[dict[str, str]], add_generation_prompt: bool) -> list[int]:
        """Raises ModelError for any error of the template."""
        with model_errors():
            encoded = self.tokenizer.apply_chat_template(
                turns, add_generation_prompt=add_generation_prompt, return_dict=True
            )
            return list(encoded["input_ids"])

    def assay_ids(self, prompt: str, response: str, max_length: int = 1_000_000) -> list[int]:
        """The token ids with which Assay scores the conversation; empty where it cannot."""
        messages: tuple[Message, ...] = ({"role": "user", "content": prompt},)
        encoded = encode(self.tokenizer, messages, response, max_length)
        return encoded.ids if isinstance(encoded, EncodedResponse) else []

    @cached_property
    def rows(self) -> list[TokenRow]:
        """The texts of most checks: conversations, or for a judge their prompts."""
        if self.is_judge:
            return [self.encode_prompt(prompt) for prompt, _ in CONVERSATIONS]
        return [self.encode_conversation(*pair) for pair in CONVERSATIONS]

    @cached_property
    def reference(self) -> Any:
        """The outputs that others are compared with: row by row without padding, read at the last token."""
        return self.run_unpadded(self.rows)

    def run_unpadded(self, rows: Sequence[TokenRow]) -> Any:
        """Outputs row by row without padding: rewards, or for a judge the log probabilities of the first token."""
        if self.is_judge:
            return self.first_token_log_probs(rows)
        with self._no_pad():
            return self.rewards(rows)

    @contextmanager
    def _no_pad(self) -> Iterator[None]:
        """Set a pad token that occurs in no text, so that transformers reads a decoder's last token."""
        previous = self.text_config.pad_token_id
        if self.decoder:
            self.text_config.pad_token_id = -1
        try:
            yield
        finally:
            self.text_config.pad_token_id = previous

    def shift_between(self, before: Sequence[TokenRow], after: Sequence[TokenRow]) -> Shift | None:
        """The difference between the outputs of two lists of rows; None without weights or when the model fails."""
        if self.model is None:
            return None
        try:
            return self.compare(self.run_unpadded(before), self.run_unpadded(after))
        except ModelError:
            return None

    def compare(self, before: Any, after: Any) -> Shift:
        """The difference between two outputs: rewards, or log probabilities of shape (rows, vocabulary)."""
        if not self.is_judge:
            return measure_shift(before, after)
        top = before.topk(10, dim=-1).indices
        largest = float((before.gather(1, top) - after.gather(1, top)).abs().max())
        flips = int((before.argmax(-1) != after.argmax(-1)).sum())
        return Shift(largest, 1.0, flips, len(before), "first tokens differ")

    def rewards(self, rows: Sequence[TokenRow], batch_size: int = 1, side: str = "right") -> list[float]:
        """The logit of the first label, in batches of rows in this order. Raises ModelError."""
        rewards: list[float] = []
        for start in range(0, len(rows), batch_size):
            batch = self._batch(rows[start : start + batch_size], side)
            rewards += self.logits(batch)[:, 0].tolist()
        return rewards

    def _batch(self, rows: Sequence[TokenRow], side: str) -> dict[str, torch.Tensor]:
        pad = self.tokenizer.pad_token_id
        if pad is None and len({len(row.ids) for row in rows}) > 1:
            raise ModelError("the tokenizer has no pad token")
        batch = pad_rows([row.ids for row in rows], pad or 0, side)
        if rows[0].type_ids is not None:
            batch["token_type_ids"] = pad_rows([row.type_ids or [] for row in rows], 0, side)["input_ids"]
        return batch

    def logits(self, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        """Shape (rows, labels). Raises ModelError."""
        device = next(self.model.parameters()).device
        with model_errors(), torch.inference_mode():
            output = self.model(**{name: tensor.to(device) for name, tensor in batch.items()})
            logits = getattr(output, "logits", None)
            if logits is None:
                logits = getattr(output, "score", None)
            if not isinstance(logits, torch.Tensor) or logits.dim() > 2:
                raise ModelError(f"its output ({type(output).__name__}) has no reward in logits or score")
            values: torch.Tensor = logits.float().cpu()
        return values if values.dim() == 2 else values[:, None]

    def first_token_log_probs(self, rows: Sequence[TokenRow], batch_size: int = 1, side: str = "left") -> torch.Tensor:
        """Log probabilities of the first generated token, shape (rows, vocabulary). Raises ModelError."""
        pad = self.tokenizer.pad_token_id
        pad = (self.tokenizer.eos_token_id or 0) if pad is None else pad
        log_probs = []
        for start in range(0, len(rows), batch_size):
            batch = pad_rows([row.ids for row in rows[start : start + batch_size]], pad, side)
            device = next(self.model.parameters()).device
            with model_errors(), torch.inference_mode():
                out = self.model.generate(
                    **{name: tensor.to(device) for name, tensor in batch.items()},
                    max_new_tokens=1,
                    do_sample=False,
                    pad_token_id=pad,
                    output_logits=True,
                    return_dict_in_generate=True,
                )
                log_probs.append(out.logits[0].float().log_softmax(-1).cpu())
        return torch.cat(log_probs)

    def score_short_texts(self, count: int | None = None) -> list[float]:
        """Rewards of `count` short texts, by default of all, or of fewer where the model is slow.

        Rows of equal length are batched together, so that none is padded."""
        rows = [self.encode_conversation(*pair) for pair in SHORT[::2] + SHORT[1::2]]  # mixes the languages
        if count is None:
            started = time.perf_counter()
            self.run_unpadded(rows[:4])
            seconds = (time.perf_counter() - started) / 4
            count = max(16, int(SHORT_SECONDS / max(seconds, 1e-6)))
        rows = rows[:count]
        rewards: dict[int, float] = {}
        with self._no_pad():
            for length in {len(row.ids) for row in rows}:
                indices = [i for i, row in enumerate(rows) if len(row.ids) == length]
                rewards.update(zip(indices, self.rewards([rows[i] for i in indices], 8), strict=True))
        return [rewards[i] for i in range(len(rows))]

    def upcast(self) -> bool:
        """Convert the weights to float32 in place. Returns False without enough memory, or for quantised weights."""
        if not fits_in_memory(4 * sum(p.numel() for p in self.model.parameters())):
            return False
        try:
            self.model.float()
        except ValueError:  # quantised weights
            return False
        return True


def fits_in_memory(size: int) -> bool:
    """Whether that many bytes of memory are free."""
    if torch.cuda.is_available():
        return size < int(0.9 * torch.cuda.mem_get_info()[0])
    try:
        return size < 0.8 * os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError):  # unknown on this system
        return size < 2**33


def count_stored_dtypes(path: str) -> dict[str, int]:
    """The number of elements of each dtype in the checkpoint's safetensors files; empty where there are none."""
    from safetensors import safe_open
    from transformers.utils import cached_file

    folder = Path(path)
    if not folder.is_dir():
        config = cached_file(path, "config.json", local_files_only=True)
        folder = Path(config).parent if config else folder
    counts: dict[str, int] = {}
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, "pt") as tensors:
            for key in tensors.keys():  # noqa: SIM118 - not a dict
                tensor = tensors.get_slice(key)
                counts[tensor.get_dtype()] = counts.get(tensor.get_dtype(), 0) + math.prod(tensor.get_shape())
    return counts


@contextmanager
def model_errors() -> Iterator[None]:
    """Raise any error of the model as a ModelError, since each is a finding about the model."""
    try:
        yield
    except ModelError:
        raise
    except Exception as error:
        raise ModelError(first_line(error)) from error


def first_line(error: Exception) -> str:
    """The first line of an error's message, at most 120 characters."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines or [type(error).__name__])[0][:120].rstrip(".")
