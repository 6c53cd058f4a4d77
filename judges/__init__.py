"""Assay's judges: one `Scorer` over classic reward models and LLM judges.

The distribution is called `assay`. An unrelated package on PyPI is also imported as `judges`.
"""

from judges.errors import CannotRun
from judges.scorer import Scorer, load_scorer
from judges.types import Failure, Gold, Item, Judgment, Scale, Scorecard, Usage

__version__ = "0.1.0"
__all__ = [
    "CannotRun",
    "Failure",
    "Gold",
    "Item",
    "Judgment",
    "Scale",
    "Scorecard",
    "Scorer",
    "Usage",
    "load_scorer",
]


def _notice_mix_up() -> None:
    # The other `judges` installs files into the same folder; whichever came last wins file by file.
    from importlib.metadata import PackageNotFoundError, version

    try:
        version("judges")
    except PackageNotFoundError:
        return
    raise ImportError(
        "the unrelated package 'judges' is installed beside Assay and shares its import name: "
        "run 'pip uninstall judges' and then 'pip install --force-reinstall --no-deps assay'"
    )


_notice_mix_up()
