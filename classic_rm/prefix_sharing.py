"""One prompt, many responses, each token once: packed rows and the attention that reads them.

A packed batch is one sequence without padding: row after row, each the prompt and then its responses.
Every response sees its prompt and itself, at the positions it would have alone, so rewards and gradients
are those of the plain way, which computes the prompt again for each response and pads.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention

ATTENTION = "assay_shared_prefix"


@dataclass(frozen=True, slots=True)
class Row:
    """Token ids that several responses begin with, and what follows for each."""

    prefix: Sequence[int]
    suffixes: list[Sequence[int]]

    @property
    def tokens(self) -> int:
        return len(self.prefix) + sum(map(len, self.suffixes))


def share(responses: Sequence[Sequence[int]]) -> Row:
    """The longest common beginning once; every response keeps at least its last token.

    >>> share([[1, 2, 3, 4], [1, 2, 5]])
    Row(prefix=[1, 2], suffixes=[[3, 4], [5]])
    """
    first, limit = responses[0], min(map(len, responses)) - 1
    length = 0
    while length < limit and all(ids[length] == first[length] for ids in responses):
        length += 1
    return Row(first[:length], [ids[length:] for ids in responses])


def pack(rows: Sequence[Row]) -> dict[str, torch.Tensor]:
    """`input_ids` and `position_ids` of shape (1, tokens), and `segments` of shape (responses, 4): where
    each response's prefix begins and ends, and where its own tokens begin and end.

    >>> pack([Row([7, 8], [[1], [2, 3]])])["position_ids"].tolist()
    [[0, 1, 2, 2, 3]]
    """
    ids: list[int] = []
    positions: list[int] = []
    segments: list[list[int]] = []
    for row in rows:
        begin, end = len(ids), len(ids) + len(row.prefix)
        ids += row.prefix
        positions += range(len(row.prefix))
        for suffix in row.suffixes:
            segments.append([begin, end, len(ids), len(ids) + len(suffix)])
            ids += suffix
            positions += range(len(row.prefix), len(row.prefix) + len(suffix))
    return {
        "input_ids": torch.tensor([ids]),
        "position_ids": torch.tensor([positions]),
        "segments": torch.tensor(segments),
    }


class Layout:
    """What attention needs of a packed batch, computed once and used by every layer."""

    def __init__(self, segments: torch.Tensor, tokens: int) -> None:
        self.segments: list[tuple[int, int, int, int]] = [tuple(s) for s in segments.tolist()]
        self.tokens = tokens
        self._masks: dict[tuple[int, int], torch.Tensor] = {}
        self._block_mask: Any = None

    def mask(self, prefix: int, suffix: int, like: torch.Tensor) -> torch.Tensor:
        """Additive, shape (suffix, prefix + suffix): all of the prefix, and the suffix up to oneself."""
        if (prefix, suffix) not in self._masks:
            own = torch.full((suffix, suffix), float("-inf"), dtype=like.dtype, device=like.device).triu(1)
            self._masks[prefix, suffix] = torch.cat([own.new_zeros(suffix, prefix), own], dim=1)
        return self._masks[prefix, suffix]

    def block_mask(self, device: torch.device) -> Any:
        """The same for FlexAttention."""
        if self._block_mask is None:
            from torch.nn.attention.flex_attention import create_block_mask

            self._block_mask = create_block_mask(
                visible(self.segments, self.tokens, device), None, None, self.tokens, self.tokens, device=device
            )
        return self._block_mask


def visible(segments: Sequence[tuple[int, int, int, int]], tokens: int, device: torch.device) -> Any:
    """FlexAttention's `mask_mod`: may the query at one place see the key at another?"""
    row = torch.empty(tokens, dtype=torch.long, device=device)
    part = torch.zeros(tokens, dtype=torch.long, device=device)  # 0 in a prefix, else which response
    for i, (begin, end, start, stop) in enumerate(segments):
        row[begin:end] = begin
        row[start:stop] = begin if end > begin else start
        part[start:stop] = i + 1

    def mask_mod(batch: Any, head: Any, query: Any, key: Any) -> Any:
        inside = (part[key] == 0) | (part[key] == part[query])
        return (row[query] == row[key]) & inside & (key <= query)

    return mask_mod


def shared_prefix_attention(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    layout: Layout | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Attention over a packed batch; shapes (1, heads, tokens, size) in, (1, tokens, heads, size) out.

    Without a layout it is transformers' own SDPA. On a GPU the mask is FlexAttention's, here it is two kinds
    of SDPA call: the prefix by itself, and each response over prefix and itself, so that no time goes
    into what is masked away.
    """
    if layout is None:
        from transformers.integrations.sdpa_attention import sdpa_attention_forward

        found: tuple[torch.Tensor, None] = sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **kwargs
        )
        return found
    for name in ("softcap", "s_aux", "position_bias"):
        if kwargs.get(name) is not None:
            raise ValueError(f"its attention uses {name}")
    if query.is_cuda:
        from transformers.integrations.flex_attention import flex_attention_forward

        output, _ = flex_attention_forward(
            module, query, key, value, layout.block_mask(query.device), scaling=scaling, **kwargs
        )
        return output, None
    shared = {"dropout_p": dropout, "scale": scaling, "enable_gqa": query.shape[1] != key.shape[1]}
    pieces: list[torch.Tensor] = []
    done = -1
    for begin, end, start, stop in layout.segments:
        if end > begin and begin != done:
            done = begin
            part = slice(begin, end)
            pieces.append(
                scaled_dot_product_attention(
                    query[:, :, part], key[:, :, part], value[:, :, part], is_causal=True, **shared
                )
            )
        own = slice(start, stop)
        if end == begin:
            pieces.append(
                scaled_dot_product_attention(
                    query[:, :, own], key[:, :, own], value[:, :, own], is_causal=True, **shared
                )
            )
            continue
        pieces.append(
            scaled_dot_product_attention(
                query[:, :, own],
                torch.cat([key[:, :, begin:end], key[:, :, own]], dim=2),
                torch.cat([value[:, :, begin:end], value[:, :, own]], dim=2),
                attn_mask=layout.mask(end - begin, stop - start, query),
                **shared,
            )
        )
    return torch.cat(pieces, dim=2).transpose(1, 2).contiguous(), None


def hidden_states(backbone: Any, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """The last layer's states at each response's last token, shape (responses, size)."""
    segments = batch["segments"]
    layout = Layout(segments, batch["input_ids"].shape[1])
    # A mask of four dimensions is taken as it is: the layout says what is seen.
    as_it_is = torch.zeros(1, 1, 1, 1, device=segments.device)
    states = backbone(
        input_ids=batch["input_ids"],
        position_ids=batch["position_ids"],
        attention_mask=as_it_is,
        use_cache=False,
        layout=layout,
    ).last_hidden_state
    result: torch.Tensor = states[0, segments[:, 3] - 1]
    return result


def allow_sharing(model: Any, max_length: int) -> str | None:
    """Switch a decoder to this attention; the reason when it cannot be, with the model left as it was.

    Whether a model passes what attention needs, and uses nothing that this attention does not know, is
    found out by running both ways on a few tokens.
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
    before, training = model.config._attn_implementation, model.training
    ids = torch.randint(0, min(1000, model.config.vocab_size), (12,), generator=torch.Generator().manual_seed(0))
    row = Row(ids[:5].tolist(), [ids[5:8].tolist(), ids[8:].tolist()])
    batch = {name: tensor.to(model.device) for name, tensor in pack([row, row]).items()}
    model.eval()
    try:
        with torch.no_grad():
            plain = [
                backbone(torch.tensor([[*row.prefix, *s]], device=model.device), use_cache=False).last_hidden_state[
                    0, -1
                ]
                for s in row.suffixes
            ]
            model.set_attn_implementation(ATTENTION)
            packed = hidden_states(backbone, batch)
        expected = torch.stack(plain * 2)
        near = 1e-3 if expected.dtype == torch.float32 else 5e-2
        if torch.allclose(packed, expected, atol=near * float(expected.abs().max()), rtol=0):
            return None
        reason = "its hidden states differ when a prompt is shared"
    except (TypeError, ValueError, RuntimeError) as error:
        told = str(error).splitlines() or [type(error).__name__]
        reason = f"it does not take a packed batch ({told[0][:80]})"
    finally:
        model.train(training)
    model.set_attn_implementation(before)
    return reason
