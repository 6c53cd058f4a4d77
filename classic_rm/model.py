"""A sequence classifier with one label: how one is begun, where its reward is read, and how it is kept."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from logging import getLogger
from pathlib import Path
from typing import Any

import torch
from torch import nn

from classic_rm.prefix_sharing import hidden_states
from classic_rm.settings import Start
from judges.engines.embedded import resolve_model
from judges.errors import CannotRun

STATISTICS = "reward_statistics.json"
PAD = "<|assay_pad|>"
# What encoders call the dropout before their own classifier.
_CLASSIFIER_DROPOUT = ("classifier_dropout", "cls_dropout", "seq_classif_dropout")


class RewardNetwork(nn.Module):
    """Token ids to raw rewards, around a plain sequence classifier, which is what is saved.

    A decoder is read at the last ATTENDED token of each response: transformers looks for the last token that is
    not the pad token, one too early where pad is also the end of turn. An encoder is read by its own
    classifier, at its first token.
    """

    def __init__(self, model: Any, dropout: float = 0.0) -> None:
        super().__init__()
        self.model = model
        self.config = model.config
        self.dropout = nn.Dropout(dropout)
        self.decoder = reads_last_token(model)
        self._no_split_modules = getattr(model, "_no_split_modules", None)  # how FSDP cuts a model into units

    @property
    def plain(self) -> Any:
        """The classifier itself, under adapters where there are some."""
        return self.model.get_base_model() if hasattr(self.model, "get_base_model") else self.model

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        segments: torch.Tensor | None = None,
        token_type_ids: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """(rewards of shape (responses, heads), the states they are read from, (responses, size)).

        Either a packed batch (`prefix_sharing.pack`) or padded rows of shape (responses, length), either side.
        """
        if not self.decoder:
            more: dict[str, Any] = {} if token_type_ids is None else {"token_type_ids": token_type_ids}
            if self.training:
                more["output_hidden_states"] = True
            output = self.model(input_ids=input_ids, attention_mask=attention_mask, **more)
            rewards = _reward_of(output)
            states = output.hidden_states[-1][:, 0] if self.training else rewards
            return rewards.float(), states
        states = last_states(self.plain, input_ids, attention_mask, position_ids, segments)
        return self.plain.score(self.dropout(states)).float(), states

    def gradient_checkpointing_enable(self, **how: Any) -> None:
        self.model.gradient_checkpointing_enable(**how)
        self.model.enable_input_require_grads()  # else a frozen embedding cuts the graph


def last_states(
    model: Any,
    input_ids: torch.Tensor,
    attention_mask: torch.Tensor | None = None,
    position_ids: torch.Tensor | None = None,
    segments: torch.Tensor | None = None,
) -> torch.Tensor:
    """A decoder's last states at the last ATTENDED token of each response, shape (responses, size): of a packed
    batch, or of padded rows, either side."""
    backbone = getattr(model, model.base_model_prefix)
    if segments is not None and position_ids is not None:
        batch = {"input_ids": input_ids, "position_ids": position_ids, "segments": segments}
        return hidden_states(backbone, batch)
    if attention_mask is None:
        attention_mask = torch.ones_like(input_ids)
    positions = (attention_mask.cumsum(-1) - 1).clamp(min=0)
    hidden = backbone(
        input_ids=input_ids, attention_mask=attention_mask, position_ids=positions, use_cache=False
    ).last_hidden_state
    return at_last(hidden, attention_mask)


def at_last(hidden: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
    """Each row's state at its last attended token, whatever the padding side: (rows, length, size) to (rows, size)."""
    places = torch.arange(attention_mask.shape[1], device=attention_mask.device)
    last = (attention_mask * places).argmax(-1)
    return hidden[torch.arange(len(last), device=last.device), last]


def _reward_of(output: Any) -> torch.Tensor:
    """The output's `logits`, or `score`, as some models with code of their own call it; shape (rows, heads)."""
    for name in ("logits", "score"):
        found = getattr(output, name, None)
        if isinstance(found, torch.Tensor):
            return found if found.dim() == 2 else found[:, None]
    raise CannotRun(f"{type(output).__name__} holds neither logits nor score: not a reward model that Assay reads")


def load_model(model: str, dtype: str = "float32", remote_code: bool = False) -> tuple[Any, Any]:
    """(model, tokenizer) of a trained reward model. Raises CannotRun when it is not one."""
    from transformers import AutoConfig, AutoModelForSequenceClassification

    path = resolve_model(model)
    with reading(model):
        config = AutoConfig.from_pretrained(path, trust_remote_code=remote_code)
        known = str(getattr(config, "architectures", None) or "")
        own_code = remote_code and "AutoModelForSequenceClassification" in (getattr(config, "auto_map", None) or {})
        if "SequenceClassification" not in known and not own_code:
            raise CannotRun(f"{model!r} is not a reward model ({known}): train one from it with 'assay train'")
        heads = read_statistics(path).get("heads", 1)
        if not own_code and config.num_labels != heads:
            raise CannotRun(f"{model!r} has {config.num_labels} labels; a reward model has one")
        if getattr(config, "quantization_config", None):
            raise CannotRun(f"{model!r} holds quantised weights: use engine=vllm, or the full weights")
        loaded, about = AutoModelForSequenceClassification.from_pretrained(
            path,
            dtype=getattr(torch, dtype),
            use_safetensors=True,
            trust_remote_code=remote_code,
            output_loading_info=True,
        )
        if absent := sorted(about["missing_keys"]):
            raise CannotRun(
                f"{model!r} lacks weights, which would be drawn at random: {', '.join(absent[:3])};"
                " it was not trained as a reward model, or not saved as one"
            )
        return loaded.eval(), load_tokenizer(path, remote_code)


def load_tokenizer(path: str, remote_code: bool = False) -> Any:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(path, trust_remote_code=remote_code)
    # What is too long is counted, row by row: the tokenizer need not warn of the first one as well.
    tokenizer.deprecation_warnings["sequence-length-is-longer-than-the-specified-maximum"] = True
    return tokenizer


def begin(start: Start, seed: int = 0) -> tuple[Any, Any]:
    """(model, tokenizer) to train from a plain language model: a head drawn from N(0, 0.02), and a pad token
    that occurs in no text where the tokenizer has none of its own."""
    from transformers import AutoConfig, AutoModelForSequenceClassification

    path = resolve_model(start.base)
    torch.manual_seed(seed)
    with reading(start.base):
        tokenizer = load_tokenizer(path)
        config = AutoConfig.from_pretrained(path)
        config.num_labels = start.heads
        _ask_dropout(config, start.dropout)
        if start.layers is not None:
            if not 1 <= start.layers <= config.num_hidden_layers:
                raise CannotRun(f"{start.base!r} has {config.num_hidden_layers} layers; --layers is 1 to that")
            config.num_hidden_layers = start.layers
        loaded = AutoModelForSequenceClassification.from_pretrained(
            path, config=config, dtype=torch.float32, use_safetensors=True
        )
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        head(loaded).weight.normal_(std=0.02, generator=generator)
        if head(loaded).bias is not None:
            head(loaded).bias.zero_()
    if tokenizer.pad_token_id is None or tokenizer.pad_token_id == tokenizer.eos_token_id:
        tokenizer.add_special_tokens({"pad_token": PAD})
        if len(tokenizer) > loaded.get_input_embeddings().num_embeddings:
            loaded.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    loaded.config.pad_token_id = tokenizer.pad_token_id
    if "token_type_ids" in tokenizer.model_input_names:
        # Trained without them, so whoever reads the checkpoint must not be given them by its tokenizer.
        tokenizer.model_input_names = [n for n in tokenizer.model_input_names if n != "token_type_ids"]
        tokenizer.init_kwargs["model_input_names"] = tokenizer.model_input_names  # what is saved
    _freeze(loaded, start.frozen)
    if start.lora:
        loaded = _with_adapters(loaded, start.lora)
    return loaded, tokenizer


def _ask_dropout(config: Any, dropout: float) -> None:
    for name in _CLASSIFIER_DROPOUT:
        if hasattr(config, name):
            setattr(config, name, dropout)


def _freeze(model: Any, layers: int) -> None:
    """Embeddings and the first layers learn nothing; 0 leaves everything free."""
    if not layers:
        return
    backbone = getattr(model, model.base_model_prefix)
    stack = getattr(backbone, "layers", None)
    if stack is None:
        stack = getattr(getattr(backbone, "encoder", None), "layer", None)
    if stack is None or layers > len(stack):
        raise CannotRun(f"--frozen {layers}: {type(model).__name__} has {0 if stack is None else len(stack)} layers")
    for module in (model.get_input_embeddings(), *stack[:layers]):
        module.requires_grad_(False)


def _with_adapters(model: Any, rank: int) -> Any:
    try:
        from peft import LoraConfig, TaskType, get_peft_model
    except ImportError as error:
        raise CannotRun("--lora needs peft: pip install 'assay[train]'") from error
    name = next(name for name, module in model.named_children() if module is head(model))
    settings = LoraConfig(
        task_type=TaskType.SEQ_CLS,
        r=rank,
        lora_alpha=2 * rank,
        lora_dropout=0.0,
        target_modules="all-linear",
        modules_to_save=[name],
    )
    return get_peft_model(model, settings)


@contextmanager
def reading(model: str) -> Iterator[None]:
    """Quiet while loading, and what goes wrong as one line."""
    from transformers.utils import logging

    verbosity = logging.get_verbosity()
    logging.disable_progress_bar()
    getLogger("huggingface_hub").setLevel("ERROR")  # it tells of every retry
    logging.set_verbosity_error()  # a fresh head is what we asked for, not a thing to warn of
    try:
        yield
    except (OSError, ValueError, ImportError) as error:
        reason = str(error).strip().splitlines() or [type(error).__name__]
        more = "; remote_code=true runs its code" if "trust_remote_code" in str(error) else ""
        raise CannotRun(f"cannot load {model!r}: {reason[0]}{more}") from error
    finally:
        logging.set_verbosity(verbosity)


def head(model: Any) -> Any:
    """The last linear layer, from the hidden size to the labels."""
    found = [m for m in model.modules() if isinstance(m, nn.Linear) and m.out_features == model.config.num_labels]
    if not found:
        raise CannotRun(f"{type(model).__name__} has no linear reward head")
    return found[-1]


def reads_last_token(model: Any) -> bool:
    """A decoder is read at its last token, an encoder (BERT-like) at its first, by its own classifier."""
    plain = model.get_base_model() if hasattr(model, "get_base_model") else model
    score = getattr(plain, "score", None)
    return isinstance(getattr(score, "original_module", score), nn.Linear)


def pad_rows(rows: Sequence[Sequence[int]], pad: int, side: str = "right") -> dict[str, torch.Tensor]:
    """`input_ids` and `attention_mask` of shape (rows, longest)."""
    longest = max(map(len, rows))
    ids = torch.full((len(rows), longest), pad)
    mask = torch.zeros((len(rows), longest), dtype=torch.long)
    for i, row in enumerate(rows):
        part = slice(0, len(row)) if side == "right" else slice(longest - len(row), longest)
        ids[i, part] = torch.tensor(row)
        mask[i, part] = 1
    return {"input_ids": ids, "attention_mask": mask}


def max_length_of(model: Any, tokenizer: Any) -> int:
    limits = [getattr(model.config, "max_position_embeddings", None), tokenizer.model_max_length]
    return min(int(limit) for limit in limits if limit)


def read_statistics(folder: str | Path) -> dict[str, Any]:
    """What training measured, kept beside the weights; empty for a checkpoint from elsewhere."""
    file = Path(folder) / STATISTICS
    found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    return found


def save_model(model: Any, tokenizer: Any, folder: Path, statistics: dict[str, Any]) -> None:
    """A plain checkpoint into `folder`, adapters merged."""
    plain = model.merge_and_unload() if hasattr(model, "merge_and_unload") else model
    if plain.config._attn_implementation.startswith("assay"):
        plain.set_attn_implementation("sdpa")
    plain.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    write_statistics(folder, statistics)


def write_statistics(folder: Path, values: dict[str, Any]) -> None:
    (folder / STATISTICS).write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
