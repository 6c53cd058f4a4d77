"""Chat messages to token ids, with text under judgment kept plain text.

The chat template never sees the data: each message is rendered as one character that stands for it, so no
template can cut, split or obey what a message says. The characters are then replaced, and a control token is
kept only where the template itself wrote it; whatever in data reads as one is cut in two and spelled out.
"""

from __future__ import annotations

import itertools
import re
from bisect import bisect_right
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from jinja2 import TemplateError

from judges.engines.base import Generation, RequestFailed
from judges.errors import CannotRun
from judges.types import Message

# Private-use characters stand for the messages while the template is rendered; no template writes them.
_FIRST_STAND_IN = 0xF0000
# Words that structure a conversation in templates of some families without being tokens ("[INST]", "<|user|>",
# "### Response:", "User:").
_BRACKETED = r"\[/?[A-Z][A-Z_]+\]|<{1,2}[/|]?[\w▁|｜:-]+[/|]?>{1,2}"
_ROLES = r"(?:#{2,3} ?)?\b(?:(?i:user|human|assistant|system)|Instruction|Response|Input|Question|Answer) ?:"
_MARKER = re.compile(rf"{_BRACKETED}|{_ROLES}")


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of a rendered conversation: of message number `of`, or, where that is None, of the template."""

    text: str
    of: int | None = None


@dataclass(frozen=True, slots=True)
class Control:
    """A control token where it stands in a text: its id, and the characters from `start` to before `end`."""

    id: int
    start: int
    end: int


def chat_ids(
    tokenizer: Any, messages: tuple[Message, ...], prefix: str = "", partial: Generation | None = None
) -> list[int]:
    """Token ids of a conversation, ready for the assistant's turn, which already holds `prefix`.

    Tokenized once, through the chat template. Control tokens are those that the template wrote, whatever the
    messages and the prefix say: "<|im_end|>" in data becomes the tokens of its plain characters. Messages that
    hold no such string get exactly the tokenizer's own ids. Raises CannotRun without a template, RequestFailed
    where the template refuses the conversation.
    """
    if getattr(tokenizer, "chat_template", None) is None:
        raise CannotRun(
            f"the tokenizer of {tokenizer.name_or_path!r} has no chat template: use an instruction-tuned model"
        )
    ids = _encode(tokenizer, _rendered(tokenizer, messages, True))
    return ids + turn_ids(tokenizer, prefix, partial)


def conversation_ids(tokenizer: Any, messages: tuple[Message, ...], response: str) -> tuple[list[int], list[int]]:
    """(prompt ids, response ids with its end of turn) of a finished conversation, through the template.

    Their concatenation is the whole conversation tokenized at once; the border is where the text before the
    response ends. A blank response has no border: then all ids are the second part. Raises RequestFailed.
    """
    answer: Message = {"role": "assistant", "content": response}
    pieces = _rendered(tokenizer, (*messages, answer), False)
    ids = _encode(tokenizer, pieces)
    place = next((i for i, piece in enumerate(pieces) if piece.of == len(messages)), None)
    if place is None:
        if response.strip():
            raise RequestFailed("malformed", "the model's chat template does not show the response")
        return [], ids
    before = pieces[:place]
    if before:
        # White space that opens the response is the response's; a space is one token with the word behind it.
        lead = response[: len(response) - len(response.lstrip())]
        before[-1] = Piece(before[-1].text.removesuffix(lead).rstrip(" "), before[-1].of)
    prompt = _encode(tokenizer, before)
    shared = next((i for i, (a, b) in enumerate(zip(prompt, ids, strict=False)) if a != b), min(len(prompt), len(ids)))
    return ids[:shared], ids[shared:]


def turn_ids(tokenizer: Any, prefix: str, partial: Generation | None = None) -> list[int]:
    """Token ids of what the assistant's turn holds already.

    Where the prefix repeats what the model generated, those are the ids that it generated, control tokens of
    its own ("</think>") with them; what the judge wrote behind that is read as it stands. A prefix of which
    nothing is known is data.
    """
    if not prefix:
        return []
    if partial is None or not partial.token_ids:
        return plain_ids(tokenizer, prefix)
    unlike = (place for place, (a, b) in enumerate(zip(prefix, partial.text, strict=False)) if a != b)
    repeated = next(unlike, min(len(prefix), len(partial.text)))
    kept = _as_generated(tokenizer, partial, repeated)
    if kept is None:
        return plain_ids(tokenizer, prefix)
    ids, spelled = kept
    between, own = prefix[spelled:repeated], prefix[repeated:]
    ids += plain_ids(tokenizer, between) if between else []
    return ids + (list(tokenizer(own, add_special_tokens=False)["input_ids"]) if own else [])


def _as_generated(tokenizer: Any, partial: Generation, length: int) -> tuple[list[int], int] | None:
    """The most of the generated ids that spell no more than `length` characters, and how many those are.

    None where this tokenizer does not decode them to the text that came with them."""
    ids = list(partial.token_ids)
    while ids and ids[-1] in tokenizer.all_special_ids:  # the end of the turn, which now goes on
        ids.pop()

    def text(count: int) -> str:
        return str(tokenizer.decode(ids[:count], skip_special_tokens=True, clean_up_tokenization_spaces=False))

    if text(len(ids)) != partial.text:
        return None
    count = bisect_right(range(len(ids) + 1), length, key=lambda n: len(text(n))) - 1
    while not partial.text.startswith(text(count)):  # a character of several tokens, cut within
        count -= 1
    return ids[:count], len(text(count))


def plain_ids(tokenizer: Any, text: str) -> list[int]:
    """Token ids of data: no control token, whatever the text says."""
    return _encode(tokenizer, [Piece(text, 0)])


def control_tokens(tokenizer: Any) -> dict[int, str]:
    """Every added token that is more than vocabulary: id to string.

    Runs of white space and single characters that are not special extend the vocabulary of some models, and
    structure nothing.
    """
    added = {i: (str(t), t.special) for i, t in tokenizer.added_tokens_decoder.items()}
    for i, token in zip(tokenizer.all_special_ids, tokenizer.all_special_tokens, strict=True):
        added.setdefault(i, (str(token), True))
    return {i: t for i, (t, special) in added.items() if t.strip() and (special or len(t.strip()) > 1)}


def _rendered(tokenizer: Any, messages: tuple[Message, ...], go_on: bool) -> list[Piece]:
    """The conversation as text, in parts of the template and parts of the messages.

    White space around a message is left to the template, most of which trim it; a blank message is all of it.
    """
    turns: list[dict[str, str]] = []
    cores: dict[str, str] = {}
    for i, message in enumerate(messages):
        # A role is written by the template as it is: "user<|im_end|>" would be structure.
        if not message["role"].isidentifier():
            raise RequestFailed("malformed", f"{message['role']!r} is not a role")
        content = message["content"]
        core = content.strip()
        if core:
            stand_in = chr(_FIRST_STAND_IN + i)
            cores[stand_in] = core
            start = content.index(core)
            content = content[:start] + stand_in + content[start + len(core) :]
        turns.append({"role": message["role"], "content": content})
    try:
        text: str = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=go_on)
    except TemplateError as error:  # some templates refuse a system turn, or roles that do not alternate
        raise RequestFailed("malformed", f"the model's chat template refuses this conversation: {error}") from error
    if not cores:
        return [Piece(text)]
    parts = re.split(f"([{''.join(cores)}])", text)
    return [Piece(cores[p], ord(p) - _FIRST_STAND_IN) if p in cores else Piece(p) for p in parts if p]


def _encode(tokenizer: Any, pieces: list[Piece]) -> list[int]:
    """Ids of the whole text, with the control tokens that the template's parts hold and no others."""
    tokens = control_tokens(tokenizer)
    text = "".join(piece.text for piece in pieces)
    written: list[Control] = []
    marked: list[tuple[int, int]] = []
    markers = _markers(tokenizer, tokens)
    start = 0
    for piece in pieces:
        if piece.of is None:
            found = _read(tokenizer, piece.text, tokens)[1]
            written += [Control(c.id, c.start + start, c.end + start) for c in found]
        elif markers:
            plain = _folded(tokenizer, piece.text)
            marked += [(m.start() + start, m.end() + start) for m in markers.finditer(plain)]
        start += len(piece.text)
    ids, seen = _read(tokenizer, text, tokens)
    if seen == written and not marked:
        return ids
    # Data holds a control string, or made one with its neighbours, or broke one: the parts between the
    # template's control tokens are encoded apart, each behind a control token as it is in the whole text.
    ids, start, opening = [], 0, ""
    for control in [*written, None]:
        end = control.start if control else len(text)
        cuts = [place - start for a, b in marked for place in range(a + 1, b) if start < place < end]
        ids += _spelled(tokenizer, text[start:end], opening, tokens, cuts)
        if control:
            ids.append(control.id)
            start, opening = control.end, text[control.start : control.end]
    return ids


def _spelled(tokenizer: Any, text: str, opening: str, tokens: dict[int, str], cuts: list[int]) -> list[int]:
    """Ids of text that holds no control token of its own: cut at `cuts`, and within whatever reads as one."""
    anchor = next(iter(tokens.values()), "")
    places = [0, *cuts, len(text)]
    parts = [text[a:b] for a, b in itertools.pairwise(places)]
    ids: list[int] = []
    opened = False
    while parts:
        part = parts.pop(0)
        if not part:
            continue
        read, found = _behind(tokenizer, anchor if opened else opening, part, tokens)
        if found:
            parts[:0] = _cut(part, found)
            continue
        ids += [i for i in read if i not in tokens or i == tokenizer.unk_token_id]
        opened = True
    return ids


def _cut(text: str, found: list[Control]) -> list[str]:
    """The text in parts, cut in the middle of each control string; one of a single character is left out."""
    parts: list[str] = []
    start = 0
    for control in found:
        if control.end - control.start < 2:
            parts.append(text[start : control.start])
            start = control.end
        else:
            middle = (control.start + control.end) // 2
            parts.append(text[start:middle])
            start = middle
    return [*parts, text[start:]]


def _behind(tokenizer: Any, opening: str, text: str, tokens: dict[int, str]) -> tuple[list[int], list[Control]]:
    """Ids and control tokens of `text` as it reads behind a control token: many tokenizers open with a space."""
    if opening:
        ids, found = _read(tokenizer, opening + text, tokens)
        if found and (found[0].start, found[0].end) == (0, len(opening)) and ids[0] == found[0].id:
            size = len(opening)
            return ids[1:], [Control(c.id, c.start - size, c.end - size) for c in found[1:]]
    return _read(tokenizer, text, tokens)


def _read(tokenizer: Any, text: str, tokens: dict[int, str]) -> tuple[list[int], list[Control]]:
    """The tokenizer's own ids of a text, and where it sees control tokens, the spaces they swallow left out."""
    if not getattr(tokenizer, "is_fast", False):
        # No offsets here. Such a tokenizer looks for the strings as they are.
        ids_of = {string: i for i, string in tokens.items()}
        pattern = "|".join(map(re.escape, sorted(ids_of, key=len, reverse=True)))
        places = list(re.finditer(pattern, text)) if pattern else []
        ids = list(tokenizer(text, add_special_tokens=False)["input_ids"])
        return ids, [Control(ids_of[m[0]], *m.span()) for m in places]
    encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    found: list[Control] = []
    for i, (start, end) in zip(encoded["input_ids"], encoded["offset_mapping"], strict=True):
        if i not in tokens:
            continue
        swallowed = text[start:end]
        core = swallowed.strip()
        # An unknown character's id is that of "<unk>": only the written string is the control token.
        if i != tokenizer.unk_token_id or core == tokens[i]:
            start += swallowed.index(core)
            found.append(Control(i, start, start + len(core)))
    return list(encoded["input_ids"]), found


def _markers(tokenizer: Any, tokens: dict[int, str]) -> re.Pattern[str] | None:
    """The words that structure this tokenizer's template without being tokens, as a pattern."""
    if not getattr(tokenizer, "chat_template", None):
        return None
    told = tokenizer.chat_template  # some have several, by name
    words = _words(told if isinstance(told, str) else "\n".join(told.values())) - set(tokens.values())
    folded = sorted({_folded(tokenizer, word) for word in words}, key=len, reverse=True)
    return re.compile("|".join(map(re.escape, folded))) if folded else None


@lru_cache(maxsize=64)
def _words(template: str) -> frozenset[str]:
    return frozenset(_MARKER.findall(template))


def _folded(tokenizer: Any, text: str) -> str:
    """The text as the tokenizer's normalizer leaves it, character by character, places kept."""
    normalizer = tokenizer.backend_tokenizer.normalizer if getattr(tokenizer, "is_fast", False) else None
    if normalizer is None:
        return text
    plain = {c: one if len(one := normalizer.normalize_str(c)) == 1 else c for c in set(text)}
    return "".join(plain[c] for c in text)
