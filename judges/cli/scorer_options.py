"""Scorers and policies from the command line: a SPEC, and the options --model, --set, --base-url and --policy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from judges.batch.output import ScoreOptions
from judges.engines.policy import Policy
from judges.engines.registry import ENGINE_PREFIX
from judges.errors import CannotRun
from judges.scorer import Scorer, find_scorer, load_scorer, parse_spec, read_value
from judges.scorers.llm_judge import LLMJudge

_ENGINE_SETTINGS = ("engine", "base_url", "api_key")


@dataclass(frozen=True, slots=True)
class ScoreConfig:
    """The arguments of `assay score`, as they were written."""

    source: str
    spec: str
    output: Path | None
    model: str | None
    base_urls: tuple[str, ...]
    settings: tuple[str, ...]
    candidates: int | None
    policy: str | None
    options: ScoreOptions

    def scorer_settings(self) -> tuple[str, dict[str, Any]]:
        """The scorer's name and its settings, from the SPEC and the options beside it."""
        name, settings = parse_spec(self.spec)
        settings |= parse_settings(self.settings)
        return name, with_model_options(settings, self.model, self.base_urls)

    def load_policy(self, scorer: Scorer, settings: Mapping[str, Any]) -> Policy | None:
        """The model that writes candidates; None without --candidates."""
        return None if self.candidates is None else load_policy(self.policy, self.candidates, scorer, settings)


def parse_assignments(option: str, texts: Sequence[str]) -> dict[str, str]:
    """The values of an option that is given as key=value, by key.

    >>> parse_assignments("--map", ["response=answer"])
    {'response': 'answer'}
    """
    assignments = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals or not key:
            raise CannotRun(f"{option} {text!r} is not key=value")
        assignments[key] = value
    return assignments


def parse_settings(texts: Sequence[str]) -> dict[str, Any]:
    """The settings of --set key=value; values are read as YAML scalars.

    >>> parse_settings(["max-tokens=64"])
    {'max_tokens': 64}
    """
    assignments = parse_assignments("--set", texts)
    return {key.replace("-", "_"): read_value(value, "--set") for key, value in assignments.items()}


def with_model_options(settings: Mapping[str, Any], model: str | None, base_urls: Sequence[str]) -> dict[str, Any]:
    """A scorer's settings, with those that --model and --base-url stand for."""
    added: dict[str, Any] = {"model": model} if model else {}
    if base_urls:
        added["base_url"] = base_urls[0] if len(base_urls) == 1 else list(base_urls)
        return {"engine": "openai", **settings, **added}
    return {**settings, **added}


def load_judge(
    spec: str, model: str | None, base_urls: Sequence[str], policy: str | None
) -> tuple[Scorer, dict[str, Any]]:
    """The scorer and its settings. An LLM judge that names no model uses the policy's: the model judges itself."""
    name, settings = parse_spec(spec)
    settings = with_model_options(settings, model, base_urls)
    if policy and "model" not in settings and is_llm_judge(name):
        policy_model, policy_values = parse_spec(policy)
        settings = engine_settings(policy_values) | settings | {"model": policy_model}
    return load_scorer(name, **settings), settings


def is_llm_judge(name: str) -> bool:
    """Whether the scorer of a name is an LLM judge, whose model could also be a policy."""
    found = find_scorer(name)
    return isinstance(found, type) and issubclass(found, LLMJudge)


def load_policy(spec: str | None, candidates: int, scorer: Scorer, scorer_settings: Mapping[str, Any]) -> Policy:
    """The policy of `--policy MODEL[,key=value …]`; without one, the model of an LLM judge."""
    settings = policy_settings(spec, scorer, scorer_settings)
    try:
        return Policy(candidates=candidates, **settings)
    except TypeError as error:
        raise CannotRun(f"--policy: a setting has a wrong value: {error}") from error


def policy_settings(spec: str | None, scorer: Scorer, scorer_settings: Mapping[str, Any]) -> dict[str, Any]:
    """A policy's settings, with its model.

    A policy with the judge's own model takes over the judge's engine settings, so that both share one engine.
    """
    model, settings = parse_spec(spec) if spec else ("", {})
    if isinstance(scorer, LLMJudge) and model in ("", scorer.model):
        model = scorer.model
        settings = engine_settings(scorer_settings) | settings
    if not model:
        raise CannotRun(f"scorer {scorer.name!r} writes no candidates: name a model that does with --policy MODEL")
    return {"model": model, **settings}


def engine_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Those settings that say where and how a model runs."""
    return {key: value for key, value in settings.items() if key in _ENGINE_SETTINGS or key.startswith(ENGINE_PREFIX)}
