"""Chat messages to token ids, with text under judgment kept plain text."""

from __future__ import annotations

import itertools
from typing import Any

from jinja2 import TemplateError

from judges.engines.base import RequestFailed
from judges.errors import CannotRun
from judges.types import Message

# Private-use characters stand for control strings found in data while the template is rendered.
_FIRST_STAND_IN = 0xF0000


def chat_ids(tokenizer: Any, messages: tuple[Message, ...], prefix: str = "") -> list[int]:
    """Token ids of a conversation, ready for the assistant's turn, which already holds `prefix`.

    Tokenized once, through the chat template. A string in the messages or the prefix that the tokenizer
    would read as a control token ("<|im_end|>") becomes the tokens of its plain characters.
    """
    if getattr(tokenizer, "chat_template", None) is None:
        raise CannotRun(
            f"the tokenizer of {tokenizer.name_or_path!r} has no chat template: use an instruction-tuned model"
        )
    control = control_strings(tokenizer)
    stand_ins: dict[str, str] = {}
    plain = [{"role": m["role"], "content": _hide(m["content"], control, stand_ins)} for m in messages]
    shown = _hide(prefix, control, stand_ins)
    text = _rendered(tokenizer, plain, True)
    ids = _encode(tokenizer, text, stand_ins)
    return ids + (_encode(tokenizer, shown, stand_ins) if shown else [])


def conversation_ids(tokenizer: Any, messages: tuple[Message, ...], response: str) -> tuple[list[int], list[int]]:
    """(prompt ids, response ids with its end of turn) of a finished conversation, through the template.

    Their concatenation is the whole conversation tokenized at once; the border is where the text before the
    response ends.
    """
    control = control_strings(tokenizer)
    stand_ins: dict[str, str] = {}
    plain = [{"role": m["role"], "content": _hide(m["content"], control, stand_ins)} for m in messages]
    answer = {"role": "assistant", "content": _hide(response, control, stand_ins)}
    whole = _rendered(tokenizer, [*plain, answer], False)
    asked = _rendered(tokenizer, plain, True)
    if not whole.startswith(asked):
        # Some templates open the assistant's turn otherwise when asked to go on; then without that.
        asked = _rendered(tokenizer, plain, False)
    ids = _encode(tokenizer, whole, stand_ins)
    if not whole.startswith(asked):
        return [], ids
    before = _encode(tokenizer, asked, stand_ins)
    shared = next((i for i, (a, b) in enumerate(zip(before, ids, strict=False)) if a != b), min(len(before), len(ids)))
    return ids[:shared], ids[shared:]


def _rendered(tokenizer: Any, turns: list[dict[str, str]], go_on: bool) -> str:
    try:
        text: str = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=go_on)
    except TemplateError as error:  # some templates refuse a system turn, or roles that do not alternate
        raise RequestFailed("malformed", f"the model's chat template refuses this conversation: {error}") from error
    return text


def control_strings(tokenizer: Any) -> list[str]:
    """Every string that the tokenizer reads as one added token, longest first."""
    added = {str(token) for token in tokenizer.added_tokens_decoder.values()}
    named = {token for token in tokenizer.all_special_tokens if token}
    return sorted((t for t in added | named if t.strip()), key=len, reverse=True)


def plain_ids(tokenizer: Any, text: str) -> list[int]:
    """Token ids of data: no control token, whatever the text says."""
    stand_ins: dict[str, str] = {}
    return _encode(tokenizer, _hide(text, control_strings(tokenizer), stand_ins), stand_ins)


def _hide(text: str, control: list[str], stand_ins: dict[str, str]) -> str:
    # A stand-in that data itself holds would be read back as a control string: such characters are dropped.
    text = "".join(c for c in text if not _FIRST_STAND_IN <= ord(c) < _FIRST_STAND_IN + 0x1000)
    for token in control:
        if token in text:
            if token not in stand_ins.values():
                stand_ins[chr(_FIRST_STAND_IN + len(stand_ins))] = token
            character = next(c for c, t in stand_ins.items() if t == token)
            text = text.replace(token, character)
    return text


def _encode(tokenizer: Any, text: str, stand_ins: dict[str, str]) -> list[int]:
    if not stand_ins:
        return list(tokenizer(text, add_special_tokens=False)["input_ids"])
    ids: list[int] = []
    for hidden, run in itertools.groupby(text, key=lambda c: c in stand_ins):
        if not hidden:
            ids += tokenizer("".join(run), add_special_tokens=False)["input_ids"]
            continue
        for character in run:
            ids += _spelled(tokenizer, stand_ins[character])
    return ids


def _spelled(tokenizer: Any, token: str) -> list[int]:
    """A control string's characters as plain tokens: no part of it is an added token by itself."""
    added = set(tokenizer.added_tokens_decoder) | set(tokenizer.all_special_ids)
    halves = (token[:1], token[1:])
    ids = [i for half in halves if half for i in tokenizer(half, add_special_tokens=False)["input_ids"]]
    if added.isdisjoint(ids):
        return ids
    singles = [i for c in token for i in tokenizer(c, add_special_tokens=False)["input_ids"]]
    return [i for i in singles if i not in added]
