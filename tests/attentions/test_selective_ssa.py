"""Selective attention where it is softmax, what its two temperatures do, and its state."""

import pytest
import torch

from attentions.base import Pattern
from attentions.softmax.selective_ssa import SelectiveAttention
from tests.attentions.claims import build, draw, inputs


def selective(pattern: Pattern, *, query_alpha: float, value_alpha: float) -> SelectiveAttention:
    """Without the terms of the tokens."""
    attention = build("selective_ssa", pattern)
    assert isinstance(attention, SelectiveAttention)
    with torch.no_grad():
        attention.query_token.zero_()
        attention.value_token.zero_()
        attention.query_alpha.fill_(query_alpha)
        attention.value_alpha.fill_(value_alpha)
    return attention


@pytest.mark.parametrize("pattern", list(Pattern))
def test_at_temperatures_of_one_it_is_softmax(pattern: Pattern) -> None:
    attention = selective(pattern, query_alpha=-100.0, value_alpha=-100.0)
    softmax = build("softmax", pattern)
    softmax.load_state_dict(attention.state_dict(), strict=False)
    query, context = inputs(pattern, 20)
    torch.testing.assert_close(attention(query, context), softmax(query, context))


@pytest.mark.parametrize("pattern", list(Pattern))
def test_logits_grow_with_the_logarithm_of_the_querys_position(pattern: Pattern) -> None:
    attention = selective(pattern, query_alpha=100.0, value_alpha=-100.0)
    q, k = draw(0, 2, 2, 9, 8), draw(1, 2, 2, 9, 8)
    one_hot = torch.eye(9, dtype=torch.float64)[:, :8].expand(2, 2, -1, -1)
    growth = 1 + torch.arange(1, 10, dtype=torch.float64).log()[:, None]
    logits = growth * (q @ k.mT) / 8**0.5
    if pattern is Pattern.CAUSAL_SELF:
        logits = logits.masked_fill(torch.ones(9, 9).triu(1).bool(), -torch.inf)
    expected = logits.softmax(dim=-1)[..., :8]
    torch.testing.assert_close(attention.mix(q, k, one_hot), expected)


def test_the_value_temperature_belongs_to_the_value_and_not_to_the_output() -> None:
    # One that multiplies the output, as in a third-party version, would give 1 + log t at t.
    attention = selective(Pattern.CAUSAL_SELF, query_alpha=-100.0, value_alpha=100.0)
    zeros, ones = (f(1, 2, 9, 8, dtype=torch.float64) for f in (torch.zeros, torch.ones))
    growth = 1 + torch.arange(1, 10, dtype=torch.float64).log()
    expected = growth.cumsum(dim=0) / torch.arange(1, 10)
    actual = attention.mix(zeros, zeros, ones)
    torch.testing.assert_close(actual, expected[:, None].expand(1, 2, 9, 8))


def test_temperatures_of_tokens_lie_between_zero_and_two() -> None:
    attention = selective(Pattern.NONCAUSAL_CROSS, query_alpha=-100.0, value_alpha=-100.0)
    with torch.no_grad():
        attention.value_token.fill_(100.0)
    q = draw(0, 1, 2, 3, 8)
    for sign, factor in ((1.0, 2.0), (-1.0, 0.0)):
        v = torch.full((1, 2, 5, 8), sign, dtype=torch.float64)
        expected = (factor * v[:, :, :1]).expand(-1, -1, 3, -1)
        torch.testing.assert_close(attention.mix(q, v, v), expected)


def test_it_starts_near_softmax_with_few_parameters() -> None:
    attention = SelectiveAttention(512, 8, Pattern.CAUSAL_SELF)
    softmax = build("softmax", Pattern.CAUSAL_SELF, embed_dim=512, num_heads=8)
    ours, theirs = (sum(p.numel() for p in m.parameters()) for m in (attention, softmax))
    assert ours - theirs == 2 * 512 + 2  # 0.1 %; the paper has less than 0.5 %
    assert attention.query_alpha.sigmoid().item() == pytest.approx(0.011, abs=1e-3)


def test_the_state_is_keys_and_values() -> None:
    attention = build("selective_ssa", Pattern.CAUSAL_SELF)
    _, state = attention.prefill(draw(0, 3, 50, 16), attention.init_state(3))
    assert state.num_bytes == 2 * 3 * 50 * 16 * 8  # k and v, batch, length, embed_dim, float64
