"""Reads and writes files of rows, converts rows to Items, and filters preference data."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from judges.data.items import to_item
    from judges.data.quality import Filters, Removal, find_removals
    from judges.data.readers import RecordReader
    from judges.data.rows import Row, read_rows
    from judges.data.similarity import EmbeddingIndex, RougeIndex
    from judges.data.writers import write_rows

_MODULES = {
    "EmbeddingIndex": "similarity",
    "Filters": "quality",
    "RecordReader": "readers",
    "Removal": "quality",
    "RougeIndex": "similarity",
    "Row": "rows",
    "find_removals": "quality",
    "read_rows": "rows",
    "to_item": "items",
    "write_rows": "writers",
}

__all__ = [
    "EmbeddingIndex",
    "Filters",
    "RecordReader",
    "Removal",
    "RougeIndex",
    "Row",
    "find_removals",
    "read_rows",
    "to_item",
    "write_rows",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
