"""Several scorers of any kind as one: they vote, they rank, or their z-scores are averaged."""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import yaml

from judges.errors import CannotRun
from judges.scorer import Scorer, load_scorer, parse_spec, reread_from, softmax_preference
from judges.scorers.side_by_side import side_by_side
from judges.types import REAL_LINE, Comparison, Failure, Item, Judgment, Scale, Scorecard, Usage

Combine = Literal["vote", "rank", "z"]
Ties = Literal["tie", "first-member"]
Entry = str | Mapping[str, Any] | Scorer
HAIR = 1e-6  # what a tie rule adds to a score, at the most, for each place that it decides


@dataclass(frozen=True, slots=True)
class Member:
    """One scorer of a panel, a name for it that no other member has, and its scores' (mean, deviation)."""

    label: str
    scorer: Scorer
    statistics: tuple[float, float] | None = None


class Panel(Scorer):
    """A scorer made of scorers, which judge the same Items at the same time.

    `members` is a list of specs ("self-rewarding,votes=3"), of mappings ({"scorer": "length"}) and of Scorers,
    or the name of a YAML file that holds such a list. `combine`:

    - "vote": each member votes for its best response, split where several are level. The score is a response's
      share of the votes, 0 to 1; `preference` the same; `comparisons` say what the majority of the members
      thinks of each pair that matters, which tells responses apart that nobody holds for the best.
    - "rank": each member ranks the responses, 1 the best, level ones at their mean rank. The score is
      (k - mean rank) / (k - 1) of k responses: 1 when all rank it first, 0 when all rank it last.
      `preference` goes to the highest score, shared where several are level.
    - "z": the mean of (score - mean) / deviation, with the mean and deviation that each member tells
      (`statistics()`), or that stand in its spec (`mean=`, `deviation=`). `preference` is the softmax.

    `ties`: "tie" leaves level scores level; "first-member" lets the first member decide that has judged them
    and holds one for better, which shows as a millionth or less added to its score. `quorum` is the least
    number of members that must decide.

    A member that fails on a response decides nothing about its Item ("z": about that response). It is
    reported: `votes` holds for each member, in order, its share, rank or z-score, or its Failure;
    `readings` its own score by its label. Where fewer than `quorum` decide there is a Failure that names all
    that failed. A member that cannot run at all ends the panel with CannotRun. `window` is the most responses
    between the source and the consumer.
    """

    name = "panel"

    def __init__(
        self,
        members: str | Path | Sequence[Entry] = (),
        combine: Combine = "vote",
        ties: Ties = "tie",
        quorum: int = 1,
        window: int = 256,
    ) -> None:
        if combine not in get_args(Combine):
            raise CannotRun(f"scorer 'panel': combine is {', '.join(get_args(Combine))}, not {combine!r}")
        if ties not in get_args(Ties):
            raise CannotRun(f"scorer 'panel': ties is {' or '.join(get_args(Ties))}, not {ties!r}")
        entries = _read_file(members) if isinstance(members, str | Path) else list(members)
        if len(entries) < 2:
            raise CannotRun("scorer 'panel' needs members=, a list of two scorers or more, or a YAML file with one")
        if not 1 <= quorum <= len(entries):
            raise CannotRun(f"scorer 'panel': quorum is from 1 to its {len(entries)} members, not {quorum}")
        if window < 1:
            raise CannotRun("scorer 'panel': window is at least 1")
        self.combine, self.ties, self.quorum, self.window = combine, ties, quorum, window
        self.scale = REAL_LINE if combine == "z" else Scale(0, 1)
        with ExitStack() as built:
            found: list[Member] = []
            for entry in entries:
                member = _member(entry, [m.label for m in found])
                built.callback(member.scorer.close)
                found.append(member)
            if combine == "z" and (without := [m.label for m in found if m.statistics is None]):
                raise CannotRun(
                    f"scorer 'panel': no mean and deviation of the scores is known of {', '.join(without)}:"
                    " give mean= and deviation= in the member's spec, or combine=rank, which needs none"
                )
            built.pop_all()
        self.members = tuple(found)

    def stream(self, items: Iterable[Item]) -> Iterator[Scorecard]:
        alone = self.combine != "z"  # one response can be neither voted for nor ranked: nobody is asked
        members = [(member.label, member.scorer) for member in self.members]
        together = side_by_side(members, items, self.window, lambda item: alone and len(item.responses) < 2)
        try:
            for item, cards in together:
                yield self.card(item, cards)
        finally:
            together.close()

    def card(self, item: Item, cards: Sequence[Scorecard]) -> Scorecard:
        """The members' Scorecards of one Item, in the members' order, as one."""
        count = len(item.responses)
        if self.combine != "z" and count < 2:
            one = Failure("needs-two", f"a panel that combines by {self.combine} compares; the item has one response")
            return Scorecard(item.id, (Judgment(failure=one),))
        told = [_told(member, card) for member, card in zip(self.members, cards, strict=True)]
        columns = [self._entries(m, scores) for m, scores in zip(self.members, told, strict=True)]
        raw: list[float | Failure] = [self._combined([column[i] for column in columns], count) for i in range(count)]
        if self.ties == "first-member":
            raw = untied(raw, told)
        judgments = tuple(self._judgment(raw[i], [c[i] for c in columns], told, cards, i) for i in range(count))
        comparisons = self._comparisons(item, columns, told, raw) if self.combine == "vote" else ()
        return Scorecard(item.id, judgments, comparisons, self._preference(judgments))

    def _entries(self, member: Member, scores: list[float | Failure]) -> list[float | Failure]:
        """What a member says of each response in this panel's coin: a share of its vote, a rank, a z-score."""
        if self.combine == "z":
            assert member.statistics is not None
            mean, deviation = member.statistics
            return [s if isinstance(s, Failure) else (s - mean) / deviation for s in scores]
        whole = [s for s in scores if not isinstance(s, Failure)]
        if len(whole) < len(scores):
            place, failure = next((i, s) for i, s in enumerate(scores) if isinstance(s, Failure))
            other = Failure(failure.reason, f"{failure.message} (of response {place}, so no say in the item)")
            return [s if isinstance(s, Failure) else other for s in scores]
        return list(ballot(whole) if self.combine == "vote" else ranks(whole))

    def _combined(self, entries: Sequence[float | Failure], count: int) -> float | Failure:
        """One response's score out of what each member says of it."""
        decided = [e for e in entries if not isinstance(e, Failure)]
        failures = [e for e in entries if isinstance(e, Failure)]
        if len(decided) < self.quorum:
            head = f"{len(decided)} of {len(entries)} members decided, {self.quorum} must"
            return Failure(failures[0].reason, "; ".join([head, *map(str, failures)]))
        mean = statistics.fmean(decided)
        # Thirds of votes do not add up to the last bit: what differs by less is level.
        return round((count - mean) / (count - 1) if self.combine == "rank" else mean, 12)

    def _judgment(
        self,
        outcome: float | Failure,
        entries: Sequence[float | Failure],
        told: Sequence[Sequence[float | Failure]],
        cards: Sequence[Scorecard],
        place: int,
    ) -> Judgment:
        of = [card.judgments[place] for card in cards]
        written = [f"{m.label}: {j.critique}" for m, j in zip(self.members, of, strict=True) if j.critique]
        kept: dict[str, Any] = {
            "votes": tuple(entries),
            "critique": "\n\n".join(written) or None,
            "completions": tuple(text for j in of for text in j.completions),
            "truncated": any(j.truncated for j in of),
            "usage": sum((j.usage for j in of), Usage()),
            "readings": {m.label: scores[place] for m, scores in zip(self.members, told, strict=True)},
        }
        if isinstance(outcome, Failure):
            return Judgment(failure=outcome, **kept)
        return Judgment(score=outcome, **kept)

    def _comparisons(
        self,
        item: Item,
        columns: Sequence[Sequence[float | Failure]],
        told: Sequence[Sequence[float | Failure]],
        outcomes: Sequence[float | Failure],
    ) -> tuple[Comparison, ...]:
        def outcome(a: int, b: int) -> Literal["first", "second", "tie"] | Failure:
            failed = outcomes[a]
            if isinstance(failed, Failure):
                return failed
            sides = [
                _side(scores[a], scores[b])
                for scores, column in zip(told, columns, strict=True)
                if not isinstance(column[a], Failure)
            ]
            total = sum(sides)
            if not total and self.ties == "first-member":
                total = next((side for side in sides if side), 0)
            return "first" if total > 0 else "second" if total < 0 else "tie"

        return tuple(Comparison(a, b, outcome(a, b)) for a, b in item.pairs())

    def _preference(self, judgments: Sequence[Judgment]) -> tuple[float, ...] | None:
        if self.combine == "z":
            return softmax_preference(judgments)
        scores = [j.score for j in judgments if j.score is not None]
        if len(scores) < len(judgments):
            return None
        shares = scores if self.combine == "vote" else ballot(scores)
        return tuple(share / sum(shares) for share in shares)

    def remember(self, path: Path) -> None:
        """Pass the store of completions on to every member that keeps one."""
        for member in self.members:
            if keep := getattr(member.scorer, "remember", None):
                keep(path)

    def reread(self, path: Path) -> None:
        """Judge from this store alone. Raises CannotRun where a member keeps no completions."""
        for member in self.members:
            reread_from(member.scorer, path)

    def identity(self) -> dict[str, Any]:
        members = [m.scorer.identity() for m in self.members]
        if self.combine == "z":
            told = [dict(zip(("mean", "deviation"), m.statistics or (), strict=False)) for m in self.members]
            members = [identity | known for identity, known in zip(members, told, strict=True)]
        return {
            "scorer": self.name,
            "combine": self.combine,
            "ties": self.ties,
            "quorum": self.quorum,
            "members": members,
        }

    def close(self) -> None:
        with ExitStack() as all_of_them:  # one that fails to close does not keep the others open
            for member in self.members:
                all_of_them.callback(member.scorer.close)


def ballot(scores: Sequence[float]) -> list[float]:
    """One vote, for the highest score, shared where several are level.

    >>> ballot([1, 3, 3]), ballot([2, 1])
    ([0.0, 0.5, 0.5], [1.0, 0.0])
    """
    best = max(scores)
    return [1 / scores.count(best) if s == best else 0.0 for s in scores]


def ranks(scores: Sequence[float]) -> list[float]:
    """Ranks, 1 for the highest score; level ones share the mean of their places.

    >>> ranks([10, 30, 20, 20])
    [4.0, 1.0, 2.5, 2.5]
    """
    return [sum(s > own for s in scores) + (scores.count(own) + 1) / 2 for own in scores]


def untied(scores: Sequence[float | Failure], told: Sequence[Sequence[float | Failure]]) -> list[float | Failure]:
    """Level scores told apart by the first of `told` (each a score per response) that does, then by the next.

    The better gets a millionth more, less where another score lies closer than that: no order between scores
    that differed changes. A member without a score for one of the level responses is passed over.

    >>> untied([0.5, 0.5], [[3, 3], [1, 2]])
    [0.5, 0.500001]
    """
    values = sorted({s for s in scores if not isinstance(s, Failure)})
    gap = min((high - low for low, high in itertools.pairwise(values)), default=math.inf)
    step = min(HAIR, gap / (2 * len(scores)))
    out = list(scores)
    for value in values:
        level = [i for i, s in enumerate(scores) if s == value]
        whole = [column for column in told if not any(isinstance(column[i], Failure) for i in level)]
        keys = {i: tuple(column[i] for column in whole) for i in level}
        for i in level:
            out[i] = value + step * len({key for key in keys.values() if key < keys[i]})
    return out


def _side(a: float | Failure, b: float | Failure) -> int:
    return 0 if isinstance(a, Failure) or isinstance(b, Failure) else (a > b) - (a < b)


def _told(member: Member, card: Scorecard) -> list[float | Failure]:
    """A member's score of each response, or its Failure, which then names it."""
    return [
        Failure(j.failure.reason, f"{member.label}: {j.failure.message}") if j.failure else float(j.score or 0)
        for j in card.judgments
    ]


def _read_file(path: str | Path) -> list[Entry]:
    try:
        found = yaml.safe_load(Path(path).expanduser().read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise CannotRun(f"scorer 'panel': members={path} is not a file that can be read: {error}") from error
    except yaml.YAMLError as error:
        raise CannotRun(f"{path}: not YAML: {error}") from error
    if not isinstance(found, list):
        raise CannotRun(f"{path}: a panel's file is a list of specs or of mappings with scorer: NAME")
    return found


def _member(entry: Entry, taken: Sequence[str]) -> Member:
    """A member out of a spec, a mapping or a Scorer; `taken` are the labels before it. Raises CannotRun."""
    name: Any = entry
    settings: dict[str, Any] = {}
    if isinstance(entry, str):
        name, settings = parse_spec(entry)
    elif isinstance(entry, Mapping):
        settings = {str(key).replace("-", "_"): value for key, value in entry.items()}
        name = settings.pop("scorer", None)
    if not isinstance(name, str | Scorer):
        raise CannotRun(f"scorer 'panel': a member is a spec or a mapping with scorer: NAME, not {entry!r}")
    mean, deviation = settings.pop("mean", None), settings.pop("deviation", None)
    if isinstance(name, Scorer) and settings:
        raise CannotRun(f"scorer 'panel': {name.name!r} is built already and takes no {', '.join(settings)}")
    scorer = name if isinstance(name, Scorer) else load_scorer(name, **settings)
    told = (mean, deviation) if (mean, deviation) != (None, None) else getattr(scorer, "statistics", lambda: None)()
    if told is not None and not (_is_number(told[0]) and _is_number(told[1]) and told[1] > 0):
        scorer.close()
        raise CannotRun(f"scorer 'panel': {scorer.name} needs a mean= and a deviation= above 0, not {told}")
    count = sum(label.partition(" ")[0] == scorer.name for label in taken)
    return Member(f"{scorer.name} {count + 1}" if count else scorer.name, scorer, told)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
