"""Lower precision, autocast and compilation give nearly the same numbers, and no NaN."""

import pytest
import torch
from torch import Tensor

from attentions import registry
from attentions.base import Pattern
from tests.attentions.claims import block, build, each, each_mixing_claim, inputs, mixes

DTYPES = [torch.float32, torch.bfloat16, torch.float16]


def cast(
    sequences: tuple[Tensor, Tensor | None], dtype: torch.dtype
) -> tuple[Tensor, Tensor | None]:
    query, context = sequences
    return query.to(dtype), None if context is None else context.to(dtype)


def close_rows(actual: Tensor, expected: Tensor, dtype: torch.dtype) -> float:
    """The share of rows (..., E) that agree within rounding in `dtype`.

    Projections, scores, weights and sums are each rounded a few times: 30 units in the last place
    of the largest number cover that, and are below 1/4 of it in bfloat16.
    """
    tolerance = 30.0 * torch.finfo(dtype).eps * expected.abs().amax()
    error = (actual.double() - expected.double()).abs().amax(dim=-1)
    return (error < tolerance).double().mean().item()


@each_mixing_claim
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_lower_precision_is_close(name: str, pattern: Pattern, dtype: torch.dtype) -> None:
    attention = build(name, pattern).to(dtype)
    query, context = cast(inputs(pattern, block(name) + 3), dtype)
    with torch.no_grad():
        actual = attention(query, context)
        # From the rounded weights and inputs, so that just the computing differs.
        expected = attention.double()(*cast((query, context), torch.float64))
    assert actual.dtype == dtype
    # A choice (top-k, sorting, hashing) may turn on a rounding in a few rows.
    assert close_rows(actual, expected, dtype) > 0.9


@each_mixing_claim
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_inputs_of_a_thousand_stay_finite(name: str, pattern: Pattern, dtype: torch.dtype) -> None:
    attention = build(name, pattern).to(dtype)
    query, context = cast(inputs(pattern, block(name) + 3, scale=1e3), dtype)
    with torch.no_grad():
        assert attention(query, context).isfinite().all()


@each_mixing_claim
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_autocast_is_close_and_learns(name: str, pattern: Pattern, dtype: torch.dtype) -> None:
    attention = build(name, pattern).float()
    query, context = cast(inputs(pattern, block(name) + 3), torch.float32)
    expected = attention(query, context)
    with torch.autocast("cpu", dtype=dtype):
        actual = attention(query, context)
    assert close_rows(actual, expected, dtype) > 0.9
    actual.float().square().mean().backward()
    for parameter in attention.parameters():
        assert parameter.grad is not None
        assert parameter.grad.isfinite().all()


def one_claim_each() -> list[tuple[str, Pattern]]:
    """Every mechanism once: causal self where it is claimed, else its first pattern."""
    chosen: dict[str, Pattern] = {}
    for name, pattern in registry.claims():
        if mixes(name) and (name not in chosen or pattern is Pattern.CAUSAL_SELF):
            chosen[name] = pattern
    return list(chosen.items())


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated")  # torch's own use
@each(one_claim_each())
def test_compiled_is_the_same(name: str, pattern: Pattern) -> None:
    torch._dynamo.reset()  # each mechanism would count as a recompilation of what all share
    attention = build(name, pattern).float()
    query, context = cast(inputs(pattern, block(name) + 3), torch.float32)
    # Traced forward and backward in one graph without breaks; what inductor then makes of the
    # graph is torch's to test, and takes minutes each on a CPU.
    compiled = torch.compile(attention, fullgraph=True, backend="aot_eager_decomp_partition")
    outputs = [module(query, context) for module in (attention, compiled)]
    torch.testing.assert_close(outputs[1], outputs[0])
    gradients = [
        torch.autograd.grad(output.square().sum(), list(attention.parameters()))
        for output in outputs
    ]
    torch.testing.assert_close(gradients[1], gradients[0], rtol=1e-4, atol=1e-4)
