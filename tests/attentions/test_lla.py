"""Local linear attention where its regression is known, and the form of the paper."""

import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from attentions.base import Pattern
from attentions.softmax.lla import LocalLinearAttention
from tests.attentions.claims import build, draw, holes, inputs
from tests.oracles import lla


def local_linear(pattern: Pattern, **settings: float) -> LocalLinearAttention:
    attention = build("lla", pattern, **settings)
    assert isinstance(attention, LocalLinearAttention)
    return attention


@pytest.mark.parametrize("pattern", list(Pattern))
def test_with_a_large_ridge_it_is_softmax_attention(pattern: Pattern) -> None:
    attention = local_linear(pattern, ridge=1e12)
    softmax = build("softmax", pattern)
    softmax.load_state_dict(attention.state_dict())
    query, context = inputs(pattern, 20)
    torch.testing.assert_close(attention(query, context), softmax(query, context))


@pytest.mark.parametrize("pattern", list(Pattern))
def test_values_affine_in_the_keys_are_found_exactly(pattern: Pattern) -> None:
    # Softmax attention would return a mean of the values seen; this extrapolates to the query.
    attention = local_linear(pattern, ridge=1e-12)
    q, k = draw(0, 2, 2, 30, 8), draw(1, 2, 2, 30, 8)
    slope, offset = draw(2, 2, 2, 8, 8), draw(3, 2, 2, 1, 8)
    actual = attention.mix(q, k, k @ slope + offset)
    # In causal self the first queries have seen too few keys to know all slopes.
    rows = slice(15, None) if pattern is Pattern.CAUSAL_SELF else slice(None)
    # Solved to rounding times the condition of the covariance, some 1e3.
    expected = (q @ slope + offset)[:, :, rows]
    torch.testing.assert_close(actual[:, :, rows], expected, rtol=1e-6, atol=1e-6)


def test_with_equal_weights_it_is_least_squares() -> None:
    attention = local_linear(Pattern.NONCAUSAL_CROSS, ridge=1e-12)
    q, k, v = (
        torch.zeros(2, 2, 1, 8, dtype=torch.float64),
        draw(1, 2, 2, 30, 8),
        draw(2, 2, 2, 30, 8),
    )
    x = torch.cat([torch.ones_like(k[..., :1]), k], dim=-1)
    expected = torch.linalg.lstsq(x, v).solution[:, :, :1]
    torch.testing.assert_close(attention.mix(q, k, v), expected, rtol=1e-8, atol=1e-8)


def test_it_is_the_formula_of_the_paper() -> None:
    attention = local_linear(Pattern.CAUSAL_SELF)
    q, k, v = (draw(seed, 2, 2, 20, 8) for seed in range(3))
    w = (q @ k.mT / 8**0.5).exp().tril()[..., None]  # (B, H, M, N, 1)
    z = k[:, :, None] - q[..., None, :]
    omega, mu = w.sum(dim=-2), (w * z).sum(dim=-2)
    sigma = z.mT @ (w * z) + attention.ridge * omega[..., None] * torch.eye(8)
    rho = torch.linalg.solve(sigma, mu)
    numerator = (w * (1 - z @ rho[..., None]) * v[:, :, None]).sum(dim=-2)
    expected = numerator / (omega - (mu * rho).sum(dim=-1, keepdim=True))
    torch.testing.assert_close(attention.mix(q, k, v), expected)


@pytest.mark.parametrize("pattern", list(Pattern))
@pytest.mark.parametrize("length", [127, 128, 129, 260])
def test_blocks_of_queries_leave_no_trace(pattern: Pattern, length: int) -> None:
    attention = local_linear(pattern)
    leaves = [x.requires_grad_() for x in inputs(pattern, length) if x is not None]
    query, context = leaves[0], leaves[1] if pattern.is_cross else None
    keys = query if context is None else context
    mask = holes(0, 3, keys.shape[1])[:2]
    output = attention(query, context, key_padding_mask=mask)
    expected = lla.oracle(attention, query, keys, mask[:, :0], mask)
    upstream = draw(4, *output.shape)
    if context is None:
        upstream = upstream * ~mask[..., None]
    torch.testing.assert_close(output * (upstream != 0), expected * (upstream != 0))
    grads = [torch.autograd.grad((x * upstream).sum(), leaves) for x in (output, expected)]
    torch.testing.assert_close(grads[0], grads[1])


def test_each_step_of_the_solver_brings_it_closer() -> None:
    exact = local_linear(Pattern.CAUSAL_SELF)
    query, _ = inputs(Pattern.CAUSAL_SELF, 30)
    errors = []
    for num_iterations in (1, 3, 5, 7):
        rough = local_linear(Pattern.CAUSAL_SELF, num_iterations=num_iterations)
        rough.load_state_dict(exact.state_dict())
        errors.append((rough(query) - exact(query)).abs().amax().item())
    assert errors == sorted(errors, reverse=True)
    assert errors[0] > 0.1
    assert 0.0 < errors[-1] < 0.01


def test_memory_is_linear() -> None:
    # What is kept for the backward pass: q, k, v and one slope per query.
    attention = local_linear(Pattern.CAUSAL_SELF)
    kept: list[Tensor] = []
    q, k, v = (draw(seed, 1, 2, 300, 8).requires_grad_() for seed in range(3))
    with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(x) or x, lambda x: x):
        attention.mix(q, k, v)
    assert sum(x.numel() for x in kept) == 4 * 2 * 300 * 8


def test_its_operations_are_counted() -> None:
    # An operator of its own would hide them: scores, means, output and at least one step.
    attention = local_linear(Pattern.NONCAUSAL_SELF)
    with FlopCounterMode(display=False) as counter:
        attention.mix(*(draw(seed, 1, 2, 300, 8) for seed in range(3)))
    product = 2 * 2 * 300 * 300 * 8  # multiplied and added, heads, queries, keys, head_dim
    assert counter.get_total_flops() > 6 * product


@pytest.mark.parametrize("pattern", [Pattern.CAUSAL_SELF, Pattern.CAUSAL_CROSS])
def test_state_is_every_key_and_value(pattern: Pattern) -> None:
    attention = local_linear(pattern)
    state = attention.init_state(3, draw(0, 3, 50, 16) if pattern.is_cross else None)
    if not pattern.is_cross:
        _, state = attention.prefill(draw(0, 3, 50, 16), state)
    assert state.num_bytes == 3 * 50 * 2 * 16 * 8  # batch, length, k and v, embed_dim, float64


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"ridge": 0.0}, "ridge must be positive, got 0.0"),
        ({"num_iterations": 0}, "num_iterations must be positive, got 0"),
    ],
)
def test_bad_settings_are_refused(settings: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        local_linear(Pattern.CAUSAL_SELF, **settings)
