"""Rankings of models by Bradley–Terry strength and Elo, from a scorer's verdicts or human preferences."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from judges.evaluation.metrics.accuracy import human_values, with_note
from judges.evaluation.metrics.correlation import spearman, tau_b
from judges.evaluation.results import MetricValue
from judges.evaluation.statistics import intervals
from judges.evaluation.statistics.tally import prompt_of
from judges.types import Item, Scorecard

Floats = NDArray[np.float64]
Indices = NDArray[np.intp]
ELO_ORDERS = 100  # Elo depends on the order of the games: the mean over so many random orders
MAX_UNDEFINED = 0.05  # share of draws without a fit; above it there is no interval


@dataclass(frozen=True, slots=True)
class Ranked:
    """A model's rank. `strength` is in log-odds, mean 0 over the models that have one: of two models, the first
    wins with σ(difference), a tie half a win. `low` and `high` are its 95 % interval. `elo` starts at 1000 and
    moves by 4 at most a game, so it needs many. Strengths are None, and `note` says why, where there is none:
    a model that won or lost every game has no finite strength, and models that never met have no difference.
    """

    model: str
    strength: float | None
    low: float | None
    high: float | None
    elo: float
    games: int
    wins: int
    ties: int
    note: str = ""


@dataclass(frozen=True, slots=True)
class Games:
    """One row a game: indices of two models, 1 where the first won, 0 for a tie, -1; and the prompt."""

    models: tuple[str, ...]
    first: Indices
    second: Indices
    outcome: Indices
    prompts: tuple[str, ...]


def ranked(
    items: Sequence[Item], cards: Mapping[str, Scorecard] | None = None, seed: int = 0, draws: int = 1000
) -> tuple[Ranked, ...]:
    """The models that `meta["authors"]` names (one for each response), best first: by the scorer's verdicts, or
    by the Items' gold without `cards`. Empty without a game.

    A game is one of an Item's comparisons, of two models: the higher score wins, equal scores are a tie, a
    failure is no game. Where gold is `chosen`, two chosen ones are no game, nor are two others. Strengths are
    the maximum likelihood of Bradley and Terry (1952), a tie half a win to each; their intervals a bootstrap
    over prompts. The fit exists for models of which each won against each, at least through others (Ford 1957):
    where that is not all of them, the largest such group is ranked and the others follow by Elo.
    """
    games = games_of(items, cards)
    if not games.models:
        return ()
    connected = _linked(games)
    inside = np.isin(games.first, connected) & np.isin(games.second, connected)
    rows = np.flatnonzero(inside)
    strengths = _strengths(games, np.ones(len(games.first)), connected)
    drawn = np.array([_strengths(games, weights, connected) for weights in _draws(games, rows, seed, draws)])
    fits = ~np.isnan(drawn).any(axis=1) if len(drawn) else np.zeros(0, dtype=bool)
    undefined = 1 - float(fits.mean()) if len(fits) else 0.0
    prompts = len({games.prompts[row] for row in rows})
    elo = _elo(games, seed)
    results = []
    for i, name in enumerate(games.models):
        played = (games.first == i) | (games.second == i)
        won = ((games.first == i) & (games.outcome == 1)) | ((games.second == i) & (games.outcome == -1))
        strength = float(strengths[i]) if not np.isnan(strengths[i]) else None
        low, high, note = None, None, "" if strength is not None else _why_unranked(games, i, connected)
        if strength is not None and prompts < 3:
            note = "fewer than 3 prompts: no interval"
        elif strength is not None and undefined > MAX_UNDEFINED:
            note = f"no interval: in {undefined:.0%} of the draws the games do not connect all models"
        elif strength is not None and len(fits):
            low, high = intervals.bca(strength, np.sort(drawn[fits, i]), 0.0, prompts - 1)
        ties = int((played & (games.outcome == 0)).sum())
        results.append(
            Ranked(name, strength, low, high, float(elo[i]), int(played.sum()), int((played & won).sum()), ties, note)
        )
    return tuple(sorted(results, key=lambda r: (r.strength is None, -(r.strength or 0.0), -r.elo, r.model)))


def ranking_numbers(
    items: Sequence[Item], cards: Mapping[str, Scorecard], seed: int = 0, draws: int = 1000
) -> tuple[MetricValue, ...]:
    """Agreement of the scorer's ranking of models with the human one: Kendall τ-b and Spearman of the strengths of
    the models that both rank, three at least. `rows` counts the models. Empty where no Item names its authors.

    Both rankings are computed again in each draw of prompts.
    """
    sides = [games_of(items, cards), games_of(items)]
    if not all(side.models for side in sides):
        return ()
    names = ("kendall tau-b of models' strengths", "spearman of models' strengths")
    groups = [{side.models[i] for i in _linked(side)} for side in sides]
    both = sorted(groups[0] & groups[1])
    if len(both) < 3:
        why = f"{len(both)} models are ranked by the scorer and by humans; it needs three"
        return tuple(MetricValue(name, "", None, rows=len(both), note=why) for name in names)
    prompts = sorted({*sides[0].prompts, *sides[1].prompts})
    index = {prompt: i for i, prompt in enumerate(prompts)}
    at = [np.array([index[prompt] for prompt in side.prompts], dtype=np.intp) for side in sides]
    connected = [np.flatnonzero(np.isin(side.models, sorted(group))) for side, group in zip(sides, groups, strict=True)]
    columns = [[side.models.index(name) for name in both] for side in sides]

    def strengths(draw: Indices) -> tuple[Floats, Floats] | None:
        times = np.bincount(draw, minlength=len(prompts)).astype(np.float64)
        found = [_strengths(side, times[at[i]], connected[i])[columns[i]][None] for i, side in enumerate(sides)]
        return None if any(np.isnan(side).any() for side in found) else (found[0], found[1])

    def of(statistic: Callable[[Floats, Floats], Floats]) -> Callable[[Indices], float]:
        def of_draw(draw: Indices) -> float:
            pair = strengths(draw)
            return float("nan") if pair is None else float(statistic(*pair)[0])

        return of_draw

    return tuple(
        replace(
            with_note(intervals.resampled(prompts, of(statistic), name, seed=seed, draws=draws), f"{len(both)} models"),
            rows=len(both),
        )
        for name, statistic in zip(names, (tau_b, spearman), strict=True)
    )


def games_of(items: Sequence[Item], cards: Mapping[str, Scorecard] | None = None) -> Games:
    """The games between the Items' authors, by the scorer or (without cards) by gold."""
    models: dict[str, int] = {}
    rows: list[tuple[int, int, int]] = []
    prompts: list[str] = []
    for item in items:
        authors = item.meta.get("authors")
        if not authors or (cards is None and item.gold is None):
            continue
        values: Sequence[float | None]
        if cards is not None:
            values = [judgment.score for judgment in cards[item.id].judgments]
        else:
            assert item.gold is not None
            values = human_values(item.gold, len(item.responses))
        by_choice = cards is None and item.gold is not None and item.gold.chosen is not None
        for i, j in item.pairs():
            a, b = values[i], values[j]
            if not authors[i] or not authors[j] or authors[i] == authors[j] or a is None or b is None:
                continue
            if by_choice and a == b:
                continue
            first, second = (models.setdefault(str(authors[side]), len(models)) for side in (i, j))
            rows.append((first, second, (a > b) - (a < b)))
            prompts.append(prompt_of(item))
    table = np.array(rows, dtype=np.intp).reshape(-1, 3)
    return Games(tuple(models), table[:, 0], table[:, 1], table[:, 2], tuple(prompts))


def _wins(games: Games, weights: Floats) -> Floats:
    """(models, models): how often the row's model won against the column's, a tie half a win to each; each game
    counted `weights` times."""
    count = len(games.models)
    cells = games.first * count + games.second
    won = np.bincount(cells, weights * (1 + games.outcome) / 2, minlength=count * count).reshape(count, count)
    lost = np.bincount(cells, weights * (1 - games.outcome) / 2, minlength=count * count).reshape(count, count)
    return (won + lost.T).astype(np.float64)


def _linked(games: Games) -> Indices:
    """The largest group of models in which each won against each, at least through others; among equals the one
    with the most games. A tie links both ways."""
    from scipy.sparse.csgraph import connected_components

    wins = _wins(games, np.ones(len(games.first)))
    _, group = connected_components(wins > 0, connection="strong")
    sizes = np.bincount(group)
    played = np.bincount(group, wins.sum(axis=0) + wins.sum(axis=1))
    return np.flatnonzero(group == max(range(len(sizes)), key=lambda g: (sizes[g], played[g])))


def _strengths(games: Games, weights: Floats, connected: Indices) -> Floats:
    """Log-strengths of the models in `connected`, mean 0, by the games among them, each counted `weights` times;
    nan for the others, and for all where these games do not link them."""
    import evalica
    from scipy.sparse.csgraph import connected_components

    found = np.full(len(games.models), np.nan)
    wins = _wins(games, weights)[np.ix_(connected, connected)]
    if len(connected) < 2 or connected_components(wins > 0, connection="strong")[0] > 1:
        return found
    winners, losers = np.nonzero(wins)
    fitted = evalica.bradley_terry(
        winners.tolist(),
        losers.tolist(),
        [evalica.Winner.X] * len(winners),
        weights=wins[winners, losers].tolist(),
        tolerance=1e-9,
        limit=100_000,
    )
    logs = np.log(fitted.scores.sort_index().to_numpy(dtype=np.float64))
    found[connected] = logs - logs.mean()
    return found


def _draws(games: Games, rows: Indices, seed: int, draws: int) -> Iterator[Floats]:
    """How often each game is drawn, prompts with replacement: one fewer than there are, as `intervals` draws
    them. Games that are not in `rows` never are."""
    if not len(rows):
        return
    names, of_rows = np.unique(np.array(games.prompts)[rows], return_inverse=True)
    generator = np.random.default_rng(seed)
    for _ in range(draws):
        times = np.bincount(generator.integers(0, len(names), size=max(len(names) - 1, 1)), minlength=len(names))
        weights = np.zeros(len(games.first))
        weights[rows] = times[of_rows]
        yield weights


def _elo(games: Games, seed: int) -> Floats:
    import evalica

    winners = {1: evalica.Winner.X, 0: evalica.Winner.Draw, -1: evalica.Winner.Y}
    outcomes = [winners[int(outcome)] for outcome in games.outcome]
    generator = np.random.default_rng(seed)
    found = np.zeros(len(games.models))
    for _ in range(ELO_ORDERS):
        order = generator.permutation(len(outcomes))
        rated = evalica.elo(games.first[order].tolist(), games.second[order].tolist(), [outcomes[i] for i in order])
        found += rated.scores.sort_index().to_numpy(dtype=np.float64)
    return found / ELO_ORDERS


def _why_unranked(games: Games, model: int, connected: Indices) -> str:
    if len(connected) < 2:
        return "no two models won against each other: their strengths have no finite difference"
    wins = _wins(games, np.ones(len(games.first)))
    if wins[model, connected].sum():
        return "won every game against the ranked models: no finite strength"
    if wins[connected, model].sum():
        return "lost every game against the ranked models: no finite strength"
    return "played no game against the ranked models"
