"""The critique-out-loud model: a causal LM that writes a critique, and a head that computes a reward at its end.

Ankner et al. 2024, arXiv 2408.11791.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from classic_rm.data import EncodedResponse
from classic_rm.model import last_token_states, load_tokenizer, quiet_loading, save_pretrained
from classic_rm.reward_model import RewardModel
from classic_rm.vllm_pooling import PoolingModel
from judges.engines.base import RequestFailed
from judges.engines.chat_template import control_tokens, conversation_ids
from judges.engines.embedded import resolve_model
from judges.errors import CannotRun
from judges.types import Failure, Message

HEAD = "head.safetensors"
CONFIG = "critique.json"
TEMPLATE = "template.md"
_INDEX = "model.safetensors.index.json"
# The chat template of a model without one: each turn after its role, the assistant's ended by the end of text.
_DEFAULT_CHAT_TEMPLATE = (
    "{% for message in messages %}{{ message['role'] }}:\n{{ message['content'] }}"
    "{{ eos_token if message['role'] == 'assistant' else '' }}\n\n{% endfor %}"
    "{% if add_generation_prompt %}assistant:\n{% endif %}"
)


@dataclass(frozen=True, slots=True)
class CritiqueTokens:
    """The token ids of a conversation that ends with the critique as the assistant's turn, from index `start` on.

    The last token is what the chat template writes last for that turn: its end of turn and, in some families, a line
    break after it. The reward is read there."""

    ids: list[int]
    start: int


def encode_critique(
    tokenizer: Any, messages: tuple[Message, ...], critique: str, max_length: int
) -> CritiqueTokens | Failure:
    """Encode a critique after its prompt. One of more than `max_length` tokens is a Failure: nothing is cut."""
    try:
        prompt, answer = conversation_ids(tokenizer, messages, critique)
    except RequestFailed as error:
        return error.failure
    if not prompt:
        return Failure("malformed", "the chat template does not show where the assistant's turn begins")
    if len(prompt) + len(answer) > max_length:
        size = len(prompt) + len(answer)
        return Failure("too-long", f"prompt and critique take {size} tokens, the model reads {max_length}")
    return CritiqueTokens(prompt + answer, len(prompt))


class RewardHead(nn.Module):
    """Dropout, linear h→h, tanh, dropout, linear h→1: from states (rows, h) to float32 rewards (rows, 1)."""

    def __init__(self, size: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.dropout = nn.Dropout(dropout)
        self.dense = nn.Linear(size, size)
        self.out = nn.Linear(size, 1)

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        hidden = torch.tanh(self.dense(self.dropout(states.float())))
        reward: torch.Tensor = self.out(self.dropout(hidden))
        return reward.float()


class CritiqueNetwork(nn.Module):
    """Computes raw rewards of finished critiques from their token ids.

    The head reads the last layer's normalised state at the last attended token of each critique."""

    decoder = True

    def __init__(self, lm: Any, dropout: float = 0.0) -> None:
        super().__init__()
        self.lm = lm
        self.config = lm.config
        self.head = RewardHead(lm.config.hidden_size, dropout)

    @property
    def pretrained(self) -> Any:
        return self.lm

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        segments: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Compute (rewards (critiques, 1), states (critiques, hidden size)) of a packed batch or of padded rows."""
        states = last_token_states(self.lm, input_ids, attention_mask, position_ids, segments)
        return self.head(states), states


class CritiqueRewardModel(RewardModel):
    """The trained head under transformers. A prompt is computed once for all its critiques."""

    def _load(self, model: str, dtype: str, remote_code: bool) -> tuple[Any, Any]:
        path = Path(resolve_model(model))
        lm, tokenizer = load_lm(str(path), getattr(torch, dtype))
        network = CritiqueNetwork(lm)
        load_head(network.head, path)
        return network.eval(), tokenizer

    def encode(self, messages: tuple[Message, ...], response: str) -> EncodedResponse | Failure:
        return _as_response(encode_critique(self.tokenizer, messages, response, self.max_length))


class PooledCritiqueRewardModel(PoolingModel):
    """The trained head on vLLM's pooling runner, which returns the LM's hidden states without normalising them."""

    _extra_settings: ClassVar[dict[str, Any]] = {"convert": "embed"}

    def __init__(self, model: str, max_length: int | None = None) -> None:
        path = Path(resolve_model(model))
        weights = _head_weights(path)
        self._head = RewardHead(weights["out.weight"].shape[1]).eval()
        load_head(self._head, path)
        super().__init__(model, max_length)

    def encode(self, messages: tuple[Message, ...], response: str) -> EncodedResponse | Failure:
        return _as_response(encode_critique(self.tokenizer, messages, response, self.max_length))

    def _run(self, prompts: list[Any], parameters: Any) -> list[tuple[float, ...]]:
        outputs = self._engine.embed(prompts, pooling_params=parameters, use_tqdm=False)
        with torch.inference_mode():
            rewards = self._head(torch.tensor([output.outputs.embedding for output in outputs]))
        return [tuple(row) for row in rewards.tolist()]


def _as_response(critique: CritiqueTokens | Failure) -> EncodedResponse | Failure:
    return critique if isinstance(critique, Failure) else EncodedResponse(critique.ids)


def load_lm(path: str, dtype: torch.dtype = torch.float32) -> tuple[Any, Any]:
    """Load (causal LM, tokenizer). Raises CannotRun for another kind of model, or one that cannot be loaded."""
    from transformers import AutoConfig, AutoModelForCausalLM
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES as CAUSAL
    from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING_NAMES as MASKED

    with quiet_loading(path):
        config = AutoConfig.from_pretrained(path)
        if config.model_type in MASKED or config.model_type not in CAUSAL:
            raise CannotRun(f"{path!r} is a {config.model_type}, which writes no text: critiques need a causal LM")
        lm = AutoModelForCausalLM.from_pretrained(path, config=config, dtype=dtype, use_safetensors=True)
        return lm, load_tokenizer(path)


def initialise_lm(base: str) -> tuple[Any, Any]:
    """Load (causal LM, tokenizer) to train from, with generation ending where the chat template ends a turn.

    A model without a chat template gets a simple one. Raises CannotRun where no token could end a turn."""
    lm, tokenizer = load_lm(resolve_model(base))
    if getattr(tokenizer, "chat_template", None) is None:
        if tokenizer.eos_token is None:
            raise CannotRun(f"{base!r} has neither a chat template nor an end of text: no token could end a critique")
        tokenizer.chat_template = _DEFAULT_CHAT_TEMPLATE
    if (end := _end_of_turn(tokenizer)) is not None:
        eos = lm.generation_config.eos_token_id
        stop_ids = [] if eos is None else list(eos) if isinstance(eos, list | tuple) else [eos]
        if end not in stop_ids:  # otherwise an engine would not stop at the end of turn that the LM learns to write
            lm.generation_config.eos_token_id = [*stop_ids, end]
    return lm, tokenizer


def _end_of_turn(tokenizer: Any) -> int | None:
    """The control token that the chat template writes after an assistant's turn, if it writes one."""
    _, answer = conversation_ids(tokenizer, ({"role": "user", "content": "a"},), "b")
    control = control_tokens(tokenizer)
    return next((token for token in answer if token in control), None)


def save_critique_model(
    network: CritiqueNetwork, tokenizer: Any, folder: Path, template: str, config: dict[str, Any]
) -> None:
    """Save the LM as a transformers checkpoint with the head, the prompt template and `critique.json` beside it.

    An index names the LM's files, since vLLM would otherwise load every .safetensors file in the folder."""
    save_pretrained(network.lm, tokenizer, folder)
    if not (folder / _INDEX).is_file():
        from safetensors import safe_open

        with safe_open(folder / "model.safetensors", "pt") as tensors:
            names = list(tensors.keys())
        size = (folder / "model.safetensors").stat().st_size
        index = {"metadata": {"total_size": size}, "weight_map": dict.fromkeys(names, "model.safetensors")}
        (folder / _INDEX).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
    weights = {name: tensor.detach().cpu().contiguous() for name, tensor in network.head.state_dict().items()}
    save_file(weights, folder / HEAD)
    (folder / TEMPLATE).write_text(template, encoding="utf-8")
    (folder / CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def read_critique_config(folder: str | Path) -> dict[str, Any]:
    """Read `critique.json`: the kind, the template's name and digest, the token limit of critiques, the settings.

    Raises CannotRun when it cannot be read."""
    file = Path(folder) / CONFIG
    try:
        config: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CannotRun(
            f"{file}: cannot be read ({error}); 'assay train --kind critique-out-loud' writes it"
        ) from error
    return config


def _head_weights(folder: Path) -> dict[str, torch.Tensor]:
    try:
        weights: dict[str, torch.Tensor] = load_file(folder / HEAD)
    except (OSError, SafetensorError) as error:
        raise CannotRun(f"{folder / HEAD}: no reward head: {error}") from error
    return weights


def load_head(head: RewardHead, folder: Path) -> None:
    """Load a trained head. Raises CannotRun where the folder has none, or one of another size."""
    try:
        head.load_state_dict(_head_weights(folder))
    except RuntimeError as error:
        raise CannotRun(f"{folder / HEAD} is not this model's head: {str(error).splitlines()[0]}") from error


def weights_size(folder: str | Path) -> int:
    """The size of the weights in a folder, in bytes."""
    return sum(file.stat().st_size for file in Path(folder).glob("*.safetensors"))


def load_critique_reward_model(folder: str, engine: str) -> CritiqueRewardModel | PooledCritiqueRewardModel:
    """The trained head under transformers, or on vLLM's pooling runner with engine "vllm"."""
    return PooledCritiqueRewardModel(folder) if engine == "vllm" else CritiqueRewardModel(folder)
