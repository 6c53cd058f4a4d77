"""`examine`: runs all doctor checks on a reward model or judge.

The model is loaded with transformers, as other tools load it, and a reward model also by Assay. Outputs are compared
with a reference: row by row without padding, read at the last token (an encoder: as it reads itself).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from classic_rm.doctor.judge import (
    check_context,
    check_end,
    check_first_token,
    check_judge_dtype,
    check_judge_pad,
    check_loaded,
)
from classic_rm.doctor.loaded_model import Finding, LoadedModel, ModelError, first_line
from classic_rm.doctor.rewards import check_assay, check_batch, check_dtype, check_head, check_reward_position
from classic_rm.doctor.tokens import check_bos, check_pad, check_template, check_truncation
from classic_rm.doctor.weights import check_weights
from classic_rm.model import quiet_transformers
from judges.catalog import find_entry

Check = Callable[[LoadedModel], Iterator[Finding]]

# The subject and function of each check. These checks need no weights, but measure more with them.
SHARED: tuple[tuple[str, Check], ...] = (
    ("chat template", check_template),
    ("BOS", check_bos),
    ("weights", check_weights),
)
TOKENS: tuple[tuple[str, Check], ...] = (("pad", check_pad), ("truncation", check_truncation), *SHARED)
# The order matters: the dtype check leaves the weights in float32, and the last check releases them.
REWARDS: tuple[tuple[str, Check], ...] = (
    ("the head", check_head),
    *TOKENS,
    ("where the reward is read", check_reward_position),
    ("batch size and padding", check_batch),
    ("dtype and ties", check_dtype),
    ("Assay's rewards", check_assay),
)
JUDGE_TOKENS: tuple[tuple[str, Check], ...] = (("pad", check_judge_pad), ("context", check_context), *SHARED)
JUDGE: tuple[tuple[str, Check], ...] = (
    ("the head", check_loaded),
    *JUDGE_TOKENS,
    ("the end of a turn", check_end),
    ("the first token", check_first_token),
    ("dtype", check_judge_dtype),
)


def examine(model: str, remote_code: bool = False, report: Callable[[str], None] = lambda _: None) -> Iterator[Finding]:
    """Yield findings about a folder, a hub name or an `embedded:` name, each as soon as it is measured.

    `report` is called with the subject of each check before it runs. Raises CannotRun where there is no such model.
    """
    report("reading config and tokenizer")
    loaded = LoadedModel(model, remote_code)
    yield from _catalog_finding(loaded)
    try:
        _ = loaded.rows
    except ModelError as error:
        yield Finding("template", "fault", f"The chat template fails: {error}.", "Mend tokenizer.chat_template.")
        return
    report("loading the weights")
    try:
        loaded.load()
        with quiet_transformers():
            _ = loaded.reference
    except ModelError as error:
        problem = "cannot load the weights" if loaded.model is None else "loads it, but it does not run"
        yield Finding(
            "load",
            "fault",
            f"transformers {problem}: {error}.",
            "Install what the error names, or use --remote-code if the model has custom code.",
        )
        loaded.free()
    if loaded.model is None:
        checks = JUDGE_TOKENS if loaded.is_judge else TOKENS
    else:
        checks = JUDGE if loaded.is_judge else REWARDS
    for subject, check in checks:
        report(subject)
        yield from _run_check(loaded, subject, check)
    loaded.free()


def _run_check(loaded: LoadedModel, subject: str, check: Check) -> list[Finding]:
    try:
        with quiet_transformers():
            return list(check(loaded))
    except Exception as error:  # an unexpected model must not prevent the other checks
        reason = f"{type(error).__name__}: {first_line(error)}"
        return [
            Finding(
                subject, "warning", f"This check itself failed ({reason}).", "Report it to Assay with the model's name."
            )
        ]


def _catalog_finding(loaded: LoadedModel) -> Iterator[Finding]:
    known = find_entry(loaded.name) or find_entry(str(getattr(loaded.config, "_name_or_path", "")))
    if known is None:
        return
    yield Finding(
        "known",
        "note" if known.supported else "warning",
        f"It is in Assay's catalog as {known.name}, with {len(known.quirks)} known quirks"
        + (f"; Assay does not support yet: {known.missing[0]}" if known.missing else "."),
        f"Score it with --scorer '{known.spec_for(loaded.name)}', and read 'assay models show {known.name}'.",
    )
