"""Retention where its rotation and its decay vanish, and what its state holds."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from attentions.base import Pattern
from attentions.linear.retention import RetentionAttention
from tests.attentions.claims import build, draw

NO_DECAY = 60.0
"""1 - 2^-60 is 1 in float64."""


def retention(pattern: Pattern, **settings: float | None) -> RetentionAttention:
    attention = build("retention", pattern, **settings)
    assert isinstance(attention, RetentionAttention)
    return attention


def normed_and_gated(mixed: Tensor, gate: Tensor) -> Tensor:
    return mixed / (mixed.square().mean(dim=-1, keepdim=True) + 1e-6).sqrt() * F.silu(gate)


@pytest.mark.parametrize("pattern", list(Pattern))
def test_without_decay_and_rotation_it_is_linear_attention(pattern: Pattern) -> None:
    attention = retention(pattern, value_expansion=1, first_exponent=NO_DECAY, rotary_base=None)
    q, gate, k, v = (draw(seed, 2, 2, 150, 8) for seed in range(4))
    scores = q @ k.mT / 8**0.5
    if pattern is Pattern.CAUSAL_SELF:
        scores = scores.tril()
    actual = attention.mix(torch.cat([q, gate], dim=1), k, v)
    torch.testing.assert_close(actual, normed_and_gated(scores @ v, gate))


def test_heads_forget_by_one_in_32_and_then_half_as_much() -> None:
    attention = retention(Pattern.CAUSAL_SELF, value_expansion=1, rotary_base=None)
    # Constant queries and keys, and values that tell the first position from the rest.
    ones = torch.ones(1, 2, 3, 8, dtype=torch.float64)
    v = torch.zeros_like(ones)
    v[:, :, 0, 0] = v[:, :, 1, 1] = 1.0
    out = attention.mix(torch.cat([ones, ones], dim=1), ones, v)[0, :, 2]
    ratio = out[:, 0] / out[:, 1]  # the norm and the gate cancel
    torch.testing.assert_close(ratio, torch.tensor([31 / 32, 63 / 64], dtype=torch.float64))


@pytest.mark.parametrize("pattern", [Pattern.CAUSAL_SELF, Pattern.NONCAUSAL_SELF])
def test_only_distances_count(pattern: Pattern) -> None:
    # Positions that do not count, in front: rotation and decay must depend on differences alone.
    attention = retention(pattern)
    query, front = draw(0, 2, 70, 16), draw(1, 2, 13, 16)
    mask = (torch.arange(83) < 13).expand(2, -1)
    shifted = attention(torch.cat([front, query], dim=1), key_padding_mask=mask)
    torch.testing.assert_close(shifted[:, 13:], attention(query))


def test_noncausal_treats_both_directions_alike() -> None:
    attention = retention(Pattern.NONCAUSAL_SELF, rotary_base=None)
    query = draw(0, 2, 70, 16)
    torch.testing.assert_close(attention(query.flip(1)).flip(1), attention(query))


def test_the_last_causal_query_answers_as_in_the_cross_pattern() -> None:
    # It reads the state of the whole sequence, on whose last position it stands.
    causal, cross = retention(Pattern.CAUSAL_SELF), retention(Pattern.CAUSAL_CROSS)
    cross.load_state_dict(causal.state_dict())
    query = draw(0, 2, 70, 16)
    torch.testing.assert_close(cross(query[:, -1:], query), causal(query)[:, -1:])


@pytest.mark.parametrize("pattern", [Pattern.CAUSAL_SELF, Pattern.CAUSAL_CROSS])
def test_state_is_one_matrix_per_head(pattern: Pattern) -> None:
    attention = retention(pattern)
    state = attention.init_state(3, draw(0, 3, 50, 16) if pattern.is_cross else None)
    _, state = attention.step(draw(1, 3, 1, 16), state)
    assert state.num_bytes == 3 * 2 * 8 * (2 * 8) * 8  # batch, heads, D, 2 D, bytes


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"value_expansion": 0}, "value_expansion must be positive, got 0"),
        ({"first_exponent": 0.0}, "first_exponent must be positive, got 0.0"),
        ({"rotary_base": 0.0}, "rotary_base must be positive or null, got 0.0"),
    ],
)
def test_bad_settings_are_refused(settings: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        retention(Pattern.CAUSAL_SELF, **settings)


def test_rotation_needs_pairs() -> None:
    with pytest.raises(ValueError, match="rotation needs an even head_dim, got 3"):
        RetentionAttention(6, 2, Pattern.CAUSAL_SELF)
    RetentionAttention(6, 2, Pattern.CAUSAL_SELF, rotary_base=None)
