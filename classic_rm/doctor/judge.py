"""Doctor checks of a judge: pad token, end of turn, context length, batch size, padding, dtype."""

from __future__ import annotations

from collections.abc import Iterator

from classic_rm.doctor.loaded_model import Finding, LoadedModel, ModelError
from classic_rm.doctor.texts import CONVERSATIONS
from classic_rm.doctor.tokens import UNSET, user_messages
from judges.engines.base import RequestFailed
from judges.engines.chat_template import conversation_ids

MISSING = "The checkpoint lacks {}, which transformers initialises at random: every load generates other texts."


def check_loaded(loaded: LoadedModel) -> Iterator[Finding]:
    missing = sorted(loaded.loading_info.get("missing_keys", ()))
    if missing:
        yield Finding("head", "fault", MISSING.format(", ".join(missing[:3])), "Use a complete checkpoint.")
        return
    yield Finding(
        "head",
        "ok",
        "It is a language model, examined as a judge; it has no reward head.",
        "To get rewards from it, train a reward model from it with 'assay train'.",
    )


def check_judge_pad(loaded: LoadedModel) -> Iterator[Finding]:
    tokenizer = loaded.tokenizer
    if tokenizer.pad_token_id is None:
        yield Finding(
            "pad",
            "note",
            "The tokenizer has no pad token: batches of prompts of different lengths fail.",
            "Nothing for a judge in Assay, which masks padding; elsewhere set it to eos.",
        )
    elif tokenizer.pad_token_id == tokenizer.eos_token_id:
        yield Finding(
            "pad",
            "note",
            f"Pad and eos are one token, {tokenizer.pad_token!r}.",
            "Nothing for generation, since the attention mask marks padding; 'assay train' gives a reward model trained"
            " from it another pad token.",
        )
    else:
        yield Finding("pad", "ok", f"Pad is {tokenizer.pad_token!r}, and not eos.")


def check_end(loaded: LoadedModel) -> Iterator[Finding]:
    """Check that generation stops where the template ends a turn."""
    tokenizer = loaded.tokenizer
    if loaded.model is None or not tokenizer.chat_template:
        return
    try:
        _, answer = conversation_ids(tokenizer, user_messages(CONVERSATIONS[0][0]), CONVERSATIONS[0][1])
    except RequestFailed:
        return  # reported by check_template
    control = set(tokenizer.added_tokens_decoder) | set(tokenizer.all_special_ids)
    end = next((i for i in answer if i in control), None)
    eos = loaded.model.generation_config.eos_token_id
    stops = set(eos) if isinstance(eos, list | tuple) else {eos}
    if end is None:
        yield Finding(
            "end",
            "warning",
            "The chat template ends an answer without a control token, so the model cannot end its answer.",
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


def check_context(loaded: LoadedModel) -> Iterator[Finding]:
    limit, positions = int(loaded.tokenizer.model_max_length), loaded.positions
    limit_text = f"{limit}" if limit < UNSET else "not set"
    yield Finding(
        "truncation",
        "note" if positions is not None and limit < positions else "ok",
        f"The tokenizer's limit is {limit_text}, the model has {positions or 'no limit of'} positions.",
        "Nothing: in Assay a prompt that is too long is a failure, and none is cut.",
    )


def check_first_token(loaded: LoadedModel) -> Iterator[Finding]:
    """Compare batches of 1, 3 and 8 padded on the left, the side for generation, and of 8 padded on the right."""
    try:
        reference = loaded.reference
        worst = max(
            (loaded.compare(reference, loaded.first_token_log_probs(loaded.rows, size)) for size in (3, 8)),
            key=lambda m: m.share,
        )
        right = loaded.compare(reference, loaded.first_token_log_probs(loaded.rows, 8, "right"))
    except ModelError as error:
        yield Finding("batch", "fault", f"It does not generate: {error}.", "Ask its authors how to run it.")
        return
    yield Finding(
        "batch",
        worst.level,
        "Padded on the left, the first token's log probabilities in batches of 3 and 8 differ from those of batches"
        f" of 1 {worst}.",
        "Nothing." if worst.level == "ok" else "Use batches of 1, or load it in float32.",
    )
    default_side = loaded.tokenizer.padding_side
    yield Finding(
        "padding",
        "ok" if right.level == "ok" else "note",
        f"Padded on the right, which is {'' if default_side == 'right' else 'not '}the tokenizer's side, they differ"
        f" {right}.",
        "Nothing."
        if right.level == "ok"
        else "Pad prompts on the left to generate in batches, as Assay does for every tokenizer.",
    )


def check_judge_dtype(loaded: LoadedModel) -> Iterator[Finding]:
    dtype = str(loaded.model.dtype).removeprefix("torch.")
    if dtype == "float32":
        yield Finding("dtype", "ok", "The checkpoint's dtype is float32.")
        return
    try:
        reference = loaded.reference
        shift = loaded.compare(loaded.run_unpadded(loaded.rows), reference) if loaded.upcast() else None
    except ModelError:
        shift = None
    if shift is None:
        yield Finding("dtype", "note", f"It runs in {dtype}, and could not be compared with float32 here.")
        return
    yield Finding(
        "dtype",
        "ok" if shift.level == "ok" else "note",
        f"The checkpoint's dtype is {dtype}; against float32 the first token's log probabilities differ {shift}.",
        "Nothing if you always use one dtype; use dtype=float32 where you compare runs.",
    )
