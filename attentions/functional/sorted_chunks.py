"""Positions sorted by bucket and cut in chunks: attention inside buckets in linear memory.

Shapes: ... batch-like, B batch, H heads, N length, C chunk size, T number of chunks, W width.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


class SortedChunks:
    """Which positions each chunk of queries can see: its own and those of the chunk before.

    Positions are sorted by bucket and, inside a bucket, stay in order. A query attends to its own
    bucket only. Noncausal: to what of it is in its chunk and in the chunk before. Causal: to the
    last C members of its bucket before it, and itself; chunks are then a layout without influence,
    for their borders move with later positions.

    Attributes:
        size: C, at most N.
        positions: int64 (..., T, 2 C), what a chunk sees, its own last; N where there is nothing.
        rank: int64 (..., N), where each position stands in the sorted order.

    Args:
        buckets: int64 (..., N), from 0 on. What should be out of sight is in a bucket of its own,
            the last, so that it moves no chunk border of the others.
        chunk_size: C.
        is_causal: Whether a query sees only positions up to its own.
    """

    def __init__(self, buckets: Tensor, chunk_size: int, *, is_causal: bool) -> None:
        length = buckets.shape[-1]
        self.size = size = min(chunk_size, length)
        order = buckets.argsort(dim=-1, stable=True)
        count = torch.arange(length, device=buckets.device)
        self.rank = torch.empty_like(order).scatter_(-1, order, count.expand_as(order))
        padded = F.pad(order, (size, -length % size), value=length)
        self.positions = padded.unfold(-1, 2 * size, size)
        # A query may see a key if its code is larger by 0 to `reach`: codes of two buckets differ
        # by more, and so do those of a position and of nothing.
        self._reach = size if is_causal else 1
        place = self.rank if is_causal else self.rank // size
        codes = place + (self._reach + 1) * buckets
        self._codes = F.pad(codes, (0, 1), value=-2 * (self._reach + 1)).int()

    def allowed(self) -> Tensor:
        """Whether the queries of each chunk may see what the chunk can see: (..., T, C, 2 C)."""
        return self._allowed(self._codes.gather(-1, self.positions.flatten(-2)))

    def times_allowed(self) -> Tensor:
        """In how many of R sortings each pair may see each other: uint8 (..., R, T, C, 2 C).

        The sortings are the last dimension but one of the buckets (..., R, N).
        """
        positions = self.positions.flatten(-3)
        first, *others = (codes.gather(-1, positions) for codes in self._codes.unbind(dim=-2))
        times = self._allowed(first).to(torch.uint8)
        for codes in others:
            times += self._allowed(codes)
        return times

    def _allowed(self, codes: Tensor) -> Tensor:
        codes = codes.view_as(self.positions)[..., None, :]
        own = codes[..., -self.size :].mT
        return (own >= codes).logical_and_(own - self._reach <= codes)


def seen_by_last(buckets: Tensor, size: int) -> Tensor:
    """Which positions the last of buckets (..., N) sees, causally in chunks of `size`: (..., N)."""
    mates = buckets == buckets[..., -1:]
    members_after = mates.flip(-1).cumsum(dim=-1).flip(-1) - 1
    return mates & (members_after <= size)


def rows_at(x: Tensor, positions: Tensor) -> Tensor:
    """Copy rows of x (B, H, N, W) at int64 positions (B, H, ...): (B, H, ..., W).

    Row N - 1 stands for positions from N on.
    """
    batch_size, num_heads, length, _ = x.shape
    start = torch.arange(batch_size * num_heads, device=x.device) * length
    start = start.view(batch_size, num_heads, *[1] * (positions.dim() - 2))
    # An embedding: its backward adds whole rows, without the atomics of index_select's.
    return F.embedding(start + positions.clamp(max=length - 1), x.flatten(0, 2))
