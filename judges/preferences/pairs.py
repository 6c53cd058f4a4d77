"""`assay pairs`: prompts in, candidates drawn and judged in one flow, pairs, their account and card out."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path

from judges.batch.output import Options
from judges.batch.run import Summary, score_file
from judges.data.shards import is_folder, shards_of
from judges.engines.policy import Policy
from judges.errors import CannotRun
from judges.evaluation.report.html import write_whole
from judges.preferences.dataset_card import write_card
from judges.preferences.export import WHY, Account, Recipe, write_pairs
from judges.scorer import Scorer, plain

CANDIDATES = "candidates.jsonl"
ACCOUNT = "account.json"


def make_pairs(
    source: str,
    scorer: Scorer,
    policy: Policy | None,
    folder: Path,
    recipe: Recipe = Recipe(),
    options: Options = Options(),
    form: str = ".parquet",
    on_progress: Callable[[Summary], None] = lambda _: None,
) -> Account:
    """Make a folder of preference data of a file of prompts; any scorer judges.

    A prompt's candidates are drawn in one request and judged as soon as they are there, while others are still being
    drawn. `folder` gets `candidates.jsonl` (an output of `score_file`, in the input's order: started again, nothing is
    drawn or judged twice), `pairs` in `form`, `account.json` and a dataset card, `README.md`, with plots. Rows that
    have a list of `responses` need no policy. Choosing again by another `recipe` judges nothing. Raises CannotRun as
    `score_file` does, and where not one pair is left: the account and the candidates are there then.
    """
    check_source(source, folder)
    judged = folder / CANDIDATES
    with writing(folder):
        pass
    score_file(source, scorer, judged, replace(options, ordered=True), on_progress, policy)
    with writing(folder):
        for old in _pairs_in(folder):
            old.unlink()
        account = write_pairs(judged, options.mapping, folder / f"pairs{form}", recipe)
        _tell(folder, f"pairs{form}", account, scorer, policy, recipe)
    if not account.pairs:
        raise CannotRun(f"no pair is left of {account.prompts:,} prompts: {_why_none(account)}")
    return account


def check_source(source: str, folder: Path) -> None:
    """Raises CannotRun where a source is not there, is a folder, or is what `folder` holds of an earlier recipe."""
    shards_of(source)
    if is_folder(source):
        raise CannotRun(f"{source!r} is a folder; give one of its files")
    if Path(source).expanduser().resolve() in [old.resolve() for old in _pairs_in(folder)]:
        raise CannotRun(f"{source} would be written over; give another -o")


@contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Make a folder and write in it. Raises CannotRun where the disk does not let it."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        yield
    except OSError as error:
        raise CannotRun(f"{folder}: cannot be written: {error.strerror or error}") from error


def _pairs_in(folder: Path) -> list[Path]:
    return [path for path in folder.glob("pairs.*") if path.is_file()]


def _tell(folder: Path, pairs: str, account: Account, scorer: Scorer, policy: Policy | None, recipe: Recipe) -> None:
    """The account and the card."""
    told = {
        "account": account.plain(),
        "scorer": plain(scorer.identity()),
        "policy": None if policy is None else plain(policy.identity()),
        "rule": asdict(recipe.rule),
        "filters": None if recipe.filters is None else asdict(recipe.filters),
        "stays_clear_of": sorted(recipe.shared_prompts),
        "budget": recipe.budget,
    }
    write_whole(folder / ACCOUNT, json.dumps(told, indent=1, ensure_ascii=False) + "\n")
    write_card(folder, pairs, account, told)


def has_pairs(folder: Path) -> bool | None:
    """Whether a folder of `make_pairs` has a pair; None where it is not finished."""
    account = folder / ACCOUNT
    if not account.exists():
        return None
    return bool(json.loads(account.read_text(encoding="utf-8"))["account"]["pairs"])


def _why_none(account: Account) -> str:
    """What to change when there is no pair, from the reason of most drops."""
    reason, count = account.drops.most_common(1)[0]
    what = {
        "level": "the judge does not tell them apart: ask for more votes, another judge, or read=expected",
        "same": "the policy always says the same: a higher temperature or top_p",
        "failed": "see the failures by reason in account.json; assay explain shows one",
        "truncated": "a policy with more max_tokens, or without --whole",
        "margin": "a smaller --margin",
        "agreement": "a lower --agreement, or more votes",
        "single": "at least two candidates",
        "not-drawn": "see the failures by reason in account.json",
        "empty": "another policy, or its chat template",
    }.get(reason, "weaker filters")
    return f"{count:,} for this reason: {WHY[reason]}; to change: {what}"
