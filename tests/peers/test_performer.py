"""Performer beside performer-pytorch, with the same random features."""

import pytest
import torch
from torch import Tensor

from attentions.base import Pattern
from attentions.linear.performer import PerformerAttention
from tests.attentions.claims import build, draw
from tests.peers import peer

performer = peer("performer_pytorch.performer_pytorch")


def ours(pattern: Pattern, **settings: float) -> PerformerAttention:
    attention = build("performer", pattern, num_features=20, **settings)
    assert isinstance(attention, PerformerAttention)
    attention.features[1:] = attention.features[0]  # one matrix for all heads, as there
    return attention


def theirs(
    attention: PerformerAttention, q: Tensor, k: Tensor, v: Tensor, eps: float = 1e-4
) -> Tensor:
    def phi(x: Tensor, is_query: bool) -> Tensor:
        projection = attention.features[0]
        return performer.softmax_kernel(x, projection_matrix=projection, is_query=is_query, eps=eps)

    phi_q, phi_k = phi(q, True), phi(k, False)
    if attention.pattern is Pattern.CAUSAL_SELF:
        return performer.causal_linear_attention_noncuda(phi_q, phi_k, v, eps=0.0)
    return performer.linear_attention(phi_q, phi_k, v)


@pytest.mark.parametrize("pattern", list(Pattern))
def test_equals_performer_pytorch_without_its_eps(pattern: Pattern) -> None:
    attention = ours(pattern, eps=0.0)
    q, k, v = (draw(seed, 2, 2, 150, 8) for seed in range(3))
    torch.testing.assert_close(attention.mix(q, k, v), theirs(attention, q, k, v, eps=0.0))


def test_eps_there_makes_all_keys_alike_once_they_are_long() -> None:
    # Theirs is added to the keys' features too, after exp(-|k'|^2 / 2): where that is below 1e-4
    # every key weighs the same, and each output is the mean of the values.
    attention = ours(Pattern.NONCAUSAL_SELF)
    q, k, v = draw(0, 2, 2, 30, 8), 9.0 * draw(1, 2, 2, 30, 8), draw(2, 2, 2, 30, 8)
    mean = v.mean(dim=2, keepdim=True).expand_as(v)
    torch.testing.assert_close(theirs(attention, q, k, v), mean, rtol=1e-3, atol=1e-3)
    assert (attention.mix(q, k, v) - mean).abs().amax() > 1.0


def test_later_keys_leak_into_its_causal_form() -> None:
    # The keys are stabilised there by a maximum over the whole sequence, which cancels only
    # without the eps.
    attention = ours(Pattern.CAUSAL_SELF)
    q, k, v = (draw(seed, 1, 2, 20, 8) for seed in range(3))
    other = k.clone()
    other[:, :, -1] *= 9.0
    moved = theirs(attention, q, other, v) - theirs(attention, q, k, v)
    assert moved[:, :, :-1].abs().amax() > 1e-2
    actual = attention.mix(q, other, v)[:, :, :-1]
    torch.testing.assert_close(actual, attention.mix(q, k, v)[:, :, :-1])
