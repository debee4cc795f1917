"""Masked softmax attention against a table of weights, with queries that see no key."""

import pytest
import torch

from attentions.functional.masked import masked_attention
from tests.attentions.claims import draw


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize("is_causal", [False, True])
def test_it_is_the_dense_form(masked: bool, biased: bool, is_causal: bool) -> None:
    q, k, v = (draw(seed, 2, 3, 6, 4).requires_grad_() for seed in range(3))
    allowed = draw(3, 2, 1, 6, 6) > 0 if masked else torch.ones(1, 1, 6, 6, dtype=torch.bool)
    if masked:
        allowed[0, :, 4] = False  # this query sees nothing
    bias = draw(4, 3, 6, 6) if biased else torch.zeros(1)
    seen = allowed.tril() if is_causal else allowed
    weights = (q @ k.mT / 2.0 + bias).exp() * seen
    expected = weights / weights.sum(dim=-1, keepdim=True).clamp(min=1e-30) @ v
    actual = masked_attention(
        q, k, v, allowed if masked else None, bias=bias if biased else None, is_causal=is_causal
    )
    torch.testing.assert_close(actual, expected)
    upstream = draw(5, *actual.shape)
    gradients = [torch.autograd.grad(out, (q, k, v), upstream) for out in (actual, expected)]
    torch.testing.assert_close(*gradients)


def test_a_query_without_keys_gets_zero_and_poisons_no_gradient() -> None:
    q, k, v = (draw(seed, 1, 1, 3, 4).requires_grad_() for seed in range(3))
    out = masked_attention(q, k, v, torch.zeros(1, 1, 1, 3, dtype=torch.bool))
    assert not out.any()
    assert all(x.isfinite().all() for x in torch.autograd.grad(out.sum(), (q, k, v)))
