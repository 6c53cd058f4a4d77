"""The reward network: a sequence classifier with one label. Loading, initialising from a language model, saving.

Also the statistics of its rewards, which training writes to `reward_statistics.json` beside the weights.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from logging import getLogger
from pathlib import Path
from typing import Any

import torch
from torch import nn

from classic_rm.prefix_sharing import packed_last_token_states
from classic_rm.settings import ModelSettings
from judges.engines.embedded import resolve_model
from judges.engines.quiet import hide_loading_bars, is_verbose
from judges.errors import CannotRun

STATISTICS = "reward_statistics.json"
PAD = "<|assay_pad|>"
# The names that encoders' configs use for the dropout before the classifier.
_CLASSIFIER_DROPOUT = ("classifier_dropout", "cls_dropout", "seq_classif_dropout")


class RewardNetwork(nn.Module):
    """Computes raw rewards from token ids with a transformers sequence classifier, which is what `save_model` writes.

    A decoder's reward is read at the last attended token of each response. transformers itself reads the last token
    that is not the pad token, which is one token too early where the pad token is also the end of turn. An encoder's
    reward is read by its own classifier, at its first token.
    """

    def __init__(self, model: Any, dropout: float = 0.0) -> None:
        super().__init__()
        self.model = model
        self.config = model.config
        self.dropout = nn.Dropout(dropout)
        self.decoder = reads_last_token(model)
        self._no_split_modules = getattr(model, "_no_split_modules", None)  # FSDP wraps these modules

    @property
    def pretrained(self) -> Any:
        """The classifier without adapters around it."""
        return _without_adapters(self.model)

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        segments: torch.Tensor | None = None,
        token_type_ids: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Compute (rewards, states): float32 rewards of shape (responses, heads), and the hidden states that they are
        read from, shape (responses, hidden size).

        The input is a packed batch (`prefix_sharing.pack`), or rows of shape (responses, length) padded on either
        side. In evaluation mode an encoder returns its rewards in place of the states.
        """
        if not self.decoder:
            options: dict[str, Any] = {} if token_type_ids is None else {"token_type_ids": token_type_ids}
            if self.training:
                options["output_hidden_states"] = True
            output = self.model(input_ids=input_ids, attention_mask=attention_mask, **options)
            rewards = _reward_of(output)
            states = output.hidden_states[-1][:, 0] if self.training else rewards
            return rewards.float(), states
        states = last_token_states(self.pretrained, input_ids, attention_mask, position_ids, segments)
        return self.pretrained.score(self.dropout(states)).float(), states

    def gradient_checkpointing_enable(self, **options: Any) -> None:
        self.model.gradient_checkpointing_enable(**options)
        self.model.enable_input_require_grads()  # otherwise a frozen embedding cuts the graph


def last_token_states(
    model: Any,
    input_ids: torch.Tensor,
    attention_mask: torch.Tensor | None = None,
    position_ids: torch.Tensor | None = None,
    segments: torch.Tensor | None = None,
) -> torch.Tensor:
    """A decoder's last hidden states at the last attended token of each response, shape (responses, hidden size).

    The input is a packed batch, or rows padded on either side."""
    backbone = getattr(model, model.base_model_prefix)
    if segments is not None and position_ids is not None:
        batch = {"input_ids": input_ids, "position_ids": position_ids, "segments": segments}
        return packed_last_token_states(backbone, batch)
    if attention_mask is None:
        attention_mask = torch.ones_like(input_ids)
    positions = (attention_mask.cumsum(-1) - 1).clamp(min=0)
    hidden = backbone(
        input_ids=input_ids, attention_mask=attention_mask, position_ids=positions, use_cache=False
    ).last_hidden_state
    return gather_last_attended(hidden, attention_mask)


def gather_last_attended(hidden: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
    """Each row's state at its last attended token, on either padding side: (rows, length, size) to (rows, size)."""
    indices = torch.arange(attention_mask.shape[1], device=attention_mask.device)
    last = (attention_mask * indices).argmax(-1)
    return hidden[torch.arange(len(last), device=last.device), last]


def _reward_of(output: Any) -> torch.Tensor:
    """The output's `logits`, or `score`, the name that some models with custom code use; shape (rows, heads)."""
    for name in ("logits", "score"):
        reward = getattr(output, name, None)
        if isinstance(reward, torch.Tensor):
            return reward if reward.dim() == 2 else reward[:, None]
    raise CannotRun(f"{type(output).__name__} has neither logits nor score: Assay cannot read it as a reward model")


def load_model(model: str, dtype: str = "float32", remote_code: bool = False) -> tuple[Any, Any]:
    """Load (model, tokenizer) of a trained reward model: a folder, a hub name or an `embedded:` name.

    Raises CannotRun when it cannot be loaded, is no reward model, or lacks weights."""
    from transformers import AutoConfig, AutoModelForSequenceClassification

    path = resolve_model(model)
    with quiet_loading(model):
        config = AutoConfig.from_pretrained(path, trust_remote_code=remote_code)
        architectures = str(getattr(config, "architectures", None) or "")
        custom = remote_code and "AutoModelForSequenceClassification" in (getattr(config, "auto_map", None) or {})
        if "SequenceClassification" not in architectures and not custom:
            raise CannotRun(f"{model!r} is not a reward model ({architectures}): train one from it with 'assay train'")
        heads = read_statistics(path).get("heads", 1)
        if not custom and config.num_labels != heads:
            raise CannotRun(f"{model!r} has {config.num_labels} labels; a reward model has one")
        if getattr(config, "quantization_config", None):
            raise CannotRun(f"{model!r} has quantised weights: use engine=vllm, or the full weights")
        loaded, loading_info = AutoModelForSequenceClassification.from_pretrained(
            path,
            dtype=getattr(torch, dtype),
            use_safetensors=True,
            trust_remote_code=remote_code,
            output_loading_info=True,
        )
        if missing := sorted(loading_info["missing_keys"]):
            raise CannotRun(
                f"{model!r} lacks weights, which would be initialised at random: {', '.join(missing[:3])};"
                " it was not trained as a reward model, or not saved as one"
            )
        return loaded.eval(), load_tokenizer(path, remote_code)


def load_tokenizer(path: str, remote_code: bool = False) -> Any:
    """Load a tokenizer that does not warn of long texts: Assay counts them itself, row by row."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(path, trust_remote_code=remote_code)
    tokenizer.deprecation_warnings["sequence-length-is-longer-than-the-specified-maximum"] = True
    return tokenizer


def initialise_model(settings: ModelSettings, seed: int = 0) -> tuple[Any, Any]:
    """Create (model, tokenizer) to train from a language model.

    The reward head is drawn from N(0, 0.02). A tokenizer without a pad token that differs from its end of text gets a
    new one, which occurs in no text. Raises CannotRun when the base cannot be loaded or the settings do not fit it."""
    from transformers import AutoConfig, AutoModelForSequenceClassification

    path = resolve_model(settings.base)
    torch.manual_seed(seed)
    with quiet_loading(settings.base):
        tokenizer = load_tokenizer(path)
        config = AutoConfig.from_pretrained(path)
        config.num_labels = settings.heads
        for name in _CLASSIFIER_DROPOUT:
            if hasattr(config, name):
                setattr(config, name, settings.dropout)
        if settings.layers is not None:
            if not 1 <= settings.layers <= config.num_hidden_layers:
                raise CannotRun(
                    f"--layers {settings.layers}: {settings.base!r} has {config.num_hidden_layers} layers;"
                    " give 1 to that number"
                )
            config.num_hidden_layers = settings.layers
        model = AutoModelForSequenceClassification.from_pretrained(
            path, config=config, dtype=torch.float32, use_safetensors=True
        )
    head, generator = reward_head(model), torch.Generator().manual_seed(seed)
    with torch.no_grad():
        head.weight.normal_(std=0.02, generator=generator)
        if head.bias is not None:
            head.bias.zero_()
    if tokenizer.pad_token_id is None or tokenizer.pad_token_id == tokenizer.eos_token_id:
        tokenizer.add_special_tokens({"pad_token": PAD})
        if len(tokenizer) > model.get_input_embeddings().num_embeddings:
            model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    model.config.pad_token_id = tokenizer.pad_token_id
    if "token_type_ids" in tokenizer.model_input_names:
        # Training passes no token types, so the saved tokenizer must not produce them either.
        tokenizer.model_input_names = [n for n in tokenizer.model_input_names if n != "token_type_ids"]
        tokenizer.init_kwargs["model_input_names"] = tokenizer.model_input_names  # what is saved
    _freeze(model, settings.frozen)
    if settings.lora:
        model = _add_adapters(model, settings.lora)
    return model, tokenizer


def _freeze(model: Any, layers: int) -> None:
    """Freeze the embeddings and the first `layers` layers; 0 freezes nothing."""
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


def _add_adapters(model: Any, rank: int) -> Any:
    try:
        from peft import LoraConfig, TaskType, get_peft_model
    except ImportError as error:
        raise CannotRun("--lora needs peft: pip install 'assay[train]'") from error
    head_name = next(name for name, module in model.named_children() if module is reward_head(model))
    config = LoraConfig(
        task_type=TaskType.SEQ_CLS,
        r=rank,
        lora_alpha=2 * rank,
        lora_dropout=0.0,
        target_modules="all-linear",
        modules_to_save=[head_name],
    )
    return get_peft_model(model, config)


def _without_adapters(model: Any) -> Any:
    return model.get_base_model() if hasattr(model, "get_base_model") else model


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Suppress transformers' log messages and the progress bars of weights, unless ASSAY_VERBOSE is set."""
    from transformers.utils import logging

    if is_verbose():
        yield
        return
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        with hide_loading_bars():
            yield
    finally:
        logging.set_verbosity(verbosity)


@contextmanager
def quiet_loading(model: str, remote_code_option: str = "remote_code=true") -> Iterator[None]:
    """Suppress the libraries' messages while `model` loads, and raise their errors as a CannotRun of one line."""
    getLogger("huggingface_hub").setLevel("ERROR")  # it logs every attempt to reach the hub
    try:
        with quiet_transformers():
            yield
    except (OSError, ValueError, ImportError, KeyError) as error:
        reason = str(error).strip().splitlines() or [type(error).__name__]
        hint = f"; {remote_code_option} runs its code" if "trust_remote_code" in str(error) else ""
        raise CannotRun(f"cannot load {model!r}: {reason[0]}{hint}") from error


def reward_head(model: Any) -> Any:
    """The last linear layer, from the hidden size to the labels. Raises CannotRun where there is none."""
    heads = [m for m in model.modules() if isinstance(m, nn.Linear) and m.out_features == model.config.num_labels]
    if not heads:
        raise CannotRun(f"{type(model).__name__} has no linear reward head")
    return heads[-1]


def reads_last_token(model: Any) -> bool:
    """Whether the reward is read at the last token, as of a decoder. An encoder (BERT) is read at its first token."""
    score = getattr(_without_adapters(model), "score", None)
    return isinstance(getattr(score, "original_module", score), nn.Linear)


def pad_rows(rows: Sequence[Sequence[int]], pad: int, side: str = "right") -> dict[str, torch.Tensor]:
    """Pad token sequences to `input_ids` and `attention_mask`, both int64 of shape (rows, longest)."""
    longest = max(map(len, rows))
    ids = torch.full((len(rows), longest), pad)
    mask = torch.zeros((len(rows), longest), dtype=torch.long)
    for i, row in enumerate(rows):
        span = slice(0, len(row)) if side == "right" else slice(longest - len(row), longest)
        ids[i, span] = torch.tensor(row)
        mask[i, span] = 1
    return {"input_ids": ids, "attention_mask": mask}


def context_length(model: Any, tokenizer: Any) -> int:
    """The most tokens that both the model and its tokenizer allow."""
    limits = [getattr(model.config, "max_position_embeddings", None), tokenizer.model_max_length]
    return min(int(limit) for limit in limits if limit)


def read_statistics(folder: str | Path) -> dict[str, Any]:
    """The statistics that training measured (see `training.measure_rewards`); empty for other checkpoints."""
    file = Path(folder) / STATISTICS
    values: dict[str, Any] = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    return values


def save_model(model: Any, tokenizer: Any, folder: Path, statistics: dict[str, Any]) -> None:
    """Save a transformers checkpoint with merged adapters, and the statistics beside it."""
    merged = model.merge_and_unload() if hasattr(model, "merge_and_unload") else model
    save_pretrained(merged, tokenizer, folder)
    write_statistics(folder, statistics)


def save_pretrained(model: Any, tokenizer: Any, folder: Path) -> None:
    """Save a model and its tokenizer with an attention implementation that transformers knows."""
    if model.config._attn_implementation.startswith("assay"):
        model.set_attn_implementation("sdpa")
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def write_statistics(folder: Path, values: dict[str, Any]) -> None:
    (folder / STATISTICS).write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
