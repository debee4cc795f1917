"""Relative attention without its distances, what it takes distances from, and its state."""

import pytest
import torch

from attentions.base import Pattern, UnsupportedPattern
from attentions.softmax.rel_mha import RelativeAttention
from tests.attentions.claims import build, draw

CLAIMED = sorted(RelativeAttention.patterns)


def relative(pattern: Pattern) -> RelativeAttention:
    attention = build("rel_mha", pattern)
    assert isinstance(attention, RelativeAttention)
    return attention


@pytest.mark.parametrize("pattern", CLAIMED)
def test_without_distances_and_biases_it_is_softmax(pattern: Pattern) -> None:
    attention, softmax = relative(pattern), build("softmax", pattern)
    softmax.load_state_dict(attention.state_dict(), strict=False)
    with torch.no_grad():
        attention.distance_proj.weight.zero_()
        attention.content_bias.zero_()
    query = draw(0, 2, 20, 16)
    torch.testing.assert_close(attention(query), softmax(query))


@pytest.mark.parametrize("pattern", CLAIMED)
def test_only_distances_count(pattern: Pattern) -> None:
    # Positions that do not count, in front: what is left must not feel where it stands.
    attention = relative(pattern)
    query, front = draw(0, 2, 20, 16), draw(1, 2, 13, 16)
    mask = (torch.arange(33) < 13).expand(2, -1)
    shifted = attention(torch.cat([front, query], dim=1), key_padding_mask=mask)
    torch.testing.assert_close(shifted[:, 13:], attention(query))


@pytest.mark.parametrize("pattern", CLAIMED)
def test_the_distance_bias_alone_weighs_by_distance(pattern: Pattern) -> None:
    # Without content, W_R takes the first of the sines, whose wave is sin(i - j).
    attention = relative(pattern)
    with torch.no_grad():
        attention.content_bias.zero_()
        attention.distance_bias.fill_(8**0.5)
        attention.distance_proj.weight.zero_()
        attention.distance_proj.weight[::8, 0] = 1.0  # the first dimension of both heads
    v = draw(0, 1, 2, 9, 8)
    zeros = torch.zeros_like(v)
    i = torch.arange(9, dtype=torch.float64)
    weights = (i[:, None] - i).sin().exp()
    if pattern is Pattern.CAUSAL_SELF:
        weights = weights.tril()
    expected = weights / weights.sum(dim=-1, keepdim=True) @ v
    torch.testing.assert_close(attention.mix(zeros, zeros, v), expected)


def test_the_state_is_keys_and_values() -> None:
    attention = relative(Pattern.CAUSAL_SELF)
    _, state = attention.prefill(draw(0, 3, 50, 16), attention.init_state(3))
    assert state.num_bytes == 2 * 3 * 50 * 16 * 8  # k and v, batch, length, embed_dim, float64


def test_cross_is_refused_with_the_reason() -> None:
    with pytest.raises(UnsupportedPattern, match="there is no distance between positions of two"):
        relative(Pattern.NONCAUSAL_CROSS)


def test_sines_and_cosines_need_pairs() -> None:
    with pytest.raises(ValueError, match="sines and cosines need an even embed_dim, got 9"):
        RelativeAttention(9, 3, Pattern.CAUSAL_SELF)
