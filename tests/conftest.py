"""What tests share: one real engine for the whole run, and the real data where it lies."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SHARED = Path(os.environ.get("ASSAY_DATA", ROOT.parent / "shared" / "data"))


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real judgments beside the project; never part of it."""
    if not SHARED.is_dir():
        pytest.skip(f"no real judgments at {SHARED} (set ASSAY_DATA)")
    return SHARED


@pytest.fixture(scope="session")
def vllm_engine() -> Iterator[object]:
    from judges.engines.shared import open_engine, release

    engine = open_engine("vllm", "embedded:smollm2-135m")
    yield engine
    release(engine)
