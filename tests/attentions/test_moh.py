"""Mixture-of-head attention where it is softmax, how it leaves heads out, its balance loss."""

import pytest
import torch
from torch import Tensor

from attentions.base import Pattern
from attentions.softmax.moh import MixtureOfHeadAttention, RoutedQuery
from tests.attentions.claims import build, draw, inputs


def moh(pattern: Pattern, **settings: int) -> MixtureOfHeadAttention:
    attention = build("moh", pattern, **settings)
    assert isinstance(attention, MixtureOfHeadAttention)
    return attention


def router(attention: MixtureOfHeadAttention) -> Tensor:
    assert isinstance(attention.q_proj, RoutedQuery)
    return attention.q_proj.router.weight


@pytest.mark.parametrize("pattern", list(Pattern))
def test_with_all_heads_active_and_an_indifferent_router_it_is_softmax(pattern: Pattern) -> None:
    attention = moh(pattern, num_shared=3, num_active=5)
    softmax = build("softmax", pattern, num_heads=8)
    weights = attention.state_dict()
    del weights["q_proj.router.weight"]
    softmax.load_state_dict({k.replace("q_proj.proj", "q_proj"): w for k, w in weights.items()})
    with torch.no_grad():
        router(attention).zero_()
    query, context = inputs(pattern, 9)
    torch.testing.assert_close(attention(query, context), softmax(query, context))


def test_each_token_uses_its_shared_and_its_active_heads() -> None:
    attention = moh(Pattern.NONCAUSAL_SELF)
    q = attention.q_proj(draw(0, 3, 40, 16)).unflatten(-1, (-1, 2)).transpose(1, 2)
    # Keys of zero and values of one: the heads are ones, and what comes out are their gates.
    zeros, ones = (f(3, 8, 40, 2, dtype=torch.float64) for f in (torch.zeros, torch.ones))
    gates = attention.mix(q, zeros, ones)[..., 0]
    shared, routed = gates[:, :3], gates[:, 3:]
    assert (shared > 0).all()
    assert ((routed > 0).sum(dim=1) == 2).all()
    assert (routed > 0).any(dim=2).all(), "tokens should differ in their choice"
    weighed = shared.sum(dim=1) / 3 + routed.sum(dim=1) / 2
    torch.testing.assert_close(weighed, torch.full_like(weighed, 2.0))


def test_a_head_that_no_token_uses_changes_nothing() -> None:
    attention = moh(Pattern.CAUSAL_SELF)
    query = draw(0, 2, 9, 16)
    query[..., 0] = 1.0
    with torch.no_grad():
        router(attention)[3:8, 0] = torch.tensor([9.0, 9.0, 0.0, 0.0, 0.0], dtype=torch.float64)
    expected = attention(query)
    with torch.no_grad():
        attention.v_proj.weight[10:] += 1.0  # of heads 5 to 7
    torch.testing.assert_close(attention(query), expected, rtol=0.0, atol=0.0)


def test_the_balance_loss_grows_when_one_head_takes_all_tokens() -> None:
    attention = moh(Pattern.NONCAUSAL_SELF, num_shared=3, num_active=1).train()
    tokens = torch.eye(5, 16, dtype=torch.float64)[None]
    with torch.no_grad():
        router(attention).zero_()
        router(attention)[3:8, :5] = 50.0 * torch.eye(5, dtype=torch.float64)
    attention(tokens)  # each token has a head of its own
    balanced = attention.auxiliary_loss
    attention(tokens[:, :1])  # one head does it all
    crowded = attention.auxiliary_loss
    assert balanced is not None
    assert crowded is not None
    assert balanced.item() == pytest.approx(0.01)
    assert crowded.item() == pytest.approx(0.05)


def test_the_balance_loss_trains_the_router_and_counts_no_padding() -> None:
    attention = moh(Pattern.CAUSAL_CROSS).train()
    query, context = draw(0, 2, 9, 16), draw(1, 2, 7, 16)
    padding = torch.zeros(2, 9, dtype=torch.bool)
    padding[:, 6:] = True
    attention(query, context, query_padding_mask=padding)
    padded = attention.auxiliary_loss
    attention(query[:, :6], context)
    assert padded is not None
    torch.testing.assert_close(padded, attention.auxiliary_loss)
    (gradient,) = torch.autograd.grad(padded, router(attention))
    assert (gradient[3:8].abs().amax(dim=1) > 1e-6).all()
    assert not gradient[:3].any()
    attention.eval()(query, context)
    assert attention.auxiliary_loss is None


def test_the_state_is_keys_and_values() -> None:
    attention = moh(Pattern.CAUSAL_SELF)
    _, state = attention.prefill(draw(0, 3, 50, 16), attention.init_state(3))
    assert state.num_bytes == 2 * 3 * 50 * 16 * 8  # k and v, batch, length, embed_dim, float64


def test_by_default_half_of_the_heads_are_shared_and_a_quarter_routed() -> None:
    attention = MixtureOfHeadAttention(
        64, 32, Pattern.CAUSAL_SELF, num_shared=None, num_active=None
    )
    assert (attention.num_shared, attention.num_routed, attention.num_active) == (16, 16, 8)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_shared": 0}, r"num_shared must be in \[1, num_heads = 8\), got 0"),
        ({"num_shared": 8}, r"num_shared must be in \[1, num_heads = 8\), got 8"),
        ({"num_active": 0}, r"num_active must be in \[1, 5 heads that are not shared\], got 0"),
        ({"num_active": 6}, r"num_active must be in \[1, 5 heads that are not shared\], got 6"),
    ],
)
def test_bad_settings_are_refused(settings: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        moh(Pattern.CAUSAL_SELF, **settings)
