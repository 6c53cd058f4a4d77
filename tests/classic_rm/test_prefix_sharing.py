"""Rewards and gradients of packed rows are those of the plain way."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from classic_rm.model import RewardNetwork, begin, pad_rows
from classic_rm.prefix_sharing import ATTENTION, Layout, Row, allow_sharing, pack, share, visible
from classic_rm.settings import Start

ids = st.lists(st.integers(0, 5), min_size=1, max_size=12)


@given(st.lists(ids, min_size=1, max_size=5))
def test_sharing_loses_nothing(responses):
    row = share(responses)
    assert [[*row.prefix, *suffix] for suffix in row.suffixes] == responses
    assert all(row.suffixes)
    assert row.tokens <= sum(map(len, responses))


@given(st.lists(st.lists(ids, min_size=1, max_size=3), min_size=1, max_size=4))
def test_a_packed_batch_holds_each_response_at_the_positions_it_would_have_alone(groups):
    batch = pack([share(group) for group in groups])
    tokens, positions = batch["input_ids"][0].tolist(), batch["position_ids"][0].tolist()
    segments = batch["segments"].tolist()
    for (begin_, end, start, stop), response in zip(segments, [r for g in groups for r in g], strict=True):
        assert tokens[begin_:end] + tokens[start:stop] == response
        assert positions[begin_:end] + positions[start:stop] == list(range(len(response)))


@settings(deadline=None, max_examples=30)
@given(st.lists(st.lists(ids, min_size=1, max_size=3), min_size=1, max_size=3))
def test_flex_attention_sees_what_the_segments_say(groups):
    batch = pack([share(group) for group in groups])
    segments, size = [tuple(s) for s in batch["segments"].tolist()], batch["input_ids"].shape[1]
    mod = visible(segments, size, torch.device("cpu"))
    places = torch.arange(size)
    seen = mod(0, 0, places[:, None], places[None, :])
    for begin_, end, start, stop in segments:
        for place in range(start, stop):
            expected = set(range(begin_, end)) | set(range(start, place + 1))
            assert set(seen[place].nonzero().flatten().tolist()) == expected
        for place in range(begin_, end):
            assert set(seen[place].nonzero().flatten().tolist()) == set(range(begin_, place + 1))


def test_flex_attention_gives_what_sdpa_gives():
    from torch.nn.attention.flex_attention import flex_attention

    from classic_rm.prefix_sharing import shared_prefix_attention

    rows = [Row([1] * 7, [[2] * 3, [3] * 5]), Row([], [[4] * 4]), Row([5] * 2, [[6]] * 4)]
    batch = pack(rows)
    size = batch["input_ids"].shape[1]
    torch.manual_seed(0)
    query, key, value = torch.randn(1, 4, size, 16), torch.randn(1, 2, size, 16), torch.randn(1, 2, size, 16)
    layout = Layout(batch["segments"], size)
    ours, _ = shared_prefix_attention(None, query, key, value, None, layout=layout)
    flex = flex_attention(query, key, value, block_mask=layout.block_mask(torch.device("cpu")), enable_gqa=True)
    assert torch.allclose(ours.transpose(1, 2), flex, atol=1e-5)


@pytest.mark.parametrize("checkpointing", [False, True])
def test_rewards_and_gradients_equal_the_plain_way(tiny_decoder, checkpointing):
    model, tokenizer = begin(Start(base=str(tiny_decoder), dropout=0.0))
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

    expected, plain = gradients(pad_rows(flat, tokenizer.pad_token_id))
    left, _ = gradients(pad_rows(flat, tokenizer.pad_token_id, "left"))
    assert allow_sharing(model, 512) is None and model.config._attn_implementation == ATTENTION
    told, packed = gradients(pack([share(group) for group in groups]))
    assert torch.allclose(told, expected, atol=1e-5) and torch.allclose(left, expected, atol=1e-5)
    assert plain.keys() == packed.keys()
    for name in plain:
        assert torch.allclose(plain[name], packed[name], atol=1e-4), name


def test_a_packed_model_still_reads_padded_rows(tiny_decoder):
    model, tokenizer = begin(Start(base=str(tiny_decoder), dropout=0.0))
    network = RewardNetwork(model).eval()
    batch = pad_rows([[5, 6, 7], [8, 9, 10, 11, 12]], tokenizer.pad_token_id)
    with torch.no_grad():
        before = network(**batch)[0]
        allow_sharing(model, 512)
        assert torch.allclose(network(**batch)[0], before, atol=1e-6)


def test_a_window_that_cuts_the_prompt_off_is_not_shared(tiny_decoder):
    model, _ = begin(Start(base=str(tiny_decoder)))
    model.config.sliding_window = 100
    before = model.config._attn_implementation
    assert "100 tokens back" in allow_sharing(model, 512)
    assert model.config._attn_implementation == before


def test_attention_that_does_more_than_ours_is_not_shared(tiny_decoder):
    model, _ = begin(Start(base=str(tiny_decoder)))
    forward = model.model.forward
    model.model.forward = lambda *given, **named: forward(*given, softcap=50.0, **named)
    assert "softcap" in allow_sharing(model, 512)


def test_a_model_that_ignores_the_layout_is_left_as_it_was(tiny_decoder):
    model, _ = begin(Start(base=str(tiny_decoder)))
    forward = model.model.forward
    model.model.forward = lambda *given, layout=None, **named: forward(*given, **named)
    before = model.config._attn_implementation
    assert "differ" in allow_sharing(model, 512)
    assert model.config._attn_implementation == before
