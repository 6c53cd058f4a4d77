"""Doctor check of the weights: quantised checkpoints, and weights that were quantised and written back."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from classic_rm.doctor.loaded_model import Finding, LoadedModel, count_stored_dtypes


def check_weights(loaded: LoadedModel) -> Iterator[Finding]:
    """Find weights of 8 bits or fewer by the config, by the dtypes in the files, or by their values."""
    config = quantization_config(loaded)
    counts = count_stored_dtypes(loaded.path)
    narrow = {name: n for name, n in counts.items() if name in ("I8", "U8", "F8_E4M3", "F8_E5M2", "I32", "U32")}
    method = str(config.get("quant_method", ""))
    advice = "Compare with the full weights on a benchmark before you trust close pairs."
    if method or narrow:
        share = sum(narrow.values()) / max(1, sum(counts.values()))
        stored = (
            f"{100 * share:.0f} % of its numbers are stored as {', '.join(narrow)}"
            if narrow
            else "no number is stored in such a dtype"
        )
        unscaled = bool(narrow) and not method
        yield Finding(
            "weights",
            "fault" if unscaled else "note" if loaded.is_judge else "warning",
            f"The config names {f'{_bits(config)}quantisation by {method!r}' if method else 'no quantisation'}, and"
            f" {stored}{', which transformers reads without a scale' if unscaled else ''}; the effect of the rounding"
            " cannot be measured without the full weights.",
            "Get the full checkpoint, or the quantization_config that belongs to it." if unscaled else advice,
        )
        return
    matrices = _matrices(loaded)
    tried = len(matrices)
    rounded = [grid for matrix in matrices if (grid := _quantisation_grid(matrix))]
    if not rounded:
        dtypes = ", ".join(f"{n:,} {name}" for name, n in sorted(counts.items())) or "no safetensors file"
        yield Finding(
            "weights", "ok", f"Stored as {dtypes}; the {tried} matrices tried are not rounded to 8 bits or fewer."
        )
        return
    grid = Counter(rounded).most_common(1)[0][0]
    suspicious = len(rounded) > tried // 2 and not loaded.is_judge and not loaded.statistics
    yield Finding(
        "weights",
        "warning" if suspicious else "note",
        f"{len(rounded)} of {tried} matrices tried hold values on a grid of {grid}, though they are stored as"
        f" {', '.join(sorted(counts)) or 'full numbers'}: they were quantised and written back.",
        advice if suspicious else "Nothing if you chose these weights; otherwise get the full ones.",
    )


def quantization_config(loaded: LoadedModel) -> dict[str, Any]:
    """The config's quantization_config; empty where there is none."""
    value: Any = getattr(loaded.config, "quantization_config", None) or {}
    config: dict[str, Any] = value if isinstance(value, dict) else value.to_dict()
    return config


def _matrices(loaded: LoadedModel) -> list[torch.Tensor]:
    """Up to eight weight matrices of the layers, from first to last."""
    if loaded.model is None:
        return []
    weights = [
        m.weight
        for m in loaded.model.modules()
        if isinstance(m, nn.Linear)
        and isinstance(getattr(m, "weight", None), torch.Tensor)
        and min(m.weight.shape) >= 8
    ]
    weights = [w for w in weights if w.is_floating_point() and bool(w.any())]
    return weights[:: max(1, math.ceil(len(weights) / 8))]


def _quantisation_grid(matrix: torch.Tensor) -> str | None:
    """The quantisation grid of a matrix's values, or None.

    Values on a grid of 8 bits are multiples of the largest value of their row, block or matrix divided by 127. Rounding
    to bfloat16 afterwards blurs the multiples, so their mean distance from integers decides. On a grid of 4 bits a
    block has at most 16 values.

    >>> rows = torch.tensor([[127.0, 3.0, -64.0] * 16] * 8)
    >>> _quantisation_grid(rows), _quantisation_grid(torch.linspace(-1.0, 0.73, 512).reshape(8, 64) ** 3)
    ('8 bits a row', None)
    """
    sample = matrix.detach()[:64].float().cpu()
    groupings = {"row": sample, "matrix": sample.flatten()[None]}
    if sample.shape[1] % 32 == 0:
        groupings["block of 32"] = sample.reshape(-1, 32)
    for kind, groups in groupings.items():
        top = matrix.detach().abs().max().float().cpu() if kind == "matrix" else groups.abs().amax(1, keepdim=True)
        steps = groups / top.clamp(min=1e-12) * 127
        if float((steps - steps.round()).abs().mean()) < 0.08:  # 0.25 for arbitrary values
            return f"8 bits a {kind}"
    blocks = groupings.get("block of 32")
    if blocks is not None and max(len(block.unique()) for block in blocks[:256]) <= 16:
        return "4 bits a block of 32"
    return None


def _bits(config: dict[str, Any]) -> str:
    """'8-bit ' or '4-bit ' where the config says so, otherwise empty."""
    text = str(config)
    for bits, signs in (
        ("8", ("'num_bits': 8", "'load_in_8bit': True", "'bits': 8", "int8")),
        ("4", ("'num_bits': 4", "'load_in_4bit': True", "'bits': 4", "int4")),
    ):
        if any(sign in text for sign in signs):
            return f"{bits}-bit "
    return ""
