"""A scorer that reads judgments made elsewhere from a file: a published judge's outputs, or the user's own scores."""

from __future__ import annotations

import hashlib
import json
import math
import re
import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from judges.data.readers import read_records
from judges.errors import CannotRun
from judges.evaluation.alignment import Order, RecordedCard, abbreviate, align, text_digest
from judges.evaluation.benchmark_run import scorer_input_digest
from judges.evaluation.external_formats import parse_judgebench_row, parse_rewardbench_row, read_json_rows
from judges.evaluation.recorded_values import (
    ROW_FORMS,
    Columns,
    best_response_shares,
    judgments_of_comparisons,
    make_judgment,
    parse_comparisons,
    parse_failure,
    parse_id,
    parse_score,
)
from judges.scorer import Scorer
from judges.scorers.tournament import OUTCOME_POINTS
from judges.types import REAL_LINE, Failure, Item, Judgment, Scorecard, scorecard_from_dict

# A prefix of ids that some copies of a benchmark have and others lack.
PREFIX = "jb-"
# An id that a reader made of the row's number, because the row had none.
_ROW_NUMBER = re.compile(r"row-\d+(#\d+)*")
# The names in use for the two scores of a row of chosen and rejected.
_SCORE_PAIRS = (
    ("score_chosen", "score_rejected"),
    ("scores_chosen", "scores_rejected"),
    ("chosen_score", "rejected_score"),
    ("chosen_reward", "rejected_reward"),
    ("reward_chosen", "reward_rejected"),
)


class RecordedJudgments(Scorer):
    """A file of judgments as a scorer: each Item gets the judgments of the row that has its id.

    The rows may be those of `assay compare` (DIR/judgments/FILE), of `assay score`, of RewardBench's and
    JudgeBench's outputs (`judges.evaluation.external_formats`), or an id and one of

    - `scores`: a list with a number for each response in the Item's order; null is a missing score;
    - `score_chosen` and `score_rejected`: for an Item of two responses of which gold chose one;
    - `verdict`: a, b, tie, A>B, … for an Item of two. `verdict_swapped` is the verdict with b shown first, named by
      position: there "a" is the response shown first, which is b.

    `score` names other columns: one that holds a number or a list of numbers, or one for each response.

    A row that holds its responses' texts (`responses`, or `response_A` and `response_B`) is aligned by them, one of
    chosen and rejected by gold, and any other by order. Ids match if they are equal but for a leading "jb-". An
    Item that the file lacks gets Failure("missing"). Raises CannotRun, with file and row, for a row without a
    readable judgment, for a repeated id, and for a row that does not fit its Item.
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
            self._sha256 = hashlib.file_digest(data, "sha256").hexdigest()
        self._items_digest = _manifest_digest(file)
        self._cards: dict[str, RecordedCard] = {}
        rows = read_json_rows(self._path) if self._path.lower().endswith(".json") else read_records(self._path)
        for number, columns in enumerate(rows, start=1):
            where = f"{self._path}, row {number}"
            if isinstance(columns, Failure):
                raise CannotRun(f"{where}: {columns.message}")
            card = parse_row(columns, where, self._score)
            if card.subset is not None:
                # RewardBench repeats ids across subsets; its loader appends the row's number to a repeated one.
                while card.id in self._cards and self._cards[card.id].subset != card.subset:
                    card = replace(card, id=f"{card.id}#{number}")
            if card.id in self._cards:
                raise CannotRun(f"{where}: id {abbreviate(card.id)} is already used by {self._cards[card.id].where}")
            self._cards[card.id] = card
        if not self._cards:
            raise CannotRun(f"{self._path}: the file has no rows; {ROW_FORMS}")
        models = {card.model for card in self._cards.values()}
        self.model = (models.pop() or "") if len(models) == 1 else ""

    def identity(self) -> dict[str, Any]:
        identity = {"scorer": self.name, "file": Path(self._path).name, "sha256": self._sha256}
        return (
            identity | ({"model": self.model} if self.model else {}) | ({"score": self._score} if self._score else {})
        )

    def stream(self, items: Iterable[Item]) -> Iterator[Scorecard]:
        for item in items:
            card = self._find(item.id)
            if card is None:
                missing = Judgment(failure=Failure("missing", f"{Path(self._path).name} has no row of this id"))
                yield Scorecard(id=item.id, judgments=(missing,) * len(item.responses))
            else:
                yield align(card, item)

    def score(self, items: Sequence[Item]) -> list[Scorecard]:
        """The Scorecards of the Items, in their order, after `check`."""
        self.check(items)
        return super().score(items)

    def share_found(self, items: Sequence[Item]) -> float:
        """The share of the Items that the file has a row for, from 0 to 1; 0 for no Items."""
        return sum(self._find(item.id) is not None for item in items) / len(items) if items else 0.0

    def unused(self, items: Iterable[Item]) -> int:
        """The number of rows that belong to none of these Items."""
        return len(self._cards) - len({card.id for item in items if (card := self._find(item.id)) is not None})

    def check(self, items: Sequence[Item], name: str | None = None, digest: str | None = None) -> None:
        """Raise CannotRun where the file was most likely made for another benchmark.

        This is so where the file lacks more than half of the Items. It is also so where every id is a row number
        ("row-1"), the rows hold no texts, and they were made for other Items: by the digest in each row, else by that
        of the file's manifest or the benchmark's name, which are compared with `digest` and `name`. Where the file
        has none of these, a warning is issued.
        """
        missing = [item for item in items if self._find(item.id) is None]
        if 2 * len(missing) > len(items):
            raise CannotRun(
                f"{self._path} holds {len(items) - len(missing)} of the benchmark's {len(items)} items: its ids look"
                f" like {abbreviate(next(iter(self._cards)))}, the benchmark's like {abbreviate(missing[0].id)}"
            )
        pairs = [(card, item) for item in items if (card := self._find(item.id)) is not None]
        if all(_ROW_NUMBER.fullmatch(item.id) for _, item in pairs):
            self._check_row_numbers([pair for pair in pairs if isinstance(pair[0].order, str)], name, digest)

    def _check_row_numbers(
        self, pairs: Sequence[tuple[RecordedCard, Item]], name: str | None, digest: str | None
    ) -> None:
        """`check` for rows that match their Items by row number alone."""
        if not pairs or (digest is not None and digest == self._items_digest):
            return
        advice = "their ids are only row numbers: give the rows of the benchmark ids, and judge them again"
        for card, item in pairs:
            if card.item and card.item != scorer_input_digest(item):
                raise CannotRun(f"{card.where}: made for another item than this {abbreviate(item.id)}; {advice}")
        pairs = [(card, item) for card, item in pairs if not card.item]
        if pairs and digest is not None and self._items_digest is not None:
            raise CannotRun(
                f"{self._path}: its judgments were made for items of digest {self._items_digest}, these have {digest},"
                f" and {advice}"
            )
        for card, _ in pairs:
            if name is not None and card.benchmark not in (None, name):
                raise CannotRun(
                    f"{card.where}: made for benchmark {abbreviate(card.benchmark)}, not {abbreviate(name)}; {advice}"
                )
        if pairs:
            warnings.warn(
                f"{self._path}: rows are matched with the benchmark's by row number alone, because neither has ids"
                " and the file holds no texts",
                stacklevel=4,
            )

    def _find(self, name: str) -> RecordedCard | None:
        alternative = name.removeprefix(PREFIX) if name.startswith(PREFIX) else PREFIX + name
        return self._cards.get(name) or self._cards.get(alternative)


def _manifest_digest(file: Path) -> str | None:
    """The digest of the Items in the manifest that `assay compare` writes beside a file of judgments."""
    try:
        manifest = json.loads(file.with_suffix(".manifest.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    digest = manifest.get("items") if isinstance(manifest, dict) else None
    return digest if isinstance(digest, str) else None


def parse_row(columns: Columns, where: str, score: Sequence[str] = ()) -> RecordedCard:
    """The judgments of one row. Raises CannotRun where it has none of the known forms.

    >>> parse_row({"id": 7, "scores": [1, None]}, "f.jsonl, row 1").judgments[1].failure.reason
    'missing'
    """
    if score:
        return _parse_score_columns(columns, where, score)
    if isinstance(columns.get("judgments"), list) and "comparisons" in columns:
        return _parse_compare_row(columns, where)
    if isinstance(columns.get("judgments"), list) and "pair_id" in columns:
        return parse_judgebench_row(columns, where)
    if "results" in columns and "scores" not in columns:
        return parse_rewardbench_row(columns, where)
    if "scores" in columns:
        return _parse_score_columns(columns, where, ("scores",))
    for names in _SCORE_PAIRS:
        if all(name in columns for name in names):
            return _scores_card(columns, where, [columns[name] for name in names], "gold")
    if "verdict" in columns:
        verdicts = [columns[name] for name in ("verdict", "verdict_swapped") if name in columns]
        comparisons = parse_comparisons(verdicts, where)
        judgments = judgments_of_comparisons(comparisons)
        preference = best_response_shares(judgments)
        return RecordedCard(parse_id(columns, where), where, judgments, comparisons, preference, _order(columns, 2))
    if "score" in columns:
        return _parse_score_columns(columns, where, ("score",))
    raise CannotRun(f"{where}: the row holds no judgment; {ROW_FORMS}")


def _parse_compare_row(columns: Columns, where: str) -> RecordedCard:
    """A row of `assay compare`."""
    try:
        card = scorecard_from_dict({**columns, "id": parse_id(columns, where)})
        _validate(card)
    except KeyError as error:
        missing = f"it has no {abbreviate(error.args[0])}; an older version may have written it: run compare again"
        raise CannotRun(f"{where}: not a judgment of assay compare: {missing}") from error
    except OverflowError as error:
        raise CannotRun(f"{where}: a score is too large a number") from error
    except (TypeError, ValueError, AttributeError) as error:
        raise CannotRun(f"{where}: not a judgment of assay compare: {abbreviate(str(error))}") from error
    benchmark, item = (value if isinstance(value := columns.get(key), str) else "" for key in ("benchmark", "item"))
    return RecordedCard(
        card.id, where, card.judgments, card.comparisons, card.preference, benchmark=benchmark, item=item
    )


def _validate(card: Scorecard) -> None:
    """Raise ValueError for values that no scorer writes; the dataclasses do not check their fields' types."""
    if not card.judgments:
        raise ValueError("no judgments")
    for judgment in card.judgments:
        numbers = [judgment.score, judgment.mass, *judgment.votes, *judgment.readings.values()]
        if any(not _is_finite(n) for n in numbers if n is not None and not isinstance(n, Failure)):
            raise ValueError("a score must be a number that a float holds")
        if judgment.failure is not None and not isinstance(judgment.failure, Failure):
            raise ValueError("a failure must have a reason and a message")
    indices = set(range(len(card.judgments)))
    for comparison in card.comparisons:
        if {comparison.first, comparison.second} - indices or comparison.first == comparison.second:
            raise ValueError("a comparison must name two of the responses")
        if not isinstance(comparison.outcome, Failure) and comparison.outcome not in OUTCOME_POINTS:
            raise ValueError(f"an outcome must be first, second or tie, not {comparison.outcome!r}")
    if card.preference is not None:
        shares = list(card.preference)
        if len(shares) != len(indices) or not all(map(_is_finite, shares)):
            raise ValueError("preference must have a number for each response")


def _is_finite(value: Any) -> bool:
    try:
        return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    except OverflowError:  # an integer that no float holds
        return False


def _parse_score_columns(columns: Columns, where: str, names: Sequence[str]) -> RecordedCard:
    """A row with a score for each response, in one column or in several; also one of `assay score`."""
    if missing := [name for name in names if name not in columns]:
        raise CannotRun(f"{where}: no column {', '.join(map(repr, missing))}")
    values = [columns[name] for name in names]
    if len(values) == 1:
        value = values[0]
        if isinstance(value, str) and value.lstrip().startswith("["):  # a list in a CSV
            try:
                value = json.loads(value)
            except ValueError as error:
                raise CannotRun(f"{where}: {names[0]} is not a list of numbers: {abbreviate(value)}") from error
        values = value if isinstance(value, list) else [value]
    if not values:
        raise CannotRun(f"{where}: {names[0]} is an empty list")
    return _scores_card(columns, where, values, _order(columns, len(values)))


def _order(columns: Columns, count: int) -> Order:
    texts = columns.get("responses")
    if isinstance(texts, list) and len(texts) == count and all(isinstance(text, str) for text in texts):
        return tuple(map(text_digest, texts))
    # `assay score` writes the chosen response of a preference row first.
    return "gold" if count == 2 and "chosen" in columns and "rejected" in columns else "given"


def _scores_card(columns: Columns, where: str, values: Sequence[Any], order: Order) -> RecordedCard:
    scores = [parse_score(value, where) for value in values]
    reasons = columns.get("failures") if len(scores) > 1 else [columns.get("failure")]
    if isinstance(reasons, list) and len(reasons) == len(scores):
        failures = [parse_failure(reason, where) for reason in reasons]
        scores = [why if why and isinstance(s, Failure) else s for s, why in zip(scores, failures, strict=True)]
    judgments = tuple(map(make_judgment, scores))
    shares = columns.get("preference")
    if not isinstance(shares, list) or len(shares) != len(scores) or not all(map(_is_finite, shares)):
        shares = best_response_shares(judgments)
    preference = None if shares is None else tuple(shares)
    return RecordedCard(parse_id(columns, where), where, judgments, (), preference, order)
