"""A sequence classifier with one label: where its reward is read, and how one is begun and kept."""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import nn

from judges.engines.embedded import resolve_model
from judges.errors import CannotRun

STATISTICS = "reward_statistics.json"
PAD = "<|assay_pad|>"


def load_model(model: str, dtype: str = "float32", fresh_head: bool = False, seed: int = 0) -> tuple[Any, Any]:
    """(model, tokenizer) of a one-label sequence classifier. Raises CannotRun when it is not one.

    `fresh_head` begins training from a plain language model: the head is drawn from N(0, 0.02), and a
    tokenizer without a pad token of its own gets one that occurs in no text.
    """
    from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer
    from transformers.utils import logging

    path = resolve_model(model)
    logging.disable_progress_bar()
    try:
        tokenizer = AutoTokenizer.from_pretrained(path)
        config = AutoConfig.from_pretrained(path)
        known = str(getattr(config, "architectures", None) or "")
        if not fresh_head and "SequenceClassification" not in known:
            raise CannotRun(f"{model!r} is not a reward model ({known}): train one from it with 'assay train'")
        if not fresh_head and config.num_labels != 1:
            raise CannotRun(f"{model!r} has {config.num_labels} labels; a reward model has one")
        torch.manual_seed(seed)
        settings = {"num_labels": 1} if fresh_head else {}
        verbosity = logging.get_verbosity()
        logging.set_verbosity_error()  # a fresh head is what we asked for, not a thing to warn of
        loaded = AutoModelForSequenceClassification.from_pretrained(
            path, dtype=getattr(torch, dtype), use_safetensors=True, **settings
        )
        logging.set_verbosity(verbosity)
    except (OSError, ValueError) as error:
        raise CannotRun(f"cannot load {model!r}: {str(error).splitlines()[0]}") from error
    if fresh_head:
        nn.init.normal_(head(loaded).weight, std=0.02)
        if head(loaded).bias is not None:
            nn.init.zeros_(head(loaded).bias)
        if tokenizer.pad_token_id is None or tokenizer.pad_token_id == tokenizer.eos_token_id:
            tokenizer.add_special_tokens({"pad_token": PAD})
            if len(tokenizer) > loaded.get_input_embeddings().num_embeddings:
                loaded.resize_token_embeddings(len(tokenizer), mean_resizing=False)
        loaded.config.pad_token_id = tokenizer.pad_token_id
    return loaded.eval(), tokenizer


def head(model: Any) -> Any:
    """The last linear layer, hidden size to one."""
    found = [m for m in model.modules() if isinstance(m, nn.Linear) and m.out_features == 1]
    if not found:
        raise CannotRun(f"{type(model).__name__} has no linear reward head")
    return found[-1]


def reads_last_token(model: Any) -> bool:
    """A decoder is read at its last token, an encoder (BERT-like) at its first, by its own classifier."""
    return isinstance(getattr(model, "score", None), nn.Linear)


def rewards_of(model: Any, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
    """Raw rewards, shape (batch,), of padded rows of shape (batch, length); either padding side.

    A decoder is read at the last ATTENDED token: transformers looks for the last token that is not the pad
    token, which is one too early where pad is also the end of turn.
    """
    if not reads_last_token(model):
        logits: torch.Tensor = model(input_ids=input_ids, attention_mask=attention_mask).logits
        return logits[:, 0].float()
    positions = (attention_mask.cumsum(-1) - 1).clamp(min=0)
    backbone = getattr(model, model.base_model_prefix)
    hidden = backbone(input_ids=input_ids, attention_mask=attention_mask, position_ids=positions, use_cache=False)
    places = torch.arange(attention_mask.shape[1], device=attention_mask.device)
    last = (attention_mask * places).argmax(-1)
    rows = torch.arange(len(last), device=last.device)
    result: torch.Tensor = model.score(hidden.last_hidden_state[rows, last])[:, 0]
    return result.float()


def pad_rows(rows: list[list[int]], pad: int, side: str = "right") -> tuple[torch.Tensor, torch.Tensor]:
    """(ids, attention mask) of shape (rows, longest)."""
    longest = max(map(len, rows))
    ids = torch.full((len(rows), longest), pad)
    mask = torch.zeros((len(rows), longest), dtype=torch.long)
    for i, row in enumerate(rows):
        part = slice(0, len(row)) if side == "right" else slice(longest - len(row), longest)
        ids[i, part] = torch.tensor(row)
        mask[i, part] = 1
    return ids, mask


def max_length_of(model: Any, tokenizer: Any) -> int:
    limits = [getattr(model.config, "max_position_embeddings", None), tokenizer.model_max_length]
    return min(int(limit) for limit in limits if limit)


def save_model(model: Any, tokenizer: Any, folder: Path, statistics: dict[str, Any]) -> None:
    """A plain checkpoint, whole or not at all: written beside and renamed."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    part = Path(tempfile.mkdtemp(prefix=f"{folder.name}.part-", dir=folder.parent))
    try:
        model.save_pretrained(part)
        tokenizer.save_pretrained(part)
        (part / STATISTICS).write_text(json.dumps(statistics, indent=2) + "\n")
        part.chmod(0o755)
        if folder.exists():
            old = Path(tempfile.mkdtemp(prefix=f"{folder.name}.old-", dir=folder.parent))
            folder.rename(old / "model")
            part.rename(folder)
            shutil.rmtree(old)
        else:
            part.rename(folder)
    finally:
        shutil.rmtree(part, ignore_errors=True)
