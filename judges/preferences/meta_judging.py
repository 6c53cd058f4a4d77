"""Pairs of judgments, which train a judge that is the policy itself.

A judge that votes has written several judgments of one response; which of them is the better teaches it to judge. Two
ways tell: what people said of the response (evaluation data: Yuan et al. 2024, arXiv 2401.10020), or the model itself,
asked which of two judgments is the better (meta-judging: Wu et al. 2024, arXiv 2407.19594). A pair's prompt is what the
judge was asked, chosen and rejected are what it wrote.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from judges.batch.output import Options
from judges.batch.run import Summary, score_file
from judges.data.json_lines import to_line
from judges.data.quality import preferences
from judges.data.rows import read_rows
from judges.data.writers import write_rows
from judges.engines.base import RequestFailed
from judges.engines.concurrency import map_unordered
from judges.errors import CannotRun
from judges.preferences.export import Recipe
from judges.preferences.pairs import CANDIDATES, has_pairs, make_pairs
from judges.preferences.scored_candidates import judged_rows
from judges.scorer import Scorer
from judges.scorers.llm_judge import Messages
from judges.scorers.self_rewarding import SelfRewarding
from judges.types import Item, Judgment

Progress = Callable[[Summary], None]


@dataclass(frozen=True, slots=True)
class Voted:
    """What a judge was asked of one response of an Item, and every vote: its text with its verdict, and its score."""

    item: Item
    index: int
    asked: Messages
    votes: tuple[tuple[str, float], ...]


def check_judge(scorer: Scorer) -> SelfRewarding:
    """A judge whose judgments can be compared. Raises CannotRun for another."""
    if not isinstance(scorer, SelfRewarding) or scorer.template.kind != "pointwise" or scorer.votes < 2:
        raise CannotRun(
            "to train the judge it must write several judgments of a response: self-rewarding with votes=2 or more and"
            " a pointwise template"
        )
    if scorer.ways != ("text",):
        raise CannotRun("to train the judge its verdict must stand in its text: read=text")
    return scorer


def votes_on(scorer: SelfRewarding, items: Iterator[Item]) -> Iterator[Voted]:
    """Every response's votes, in the items' order."""

    async def of(item: Item) -> tuple[str, list[Voted]]:
        found = []
        for index, response in enumerate(item.responses):
            if not response.strip():
                continue
            try:
                asked = scorer.template.render(item, (index,))
            except RequestFailed:
                continue
            said = [_whole(vote, scorer.template.announcement) for vote in await scorer.each_vote(item, index)]
            found.append(Voted(item, index, asked, tuple(one for one in said if one is not None)))
        return item.id, found

    _ = scorer.engine
    waiting: dict[str, list[Voted]] = {}
    order: deque[str] = deque()

    def noted() -> Iterator[Item]:
        for item in items:
            order.append(item.id)
            yield item

    for name, some in map_unordered(noted(), of, scorer.window, lambda item: len(item.responses) * scorer.votes):
        waiting[name] = some
        while order and order[0] in waiting:
            yield from waiting.pop(order.popleft())


def _whole(vote: Judgment, announcement: str) -> tuple[str, float] | None:
    """A vote's text up to its verdict, which is written out where it was forced; None for a vote without one."""
    if vote.score is None or not vote.completions:
        return None
    text = vote.completions[0].rstrip()
    return (f"{text}\n{announcement} {vote.score:g}" if vote.read == "forced" else text), vote.score


def meta_judged(folder: Path, judge: Scorer, meta: Scorer, store: Path, on_progress: Progress) -> Path | None:
    """Pairs of the judgments that a round's candidates got (`folder` is the round's), by a scorer that compares them.

    No candidate is judged again: votes are read from the `store` of the round. None where no pair came of it.
    """
    judge = check_judge(judge)
    target = folder / "meta-judging"
    rows = target / "judgments.jsonl"
    if not rows.exists():
        target.mkdir(exist_ok=True)
        judge.reread(store)
        items = (row.item for row in judged_rows(folder / CANDIDATES, {}) if row.item is not None)
        lines = [to_line(_row(voted)) for voted in votes_on(judge, items) if len({text for text, _ in voted.votes}) > 1]
        write_rows(lambda: lines, rows)
    if not rows.stat().st_size:
        return None
    try:
        make_pairs(str(rows), meta, None, target, Recipe(), Options(ordered=True), on_progress=on_progress)
    except CannotRun:
        if has_pairs(target) is not False:
            raise
        return None
    return target / "pairs.parquet"


def _row(voted: Voted) -> dict[str, Any]:
    texts = list(dict.fromkeys(text for text, _ in voted.votes))
    return {"id": f"{voted.item.id} {voted.index + 1}", "prompt": list(voted.asked), "responses": texts}


def labelled(source: str, judge: Scorer, folder: Path, on_progress: Progress) -> Path | None:
    """Pairs of judgments of rows whose responses people compared or scored; None where no two votes differ.

    Of a response with a score by people the judgment nearest to it is chosen, the farthest rejected. Of two that
    people compared: for the better one the judgment with the highest score is chosen and the lowest rejected, for the
    worse one the other way round.
    """
    judge = check_judge(judge)
    target = folder / "evaluation-data"
    target.mkdir(exist_ok=True)
    pairs = target / "pairs.parquet"
    if pairs.exists():
        return pairs
    score_file(source, judge, target / "judged.jsonl", Options(ordered=True), on_progress)
    items = (_checked(row.item, judge) for row in read_rows(source) if isinstance(row.item, Item) and row.item.gold)
    lines = [to_line(pair) for voted in votes_on(judge, items) if (pair := _taught(voted)) is not None]
    if not lines:
        return None
    write_rows(lambda: lines, pairs)
    return pairs


def _checked(item: Item, judge: SelfRewarding) -> Item:
    scores = item.gold.scores if item.gold is not None else None
    if outside := [score for score in scores or () if not judge.scale.low <= score <= judge.scale.high]:
        raise CannotRun(
            f"evaluation data, row {item.id!r}: a score of {outside[0]:g} is not on the judge's scale, {judge.scale};"
            " bring the scores to it"
        )
    return item


def _taught(voted: Voted) -> dict[str, Any] | None:
    """The best and the worst judgment of a response by what people said of it, where their scores differ."""
    far = _farness(voted.item, voted.index)
    if far is None or not voted.votes:
        return None
    chosen, rejected = min(voted.votes, key=lambda vote: far(vote[1])), max(voted.votes, key=lambda vote: far(vote[1]))
    if far(chosen[1]) == far(rejected[1]):
        return None
    return {
        "prompt": list(voted.asked),
        "chosen": [{"role": "assistant", "content": chosen[0]}],
        "rejected": [{"role": "assistant", "content": rejected[0]}],
        "score_chosen": -far(chosen[1]),
        "score_rejected": -far(rejected[1]),
        "id": f"{voted.item.id} {voted.index + 1}",
    }


def _farness(item: Item, index: int) -> Callable[[float], float] | None:
    """How far a vote on a response is from what people said, up to a constant; None where they said nothing of it."""
    assert item.gold is not None
    if item.gold.scores is not None:
        gold = item.gold.scores[index]
        return lambda score: abs(score - gold)
    sides = [(better == index) - (worse == index) for better, worse in preferences(item) if index in (better, worse)]
    if not sum(sides):
        return None
    return (lambda score: -score) if sum(sides) > 0 else (lambda score: score)
