"""Chat messages to token ids, safe against control tokens in the data (prompt injection).

The chat template never sees the messages: each is rendered as one placeholder character, so no template can cut,
split or interpret its content. The placeholders are then replaced, and a control token is kept only where the
template itself wrote it. A string in the data that reads as one is cut in two and encoded as plain text.
"""

from __future__ import annotations

import itertools
import re
from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from types import MappingProxyType
from typing import Any

from jinja2 import TemplateError

from judges.engines.base import Generation, RequestFailed
from judges.engines.thoughts import CLOSE_THOUGHT, ends_in_thinking, split_turn
from judges.errors import CannotRun
from judges.types import Message

# Private-use characters, which no template writes, replace the messages while the template is rendered.
_FIRST_PLACEHOLDER = 0xF0000
# Strings that mark the turns in templates of some model families without being tokens ("[INST]", "<|user|>",
# "### Response:", "User:").
_BRACKETED = r"\[/?[A-Z][A-Z_]+\]|<{1,2}[/|]?[\w▁|｜:-]+[/|]?>{1,2}"
_ROLES = r"(?:#{2,3} ?)?\b(?:(?i:user|human|assistant|system)|Instruction|Response|Input|Question|Answer) ?:"
_MARKER = re.compile(rf"{_BRACKETED}|{_ROLES}")


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of a rendered conversation: the content of a message (its index), or the template's own text (None)."""

    text: str
    message: int | None = None


@dataclass(frozen=True, slots=True)
class Control:
    """An occurrence of a control token in a text: its id, and the characters from `start` up to `end`."""

    id: int
    start: int
    end: int


def chat_ids(
    tokenizer: Any,
    messages: tuple[Message, ...],
    prefix: str = "",
    partial: Generation | None = None,
    template_kwargs: Mapping[str, Any] = MappingProxyType({}),
    answer: bool = False,
) -> list[int]:
    """Token ids of a conversation and the beginning of the assistant's turn, which continues `prefix`.

    The conversation is tokenized at once, through the chat template. Its control tokens are those that the template
    wrote: "<|im_end|>" in a message or the prefix becomes the tokens of its plain characters. Without such a string
    the ids are exactly the tokenizer's own. `template_kwargs` are further variables of the template.

    Some templates open a thought for the model ("<think>"). It is closed where a prefix that the model did not write
    follows, or where an `answer` without a thought is to follow.

    Raises CannotRun without a chat template, RequestFailed where the template refuses the conversation.
    """
    if getattr(tokenizer, "chat_template", None) is None:
        raise CannotRun(
            f"the tokenizer of {tokenizer.name_or_path!r} has no chat template: use an instruction-tuned model"
        )
    pieces = _render(tokenizer, messages, True, template_kwargs)
    if (prefix or answer) and partial is None and _ends_in_thought(pieces):
        pieces.append(Piece(CLOSE_THOUGHT.lstrip("\n") if pieces[-1].text.endswith("\n") else CLOSE_THOUGHT))
    return _encode(tokenizer, pieces) + turn_ids(tokenizer, prefix, partial)


def opens_thought(tokenizer: Any, template_kwargs: Mapping[str, Any] = MappingProxyType({})) -> bool:
    """Whether the prompt that the chat template renders ends inside a thought, which the model then goes on with."""
    if getattr(tokenizer, "chat_template", None) is None:
        return False
    try:
        return _ends_in_thought(_render(tokenizer, ({"role": "user", "content": "Hi"},), True, template_kwargs))
    except RequestFailed:
        return False


def _ends_in_thought(pieces: list[Piece]) -> bool:
    return ends_in_thinking("".join(piece.text for piece in pieces if piece.message is None))


def conversation_ids(tokenizer: Any, messages: tuple[Message, ...], response: str) -> tuple[list[int], list[int]]:
    """(prompt ids, response ids with the end of turn) of a finished conversation, through the chat template.

    Their concatenation is the conversation tokenized at once; the boundary is where the text before the response
    ends. A blank response has no boundary, so all ids are in the second part. Raises RequestFailed.
    """
    assistant_turn: Message = {"role": "assistant", "content": response}
    pieces = _render(tokenizer, (*messages, assistant_turn), False)
    ids = _encode(tokenizer, pieces)
    position = next((i for i, piece in enumerate(pieces) if piece.message == len(messages)), None)
    if position is None:
        if response.strip():
            raise RequestFailed("malformed", "the model's chat template does not show the response")
        return [], ids
    before = pieces[:position]
    if before:
        # Leading white space belongs to the response; a space is one token with the word after it.
        lead = response[: len(response) - len(response.lstrip())]
        before[-1] = Piece(before[-1].text.removesuffix(lead).rstrip(" "), before[-1].message)
    prompt = _encode(tokenizer, before)
    shared = next((i for i, (a, b) in enumerate(zip(prompt, ids, strict=False)) if a != b), min(len(prompt), len(ids)))
    return ids[:shared], ids[shared:]


def turn_ids(tokenizer: Any, prefix: str, partial: Generation | None = None) -> list[int]:
    """Token ids of the beginning of the assistant's turn.

    As far as the prefix repeats what the model generated (`partial`), these are the generated ids, with their
    control tokens ("</think>"); what the judge appended is tokenized as it is. Without `partial` the whole prefix
    is treated as data.
    """
    if not prefix:
        return []
    if partial is None or not partial.token_ids:
        return plain_ids(tokenizer, prefix)
    differences = (i for i, (a, b) in enumerate(zip(prefix, partial.text, strict=False)) if a != b)
    repeated = next(differences, min(len(prefix), len(partial.text)))
    generated = _generated_ids(tokenizer, partial, repeated)
    if generated is None:
        return plain_ids(tokenizer, prefix)
    ids, covered = generated
    remainder, appended = prefix[covered:repeated], prefix[repeated:]
    ids += plain_ids(tokenizer, remainder) if remainder else []
    return ids + (list(tokenizer(appended, add_special_tokens=False)["input_ids"]) if appended else [])


def _generated_ids(tokenizer: Any, partial: Generation, length: int) -> tuple[list[int], int] | None:
    """The longest prefix of the generated ids that decodes to at most `length` characters, and that length.

    None where this tokenizer does not decode the ids to the generated text.
    """
    ids = list(partial.token_ids)
    while ids and ids[-1] in tokenizer.all_special_ids:  # the end of the turn, which is now continued
        ids.pop()

    def text(count: int) -> str:
        return str(tokenizer.decode(ids[:count], skip_special_tokens=True, clean_up_tokenization_spaces=False))

    if text(len(ids)) != partial.text:
        return None
    count = bisect_right(range(len(ids) + 1), length, key=lambda n: len(text(n))) - 1
    while not partial.text.startswith(text(count)):  # the cut is inside a character of several tokens
        count -= 1
    return ids[:count], len(text(count))


def plain_ids(tokenizer: Any, text: str) -> list[int]:
    """Token ids of data, without any control token."""
    return _encode(tokenizer, [Piece(text, 0)])


def control_tokens(tokenizer: Any) -> dict[int, str]:
    """Every added token that can structure a conversation: id to string.

    Some models add runs of white space and single characters as ordinary vocabulary; those are left out.
    """
    added = {i: (str(t), t.special) for i, t in tokenizer.added_tokens_decoder.items()}
    for i, token in zip(tokenizer.all_special_ids, tokenizer.all_special_tokens, strict=True):
        added.setdefault(i, (str(token), True))
    return {i: t for i, (t, special) in added.items() if t.strip() and (special or len(t.strip()) > 1)}


def _render(
    tokenizer: Any,
    messages: tuple[Message, ...],
    generation_prompt: bool,
    template_kwargs: Mapping[str, Any] = MappingProxyType({}),
) -> list[Piece]:
    """The rendered conversation, split into the template's own text and the contents of messages.

    White space around a message is left to the template, which may trim it. A blank message has no piece. A template
    that reads thoughts out of the assistant's turns gets the tags of a turn that begins with one thought, and shows
    or leaves out the thought as it does for its model; what stands inside the tags and after them is still data.
    """
    turns: list[dict[str, str]] = []
    cores: dict[str, str] = {}
    indices: dict[str, int] = {}
    reads_thoughts = "</think>" in _template_text(tokenizer)

    def hide(text: str, message: int) -> str:
        core = text.strip()
        if not core:
            return text
        placeholder = chr(_FIRST_PLACEHOLDER + len(cores))
        cores[placeholder], indices[placeholder] = core, message
        start = text.index(core)
        return text[:start] + placeholder + text[start + len(core) :]

    for i, message in enumerate(messages):
        # Templates write a role unchanged: "user<|im_end|>" would end the turn.
        if not message["role"].isidentifier():
            raise RequestFailed("malformed", f"{message['role']!r} is not a role")
        content = message["content"]
        parts = split_turn(content) if reads_thoughts and message["role"] == "assistant" else None
        if parts is None:
            content = hide(content, i)
        else:
            content = f"<think>{hide(parts[0], i)}</think>{hide(parts[1], i)}"
        turns.append({"role": message["role"], "content": content})
    try:
        text: str = tokenizer.apply_chat_template(
            turns, tokenize=False, add_generation_prompt=generation_prompt, **template_kwargs
        )
    except TemplateError as error:  # some templates refuse a system turn, or roles that do not alternate
        raise RequestFailed("malformed", f"the model's chat template refuses this conversation: {error}") from error
    if not cores:
        return [Piece(text)]
    pieces = re.split(f"([{''.join(cores)}])", text)
    return [Piece(cores[p], indices[p]) if p in cores else Piece(p) for p in pieces if p]


def _template_text(tokenizer: Any) -> str:
    template = getattr(tokenizer, "chat_template", None) or ""  # some have several, by name
    return template if isinstance(template, str) else "\n".join(template.values())


def _encode(tokenizer: Any, pieces: list[Piece]) -> list[int]:
    """Ids of the whole text, with the control tokens of the template's pieces and no others."""
    tokens = control_tokens(tokenizer)
    text = "".join(piece.text for piece in pieces)
    written: list[Control] = []
    marker_spans: list[tuple[int, int]] = []
    markers = _markers(tokenizer, tokens)
    start = 0
    for piece in pieces:
        if piece.message is None:
            found = _tokenize(tokenizer, piece.text, tokens)[1]
            written += [Control(c.id, c.start + start, c.end + start) for c in found]
        elif markers:
            folded = _normalize(tokenizer, piece.text)
            marker_spans += [(m.start() + start, m.end() + start) for m in markers.finditer(folded)]
        start += len(piece.text)
    ids, occurrences = _tokenize(tokenizer, text, tokens)
    if occurrences == written and not marker_spans:
        return ids
    # The data holds a control string, or forms one with its neighbours, or breaks one: the parts between the
    # template's control tokens are encoded separately, each after the control token that precedes it.
    ids, start, opening = [], 0, ""
    for control in [*written, None]:
        end = control.start if control else len(text)
        cuts = [i - start for a, b in marker_spans for i in range(a + 1, b) if start < i < end]
        ids += _encode_plain(tokenizer, text[start:end], opening, tokens, cuts)
        if control:
            ids.append(control.id)
            start, opening = control.end, text[control.start : control.end]
    return ids


def _encode_plain(tokenizer: Any, text: str, opening: str, tokens: dict[int, str], cuts: list[int]) -> list[int]:
    """Ids of text without control tokens: it is cut at `cuts`, and inside whatever reads as one."""
    anchor = next(iter(tokens.values()), "")
    parts = [text[a:b] for a, b in itertools.pairwise([0, *cuts, len(text)])]
    ids: list[int] = []
    first = True
    while parts:
        part = parts.pop(0)
        if not part:
            continue
        part_ids, found = _tokenize_after(tokenizer, opening if first else anchor, part, tokens)
        if found:
            parts[:0] = _split(part, found)
            continue
        ids += [i for i in part_ids if i not in tokens or i == tokenizer.unk_token_id]
        first = False
    return ids


def _split(text: str, found: list[Control]) -> list[str]:
    """The text, cut in the middle of each control string; one of a single character is dropped."""
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


def _tokenize_after(tokenizer: Any, opening: str, text: str, tokens: dict[int, str]) -> tuple[list[int], list[Control]]:
    """Ids and control tokens of `text` after a control token; at the start many tokenizers would add a space."""
    if opening:
        ids, found = _tokenize(tokenizer, opening + text, tokens)
        if found and (found[0].start, found[0].end) == (0, len(opening)) and ids[0] == found[0].id:
            size = len(opening)
            return ids[1:], [Control(c.id, c.start - size, c.end - size) for c in found[1:]]
    return _tokenize(tokenizer, text, tokens)


def _tokenize(tokenizer: Any, text: str, tokens: dict[int, str]) -> tuple[list[int], list[Control]]:
    """The tokenizer's own ids of a text, and the control tokens that it finds, without the spaces that they absorb."""
    if not getattr(tokenizer, "is_fast", False):
        # A slow tokenizer has no offsets, and matches the strings exactly.
        ids_of = {string: i for i, string in tokens.items()}
        pattern = "|".join(map(re.escape, sorted(ids_of, key=len, reverse=True)))
        matches = list(re.finditer(pattern, text)) if pattern else []
        ids = list(tokenizer(text, add_special_tokens=False)["input_ids"])
        return ids, [Control(ids_of[m[0]], *m.span()) for m in matches]
    encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    found: list[Control] = []
    for i, (start, end) in zip(encoded["input_ids"], encoded["offset_mapping"], strict=True):
        if i not in tokens:
            continue
        matched = text[start:end]
        core = matched.strip()
        # An unknown character's id is that of "<unk>": only the written string is the control token.
        if i != tokenizer.unk_token_id or core == tokens[i]:
            start += matched.index(core)
            found.append(Control(i, start, start + len(core)))
    return list(encoded["input_ids"]), found


def _markers(tokenizer: Any, tokens: dict[int, str]) -> re.Pattern[str] | None:
    """A pattern of the strings that structure this tokenizer's template without being tokens."""
    if not getattr(tokenizer, "chat_template", None):
        return None
    markers = _find_markers(_template_text(tokenizer))
    normalized = {_normalize(tokenizer, marker) for marker in markers - set(tokens.values())}
    longest_first = sorted(normalized, key=len, reverse=True)
    return re.compile("|".join(map(re.escape, longest_first))) if longest_first else None


@lru_cache(maxsize=64)
def _find_markers(template: str) -> frozenset[str]:
    return frozenset(_MARKER.findall(template))


def _normalize(tokenizer: Any, text: str) -> str:
    """The text as the tokenizer's normalizer changes it, character by character, so that positions stay."""
    normalizer = tokenizer.backend_tokenizer.normalizer if getattr(tokenizer, "is_fast", False) else None
    if normalizer is None:
        return text
    normal = {c: n if len(n := normalizer.normalize_str(c)) == 1 else c for c in set(text)}
    return "".join(normal[c] for c in text)
