"""A causal convolution over a few positions, each channel with its own weights."""

import torch
import torch.nn.functional as F
from torch import Tensor


def short_convolution(x: Tensor, weight: Tensor, before: Tensor | None = None) -> Tensor:
    """out_i = sum over j < W of weight_j x_{i - W + 1 + j}: the newest position last, as in torch.

    W shifted products: on a CPU half the time of the grouped conv1d, and without its transposes.

    Args:
        x: (B, L, C).
        weight: (C, W).
        before: The W - 1 positions (B, W - 1, C) before x; None for zeros.

    Returns:
        (B, L, C).
    """
    length, width = x.shape[1], weight.shape[1]
    x = _continued(x, width - 1, before)
    out = x[:, :length] * weight[:, 0]
    for j in range(1, width):
        out = torch.addcmul(out, x[:, j : j + length], weight[:, j])
    return out


def last_positions(x: Tensor, size: int, before: Tensor | None = None) -> Tensor:
    """The last `size` positions (B, size, C) up to the end of x (B, L, C): the next `before`."""
    if x.shape[1] < size:
        return _continued(x, size, before)[:, x.shape[1] :]
    # A copy, for a view would keep all of x in memory.
    return x[:, x.shape[1] - size :].clone()


def _continued(x: Tensor, size: int, before: Tensor | None) -> Tensor:
    return F.pad(x, (0, 0, size, 0)) if before is None else torch.cat([before, x], dim=1)
