"""Pairs of judgments, which train a judge that is the policy itself.

A judge with several votes has written several judgments of the same response. Which of them is better is decided by
human labels of the response (evaluation data of Yuan et al. 2024, arXiv 2401.10020), or by a scorer that compares the
judgments (meta-judging: Wu et al. 2024, arXiv 2407.19594). The prompt of such a pair is the judge's prompt; chosen and
rejected are two judgments.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from judges.batch.output import ScoreOptions
from judges.batch.run import ScoreSummary, score_file
from judges.data.json_lines import to_line
from judges.data.quality import preferred_pairs
from judges.data.rows import read_rows
from judges.data.writers import write_rows
from judges.engines.base import RequestFailed
from judges.engines.concurrency import map_unordered
from judges.errors import CannotRun
from judges.preferences.pairs import CANDIDATES, has_pairs, make_pairs
from judges.preferences.scored_candidates import read_scored_rows
from judges.scorer import Scorer
from judges.scorers.llm_judge import Messages
from judges.scorers.self_rewarding import SelfRewarding
from judges.types import Item, Judgment

Progress = Callable[[ScoreSummary], None]


@dataclass(frozen=True, slots=True)
class ResponseVotes:
    """The judge's prompt for one response of an Item, and its votes: the text with the verdict, and the score."""

    item: Item
    index: int
    prompt: Messages
    votes: tuple[tuple[str, float], ...]

    @property
    def id(self) -> str:
        return f"{self.item.id} {self.index + 1}"


def check_trainable(scorer: Scorer) -> SelfRewarding:
    """The scorer, if it is a judge whose judgments can be compared. Raises CannotRun otherwise."""
    if not isinstance(scorer, SelfRewarding) or scorer.template.kind != "pointwise" or scorer.votes < 2:
        raise CannotRun(
            "the judge cannot be trained, because it does not write several judgments of a response: use self-rewarding"
            " with votes=2 or more and a pointwise template"
        )
    if scorer.read_methods != ("text",):
        raise CannotRun("the judge cannot be trained, because its verdict is not in its text: use read=text")
    return scorer


def collect_votes(scorer: SelfRewarding, items: Iterator[Item]) -> Iterator[ResponseVotes]:
    """Sample the judge's votes on every response that is not empty; yields them in the order of the items."""

    async def sample(item: Item) -> tuple[str, list[ResponseVotes]]:
        responses = []
        for index, response in enumerate(item.responses):
            if not response.strip():
                continue
            try:
                prompt = scorer.template.render(item, (index,))
            except RequestFailed:
                continue
            judgments = await scorer.sample_votes(item, index)
            votes = [_text_and_score(judgment, scorer.template.announcement) for judgment in judgments]
            responses.append(ResponseVotes(item, index, prompt, tuple(vote for vote in votes if vote is not None)))
        return item.id, responses

    _ = scorer.engine  # opens it here, before the event loop runs
    finished: dict[str, list[ResponseVotes]] = {}
    order: deque[str] = deque()

    def record_order() -> Iterator[Item]:
        for item in items:
            order.append(item.id)
            yield item

    requests = lambda item: len(item.responses) * scorer.votes  # noqa: E731
    for name, responses in map_unordered(record_order(), sample, scorer.window, requests):
        finished[name] = responses
        while order and order[0] in finished:
            yield from finished.pop(order.popleft())


def _text_and_score(vote: Judgment, announcement: str) -> tuple[str, float] | None:
    """A vote's text with its verdict, which is appended if it was forced; None for a vote without a score."""
    if vote.score is None or not vote.completions:
        return None
    text = vote.completions[0].rstrip()
    return (f"{text}\n{announcement} {vote.score:g}" if (vote.read or "").startswith("forced") else text), vote.score


def meta_judged_pairs(
    folder: Path, judge: Scorer, meta_judge: Scorer, store: Path, on_progress: Progress
) -> Path | None:
    """Make pairs of the judgments of a round's candidates, compared by `meta_judge`; None if there is no pair.

    `folder` is the round's folder. The judgments are read from the round's `store` of completions, so no candidate is
    judged again.
    """
    judge = check_trainable(judge)
    target = folder / "meta-judging"
    judgments = target / "judgments.jsonl"
    if not judgments.exists():
        target.mkdir(exist_ok=True)
        judge.reread(store)
        items = (row.item for row in read_scored_rows(folder / CANDIDATES, {}) if row.item is not None)
        lines = []
        for response in collect_votes(judge, items):
            texts = list(dict.fromkeys(text for text, _ in response.votes))
            if len(texts) > 1:
                lines.append(to_line({"id": response.id, "prompt": list(response.prompt), "responses": texts}))
        write_rows(lambda: lines, judgments)
    if not judgments.stat().st_size:
        return None
    try:
        make_pairs(str(judgments), meta_judge, None, target, on_progress=on_progress)
    except CannotRun:
        if has_pairs(target) is not False:
            raise
        return None
    return target / "pairs.parquet"


def human_judgment_pairs(source: str, judge: Scorer, folder: Path, on_progress: Progress) -> Path | None:
    """Make pairs of judgments of responses that humans scored or compared; None if no two votes differ.

    For a response with a human score, the judgment with the nearest score is chosen and the one with the farthest is
    rejected. For the better of two compared responses, the judgment with the highest score is chosen and the one with
    the lowest is rejected; for the worse one the other way round.
    """
    judge = check_trainable(judge)
    target = folder / "evaluation-data"
    target.mkdir(exist_ok=True)
    pairs = target / "pairs.parquet"
    if pairs.exists():
        return pairs
    score_file(source, judge, target / "judged.jsonl", ScoreOptions(ordered=True), on_progress)
    items = (
        _check_gold_scores(row.item, judge) for row in read_rows(source) if isinstance(row.item, Item) and row.item.gold
    )
    rows = (_judgment_pair(response) for response in collect_votes(judge, items))
    lines = [to_line(row) for row in rows if row is not None]
    if not lines:
        return None
    write_rows(lambda: lines, pairs)
    return pairs


def _check_gold_scores(item: Item, judge: SelfRewarding) -> Item:
    scores = item.gold.scores if item.gold is not None else None
    if outside := [score for score in scores or () if not judge.scale.low <= score <= judge.scale.high]:
        raise CannotRun(
            f"evaluation data, row {item.id!r}: the score {outside[0]:g} is not on the judge's scale, {judge.scale};"
            " convert the scores to it"
        )
    return item


def _judgment_pair(response: ResponseVotes) -> dict[str, Any] | None:
    """The votes nearest to and farthest from the human label as a pair; None if all are equally near."""
    distance = _distance_to_gold(response.item, response.index)
    if distance is None or not response.votes:
        return None
    chosen = min(response.votes, key=lambda vote: distance(vote[1]))
    rejected = max(response.votes, key=lambda vote: distance(vote[1]))
    if distance(chosen[1]) == distance(rejected[1]):
        return None
    return {
        "prompt": list(response.prompt),
        "chosen": [{"role": "assistant", "content": chosen[0]}],
        "rejected": [{"role": "assistant", "content": rejected[0]}],
        "score_chosen": -distance(chosen[1]),
        "score_rejected": -distance(rejected[1]),
        "id": response.id,
    }


def _distance_to_gold(item: Item, index: int) -> Callable[[float], float] | None:
    """The distance of a vote on a response from its human label, up to a constant; None without a label."""
    assert item.gold is not None
    if item.gold.scores is not None:
        gold = item.gold.scores[index]
        return lambda score: abs(score - gold)
    wins = sum((better == index) - (worse == index) for better, worse in preferred_pairs(item))
    if not wins:
        return None
    return (lambda score: -score) if wins > 0 else (lambda score: score)
