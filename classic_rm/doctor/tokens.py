"""Checks of what a model is given: pad and end tokens, chat template, BOS, truncation."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import nn

from classic_rm.data import Encoded, encode
from classic_rm.doctor.loaded_model import Finding, Patient, Refused, Row
from classic_rm.doctor.texts import CONVERSATIONS, SHORT
from classic_rm.model import PAD
from judges.engines.base import RequestFailed
from judges.engines.chat_template import chat_ids, conversation_ids
from judges.types import Message

UNSET = 10**9  # tokenizers without a limit of their own say 10**30
OTHERS = 2048  # RewardBench's default max_length


def check_pad(patient: Patient) -> Iterator[Finding]:
    tokenizer = patient.tokenizer
    pad, told = tokenizer.pad_token_id, patient.text_config.pad_token_id
    own = f"Give the tokenizer a pad token of its own that is in no text (Assay adds {PAD}), and the config its id"
    if pad is None:
        yield Finding(
            "pad",
            "fault",
            "The tokenizer has no pad token: plain transformers refuses every batch of unequal rows, and TRL and"
            " RewardBench pad with eos instead.",
            f"{own}.",
        )
        return
    if patient.model is None:
        equal = pad == tokenizer.eos_token_id
        word = "also eos" if equal else "not eos"
        yield Finding(
            "pad",
            "warning" if equal else "ok",
            f"Pad is {tokenizer.pad_token!r}, {word}.",
            f"{own}." if equal else "Nothing.",
        )
        return
    if pad >= patient.model.get_input_embeddings().weight.shape[0]:
        rows = patient.model.get_input_embeddings().weight.shape[0]
        yield Finding("pad", "fault", f"Pad is token {pad} and the model knows {rows} tokens.", f"{own}.")
        return
    if patient.decoder and told != pad:
        yield _two_pads(patient, told, pad)
        return
    if not patient.decoder:
        yield Finding("pad", "ok", f"Pad is token {pad}, {tokenizer.pad_token!r}.")
        return
    inside = sum(pad in row.ids for row in patient.rows)
    word = "also eos, " if pad == tokenizer.eos_token_id else ""
    if not word and not inside:
        yield Finding("pad", "ok", f"Pad is {tokenizer.pad_token!r}, neither eos nor in any conversation.")
        return
    try:
        plain = patient.rewards(patient.rows)
        far = patient.apart(patient.alone, plain)
        early = _early(patient, plain)
    except Refused as error:
        yield Finding("pad", "fault", f"Pad is {word}{tokenizer.pad_token!r}, and the model fails: {error}.", f"{own}.")
        return
    what = f"Pad is {word}{tokenizer.pad_token!r}, and is in {inside} of {len(patient.rows)} conversations"
    if far.level == "ok":
        yield Finding(
            "pad",
            "warning",
            f"{what}; transformers still reads the last token here, as the template ends with another one (rewards"
            f" differ by at most {far.largest:.2g}).",
            f"{own}: a text that ends otherwise would be read too early.",
        )
        return
    yield Finding(
        "pad",
        "fault",
        f"{what}: transformers reads the last token that is not pad, {early}, and its rewards differ from those at the"
        f" last attended token {far}.",
        f"{own}; until then compare both on a benchmark, as Assay reads the last attended token and the checkpoint"
        " does not tell which one its training read.",
    )


def _early(patient: Patient, plain: list[float]) -> str:
    """Which shorter beginning of the conversations gives these rewards: that is where they were read."""
    for count in (1, 2, 3):
        shorter = patient.read([Row(row.ids[:-count]) for row in patient.rows])
        if patient.apart(plain, shorter).level == "ok":
            return f"{count} too early"
    return "elsewhere"


def _two_pads(patient: Patient, told: int | None, pad: int) -> Finding:
    tokenizer = patient.tokenizer
    do = f"Set the config's pad_token_id to {pad} and save it."
    if told is None:
        what = f"The config has no pad token, the tokenizer's is {pad} ({tokenizer.pad_token!r})"
        refused = "plain transformers does not know which tokens are padding"
        try:
            patient.rewards(patient.rows[:3], 3)
        except Refused as error:
            refused = f"transformers refuses batches: {error}"
        return Finding("pad", "fault", f"{what}: {refused.rstrip('.')}.", do)
    what = f"The config's pad token is {told}, the tokenizer's {pad} ({tokenizer.pad_token!r})"
    try:
        far = patient.apart(patient.alone, patient.rewards(patient.rows, len(patient.rows)))
    except Refused as error:
        return Finding("pad", "fault", f"{what}, and a batch fails: {error}.", do)
    return Finding(
        "pad", "fault", f"{what}: a padded row is read at its padding, and in a batch of 8 rewards move {far}.", do
    )


def check_template(patient: Patient) -> Iterator[Finding]:
    tokenizer = patient.tokenizer
    if not tokenizer.chat_template:
        yield _without_template(patient)
        return
    for prompt, response in CONVERSATIONS:
        try:
            ours = conversation_ids(tokenizer, asked(prompt), response)
            plain = patient.row(prompt, response).ids
            text = tokenizer.decode(plain)
            alike = chat_ids(tokenizer, asked(prompt)) == patient.question(prompt).ids
        except (RequestFailed, Refused) as error:
            yield Finding("template", "fault", f"The chat template fails: {error}", "Mend tokenizer.chat_template.")
            return
        if response not in text and _squeezed(response) not in _squeezed(text):
            yield Finding(
                "template",
                "fault",
                f"The chat template or tokenizer does not keep the response: {text[-60:]!r} of {response[-30:]!r}.",
                "Mend tokenizer.chat_template; what it drops cannot be judged.",
            )
            return
        if ours[0] + ours[1] != plain or not alike:
            yield Finding(
                "template",
                "fault",
                f"Assay's token ids of a conversation ({len(ours[0] + ours[1])}) are not those of the tokenizer's own"
                f" chat template ({len(plain)}).",
                "Report it to Assay with the model's name.",
            )
            return
    system = [{"role": "system", "content": "Be brief."}, *asked("Hi")]
    try:
        tokenizer.apply_chat_template(system, tokenize=False)
        also = "a system turn too"
    except Exception:  # whatever the template raises
        also = "but no system turn: rows that have one become failures"
    yield Finding(
        "template",
        "ok",
        f"The chat template renders {len(CONVERSATIONS)} conversations, to Assay's token ids exactly, {also}.",
        "Nothing.",
    )


def _without_template(patient: Patient) -> Finding:
    tokenizer = patient.tokenizer
    if patient.is_judge:
        return Finding(
            "template",
            "fault",
            "The tokenizer has no chat template: Assay refuses it as a judge, others make up a format of their own.",
            "Use the instruction-tuned version, or save the template it was trained with as tokenizer.chat_template.",
        )
    if tokenizer.sep_token_id is not None and tokenizer.cls_token_id is not None:
        same = all(patient.row(*pair).ids == patient.encoded(*pair) for pair in CONVERSATIONS)
        return Finding(
            "template",
            "note" if same else "warning",
            "There is no chat template; Assay gives prompt and response as a pair,"
            f" {tokenizer.decode(patient.encoded('a', 'b'))!r}, {'exactly' if same else 'not'} as the tokenizer does.",
            "Nothing where it was trained on pairs; else save its template as tokenizer.chat_template.",
        )
    ours = [Row(patient.encoded(*pair)) for pair in CONVERSATIONS]
    end = tokenizer.eos_token or ""
    tulu = [Row(_plain(tokenizer, f"<|user|>\n{p}\n<|assistant|>\n{r}\n{end}")) for p, r in CONVERSATIONS]
    joined = [Row(_plain(tokenizer, f"{p}{r}{end}")) for p, r in CONVERSATIONS]
    far = [m for m in (patient.change(ours, tulu), patient.change(ours, joined)) if m is not None]
    measured = f"; rewards of the first differ from the second {far[0]}, from the third {far[1]}" * (len(far) > 1)
    return Finding(
        "template",
        "fault",
        "The tokenizer has no chat template: Assay then joins prompt, response and end token, RewardBench writes"
        " FastChat's tulu format unless told another, and TRL takes plain text as it is and no conversations"
        f"{measured}.",
        "Save the template that it was trained with as tokenizer.chat_template; only its authors can say which.",
    )


def check_bos(patient: Patient) -> Iterator[Finding]:
    tokenizer = patient.tokenizer
    bos = tokenizer.bos_token_id
    if bos is None:
        yield Finding("bos", "ok", "The tokenizer has no BOS token that could be doubled.")
        return
    if not tokenizer.chat_template:
        count = _leading(list(tokenizer(CONVERSATIONS[0][0])["input_ids"]), bos)
        level: Any = "fault" if count > 1 else "ok"
        yield Finding(
            "bos", level, f"The tokenizer writes {count} BOS.", "Mend its post-processor." if count > 1 else "Nothing."
        )
        return
    turns = [[*asked(p), {"role": "assistant", "content": r}] for p, r in CONVERSATIONS]
    once = [patient.row(*pair) for pair in CONVERSATIONS]
    again = [Row(_plain(tokenizer, tokenizer.apply_chat_template(t, tokenize=False))) for t in turns]
    first, second = _leading(once[0].ids, bos), _leading(again[0].ids, bos)
    if patient.is_judge:  # what a judge reads is the prompt, ready for its turn
        questions = [patient.question(prompt) for prompt, _ in CONVERSATIONS]
        far = patient.change(questions, [Row(_plain(tokenizer, tokenizer.decode(row.ids))) for row in questions])
    else:
        far = patient.change(once, again)
    then = f"; {'first-token log probabilities' if patient.is_judge else 'rewards'} then move {far}" if far else ""
    if first > 1:
        yield Finding(
            "bos",
            "fault",
            f"The chat template itself writes {first} BOS ({tokenizer.bos_token!r}), and {second} stand there when its"
            f" text is tokenized again{then if second > first else ''}.",
            "Take one out of tokenizer.chat_template, unless it was trained with two.",
        )
    elif first and second > first:
        yield Finding(
            "bos",
            "warning",
            f"BOS is doubled when the template's text is tokenized again, as RewardBench does: {first} in the template"
            f" and one more from the tokenizer{then}.",
            "Tokenize through the template at once, as Assay does, or with add_special_tokens=False.",
        )
    elif not first and second:
        yield Finding(
            "bos",
            "note" if patient.statistics else "warning",
            f"The chat template writes no BOS and the tokenizer adds one when its text is tokenized again{then}.",
            "Nothing, Assay trained it without."
            if patient.statistics
            else "Ask its authors which of both they"
            " trained on; add_bos=true in the SPEC of bradley-terry gives it the BOS.",
        )
    elif [row.ids for row in once] != [row.ids for row in again]:
        yield Finding(
            "bos",
            "warning",
            f"BOS stands there {first} times, but the template's text tokenized again gives other ids"
            f" ({len(once[0].ids)} and {len(again[0].ids)} of them for a short conversation){then}.",
            "Tokenize through the template at once, as Assay does.",
        )
    else:
        yield Finding("bos", "ok", f"A conversation has {first} BOS, tokenized once or twice.")


def check_truncation(patient: Patient) -> Iterator[Finding]:
    tokenizer, positions = patient.tokenizer, patient.positions
    limit = int(tokenizer.model_max_length)
    known = limit < UNSET
    ends = [n for n in (limit if known else None, positions) if n]
    if not ends:
        yield Finding(
            "truncation",
            "note",
            "Neither the tokenizer nor the config says how many tokens the model reads.",
            "Give max_length, the length that it was trained at.",
        )
        return
    told = limit if known else "not set"
    said = f"The tokenizer's limit is {told}, the model has {positions or 'no limit of'} positions"
    lengths = [len(row.ids) for row in (*patient.rows, *(patient.row(*pair) for pair in SHORT))]
    cut = sum(length > min(ends) for length in lengths)
    shown = _cut(patient, min(*ends, OTHERS))
    if cut:
        yield Finding(
            "truncation",
            "fault" if tokenizer.truncation_side == "right" else "warning",
            f"{said}, and {cut} of {len(lengths)} short conversations are longer; {shown}.",
            f"Set model_max_length in tokenizer_config.json to {positions or 'what it was trained at'} and"
            " truncation_side to left.",
        )
        return
    if known and positions is not None and limit > positions and (error := _past(patient)):
        yield Finding(
            "truncation",
            "warning",
            f"{said}: a longer text is not cut and the model fails ({error}); {shown}.",
            f"Set model_max_length in tokenizer_config.json to {positions}; Assay keeps to the smaller one.",
        )
        return
    right = tokenizer.truncation_side == "right"
    yield Finding(
        "truncation",
        "note" if right or not known or limit != positions else "ok",
        f"{said}; {shown}.",
        "Elsewhere set truncation_side to left; Assay cuts the prompt from the left itself." if right else "Nothing.",
    )


def _cut(patient: Patient, limit: int) -> str:
    """What is left of a conversation whose prompt alone is too long, here and elsewhere."""
    tokenizer = patient.tokenizer
    response = CONVERSATIONS[1][1] if limit < 48 else CONVERSATIONS[5][1]
    line = "The list goes on, and every item of it is needed. "
    prompt = line * (2 + limit // max(1, len(_plain(tokenizer, line)) - 2))
    size = len(patient.row(prompt, response).ids)
    turns = [*asked(prompt), {"role": "assistant", "content": response}]
    settings: dict[str, Any] = {"truncation": True, "max_length": limit}
    if tokenizer.chat_template:
        left = list(tokenizer.apply_chat_template(turns, return_dict=True, **settings)["input_ids"])
    else:
        left = list(tokenizer(f"{prompt}\n{response}", **settings)["input_ids"])
    kept = 1.0 if response in tokenizer.decode(left) else _share(tokenizer.decode(left), response)
    ours = encode(tokenizer, asked(prompt), response, limit)
    told = f"cuts {ours.cut} tokens of the prompt" if isinstance(ours, Encoded) else f"says '{ours.message}'"
    return (
        f"of {size} tokens cut to {limit} on the {tokenizer.truncation_side}, {100 * kept:.0f} % of the response is"
        f" left and the end is {tokenizer.decode(left)[-24:]!r}; Assay {told}"
    )


def _share(text: str, response: str) -> float:
    """How much of the response's beginning still ends the text."""
    longest = next((n for n in range(len(response), 0, -1) if response[:n] in text), 0)
    return longest / len(response) if text.endswith(response[:longest]) and longest > 3 else 0.0


def _past(patient: Patient) -> str | None:
    """What happens behind the last position, where that is quickly tried: a table of positions ends there."""
    if patient.model is None or patient.positions is None or patient.positions > 1024:
        return None
    if not any(isinstance(m, nn.Embedding) and "position" in name for name, m in patient.model.named_modules()):
        return None
    one = patient.rows[0].ids[-1]
    try:
        patient.rewards([Row([one] * (patient.positions + 8))])
    except Refused as error:
        return str(error).rstrip(".")
    return None


def asked(prompt: str) -> tuple[Message, ...]:
    return ({"role": "user", "content": prompt},)


def _plain(tokenizer: Any, text: str) -> list[int]:
    """Text to ids as others tokenize it, special tokens added."""
    return list(tokenizer(text)["input_ids"])


def _leading(ids: list[int], token: int) -> int:
    return next((place for place, i in enumerate(ids) if i != token), len(ids))


def _squeezed(text: str) -> str:
    """Tokenizers without case or spacing of their own still keep these."""
    return "".join(text.casefold().split())
