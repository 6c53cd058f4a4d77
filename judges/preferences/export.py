"""Judged candidates to a file of pairs that DPO trainers read, with an account of every prompt."""

from __future__ import annotations

import random
from array import array
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from judges.data.json_lines import to_line
from judges.data.quality import REASONS, Filters, Prompt, Taken, decide
from judges.data.writers import write_rows
from judges.preferences.scored_candidates import Judged, judged_rows
from judges.preferences.selection import DROPS, Chosen, Pair, Rule, choose
from judges.types import Failure, Gold, Item, Message

NOT_DRAWN = "not-drawn"
BUDGET = "budget"
# Why a prompt gives no pair, in the order that it is asked, and what that means.
WHY = {
    NOT_DRAWN: "the row could not be read, or the policy wrote nothing for it",
    "failed": "fewer than two candidates left, most of the others not judged",
    "empty": "fewer than two left, most of the others empty",
    "truncated": "fewer than two left, most of the others cut by the token limit",
    "same": "fewer than two left, most of the others said the same as another",
    "single": "one candidate",
    "level": "all candidates of one score",
    "margin": "its scores are not as far apart as the margin asks",
    "agreement": "the votes agree too little on which is better",
    "length": "quality filter: too short or too long",
    "shared-prompt": "quality filter: its prompt is in a benchmark",
    "similar": "quality filter: chosen and rejected are nearly the same text",
    "contradictory": "quality filter: another row prefers the opposite",
    "duplicate": "quality filter: the same pair stood before",
    BUDGET: "not drawn for the budget of pairs",
}
assert WHY.keys() == {NOT_DRAWN, BUDGET, *DROPS, *REASONS}


@dataclass(frozen=True, slots=True)
class Recipe:
    """How judged candidates become pairs: by which rule, past which filters, and at most how many.

    Of more than `budget` pairs, so many are drawn by `rule.seed`, each with the same chance.
    """

    rule: Rule = Rule()
    filters: Filters | None = None
    shared_prompts: Mapping[str, Sequence[Prompt]] = field(default_factory=dict)
    budget: int | None = None


@dataclass
class Account:
    """What became of every prompt: `prompts` = `paired` + the sum of `drops`.

    `lost` are pairs that a filter or the budget took from prompts, some of which kept another; `failures` counts
    candidates without a score by reason, and rows without candidates. Scores are the scorer's, lengths in characters.
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

    def plain(self) -> dict[str, Any]:
        """The counts and means, ready for JSON."""
        told = {key: getattr(self, key) for key in ("prompts", "paired", "pairs", "candidates", "truncated")}
        told |= {key: dict(sorted(getattr(self, key).items())) for key in ("drops", "lost", "failures")}
        for key in ("scores", "score_chosen", "score_rejected", "length_chosen", "length_rejected"):
            values = getattr(self, key)
            told[f"mean_{key.removesuffix('s')}"] = sum(values) / len(values) if values else None
        return told


def write_pairs(judged: Path, mapping: Mapping[str, str], target: Path, recipe: Recipe) -> Account:
    """Choose pairs from a judged file and write them to `target` (by its name JSON lines or Parquet), in its order.

    A row of the file is a conversation as TRL and others read it: `prompt`, `chosen` and `rejected` are lists of
    messages, `score_chosen` and `score_rejected` numbers. Without any pair nothing is written. No step holds the
    file: it is read anew for each.
    """
    account = Account()
    left = _left(judged, mapping, recipe, account)

    def lines() -> Iterator[bytes]:
        number = 0
        for row, chosen in _chosen(judged, mapping, recipe.rule):
            for pair in chosen.pairs:
                if left[number]:
                    yield to_line(_pair_row(row, pair))
                number += 1

    if account.pairs:
        target.parent.mkdir(parents=True, exist_ok=True)
        write_rows(lines, target)
    else:
        target.unlink(missing_ok=True)
    return account


def _left(judged: Path, mapping: Mapping[str, str], recipe: Recipe, account: Account) -> bytearray:
    """Which of the chosen pairs are written, one mark each; fills the account."""
    filtered = recipe.filters is not None or bool(recipe.shared_prompts)
    filters = recipe.filters or _NO_FILTER
    taken: list[Taken | None] = []
    if filtered:
        taken = decide(_pair_items(judged, mapping, recipe.rule), filters, recipe.shared_prompts)
        if recipe.filters is None:  # repeated and contradictory pairs stay
            taken = [one if one is not None and one.reason == "shared-prompt" else None for one in taken]
    marks = bytearray()
    if filtered:
        marks.extend(one is None for one in taken)
    else:
        marks.extend(1 for _, chosen in _chosen(judged, mapping, recipe.rule) for _ in chosen.pairs)
    within = _within(marks, recipe)
    number = 0
    for row, chosen in _chosen(judged, mapping, recipe.rule):
        _count(row, account)
        lost = []
        for pair in chosen.pairs:
            if within[number]:
                _measure(row, pair, account)
            else:
                verdict = taken[number] if filtered else None
                lost.append(BUDGET if verdict is None else verdict.reason)
            number += 1
        account.lost.update(lost)
        if len(lost) < len(chosen.pairs):
            account.paired += 1
            account.pairs += len(chosen.pairs) - len(lost)
        else:
            account.drops[NOT_DRAWN if row.failure is not None else chosen.drop or lost[0]] += 1
    return within


_NO_FILTER = Filters(min_length=0, min_prompt_length=0, max_similarity=1.0, min_agreement=0.0)


def _within(marks: bytearray, recipe: Recipe) -> bytearray:
    places = [place for place, mark in enumerate(marks) if mark] if recipe.budget is not None else []
    if recipe.budget is None or len(places) <= recipe.budget:
        return marks
    within = bytearray(len(marks))
    for place in random.Random(recipe.rule.seed).sample(places, recipe.budget):
        within[place] = 1
    return within


def _chosen(judged: Path, mapping: Mapping[str, str], rule: Rule) -> Iterator[tuple[Judged, Chosen]]:
    for row in judged_rows(judged, mapping):
        yield row, choose(row.candidates, rule, row.id) if row.failure is None else Chosen(())


def _pair_items(judged: Path, mapping: Mapping[str, str], rule: Rule) -> Iterator[Item]:
    """Every chosen pair as a preference, for the filters."""
    for row, chosen in _chosen(judged, mapping, rule):
        for pair in chosen.pairs:
            assert row.item is not None
            both = [row.candidates[place].text for place in (pair.chosen, pair.rejected)]
            yield Item(id=row.id, prompt=row.item.messages, responses=both, gold=Gold(chosen=(0,)))


def _pair_row(row: Judged, pair: Pair) -> dict[str, Any]:
    assert row.item is not None
    chosen, rejected = row.candidates[pair.chosen], row.candidates[pair.rejected]
    return {
        "prompt": list(row.item.messages),
        "chosen": [_answer(chosen.text)],
        "rejected": [_answer(rejected.text)],
        "score_chosen": chosen.score,
        "score_rejected": rejected.score,
        "id": row.id,
        "row": row.row,
    }


def _answer(text: str) -> Message:
    return {"role": "assistant", "content": text}


def _count(row: Judged, account: Account) -> None:
    account.prompts += 1
    if row.failure is not None:
        account.failures[row.failure.reason] += 1
    for one in row.candidates:
        account.candidates += 1
        account.truncated += one.truncated
        if isinstance(one.score, Failure):
            account.failures[one.score.reason] += 1
        else:
            account.scores.append(one.score)


def _measure(row: Judged, pair: Pair, account: Account) -> None:
    for place, side in ((pair.chosen, "chosen"), (pair.rejected, "rejected")):
        one = row.candidates[place]
        assert not isinstance(one.score, Failure)
        getattr(account, f"score_{side}").append(one.score)
        getattr(account, f"length_{side}").append(len(one.text))
