"""A panel: several scorers of any kind combined by votes, mean ranks or mean z-scores."""

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
from judges.scorer import Scorer, softmax_preference
from judges.scorers.fan_out import fan_out
from judges.scorers.nested import Entry, build_scorer, parse_entry
from judges.types import REAL_LINE, Comparison, Failure, Item, Judgment, Scale, Scorecard, Usage

Combine = Literal["vote", "rank", "z"]
Ties = Literal["tie", "first-member"]
TIE_BREAK = 1e-6  # the most that breaking a tie adds to a score, for each position that it decides


@dataclass(frozen=True, slots=True)
class Member:
    """One scorer of a panel, its unique label, and the (mean, standard deviation) of its scores."""

    label: str
    scorer: Scorer
    statistics: tuple[float, float] | None = None


class Panel(Scorer):
    """A scorer made of scorers, which judge the same Items concurrently.

    `members` is a list of specs ("self-rewarding,votes=3"), of mappings ({"scorer": "length"}) and of Scorers,
    or the name of a YAML file with such a list. `combine`:

    - "vote": each member votes for its best response; tied ones share the vote. The score is a response's share of the
      votes, 0 to 1, and so is `preference`; `comparisons` are the majority's view of each pair that matters, which
      also orders responses that no member considers the best.
    - "rank": each member ranks the responses; 1 is the best, and ties have their mean rank. The score of one of k
      responses is (k - mean rank) / (k - 1): 1 when all rank it first, 0 when all rank it last. `preference` is 1 for
      the highest score, shared by ties.
    - "z": the mean of (score - mean) / deviation, with each member's mean and standard deviation from its
      `statistics()` or its spec (`mean=`, `deviation=`). `preference` is the softmax.

    `ties`: "tie" keeps ties; with "first-member" a tie is decided by the first member whose scores differ, which adds
    a millionth or less to the better score. `quorum` is the least number of members that must decide.

    A member that fails on a response is left out for its Item ("z": for that response). `votes` has each member's
    share, rank or z-score, or its Failure, in order; `readings` has its own score under its label. Where fewer than
    `quorum` members decide, the result is a Failure that names all that failed. A member that cannot run ends the panel
    with CannotRun. `window` bounds the responses between the source and the consumer.
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
            raise CannotRun(
                "scorer 'panel' needs members=, a list of two scorers or more, or a YAML file with such a list"
            )
        if not 1 <= quorum <= len(entries):
            raise CannotRun(f"scorer 'panel': quorum is from 1 to its {len(entries)} members, not {quorum}")
        if window < 1:
            raise CannotRun("scorer 'panel': window is at least 1")
        self.combine, self.ties, self.quorum, self.window = combine, ties, quorum, window
        self.scale = REAL_LINE if combine == "z" else Scale(0, 1)
        with ExitStack() as built:
            members_so_far: list[Member] = []
            for entry in entries:
                member = _build_member(entry, [m.label for m in members_so_far])
                built.callback(member.scorer.close)
                members_so_far.append(member)
            if combine == "z" and (unknown := [m.label for m in members_so_far if m.statistics is None]):
                raise CannotRun(
                    f"scorer 'panel': the mean and deviation of the scores are not known of {', '.join(unknown)};"
                    " set mean= and deviation= in the member's spec, or use combine=rank, which needs none"
                )
            built.pop_all()
        self.members = tuple(members_so_far)

    def stream(self, items: Iterable[Item]) -> Iterator[Scorecard]:
        one_is_enough = self.combine == "z"  # a single response can be neither voted for nor ranked
        members = [(member.label, member.scorer) for member in self.members]
        results = fan_out(members, items, self.window, lambda item: not one_is_enough and len(item.responses) < 2)
        try:
            for item, cards in results:
                yield self.combine_cards(item, cards)
        finally:
            results.close()

    def combine_cards(self, item: Item, cards: Sequence[Scorecard]) -> Scorecard:
        """The members' Scorecards of one Item, in the members' order, as one."""
        count = len(item.responses)
        if self.combine != "z" and count < 2:
            failure = Failure("needs-two", f"a panel with combine={self.combine} compares; the item has one response")
            return Scorecard(item.id, (Judgment(failure=failure),))
        member_scores = [_scores(member, card) for member, card in zip(self.members, cards, strict=True)]
        votes = [self._votes(member, scores) for member, scores in zip(self.members, member_scores, strict=True)]
        scores: list[float | Failure] = [self._combine_votes([vote[i] for vote in votes], count) for i in range(count)]
        if self.ties == "first-member":
            scores = break_ties(scores, member_scores)
        judgments = tuple(
            self._judgment(
                scores[i], [v[i] for v in votes], [m[i] for m in member_scores], [c.judgments[i] for c in cards]
            )
            for i in range(count)
        )
        comparisons = self._comparisons(item, votes, member_scores, scores) if self.combine == "vote" else ()
        return Scorecard(item.id, judgments, comparisons, self._preference(judgments))

    def _votes(self, member: Member, scores: list[float | Failure]) -> list[float | Failure]:
        """A member's vote on each response: a share of its one vote, a rank or a z-score."""
        if self.combine == "z":
            assert member.statistics is not None
            mean, deviation = member.statistics
            return [s if isinstance(s, Failure) else (s - mean) / deviation for s in scores]
        numbers = [s for s in scores if not isinstance(s, Failure)]
        if len(numbers) < len(scores):
            index, failure = next((i, s) for i, s in enumerate(scores) if isinstance(s, Failure))
            abstained = Failure(failure.reason, f"{failure.message} (of response {index}, so it does not vote)")
            return [s if isinstance(s, Failure) else abstained for s in scores]
        return list(vote_shares(numbers) if self.combine == "vote" else ranks(numbers))

    def _combine_votes(self, votes: Sequence[float | Failure], count: int) -> float | Failure:
        """The score of one of `count` responses from the members' votes on it."""
        decided = [vote for vote in votes if not isinstance(vote, Failure)]
        failures = [vote for vote in votes if isinstance(vote, Failure)]
        if len(decided) < self.quorum:
            message = f"{len(decided)} of {len(votes)} members decided, {self.quorum} must"
            return Failure(failures[0].reason, "; ".join([message, *map(str, failures)]))
        mean = statistics.fmean(decided)
        # Rounded, because equal sums of thirds may differ in the last bit.
        return round((count - mean) / (count - 1) if self.combine == "rank" else mean, 12)

    def _judgment(
        self,
        score: float | Failure,
        votes: Sequence[float | Failure],
        member_scores: Sequence[float | Failure],
        judgments: Sequence[Judgment],
    ) -> Judgment:
        labels = [member.label for member in self.members]
        critiques = [f"{label}: {j.critique}" for label, j in zip(labels, judgments, strict=True) if j.critique]
        return Judgment(
            score=None if isinstance(score, Failure) else score,
            failure=score if isinstance(score, Failure) else None,
            votes=tuple(votes),
            critique="\n\n".join(critiques) or None,
            completions=tuple(text for j in judgments for text in j.completions),
            truncated=any(j.truncated for j in judgments),
            usage=sum((j.usage for j in judgments), Usage()),
            readings=dict(zip(labels, member_scores, strict=True)),
        )

    def _comparisons(
        self,
        item: Item,
        votes: Sequence[Sequence[float | Failure]],
        member_scores: Sequence[Sequence[float | Failure]],
        scores: Sequence[float | Failure],
    ) -> tuple[Comparison, ...]:
        def outcome(a: int, b: int) -> Literal["first", "second", "tie"] | Failure:
            score = scores[a]
            if isinstance(score, Failure):
                return score
            signs = [
                _sign(of_member[a], of_member[b])
                for of_member, vote in zip(member_scores, votes, strict=True)
                if not isinstance(vote[a], Failure)
            ]
            total = sum(signs)
            if not total and self.ties == "first-member":
                total = next((sign for sign in signs if sign), 0)
            return "first" if total > 0 else "second" if total < 0 else "tie"

        return tuple(Comparison(a, b, outcome(a, b)) for a, b in item.pairs())

    def _preference(self, judgments: Sequence[Judgment]) -> tuple[float, ...] | None:
        if self.combine == "z":
            return softmax_preference(judgments)
        scores = [j.score for j in judgments if j.score is not None]
        if len(scores) < len(judgments):
            return None
        shares = scores if self.combine == "vote" else vote_shares(scores)
        return tuple(share / sum(shares) for share in shares)

    def use_store(self, path: Path) -> None:
        for member in self.members:
            member.scorer.use_store(path)

    def reread(self, path: Path) -> None:
        """Judge from this store alone. Raises CannotRun where a member keeps no completions."""
        for member in self.members:
            member.scorer.reread(path)

    def identity(self) -> dict[str, Any]:
        members = [m.scorer.identity() for m in self.members]
        if self.combine == "z":
            known = [dict(zip(("mean", "deviation"), m.statistics or (), strict=False)) for m in self.members]
            members = [identity | statistics for identity, statistics in zip(members, known, strict=True)]
        return {
            "scorer": self.name,
            "combine": self.combine,
            "ties": self.ties,
            "quorum": self.quorum,
            "members": members,
        }

    def close(self) -> None:
        with ExitStack() as stack:  # closes the others where one raises
            for member in self.members:
                stack.callback(member.scorer.close)


def vote_shares(scores: Sequence[float]) -> list[float]:
    """One vote for the highest score, shared by ties.

    >>> vote_shares([1, 3, 3]), vote_shares([2, 1])
    ([0.0, 0.5, 0.5], [1.0, 0.0])
    """
    best = max(scores)
    return [1 / scores.count(best) if s == best else 0.0 for s in scores]


def ranks(scores: Sequence[float]) -> list[float]:
    """Ranks; 1 is the highest score, and ties have their mean rank.

    >>> ranks([10, 30, 20, 20])
    [4.0, 1.0, 2.5, 2.5]
    """
    return [sum(s > own for s in scores) + (scores.count(own) + 1) / 2 for own in scores]


def break_ties(
    scores: Sequence[float | Failure], member_scores: Sequence[Sequence[float | Failure]]
) -> list[float | Failure]:
    """Scores whose ties are broken by the first of `member_scores` (each a score per response) that differs.

    The better response gets a millionth more, or less where the next score is closer than that, so that scores that
    differed keep their order. A member without a score for one of the tied responses is skipped.

    >>> break_ties([0.5, 0.5], [[3, 3], [1, 2]])
    [0.5, 0.500001]
    """
    values = sorted({s for s in scores if not isinstance(s, Failure)})
    gap = min((high - low for low, high in itertools.pairwise(values)), default=math.inf)
    step = min(TIE_BREAK, gap / (2 * len(scores)))
    broken = list(scores)
    for value in values:
        tied = [i for i, s in enumerate(scores) if s == value]
        complete = [column for column in member_scores if not any(isinstance(column[i], Failure) for i in tied)]
        keys = {i: tuple(column[i] for column in complete) for i in tied}
        for i in tied:
            broken[i] = value + step * len({key for key in keys.values() if key < keys[i]})
    return broken


def _sign(a: float | Failure, b: float | Failure) -> int:
    return 0 if isinstance(a, Failure) or isinstance(b, Failure) else (a > b) - (a < b)


def _scores(member: Member, card: Scorecard) -> list[float | Failure]:
    """A member's score of each response, or its Failure with the member's label."""
    return [
        Failure(j.failure.reason, f"{member.label}: {j.failure.message}") if j.failure else float(j.score or 0)
        for j in card.judgments
    ]


def _read_file(path: str | Path) -> list[Entry]:
    try:
        entries = yaml.safe_load(Path(path).expanduser().read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise CannotRun(f"scorer 'panel': members={path} cannot be read: {error}") from error
    except yaml.YAMLError as error:
        raise CannotRun(f"{path}: not YAML: {error}") from error
    if not isinstance(entries, list):
        raise CannotRun(f"{path}: not a list; a panel's file is a list of specs or of mappings with scorer: NAME")
    return entries


def _build_member(entry: Entry, labels: Sequence[str]) -> Member:
    """The member of an entry; `labels` are those of the members before it. Raises CannotRun."""
    name, settings = parse_entry(entry) if isinstance(entry, str | Mapping | Scorer) else (None, {})
    if name is None:
        raise CannotRun(f"scorer 'panel': a member is a spec or a mapping with scorer: NAME, not {entry!r}")
    mean, deviation = settings.pop("mean", None), settings.pop("deviation", None)
    scorer = build_scorer("panel", name, settings)
    given = (mean, deviation) != (None, None)
    moments: Any = (mean, deviation) if given else getattr(scorer, "statistics", lambda: None)()
    if moments is not None and not (_is_number(moments[0]) and _is_number(moments[1]) and moments[1] > 0):
        scorer.close()
        raise CannotRun(f"scorer 'panel': {scorer.name} needs a mean= and a deviation= above 0, not {moments}")
    count = sum(label.partition(" ")[0] == scorer.name for label in labels)
    return Member(f"{scorer.name} {count + 1}" if count else scorer.name, scorer, moments)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
