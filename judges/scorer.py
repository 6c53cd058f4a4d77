"""`Scorer`, the interface of every reward model and judge, and `load_scorer`, which finds one by name."""

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
from judges.plugins import Registry, setting_names, unknown_name
from judges.types import Item, Judgment, Scale, Scorecard

if TYPE_CHECKING:
    from judges.serving.reward_function import RewardFunction


class Scorer(ABC):
    """Scores the responses of Items. Subclasses implement `stream`; `score` is built on it.

    A scorer is a context manager, whose exit closes its engines. `scale` is the range of its scores.
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
        order = {item.id: i for i, item in enumerate(items)}
        if len(order) != len(items):
            raise ValueError("two items share an id; ids must be unique")
        return sorted(self.stream(items), key=lambda card: order[card.id])

    def identity(self) -> dict[str, Any]:
        """What another run must share to give the same scores: written in manifests."""
        return {"scorer": self.name}

    def as_reward_function(
        self, name: str = "", system: str = "", reference: str = "", rubric: str = ""
    ) -> RewardFunction:
        """This scorer as one of TRL's `reward_funcs`; `reference="solution"` names a column of the dataset."""
        # Imported by name, because this module is below `serving`.
        reward_function: Callable[..., RewardFunction] = import_module("judges.serving.reward_function").RewardFunction
        return reward_function(self, name, system, reference, rubric)

    def use_store(self, path: Path) -> None:
        """Keep what a model generates in the store at `path`, and take from it what is already there.

        Called before the first Item is scored. A scorer without a model has nothing to keep.
        """

    def reread(self, path: Path) -> None:
        """Score from the completions in the store at `path` alone, without a model. Raises CannotRun by default.

        >>> load_scorer("length").reread(Path("completions.sqlite"))
        Traceback (most recent call last):
        judges.errors.CannotRun: scorer 'length' keeps no completions that could be read again
        """
        raise CannotRun(f"scorer {self.name!r} keeps no completions that could be read again")

    def close(self) -> None:
        """Free the engines and files in use. Safe to call twice."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def softmax_preference(judgments: Sequence[Judgment], temperature: float = 1.0) -> tuple[float, ...] | None:
    """P(best) under Bradley–Terry: the softmax of score / temperature; None when a response has no score.

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
    """P(best): how often each response is best over all combinations of one vote per response.

    With one vote each this is the winner; ties are shared. None when a response has no score.

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
    # Sum over the winning value v: i has v and no other response has more; ties are shared.
    for v in values:
        at = [column.count(v) / len(column) for column in columns]
        below = [sum(x < v for x in column) / len(column) for column in columns]
        for i in range(len(columns)):
            tied = [1.0]  # tied[k]: probability that k of the others have v, and the rest less
            for j in range(len(columns)):
                if j != i:
                    extended = [0.0] * (len(tied) + 1)
                    for k, p in enumerate(tied):
                        extended[k] += p * below[j]
                        extended[k + 1] += p * at[j]
                    tied = extended
            shares[i] += at[i] * sum(p / (k + 1) for k, p in enumerate(tied))
    return tuple(shares)


SCORERS = Registry(
    "scorer",
    "assay.scorers",
    {
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
    },
)


def json_round_trip(identity: Mapping[str, Any]) -> dict[str, Any]:
    """An identity as it is read back from a file: tuples are lists, and what JSON does not know is a string."""
    decoded: dict[str, Any] = json.loads(json.dumps(identity, default=str))
    return decoded


def find_scorer(name: str) -> Callable[..., Scorer]:
    """The class of a scorer. Raises CannotRun for an unknown name, and for a plugin that cannot be used."""
    factory: Callable[..., Scorer] = SCORERS.load(name)
    if not callable(factory) or (isinstance(factory, type) and not issubclass(factory, Scorer)):
        raise SCORERS.error(name, f"is {factory!r}, not a Scorer's class or a function that returns a Scorer")
    return factory


def load_scorer(name: str, **settings: Any) -> Scorer:
    """A scorer by name, built in or from the entry-point group `assay.scorers`.

    Raises CannotRun for an unknown name or setting, or a setting with a wrong value.

    >>> with load_scorer("length") as scorer:
    ...     scorer.score([Item(id="a", prompt="Hi", responses=["four"])])[0].judgments[0].score
    4.0
    >>> load_scorer("random", sed=1)
    Traceback (most recent call last):
    judges.errors.CannotRun: scorer 'random' has no setting 'sed'; did you mean 'seed'? It takes: seed
    """
    factory = find_scorer(name)
    parameters = inspect.signature(factory).parameters
    open_ended = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values())
    if not open_ended and (unknown := [key for key in settings if key not in parameters]):
        raise CannotRun(unknown_name(f"scorer {name!r} has no setting", unknown[0], setting_names(factory), "It takes"))
    try:
        scorer = factory(**settings)
    except (TypeError, ValueError) as error:
        raise SCORERS.error(name, f"got a setting with a wrong value: {error}") from error
    if not isinstance(scorer, Scorer):
        raise SCORERS.error(name, f"returned a {type(scorer).__name__}, not a Scorer")
    return scorer


def read_value(text: str, where: str) -> Any:
    """The text of a setting as a YAML scalar: 3, 0.5, true, or a string. Raises CannotRun."""
    try:
        return yaml.safe_load(text) if text else ""
    except yaml.YAMLError as error:
        raise CannotRun(f"{where}: {text!r} is not a value; put it in quotes") from error


def parse_spec(spec: str) -> tuple[str, dict[str, Any]]:
    """The name and settings of `NAME[,key=value …]`; values are YAML scalars. Raises CannotRun.

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
