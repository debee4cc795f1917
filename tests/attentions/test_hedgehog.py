"""Hedgehog with flat, drawn and spiky features, and what its state holds."""

import pytest
import torch
from torch import nn

from attentions.base import Pattern
from attentions.linear.hedgehog import HedgehogAttention
from tests.attentions.claims import build, draw, inputs
from tests.oracles.hedgehog import oracle


def hedgehog(pattern: Pattern) -> HedgehogAttention:
    attention = build("hedgehog", pattern)
    assert isinstance(attention, HedgehogAttention)
    return attention


@pytest.mark.parametrize("pattern", list(Pattern))
def test_drawn_maps_match_the_oracle(pattern: Pattern) -> None:
    # They start as the identity, which hides a transposed or an exchanged one.
    attention = hedgehog(pattern)
    nn.init.normal_(attention.q_map)
    nn.init.normal_(attention.k_map)
    query, context = inputs(pattern, 70)
    keys = query if context is None else context
    masks = (torch.zeros(x.shape[:2], dtype=torch.bool) for x in (query, keys))
    torch.testing.assert_close(attention(query, context), oracle(attention, query, keys, *masks))


@pytest.mark.parametrize("pattern", list(Pattern))
def test_weights_sum_to_one(pattern: Pattern) -> None:
    q, k = 5.0 * draw(0, 2, 2, 150, 8), 5.0 * draw(1, 2, 2, 150, 8)
    ones = torch.ones(2, 2, 150, 8, dtype=torch.float64)
    torch.testing.assert_close(hedgehog(pattern).mix(q, k, ones), ones)


@pytest.mark.parametrize("pattern", list(Pattern))
def test_flat_features_give_the_mean_of_the_values(pattern: Pattern) -> None:
    attention = hedgehog(pattern)
    nn.init.zeros_(attention.k_map)
    q, k, v = (draw(seed, 2, 2, 150, 8) for seed in range(3))
    expected = v.mean(dim=2, keepdim=True).expand_as(v)
    if pattern is Pattern.CAUSAL_SELF:
        expected = v.cumsum(dim=2) / torch.arange(1, 151)[:, None]
    torch.testing.assert_close(attention.mix(q, k, v), expected)


def test_spiky_features_attend_where_largest_or_smallest_feature_is_shared() -> None:
    attention = hedgehog(Pattern.NONCAUSAL_SELF)
    with torch.no_grad():
        attention.q_map.mul_(1e9)  # no two features of these are as near as 1e-8
        attention.k_map.mul_(1e9)
    q, k, v = (draw(seed, 2, 2, 150, 8) for seed in range(3))
    shared = torch.zeros(2, 2, 150, 150, dtype=torch.float64)
    for spike_q, spike_k in ((q.argmax(-1), k.argmax(-1)), (q.argmin(-1), k.argmin(-1))):
        shared += spike_q[..., :, None] == spike_k[..., None, :]
    expected = shared @ v / shared.sum(dim=-1, keepdim=True)
    # All else has features of 1e-12.
    torch.testing.assert_close(attention.mix(q, k, v), expected, rtol=1e-8, atol=1e-8)


def test_a_query_that_shares_no_spike_still_has_the_mean_in_float32() -> None:
    attention = hedgehog(Pattern.CAUSAL_SELF).float()
    q, k = torch.zeros(2, 1, 2, 150, 8)
    q[..., 0], q[..., 1] = 1e4, -1e4
    k[..., 2], k[..., 3] = 1e4, -1e4
    v = draw(0, 1, 2, 150, 8).float()
    expected = v.cumsum(dim=2) / torch.arange(1, 151)[:, None]
    torch.testing.assert_close(attention.mix(q, k, v), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("pattern", [Pattern.CAUSAL_SELF, Pattern.CAUSAL_CROSS])
def test_state_is_the_sums_and_their_normaliser(pattern: Pattern) -> None:
    attention = hedgehog(pattern)
    state = attention.init_state(3, draw(0, 3, 50, 16) if pattern.is_cross else None)
    _, state = attention.step(draw(1, 3, 1, 16), state)
    assert state.num_bytes == 3 * 2 * (2 * 8) * (8 + 1) * 8  # batch, heads, 2 D, D + 1, bytes


def test_eps_must_be_positive() -> None:
    with pytest.raises(ValueError, match=r"eps must be positive, got 0\.0"):
        build("hedgehog", Pattern.CAUSAL_SELF, eps=0.0)
