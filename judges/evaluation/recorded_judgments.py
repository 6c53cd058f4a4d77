"""Judgments made elsewhere, read from a file: a published judge's outputs, or scores of one's own."""

from __future__ import annotations

import hashlib
import json
import math
import re
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

from judges.data.readers import records
from judges.errors import CannotRun
from judges.evaluation.alignment import RecordedCard, digest, placed, shown
from judges.scorer import Scorer
from judges.scorers.tournament import WORTH, Settled, settle
from judges.types import FAILURE_REASONS, REAL_LINE, Comparison, Failure, Item, Judgment, Scorecard, scorecard

Columns = Mapping[str, Any]

# The files of other suites are known to the evaluation, which stands above; it is found by name, when asked for.
_FOREIGN = "judges.evaluation.external_formats"
# What stands before an id in some copies of a benchmark and not in others.
PREFIX = "jb-"
# An id that a reader made of the row's place, because the row had none.
_GENERATED = re.compile(r"row-\d+(#\d+)*")
# What a scorer is shown of an Item, as a digest, is told by the evaluation that writes it; found by name as well.
_JUDGING = "judges.evaluation.judging"
# The two scores of a row of chosen and rejected, by the names in use.
_SIDES = (
    ("score_chosen", "score_rejected"),
    ("scores_chosen", "scores_rejected"),
    ("chosen_score", "rejected_score"),
    ("chosen_reward", "rejected_reward"),
    ("reward_chosen", "reward_rejected"),
)
_VERDICTS: Mapping[str, Literal["first", "second", "tie"]] = {
    **dict.fromkeys(("a", "a>b", "a>>b", "b<a", "first"), "first"),
    **dict.fromkeys(("b", "b>a", "b>>a", "a<b", "second"), "second"),
    **dict.fromkeys(("tie", "a=b", "b=a", "c"), "tie"),
}
WANTED = (
    "a row has an id and one of: scores (one for each response, in the benchmark's order), score_chosen and"
    " score_rejected, verdict (a, b or tie; verdict_swapped for the other order), the fields of a file that assay"
    " compare or assay score wrote, or of RewardBench's or JudgeBench's outputs"
)


class RecordedJudgments(Scorer):
    """A file of judgments as a scorer: each Item gets what the file's row of its id says.

    The rows may be those of `assay compare` (DIR/judgments/FILE), of `assay score`, of RewardBench's and
    JudgeBench's outputs (judges/evaluation/foreign.py), or plain: an id, and

    - `scores`, a list with a number for each response in the Item's order; a null is a missing score;
    - `score_chosen` and `score_rejected`, for an Item of two of which gold chose one;
    - `verdict`: a, b, tie, A>B, …, of two; `verdict_swapped` is what was said when b was shown first, in places as
      they were shown: there, "a" means the response in the first place, which is b.

    `score` names other columns: one that holds a number or a list of them, or one for each response.

    A row with the texts of its responses (`responses`, `response_A` and `response_B`) is placed by them, one of
    chosen and rejected by gold, others by order. Ids are equal, or equal but for a leading "jb-". An Item that
    the file does not hold has Failure("missing"). Raises CannotRun, with file and row, for a row that says
    nothing readable, a second row of an id, and one that does not fit its Item.
    """

    name = "precomputed"
    scale = REAL_LINE

    def __init__(self, path: str | Path, score: Sequence[str] | str = ()) -> None:
        self._path = str(path)
        self._score = (score,) if isinstance(score, str) else tuple(score)
        file = Path(self._path).expanduser()
        if not file.is_file():
            raise CannotRun(f"no file {self._path!r} of judgments")
        with open(file, "rb") as data:
            self._digest = hashlib.file_digest(data, "sha256").hexdigest()
        self._made_for = _made_for(file)
        self._said: dict[str, RecordedCard] = {}
        for number, columns in enumerate(_rows(self._path), start=1):
            where = f"{self._path}, row {number}"
            if isinstance(columns, Failure):
                raise CannotRun(f"{where}: {columns.message}")
            said = read_row(columns, where, self._score)
            if said.subset is not None:
                # RewardBench's ids; where subsets repeat one, its loader numbers it by the row, as here.
                while said.id in self._said and self._said[said.id].subset != said.subset:
                    said = replace(said, id=f"{said.id}#{number}")
            if said.id in self._said:
                raise CannotRun(f"{where}: id {shown(said.id)} is also that of {self._said[said.id].where}")
            self._said[said.id] = said
        if not self._said:
            raise CannotRun(f"{self._path}: the file has no rows; {WANTED}")
        models = {said.model for said in self._said.values()}
        self.model = (models.pop() or "") if len(models) == 1 else ""

    def identity(self) -> dict[str, Any]:
        told = {"scorer": self.name, "file": Path(self._path).name, "sha256": self._digest}
        return told | ({"model": self.model} if self.model else {}) | ({"score": self._score} if self._score else {})

    def stream(self, items: Iterable[Item]) -> Iterator[Scorecard]:
        for item in items:
            said = self._of(item.id)
            if said is None:
                lacking = Judgment(failure=Failure("missing", f"{Path(self._path).name} has no row of this id"))
                yield Scorecard(id=item.id, judgments=(lacking,) * len(item.responses))
            else:
                yield placed(said, item)

    def score(self, items: Sequence[Item]) -> list[Scorecard]:
        """As every scorer's, after `check`."""
        self.check(items)
        return super().score(items)

    def share_found(self, items: Sequence[Item]) -> float:
        """The share of Items that the file holds, from 0 to 1; 0 for no Items."""
        return sum(self._of(item.id) is not None for item in items) / len(items) if items else 0.0

    def unused(self, items: Iterable[Item]) -> int:
        """How many rows of the file belong to none of these Items."""
        return len(self._said) - len({said.id for item in items if (said := self._of(item.id)) is not None})

    def check(self, items: Sequence[Item], name: str | None = None, digest: str | None = None) -> None:
        """Raise CannotRun where the file is most likely another benchmark's.

        It is where it holds fewer than half of the Items; and where all ids are generated ("row-1"), the rows hold
        no texts, and they were made for other Items: by their own digests, else by that of the file's manifest or
        the name of the benchmark, which are compared with `digest` and `name`. Where nothing tells, it warns.
        """
        if items and self.share_found(items) < 0.5:
            found = sum(self._of(item.id) is not None for item in items)
            lacking = next(item.id for item in items if self._of(item.id) is None)
            raise CannotRun(
                f"{self._path} holds {found} of the benchmark's {len(items)} items: it has ids like"
                f" {shown(next(iter(self._said)))}, the benchmark like {shown(lacking)}"
            )
        pairs = [(said, item) for item in items if (said := self._of(item.id)) is not None]
        if all(_GENERATED.fullmatch(item.id) for _, item in pairs):
            self._check_places([(said, item) for said, item in pairs if isinstance(said.order, str)], name, digest)

    def _check_places(self, pairs: Sequence[tuple[RecordedCard, Item]], name: str | None, digest: str | None) -> None:
        """Rows that nothing but their place ties to their Items."""
        if not pairs or (digest is not None and digest == self._made_for):
            return
        why = "their ids tell only their place: give the rows of the benchmark ids, and judge them again"
        if any(said.item for said, _ in pairs):
            shown_to = import_module(_JUDGING).seen_by_scorers
            for said, item in pairs:
                if said.item and said.item != shown_to(item):
                    raise CannotRun(f"{said.where}: made for another item than this {shown(item.id)}; {why}")
            pairs = [(said, item) for said, item in pairs if not said.item]
        if pairs and digest is not None and self._made_for is not None:
            told = f"made for items of digest {self._made_for}, these have {digest}"
            raise CannotRun(f"{self._path}: its judgments were {told}, and {why}")
        for said, _ in pairs:
            if name is not None and said.benchmark not in (None, name):
                raise CannotRun(f"{said.where}: made for benchmark {shown(said.benchmark)}, not {shown(name)}; {why}")
        if pairs:
            warnings.warn(
                f"{self._path}: rows are matched with the benchmark's by their place alone: both have no ids, and"
                " the file holds no texts",
                stacklevel=4,
            )

    def _of(self, name: str) -> RecordedCard | None:
        other = name.removeprefix(PREFIX) if name.startswith(PREFIX) else PREFIX + name
        return self._said.get(name) or self._said.get(other)


def _made_for(file: Path) -> str | None:
    """The digest of the Items that a file of `assay compare` was made for, by the manifest beside it."""
    try:
        told = json.loads(file.with_suffix(".manifest.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    made_for = told.get("items") if isinstance(told, dict) else None
    return made_for if isinstance(made_for, str) else None


def _rows(path: str) -> Iterator[dict[str, Any] | Failure]:
    if path.lower().endswith(".json"):
        yield from import_module(_FOREIGN).json_rows(path)
    else:
        yield from records(path)


def read_row(columns: Columns, where: str, score: Sequence[str] = ()) -> RecordedCard:
    """What a row says. Raises CannotRun where it is of no known form.

    >>> read_row({"id": 7, "scores": [1, None]}, "f.jsonl, row 1").judgments[1].failure.reason
    'missing'
    """
    if score:
        return _scored(columns, where, score)
    if isinstance(columns.get("judgments"), list) and "comparisons" in columns:
        return _own_card(columns, where)
    if isinstance(columns.get("judgments"), list) and "pair_id" in columns:
        return import_module(_FOREIGN).judgebench(columns, where)  # type: ignore[no-any-return]
    if "results" in columns and "scores" not in columns:
        return import_module(_FOREIGN).rewardbench(columns, where)  # type: ignore[no-any-return]
    if "scores" in columns:
        return _scored(columns, where, ("scores",))
    for sides in _SIDES:
        if all(side in columns for side in sides):
            return _of_scores(columns, where, [columns[side] for side in sides], "gold")
    if "verdict" in columns:
        return _verdicts(columns, where)
    if "score" in columns:
        return _scored(columns, where, ("score",))
    raise CannotRun(f"{where}: no judgment is in it; {WANTED}")


def name_of(columns: Columns, where: str, column: str = "id") -> str:
    """A row's id as text; a number stands for its digits. Raises CannotRun for anything else."""
    given = columns.get(column)
    if isinstance(given, float) and given.is_integer():
        given = int(given)
    if (isinstance(given, str) and given) or (isinstance(given, int) and not isinstance(given, bool)):
        try:
            return str(given)
        except ValueError as error:  # an integer of thousands of digits
            raise CannotRun(f"{where}: {column} is too long a number") from error
    raise CannotRun(f"{where}: {column} is a text or a number, not {shown(given)}; {WANTED}")


def number_of(value: Any, where: str) -> float | Failure:
    """A score as it is written in a file: a number, its text, or a list of that one; a Failure where there is none."""
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    if value is None or value == "":
        return Failure("missing", "the file holds no score")
    if isinstance(value, int | float | str) and not isinstance(value, bool):
        try:
            number = float(value)
        except OverflowError as error:
            raise CannotRun(f"{where}: a score is too large a number: {shown(value)}") from error
        except ValueError as error:
            raise CannotRun(f"{where}: a score is a number, not {shown(value)}") from error
        return number if math.isfinite(number) else Failure("off-scale", f"the file says {number}")
    raise CannotRun(f"{where}: a score is a number, not {shown(value)}")


def judged(score: float | Failure, **rest: Any) -> Judgment:
    """A Judgment of a score or of why there is none."""
    return Judgment(failure=score, **rest) if isinstance(score, Failure) else Judgment(score=score, **rest)


def best(judgments: Sequence[Judgment]) -> tuple[float, ...] | None:
    """P(best) where nothing but scores is known: the highest has it, equals share it; None where one is missing."""
    scores = [j.score for j in judgments if j.score is not None]
    if len(scores) < len(judgments):
        return None
    top = max(scores)
    share = 1 / scores.count(top)
    return tuple(share if score == top else 0.0 for score in scores)


def compared(comparisons: Sequence[Comparison], completions: tuple[str, ...] = ()) -> tuple[Judgment, Judgment]:
    """The judgments of two responses that verdicts come to, as in `pairwise`: 1, 0, or ½ where the orders disagree."""
    settled = settle([(made, _worth(made.outcome)) for made in comparisons])
    votes = [_worth(made.outcome) for made in comparisons]
    mirrored = [vote if isinstance(vote, Failure) else 1 - vote for vote in votes]
    won = WORTH[settled.outcome] if isinstance(settled, Settled) else settled
    lost = won if isinstance(won, Failure) else 1 - won
    return (
        judged(won, votes=tuple(votes), completions=completions),
        judged(lost, votes=tuple(mirrored), completions=completions),
    )


def _worth(outcome: Literal["first", "second", "tie"] | Failure) -> float | Failure:
    return outcome if isinstance(outcome, Failure) else WORTH[outcome]


def outcome_of(value: Any, where: str) -> Literal["first", "second", "tie"] | Failure:
    """A verdict as it is written in a file; a Failure where there is none. Raises CannotRun for another word."""
    if value is None or value == "":
        return Failure("missing", "the file holds no verdict")
    found = _VERDICTS.get(value.strip().lower()) if isinstance(value, str) else None
    if found is None:
        raise CannotRun(f"{where}: a verdict is a, b, tie, A>B, B>A or A=B, not {shown(value)}")
    return found


def both_orders(given: Any, swapped: Any, where: str) -> tuple[Comparison, Comparison]:
    """The Comparisons of a verdict on (a, b) and one on (b, a), each in places as they were shown."""
    other = outcome_of(swapped, where)
    if other == "first" or other == "second":
        other = "second" if other == "first" else "first"
    return Comparison(0, 1, outcome_of(given, where)), Comparison(0, 1, other, swapped=True)


# -- the forms ---------------------------------------------------------------------------------------------


def _own_card(columns: Columns, where: str) -> RecordedCard:
    """A row of `assay compare`."""
    try:
        card = scorecard({**columns, "id": name_of(columns, where)})
        _check(card)
    except KeyError as error:
        missing = f"it has no {shown(error.args[0])}; an older version may have written it: run compare again"
        raise CannotRun(f"{where}: not a judgment of assay compare: {missing}") from error
    except OverflowError as error:
        raise CannotRun(f"{where}: a score is too large a number") from error
    except (TypeError, ValueError, AttributeError) as error:
        raise CannotRun(f"{where}: not a judgment of assay compare: {shown(str(error))}") from error
    benchmark, item = (value if isinstance(value := columns.get(key), str) else "" for key in ("benchmark", "item"))
    return RecordedCard(
        card.id, where, card.judgments, card.comparisons, card.preference, benchmark=benchmark, item=item
    )


def _check(card: Scorecard) -> None:
    """Raise ValueError for what no scorer writes; frozen values do not look into their parts."""
    if not card.judgments:
        raise ValueError("no judgments")
    for judgment in card.judgments:
        numbers = [judgment.score, judgment.mass, *judgment.votes, *judgment.readings.values()]
        if any(not _is_number(n) for n in numbers if n is not None and not isinstance(n, Failure)):
            raise ValueError("a score is a number that a float holds")
        if judgment.failure is not None and not isinstance(judgment.failure, Failure):
            raise ValueError("a failure has a reason and a message")
    places = set(range(len(card.judgments)))
    for made in card.comparisons:
        if {made.first, made.second} - places or made.first == made.second:
            raise ValueError("a comparison names no two of the responses")
        if not isinstance(made.outcome, Failure) and made.outcome not in WORTH:
            raise ValueError(f"an outcome is first, second or tie, not {made.outcome!r}")
    if card.preference is not None:
        shares = list(card.preference)
        if len(shares) != len(places) or not all(map(_is_number, shares)):
            raise ValueError("preference has a number for each response")


def _is_number(value: Any) -> bool:
    try:
        return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    except OverflowError:  # an integer that no float holds
        return False


def _scored(columns: Columns, where: str, names: Sequence[str]) -> RecordedCard:
    """A row with a score for each response, in one column or in several; also one of `assay score`."""
    if lacking := [name for name in names if name not in columns]:
        raise CannotRun(f"{where}: no column {', '.join(map(repr, lacking))}")
    values = [columns[name] for name in names]
    if len(values) == 1:
        only = values[0]
        if isinstance(only, str) and only.lstrip().startswith("["):  # a list in a CSV
            try:
                only = json.loads(only)
            except ValueError as error:
                raise CannotRun(f"{where}: {names[0]} is not a list of numbers: {shown(only)}") from error
        values = only if isinstance(only, list) else [only]
    if not values:
        raise CannotRun(f"{where}: {names[0]} is an empty list")
    return _of_scores(columns, where, values, _order(columns, len(values)))


def _order(columns: Columns, count: int) -> Literal["given", "gold"] | tuple[bytes, ...]:
    texts = columns.get("responses")
    if isinstance(texts, list) and len(texts) == count and all(isinstance(text, str) for text in texts):
        return tuple(map(digest, texts))
    # `assay score` takes the chosen response of a preference row first.
    return "gold" if count == 2 and "chosen" in columns and "rejected" in columns else "given"


def _of_scores(
    columns: Columns, where: str, values: Sequence[Any], order: Literal["given", "gold"] | tuple[bytes, ...]
) -> RecordedCard:
    scores = [number_of(value, where) for value in values]
    failures = columns.get("failures") if len(scores) > 1 else [columns.get("failure")]
    if isinstance(failures, list) and len(failures) == len(scores):
        told = [_failure(one, where) for one in failures]
        scores = [why if why and isinstance(s, Failure) else s for s, why in zip(scores, told, strict=True)]
    judgments = tuple(map(judged, scores))
    preference = columns.get("preference")
    if not isinstance(preference, list) or len(preference) != len(scores) or not all(map(_is_number, preference)):
        preference = best(judgments)
    known = None if preference is None else tuple(preference)
    return RecordedCard(name_of(columns, where), where, judgments, (), known, order)


def _failure(told: Any, where: str) -> Failure | None:
    if told is None or told == "":
        return None
    if isinstance(told, str):
        reason, _, message = told.partition(": ")
        return Failure(reason, message) if reason in FAILURE_REASONS else Failure("missing", told)  # type: ignore[arg-type]
    try:
        return Failure(**told)
    except (TypeError, ValueError) as error:
        raise CannotRun(f"{where}: not a failure: {shown(told)}") from error


def _verdicts(columns: Columns, where: str) -> RecordedCard:
    given, swapped = columns["verdict"], columns.get("verdict_swapped")
    if "verdict_swapped" in columns:
        comparisons: tuple[Comparison, ...] = both_orders(given, swapped, where)
    else:
        comparisons = (Comparison(0, 1, outcome_of(given, where)),)
    judgments = compared(comparisons)
    name = name_of(columns, where)
    return RecordedCard(name, where, judgments, comparisons, best(judgments), _order(columns, 2))
