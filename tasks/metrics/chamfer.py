"""How near two clouds of points are: Chamfer distances and F-Score, as CAB reports them.

Source: PoinTr's code, whose metrics CAB took: cab 6.4.
"""

import torch
from torch import Tensor

from tasks.geometry import distances

SCALE = 1000
"""Chamfer distances are reported times this."""
THRESHOLD = 0.01
"""Of the F-Score: how near a point must be to count as found."""


def chamfer_l1(points: Tensor, target: Tensor) -> Tensor:
    """The mean over both directions of the mean distance to the nearest point, (B,).

    Args:
        points: Predicted, (B, N, 3).
        target: (B, M, 3).
    """
    there, back = distances(points, target), distances(target, points)
    return (there.mean(dim=1) + back.mean(dim=1)) / 2


def cloud_scores(points: Tensor, target: Tensor) -> dict[str, Tensor]:
    """`cd_l1` and `cd_l2`, both times 1,000, and `f_score` of each cloud, float64 (B,).

    Predicted points at the origin are the padding of a scan that was copied. As in the reference
    code, they do not count in the Chamfer distances, and do in the F-Score. A distance that is not
    finite makes every score NaN.

    Args:
        points: Predicted, (B, N, 3), of each cloud at least one not at the origin.
        target: (B, M, 3).
    """
    is_point = (points != 0).any(dim=-1)
    # In the place of another point, padding is the nearest to nothing else.
    first = is_point.int().argmax(dim=1)[:, None, None].expand(-1, -1, 3)
    kept = torch.where(is_point[..., None], points, points.gather(1, first))
    there, back = distances(kept, target).double(), distances(target, kept).double()
    is_finite = there.isfinite().all(dim=1) & back.isfinite().all(dim=1)
    share = is_point.double() / is_point.sum(dim=1, keepdim=True)
    scores = {
        "cd_l1": SCALE * ((share * there).sum(dim=1) + back.mean(dim=1)) / 2,
        "cd_l2": SCALE * ((share * there.square()).sum(dim=1) + back.square().mean(dim=1)),
        "f_score": _f_score(*_all_distances(points, target, is_point, there, back)),
    }
    return {name: torch.where(is_finite, score, torch.nan) for name, score in scores.items()}


def _all_distances(
    points: Tensor, target: Tensor, is_point: Tensor, there: Tensor, back: Tensor
) -> tuple[Tensor, Tensor]:
    """Those of all predicted points, the padding among them."""
    if is_point.all():
        return there, back
    origin = points.new_zeros(len(points), 1, 3)
    to_origin = torch.linalg.vector_norm(target.double(), dim=-1)
    has_padding = ~is_point.all(dim=1, keepdim=True)
    back = torch.where(has_padding, torch.minimum(back, to_origin), back)
    return torch.where(is_point, there, distances(origin, target).double()), back


def _f_score(there: Tensor, back: Tensor) -> Tensor:
    precision = (there < THRESHOLD).double().mean(dim=1)
    recall = (back < THRESHOLD).double().mean(dim=1)
    return 2 * precision * recall / (precision + recall).clamp(min=torch.finfo(torch.float64).tiny)
