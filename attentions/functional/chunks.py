"""Sequences in chunks, and their lengths without padding."""

import torch
import torch.nn.functional as F
from torch import Tensor


def in_chunks(x: Tensor, chunk_size: int) -> Tensor:
    """(..., L, W) to (..., chunks, chunk_size, W), the last chunk filled up with zeros."""
    short = -x.shape[-2] % chunk_size
    if short:
        x = F.pad(x, (0, 0, 0, short))
    return x.unflatten(-2, (-1, chunk_size))


def with_previous(chunks: Tensor, count: int, *, fill: float = 0.0) -> Tensor:
    """Each chunk behind the `count` before it: (..., T, c, W) to (..., T, (count + 1) c, W).

    Args:
        fill: What stands before the first chunk.
    """
    num_chunks = chunks.shape[-3]
    chunks = F.pad(chunks, (0, 0, 0, 0, count, 0), value=fill)
    return torch.cat([chunks.narrow(-3, i, num_chunks) for i in range(count + 1)], dim=-2)


def unpadded_length(x: Tensor, padding_mask: Tensor | None) -> Tensor:
    """The number of positions of x (..., L, W) up to the last that is not padding, at least 1.

    Args:
        padding_mask: Bool (B, L), True where the position is padding; None for no padding.

    Returns:
        int64 (B,), or (1,) without a mask.
    """
    counts = torch.arange(1, x.shape[-2] + 1, device=x.device)
    if padding_mask is None:
        return counts[-1:]
    return (counts * ~padding_mask).amax(dim=-1).clamp(min=1)
