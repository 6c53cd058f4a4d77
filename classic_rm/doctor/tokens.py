"""Doctor checks of the token ids: pad token, chat template, BOS, truncation."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import nn

from classic_rm.data import EncodedResponse, encode
from classic_rm.doctor.loaded_model import Finding, LoadedModel, ModelError, TokenRow
from classic_rm.doctor.texts import CONVERSATIONS, SHORT
from classic_rm.model import PAD
from judges.engines.base import RequestFailed
from judges.engines.chat_template import chat_ids, conversation_ids
from judges.types import Message

UNSET = 10**9  # tokenizers without a limit have a model_max_length of 10**30
REWARDBENCH_LENGTH = 2048  # RewardBench's default max_length


def check_pad(loaded: LoadedModel) -> Iterator[Finding]:
    tokenizer = loaded.tokenizer
    pad, config_pad = tokenizer.pad_token_id, loaded.text_config.pad_token_id
    advice = f"Give the tokenizer a pad token that is in no text (Assay adds {PAD}), and the config its id"
    if pad is None:
        yield Finding(
            "pad",
            "fault",
            "The tokenizer has no pad token: transformers refuses batches of rows of different lengths, and TRL and"
            " RewardBench pad with eos instead.",
            f"{advice}.",
        )
        return
    if loaded.model is None:
        equal = pad == tokenizer.eos_token_id
        word = "also eos" if equal else "not eos"
        yield Finding(
            "pad",
            "warning" if equal else "ok",
            f"Pad is {tokenizer.pad_token!r}, {word}.",
            f"{advice}." if equal else "Nothing.",
        )
        return
    if pad >= loaded.model.get_input_embeddings().weight.shape[0]:
        rows = loaded.model.get_input_embeddings().weight.shape[0]
        yield Finding("pad", "fault", f"Pad is token {pad}, and the model has {rows} tokens.", f"{advice}.")
        return
    if loaded.decoder and config_pad != pad:
        yield _differing_pads(loaded, config_pad, pad)
        return
    if not loaded.decoder:
        yield Finding("pad", "ok", f"Pad is token {pad}, {tokenizer.pad_token!r}.")
        return
    inside = sum(pad in row.ids for row in loaded.rows)
    word = "also eos, " if pad == tokenizer.eos_token_id else ""
    if not word and not inside:
        yield Finding("pad", "ok", f"Pad is {tokenizer.pad_token!r}, neither eos nor in any conversation.")
        return
    try:
        rewards = loaded.rewards(loaded.rows)
        shift = loaded.compare(loaded.reference, rewards)
        position = _find_reading_position(loaded, rewards)
    except ModelError as error:
        yield Finding(
            "pad", "fault", f"Pad is {word}{tokenizer.pad_token!r}, and the model fails: {error}.", f"{advice}."
        )
        return
    what = f"Pad is {word}{tokenizer.pad_token!r}, and is in {inside} of {len(loaded.rows)} conversations"
    if shift.level == "ok":
        yield Finding(
            "pad",
            "warning",
            f"{what}; transformers still reads the last token, since the template ends with another token (rewards"
            f" differ by at most {shift.largest:.2g}).",
            f"{advice}: a text that ends with the pad token would be read too early.",
        )
        return
    yield Finding(
        "pad",
        "fault",
        f"{what}: transformers reads the last token that is not pad, {position}, and its rewards differ from those at"
        f" the last attended token {shift}.",
        f"{advice}; until then compare both on a benchmark: Assay reads the last attended token, and the checkpoint"
        " does not say which token its training read.",
    )


def _find_reading_position(loaded: LoadedModel, rewards: list[float]) -> str:
    """How many tokens before the last one the rewards are read, by comparison with shortened conversations."""
    for count in (1, 2, 3):
        shorter = loaded.run_unpadded([TokenRow(row.ids[:-count]) for row in loaded.rows])
        if loaded.compare(rewards, shorter).level == "ok":
            return f"{count} too early"
    return "at another position"


def _differing_pads(loaded: LoadedModel, config_pad: int | None, pad: int) -> Finding:
    tokenizer = loaded.tokenizer
    advice = f"Set the config's pad_token_id to {pad} and save it."
    if config_pad is None:
        message = f"The config has no pad token, the tokenizer's is {pad} ({tokenizer.pad_token!r})"
        problem = "transformers does not know which tokens are padding"
        try:
            loaded.rewards(loaded.rows[:3], 3)
        except ModelError as error:
            problem = f"transformers refuses batches: {error}"
        return Finding("pad", "fault", f"{message}: {problem.rstrip('.')}.", advice)
    message = f"The config's pad token is {config_pad}, the tokenizer's {pad} ({tokenizer.pad_token!r})"
    try:
        shift = loaded.compare(loaded.reference, loaded.rewards(loaded.rows, len(loaded.rows)))
    except ModelError as error:
        return Finding("pad", "fault", f"{message}, and a batch fails: {error}.", advice)
    return Finding(
        "pad",
        "fault",
        f"{message}: a padded row is read at its padding, and in a batch of 8 rewards differ {shift}.",
        advice,
    )


def check_template(loaded: LoadedModel) -> Iterator[Finding]:
    tokenizer = loaded.tokenizer
    if not tokenizer.chat_template:
        yield _without_template(loaded)
        return
    for prompt, response in CONVERSATIONS:
        try:
            prompt_ids, answer_ids = conversation_ids(tokenizer, user_messages(prompt), response)
            templated = loaded.encode_conversation(prompt, response).ids
            text = tokenizer.decode(templated)
            prompts_equal = chat_ids(tokenizer, user_messages(prompt)) == loaded.encode_prompt(prompt).ids
        except (RequestFailed, ModelError) as error:
            yield Finding("template", "fault", f"The chat template fails: {error}", "Fix tokenizer.chat_template.")
            return
        if response not in text and _normalise(response) not in _normalise(text):
            yield Finding(
                "template",
                "fault",
                f"The chat template or tokenizer changes the response: {text[-60:]!r} of {response[-30:]!r}.",
                "Fix tokenizer.chat_template; what it drops cannot be scored.",
            )
            return
        assay_ids = prompt_ids + answer_ids
        if assay_ids != templated or not prompts_equal:
            yield Finding(
                "template",
                "fault",
                f"Assay's token ids of a conversation ({len(assay_ids)}) differ from those of the tokenizer's chat"
                f" template ({len(templated)}).",
                "Report it to Assay with the model's name.",
            )
            return
    system = [{"role": "system", "content": "Be brief."}, *user_messages("Hi")]
    try:
        tokenizer.apply_chat_template(system, tokenize=False)
        system_support = "and accepts a system turn"
    except Exception:  # whatever the template raises
        system_support = "but accepts no system turn: rows with one become failures"
    yield Finding(
        "template",
        "ok",
        f"The chat template renders {len(CONVERSATIONS)} conversations to exactly Assay's token ids, {system_support}.",
        "Nothing.",
    )


def _without_template(loaded: LoadedModel) -> Finding:
    tokenizer = loaded.tokenizer
    if loaded.is_judge:
        return Finding(
            "template",
            "fault",
            "The tokenizer has no chat template: Assay refuses it as a judge; other tools use a format of their own.",
            "Use the instruction-tuned version, or save its training template as tokenizer.chat_template.",
        )
    if tokenizer.sep_token_id is not None and tokenizer.cls_token_id is not None:
        same = all(loaded.encode_conversation(*pair).ids == loaded.assay_ids(*pair) for pair in CONVERSATIONS)
        return Finding(
            "template",
            "note" if same else "warning",
            "There is no chat template; Assay encodes prompt and response as a pair,"
            f" {tokenizer.decode(loaded.assay_ids('a', 'b'))!r}, {'exactly' if same else 'not'} as the tokenizer does.",
            "Nothing if it was trained on pairs; otherwise save its template as tokenizer.chat_template.",
        )
    assay = [TokenRow(loaded.assay_ids(*pair)) for pair in CONVERSATIONS]
    end = tokenizer.eos_token or ""
    tulu = [TokenRow(_tokenize(tokenizer, f"<|user|>\n{p}\n<|assistant|>\n{r}\n{end}")) for p, r in CONVERSATIONS]
    joined = [TokenRow(_tokenize(tokenizer, f"{p}{r}{end}")) for p, r in CONVERSATIONS]
    shifts = [m for m in (loaded.shift_between(assay, tulu), loaded.shift_between(assay, joined)) if m is not None]
    measured = f"; rewards of the first differ from the second {shifts[0]}, from the third {shifts[1]}" * (
        len(shifts) > 1
    )
    return Finding(
        "template",
        "fault",
        "The tokenizer has no chat template: Assay then joins prompt, response and end token, RewardBench writes"
        " FastChat's tulu format by default, and TRL takes plain text unchanged and no conversations"
        f"{measured}.",
        "Save the template that it was trained with as tokenizer.chat_template; only its authors know it.",
    )


def check_bos(loaded: LoadedModel) -> Iterator[Finding]:
    tokenizer = loaded.tokenizer
    bos = tokenizer.bos_token_id
    if bos is None:
        yield Finding("bos", "ok", "The tokenizer has no BOS token.")
        return
    if not tokenizer.chat_template:
        count = _count_leading(list(tokenizer(CONVERSATIONS[0][0])["input_ids"]), bos)
        level: Any = "fault" if count > 1 else "ok"
        yield Finding(
            "bos", level, f"The tokenizer writes {count} BOS.", "Fix its post-processor." if count > 1 else "Nothing."
        )
        return
    turns = [[*user_messages(p), {"role": "assistant", "content": r}] for p, r in CONVERSATIONS]
    templated = [loaded.encode_conversation(*pair) for pair in CONVERSATIONS]
    retokenized = [TokenRow(_tokenize(tokenizer, tokenizer.apply_chat_template(t, tokenize=False))) for t in turns]
    first, second = _count_leading(templated[0].ids, bos), _count_leading(retokenized[0].ids, bos)
    if loaded.is_judge:  # a judge reads the prompt
        questions = [loaded.encode_prompt(prompt) for prompt, _ in CONVERSATIONS]
        shift = loaded.shift_between(
            questions, [TokenRow(_tokenize(tokenizer, tokenizer.decode(row.ids))) for row in questions]
        )
    else:
        shift = loaded.shift_between(templated, retokenized)
    effect = (
        f"; {'first-token log probabilities' if loaded.is_judge else 'rewards'} then differ {shift}" if shift else ""
    )
    if first > 1:
        yield Finding(
            "bos",
            "fault",
            f"The chat template itself writes {first} BOS ({tokenizer.bos_token!r}), and there are {second} when its"
            f" text is tokenized again{effect if second > first else ''}.",
            "Remove one from tokenizer.chat_template, unless it was trained with two.",
        )
    elif first and second > first:
        yield Finding(
            "bos",
            "warning",
            f"BOS is doubled when the template's text is tokenized again, as RewardBench does: {first} in the template"
            f" and one more from the tokenizer{effect}.",
            "Tokenize with the template directly, as Assay does, or with add_special_tokens=False.",
        )
    elif not first and second:
        yield Finding(
            "bos",
            "note" if loaded.statistics else "warning",
            f"The chat template writes no BOS and the tokenizer adds one when its text is tokenized again{effect}.",
            "Nothing, Assay trained it without."
            if loaded.statistics
            else "Ask its authors which of the two it"
            " was trained on; add_bos=true in the SPEC of bradley-terry adds the BOS.",
        )
    elif [row.ids for row in templated] != [row.ids for row in retokenized]:
        yield Finding(
            "bos",
            "warning",
            f"There are {first} BOS, but the template's text tokenized again gives different ids"
            f" ({len(templated[0].ids)} and {len(retokenized[0].ids)} of them for a short conversation){effect}.",
            "Tokenize with the template directly, as Assay does.",
        )
    else:
        yield Finding("bos", "ok", f"A conversation has {first} BOS, tokenized once or twice.")


def check_truncation(loaded: LoadedModel) -> Iterator[Finding]:
    tokenizer, positions = loaded.tokenizer, loaded.positions
    limit = int(tokenizer.model_max_length)
    known = limit < UNSET
    limits = [n for n in (limit if known else None, positions) if n]
    if not limits:
        yield Finding(
            "truncation",
            "note",
            "Neither the tokenizer nor the config limits the number of tokens.",
            "Set max_length to the length that it was trained with.",
        )
        return
    limit_text = limit if known else "not set"
    limits_text = f"The tokenizer's limit is {limit_text}, the model has {positions or 'no limit of'} positions"
    lengths = [len(row.ids) for row in (*loaded.rows, *(loaded.encode_conversation(*pair) for pair in SHORT))]
    cut = sum(length > min(limits) for length in lengths)
    truncation = _describe_truncation(loaded, min(*limits, REWARDBENCH_LENGTH))
    if cut:
        yield Finding(
            "truncation",
            "fault" if tokenizer.truncation_side == "right" else "warning",
            f"{limits_text}, and {cut} of {len(lengths)} short conversations are longer; {truncation}.",
            f"Set model_max_length in tokenizer_config.json to {positions or 'the training length'} and"
            " truncation_side to left.",
        )
        return
    if known and positions is not None and limit > positions and (error := _run_past_limit(loaded)):
        yield Finding(
            "truncation",
            "warning",
            f"{limits_text}: a longer text is not cut and the model fails ({error}); {truncation}.",
            f"Set model_max_length in tokenizer_config.json to {positions}; Assay uses the smaller limit.",
        )
        return
    right = tokenizer.truncation_side == "right"
    yield Finding(
        "truncation",
        "note" if right or not known or limit != positions else "ok",
        f"{limits_text}; {truncation}.",
        "In other tools set truncation_side to left; Assay cuts the prompt from the left." if right else "Nothing.",
    )


def _describe_truncation(loaded: LoadedModel, limit: int) -> str:
    """What transformers and Assay leave of a conversation whose prompt alone is too long."""
    tokenizer = loaded.tokenizer
    response = CONVERSATIONS[1][1] if limit < 48 else CONVERSATIONS[5][1]
    line = "The list goes on, and every item of it is needed. "
    prompt = line * (2 + limit // max(1, len(_tokenize(tokenizer, line)) - 2))
    size = len(loaded.encode_conversation(prompt, response).ids)
    turns = [*user_messages(prompt), {"role": "assistant", "content": response}]
    settings: dict[str, Any] = {"truncation": True, "max_length": limit}
    if tokenizer.chat_template:
        left = list(tokenizer.apply_chat_template(turns, return_dict=True, **settings)["input_ids"])
    else:
        left = list(tokenizer(f"{prompt}\n{response}", **settings)["input_ids"])
    text = tokenizer.decode(left)
    share = 1.0 if response in text else _remaining_share(text, response)
    encoded = encode(tokenizer, user_messages(prompt), response, limit)
    if isinstance(encoded, EncodedResponse):
        assay = f"cuts {encoded.cut} tokens of the prompt"
    else:
        assay = f"reports '{encoded.message}'"
    return (
        f"of {size} tokens cut to {limit} on the {tokenizer.truncation_side}, {100 * share:.0f} % of the response is"
        f" left and the end is {text[-24:]!r}; Assay {assay}"
    )


def _remaining_share(text: str, response: str) -> float:
    """The share of the response whose beginning is the end of the text."""
    longest = next((n for n in range(len(response), 0, -1) if response[:n] in text), 0)
    return longest / len(response) if text.endswith(response[:longest]) and longest > 3 else 0.0


def _run_past_limit(loaded: LoadedModel) -> str | None:
    """The error for a text beyond the last position, tested for models with up to 1024 learned positions."""
    if loaded.model is None or loaded.positions is None or loaded.positions > 1024:
        return None
    if not any(isinstance(m, nn.Embedding) and "position" in name for name, m in loaded.model.named_modules()):
        return None
    token = loaded.rows[0].ids[-1]
    try:
        loaded.rewards([TokenRow([token] * (loaded.positions + 8))])
    except ModelError as error:
        return str(error).rstrip(".")
    return None


def user_messages(prompt: str) -> tuple[Message, ...]:
    return ({"role": "user", "content": prompt},)


def _tokenize(tokenizer: Any, text: str) -> list[int]:
    """Token ids of a text with special tokens, as other tools encode it."""
    return list(tokenizer(text)["input_ids"])


def _count_leading(ids: list[int], token: int) -> int:
    return next((index for index, i in enumerate(ids) if i != token), len(ids))


def _normalise(text: str) -> str:
    """Text without case and spaces, which some tokenizers change."""
    return "".join(text.casefold().split())
