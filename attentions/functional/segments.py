"""Means of contiguous segments, as many in every sequence, whatever its length without padding.

Shapes: B batch, H heads, L length, D width, S number of segments.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def segments(padding_mask: Tensor | None, num_segments: int) -> Tensor | None:
    """Which positions belong to which segment: bool (B, S, L), or None without a mask.

    The segments' lengths differ by at most one, the shorter come first; of fewer positions than
    segments, each is a segment and the last segments are empty.

    Args:
        padding_mask: Bool (B, L), True where the position is padding, which is in no segment.
        num_segments: S.
    """
    if padding_mask is None:
        return None
    rank = (~padding_mask).cumsum(dim=-1) - 1
    last = rank[:, -1:]
    size = (last + 1) // num_segments  # of a shorter one
    # Counted from the start by the shorter size and from the end by the longer, both overshoot.
    segment = torch.minimum(
        rank // size.clamp(min=1), num_segments - 1 - (last - rank) // (size + 1)
    )
    each = torch.arange(num_segments, device=rank.device)[:, None]
    return (segment[:, None] == each) & ~padding_mask[:, None]


def segment_means(x: Tensor, num_segments: int, members: Tensor | None = None) -> Tensor:
    """The mean of each segment of x (B, H, L, D): (B, H, S, D), zero for an empty one.

    Args:
        members: From `segments`; None where nothing is padding.
    """
    if members is not None:
        weights = members.to(x.dtype) / members.sum(dim=-1, keepdim=True).clamp(min=1)
        return weights[:, None] @ x
    size, num_longer = divmod(x.shape[2], num_segments)
    if size == 0:
        return F.pad(x, (0, 0, 0, num_segments - x.shape[2]))
    border = (num_segments - num_longer) * size
    shorter = x[:, :, :border].unflatten(2, (-1, size)).mean(dim=3)
    if num_longer == 0:
        return shorter
    longer = x[:, :, border:].unflatten(2, (-1, size + 1)).mean(dim=3)
    return torch.cat([shorter, longer], dim=2)
