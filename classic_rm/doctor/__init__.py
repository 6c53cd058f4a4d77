"""Doctor checks: examine a reward model or judge for defects that make its scores wrong, with measurements.

Names are imported when they are first used, since the checks need torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from classic_rm.doctor.examination import examine
    from classic_rm.doctor.loaded_model import Finding, Level

_MODULES = {
    "Finding": "loaded_model",
    "Level": "loaded_model",
    "examine": "examination",
}
__all__ = [
    "Finding",
    "Level",
    "examine",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
