"""Convolutions over a few positions: causal ones by channel, centred ones by head."""

import torch
import torch.nn.functional as F
from torch import Tensor


def short_convolution(
    x: Tensor, weight: Tensor, before: Tensor | None = None, *, bias: Tensor | None = None
) -> Tensor:
    """out_i = sum over j < W of weight_j x_{i - W + 1 + j}: the newest position last, as in torch.

    Args:
        x: (B, L, C).
        weight: (C, W).
        before: The W - 1 positions (B, W - 1, C) before x; None for zeros.
        bias: (C,); None for none.

    Returns:
        (B, L, C), with the memory layout of (B, C, L).
    """
    channels, width = weight.shape
    # Padded here, not by conv1d, which on a CPU then takes twice as long.
    x = _continued(x.mT, width - 1, before)
    return F.conv1d(x, weight[:, None], bias, groups=channels).mT


def head_convolution(x: Tensor, weight: Tensor, *, block_size: int = 64) -> Tensor:
    """out_i = sum over j < W of weight_j x_{i + j - (W - 1) / 2}, zeros beyond the ends.

    Blocks of positions are multiplied by a banded matrix: on a CPU two thirds of the time that
    torch's grouped convolution takes with 33 weights.

    Args:
        x: (B, H, L, D).
        weight: (H, W), W odd, one for all D channels of a head.
        block_size: Positions per block; the result does not depend on it.

    Returns:
        (B, H, L, D).
    """
    length, width = x.shape[2], weight.shape[1]
    seen = block_size + width - 1  # positions that a block reads
    short = -length % block_size
    pieces = F.pad(x, (0, 0, width // 2, short + width // 2)).unfold(2, seen, block_size)
    # Rows one longer than they are read move the weights on by one from row to row.
    band = F.pad(weight, (0, seen + 1 - width)).repeat(1, block_size)
    band = band[:, : block_size * seen].unflatten(-1, (block_size, seen))
    out = torch.einsum("h o i, b h t d i -> b h t o d", band, pieces)
    return out.flatten(2, 3)[:, :, :length]


def last_positions(x: Tensor, size: int, before: Tensor | None = None) -> Tensor:
    """The last `size` positions (B, size, C) up to the end of x (B, L, C): the next `before`."""
    if x.shape[1] < size:
        return _continued(x.mT, size, before).mT[:, x.shape[1] :]
    # A copy, for a view would keep all of x in memory.
    return x[:, x.shape[1] - size :].clone()


def _continued(x: Tensor, size: int, before: Tensor | None) -> Tensor:
    """x (B, C, L) after the `size` positions before it: (B, C, size + L)."""
    return F.pad(x, (size, 0)) if before is None else torch.cat([before.mT, x], dim=-1)
