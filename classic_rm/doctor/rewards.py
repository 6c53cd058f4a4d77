"""Checks of what a reward model gives: its head, where it is read, what moves it, its dtype, and Assay's reading."""

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
    Patient,
    Refused,
    first_line,
    moved,
    room_for,
)
from classic_rm.doctor.texts import CONVERSATIONS
from classic_rm.doctor.weights import quantised
from classic_rm.model import head, pad_rows
from classic_rm.reward_model import RewardModel
from judges.errors import CannotRun

PIPELINES = "Read the raw logit: transformers' pipeline and vLLM's classify put a sigmoid over it unless told not to."
NOTHING = "no token moves it"
PROBE, PADDED = 10, 14  # tokens of the row whose every place is changed, and of the longer one beside it
SIDES: tuple[Literal["right"], Literal["left"]] = ("right", "left")


def check_head(patient: Patient) -> Iterator[Finding]:
    found = list(_head_faults(patient))
    yield from found
    if all(finding.level == "note" for finding in found):
        low, high = min(patient.alone), max(patient.alone)
        yield Finding(
            "head",
            "ok",
            f"One label, in the checkpoint; rewards of 8 texts lie from {low:.3g} to {high:.3g}.",
            PIPELINES,
        )


def _head_faults(patient: Patient) -> Iterator[Finding]:
    missing = sorted(patient.loading.get("missing_keys", ()))
    unread = sorted(patient.loading.get("unexpected_keys", ()))
    if missing:
        also = f", while it holds {_some(unread)} that nothing reads" if unread else ""
        yield Finding(
            "head",
            "fault",
            f"The checkpoint has no {_some(missing)}{also}: transformers draws fresh ones, so every load gives other"
            " rewards.",
            "Use the checkpoint that has the head, or the class (--remote-code) that its authors load it with.",
        )
    elif unread:
        harmless = all(key.startswith("lm_head.") for key in unread)  # of the language model that it was
        yield Finding(
            "head",
            "note" if harmless else "warning",
            f"The checkpoint holds {_some(unread)} that {type(patient.model).__name__} does not read.",
            "Nothing."
            if harmless
            else "Load it with the class that its authors use (--remote-code, where it is code of their own).",
        )
    labels, heads = patient.config.num_labels, patient.statistics.get("heads", 1)
    if not patient.own_code and labels != heads:
        yield Finding(
            "head",
            "fault",
            f"The head has {labels} labels, a reward model has one; the other checks read the first.",
            "Assay does not load it: ask its authors which label, or which difference of labels, is the reward.",
        )
    values = patient.alone
    try:
        weight = head(patient.model).weight
        zero = not bool(weight.any())
    except (CannotRun, AttributeError):  # a head of several layers, in code of its own
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
            f"{'All weights of the head are 0, and' if zero else 'The head gives one number:'} the rewards of"
            f" {len(values)} different texts are all {values[0]:.3g}.",
            "Use a trained checkpoint: this one tells nothing apart."
            if zero or patient.model.dtype == torch.float32
            else f"See ties: {_word(patient.model.dtype)} may be all that is in the way.",
        )


def check_place(patient: Patient) -> Iterator[Finding]:
    """Each token of a short row, padded beside a longer one, is replaced in turn behind the embedding."""
    if patient.tokenizer.pad_token_id is None:
        yield Finding("place", "note", "Where a padded row is read was not tried: there is no pad token.", "See pad.")
        return
    told: dict[str, tuple[str, bool]] = {}
    try:
        for side in SIDES:
            told[side] = _place(patient, side)
    except Refused as error:
        level: Level = "note" if patient.own_code else "warning"  # which may want its own template's tokens
        yield Finding("place", level, f"A padded batch of plain tokens fails: {error}.", "See pad.")
        return
    wrong = [side for side in SIDES if not told[side][1]]
    what = "; ".join(f"padded on the {side}, {told[side][0]}" for side in SIDES)
    if all(told[side][0] == NOTHING for side in SIDES):
        yield Finding("place", "note", "Where the reward is read cannot be seen: no token moves it.", "See head.")
        return
    if not wrong:
        yield Finding("place", "ok", f"The reward is read where it should be: {what}.")
        return
    level, do = _by_side(patient, wrong)
    where = " and ".join(wrong)
    yield Finding("place", level, f"Padded on the {where}, the reward is read at the wrong place: {what}.", do)


def _place(patient: Patient, side: str) -> tuple[str, bool]:
    """(what moves the reward, whether that is every token and no padding)."""
    tokenizer, size = patient.tokenizer, PADDED
    odd = {*tokenizer.all_special_ids, *tokenizer.added_tokens_decoder}
    plain = [i for i in range(patient.model.get_input_embeddings().weight.shape[0]) if i not in odd]
    ids = plain[len(plain) // 2 :][: size + 1] if len(plain) > 2 * size + 2 else (plain * size)[: size + 1]
    rows = [ids[:PROBE]] * (size + 1) + [ids[:size]]
    batch = pad_rows(rows, tokenizer.pad_token_id, side)
    embedding = patient.model.get_input_embeddings()

    def replace(_: Any, __: Any, output: torch.Tensor) -> torch.Tensor:
        changed = output.clone()
        other = embedding.weight[ids[size]].to(output) * 3  # far enough to be seen in bfloat16
        for place in range(size):
            changed[place, place] = other - output[place, place]
        return changed

    hook = embedding.register_forward_hook(replace)
    try:
        values = patient.logits(batch)[:, 0].tolist()
    finally:
        hook.remove()
    change = [abs(v - values[size]) for v in values[:size]]
    moves = [place for place in range(size) if not change[place] <= 1e-4 * max(change)]
    first = 0 if side == "right" else size - PROBE
    tokens = [place - first for place in moves if 0 <= place - first < PROBE]
    padding = len(moves) - len(tokens)
    last = max(tokens, default=-1) + 1
    if not moves:
        return NOTHING, False
    if padding:
        return f"{padding} of {size - PROBE} padding tokens move it", False
    return f"token {last} of {PROBE} is the last that moves it", last == PROBE


def _by_side(patient: Patient, wrong: Sequence[str]) -> tuple[Level, str]:
    """A side that the tokenizer itself pads on is a fault; an encoder is padded on the right by who knows it."""
    own = patient.tokenizer.padding_side
    other = "left" if list(wrong) == ["right"] else "right"
    if own in wrong:
        return "fault", f"Set the tokenizer's padding_side to {other}." if len(wrong) == 1 else "See pad."
    if not patient.decoder and not patient.own_code:
        return "note", "Pad an encoder on the right, as Assay does whatever it is told."
    return "warning", f"Pad on the {other} only, or score row by row; RewardBench's command pads on the left."


def check_batch(patient: Patient) -> Iterator[Finding]:
    """Batches of 1, 3 and 8 on the tokenizer's own padding side, and of 3 on the other."""
    own = patient.tokenizer.padding_side
    pad = patient.tokenizer.pad_token_id
    try:
        apart = patient.decoder and not any(pad in row.ids for row in patient.rows)
        plain = patient.alone if apart else patient.rewards(patient.rows)  # else transformers reads another token
        three, eight = (patient.apart(plain, patient.rewards(patient.rows, size, own)) for size in (3, 8))
    except Refused as error:
        yield Finding(
            "batch", "fault", f"A batch of unequal rows fails: {error}.", "See pad; until then score with batches of 1."
        )
        return
    worst = max(three, eight, key=lambda m: m.share)
    yield Finding(
        "batch",
        worst.level,
        f"Padded on the {own}, the tokenizer's side, rewards of batches of 3 and 8 differ from those of batches of 1"
        f" {worst}.",
        "Nothing." if worst.level == "ok" else _moving(patient, "batch size"),
    )
    side = "left" if own == "right" else "right"
    try:
        other = patient.apart(plain, patient.rewards(patient.rows, 3, side))
    except Refused as error:
        yield Finding("padding", "warning", f"Padded on the {side} it fails: {error}.", f"Pad on the {own}.")
        return
    level, do = other.level, "Nothing."
    if level in ("warning", "fault"):
        level, do = _by_side(patient, [side])
    yield Finding(
        "padding",
        level,
        f"Padded on the {side} instead, rewards of batches of 3 differ from those of batches of 1 {other}.",
        do,
    )


def _moving(patient: Patient, what: str) -> str:
    if str(patient.model.dtype) != "torch.float32":
        return f"Load it in float32, as Assay does; in {_word(patient.model.dtype)} the {what} decides close pairs."
    return "See pad and place; where both are right, score with batches of 1 and report it to its authors."


def check_dtype(patient: Patient) -> Iterator[Finding]:
    """What the checkpoint's own dtype costs against float32, and exact ties. Leaves the weights in float32."""
    dtype = _word(patient.model.dtype)
    try:
        short, before = patient.short(), patient.alone
        same, of = _ties(short), len(short)
        narrow = dtype != "float32"
        wide = patient.short(of) if narrow and patient.widen() else None
        if wide is not None:
            patient.alone = patient.read(patient.rows)  # what Assay's own rewards are held against
    except Refused as error:
        yield Finding("dtype", "warning", f"The short texts could not be scored: {error}.", "See head.")
        return
    if not narrow:
        yield Finding("dtype", "ok", "The checkpoint's dtype is float32.")
    elif wide is None:
        yield Finding(
            "dtype",
            "note",
            f"It runs in {dtype}, and could not be held against float32 here (quantised, or too little memory).",
            "Compare dtype=float32 on a benchmark where there is room.",
        )
    else:
        far, eight = moved(wide, short), moved(patient.alone, before)
        yield Finding(
            "dtype",
            max(far, eight, key=lambda m: m.share).level,
            f"The checkpoint's dtype is {dtype}, and its rewards of {of} short texts differ from float32 {far}.",
            "Score with dtype=float32, Assay's default, where pairs are close.",
        )
    level: Level = "ok" if not same else "note" if same <= of // 32 else "warning" if same < of // 4 else "fault"
    then = f"; in float32 {_ties(wide)}" if wide is not None else ""
    yield Finding(
        "ties",
        level,
        f"{same} of {of} short texts that differ share their reward exactly with another ({len(set(short))} values)"
        f"{then}.",
        "Nothing."
        if not same
        else "Score with dtype=float32, Assay's default: a tie counts as wrong on RewardBench."
        if narrow
        else "See head and weights: float32 has room for more values than that.",
    )


def _ties(values: list[float]) -> int:
    return sum(n for n in Counter(values).values() if n > 1)


def check_assay(patient: Patient) -> Iterator[Finding]:
    """Assay's rewards, packed and padded on either side, against row by row. The other weights are freed before."""
    reference = patient.alone
    size = sum(p.numel() for p in patient.model.parameters())
    dtype = _word(patient.model.dtype)
    patient.free()
    dtype = "float32" if room_for(4 * size) or dtype not in ("bfloat16", "float16") else dtype
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what it warns of has been said
            ours = RewardModel(patient.name, dtype=dtype, remote_code=patient.remote_code)
        ids = [patient.encoded(*pair) for pair in CONVERSATIONS]
        found = {"together": ours.rewards([[row] for row in ids])}
        shared, ours.shares = ours.shares, "padding is what is tried"
        for side in SIDES if ours.network.decoder else SIDES[:1]:
            ours.padding_side, ours.batch_size = side, 3 if side == "left" else 8
            found[side] = ours.rewards([[row] for row in ids])
        ours.close()
    except CannotRun as error:
        yield Finding(
            "assay",
            "warning",
            f"Assay does not load it: {error}.",
            "See head; models that Assay knows are in 'assay models list'.",
        )
        return
    except Exception as error:  # a foreign model's code may raise anything
        do = "Get the full weights." if quantised(patient) else "Report it to Assay with the model's name."
        yield Finding("assay", "warning", f"Assay cannot run it: {first_line(error)}.", do)
        return
    values = {way: [group[0][0] for group in groups] for way, groups in found.items()}
    worst = max((moved(reference, told) for told in values.values()), key=lambda m: m.share)
    how = "computed each prompt once" if not shared else f"did not share prompts ({shared})"
    if worst.level in ("ok", "note"):
        yield Finding(
            "assay",
            worst.level,
            f"Assay's rewards in {dtype}, packed and padded, differ from row by row {worst}; it {how}.",
            "Nothing.",
        )
    else:
        again = _again(patient)
        drawn = again is not None and moved(reference, again).level not in ("ok", "note")
        yield Finding(
            "assay",
            "fault",
            f"Loaded twice by transformers, the rewards differ {moved(reference, again or reference)}."
            if drawn
            else f"Assay's rewards in {dtype} differ from row by row {worst}.",
            "See head: weights are drawn at each load." if drawn else "Report it to Assay with the model's name.",
        )


def _again(patient: Patient) -> list[float] | None:
    try:
        patient.load()
        patient.widen()
        values: list[float] = patient.read(patient.rows)
        return values
    except Refused:
        return None
    finally:
        patient.free()


def _some(keys: list[str]) -> str:
    return ", ".join(keys[:3]) + (f" and {len(keys) - 3} more" if len(keys) > 3 else "")


def _word(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
