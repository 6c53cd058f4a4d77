"""Models small enough to train within a test: random weights, a real tokenizer and chat template."""

from __future__ import annotations

from pathlib import Path

import pytest


def _save(folder: Path, base: str, config) -> Path:
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
    return _save(tmp_path_factory.mktemp("tiny") / "decoder", "embedded:smollm2-135m", config)


@pytest.fixture(scope="session")
def tiny_encoder(tmp_path_factory) -> Path:
    from transformers import BertConfig

    config = BertConfig(hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4)
    return _save(tmp_path_factory.mktemp("tiny") / "encoder", "embedded:minilm", config)
