"""Quality of preference rows: what is taken out before training, and why. Pure functions over Items.

The filters, in the order they are asked; a row is taken by the first that objects:

1. `length`: the prompt or a response is shorter or longer than the bounds.
2. `agreement`: too few of the annotators gave the same label.
3. `shared-prompt`: the prompt stands in a benchmark that is to stay unseen.
4. `similar`: the better and the worse response are nearly the same text; in a row of many, all such pairs are.
5. `contradictory`: another row prefers the other response of the same pair; all rows of the pair go.
6. `duplicate`: the same pair with the same label stood before; the first stays.

The first four look at a row alone. The last two look only at rows that those four left, so that a label which
its annotators doubt neither contradicts nor displaces one that they are sure of. Filtering what was kept
again takes nothing.
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

# Han characters with their iteration marks, and kana; Hangul is written with spaces and counts by the word.
_CJK = (
    r"\u3005-\u3007\u3041-\u3096\u309d-\u309f\u30a1-\u30fa\u30fc-\u30ff"
    r"\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\uff66-\uff9f\U00020000-\U0003ffff"
)
_UNIT = re.compile(rf"[{_CJK}]|[^\W{_CJK}]+")

# A follow-up such as "Okay, any other advice?" is in every corpus. Between two sets of Anthropic's HH
# rows, which share no first request, every last turn in common has five units or fewer.
FOLLOW_UP_UNITS = 8


@dataclass(frozen=True, slots=True)
class Filters:
    """What a preference row must meet. Lengths are in units (see `units`), None for no upper bound.

    `max_similarity` is the difflib ratio, 0 to 1, from which a better and a worse response are too similar (1
    takes only what is identical); `min_agreement` the least share of annotators, 0 to 1 (0 takes none).
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
                raise ValueError(f"{name}: no text is at least {low} and at most {high} long")
        if not 0 < self.max_similarity <= 1:
            raise ValueError(f"max_similarity is above 0 and at most 1, not {self.max_similarity}")
        if not 0 <= self.min_agreement <= 1:
            raise ValueError(f"min_agreement is a share from 0 to 1, not {self.min_agreement}")


@dataclass(frozen=True, slots=True)
class Taken:
    """Which filter took a row, and a sentence about it."""

    reason: Reason
    why: str


@dataclass(frozen=True, slots=True)
class Filtered:
    """What `apply` made of its items: those kept, and those taken, each in the order they came."""

    kept: tuple[Item, ...]
    taken: tuple[tuple[Item, Taken], ...]

    @property
    def counts(self) -> dict[Reason, int]:
        """How many items each filter took, in the filters' order."""
        found = Counter(taken.reason for _, taken in self.taken)
        return {reason: found[reason] for reason in REASONS}


def apply(
    items: Iterable[Item],
    filters: Filters = Filters(),
    shared_prompts: Mapping[str, Iterable[Prompt]] | None = None,
) -> Filtered:
    """The items that pass every filter, and the others with their reasons.

    `shared_prompts` are the prompts to stay clear of, under the name to tell of each source. An item without a
    preference (a tie, or no gold) can be neither `similar` nor `contradictory`.

    >>> from judges.types import Gold
    >>> first = Item(id="a", prompt="2 + 2?", responses=["It is 4.", "I think five."], gold=Gold(chosen=(0,)))
    >>> other = Item(id="b", prompt="2 + 2?", responses=["It is 4.", "I think five."], gold=Gold(chosen=(1,)))
    >>> [(item.id, taken.reason, taken.why) for item, taken in apply([first, other]).taken][0]
    ('a', 'contradictory', "the same pair has the opposite label in 'b'")
    >>> apply([first, first]).counts["duplicate"]
    1
    >>> apply([first], shared_prompts={"arithmetic": ["2 +  2?"]}).taken[0][1].why
    'its prompt is also in arithmetic'
    """
    items = tuple(items)
    verdicts = decide(items, filters, shared_prompts)
    both = list(zip(items, verdicts, strict=True))
    return Filtered(
        tuple(item for item, taken in both if taken is None),
        tuple((item, taken) for item, taken in both if taken is not None),
    )


def decide(
    items: Iterable[Item],
    filters: Filters = Filters(),
    shared_prompts: Mapping[str, Iterable[Prompt]] | None = None,
) -> list[Taken | None]:
    """One verdict for each item, None for one to keep. Reads `items` once and holds ids and hashes, no texts."""
    apart = {
        key: name
        for name, prompts in (shared_prompts or {}).items()
        for prompt in prompts
        for key in _keys_to_avoid(prompt)
    }
    verdicts: list[Taken | None] = []
    left: dict[int, _Fingerprint] = {}
    labelled: dict[tuple[bytes, bool], str] = {}
    for number, item in enumerate(items):
        taken = _alone(item, filters, apart)
        verdicts.append(taken)
        if taken is None:
            left[number] = seen = _fingerprint(item)
            for label in seen.labels:
                labelled.setdefault(label, item.id)
    before: dict[bytes, str] = {}
    for number, seen in left.items():
        verdicts[number] = _among(seen, labelled, before)
        before.setdefault(seen.row, seen.id)
    return verdicts


def units(text: str) -> int:
    """The length of a text: every Chinese or Japanese character is a unit, and every run of other word characters.

    So one bound serves both: a Chinese text has about as many units as it has tokens, an English one as many
    as it has words. Punctuation counts nothing.

    >>> units("It's 3.5 km."), units("今天天气很好。"), units("用 Python 写")
    (5, 6, 3)
    """
    return sum(1 for _ in _UNIT.finditer(text))


def words(text: str) -> list[str]:
    """The units of a text themselves.

    >>> words("It's 今天.")
    ['It', 's', '今', '天']
    """
    return _UNIT.findall(text)


def preferences(item: Item) -> tuple[tuple[int, int], ...]:
    """The comparisons of an item that its gold decides, each as the indices (better, worse).

    >>> from judges.types import Gold
    >>> preferences(Item(id="a", prompt="p", responses=["x", "y", "z"], gold=Gold(ranking=(2, 1, 2))))
    ((1, 0), (1, 2))
    """
    if item.gold is None or item.gold.tie:
        return ()
    if item.gold.scores is not None:
        worth = item.gold.scores
    elif item.gold.ranking is not None:
        worth = tuple(-rank for rank in item.gold.ranking)
    else:
        worth = tuple(float(i in (item.gold.chosen or ())) for i in range(len(item.responses)))
    return tuple((i, j) if worth[i] > worth[j] else (j, i) for i, j in item.pairs() if worth[i] != worth[j])


def agreement(item: Item) -> float | None:
    """The share of annotators behind the most common label, 0 to 1; None where the item does not say.

    `meta["votes"]`, a label for each annotator, goes before `meta["agreement"]`: in some sets the latter is a
    count. A number outside of 0 to 1 is not a share, and a vote that is itself a list is not a label.

    >>> agreement(Item(id="a", prompt="p", responses=["x", "y"], meta={"votes": ["a", "b", "a", "a"]}))
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


def similarity(first: str, second: str, least: float) -> float | None:
    """difflib's ratio of two texts, character by character and without its autojunk; None when under `least`.

    >>> similarity("the cat sat", "the cat sits", 0.8), similarity("the cat sat", "a dog ran", 0.8)
    (0.8695652173913043, None)
    """
    if first == second:
        return 1.0
    matcher = SequenceMatcher(None, first, second, autojunk=False)
    if matcher.real_quick_ratio() < least or matcher.quick_ratio() < least:
        return None
    # The characters that difflib matches are a common subsequence, so the longest one bounds them from above.
    # It costs milliseconds where the ratio costs seconds, and decides nearly all that quick_ratio leaves.
    if 2.0 * common_subsequence(first, second) / (len(first) + len(second)) < least:
        return None
    ratio = matcher.ratio()
    return ratio if ratio >= least else None


def common_subsequence(first: Sequence[Hashable], second: Sequence[Hashable]) -> int:
    """The length of the longest common subsequence, by bits of one long integer (Hyyrö 2004).

    >>> common_subsequence("nematode knowledge", "empty bottle"), common_subsequence(["the", "cat"], ["a", "cat"])
    (7, 1)
    """
    places: dict[Hashable, int] = {}
    for i, element in enumerate(first):
        places[element] = places.get(element, 0) | 1 << i
    everything = (1 << len(first)) - 1
    unmatched = everything
    for element in second:
        hits = unmatched & places.get(element, 0)
        unmatched = ((unmatched + hits) | (unmatched - hits)) & everything
    return len(first) - unmatched.bit_count()


def _alone(item: Item, filters: Filters, apart: Mapping[bytes, str]) -> Taken | None:
    """What the filters that need no other row say."""
    prompt = sum(units(message["content"]) for message in item.messages)
    wrong = _out_of_bounds("the prompt", prompt, filters.min_prompt_length, filters.max_prompt_length)
    for i, response in enumerate(item.responses, start=1):
        wrong = wrong or _out_of_bounds(f"response {i}", units(response), filters.min_length, filters.max_length)
    if wrong:
        return Taken("length", wrong)
    share = agreement(item)
    if share is not None and share < filters.min_agreement:
        return Taken("agreement", f"{share:.2f} of the annotators agree, fewer than {filters.min_agreement:g}")
    source = next((apart[key] for key in _keys(item.messages) if key in apart), None) if apart else None
    if source is not None:
        return Taken("shared-prompt", f"its prompt is also in {source}")
    first: str | None = None
    for better, worse in preferences(item):
        ratio = similarity(item.responses[better], item.responses[worse], filters.max_similarity)
        if ratio is None:
            return None
        both = f"responses {better + 1} (better) and {worse + 1} (worse)"
        first = first or f"{both} are {ratio:.3f} alike, not below {filters.max_similarity:g}"
    if first is not None:
        return Taken("similar", first)
    return None


def _out_of_bounds(what: str, length: int, low: int, high: int | None) -> str | None:
    if length < low:
        return f"{what} has {length} units (words, or Chinese characters), fewer than {low}"
    if high is not None and length > high:
        return f"{what} has {length} units (words, or Chinese characters), more than {high}"
    return None


@dataclass(frozen=True, slots=True)
class _Fingerprint:
    """A row in hashes. A label is a pair and which of its two texts, in sorted order, is the better one."""

    id: str
    row: bytes
    labels: frozenset[tuple[bytes, bool]]


def _fingerprint(item: Item) -> _Fingerprint:
    prompt = _digest(*(f"{m['role']} {_spaced(m['content'])}" for m in item.messages)).hex()
    texts = [_spaced(response) for response in item.responses]
    labels = frozenset(
        (_digest(prompt, *sorted((texts[better], texts[worse]))), texts[better] > texts[worse])
        for better, worse in preferences(item)
    )
    said = sorted(f"{pair.hex()} {later}" for pair, later in labels)
    return _Fingerprint(item.id, _digest(prompt, *said, *sorted(set(texts))), labels)


def _among(seen: _Fingerprint, labelled: Mapping[tuple[bytes, bool], str], before: Mapping[bytes, str]) -> Taken | None:
    """What the filters that look at the other rows say."""
    for pair, later in seen.labels:
        if (pair, not later) in labelled:
            other = labelled[pair, not later]
            return Taken("contradictory", f"the same pair has the opposite label in {other!r}")
    if seen.row in before:
        return Taken("duplicate", f"the same responses with the same label are in {before[seen.row]!r}")
    return None


def _keys(prompt: Prompt) -> tuple[bytes, bytes]:
    """A prompt for comparing: all its turns, and the user's last; the system's do not count."""
    turns: Sequence[Message] = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
    spoken = [_spaced(turn["content"].casefold()) for turn in turns if turn["role"] != "system"]
    return _digest(*spoken), _digest(_spaced(_last_turn(turns).casefold()))


def _keys_to_avoid(prompt: Prompt) -> tuple[bytes, ...]:
    """The keys that a row must not share: a short follow-up of a longer conversation is not one."""
    whole, last = _keys(prompt)
    long = isinstance(prompt, str) or units(_last_turn(prompt)) >= FOLLOW_UP_UNITS
    return (whole, last) if long else (whole,)


def _last_turn(turns: Sequence[Message]) -> str:
    return next((turn["content"] for turn in reversed(turns) if turn["role"] == "user"), "")


def _spaced(text: str) -> str:
    """A text with single spaces for all white space: no line break is left in it."""
    return " ".join(text.split())


def _digest(*parts: str) -> bytes:
    """A hash of parts that hold no line break."""
    return blake2b("\n".join(parts).encode("utf-8", "surrogatepass"), digest_size=16).digest()
