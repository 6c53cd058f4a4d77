"""Generated text to a score, a label, or a `Failure` that says why there is none."""

from judges.extraction.verdict import (
    Reading,
    extract_score,
    read_json_label,
    read_json_score,
    read_label,
    read_score,
)

__all__ = ["Reading", "extract_score", "read_json_label", "read_json_score", "read_label", "read_score"]
