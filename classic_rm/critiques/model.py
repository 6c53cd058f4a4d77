"""A causal LM that writes a critique, and a head that reads the reward at its end (arXiv 2408.11791)."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from classic_rm.data import Encoded
from classic_rm.model import last_states, load_tokenizer, reading
from classic_rm.reward_model import RewardModel
from classic_rm.vllm_pooling import PoolingModel
from judges.engines.base import RequestFailed
from judges.engines.chat_template import control_tokens, conversation_ids
from judges.engines.embedded import resolve_model
from judges.errors import CannotRun
from judges.types import Failure, Message

HEAD = "head.safetensors"
ABOUT = "critique.json"
TEMPLATE = "template.md"
_INDEX = "model.safetensors.index.json"
# For a model without a chat template: turns by their role, the assistant's closed by the end of text.
_PLAIN_TURNS = (
    "{% for message in messages %}{{ message['role'] }}:\n{{ message['content'] }}"
    "{{ eos_token if message['role'] == 'assistant' else '' }}\n\n{% endfor %}"
    "{% if add_generation_prompt %}assistant:\n{% endif %}"
)


@dataclass(frozen=True, slots=True)
class Turn:
    """A conversation's ids that ends with the critique as the assistant's turn; its tokens begin at `start`.

    The last of them is what the chat template writes last for that turn: its end of turn and, in some
    families, a line break behind it. The reward is read there."""

    ids: list[int]
    start: int


def critique_turn(tokenizer: Any, messages: tuple[Message, ...], critique: str, max_length: int) -> Turn | Failure:
    """The ids of a critique after its judging prompt. Never cut: one that does not fit is a Failure."""
    try:
        asked, written = conversation_ids(tokenizer, messages, critique)
    except RequestFailed as error:
        return error.failure
    if not asked:
        return Failure("malformed", "the chat template does not show where the assistant's turn begins")
    if len(asked) + len(written) > max_length:
        size = len(asked) + len(written)
        return Failure("too-long", f"prompt and critique take {size} tokens, the model reads {max_length}")
    return Turn(asked + written, len(asked))


class RewardHead(nn.Module):
    """Dropout, linear h→h, tanh, dropout, linear h→1: states (rows, h) to rewards (rows, 1)."""

    def __init__(self, size: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.dropout = nn.Dropout(dropout)
        self.dense = nn.Linear(size, size)
        self.out = nn.Linear(size, 1)

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        inner = torch.tanh(self.dense(self.dropout(states.float())))
        reward: torch.Tensor = self.out(self.dropout(inner))
        return reward.float()


class CritiqueNetwork(nn.Module):
    """Token ids of finished critiques to raw rewards, read from the last layer's state, behind its norm, at the
    last attended token of each."""

    decoder = True

    def __init__(self, lm: Any, dropout: float = 0.0) -> None:
        super().__init__()
        self.lm = lm
        self.config = lm.config
        self.head = RewardHead(lm.config.hidden_size, dropout)

    @property
    def plain(self) -> Any:
        return self.lm

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        segments: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """(rewards of shape (critiques, 1), the states they are read from): a packed batch or padded rows."""
        states = last_states(self.lm, input_ids, attention_mask, position_ids, segments)
        return self.head(states), states


class HeadModel(RewardModel):
    """The trained head under transformers. A judging prompt is computed once for all its critiques."""

    def _load(self, model: str, dtype: str, remote_code: bool) -> tuple[Any, Any]:
        path = Path(resolve_model(model))
        lm, tokenizer = load_lm(str(path), getattr(torch, dtype))
        network = CritiqueNetwork(lm)
        load_head(network.head, path)
        return network.eval(), tokenizer

    def encode(self, messages: tuple[Message, ...], response: str) -> Encoded | Failure:
        return _encoded(critique_turn(self.tokenizer, messages, response, self.max_length))


class PooledHead(PoolingModel):
    """The trained head on hidden states from vLLM's pooling runner: the LM's own, neither normalised nor
    activated."""

    _runner: ClassVar[dict[str, Any]] = {"convert": "embed"}

    def __init__(self, model: str, max_length: int | None = None) -> None:
        path = Path(resolve_model(model))
        weights = _head_weights(path)
        self._head = RewardHead(weights["out.weight"].shape[1]).eval()
        load_head(self._head, path)
        super().__init__(model, max_length)

    def encode(self, messages: tuple[Message, ...], response: str) -> Encoded | Failure:
        return _encoded(critique_turn(self.tokenizer, messages, response, self.max_length))

    def _values(self, prompts: list[Any], parameters: Any) -> list[tuple[float, ...]]:
        told = self._engine.embed(prompts, pooling_params=parameters, use_tqdm=False)
        with torch.inference_mode():
            rewards = self._head(torch.tensor([output.outputs.embedding for output in told]))
        return [tuple(row) for row in rewards.tolist()]


def _encoded(turn: Turn | Failure) -> Encoded | Failure:
    return turn if isinstance(turn, Failure) else Encoded(turn.ids)


def load_lm(path: str, dtype: torch.dtype = torch.float32) -> tuple[Any, Any]:
    """(causal LM, tokenizer). Raises CannotRun when it is not one."""
    from transformers import AutoConfig, AutoModelForCausalLM
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES as CAUSAL
    from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING_NAMES as MASKED

    with reading(path):
        config = AutoConfig.from_pretrained(path)
        if config.model_type in MASKED or config.model_type not in CAUSAL:
            raise CannotRun(f"{path!r} is a {config.model_type}, which writes no text: critiques need a causal LM")
        lm = AutoModelForCausalLM.from_pretrained(path, config=config, dtype=dtype, use_safetensors=True)
        return lm, load_tokenizer(path)


def begin_lm(base: str) -> tuple[Any, Any]:
    """(causal LM, tokenizer) to train from, which ends its turns where its chat template does.

    A model without a chat template gets a plain one. Raises CannotRun where nothing could end a turn."""
    lm, tokenizer = load_lm(resolve_model(base))
    if getattr(tokenizer, "chat_template", None) is None:
        if tokenizer.eos_token is None:
            raise CannotRun(f"{base!r} has neither a chat template nor an end of text: nothing ends a critique")
        tokenizer.chat_template = _PLAIN_TURNS
    if (end := _end_of_turn(tokenizer)) is not None:
        ends = lm.generation_config.eos_token_id
        known = [] if ends is None else list(ends) if isinstance(ends, list | tuple) else [ends]
        if end not in known:  # else what it learns to write would not stop an engine
            lm.generation_config.eos_token_id = [*known, end]
    return lm, tokenizer


def _end_of_turn(tokenizer: Any) -> int | None:
    """The control token that the chat template writes behind an assistant's turn, if it writes one."""
    _, written = conversation_ids(tokenizer, ({"role": "user", "content": "a"},), "b")
    control = control_tokens(tokenizer)
    return next((token for token in written if token in control), None)


def save_critique_model(
    network: CritiqueNetwork, tokenizer: Any, folder: Path, template: str, about: dict[str, Any]
) -> None:
    """Into `folder`: the LM as a plain checkpoint, the head beside it, the judging template, and what is known.

    An index names the LM's files: vLLM would take every .safetensors file in the folder for the LM's."""
    save_lm(network.lm, tokenizer, folder)
    if not (folder / _INDEX).is_file():
        from safetensors import safe_open

        with safe_open(folder / "model.safetensors", "pt") as held:
            names = list(held.keys())
        size = (folder / "model.safetensors").stat().st_size
        index = {"metadata": {"total_size": size}, "weight_map": dict.fromkeys(names, "model.safetensors")}
        (folder / _INDEX).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
    weights = {name: tensor.detach().cpu().contiguous() for name, tensor in network.head.state_dict().items()}
    save_file(weights, folder / HEAD)
    (folder / TEMPLATE).write_text(template, encoding="utf-8")
    (folder / ABOUT).write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")


def save_lm(lm: Any, tokenizer: Any, folder: Path) -> None:
    if lm.config._attn_implementation.startswith("assay"):
        lm.set_attn_implementation("sdpa")
    lm.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def read_about(folder: str | Path) -> dict[str, Any]:
    """What training wrote of a critique model. Raises CannotRun where it is not there."""
    file = Path(folder) / ABOUT
    try:
        found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CannotRun(
            f"{file}: cannot be read ({error}); 'assay train --kind critique-out-loud' writes it"
        ) from error
    return found


def _head_weights(folder: Path) -> dict[str, torch.Tensor]:
    try:
        weights: dict[str, torch.Tensor] = load_file(folder / HEAD)
    except (OSError, SafetensorError) as error:
        raise CannotRun(f"{folder / HEAD}: no reward head: {error}") from error
    return weights


def load_head(head: RewardHead, folder: Path) -> None:
    """Raises CannotRun where the folder holds no head, or one of another size."""
    try:
        head.load_state_dict(_head_weights(folder))
    except RuntimeError as error:
        raise CannotRun(f"{folder / HEAD} is not this model's head: {str(error).splitlines()[0]}") from error


def weights_size(folder: str | Path) -> int:
    """Bytes of the weights in a folder."""
    return sum(file.stat().st_size for file in Path(folder).glob("*.safetensors"))


def open_head(folder: str, engine: str) -> HeadModel | PooledHead:
    """The trained head under transformers, or on vLLM's pooling runner."""
    return PooledHead(folder) if engine == "vllm" else HeadModel(folder)
