"""Quality filters for preference rows: which rows to remove before training, and why.

The filters, in the order in which they run. A row is removed by the first filter that rejects it:

1. `length`: the prompt or a response is shorter or longer than the bounds.
2. `agreement`: too few of the annotators gave the same label.
3. `shared-prompt`: the prompt occurs in a benchmark that must stay unseen.
4. `similar`: the better and the worse response are nearly the same text; with many responses, all such pairs are.
5. `contradictory`: another row prefers the other response of the same pair; all rows of the pair are removed.
6. `duplicate`: an earlier row has the same pair with the same label; the first row stays.

The first four look at one row at a time. The last two compare only the rows that pass those four, so that a label that
its annotators doubt neither contradicts nor replaces one that they agree on. Filtering the remaining rows again
removes nothing.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from hashlib import blake2b
from typing import Literal, get_args

from judges.types import Item, Message

Reason = Literal["length", "agreement", "shared-prompt", "similar", "contradictory", "duplicate"]
REASONS: tuple[Reason, ...] = get_args(Reason)
Prompt = str | Sequence[Message]

# Han characters with their iteration marks, and kana. Hangul is written with spaces, so its words are counted.
_CJK = (
    r"\u3005-\u3007\u3041-\u3096\u309d-\u309f\u30a1-\u30fa\u30fc-\u30ff"
    r"\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\uff66-\uff9f\U00020000-\U0003ffff"
)
_UNIT = re.compile(rf"[{_CJK}]|[^\W{_CJK}]+")

# A follow-up such as "Okay, any other advice?" occurs in every corpus. Two subsets of Anthropic's HH rows that share
# no first request have only last turns of five units or fewer in common.
FOLLOW_UP_UNITS = 8


@dataclass(frozen=True, slots=True)
class Filters:
    """The thresholds of the filters. Lengths are in units (see `count_units`); None is no upper bound.

    `max_similarity` is the difflib ratio, 0 to 1, from which a better and a worse response are too similar (1 removes
    only identical ones). `min_agreement` is the smallest accepted share of annotators who agree, 0 to 1 (0 removes
    nothing). Raises ValueError for bounds that no row can meet.
    """

    min_length: int = 1
    max_length: int | None = None
    min_prompt_length: int = 1
    max_prompt_length: int | None = None
    max_similarity: float = 0.8
    min_agreement: float = 0.6

    def __post_init__(self) -> None:
        for name, low, high in (
            ("length", self.min_length, self.max_length),
            ("prompt length", self.min_prompt_length, self.max_prompt_length),
        ):
            if low < 0 or (high is not None and high < low):
                raise ValueError(f"{name}: the bounds are contradictory: at least {low} and at most {high}")
        if not 0 < self.max_similarity <= 1:
            raise ValueError(f"max_similarity must be above 0 and at most 1, not {self.max_similarity}")
        if not 0 <= self.min_agreement <= 1:
            raise ValueError(f"min_agreement must be from 0 to 1, not {self.min_agreement}")


@dataclass(frozen=True, slots=True)
class Removal:
    """The filter that removes a row, and a sentence that explains why."""

    reason: Reason
    why: str


def find_removals(
    items: Iterable[Item],
    filters: Filters = Filters(),
    shared_prompts: Mapping[str, Iterable[Prompt]] | None = None,
) -> list[Removal | None]:
    """For each item the reason to remove it, or None to keep it.

    `shared_prompts` maps the name of a source, such as a benchmark, to the prompts that must not occur in a row. An
    item without a preference (a tie, or no gold) can be neither `similar` nor `contradictory`. Iterates over `items`
    once and stores ids and hashes, but no texts.

    >>> from judges.types import Gold
    >>> first = Item(id="a", prompt="2 + 2?", responses=["It is 4.", "I think five."], gold=Gold(chosen=(0,)))
    >>> second = Item(id="b", prompt="2 + 2?", responses=["It is 4.", "I think five."], gold=Gold(chosen=(1,)))
    >>> find_removals([first, second])[0]
    Removal(reason='contradictory', why="the same pair has the opposite label in 'b'")
    >>> [removal and removal.reason for removal in find_removals([first, first])]
    [None, 'duplicate']
    >>> find_removals([first], shared_prompts={"arithmetic": ["2 +  2?"]})[0].why
    'its prompt is also in arithmetic'
    """
    sources = {
        key: name
        for name, prompts in (shared_prompts or {}).items()
        for prompt in prompts
        for key in _shared_prompt_keys(prompt)
    }
    removals: list[Removal | None] = []
    fingerprints: dict[int, _Fingerprint] = {}
    labelled: dict[tuple[bytes, bool], str] = {}
    for number, item in enumerate(items):
        removal = _check_row(item, filters, sources)
        removals.append(removal)
        if removal is None:
            fingerprints[number] = fingerprint = _fingerprint(item)
            for label in fingerprint.labels:
                labelled.setdefault(label, item.id)
    first_ids: dict[bytes, str] = {}
    for number, fingerprint in fingerprints.items():
        removals[number] = _check_against_others(fingerprint, labelled, first_ids)
        first_ids.setdefault(fingerprint.row, fingerprint.id)
    return removals


def count_units(text: str) -> int:
    """The length of a text in units: a Chinese or Japanese character, or a run of other word characters.

    One bound therefore serves both kinds of text: a Chinese text has about as many units as tokens, an English one as
    many as words. Punctuation is not counted.

    >>> count_units("It's 3.5 km."), count_units("今天天气很好。"), count_units("用 Python 写")
    (5, 6, 3)
    """
    return sum(1 for _ in _UNIT.finditer(text))


def split_units(text: str) -> list[str]:
    """The units of a text as strings.

    >>> split_units("It's 今天.")
    ['It', 's', '今', '天']
    """
    return _UNIT.findall(text)


def preferred_pairs(item: Item) -> tuple[tuple[int, int], ...]:
    """The comparisons that an item's gold label decides, as index pairs (better, worse).

    >>> from judges.types import Gold
    >>> preferred_pairs(Item(id="a", prompt="p", responses=["x", "y", "z"], gold=Gold(ranking=(2, 1, 2))))
    ((1, 0), (1, 2))
    """
    if item.gold is None or item.gold.tie:
        return ()
    if item.gold.scores is not None:
        values = item.gold.scores
    elif item.gold.ranking is not None:
        values = tuple(-rank for rank in item.gold.ranking)
    else:
        values = tuple(float(i in (item.gold.chosen or ())) for i in range(len(item.responses)))
    return tuple((i, j) if values[i] > values[j] else (j, i) for i, j in item.pairs() if values[i] != values[j])


def annotator_agreement(item: Item) -> float | None:
    """The share of annotators who gave the most common label, 0 to 1; None where the item does not state it.

    `meta["votes"]`, a label for each annotator, takes precedence over `meta["agreement"]`, which is a count in some
    datasets. A number outside 0 to 1 is not a share, and a vote that is a list is not a label.

    >>> annotator_agreement(Item(id="a", prompt="p", responses=["x", "y"], meta={"votes": ["a", "b", "a", "a"]}))
    0.75
    """
    votes = item.meta.get("votes")
    if isinstance(votes, Sequence) and not isinstance(votes, str):
        labels = [vote for vote in votes if vote is not None]
        if labels and all(isinstance(label, str | int | float) for label in labels):
            return Counter(labels).most_common(1)[0][1] / len(labels)
    share = item.meta.get("agreement")
    if isinstance(share, int | float) and not isinstance(share, bool) and 0 <= share <= 1:
        return float(share)
    return None


def text_similarity(first: str, second: str, least: float) -> float | None:
    """The difflib ratio of two texts by characters, without autojunk; None where it is below `least`.

    >>> text_similarity("the cat sat", "the cat sits", 0.8), text_similarity("the cat sat", "a dog ran", 0.8)
    (0.8695652173913043, None)
    """
    if first == second:
        return 1.0
    matcher = SequenceMatcher(None, first, second, autojunk=False)
    if matcher.real_quick_ratio() < least or matcher.quick_ratio() < least:
        return None
    # The characters that difflib matches are a common subsequence, so the longest one is an upper bound. It takes
    # milliseconds where the ratio takes seconds, and decides nearly all pairs that quick_ratio does not.
    if 2.0 * lcs_length(first, second) / (len(first) + len(second)) < least:
        return None
    ratio = matcher.ratio()
    return ratio if ratio >= least else None


def lcs_length(first: Sequence[Hashable], second: Sequence[Hashable]) -> int:
    """The length of the longest common subsequence, by the bit-parallel algorithm of Hyyrö (2004).

    >>> lcs_length("nematode knowledge", "empty bottle"), lcs_length(["the", "cat"], ["a", "cat"])
    (7, 1)
    """
    positions: dict[Hashable, int] = {}
    for i, element in enumerate(first):
        positions[element] = positions.get(element, 0) | 1 << i
    mask = (1 << len(first)) - 1
    unmatched = mask
    for element in second:
        hits = unmatched & positions.get(element, 0)
        unmatched = ((unmatched + hits) | (unmatched - hits)) & mask
    return len(first) - unmatched.bit_count()


def _check_row(item: Item, filters: Filters, sources: Mapping[bytes, str]) -> Removal | None:
    """Apply the filters that need no other row. `sources` maps the keys of shared prompts to their sources."""
    prompt = sum(count_units(message["content"]) for message in item.messages)
    violation = _out_of_bounds("the prompt", prompt, filters.min_prompt_length, filters.max_prompt_length)
    for i, response in enumerate(item.responses, start=1):
        violation = violation or _out_of_bounds(
            f"response {i}", count_units(response), filters.min_length, filters.max_length
        )
    if violation:
        return Removal("length", violation)
    share = annotator_agreement(item)
    if share is not None and share < filters.min_agreement:
        return Removal("agreement", f"{share:.2f} of the annotators agree, fewer than {filters.min_agreement:g}")
    source = next((sources[key] for key in _prompt_keys(item.messages) if key in sources), None) if sources else None
    if source is not None:
        return Removal("shared-prompt", f"its prompt is also in {source}")
    first: str | None = None
    for better, worse in preferred_pairs(item):
        ratio = text_similarity(item.responses[better], item.responses[worse], filters.max_similarity)
        if ratio is None:
            return None
        pair = f"responses {better + 1} (better) and {worse + 1} (worse)"
        first = first or f"{pair} have a similarity of {ratio:.3f}, not below {filters.max_similarity:g}"
    if first is not None:
        return Removal("similar", first)
    return None


def _out_of_bounds(what: str, length: int, low: int, high: int | None) -> str | None:
    if length < low:
        return f"{what} has {length} units (words, or Chinese characters), fewer than {low}"
    if high is not None and length > high:
        return f"{what} has {length} units (words, or Chinese characters), more than {high}"
    return None


@dataclass(frozen=True, slots=True)
class _Fingerprint:
    """A row as hashes. A label is the hash of a pair and whether the later of its sorted texts is the better one."""

    id: str
    row: bytes
    labels: frozenset[tuple[bytes, bool]]


def _fingerprint(item: Item) -> _Fingerprint:
    prompt = _hash(*(f"{m['role']} {_normalize_space(m['content'])}" for m in item.messages)).hex()
    texts = [_normalize_space(response) for response in item.responses]
    labels = frozenset(
        (_hash(prompt, *sorted((texts[better], texts[worse]))), texts[better] > texts[worse])
        for better, worse in preferred_pairs(item)
    )
    label_lines = sorted(f"{pair.hex()} {later}" for pair, later in labels)
    return _Fingerprint(item.id, _hash(prompt, *label_lines, *sorted(set(texts))), labels)


def _check_against_others(
    fingerprint: _Fingerprint, labelled: Mapping[tuple[bytes, bool], str], first_ids: Mapping[bytes, str]
) -> Removal | None:
    """Apply the filters that compare rows: `labelled` and `first_ids` map hashes to the id of the first such row."""
    for pair, later in fingerprint.labels:
        if (opposite := labelled.get((pair, not later))) is not None:
            return Removal("contradictory", f"the same pair has the opposite label in {opposite!r}")
    if fingerprint.row in first_ids:
        return Removal("duplicate", f"the same responses with the same label are in {first_ids[fingerprint.row]!r}")
    return None


def _prompt_keys(prompt: Prompt) -> tuple[bytes, bytes]:
    """Hashes of all turns of a prompt except the system's, and of the last user turn."""
    turns: Sequence[Message] = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
    texts = [_normalize_space(turn["content"].casefold()) for turn in turns if turn["role"] != "system"]
    return _hash(*texts), _hash(_normalize_space(_last_user_turn(turns).casefold()))


def _shared_prompt_keys(prompt: Prompt) -> tuple[bytes, ...]:
    """The keys that no row may have; a short follow-up in a longer conversation is not one of them."""
    conversation, last = _prompt_keys(prompt)
    is_distinctive = isinstance(prompt, str) or count_units(_last_user_turn(prompt)) >= FOLLOW_UP_UNITS
    return (conversation, last) if is_distinctive else (conversation,)


def _last_user_turn(turns: Sequence[Message]) -> str:
    return next((turn["content"] for turn in reversed(turns) if turn["role"] == "user"), "")


def _normalize_space(text: str) -> str:
    """The text with every run of white space replaced by one space, so that it has no line break."""
    return " ".join(text.split())


def _hash(*parts: str) -> bytes:
    """A hash of parts without line breaks."""
    return blake2b("\n".join(parts).encode("utf-8", "surrogatepass"), digest_size=16).digest()
