"""The same numbers on CUDA as on the CPU, where the oracles are compared."""

import pytest
import torch

from attentions.base import Pattern
from tests.attentions.claims import (
    block,
    build,
    draw,
    each_causal_claim,
    each_mixing_claim,
    holes,
    inputs,
    outputs_and_gradients,
)

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA"),
]


@each_mixing_claim
def test_cuda_equals_cpu_in_float64(name: str, pattern: Pattern) -> None:
    attention = build(name, pattern)
    query, context = inputs(pattern, 2 * block(name) + 5, batch_size=3)
    given = {"query": query, "context": context}
    keys = query if context is None else context
    given["key_padding_mask"] = holes(2, 3, keys.shape[1])
    if pattern.is_cross:
        given["query_padding_mask"] = holes(3, 3, query.shape[1])
    given = {key: x for key, x in given.items() if x is not None}
    on_cpu = outputs_and_gradients(attention, **given)
    on_cuda = outputs_and_gradients(attention.cuda(), **{key: x.cuda() for key, x in given.items()})
    torch.testing.assert_close(on_cuda, on_cpu, check_device=False)


@each_causal_claim
def test_steps_on_cuda_equal_the_parallel_form(name: str, pattern: Pattern) -> None:
    attention = build(name, pattern).cuda()
    query, context = (x if x is None else x.cuda() for x in inputs(pattern, block(name) + 3))
    assert query is not None
    with torch.no_grad():
        expected = attention(query, context)
    answered, state = attention.prefill(query[:, :5], attention.init_state(2, context))
    rows = [answered]
    for i in range(5, query.shape[1]):
        row, state = attention.step(query[:, i, None], state)
        rows.append(row)
    torch.testing.assert_close(torch.cat(rows, dim=1), expected)


@each_mixing_claim
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_half_precision_trains_on_cuda(name: str, pattern: Pattern, dtype: torch.dtype) -> None:
    # Fused kernels want wider heads than the other tests have: 64.
    attention = build(name, pattern, embed_dim=128).to("cuda", dtype)
    query = draw(0, 2, 200, 128).to("cuda", dtype)
    context = draw(1, 2, 150, 128).to("cuda", dtype) if pattern.is_cross else None
    output = attention(query, context)
    expected = attention.double()(query.double(), None if context is None else context.double())
    # 30 units in the last place of the largest number, as in test_precision.
    tolerance = 30.0 * torch.finfo(dtype).eps * expected.abs().amax()
    assert ((output - expected).abs().amax(dim=-1) < tolerance).double().mean() > 0.9
    attention.to(dtype)
    attention(query, context).float().square().mean().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in attention.parameters())
