"""What tests share: one real engine for the whole run, tiny models, and the real data where it lies."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

if (
    "PYTEST_XDIST_WORKER" in os.environ
):  # a core for each worker: spinning threads of two would stand in each other's way
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", str(max(os.sched_getaffinity(0))))

ROOT = Path(__file__).parent.parent
SHARED = Path(os.environ.get("ASSAY_DATA", ROOT.parent / "shared" / "data"))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files that wait for a real engine come first, so that no worker is left alone with them at the end."""
    slow = {
        item.path
        for item in items
        if "vllm_engine" in getattr(item, "fixturenames", ()) or item.get_closest_marker("engine")
    }
    items.sort(key=lambda item: item.path not in slow)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real judgments beside the project; never part of it."""
    if not SHARED.is_dir():
        pytest.skip(f"no real judgments at {SHARED} (set ASSAY_DATA)")
    return SHARED


@pytest.fixture(scope="session")
def vllm_engine() -> Iterator[object]:
    from judges.engines.registry import open_engine, release

    engine = open_engine("vllm", "embedded:smollm2-135m")
    yield engine
    release(engine)


def _save_tiny(folder: Path, base: str, config) -> Path:
    import torch
    from transformers import AutoModel, AutoModelForCausalLM, AutoTokenizer

    from judges.engines.embedded import resolve_model

    tokenizer = AutoTokenizer.from_pretrained(resolve_model(base))
    config.vocab_size = len(tokenizer)
    config.pad_token_id, config.eos_token_id = tokenizer.pad_token_id, tokenizer.eos_token_id
    torch.manual_seed(0)
    kind = AutoModel if config.model_type == "bert" else AutoModelForCausalLM
    kind.from_config(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_decoder(tmp_path_factory) -> Path:
    from transformers import LlamaConfig

    config = LlamaConfig(
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
    )
    return _save_tiny(tmp_path_factory.mktemp("tiny") / "decoder", "embedded:smollm2-135m", config)


@pytest.fixture(scope="session")
def tiny_encoder(tmp_path_factory) -> Path:
    from transformers import BertConfig

    config = BertConfig(hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4)
    return _save_tiny(tmp_path_factory.mktemp("tiny") / "encoder", "embedded:minilm", config)
