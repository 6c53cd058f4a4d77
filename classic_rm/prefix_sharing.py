"""Prefix-sharing attention: responses to one prompt are packed so that the prompt is computed once.

A packed batch is one sequence without padding. It holds, for each prompt, the prompt's tokens and then the tokens of
each of its responses. A response attends to its prompt and to itself, at the positions it would have without packing,
so rewards and gradients equal those of padded rows that repeat the prompt for each response.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention

ATTENTION = "assay_shared_prefix"


@dataclass(frozen=True, slots=True)
class PrefixGroup:
    """Token ids that several responses begin with (`prefix`), and what follows for each of them (`suffixes`)."""

    prefix: Sequence[int]
    suffixes: list[Sequence[int]]

    @property
    def tokens(self) -> int:
        """The number of tokens in a packed batch."""
        return len(self.prefix) + sum(map(len, self.suffixes))


def split_prefix(responses: Sequence[Sequence[int]]) -> PrefixGroup:
    """Split off the longest common prefix of token sequences; every suffix keeps at least one token.

    >>> split_prefix([[1, 2, 3, 4], [1, 2, 5]])
    PrefixGroup(prefix=[1, 2], suffixes=[[3, 4], [5]])
    """
    first, limit = responses[0], min(map(len, responses)) - 1
    length = 0
    while length < limit and all(ids[length] == first[length] for ids in responses):
        length += 1
    return PrefixGroup(first[:length], [ids[length:] for ids in responses])


def pack(groups: Sequence[PrefixGroup]) -> dict[str, torch.Tensor]:
    """Pack groups into one sequence.

    Returns `input_ids` and `position_ids` of shape (1, tokens), and `segments` of shape (responses, 4), all int64.
    A row of `segments` is (prefix start, prefix end, suffix start, suffix end), the ends exclusive.

    >>> pack([PrefixGroup([7, 8], [[1], [2, 3]])])["position_ids"].tolist()
    [[0, 1, 2, 2, 3]]
    """
    ids: list[int] = []
    positions: list[int] = []
    segments: list[list[int]] = []
    for group in groups:
        prefix_start, prefix_end = len(ids), len(ids) + len(group.prefix)
        ids += group.prefix
        positions += range(len(group.prefix))
        for suffix in group.suffixes:
            segments.append([prefix_start, prefix_end, len(ids), len(ids) + len(suffix)])
            ids += suffix
            positions += range(len(group.prefix), len(group.prefix) + len(suffix))
    return {
        "input_ids": torch.tensor([ids]),
        "position_ids": torch.tensor([positions]),
        "segments": torch.tensor(segments),
    }


class PackedLayout:
    """The segments of a packed batch and their attention masks, computed once and used by every layer."""

    def __init__(self, segments: torch.Tensor, tokens: int) -> None:
        self.segments: list[tuple[int, int, int, int]] = [tuple(s) for s in segments.tolist()]
        self.tokens = tokens
        self._masks: dict[tuple[int, int], torch.Tensor] = {}
        self._block_mask: Any = None

    def mask(self, prefix: int, suffix: int, like: torch.Tensor) -> torch.Tensor:
        """Additive mask of shape (suffix, prefix + suffix): full over the prefix, causal over the suffix."""
        if (prefix, suffix) not in self._masks:
            causal = torch.full((suffix, suffix), float("-inf"), dtype=like.dtype, device=like.device).triu(1)
            self._masks[prefix, suffix] = torch.cat([causal.new_zeros(suffix, prefix), causal], dim=1)
        return self._masks[prefix, suffix]

    def block_mask(self, device: torch.device) -> Any:
        """The mask of the whole batch for FlexAttention."""
        if self._block_mask is None:
            from torch.nn.attention.flex_attention import create_block_mask

            mask_mod = packed_mask_mod(self.segments, self.tokens, device)
            self._block_mask = create_block_mask(mask_mod, None, None, self.tokens, self.tokens, device=device)
        return self._block_mask


def packed_mask_mod(segments: Sequence[tuple[int, int, int, int]], tokens: int, device: torch.device) -> Any:
    """FlexAttention's `mask_mod` of a packed batch: whether the query at one index may attend to the key at another."""
    group_id = torch.empty(tokens, dtype=torch.long, device=device)
    response_id = torch.zeros(tokens, dtype=torch.long, device=device)  # 0 in a prefix
    for i, (prefix_start, prefix_end, start, end) in enumerate(segments):
        group_id[prefix_start:prefix_end] = prefix_start
        group_id[start:end] = prefix_start if prefix_end > prefix_start else start
        response_id[start:end] = i + 1

    def mask_mod(batch: Any, head: Any, query: Any, key: Any) -> Any:
        in_prefix_or_response = (response_id[key] == 0) | (response_id[key] == response_id[query])
        return (group_id[query] == group_id[key]) & in_prefix_or_response & (key <= query)

    return mask_mod


def shared_prefix_attention(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    layout: PackedLayout | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Attention over a packed batch, with the signature of transformers' `AttentionInterface`.

    `query` has the shape (1, heads, tokens, head size), `key` and `value` the shape (1, key-value heads, tokens, head
    size); the result has the shape (1, tokens, heads, head size). Without a layout it is transformers' own SDPA. On a
    GPU it is FlexAttention. On a CPU it is one SDPA call for each prefix and one for each response over its prefix and
    itself, so that no time is spent on masked entries.

    Raises ValueError for an attention feature that it does not implement.
    """
    if layout is None:
        from transformers.integrations.sdpa_attention import sdpa_attention_forward

        result: tuple[torch.Tensor, None] = sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **kwargs
        )
        return result
    for name in ("softcap", "s_aux", "position_bias"):
        if kwargs.get(name) is not None:
            raise ValueError(f"its attention uses {name}")
    if query.is_cuda:
        from transformers.integrations.flex_attention import flex_attention_forward

        output, _ = flex_attention_forward(
            module, query, key, value, layout.block_mask(query.device), scaling=scaling, **kwargs
        )
        return output, None
    options = {"dropout_p": dropout, "scale": scaling, "enable_gqa": query.shape[1] != key.shape[1]}

    def causal(span: slice) -> torch.Tensor:
        return scaled_dot_product_attention(
            query[:, :, span], key[:, :, span], value[:, :, span], is_causal=True, **options
        )

    outputs: list[torch.Tensor] = []
    last_prefix = -1
    for prefix_start, prefix_end, start, end in layout.segments:
        prefix, suffix = slice(prefix_start, prefix_end), slice(start, end)
        if prefix_end == prefix_start:
            outputs.append(causal(suffix))
            continue
        if prefix_start != last_prefix:
            last_prefix = prefix_start
            outputs.append(causal(prefix))
        outputs.append(
            scaled_dot_product_attention(
                query[:, :, suffix],
                torch.cat([key[:, :, prefix], key[:, :, suffix]], dim=2),
                torch.cat([value[:, :, prefix], value[:, :, suffix]], dim=2),
                attn_mask=layout.mask(prefix_end - prefix_start, end - start, query),
                **options,
            )
        )
    return torch.cat(outputs, dim=2).transpose(1, 2).contiguous(), None


def packed_last_token_states(backbone: Any, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """The last layer's hidden states at each response's last token, shape (responses, hidden size)."""
    segments = batch["segments"]
    layout = PackedLayout(segments, batch["input_ids"].shape[1])
    # transformers passes a mask of four dimensions on unchanged; the layout decides what is visible.
    unused_mask = torch.zeros(1, 1, 1, 1, device=segments.device)
    states = backbone(
        input_ids=batch["input_ids"],
        position_ids=batch["position_ids"],
        attention_mask=unused_mask,
        use_cache=False,
        layout=layout,
    ).last_hidden_state
    result: torch.Tensor = states[0, segments[:, 3] - 1]
    return result


def enable_prefix_sharing(model: Any, max_length: int) -> str | None:
    """Switch a decoder to prefix-sharing attention.

    Returns None, or the reason why it is not possible; the model is unchanged then. Whether a model passes the layout
    on and uses no unsupported attention feature is tested by comparing both ways on a few tokens.
    """
    from transformers import AttentionInterface
    from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

    window = getattr(model.config, "sliding_window", None)
    if window and getattr(model.config, "use_sliding_window", True) and window < max_length:
        return f"its attention sees only {window} tokens back"
    if not getattr(model, "_supports_attention_backend", False):
        return "its attention cannot be replaced"
    AttentionInterface.register(ATTENTION, shared_prefix_attention)
    AttentionMaskInterface.register(ATTENTION, sdpa_mask)
    backbone = getattr(model, model.base_model_prefix)
    previous, training = model.config._attn_implementation, model.training
    ids = torch.randint(0, min(1000, model.config.vocab_size), (12,), generator=torch.Generator().manual_seed(0))
    group = PrefixGroup(ids[:5].tolist(), [ids[5:8].tolist(), ids[8:].tolist()])
    batch = {name: tensor.to(model.device) for name, tensor in pack([group, group]).items()}
    unpacked = [torch.tensor([[*group.prefix, *suffix]], device=model.device) for suffix in group.suffixes]
    model.eval()
    try:
        with torch.no_grad():
            expected = torch.stack(2 * [backbone(row, use_cache=False).last_hidden_state[0, -1] for row in unpacked])
            model.set_attn_implementation(ATTENTION)
            packed = packed_last_token_states(backbone, batch)
        tolerance = 1e-3 if expected.dtype == torch.float32 else 5e-2
        if torch.allclose(packed, expected, atol=tolerance * float(expected.abs().max()), rtol=0):
            return None
        reason = "its hidden states differ when a prompt is shared"
    except (TypeError, ValueError, RuntimeError) as error:
        message = str(error).splitlines() or [type(error).__name__]
        reason = f"it does not take a packed batch ({message[0][:80]})"
    finally:
        model.train(training)
    model.set_attn_implementation(previous)
    return reason
