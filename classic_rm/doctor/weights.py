"""Are the weights all there, or were they rounded?"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from classic_rm.doctor.loaded_model import Finding, Patient, stored


def check_weights(patient: Patient) -> Iterator[Finding]:
    """Weights of 8 bits or fewer: as the config says, as the files hold them, or by the values they take."""
    told = quantised(patient)
    counts = stored(patient.path)
    few = {name: n for name, n in counts.items() if name in ("I8", "U8", "F8_E4M3", "F8_E5M2", "I32", "U32")}
    method = str(told.get("quant_method", "")) if told else ""
    do = "Compare with the full weights on a benchmark before you trust close pairs."
    if method or few:
        share = sum(few.values()) / max(1, sum(counts.values()))
        held = f"{100 * share:.0f} % of its numbers are stored as {', '.join(few)}" if few else "nothing is stored so"
        unscaled = bool(few) and not method
        yield Finding(
            "weights",
            "fault" if unscaled else "note" if patient.is_judge else "warning",
            f"The config names {f'{_bits(told)}quantisation by {method!r}' if method else 'no quantisation'}, and"
            f" {held}{', which transformers reads without a scale' if unscaled else ''}; what the rounding cost cannot"
            " be measured without the full weights.",
            "Get the full checkpoint, or the quantization_config that belongs to it." if unscaled else do,
        )
        return
    matrices = _matrices(patient)
    tried = len(matrices)
    rounded = [found for matrix in matrices if (found := _grid(matrix))]
    if not rounded:
        kinds = ", ".join(f"{n:,} {name}" for name, n in sorted(counts.items())) or "no safetensors file"
        yield Finding("weights", "ok", f"Stored as {kinds}; {tried} matrices tried are not rounded to 8 bits or fewer.")
        return
    word = Counter(rounded).most_common(1)[0][0]
    whole = len(rounded) > tried // 2 and not patient.is_judge and not patient.statistics
    yield Finding(
        "weights",
        "warning" if whole else "note",
        f"{len(rounded)} of {tried} matrices tried hold values on a grid of {word}, though they are stored as"
        f" {', '.join(sorted(counts)) or 'full numbers'}: they were quantised once and written back.",
        do if whole else "Nothing, where these are the weights that you mean; else get the full ones.",
    )


def quantised(patient: Patient) -> dict[str, Any]:
    """The config's quantization_config; empty where there is none."""
    config: Any = getattr(patient.config, "quantization_config", None) or {}
    told: dict[str, Any] = config if isinstance(config, dict) else config.to_dict()
    return told


def _matrices(patient: Patient) -> list[torch.Tensor]:
    """Up to eight weight matrices of the layers, from first to last."""
    if patient.model is None:
        return []
    found = [
        m.weight
        for m in patient.model.modules()
        if isinstance(m, nn.Linear)
        and isinstance(getattr(m, "weight", None), torch.Tensor)
        and min(m.weight.shape) >= 8
    ]
    found = [w for w in found if w.is_floating_point() and bool(w.any())]
    return found[:: max(1, math.ceil(len(found) / 8))]


def _grid(matrix: torch.Tensor) -> str | None:
    """The grid that a matrix lies on: steps of its rows' (or blocks', or its own) largest value by 127, or few
    values a block. Rounding to bfloat16 afterwards blurs the steps, so their mean distance decides.

    >>> rows = torch.tensor([[127.0, 3.0, -64.0] * 16] * 8)
    >>> _grid(rows), _grid(torch.linspace(-1.0, 0.73, 512).reshape(8, 64) ** 3)
    ('8 bits a row', None)
    """
    part = matrix.detach()[:64].float().cpu()
    kinds = {"row": part, "matrix": part.flatten()[None]}
    if part.shape[1] % 32 == 0:
        kinds["block of 32"] = part.reshape(-1, 32)
    for kind, groups in kinds.items():
        top = matrix.detach().abs().max().float().cpu() if kind == "matrix" else groups.abs().amax(1, keepdim=True)
        steps = groups / top.clamp(min=1e-12) * 127
        if float((steps - steps.round()).abs().mean()) < 0.08:  # 0.25 where values lie anywhere
            return f"8 bits a {kind}"
    blocks = kinds.get("block of 32")
    if blocks is not None and max(len(block.unique()) for block in blocks[:256]) <= 16:
        return "4 bits a block of 32"
    return None


def _bits(told: dict[str, Any]) -> str:
    """'8-bit ' where the config says how many."""
    text = str(told)
    for bits, signs in (
        ("8", ("'num_bits': 8", "'load_in_8bit': True", "'bits': 8", "int8")),
        ("4", ("'num_bits': 4", "'load_in_4bit': True", "'bits': 4", "int4")),
    ):
        if any(sign in text for sign in signs):
            return f"{bits}-bit "
    return ""
