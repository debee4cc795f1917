"""Softmax attention by torch's flex_attention, which computes those blocks alone that hold a pair.

Shapes: B batch, H heads, M query length, N context length, D head_dim.
"""

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, flex_attention

from attentions import masks
from attentions.base import Unavailable
from attentions.functional.spans import Span

_BLOCK = 128  # torch's default, which the tiles of its kernels divide
_MIN_HEAD_DIM = 16  # of a product of matrices in Triton
_MAX_KERNELS = 256  # compiled in one process; torch's default is 8, and one more is an error


def flex_masked_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    sees: masks.Mask,
    *,
    is_causal: bool = False,
    key_padding_mask: Tensor | None = None,
    slopes: Tensor | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """softmax(Q K^T / sqrt D) V over the keys that a query sees; zero for a query that has none.

    One kernel, compiled for each mask and each shape at its first call, which takes seconds. Its
    time is that of the blocks of 128 by 128 in which any pair is allowed. Memory is linear but for
    the lists of blocks, (M / 128) (N / 128) numbers, once per sample with padding or a mask that
    differs between them, and once per head likewise.

    Args:
        q: (B, H, M, D).
        k: (B, H, N, D).
        v: (B, H, N, D).
        sees: Which keys (`attentions.masks`).
        is_causal: Whether query i may only attend to the keys up to i.
        key_padding_mask: Bool (B, N), True where the key is padding and is ignored.
        slopes: (H,), by which scores fall with |i - j|, as in ALiBi; without gradient.
        enable_gqa: Whether k and v have fewer heads, each read by an equal group of q's.

    Returns:
        (B, H, M, D).

    Raises:
        Unavailable: For gradients outside CUDA, and for float64.
    """
    if is_causal:
        sees = masks.both(sees, masks.causal)
    if key_padding_mask is not None:
        sees = masks.both(sees, masks.unpadded(key_padding_mask))
    batch_size, num_heads, query_len, head_dim = q.shape
    mask = block_mask(sees, batch_size, num_heads, query_len, k.shape[2], q.device)
    missing = max(0, _MIN_HEAD_DIM - head_dim)
    if missing:
        q, k, v = (F.pad(x, (0, missing)) for x in (q, k, v))
    options = {} if slopes is None else {"score_mod": _falling(slopes)}
    options |= {"block_mask": mask, "scale": head_dim**-0.5, "enable_gqa": enable_gqa}
    return _run(q, k, v, **options)[..., :head_dim]


def block_mask(
    sees: masks.Mask,
    batch_size: int,
    num_heads: int,
    query_len: int,
    key_len: int,
    device: torch.device,
) -> BlockMask:
    """The blocks in which a mask allows some pair, and those in which it allows every one.

    Torch's `create_block_mask` asks for all M N pairs; this asks once per block, of its span.
    """
    i, j = _blocks(query_len, device), _blocks(key_len, device)
    i = Span(i.first[:, None], i.last[:, None])
    b = torch.arange(batch_size, device=device)[:, None, None, None]
    h = torch.arange(num_heads, device=device)[:, None, None]
    seen = sees(b, h, i, j)
    # The kernel asks for the mask where a sequence ends inside a block.
    whole = (i.last - i.first == _BLOCK - 1) & (j.last - j.first == _BLOCK - 1)
    some, full, _ = torch.broadcast_tensors(seen.some, seen.all & whole, whole[None, None])
    return BlockMask.from_kv_blocks(
        *_listed(some & ~full),
        *_listed(full),
        BLOCK_SIZE=_BLOCK,
        mask_mod=sees,
        seq_lengths=(query_len, key_len),
    )


def _falling(slopes: Tensor) -> Callable[..., Tensor]:
    def score_mod(score: Tensor, b: Tensor, h: Tensor, i: Tensor, j: Tensor) -> Tensor:
        return score - slopes[h] * (i - j).abs()

    return score_mod


def _blocks(length: int, device: torch.device) -> Span:
    first = torch.arange(0, length, _BLOCK, device=device)
    return Span(first, (first + _BLOCK - 1).clamp(max=length - 1))


def _listed(blocks: Tensor) -> tuple[Tensor, Tensor]:
    """How many blocks of keys each row (..., keys) has, and the places of these before the rest."""
    places = blocks.int().argsort(dim=-1, descending=True, stable=True).int()
    # The kernel reads rows as if they were contiguous.
    return blocks.sum(dim=-1, dtype=torch.int32).contiguous(), places.contiguous()


def _run(q: Tensor, k: Tensor, v: Tensor, **options: Any) -> Tensor:
    """Torch's flex_attention, compiled."""
    learns = torch.is_grad_enabled() and any(x.requires_grad for x in (q, k, v))
    if learns and not q.is_cuda:
        raise Unavailable(
            "backend flex has gradients on cuda alone, and the inputs are on "
            f"{q.device.type}: use backend torch"
        )
    if q.dtype == torch.float64:
        raise Unavailable("backend flex has no float64: use backend torch")
    if torch.compiler.is_compiling():  # with all around it
        return flex_attention(q, k, v, **options)
    capability = torch.backends.cpu.get_cpu_capability()
    if not q.is_cuda and not capability.startswith("AVX"):
        raise Unavailable(
            f"backend flex needs AVX2 on a CPU, and torch has {capability}: use backend torch"
        )
    with torch._dynamo.config.patch(recompile_limit=_MAX_KERNELS):
        return _compiled()(q, k, v, **options)


@cache
def _compiled() -> Any:
    # Late, for the compiler takes seconds to import. Dynamic shapes would have a kernel serve many
    # lengths, but also windows, which torch's CPU kernels then fail to compile. Without fullgraph
    # torch would compute all M N scores where it gives up compiling.
    return torch.compile(flex_attention, fullgraph=True, dynamic=False)
