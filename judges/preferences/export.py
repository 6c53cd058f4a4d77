"""Write preference pairs that DPO trainers read, and count what happened to every prompt."""

from __future__ import annotations

import random
from array import array
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from judges.data.json_lines import to_line
from judges.data.quality import REASONS, Filters, Prompt, find_removals
from judges.data.writers import write_rows
from judges.preferences.pair_selection import DROP_REASONS, Pair, Selection, SelectionRule, select_pairs
from judges.preferences.scored_candidates import ScoredRow, read_scored_rows
from judges.types import Failure, Gold, Item, Message

NOT_DRAWN = "not-drawn"
BUDGET = "budget"
# Why a prompt gives no pair, in the order in which the reasons are checked.
DROP_DESCRIPTIONS = {
    NOT_DRAWN: "the row could not be read, or the policy generated nothing for it",
    "failed": "fewer than two candidates left; most of the others have no score",
    "empty": "fewer than two candidates left; most of the others are empty",
    "truncated": "fewer than two candidates left; most of the others were truncated by the token limit",
    "same": "fewer than two candidates left; most of the others repeat an earlier one",
    "single": "only one candidate",
    "level": "all candidates have the same score",
    "margin": "the scores differ by less than the margin",
    "agreement": "the votes agree too little on which candidate is better",
    "length": "quality filter: too short or too long",
    "shared-prompt": "quality filter: the prompt is in a benchmark",
    "similar": "quality filter: chosen and rejected are nearly the same text",
    "contradictory": "quality filter: another row prefers the opposite",
    "duplicate": "quality filter: the same pair occurred before",
    BUDGET: "not sampled for the budget of pairs",
}
assert DROP_DESCRIPTIONS.keys() == {NOT_DRAWN, BUDGET, *DROP_REASONS, *REASONS}
_NO_FILTER = Filters(min_length=0, min_prompt_length=0, max_similarity=1.0, min_agreement=0.0)


@dataclass(frozen=True, slots=True)
class PairOptions:
    """How scored candidates become pairs: the selection rule, the filters, and the number of pairs.

    `shared_prompts` are prompts by benchmark; no pair has one of them. If more than `budget` pairs are left, that many
    are sampled uniformly with the seed `rule.seed`.
    """

    rule: SelectionRule = SelectionRule()
    filters: Filters | None = None
    shared_prompts: Mapping[str, Sequence[Prompt]] = field(default_factory=dict)
    budget: int | None = None


@dataclass
class PairStatistics:
    """What happened to every prompt: `prompts` = `paired` + the sum of `drops`.

    `drops` counts prompts without a pair, by reason. `lost` counts pairs that a filter or the budget removed; their
    prompt may still have another pair. `failures` counts candidates without a score and rows without candidates, by
    reason. Scores are the scorer's, lengths are in characters.
    """

    prompts: int = 0
    paired: int = 0
    pairs: int = 0
    candidates: int = 0
    truncated: int = 0
    drops: Counter[str] = field(default_factory=Counter)
    lost: Counter[str] = field(default_factory=Counter)
    failures: Counter[str] = field(default_factory=Counter)
    scores: array[float] = field(default_factory=lambda: array("d"))
    score_chosen: array[float] = field(default_factory=lambda: array("d"))
    score_rejected: array[float] = field(default_factory=lambda: array("d"))
    length_chosen: array[float] = field(default_factory=lambda: array("d"))
    length_rejected: array[float] = field(default_factory=lambda: array("d"))

    def to_json(self) -> dict[str, Any]:
        """Counts and means, ready for JSON."""
        record = {key: getattr(self, key) for key in ("prompts", "paired", "pairs", "candidates", "truncated")}
        record |= {key: dict(sorted(getattr(self, key).items())) for key in ("drops", "lost", "failures")}
        for key in ("scores", "score_chosen", "score_rejected", "length_chosen", "length_rejected"):
            values = getattr(self, key)
            record[f"mean_{key.removesuffix('s')}"] = sum(values) / len(values) if values else None
        return record


def write_pairs(
    candidates: Path, mapping: Mapping[str, str], target: Path, options: PairOptions = PairOptions()
) -> PairStatistics:
    """Select pairs from a file of scored candidates and write them to `target`, in the order of the file.

    `target` is JSON lines or Parquet by its name. A row has TRL's conversational preference format: `prompt`, `chosen`
    and `rejected` are lists of messages; `score_chosen` and `score_rejected` are numbers; `id` and `row` identify the
    prompt. Without any pair no file is written. The candidates are read once per step and never held in memory.
    """
    statistics = PairStatistics()
    removals = _removal_reasons(candidates, mapping, options)
    _count_rows(_select(candidates, mapping, options.rule), removals, statistics)

    def lines() -> Iterator[bytes]:
        reasons = iter(removals)
        for row, selection in _select(candidates, mapping, options.rule):
            for pair in selection.pairs:
                if next(reasons) is None:
                    yield to_line(_pair_row(row, pair))

    if statistics.pairs:
        target.parent.mkdir(parents=True, exist_ok=True)
        write_rows(lines, target)
    else:
        target.unlink(missing_ok=True)
    return statistics


def _select(path: Path, mapping: Mapping[str, str], rule: SelectionRule) -> Iterator[tuple[ScoredRow, Selection]]:
    for row in read_scored_rows(path, mapping):
        yield row, select_pairs(row.candidates, rule, row.id) if row.failure is None else Selection(())


def _removal_reasons(path: Path, mapping: Mapping[str, str], options: PairOptions) -> list[str | None]:
    """For each selected pair, the filter that removes it, or BUDGET; None if it is written."""
    reasons: list[str | None]
    if options.filters is not None or options.shared_prompts:
        items = _preference_items(path, mapping, options.rule)
        removals = find_removals(items, options.filters or _NO_FILTER, options.shared_prompts)
        reasons = [None if removal is None else removal.reason for removal in removals]
        if options.filters is None:  # duplicate and contradictory pairs are kept then
            reasons = [reason if reason == "shared-prompt" else None for reason in reasons]
    else:
        reasons = [None for _, selection in _select(path, mapping, options.rule) for _ in selection.pairs]
    if options.budget is not None:
        left = [index for index, reason in enumerate(reasons) if reason is None]
        if len(left) > options.budget:
            sampled = set(random.Random(options.rule.seed).sample(left, options.budget))
            for index in left:
                if index not in sampled:
                    reasons[index] = BUDGET
    return reasons


def _preference_items(path: Path, mapping: Mapping[str, str], rule: SelectionRule) -> Iterator[Item]:
    """Every selected pair as a preference Item, for the quality filters."""
    for row, selection in _select(path, mapping, rule):
        for pair in selection.pairs:
            assert row.item is not None
            texts = [row.candidates[index].text for index in (pair.chosen, pair.rejected)]
            yield Item(id=row.id, prompt=row.item.messages, responses=texts, gold=Gold(chosen=(0,)))


def _count_rows(
    selections: Iterator[tuple[ScoredRow, Selection]], removals: Sequence[str | None], statistics: PairStatistics
) -> None:
    reasons = iter(removals)
    for row, selection in selections:
        _count_candidates(row, statistics)
        lost = []
        for pair in selection.pairs:
            reason = next(reasons)
            if reason is None:
                _count_pair(row, pair, statistics)
            else:
                lost.append(reason)
        statistics.lost.update(lost)
        if len(lost) < len(selection.pairs):
            statistics.paired += 1
            statistics.pairs += len(selection.pairs) - len(lost)
        else:
            statistics.drops[NOT_DRAWN if row.failure is not None else selection.drop or lost[0]] += 1


def _count_candidates(row: ScoredRow, statistics: PairStatistics) -> None:
    statistics.prompts += 1
    if row.failure is not None:
        statistics.failures[row.failure.reason] += 1
    for candidate in row.candidates:
        statistics.candidates += 1
        statistics.truncated += candidate.truncated
        if isinstance(candidate.score, Failure):
            statistics.failures[candidate.score.reason] += 1
        else:
            statistics.scores.append(candidate.score)


def _count_pair(row: ScoredRow, pair: Pair, statistics: PairStatistics) -> None:
    for index, side in ((pair.chosen, "chosen"), (pair.rejected, "rejected")):
        candidate = row.candidates[index]
        assert not isinstance(candidate.score, Failure)
        getattr(statistics, f"score_{side}").append(candidate.score)
        getattr(statistics, f"length_{side}").append(len(candidate.text))


def _pair_row(row: ScoredRow, pair: Pair) -> dict[str, Any]:
    assert row.item is not None
    chosen, rejected = row.candidates[pair.chosen], row.candidates[pair.rejected]
    return {
        "prompt": list(row.item.messages),
        "chosen": [_assistant_message(chosen.text)],
        "rejected": [_assistant_message(rejected.text)],
        "score_chosen": chosen.score,
        "score_rejected": rejected.score,
        "id": row.id,
        "row": row.row,
    }


def _assistant_message(text: str) -> Message:
    return {"role": "assistant", "content": text}
