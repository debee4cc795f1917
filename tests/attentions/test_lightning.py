"""Lightning attention where its decay vanishes, its decays, and what its state holds."""

import pytest
import torch
import torch.nn.functional as F

from attentions.base import Pattern
from attentions.linear.lightning import LightningAttention
from tests.attentions.claims import build, draw


def lightning(pattern: Pattern, **settings: float) -> LightningAttention:
    attention = build("lightning", pattern, **settings)
    assert isinstance(attention, LightningAttention)
    return attention


@pytest.mark.parametrize("pattern", list(Pattern))
def test_without_decay_it_is_linear_attention(pattern: Pattern) -> None:
    q, gate, k, v = (draw(seed, 2, 2, 150, 8) for seed in range(4))
    scores = F.silu(q) @ F.silu(k).mT
    if pattern is Pattern.CAUSAL_SELF:
        scores = scores.tril()
    merged = (scores @ v).transpose(1, 2).flatten(-2)
    normed = F.rms_norm(merged, (16,), eps=1e-6).unflatten(-1, (2, 8)).transpose(1, 2)
    actual = lightning(pattern, fastest=0.0).mix(torch.cat([q, gate], dim=1), k, v)
    torch.testing.assert_close(actual, normed * gate)


def test_the_first_head_remembers_and_the_second_decays_by_exp_minus_4() -> None:
    # Constant queries and keys, and values that tell the first position from the second.
    ones = torch.ones(1, 2, 3, 8, dtype=torch.float64)
    v = torch.zeros_like(ones)
    v[:, :, 0, 0] = v[:, :, 1, 1] = 1.0
    attention = lightning(Pattern.CAUSAL_SELF)
    out = attention.mix(torch.cat([ones, ones], dim=1), ones, v)[0, :, 2]
    ratio = out[:, 0] / out[:, 1]  # the norm cancels
    expected = torch.tensor([0.0, -8.0 / 2], dtype=torch.float64).exp()
    torch.testing.assert_close(ratio, expected)


def test_blocks_do_not_lose_what_decays_beyond_the_range_of_exp() -> None:
    # exp(-4 * 64) is zero in float32: over a chunk only differences of exponents are usable.
    attention = lightning(Pattern.CAUSAL_SELF)
    q, gate, k, v = (draw(seed, 1, 2, 200, 8) for seed in range(4))
    expected = attention.mix(torch.cat([q, gate], dim=1), k, v)
    q, gate, k, v = (x.float() for x in (q, gate, k, v))
    actual = attention.mix(torch.cat([q, gate], dim=1), k, v)
    # Sums of up to 200 terms, each rounded to 1e-7 of numbers of order one.
    torch.testing.assert_close(actual.double(), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("pattern", [Pattern.CAUSAL_SELF, Pattern.NONCAUSAL_SELF])
def test_only_distances_count(pattern: Pattern) -> None:
    attention = lightning(pattern)
    query, front = draw(0, 2, 70, 16), draw(1, 2, 13, 16)
    mask = (torch.arange(83) < 13).expand(2, -1)
    shifted = attention(torch.cat([front, query], dim=1), key_padding_mask=mask)
    torch.testing.assert_close(shifted[:, 13:], attention(query))


def test_the_last_causal_query_answers_as_in_the_cross_pattern() -> None:
    causal, cross = lightning(Pattern.CAUSAL_SELF), lightning(Pattern.CAUSAL_CROSS)
    cross.load_state_dict(causal.state_dict())
    query = draw(0, 2, 70, 16)
    torch.testing.assert_close(cross(query[:, -1:], query), causal(query)[:, -1:])


@pytest.mark.parametrize("pattern", [Pattern.CAUSAL_SELF, Pattern.CAUSAL_CROSS])
def test_state_is_one_matrix_per_head(pattern: Pattern) -> None:
    attention = lightning(pattern)
    state = attention.init_state(3, draw(0, 3, 50, 16) if pattern.is_cross else None)
    _, state = attention.step(draw(1, 3, 1, 16), state)
    assert state.num_bytes == 3 * 2 * 8 * 8 * 8  # batch, heads, D, D, bytes


def test_decay_must_not_grow() -> None:
    with pytest.raises(ValueError, match=r"fastest must not be negative, got -1\.0"):
        lightning(Pattern.CAUSAL_SELF, fastest=-1.0)
