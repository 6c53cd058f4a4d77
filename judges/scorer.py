"""`Scorer`, the one interface, and the registry that finds one by name."""

from __future__ import annotations

import inspect
import json
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import yaml

from judges.errors import CannotRun
from judges.types import Item, Judgment, Scale, Scorecard

if TYPE_CHECKING:
    from judges.serving.reward_function import RewardFunction


class Scorer(ABC):
    """Scores the responses of Items. Subclasses write `stream`; `score` comes with it.

    A scorer is a context manager; leaving it closes the engine it holds.
    """

    name: str
    scale: Scale

    @abstractmethod
    def stream(self, items: Iterable[Item]) -> Iterator[Scorecard]:
        """Yield a Scorecard for each Item as it finishes, in any order, with bounded memory.

        The source may pause or never end: a finished Scorecard never waits for the next Item.
        """

    def score(self, items: Sequence[Item]) -> list[Scorecard]:
        """Score a list, in its order. Raises ValueError when two Items share an id."""
        order = {item.id: place for place, item in enumerate(items)}
        if len(order) != len(items):
            raise ValueError("two items share an id; ids must be unique")
        cards = sorted(self.stream(items), key=lambda card: order[card.id])
        return cards

    def identity(self) -> dict[str, Any]:
        """What another run must share to give the same scores: written in manifests."""
        return {"scorer": self.name}

    def as_reward_function(
        self, name: str = "", system: str = "", reference: str = "", rubric: str = ""
    ) -> RewardFunction:
        """This scorer as one of TRL's `reward_funcs`; `reference="solution"` names a column of the dataset."""
        # Found by name, as scorers are: an import would point from here up to `serving`.
        reward_function: Callable[..., RewardFunction] = import_module("judges.serving.reward_function").RewardFunction
        return reward_function(self, name, system, reference, rubric)

    def close(self) -> None:
        """Free what the scorer holds. Safe to call twice."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def softmax_preference(judgments: Sequence[Judgment], temperature: float = 1.0) -> tuple[float, ...] | None:
    """P(best) under Bradley–Terry: the softmax of the rewards over a temperature; None when one is missing.

    >>> softmax_preference([Judgment(score=1.0), Judgment(score=1.0)])
    (0.5, 0.5)
    """
    scores = [j.score for j in judgments]
    if any(s is None for s in scores):
        return None
    values = [s for s in scores if s is not None]
    top = max(values)
    weights = [math.exp((v - top) / temperature) for v in values]
    return tuple(w / sum(weights) for w in weights)


def vote_preference(judgments: Sequence[Judgment]) -> tuple[float, ...] | None:
    """P(best) by how often each response is best over all combinations of one vote a response.

    With one vote each this is the winner, ties shared. None when a response has no score.

    >>> a = Judgment(score=2.5, votes=(2.0, 3.0)); b = Judgment(score=2.0, votes=(2.0, 2.0))
    >>> vote_preference([a, b])
    (0.75, 0.25)
    """
    if len(judgments) == 1:
        return None if judgments[0].score is None else (1.0,)
    if any(j.score is None for j in judgments):
        return None
    columns = [
        [v for v in j.votes if isinstance(v, float | int)] or [j.score if j.score is not None else 0.0]
        for j in judgments
    ]
    values = sorted({v for column in columns for v in column})
    shares = [0.0] * len(columns)
    # Sum over the winning value v: i is best with v while all others stand at or below it; ties are shared.
    for v in values:
        at = [column.count(v) / len(column) for column in columns]
        below = [sum(x < v for x in column) / len(column) for column in columns]
        for i in range(len(columns)):
            tied = [1.0]  # tied[k]: probability that k of the others stand at v, the rest below
            for j in range(len(columns)):
                if j != i:
                    grown = [0.0] * (len(tied) + 1)
                    for k, p in enumerate(tied):
                        grown[k] += p * below[j]
                        grown[k + 1] += p * at[j]
                    tied = grown
            shares[i] += at[i] * sum(p / (k + 1) for k, p in enumerate(tied))
    return tuple(shares)


def reread_from(scorer: Scorer, path: Path) -> None:
    """Let a scorer judge from the completions in a store, without a model. Raises CannotRun where it keeps none.

    >>> reread_from(load_scorer("length"), Path("completions.sqlite"))
    Traceback (most recent call last):
    judges.errors.CannotRun: scorer 'length' keeps no completions that could be read again
    """
    reread: Callable[[Path], None] | None = getattr(scorer, "reread", None)
    if reread is None:
        raise CannotRun(f"scorer {scorer.name!r} keeps no completions that could be read again")
    reread(path)


# name -> where its class is; imported only when asked for. `classic_rm` is found here, by name.
REGISTRY: dict[str, str] = {
    "bradley-terry": "classic_rm.scorer:BradleyTerryScorer",
    "self-rewarding": "judges.scorers.self_rewarding:SelfRewarding",
    "critique-out-loud": "judges.scorers.critique_out_loud:CritiqueOutLoud",
    "pairwise": "judges.scorers.pairwise:Pairwise",
    "panel": "judges.scorers.panel:Panel",
    "calibrated": "judges.scorers.calibrated:Calibrated",
    "implicit-reward": "judges.scorers.implicit_reward:ImplicitReward",
    "rules": "judges.scorers.rules:Rules",
    "length": "judges.scorers.baselines:Length",
    "random": "judges.scorers.baselines:Random",
}


def plain(identity: Mapping[str, Any]) -> dict[str, Any]:
    """An identity as it comes back from a file."""
    found: dict[str, Any] = json.loads(json.dumps(identity, default=str))
    return found


def find_scorer(name: str) -> Callable[..., Scorer]:
    """The class of a scorer. Raises CannotRun for an unknown name."""
    if name not in REGISTRY:
        raise CannotRun(f"unknown scorer {name!r}; there are {', '.join(REGISTRY)}")
    module, _, attribute = REGISTRY[name].partition(":")
    build: Callable[..., Scorer] = getattr(import_module(module), attribute)
    return build


def load_scorer(name: str, **settings: Any) -> Scorer:
    """A scorer by name. Raises CannotRun for an unknown name or setting.

    >>> with load_scorer("length") as scorer:
    ...     scorer.score([Item(id="a", prompt="Hi", responses=["four"])])[0].judgments[0].score
    4.0
    """
    build = find_scorer(name)
    taken = inspect.signature(build).parameters
    open_ended = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in taken.values())
    if not open_ended and (unknown := [key for key in settings if key not in taken]):
        raise CannotRun(f"scorer {name!r} has no setting {', '.join(unknown)}; it takes {', '.join(taken) or 'none'}")
    try:
        return build(**settings)
    except (TypeError, ValueError) as error:
        raise CannotRun(f"scorer {name!r}: a setting has a wrong value: {error}") from error


def read_value(text: str, where: str) -> Any:
    """A setting's text as a YAML scalar: 3, 0.5, true, or a string."""
    try:
        return yaml.safe_load(text) if text else ""
    except yaml.YAMLError as error:
        raise CannotRun(f"{where}: {text!r} is not a value; put it in quotes") from error


def parse_spec(spec: str) -> tuple[str, dict[str, Any]]:
    """`NAME[,key=value …]` as a name and settings; values are read as YAML scalars.

    >>> parse_spec("self-rewarding,model=embedded:smollm2-135m,votes=3")
    ('self-rewarding', {'model': 'embedded:smollm2-135m', 'votes': 3})
    """
    name, *pairs = [part.strip() for part in spec.split(",")]
    settings: dict[str, Any] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or not key:
            raise CannotRun(f"--scorer {spec!r}: {pair!r} is not key=value")
        settings[key.strip().replace("-", "_")] = read_value(value, f"--scorer {spec!r}")
    return name, settings
