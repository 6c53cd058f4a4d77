"""Examine a reward model or judge from anywhere: what would make its scores wrong, with numbers.

The model is loaded the way others load it, by plain transformers, and a reward model by Assay too. The reference
is row by row without padding, read at the last token (an encoder: as it reads itself).
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
from classic_rm.doctor.loaded_model import Finding, Level, Patient, Refused, first_line, quiet
from classic_rm.doctor.rewards import check_assay, check_batch, check_dtype, check_head, check_place
from classic_rm.doctor.tokens import check_bos, check_pad, check_template, check_truncation
from classic_rm.doctor.weights import check_weights
from judges.catalog import find

__all__ = ["Finding", "Level", "examine"]

Check = Callable[[Patient], Iterator[Finding]]

# What is being looked at, and by which check. These need no weights, but measure more where they are there.
SHARED: tuple[tuple[str, Check], ...] = (
    ("chat template", check_template),
    ("BOS", check_bos),
    ("weights", check_weights),
)
TOKENS: tuple[tuple[str, Check], ...] = (("pad", check_pad), ("truncation", check_truncation), *SHARED)
# In this order: dtype leaves the weights in float32, and the last one frees them to load Assay's own.
REWARDS: tuple[tuple[str, Check], ...] = (
    ("the head", check_head),
    *TOKENS,
    ("where the reward is read", check_place),
    ("batch size and padding", check_batch),
    ("dtype and ties", check_dtype),
    ("Assay's own reading", check_assay),
)
JUDGE_TOKENS: tuple[tuple[str, Check], ...] = (("pad", check_judge_pad), ("context", check_context), *SHARED)
JUDGE: tuple[tuple[str, Check], ...] = (
    ("the head", check_loaded),
    *JUDGE_TOKENS,
    ("the end of a turn", check_end),
    ("the first token", check_first_token),
    ("dtype", check_judge_dtype),
)


def examine(model: str, remote_code: bool = False, doing: Callable[[str], None] = lambda _: None) -> Iterator[Finding]:
    """Findings about a folder, a hub name or an `embedded:` name, each as soon as it is measured.

    `doing` hears what is looked at next. Raises CannotRun where there is no model to examine.
    """
    doing("reading config and tokenizer")
    patient = Patient(model, remote_code)
    yield from _known(patient)
    try:
        _ = patient.rows
    except Refused as error:
        yield Finding("template", "fault", f"The chat template fails: {error}.", "Mend tokenizer.chat_template.")
        return
    doing("loading the weights")
    try:
        patient.load()
        with quiet():
            _ = patient.alone
    except Refused as error:
        where = "cannot load the weights" if patient.model is None else "loads it, but it does not run"
        yield Finding(
            "load",
            "fault",
            f"Plain transformers {where}: {error}.",
            "Install what it names, or run it as its authors do (--remote-code, where it is code of their own).",
        )
        patient.free()
    if patient.model is None:
        checks = JUDGE_TOKENS if patient.is_judge else TOKENS
    else:
        checks = JUDGE if patient.is_judge else REWARDS
    for what, check in checks:
        doing(what)
        yield from _checked(patient, what, check)
    patient.free()


def _checked(patient: Patient, what: str, check: Check) -> list[Finding]:
    try:
        with quiet():
            return list(check(patient))
    except Exception as error:  # one model's oddity in one check must not cost the others
        told = f"{type(error).__name__}: {first_line(error)}"
        return [
            Finding(what, "warning", f"This check itself failed ({told}).", "Report it to Assay with the model's name.")
        ]


def _known(patient: Patient) -> Iterator[Finding]:
    known = find(patient.name) or find(str(getattr(patient.config, "_name_or_path", "")))
    if known is None:
        return
    yield Finding(
        "known",
        "note" if known.supported else "warning",
        f"It is a known model, {known.name}, with {len(known.quirks)} quirks on file"
        + (f"; Assay does not do yet: {known.missing[0]}" if known.missing else "."),
        f"Score it with --scorer '{known.spec_for(patient.name)}', and read 'assay models show {known.name}'.",
    )
