"""A causal convolution over a few positions, each channel with its own weights."""

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


def last_positions(x: Tensor, size: int, before: Tensor | None = None) -> Tensor:
    """The last `size` positions (B, size, C) up to the end of x (B, L, C): the next `before`."""
    if x.shape[1] < size:
        return _continued(x.mT, size, before).mT[:, x.shape[1] :]
    # A copy, for a view would keep all of x in memory.
    return x[:, x.shape[1] - size :].clone()


def _continued(x: Tensor, size: int, before: Tensor | None) -> Tensor:
    """x (B, C, L) after the `size` positions before it: (B, C, size + L)."""
    return F.pad(x, (size, 0)) if before is None else torch.cat([before.mT, x], dim=-1)
