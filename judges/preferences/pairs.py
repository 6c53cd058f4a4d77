"""`assay pairs`: sample candidates for prompts, score them with any scorer, and write preference pairs."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path

from judges.batch.output import ScoreOptions
from judges.batch.run import ScoreSummary, score_file
from judges.data.shards import is_folder, list_shards
from judges.engines.policy import Policy
from judges.errors import CannotRun
from judges.evaluation.report.html import write_atomically
from judges.preferences.dataset_card import write_card
from judges.preferences.export import DROP_DESCRIPTIONS, PairOptions, PairStatistics, write_pairs
from judges.scorer import Scorer, json_round_trip

CANDIDATES = "candidates.jsonl"
ACCOUNT = "account.json"
# What to change when most prompts are dropped for this reason.
_ADVICE = {
    "level": "ask for more votes, another judge, or read=expected",
    "same": "use a higher temperature or top_p",
    "failed": "see the failures by reason in account.json; assay explain prints one judgment",
    "truncated": "use a policy with more max_tokens, or leave out --whole",
    "margin": "use a smaller --margin",
    "agreement": "use a lower --agreement, or more votes",
    "single": "give at least two candidates per prompt",
    "not-drawn": "see the failures by reason in account.json",
    "empty": "use another policy, or its chat template",
}


def make_pairs(
    source: str,
    scorer: Scorer,
    policy: Policy | None,
    folder: Path,
    pair_options: PairOptions = PairOptions(),
    options: ScoreOptions = ScoreOptions(),
    suffix: str = ".parquet",
    on_progress: Callable[[ScoreSummary], None] = lambda _: None,
) -> PairStatistics:
    """Turn a file of prompts into a folder of preference pairs; any scorer can judge.

    All candidates of a prompt are sampled in one request. They are scored as soon as they arrive, while other prompts
    are still being sampled. Rows with a list of `responses` need no policy. `folder` gets

    - `candidates.jsonl`: the output of `score_file`, in input order. A second call neither samples nor scores anything
      again, also with other `pair_options`.
    - `pairs` + `suffix` (".parquet" or ".jsonl"): one row per pair, see `judges.preferences.export.write_pairs`.
    - `account.json`: how many prompts gave pairs, why the others gave none, and all settings.
    - `README.md`: a dataset card with plots.

    Raises CannotRun as `score_file` does, and when no pair is left; the statistics and the candidates are written then.
    """
    check_input(source, folder)
    candidates = folder / CANDIDATES
    with writable_folder(folder):
        pass
    score_file(source, scorer, candidates, replace(options, ordered=True), on_progress, policy)
    with writable_folder(folder):
        for previous in _pair_files(folder):
            previous.unlink()
        statistics = write_pairs(candidates, options.mapping, folder / f"pairs{suffix}", pair_options)
        _write_statistics(folder, f"pairs{suffix}", statistics, scorer, policy, pair_options)
    if not statistics.pairs:
        raise CannotRun(f"no pair is left of {statistics.prompts:,} prompts: {_explain_no_pairs(statistics)}")
    return statistics


def check_input(source: str, folder: Path) -> None:
    """Raises CannotRun if the source does not exist, is a folder, or would be overwritten by the pairs."""
    list_shards(source)
    if is_folder(source):
        raise CannotRun(f"{source!r} is a folder; give one of its files")
    if Path(source).expanduser().resolve() in [path.resolve() for path in _pair_files(folder)]:
        raise CannotRun(f"{source} would be overwritten; give another -o")


@contextmanager
def writable_folder(folder: Path) -> Iterator[None]:
    """Create a folder to write into; an OSError inside the block becomes CannotRun."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        yield
    except OSError as error:
        raise CannotRun(f"{folder}: cannot be written: {error.strerror or error}") from error


def _pair_files(folder: Path) -> list[Path]:
    return [path for path in folder.glob("pairs.*") if path.is_file()]


def _write_statistics(
    folder: Path, pairs: str, statistics: PairStatistics, scorer: Scorer, policy: Policy | None, options: PairOptions
) -> None:
    """Write `account.json` and the dataset card."""
    record = {
        "account": statistics.to_json(),
        "scorer": json_round_trip(scorer.identity()),
        "policy": None if policy is None else json_round_trip(policy.identity()),
        "rule": asdict(options.rule),
        "filters": None if options.filters is None else asdict(options.filters),
        "stays_clear_of": sorted(options.shared_prompts),
        "budget": options.budget,
    }
    write_atomically(folder / ACCOUNT, json.dumps(record, indent=1, ensure_ascii=False) + "\n")
    write_card(folder, pairs, statistics, record)


def has_pairs(folder: Path) -> bool | None:
    """Whether a folder of `make_pairs` has any pair; None if it is not finished."""
    path = folder / ACCOUNT
    if not path.exists():
        return None
    return bool(json.loads(path.read_text(encoding="utf-8"))["account"]["pairs"])


def _explain_no_pairs(statistics: PairStatistics) -> str:
    """The most frequent drop reason, and what to change."""
    reason, count = statistics.drops.most_common(1)[0]
    return f"{count:,} for this reason: {DROP_DESCRIPTIONS[reason]}; {_ADVICE.get(reason, 'use weaker filters')}"
