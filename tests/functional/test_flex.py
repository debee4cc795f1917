"""Masks by whole blocks, and the compiled kernel that is given them."""

import itertools

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask

from attentions import masks
from attentions.base import Unavailable
from attentions.functional.flex import block_mask, flex_masked_attention
from attentions.functional.masked import masked_attention
from tests.attentions.claims import draw, holes

SIZE = 128  # of the kernel's blocks


def dense(sees: masks.Mask, batch_size: int, num_heads: int, m: int, n: int) -> Tensor:
    """The mask at every pair: bool (B, H, M, N)."""
    b, h = torch.arange(batch_size)[:, None, None, None], torch.arange(num_heads)[:, None, None]
    return sees(b, h, torch.arange(m)[:, None], torch.arange(n)).expand(batch_size, num_heads, m, n)


def in_blocks(pairs: Tensor) -> Tensor:
    """(B, H, M, N) to (B, H, blocks, blocks, 128 * 128), filled up with False."""
    m, n = pairs.shape[-2:]
    pairs = F.pad(pairs, (0, -n % SIZE, 0, -m % SIZE))
    return pairs.unflatten(-1, (-1, SIZE)).unflatten(-3, (-1, SIZE)).transpose(-2, -3).flatten(-2)


def listed(counts: Tensor | None, places: Tensor | None) -> Tensor:
    """The blocks of a list: bool (1 or B, 1 or H, blocks of queries, blocks of keys)."""
    assert counts is not None
    assert places is not None
    in_list = torch.arange(places.shape[-1]) < counts[..., None]
    return torch.zeros_like(places, dtype=torch.bool).scatter(-1, places.long(), in_list)


def partial_and_full(mask: BlockMask) -> tuple[Tensor, Tensor]:
    """Both lists of a mask, as tables."""
    return (
        listed(mask.kv_num_blocks, mask.kv_indices),
        listed(mask.full_kv_num_blocks, mask.full_kv_indices),
    )


def test_each_mask_is_the_set_of_its_definition() -> None:
    n = 12
    centre = torch.tensor([[0, 2, 2, 7, 11, 11, 12, 12, 12, 30, 30, 31], [3] * n])
    table = draw(0, 2, 3, 3, 3) > 0
    padding = torch.zeros(2, n, dtype=torch.bool)
    padding[0, [3, 7]] = True
    for sees, keys in [
        (masks.every, lambda b, h, i: range(n)),
        (masks.causal, lambda b, h, i: range(i + 1)),
        (masks.window(2, 1), lambda b, h, i: range(i - 2, i + 2)),
        (
            masks.window_around(centre, 2, 1),
            lambda b, h, i: range(centre[b, i] - 2, centre[b, i] + 2),
        ),
        (masks.same_block(5), lambda b, h, i: range(i // 5 * 5, i // 5 * 5 + 5)),
        (
            masks.blocks(table, 5),
            lambda b, h, i: [j for j in range(n) if table[b, h, i // 5, j // 5]],
        ),
        (masks.first_keys(3), lambda b, h, i: range(3)),
        (masks.last_of_blocks(5, 2), lambda b, h, i: [3, 4, 8, 9]),
        (masks.column(4), lambda b, h, i: range(i % 4, n, 4)),
        (masks.unpadded(padding), lambda b, h, i: [j for j in range(n) if not padding[b, j]]),
    ]:
        expected = [
            [[[j in keys(b, h, i) for j in range(n)] for i in range(n)] for h in range(3)]
            for b in range(2)
        ]
        assert torch.equal(dense(sees, 2, 3, n, n), torch.tensor(expected))


def some_masks(m: int, n: int) -> dict[str, masks.Mask]:
    """Every mask at sizes below and above a block, and for lists of their own in heads."""
    table = torch.rand(2, 2, -(-m // 20), -(-n // 20), generator=torch.Generator().manual_seed(0))
    centre = torch.arange(m)[None] * n // m
    found = {
        "all": masks.every,
        "window": masks.window(5, 3),
        "wide window": masks.window(300, 260),
        "place": masks.window_around(centre, 20, 200),
        "place of each": masks.window_around(torch.cat([centre, centre // 2]), 20, 200),
        "small blocks": masks.same_block(50),
        "large blocks": masks.same_block(300),
        "table": masks.blocks(table < 0.02, 20),
        "one table": masks.blocks(table[:1] < 0.9, 20),
        "first": masks.first_keys(130),
        "last of blocks": masks.last_of_blocks(300, 150),
        "column": masks.column(300),
        "every key": masks.column(1),
        "one or the other": masks.either(masks.window(140, 0), masks.last_of_blocks(60, 9)),
    }
    if m == n:
        causal = {name: masks.both(masks.causal, sees) for name, sees in found.items()}
        found |= {f"causal {name}": sees for name, sees in causal.items() if "table" not in name}
    return found


@pytest.mark.parametrize(
    ("m", "n"), [(1, 1), (127, 127), (128, 128), (129, 129), (700, 700), (300, 700), (700, 129)]
)
def test_blocks_are_listed_where_a_pair_is_allowed(m: int, n: int) -> None:
    for name, sees in some_masks(m, n).items():
        pairs = in_blocks(dense(sees, 2, 2, m, n))
        partial, full = partial_and_full(block_mask(sees, 2, 2, m, n, torch.device("cpu")))
        assert torch.equal((partial | full).expand(pairs.shape[:-1]), pairs.any(dim=-1)), name
        assert not (partial & full).any(), name
        # Of alternatives each may fill a part of the block, which is then looked at pair by pair.
        found = (full & ~pairs.all(dim=-1)) if "other" in name else (full != pairs.all(dim=-1))
        assert not found.any(), name


@pytest.mark.parametrize("n", [128, 300])
def test_padding_removes_whole_blocks_and_no_pair(n: int) -> None:
    padding = holes(0, 3, n)
    padding[1, 128:256] = True
    for name, sees in some_masks(n, n).items():
        pairs = in_blocks(dense(masks.both(sees, masks.unpadded(padding[:2])), 2, 2, n, n))
        mask = block_mask(masks.both(sees, masks.unpadded(padding[:2])), 2, 2, n, n, padding.device)
        partial, full = partial_and_full(mask)
        assert not (pairs.any(dim=-1) & ~(partial | full)).any(), name
        assert not (full & ~pairs.all(dim=-1)).any(), name
        assert not (partial | full)[1, :, :, 1:2].any(), name  # all padding


def test_lists_of_a_long_sequence_are_short_in_memory() -> None:
    # All pairs of 2^17 positions would take 16 GiB as bools; a block each, 1024^2.
    mask = block_mask(masks.window(100, 100), 8, 8, 2**17, 2**17, torch.device("cpu"))
    assert mask.kv_indices.shape == (1, 1, 1024, 1024)
    partial, full = partial_and_full(mask)
    assert (partial.sum(), full.sum()) == (3 * 1024 - 2, 0)


def test_gradients_outside_cuda_and_float64_are_unavailable() -> None:
    q, k, v = (draw(seed, 1, 1, 3, 16) for seed in range(3))
    with pytest.raises(Unavailable, match="flex has no float64: use backend torch"):
        flex_masked_attention(q, k, v, masks.causal)
    q, k, v = (x.float() for x in (q, k, v))
    for given in itertools.product((False, True), repeat=3):
        if any(given):
            x, y, z = (
                t.clone().requires_grad_(wanted) for t, wanted in zip((q, k, v), given, strict=True)
            )
            with pytest.raises(Unavailable, match=r"flex has gradients on cuda alone.*on cpu: use"):
                flex_masked_attention(x, y, z, masks.causal)


def test_a_processor_without_avx_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "DEFAULT")
    q = torch.randn(1, 1, 4, 8)
    with (
        torch.no_grad(),
        pytest.raises(Unavailable, match="needs AVX2 on a CPU, and torch has DEF"),
    ):
        flex_masked_attention(q, q, q, masks.causal)


@pytest.mark.slow  # a minute of compilation on a busy machine
@pytest.mark.filterwarnings("ignore")  # of the compiler
def test_the_compiled_kernel_computes_the_mask() -> None:
    pytest.importorskip("torch._inductor")
    from torch._inductor.cpp_builder import get_cpp_compiler
    from torch._inductor.exc import InvalidCxxCompiler

    try:
        get_cpp_compiler()
    except InvalidCxxCompiler:
        pytest.skip("needs a C++ compiler")
    if not torch.backends.cpu.get_cpu_capability().startswith("AVX"):
        pytest.skip("torch's flex_attention on a CPU needs AVX2, and torch to use it")
    n = 400
    q, k, v = (draw(seed, 3, 2, n, 8).float() for seed in range(3))
    table = draw(3, 1, 2, 20, 20) > 1
    sees = masks.either(masks.window(140, 9), masks.blocks(table, 20))
    padding = holes(4, 3, n)
    with torch.no_grad():
        actual = flex_masked_attention(q, k, v, sees, is_causal=True, key_padding_mask=padding)
    allowed = dense(masks.both(masks.both(sees, masks.causal), masks.unpadded(padding)), 3, 2, n, n)
    expected = masked_attention(q, k, v, allowed)
    torch.testing.assert_close(actual, expected)
    assert not actual[2].any()  # has no key
