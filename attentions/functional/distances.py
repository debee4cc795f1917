"""Scores by the distance between positions, as Transformer-XL has them: arXiv:1901.02860."""

import torch
from torch import Tensor


def distance_sinusoids(highest: int, lowest: int, embed_dim: int, like: Tensor) -> Tensor:
    """Sines and cosines of the distances from `highest` down to `lowest`: (distances, E).

    Args:
        highest: The first distance.
        lowest: The last distance, among them.
        embed_dim: E, even: a sine and a cosine for each of E / 2 wavelengths.
        like: Gives device and dtype.
    """
    # In float32 at least: in bfloat16 distance 257 would be 256.
    precise = torch.promote_types(like.dtype, torch.float32)
    distance = torch.arange(highest, lowest - 1, -1, device=like.device, dtype=precise)
    pair = torch.arange(0, embed_dim, 2, device=like.device, dtype=precise)
    angle = distance[:, None] * 10000.0 ** (-pair / embed_dim)
    return torch.cat([angle.sin(), angle.cos()], dim=-1).to(like.dtype)


def skew(scores: Tensor, start: int, step: int) -> Tensor:
    """Let each row begin `step` columns before the last one does: a view, not a copy.

    Args:
        scores: (..., R, W), contiguous in the last two dimensions.
        start: Where the first row begins, from 0 to R step.
        step: Columns from one row's beginning to the next one's.

    Returns:
        (..., R, W - step), whose column c of row r is column `start - r step + c` of `scores`.
        What is taken before or behind a row belongs to its neighbours, and means nothing.
    """
    num_rows, width = scores.shape[-2:]
    rows = scores.flatten(-2)[..., start:][..., : num_rows * (width - step)]
    return rows.unflatten(-1, (num_rows, width - step))
