"""Clouds of points (B, N, 3): nearest points, neighbours, and points that lie far apart.

No table of all distances is ever held: they are computed for a few points at a time, as differences
of coordinates. (|a|^2 - 2ab + |b|^2 would be no faster here, and lose the small ones.)
"""

import math
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

TABLE = {"cpu": 2**18}
"""How many distances are held at once: of a CPU, what stays in the cache of one core."""
LARGE_TABLE = 2**24
"""On any other device."""
WIDTH = 128
"""Distances that are reduced together; see `_argmin`."""


@torch.no_grad()
def nearest(points: Tensor, others: Tensor) -> Tensor:
    """Which of the other points is nearest to each point: int64 (B, N).

    Args:
        points: (B, N, 3).
        others: (B, M, 3). Where one of them is NaN, it is the nearest: nothing is hidden.
    """
    found = points.new_empty(points.shape[:2], dtype=torch.int64)
    for clouds, rows, table in _tables(points, others):
        found[clouds, rows] = _argmin(table)
    return found


def distances(points: Tensor, others: Tensor) -> Tensor:
    """How far each point is from the nearest of the other points, (B, N), in float32 at least.

    Gradients are those of the dense formula; at distance 0, where it has none, they are 0.
    """
    points, others = _precise(points), _precise(others)
    return torch.linalg.vector_norm(points - gather(others, nearest(points, others)), dim=-1)


@torch.no_grad()
def neighbours(points: Tensor, others: Tensor, count: int) -> Tensor:
    """Which `count` of the other points are nearest to each point, in any order: (B, N, count).

    Raises:
        ValueError: If there are fewer than `count`.
    """
    if others.shape[1] < count:
        raise ValueError(f"{count} neighbours among {others.shape[1]} points were asked for")
    found = points.new_empty(*points.shape[:2], count, dtype=torch.int64)
    for clouds, rows, table in _tables(points, others):
        found[clouds, rows] = table.topk(count, dim=-1, largest=False, sorted=False).indices
    return found


@torch.no_grad()
def far_apart(points: Tensor, count: int) -> Tensor:
    """Farthest point sampling from point 0 on: int64 (B, count).

    A point at the origin pads a cloud and is not taken, unless it is point 0. When every other
    point is taken, or has the place of one that is, the first of them is repeated.
    """
    points = _precise(points)
    is_padding = (points == 0).all(dim=-1)
    left = torch.full_like(points[..., 0], torch.inf).masked_fill(is_padding, -1.0)
    taken = points.new_zeros(len(points), count, dtype=torch.int64)
    for i in range(1, count):
        last = gather(points, taken[:, i - 1 : i])
        left = torch.minimum(left, (points - last).square().sum(dim=-1))
        taken[:, i] = left.argmax(dim=1)
    return taken


def gather(values: Tensor, index: Tensor) -> Tensor:
    """The values (B, M, C) at each index (B, ...): (B, ..., C)."""
    flat = index.flatten(1)[..., None].expand(-1, -1, values.shape[-1])
    return values.gather(1, flat).unflatten(1, index.shape[1:])


def _precise(points: Tensor) -> Tensor:
    return points.to(torch.promote_types(points.dtype, torch.float32))


def _tables(points: Tensor, others: Tensor) -> Iterator[tuple[slice, slice, Tensor]]:
    """Squared distances (clouds, rows, M) of some clouds and some of their points, in turn."""
    points, others = _precise(points), _precise(others)
    columns = others.mT.contiguous()[:, :, None]  # (B, 3, 1, M)
    num_points, size = points.shape[1], TABLE.get(points.device.type, LARGE_TABLE)
    num_clouds = max(1, size // (num_points * others.shape[1]))
    num_rows = min(num_points, max(1, size // (num_clouds * others.shape[1])))
    # Two tables are filled again and again: fresh ones would cost as much as their distances.
    tables = points.new_empty(2, num_clouds * num_rows * others.shape[1])
    for first in range(0, len(points), num_clouds):
        clouds = slice(first, first + num_clouds)
        for start in range(0, num_points, num_rows):
            rows = slice(start, start + num_rows)
            some = points[clouds, rows]
            shape = *some.shape[:2], others.shape[1]
            table, difference = tables[:, : math.prod(shape)].view(2, *shape)
            torch.sub(some[..., :1], columns[clouds, 0], out=table)
            table.square_()
            for axis in (1, 2):
                torch.sub(some[..., axis : axis + 1], columns[clouds, axis], out=difference)
                table.addcmul_(difference, difference)
            yield clouds, rows, table


def _argmin(table: Tensor) -> Tensor:
    """The first place of the least value in the last dimension.

    torch's `argmin` takes four times as long as `amin` on a CPU. So `amin` finds the least value of
    each `WIDTH`, and places are looked for among those, and in the one that has it.
    """
    if table.shape[-1] <= WIDTH:
        return table.argmin(dim=-1)
    short = -table.shape[-1] % WIDTH
    if short:
        table = F.pad(table, (0, short), value=torch.inf)
    blocks = table.unflatten(-1, (-1, WIDTH))
    block = blocks.amin(dim=-1).argmin(dim=-1, keepdim=True)
    inside = blocks.gather(-2, block[..., None].expand(*block.shape, WIDTH)).squeeze(-2)
    return block.squeeze(-1) * WIDTH + inside.argmin(dim=-1)
