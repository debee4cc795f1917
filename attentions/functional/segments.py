"""Means of contiguous segments, as many in every sequence, whatever its length without padding."""

import torch
from torch import Tensor


def segment_means(
    x: Tensor, num_segments: int, padding_mask: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """The mean of each segment of what is not padding, and which segments have any position.

    The segments' lengths differ by at most one, the shorter come first; of fewer positions than
    segments, each is a segment and the last segments are empty.

    Args:
        x: (B, H, L, D).
        num_segments: Number of segments S.
        padding_mask: Bool (B, L), True where the position is padding; None for no padding.

    Returns:
        (B, H, S, D), zero for an empty segment; and bool (1 or B, S), False for an empty one.
    """
    if padding_mask is None:
        padding_mask = torch.zeros(1, x.shape[-2], dtype=torch.bool, device=x.device)
    rank = (~padding_mask).cumsum(dim=-1) - 1
    last = rank[:, -1:]
    size = (last + 1) // num_segments  # of a shorter one
    # Counted from the start by the shorter size and from the end by the longer, both overshoot.
    segment = torch.minimum(
        rank // size.clamp(min=1), num_segments - 1 - (last - rank) // (size + 1)
    )
    each = torch.arange(num_segments, device=x.device)[:, None]
    members = (segment[:, None] == each) & ~padding_mask[:, None]  # (1 or B, S, L)
    count = members.sum(dim=-1, keepdim=True)
    weights = members.to(x.dtype) / count.clamp(min=1)
    return weights[:, None] @ x, (count > 0)[..., 0]
