"""The back end `flex`: the same numbers as torch's, from lists of just the blocks that it needs.

Its kernel needs CUDA for gradients, and minutes of compilation on a CPU. `by_lists` stands for it
where there is none: it computes what the kernel would from the same lists.
"""

from collections.abc import Callable
from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, flex_attention

from attentions import registry
from attentions.base import Attention, Pattern, Unavailable
from attentions.functional import flex
from tests.attentions.claims import (
    CLAIMS,
    block,
    build,
    draw,
    each,
    holes,
    inputs,
    outputs_and_gradients,
)
from tests.functional.test_flex import dense, in_blocks, partial_and_full
from tests.oracles import weighted_mean

CLAIMED = [
    (name, pattern)
    for name, pattern in CLAIMS
    if pattern in registry.mechanism(registry.load(name)["_target_"]).backends.get("flex", ())
]
each_with_flex = each(CLAIMED)
on_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")


def by_lists(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    block_mask: BlockMask,
    scale: float,
    enable_gqa: bool,
    score_mod: Callable[..., Tensor] = lambda score, b, h, i, j: score,
) -> Tensor:
    """Attention to the listed blocks: where they are full, to all of it, else as the mask says."""
    pairs = dense(block_mask.mask_mod, q.shape[0], q.shape[1], *block_mask.seq_lengths)
    partial, full = (
        blocks.repeat_interleave(128, dim=-1).repeat_interleave(128, dim=-2)[
            ..., : pairs.shape[-2], : pairs.shape[-1]
        ]
        for blocks in partial_and_full(block_mask)
    )
    if enable_gqa:  # else torch refuses other numbers of heads
        k, v = (x.repeat_interleave(q.shape[1] // k.shape[1], dim=1) for x in (k, v))
    assert q.shape[1] == k.shape[1]
    h, i, j = (torch.arange(size) for size in pairs.shape[1:])
    scores = score_mod(q @ k.mT * scale, None, h[:, None, None], i[:, None], j)
    return weighted_mean(scores.exp() * (full | partial & pairs), v)


def both(name: str, pattern: Pattern, **settings: Any) -> tuple[Attention, Attention]:
    """The mechanism on torch's kernels and on flex's, with the same weights."""
    of_torch = build(name, pattern, **settings)
    of_flex = build(name, pattern, **settings, backend="flex")
    of_flex.load_state_dict(of_torch.state_dict())
    return of_torch, of_flex


def variants(name: str, pattern: Pattern) -> list[dict[str, Any]]:
    """Settings that go another way: none, and ALiBi where there is."""
    has_alibi = "alibi" in registry.load(name) and not pattern.is_cross
    return [{}, {"alibi": True}] if has_alibi else [{}]


def padded(
    pattern: Pattern, length: int, embed_dim: int = 16
) -> tuple[Tensor, Tensor | None, dict[str, Tensor]]:
    """A batch of three: without padding, with holes and half as long, and all of it padding."""
    query, context = draw(1, 3, length, embed_dim), None
    masks = {"key_padding_mask": holes(2, 3, length)}
    if pattern.is_cross:
        context = draw(2, 3, length // 2 + 3, embed_dim)
        masks = {
            "query_padding_mask": holes(3, 3, length),
            "key_padding_mask": holes(2, 3, length // 2 + 3),
        }
    for mask in masks.values():
        mask[1, mask.shape[1] // 2 :] = True
    return query, context, masks


@each_with_flex
@pytest.mark.parametrize("length", [1, 127, 128, 129, 300])  # around the borders of blocks
def test_flex_computes_what_torch_does(
    name: str, pattern: Pattern, length: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(flex, "_run", by_lists)
    query, context, masks = padded(pattern, length)
    for settings, given in product(variants(name, pattern), ({}, masks)):
        of_torch, of_flex = both(name, pattern, **settings)
        expected = outputs_and_gradients(of_torch, query, context, **given)
        actual = outputs_and_gradients(of_flex, query, context, **given)
        # The same sums in float64.
        torch.testing.assert_close(actual, expected, rtol=1e-9, atol=1e-9)


@each_with_flex
@pytest.mark.parametrize("length", [129, 700])
def test_every_listed_block_is_needed(
    name: str, pattern: Pattern, length: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    found: list[BlockMask] = []

    def stub(q: Tensor, k: Tensor, v: Tensor, *, block_mask: BlockMask, **_: Any) -> Tensor:
        found.append(block_mask)
        return q

    monkeypatch.setattr(flex, "_run", stub)
    build(name, pattern, backend="flex")(*inputs(pattern, length))
    (mask,) = found
    pairs = in_blocks(dense(mask.mask_mod, 2, 2, *mask.seq_lengths))
    partial, full = partial_and_full(mask)
    assert torch.equal((partial | full).expand(pairs.shape[:-1]), pairs.any(dim=-1))
    assert not (full & ~pairs.all(dim=-1)).any()


@pytest.mark.slow  # imports the compiler
@each_with_flex
def test_torch_traces_the_masks_in_one_graph(name: str, pattern: Pattern) -> None:
    torch._dynamo.reset()
    query, context, masks = padded(pattern, 129)
    query, context = (x if x is None else x.float() for x in (query, context))
    for settings in variants(name, pattern):
        of_torch, of_flex = (module.float() for module in both(name, pattern, **settings))
        # This compiler runs what was traced as it is: flex_attention as a table of all scores.
        traced = torch.compile(of_flex, fullgraph=True, backend="eager")
        with torch.no_grad():
            expected, actual = (module(query, context, **masks) for module in (of_torch, traced))
        torch.testing.assert_close(actual, expected)


@pytest.mark.slow  # imports the compiler
@each_with_flex
def test_a_kernel_is_compiled_once(
    name: str, pattern: Pattern, monkeypatch: pytest.MonkeyPatch
) -> None:
    from torch._dynamo.testing import CompileCounter

    torch._dynamo.reset()
    compiler = CompileCounter()
    kernel = torch.compile(flex_attention, fullgraph=True, dynamic=False, backend=compiler)
    monkeypatch.setattr(flex, "_compiled", lambda: kernel)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX2")
    of_layers = [build(name, pattern, backend="flex").float() for _ in range(2)]
    query, context, masks = padded(pattern, 129)
    query, context = (x if x is None else x.float() for x in (query, context))
    with torch.no_grad():
        for layer in of_layers:
            layer(query, context, **masks)
            layer(query, context, **{mask_name: mask.roll(1) for mask_name, mask in masks.items()})
    assert compiler.frame_count == 1


@each_with_flex
def test_flex_refuses_what_it_cannot_do(name: str, pattern: Pattern) -> None:
    with pytest.raises(ValueError, match=r"flex drops no weights: dropout must be 0, got 0\.1"):
        build(name, pattern, dropout=0.1, backend="flex")
    attention = build(name, pattern, backend="flex").float()
    query, context = (x if x is None else x.float() for x in inputs(pattern, 5))
    with pytest.raises(Unavailable, match="flex has gradients on cuda alone"):
        attention(query, context)


@pytest.mark.gpu
@on_cuda
@pytest.mark.filterwarnings("ignore")  # of the compiler
@each_with_flex
@pytest.mark.parametrize("length", [1, 127, 128, 129, 700])
def test_flex_computes_on_cuda_what_torch_does(name: str, pattern: Pattern, length: int) -> None:
    query, context, masks = padded(pattern, length)
    query, context = (x if x is None else x.float().cuda() for x in (query, context))
    assert query is not None
    masks = {mask_name: mask.cuda() for mask_name, mask in masks.items()}
    for settings, given in product(variants(name, pattern), ({}, masks)):
        torch._dynamo.reset()  # each kernel would count towards the limit of recompilations
        of_torch, of_flex = (module.float().cuda() for module in both(name, pattern, **settings))
        expected = outputs_and_gradients(of_torch, query, context, **given)
        actual = outputs_and_gradients(of_flex, query, context, **given)
        largest = max(x.abs().amax().item() for x in expected.values())
        for what, x in expected.items():
            # Some hundred roundings of float32. What should be zero is the difference of larger
            # numbers, so that these set the scale.
            scale = max(x.abs().amax().item(), 1e-2 * largest)
            assert (actual[what] - x).abs().amax().item() < 1e-4 * scale, what


@pytest.mark.gpu
@on_cuda
@pytest.mark.filterwarnings("ignore")  # of the compiler
@each_with_flex
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_flex_trains_in_half_precision_on_cuda(
    name: str, pattern: Pattern, dtype: torch.dtype
) -> None:
    torch._dynamo.reset()
    # Heads of 24, no power of two.
    of_torch, of_flex = (module.to("cuda", dtype) for module in both(name, pattern, embed_dim=48))
    query, context, masks = padded(pattern, 2 * block(name) + 200, embed_dim=48)
    query, context = (x if x is None else x.to("cuda", dtype) for x in (query, context))
    assert query is not None
    masks = {mask_name: mask.cuda() for mask_name, mask in masks.items()}
    actual = of_flex(query, context, **masks)
    actual.float().square().mean().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in of_flex.parameters())
    with torch.no_grad():
        wide = (None if x is None else x.double() for x in (query, context))
        expected = of_torch.double()(*wide, **masks)
    assert actual.dtype == dtype
    # 30 units in the last place of the largest number, as in test_precision.
    tolerance = 30.0 * torch.finfo(dtype).eps * expected.abs().amax()
    assert (actual - expected).abs().amax() < tolerance
