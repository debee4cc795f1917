"""Items of different lengths that lie end to end in one array."""

import torch
from torch import Tensor


def places(ends: Tensor, items: Tensor) -> tuple[Tensor, Tensor]:
    """Where the elements of some items are.

    Args:
        ends: Where each item ends, int64 (items,).
        items: Numbers of items, int64 (B,).

    Returns:
        Places (B, longest), 0 where there is padding; and bool (B, longest), True for padding.
    """
    last = ends[items]
    first = torch.where(items > 0, ends[items - 1], 0)
    found = first[:, None] + torch.arange(int((last - first).max()))
    padding = found >= last[:, None]
    return found.masked_fill(padding, 0), padding
