"""A model under examination, loaded and run as others would: plain transformers and the tokenizer as it comes."""

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

from classic_rm.data import Encoded, encode
from classic_rm.doctor.texts import CONVERSATIONS, SHORT
from classic_rm.ensemble import members_of
from classic_rm.model import pad_rows, read_statistics, reads_last_token
from judges.engines.embedded import resolve_model
from judges.errors import CannotRun
from judges.types import Message

Level = Literal["ok", "note", "warning", "fault"]

SHORT_SECONDS = 8.0  # a slow model is given fewer of them
PAIRS = "pairs in another order"


@dataclass(frozen=True, slots=True)
class Finding:
    """What one check measured, and what to do about it."""

    check: str
    level: Level
    what: str
    do: str = "Nothing."


@dataclass(frozen=True, slots=True)
class Moved:
    """How far two readings of the same texts lie apart. `spread` is what `largest` is held against."""

    largest: float
    spread: float
    changed: int
    of: int
    unit: str

    @property
    def share(self) -> float:
        if not self.largest:
            return 0.0
        return self.largest / self.spread if self.spread else math.inf

    @property
    def level(self) -> Level:
        """Below a thousandth of the spread nobody will notice; a tenth of it decides pairs."""
        if not self.share <= 0.1:  # nan too
            return "fault"
        return "ok" if self.share <= 1e-3 else "note" if self.share <= 1e-2 else "warning"

    def __str__(self) -> str:
        """
        >>> print(Moved(0.5, 2.0, 3, 28, PAIRS))
        by up to 0.5, 25 % of their spread (3 of 28 pairs in another order)
        """
        if not self.largest:
            return "not at all"
        percent = 100 * self.share
        part = f", {percent:.2g} % of their spread" if percent < 10 else f", {percent:,.0f} % of their spread"
        return f"by up to {self.largest:.2g}{part * (self.unit == PAIRS)} ({self.changed} of {self.of} {self.unit})"


def moved(before: Sequence[float], after: Sequence[float]) -> Moved:
    """Two lists of rewards for the same texts.

    >>> moved([0.0, 1.0, 2.0], [0.0, 2.0, 1.5])
    Moved(largest=1.0, spread=2.0, changed=1, of=3, unit='pairs in another order')
    >>> moved([0.0, 1.0], [0.5, 0.5]).changed  # a tie is no order
    1
    """
    pairs = list(combinations(range(len(before)), 2))
    flips = sum(_order(before[i] - before[j]) != _order(after[i] - after[j]) for i, j in pairs)
    largest = max((abs(a - b) for a, b in zip(before, after, strict=True)), default=0.0)
    return Moved(largest, max(before) - min(before), flips, len(pairs), PAIRS)


def _order(difference: float) -> int:
    return (difference > 0) - (difference < 0)


class Refused(Exception):
    """The model did not run; the message is its own first line."""


@dataclass(frozen=True, slots=True)
class Row:
    ids: list[int]
    types: list[int] | None = None


class Patient:
    """Config and tokenizer are read at once, the weights by `load`. Raises CannotRun where there is no model."""

    def __init__(self, name: str, remote_code: bool = False) -> None:
        from transformers import AutoConfig, AutoTokenizer

        self.name, self.remote_code = name, remote_code
        if members := members_of(name):
            raise CannotRun(f"{name!r} is an ensemble: examine its members one by one, {members[0].name} first")
        self.path = resolve_model(name)
        with reading(name):
            self.config: Any = AutoConfig.from_pretrained(self.path, trust_remote_code=remote_code)
            self.tokenizer: Any = AutoTokenizer.from_pretrained(self.path, trust_remote_code=remote_code)
        known = str(getattr(self.config, "architectures", None) or "")
        mapped = getattr(self.config, "auto_map", None) or {}
        self.own_code = remote_code and "AutoModelForSequenceClassification" in mapped
        classifies = "SequenceClassification" in known or "AutoModelForSequenceClassification" in mapped
        self.is_judge = not classifies and any(
            word in known for word in ("CausalLM", "LMHead", "ConditionalGeneration")
        )
        self.statistics = read_statistics(self.path)  # beside the weights of what Assay trained
        self.model: Any = None
        self.loading: dict[str, Any] = {}
        self.decoder = False

    @property
    def text_config(self) -> Any:
        return self.config.get_text_config()

    @property
    def positions(self) -> int | None:
        """Tokens that the model has positions for."""
        found = getattr(self.text_config, "max_position_embeddings", None)
        return int(found) if found and int(found) > 0 else None

    def load(self) -> None:
        """The weights, in the dtype that the checkpoint asks for. Raises Refused."""
        from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

        kind = AutoModelForCausalLM if self.is_judge else AutoModelForSequenceClassification
        with refusing(), quiet():
            self.model, self.loading = kind.from_pretrained(
                self.path, dtype="auto", trust_remote_code=self.remote_code, output_loading_info=True
            )
        self.model.eval()
        if torch.cuda.is_available() and next(self.model.parameters()).device.type == "cpu":
            self.model.to("cuda")
        self.config = self.model.config
        self.decoder = not self.is_judge and reads_last_token(self.model)

    def free(self) -> None:
        """Give the weights' memory back."""
        if self.model is not None:
            self.model = None
            gc.collect()

    def row(self, prompt: str, response: str) -> Row:
        """A finished conversation: through the template at once, or in the tokenizer's pair form."""
        if self.tokenizer.chat_template:
            turns = [{"role": "user", "content": prompt}, {"role": "assistant", "content": response}]
            return Row(self._templated(turns, False))
        if self.tokenizer.sep_token_id is not None:
            told = self.tokenizer(prompt, response)
            return Row(list(told["input_ids"]), told.get("token_type_ids"))
        return Row(self.encoded(prompt, response))

    def question(self, prompt: str) -> Row:
        """A prompt, ready for the model's turn."""
        if not self.tokenizer.chat_template:
            return Row(list(self.tokenizer(prompt)["input_ids"]))
        return Row(self._templated([{"role": "user", "content": prompt}], True))

    def _templated(self, turns: list[dict[str, str]], go_on: bool) -> list[int]:
        """Raises Refused for what the template raises."""
        with refusing():
            told = self.tokenizer.apply_chat_template(turns, add_generation_prompt=go_on, return_dict=True)
            return list(told["input_ids"])

    def encoded(self, prompt: str, response: str, max_length: int = 1_000_000) -> list[int]:
        """The ids that Assay makes of it."""
        messages: tuple[Message, ...] = ({"role": "user", "content": prompt},)
        told = encode(self.tokenizer, messages, response, max_length)
        return told.ids if isinstance(told, Encoded) else []

    @cached_property
    def rows(self) -> list[Row]:
        if self.is_judge:
            return [self.question(prompt) for prompt, _ in CONVERSATIONS]
        return [self.row(*pair) for pair in CONVERSATIONS]

    @cached_property
    def alone(self) -> Any:
        """The reference: row by row without padding, read at the last token."""
        return self.read(self.rows)

    def read(self, rows: Sequence[Row]) -> Any:
        """Row by row without padding: rewards, or for a judge the first token's log probabilities."""
        if self.is_judge:
            return self.first_tokens(rows)
        with self._no_pad():
            return self.rewards(rows)

    @contextmanager
    def _no_pad(self) -> Iterator[None]:
        """A pad token that is in no text: transformers then reads a decoder's last token, whichever it is."""
        before = self.text_config.pad_token_id
        if self.decoder:
            self.text_config.pad_token_id = -1
        try:
            yield
        finally:
            self.text_config.pad_token_id = before

    def change(self, rows: Sequence[Row], other: Sequence[Row]) -> Moved | None:
        """How far the readings of two lists of rows lie apart; None where the weights are not there."""
        if self.model is None:
            return None
        try:
            return self.apart(self.read(rows), self.read(other))
        except Refused:
            return None

    def apart(self, before: Any, after: Any) -> Moved:
        if not self.is_judge:
            return moved(before, after)
        top = before.topk(10, dim=-1).indices
        largest = float((before.gather(1, top) - after.gather(1, top)).abs().max())
        flips = int((before.argmax(-1) != after.argmax(-1)).sum())
        return Moved(largest, 1.0, flips, len(before), "first tokens are others")

    def rewards(self, rows: Sequence[Row], batch_size: int = 1, side: str = "right") -> list[float]:
        """The first label's logit, in batches of rows in this order. Raises Refused."""
        found: list[float] = []
        for start in range(0, len(rows), batch_size):
            batch = self._batch(rows[start : start + batch_size], side)
            found += self.logits(batch)[:, 0].tolist()
        return found

    def _batch(self, rows: Sequence[Row], side: str) -> dict[str, torch.Tensor]:
        pad = self.tokenizer.pad_token_id
        if pad is None and len({len(row.ids) for row in rows}) > 1:
            raise Refused("the tokenizer has no pad token")
        made = pad_rows([row.ids for row in rows], pad or 0, side)
        if rows[0].types is not None:
            made["token_type_ids"] = pad_rows([row.types or [] for row in rows], 0, side)["input_ids"]
        return made

    def logits(self, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        """Shape (rows, labels). Raises Refused."""
        device = next(self.model.parameters()).device
        with refusing(), torch.inference_mode():
            output = self.model(**{name: tensor.to(device) for name, tensor in batch.items()})
            found = getattr(output, "logits", None)
            if found is None:
                found = getattr(output, "score", None)
            if not isinstance(found, torch.Tensor) or found.dim() > 2:
                raise Refused(f"its output ({type(output).__name__}) holds no reward in logits nor in score")
            values: torch.Tensor = found.float().cpu()
        return values if values.dim() == 2 else values[:, None]

    def first_tokens(self, rows: Sequence[Row], batch_size: int = 1, side: str = "left") -> torch.Tensor:
        """Log probabilities of the first generated token, shape (rows, words). Raises Refused."""
        pad = self.tokenizer.pad_token_id
        pad = (self.tokenizer.eos_token_id or 0) if pad is None else pad
        found = []
        for start in range(0, len(rows), batch_size):
            made = pad_rows([row.ids for row in rows[start : start + batch_size]], pad, side)
            device = next(self.model.parameters()).device
            with refusing(), torch.inference_mode():
                out = self.model.generate(
                    **{name: tensor.to(device) for name, tensor in made.items()},
                    max_new_tokens=1,
                    do_sample=False,
                    pad_token_id=pad,
                    output_logits=True,
                    return_dict_in_generate=True,
                )
                found.append(out.logits[0].float().log_softmax(-1).cpu())
        return torch.cat(found)

    def short(self, count: int | None = None) -> list[float]:
        """Rewards of `count` short texts, rows of one length together, so that nothing is padded; by default all
        of them, or fewer where the model is slow."""
        rows = [self.row(*pair) for pair in SHORT[::2] + SHORT[1::2]]  # any beginning holds both languages
        if count is None:
            started = time.perf_counter()
            self.read(rows[:4])
            each = (time.perf_counter() - started) / 4
            count = max(16, int(SHORT_SECONDS / max(each, 1e-6)))
        rows = rows[:count]
        found: dict[int, float] = {}
        with self._no_pad():
            for length in {len(row.ids) for row in rows}:
                places = [i for i, row in enumerate(rows) if len(row.ids) == length]
                told = self.rewards([rows[i] for i in places], 8)
                found.update(zip(places, told, strict=True))
        return [found[i] for i in range(len(rows))]

    def widen(self) -> bool:
        """Turn the weights to float32 in place, where they can be and there is room."""
        if not room_for(4 * sum(p.numel() for p in self.model.parameters())):
            return False
        try:
            self.model.float()
        except ValueError:  # transformers refuses it of quantised weights
            return False
        return True


def room_for(size: int) -> bool:
    """Whether so many bytes of memory are free."""
    if torch.cuda.is_available():
        return size < int(0.9 * torch.cuda.mem_get_info()[0])
    try:
        return size < 0.8 * os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError):  # not told on this system
        return size < 2**33


def stored(path: str) -> dict[str, int]:
    """How many numbers of each type the checkpoint's safetensors files hold; empty where there are none."""
    from safetensors import safe_open
    from transformers.utils import cached_file

    folder = Path(path)
    if not folder.is_dir():
        found = cached_file(path, "config.json", local_files_only=True)
        folder = Path(found).parent if found else folder
    counts: dict[str, int] = {}
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, "pt") as tensors:
            for key in tensors.keys():  # noqa: SIM118 - not a dict
                part = tensors.get_slice(key)
                counts[part.get_dtype()] = counts.get(part.get_dtype(), 0) + math.prod(part.get_shape())
    return counts


@contextmanager
def quiet() -> Iterator[None]:
    """Without transformers' own words: what it warns of is what is being measured."""
    from transformers.utils import logging

    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()


@contextmanager
def reading(name: str) -> Iterator[None]:
    """What goes wrong while a config or tokenizer is read, as one line."""
    try:
        with quiet():
            yield
    except (OSError, ValueError, ImportError, KeyError) as error:
        more = "; --remote-code runs its code" if "trust_remote_code" in str(error) else ""
        raise CannotRun(f"cannot read {name!r}: {first_line(error)}{more}") from error


@contextmanager
def refusing() -> Iterator[None]:
    """Whatever a foreign model raises is a finding about it, so nothing is let through but Refused."""
    try:
        yield
    except Refused:
        raise
    except Exception as error:
        raise Refused(first_line(error)) from error


def first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines or [type(error).__name__])[0][:120].rstrip(".")
