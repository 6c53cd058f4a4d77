"""Checks of what a judge generates: its first token must not depend on who else is in the batch."""

from __future__ import annotations

from collections.abc import Iterator

from classic_rm.doctor.loaded_model import Finding, Patient, Refused
from classic_rm.doctor.texts import CONVERSATIONS
from classic_rm.doctor.tokens import UNSET, asked
from judges.engines.base import RequestFailed
from judges.engines.chat_template import conversation_ids

MISSING = "The checkpoint has no {}, and transformers draws fresh ones: every load writes other texts."


def check_loaded(patient: Patient) -> Iterator[Finding]:
    missing = sorted(patient.loading.get("missing_keys", ()))
    if missing:
        yield Finding("head", "fault", MISSING.format(", ".join(missing[:3])), "Use a complete checkpoint.")
        return
    yield Finding(
        "head",
        "ok",
        "It is a language model, examined as a judge; it has no reward head.",
        "To read rewards from it, train them: 'assay train' begins from it.",
    )


def check_judge_pad(patient: Patient) -> Iterator[Finding]:
    tokenizer = patient.tokenizer
    if tokenizer.pad_token_id is None:
        yield Finding(
            "pad",
            "note",
            "The tokenizer has no pad token: plain batches of unequal prompts fail.",
            "Nothing for a judge in Assay, which pads behind the attention mask; elsewhere set it to eos.",
        )
    elif tokenizer.pad_token_id == tokenizer.eos_token_id:
        yield Finding(
            "pad",
            "note",
            f"Pad and eos are one token, {tokenizer.pad_token!r}.",
            "Nothing while it only writes, the attention mask tells padding; 'assay train' gives a reward model made"
            " of it a pad token of its own.",
        )
    else:
        yield Finding("pad", "ok", f"Pad is {tokenizer.pad_token!r}, and not eos.")


def check_end(patient: Patient) -> Iterator[Finding]:
    """Does generation stop where the template ends a turn?"""
    tokenizer = patient.tokenizer
    if patient.model is None or not tokenizer.chat_template:
        return
    try:
        _, answer = conversation_ids(tokenizer, asked(CONVERSATIONS[0][0]), CONVERSATIONS[0][1])
    except RequestFailed:
        return  # the template's own check says so
    control = set(tokenizer.added_tokens_decoder) | set(tokenizer.all_special_ids)
    end = next((i for i in answer if i in control), None)
    told = patient.model.generation_config.eos_token_id
    stops = set(told) if isinstance(told, list | tuple) else {told}
    if end is None:
        yield Finding(
            "end",
            "warning",
            "The chat template ends an answer without a control token, so the model cannot say that it is done.",
            "Set max_tokens tightly, or a stop string.",
        )
    elif end not in stops:
        yield Finding(
            "end",
            "warning",
            f"The template ends a turn with {tokenizer.decode([end])!r} (token {end}), generation stops at"
            f" {sorted(i for i in stops if i is not None)}: answers run on to the limit.",
            f"Add {end} to eos_token_id in generation_config.json.",
        )
    else:
        yield Finding("end", "ok", f"Generation stops at {tokenizer.decode([end])!r}, which ends the template's turn.")


def check_context(patient: Patient) -> Iterator[Finding]:
    limit, positions = int(patient.tokenizer.model_max_length), patient.positions
    told = f"{limit}" if limit < UNSET else "not set"
    yield Finding(
        "truncation",
        "note" if positions is not None and limit < positions else "ok",
        f"The tokenizer's limit is {told}, the model has {positions or 'no limit of'} positions.",
        "Nothing: Assay fails a prompt that is too long and cuts none.",
    )


def check_first_token(patient: Patient) -> Iterator[Finding]:
    """Batches of 1, 3 and 8 padded on the left, where generation goes on, and of 8 on the right."""
    try:
        alone = patient.alone
        worst = max(
            (patient.apart(alone, patient.first_tokens(patient.rows, size)) for size in (3, 8)), key=lambda m: m.share
        )
        right = patient.apart(alone, patient.first_tokens(patient.rows, 8, "right"))
    except Refused as error:
        yield Finding("batch", "fault", f"It does not generate: {error}.", "Ask its authors how it is run.")
        return
    yield Finding(
        "batch",
        worst.level,
        "Padded on the left, the first token's log probabilities in batches of 3 and 8 differ from those of batches"
        f" of 1 {worst}.",
        "Nothing." if worst.level == "ok" else "Judge in batches of 1, or load it in float32.",
    )
    own = patient.tokenizer.padding_side
    yield Finding(
        "padding",
        "ok" if right.level == "ok" else "note",
        f"Padded on the right, which is {'' if own == 'right' else 'not '}the tokenizer's side, they differ {right}.",
        "Nothing."
        if right.level == "ok"
        else "Pad prompts on the left to generate in batches, as Assay does whatever the tokenizer says.",
    )


def check_judge_dtype(patient: Patient) -> Iterator[Finding]:
    dtype = str(patient.model.dtype).removeprefix("torch.")
    if dtype == "float32":
        yield Finding("dtype", "ok", "The checkpoint's dtype is float32.")
        return
    try:
        before = patient.alone
        far = patient.apart(patient.read(patient.rows), before) if patient.widen() else None
    except Refused:
        far = None
    if far is None:
        yield Finding("dtype", "note", f"It runs in {dtype}, and could not be held against float32 here.")
        return
    yield Finding(
        "dtype",
        "ok" if far.level == "ok" else "note",
        f"The checkpoint's dtype is {dtype}; against float32 the first token's log probabilities differ {far}.",
        "Nothing, if it is always judged in one dtype; dtype=float32 where you compare runs.",
    )
