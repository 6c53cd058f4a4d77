"""Doctor checks of the rewards: the head, the position they are read at, batch size, padding, dtype, ties, Assay."""

from __future__ import annotations

import math
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any, Literal

import torch

from classic_rm.doctor.loaded_model import (
    Finding,
    Level,
    LoadedModel,
    ModelError,
    first_line,
    fits_in_memory,
    measure_shift,
)
from classic_rm.doctor.texts import CONVERSATIONS
from classic_rm.doctor.weights import quantization_config
from classic_rm.model import pad_rows, reward_head
from classic_rm.reward_model import RewardModel
from judges.errors import CannotRun

PIPELINES = "Read the raw logit: transformers' pipeline and vLLM's classify put a sigmoid over it by default."
NO_EFFECT = "no token changes it"
PROBE, PADDED = 10, 14  # lengths of the row in which every token is replaced, and of the row that pads it
SIDES: tuple[Literal["right"], Literal["left"]] = ("right", "left")


def check_head(loaded: LoadedModel) -> Iterator[Finding]:
    findings = list(_head_findings(loaded))
    yield from findings
    if all(finding.level == "note" for finding in findings):
        low, high = min(loaded.reference), max(loaded.reference)
        yield Finding(
            "head",
            "ok",
            f"One label, in the checkpoint; rewards of 8 texts range from {low:.3g} to {high:.3g}.",
            PIPELINES,
        )


def _head_findings(loaded: LoadedModel) -> Iterator[Finding]:
    missing = sorted(loaded.loading_info.get("missing_keys", ()))
    unused = sorted(loaded.loading_info.get("unexpected_keys", ()))
    if missing:
        also = f" and has {_join_keys(unused)}, which are not used" if unused else ""
        yield Finding(
            "head",
            "fault",
            f"The checkpoint has no {_join_keys(missing)}{also}: transformers initialises them at random, so every load"
            " gives other rewards.",
            "Use the checkpoint that has the head, or the class (--remote-code) that its authors load it with.",
        )
    elif unused:
        harmless = all(key.startswith("lm_head.") for key in unused)  # left over from the language model
        yield Finding(
            "head",
            "note" if harmless else "warning",
            f"The checkpoint has {_join_keys(unused)}, which {type(loaded.model).__name__} does not use.",
            "Nothing."
            if harmless
            else "Load it with the class that its authors use (--remote-code, if it is custom code).",
        )
    labels, heads = loaded.config.num_labels, loaded.statistics.get("heads", 1)
    if not loaded.custom_code and labels != heads:
        yield Finding(
            "head",
            "fault",
            f"The head has {labels} labels, a reward model has one; the other checks read the first.",
            "Assay does not load it: ask its authors which label, or which difference of labels, is the reward.",
        )
    values = loaded.reference
    try:
        weight = reward_head(loaded.model).weight
        zero = not bool(weight.any())
    except (CannotRun, AttributeError):  # a head of several layers in custom code
        zero = False
    if not all(map(math.isfinite, values)):
        bad = sum(not math.isfinite(v) for v in values)
        yield Finding(
            "head",
            "fault",
            f"{bad} of {len(values)} rewards are not finite numbers.",
            "Load it with dtype=float32; where that does not help, the weights are damaged.",
        )
    elif zero or max(values) == min(values):
        yield Finding(
            "head",
            "fault",
            f"{'All weights of the head are 0, and' if zero else 'The head always gives one number:'} the rewards of"
            f" {len(values)} different texts are all {values[0]:.3g}.",
            "Use a trained checkpoint: this one gives all texts the same reward."
            if zero or loaded.model.dtype == torch.float32
            else f"See ties: {_dtype_name(loaded.model.dtype)} may be the only reason.",
        )


def check_reward_position(loaded: LoadedModel) -> Iterator[Finding]:
    """Replace the embedding of each token of a padded row in turn, and see which tokens change the reward."""
    if loaded.tokenizer.pad_token_id is None:
        yield Finding("position", "note", "The reading position was not tested: there is no pad token.", "See pad.")
        return
    positions: dict[str, tuple[str, bool]] = {}
    try:
        for side in SIDES:
            positions[side] = _reading_position(loaded, side)
    except ModelError as error:
        level: Level = "note" if loaded.custom_code else "warning"  # which may require its template's tokens
        yield Finding("position", level, f"A padded batch of ordinary tokens fails: {error}.", "See pad.")
        return
    wrong = [side for side in SIDES if not positions[side][1]]
    what = "; ".join(f"padded on the {side}, {positions[side][0]}" for side in SIDES)
    if all(positions[side][0] == NO_EFFECT for side in SIDES):
        yield Finding("position", "note", "The reading position is unknown: no token changes the reward.", "See head.")
        return
    if not wrong:
        yield Finding("position", "ok", f"The reward is read at the right token: {what}.")
        return
    level, advice = _padding_advice(loaded, wrong)
    sides = " and ".join(wrong)
    yield Finding("position", level, f"Padded on the {sides}, the reward is read at the wrong token: {what}.", advice)


def _reading_position(loaded: LoadedModel, side: str) -> tuple[str, bool]:
    """Which tokens change the reward, in words, and whether the position is right: the last token and no padding."""
    tokenizer, size = loaded.tokenizer, PADDED
    special = {*tokenizer.all_special_ids, *tokenizer.added_tokens_decoder}
    ordinary = [i for i in range(loaded.model.get_input_embeddings().weight.shape[0]) if i not in special]
    middle = ordinary[len(ordinary) // 2 :] if len(ordinary) > 2 * size + 2 else ordinary * size
    ids = middle[: size + 1]
    rows = [ids[:PROBE]] * (size + 1) + [ids[:size]]
    batch = pad_rows(rows, tokenizer.pad_token_id, side)
    embedding = loaded.model.get_input_embeddings()

    def replace(_: Any, __: Any, output: torch.Tensor) -> torch.Tensor:
        changed = output.clone()
        replacement = embedding.weight[ids[size]].to(output) * 3  # large enough for an effect in bfloat16
        for index in range(size):
            changed[index, index] = replacement - output[index, index]
        return changed

    hook = embedding.register_forward_hook(replace)
    try:
        values = loaded.logits(batch)[:, 0].tolist()
    finally:
        hook.remove()
    change = [abs(v - values[size]) for v in values[:size]]
    effective = [index for index in range(size) if not change[index] <= 1e-4 * max(change)]
    first = 0 if side == "right" else size - PROBE
    tokens = [index - first for index in effective if 0 <= index - first < PROBE]
    padding = len(effective) - len(tokens)
    last = max(tokens, default=-1) + 1
    if not effective:
        return NO_EFFECT, False
    if padding:
        return f"{padding} of {size - PROBE} padding tokens change it", False
    return f"token {last} of {PROBE} is the last that changes it", last == PROBE


def _padding_advice(loaded: LoadedModel, wrong: Sequence[str]) -> tuple[Level, str]:
    """The severity and advice for wrong padding sides: a fault for the tokenizer's side, a note for encoders."""
    own = loaded.tokenizer.padding_side
    other = "left" if list(wrong) == ["right"] else "right"
    if own in wrong:
        return "fault", f"Set the tokenizer's padding_side to {other}." if len(wrong) == 1 else "See pad."
    if not loaded.decoder and not loaded.custom_code:
        return "note", "Pad an encoder on the right, as Assay always does."
    return "warning", f"Pad on the {other} only, or score row by row; RewardBench's command pads on the left."


def check_batch(loaded: LoadedModel) -> Iterator[Finding]:
    """Compare batches of 1, 3 and 8 padded on the tokenizer's side, and of 3 padded on the other side."""
    own = loaded.tokenizer.padding_side
    pad = loaded.tokenizer.pad_token_id
    try:
        readable = loaded.decoder and not any(pad in row.ids for row in loaded.rows)
        unpadded = (
            loaded.reference if readable else loaded.rewards(loaded.rows)
        )  # otherwise transformers reads another token
        three, eight = (loaded.compare(unpadded, loaded.rewards(loaded.rows, size, own)) for size in (3, 8))
    except ModelError as error:
        yield Finding(
            "batch",
            "fault",
            f"A batch of rows of different lengths fails: {error}.",
            "See pad; until then score with batches of 1.",
        )
        return
    worst = max(three, eight, key=lambda m: m.share)
    yield Finding(
        "batch",
        worst.level,
        f"Padded on the {own}, the tokenizer's side, rewards of batches of 3 and 8 differ from those of batches of 1"
        f" {worst}.",
        "Nothing." if worst.level == "ok" else _batch_advice(loaded),
    )
    side = "left" if own == "right" else "right"
    try:
        shift = loaded.compare(unpadded, loaded.rewards(loaded.rows, 3, side))
    except ModelError as error:
        yield Finding("padding", "warning", f"Padded on the {side} it fails: {error}.", f"Pad on the {own}.")
        return
    level, advice = shift.level, "Nothing."
    if level in ("warning", "fault"):
        level, advice = _padding_advice(loaded, [side])
    yield Finding(
        "padding",
        level,
        f"Padded on the {side} instead, rewards of batches of 3 differ from those of batches of 1 {shift}.",
        advice,
    )


def _batch_advice(loaded: LoadedModel) -> str:
    if str(loaded.model.dtype) != "torch.float32":
        dtype = _dtype_name(loaded.model.dtype)
        return f"Load it in float32, as Assay does; in {dtype} the batch size changes the order of close pairs."
    return "See pad and position; if both are right, score with batches of 1 and report it to its authors."


def check_dtype(loaded: LoadedModel) -> Iterator[Finding]:
    """Compare the checkpoint's dtype with float32 and count exact ties. Leaves the weights in float32."""
    dtype = _dtype_name(loaded.model.dtype)
    try:
        short, before = loaded.score_short_texts(), loaded.reference
        tied, total = _count_ties(short), len(short)
        narrow = dtype != "float32"
        wide = loaded.score_short_texts(total) if narrow and loaded.upcast() else None
        if wide is not None:
            loaded.reference = loaded.run_unpadded(loaded.rows)  # compared with Assay's rewards
    except ModelError as error:
        yield Finding("dtype", "warning", f"The short texts could not be scored: {error}.", "See head.")
        return
    if not narrow:
        yield Finding("dtype", "ok", "The checkpoint's dtype is float32.")
    elif wide is None:
        yield Finding(
            "dtype",
            "note",
            f"It runs in {dtype}, and could not be compared with float32 here (quantised, or too little memory).",
            "Compare dtype=float32 on a benchmark with more memory.",
        )
    else:
        short_shift, shift = measure_shift(wide, short), measure_shift(loaded.reference, before)
        yield Finding(
            "dtype",
            max(short_shift, shift, key=lambda m: m.share).level,
            f"The checkpoint's dtype is {dtype}, and its rewards of {total} short texts differ from those in float32"
            f" {short_shift}.",
            "Score with dtype=float32, Assay's default, where pairs are close.",
        )
    level: Level = "ok" if not tied else "note" if tied <= total // 32 else "warning" if tied < total // 4 else "fault"
    in_float32 = f"; in float32 {_count_ties(wide)}" if wide is not None else ""
    yield Finding(
        "ties",
        level,
        f"{tied} of {total} different short texts share their reward exactly with another ({len(set(short))} values)"
        f"{in_float32}.",
        "Nothing."
        if not tied
        else "Score with dtype=float32, Assay's default: a tie counts as wrong on RewardBench."
        if narrow
        else "See head and weights: float32 has room for more values than that.",
    )


def _count_ties(values: list[float]) -> int:
    return sum(n for n in Counter(values).values() if n > 1)


def check_assay(loaded: LoadedModel) -> Iterator[Finding]:
    """Compare Assay's rewards, packed and padded on either side, with row by row. Releases the loaded weights first."""
    reference = loaded.reference
    size = sum(p.numel() for p in loaded.model.parameters())
    dtype = _dtype_name(loaded.model.dtype)
    loaded.free()
    dtype = "float32" if fits_in_memory(4 * size) or dtype not in ("bfloat16", "float16") else dtype
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the other checks have reported it
            model = RewardModel(loaded.name, dtype=dtype, remote_code=loaded.remote_code)
        ids = [loaded.assay_ids(*pair) for pair in CONVERSATIONS]
        groups_by_way = {"packed": model.rewards([[row] for row in ids])}
        unshared_reason, model.unshared_reason = model.unshared_reason, "padding is tested"
        for side in SIDES if model.network.decoder else SIDES[:1]:
            model.padding_side, model.batch_size = side, 3 if side == "left" else 8
            groups_by_way[side] = model.rewards([[row] for row in ids])
        model.close()
    except CannotRun as error:
        yield Finding(
            "assay",
            "warning",
            f"Assay does not load it: {error}.",
            "See head; the models in Assay's catalog are in 'assay models list'.",
        )
        return
    except Exception as error:  # custom code may raise anything
        advice = "Get the full weights." if quantization_config(loaded) else "Report it to Assay with the model's name."
        yield Finding("assay", "warning", f"Assay cannot run it: {first_line(error)}.", advice)
        return
    values = {way: [group[0][0] for group in groups] for way, groups in groups_by_way.items()}
    worst = max((measure_shift(reference, rewards) for rewards in values.values()), key=lambda m: m.share)
    sharing = f"did not share prompts ({unshared_reason})" if unshared_reason else "computed each prompt once"
    if worst.level in ("ok", "note"):
        yield Finding(
            "assay",
            worst.level,
            f"Assay's rewards in {dtype}, packed and padded, differ from row by row {worst}; it {sharing}.",
            "Nothing.",
        )
    else:
        again = _reload_rewards(loaded)
        random = again is not None and measure_shift(reference, again).level not in ("ok", "note")
        yield Finding(
            "assay",
            "fault",
            f"Loaded twice by transformers, the rewards differ {measure_shift(reference, again or reference)}."
            if random
            else f"Assay's rewards in {dtype} differ from row by row {worst}.",
            "See head: weights are initialised at random at each load."
            if random
            else "Report it to Assay with the model's name.",
        )


def _reload_rewards(loaded: LoadedModel) -> list[float] | None:
    """The rewards after loading the model again in float32; None when it fails."""
    try:
        loaded.load()
        loaded.upcast()
        values: list[float] = loaded.run_unpadded(loaded.rows)
        return values
    except ModelError:
        return None
    finally:
        loaded.free()


def _join_keys(keys: list[str]) -> str:
    return ", ".join(keys[:3]) + (f" and {len(keys) - 3} more" if len(keys) > 3 else "")


def _dtype_name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
