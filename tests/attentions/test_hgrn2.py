"""HGRN2 beside gated linear attention, at its gates' limits, and what its state holds."""

import math

import pytest
import torch
import torch.nn.functional as F

from attentions import registry
from attentions.base import Pattern
from attentions.recurrent.gla import GatedLinearAttention
from attentions.recurrent.hgrn2 import Hgrn2Attention
from tasks.backbones.gpt2 import Gpt2
from tasks.base import AttentionSlots
from tests.attentions.claims import build, draw, inputs


def hgrn2(pattern: Pattern, **settings: float | None) -> Hgrn2Attention:
    attention = build("hgrn2", pattern, **settings)
    assert isinstance(attention, Hgrn2Attention)
    return attention


@pytest.mark.parametrize("pattern", [Pattern.CAUSAL_SELF, Pattern.CAUSAL_CROSS])
def test_it_is_gla_with_keys_of_one_minus_the_gate(pattern: Pattern) -> None:
    gla = build("gla", pattern, key_expansion=1.0, gate_temperature=1.0, eps=0.0)
    assert isinstance(gla, GatedLinearAttention)
    attention = hgrn2(pattern, lower_bound=0.0, eps=0.0)
    q, f, v = (draw(seed, 2, 2, 150, 8) for seed in range(3))
    # An output gate that is the same everywhere. What is left differs by the norm alone.
    gate = torch.full_like(v, 60.0)
    theirs = gla.mix(torch.cat([F.silu(q), gate], -1), torch.cat([1 - f.sigmoid(), f], -1), v)
    ours = attention.mix(q, f, v)
    torch.testing.assert_close(F.normalize(ours, dim=-1), F.normalize(theirs, dim=-1))


def test_one_head_of_one_feature_is_the_exponential_average() -> None:
    # (1 - g) v + g h: with a constant gate the weights are (1 - g) g^(i - j).
    attention = Hgrn2Attention(2, 1, Pattern.CAUSAL_SELF, lower_bound=0.0).double()
    v = draw(0, 1, 1, 90, 2)
    ones = torch.ones_like(v)
    state = attention.absorb({}, math.log(3) * ones, v)["state"]  # sigmoid(log 3) = 3/4
    weights = 0.25 * 0.75 ** torch.arange(89, -1, -1, dtype=torch.float64)
    torch.testing.assert_close(state[0, 0], (weights @ v[0, 0]).expand(2, -1))


@pytest.mark.parametrize("pattern", list(Pattern))
def test_with_a_lower_bound_near_one_it_is_linear_attention(pattern: Pattern) -> None:
    attention = hgrn2(pattern, lower_bound=1 - 1e-12, eps=0.0)
    q, f, v = (draw(seed, 2, 2, 100, 8) for seed in range(3))
    scores = F.silu(q) @ (-f).sigmoid().mT  # the keys share the factor of 1e-12
    if pattern is Pattern.CAUSAL_SELF:
        scores = scores.tril()
    if pattern is Pattern.NONCAUSAL_SELF:
        scores = scores + scores.diagonal(dim1=-2, dim2=-1).diag_embed()
    mixed = scores @ v
    expected = mixed / mixed.square().mean(dim=(1, 3), keepdim=True).sqrt()
    torch.testing.assert_close(attention.mix(q, f, v), expected)


@pytest.mark.parametrize("bound", [0.0, 0.5])
def test_shut_gates_give_finite_gradients_in_float32(bound: float) -> None:
    attention = hgrn2(Pattern.CAUSAL_SELF, lower_bound=bound).float()
    q, f, v = (draw(seed, 1, 2, 100, 8).float() for seed in range(3))
    f = (1e4 * f).requires_grad_()  # sigmoid(-1e4) is 0: its logarithm would be -inf
    output = attention.mix(q, f, v)
    (gradient,) = torch.autograd.grad(output.square().sum(), f)
    assert output.isfinite().all()
    assert gradient.isfinite().all()


@pytest.mark.parametrize("pattern", [Pattern.CAUSAL_SELF, Pattern.NONCAUSAL_SELF])
def test_a_padded_position_is_as_if_it_were_not_there(pattern: Pattern) -> None:
    attention = hgrn2(pattern)
    query, _ = inputs(pattern, 80)
    padded = torch.arange(80) % 5 == 2
    output = attention(query, key_padding_mask=padded.expand(2, -1))[:, ~padded]
    torch.testing.assert_close(output, attention(query[:, ~padded]))


@pytest.mark.parametrize("pattern", [Pattern.CAUSAL_SELF, Pattern.CAUSAL_CROSS])
def test_state_is_one_square_matrix_per_head(pattern: Pattern) -> None:
    attention = hgrn2(pattern)
    state = attention.init_state(3, draw(0, 3, 50, 16) if pattern.is_cross else None)
    _, state = attention.step(draw(1, 3, 1, 16), state)
    assert state.num_bytes == 3 * 2 * 8 * 8 * 8  # batch, heads, D, D, bytes


def test_bounds_start_at_the_share_of_the_layers_below() -> None:
    slots = AttentionSlots(registry.factory(registry.load("hgrn2")), Pattern.CAUSAL_SELF)
    Gpt2(slots, 11, max_len=10, embed_dim=8, num_heads=2, ffn_dim=8, num_layers=4)
    first, *later = slots.under_test
    assert "shift" not in dict(first.named_parameters())
    for layer, attention in enumerate([first, *later]):
        assert isinstance(attention, Hgrn2Attention)
        shut = torch.full((1, 2, 3, 4), -1e3)
        k, log_decay = attention._keys_and_decay(shut, None)
        torch.testing.assert_close(log_decay.exp(), torch.full_like(k, layer / 4))
        torch.testing.assert_close(k, torch.full_like(k, 1 - layer / 4))


def test_a_place_of_unknown_depth_has_no_bound() -> None:
    assert hgrn2(Pattern.CAUSAL_SELF, lower_bound=None, layer=3).shift is None


@pytest.mark.parametrize("bound", [-0.1, 1.0])
def test_lower_bound_must_be_a_share(bound: float) -> None:
    with pytest.raises(ValueError, match=rf"lower_bound must be in \[0, 1\), got {bound}"):
        hgrn2(Pattern.CAUSAL_SELF, lower_bound=bound)
