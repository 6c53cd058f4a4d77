"""Rewards and gradients of packed batches equal those of padded rows."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from classic_rm.model import RewardNetwork, initialise_model, pad_rows
from classic_rm.prefix_sharing import (
    ATTENTION,
    PackedLayout,
    PrefixGroup,
    enable_prefix_sharing,
    pack,
    packed_mask_mod,
    split_prefix,
)
from classic_rm.settings import ModelSettings

ids = st.lists(st.integers(0, 5), min_size=1, max_size=12)


@given(st.lists(ids, min_size=1, max_size=5))
def test_sharing_loses_nothing(responses):
    row = split_prefix(responses)
    assert [[*row.prefix, *suffix] for suffix in row.suffixes] == responses
    assert all(row.suffixes)
    assert row.tokens <= sum(map(len, responses))


@given(st.lists(st.lists(ids, min_size=1, max_size=3), min_size=1, max_size=4))
def test_a_packed_batch_holds_each_response_at_the_positions_it_would_have_alone(groups):
    batch = pack([split_prefix(group) for group in groups])
    tokens, positions = batch["input_ids"][0].tolist(), batch["position_ids"][0].tolist()
    segments = batch["segments"].tolist()
    for (first, end, start, stop), response in zip(segments, [r for g in groups for r in g], strict=True):
        assert tokens[first:end] + tokens[start:stop] == response
        assert positions[first:end] + positions[start:stop] == list(range(len(response)))


@settings(deadline=None, max_examples=30)
@given(st.lists(st.lists(ids, min_size=1, max_size=3), min_size=1, max_size=3))
def test_flex_attention_sees_what_the_segments_say(groups):
    batch = pack([split_prefix(group) for group in groups])
    segments, size = [tuple(s) for s in batch["segments"].tolist()], batch["input_ids"].shape[1]
    mod = packed_mask_mod(segments, size, torch.device("cpu"))
    indices = torch.arange(size)
    seen = mod(0, 0, indices[:, None], indices[None, :])
    for first, end, start, stop in segments:
        for index in range(start, stop):
            expected = set(range(first, end)) | set(range(start, index + 1))
            assert set(seen[index].nonzero().flatten().tolist()) == expected
        for index in range(first, end):
            assert set(seen[index].nonzero().flatten().tolist()) == set(range(first, index + 1))


def test_flex_attention_gives_what_sdpa_gives():
    from torch.nn.attention.flex_attention import flex_attention

    from classic_rm.prefix_sharing import shared_prefix_attention

    rows = [PrefixGroup([1] * 7, [[2] * 3, [3] * 5]), PrefixGroup([], [[4] * 4]), PrefixGroup([5] * 2, [[6]] * 4)]
    batch = pack(rows)
    size = batch["input_ids"].shape[1]
    torch.manual_seed(0)
    query, key, value = torch.randn(1, 4, size, 16), torch.randn(1, 2, size, 16), torch.randn(1, 2, size, 16)
    layout = PackedLayout(batch["segments"], size)
    output, _ = shared_prefix_attention(None, query, key, value, None, layout=layout)
    flex = flex_attention(query, key, value, block_mask=layout.block_mask(torch.device("cpu")), enable_gqa=True)
    assert torch.allclose(output.transpose(1, 2), flex, atol=1e-5)


@pytest.mark.parametrize("checkpointing", [False, True])
def test_rewards_and_gradients_equal_those_of_padded_rows(tiny_decoder, checkpointing):
    model, tokenizer = initialise_model(ModelSettings(base=str(tiny_decoder), dropout=0.0))
    network = RewardNetwork(model).train()
    if checkpointing:
        network.gradient_checkpointing_enable()
    draw = torch.Generator().manual_seed(0)

    def some(count):
        return torch.randint(0, 1000, (count,), generator=draw).tolist()

    groups = [[some(9) + some(k) for k in (3, 1, 7)], [some(4), some(6)], [some(5)]]
    beginning = some(11)
    groups.append([beginning + some(4), beginning + some(20)])
    flat = [response for group in groups for response in group]
    weights = torch.linspace(-1, 2, len(flat))

    def gradients(batch):
        network.zero_grad()
        rewards = network(**batch)[0][:, 0]
        (rewards * weights).sum().backward()
        return rewards.detach(), {name: p.grad.clone() for name, p in network.named_parameters() if p.grad is not None}

    expected, padded = gradients(pad_rows(flat, tokenizer.pad_token_id))
    left, _ = gradients(pad_rows(flat, tokenizer.pad_token_id, "left"))
    assert enable_prefix_sharing(model, 512) is None and model.config._attn_implementation == ATTENTION
    shared, packed = gradients(pack([split_prefix(group) for group in groups]))
    assert torch.allclose(shared, expected, atol=1e-5) and torch.allclose(left, expected, atol=1e-5)
    assert padded.keys() == packed.keys()
    for name in padded:
        assert torch.allclose(padded[name], packed[name], atol=1e-4), name


def test_a_packed_model_still_reads_padded_rows(tiny_decoder):
    model, tokenizer = initialise_model(ModelSettings(base=str(tiny_decoder), dropout=0.0))
    network = RewardNetwork(model).eval()
    batch = pad_rows([[5, 6, 7], [8, 9, 10, 11, 12]], tokenizer.pad_token_id)
    with torch.no_grad():
        before = network(**batch)[0]
        enable_prefix_sharing(model, 512)
        assert torch.allclose(network(**batch)[0], before, atol=1e-6)


def test_a_window_that_cuts_the_prompt_off_is_not_shared(tiny_decoder):
    model, _ = initialise_model(ModelSettings(base=str(tiny_decoder)))
    model.config.sliding_window = 100
    before = model.config._attn_implementation
    assert "100 tokens back" in enable_prefix_sharing(model, 512)
    assert model.config._attn_implementation == before


def test_an_unsupported_attention_feature_is_not_shared(tiny_decoder):
    model, _ = initialise_model(ModelSettings(base=str(tiny_decoder)))
    forward = model.model.forward
    model.model.forward = lambda *given, **named: forward(*given, softcap=50.0, **named)
    assert "softcap" in enable_prefix_sharing(model, 512)


def test_a_model_that_ignores_the_layout_is_unchanged(tiny_decoder):
    model, _ = initialise_model(ModelSettings(base=str(tiny_decoder)))
    forward = model.model.forward
    model.model.forward = lambda *given, layout=None, **named: forward(*given, **named)
    before = model.config._attn_implementation
    assert "differ" in enable_prefix_sharing(model, 512)
    assert model.config._attn_implementation == before
