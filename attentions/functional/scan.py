"""Causal sums of outer products in chunks: the parallel form of every linear attention.

Shapes: B batch, H heads, L length, F features of query and key, D width of the values.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def causal_scan(q: Tensor, k: Tensor, v: Tensor, *, chunk_size: int = 64) -> Tensor:
    """Unnormalised causal linear attention: out_i = sum over j <= i of (q_i . k_j) v_j.

    Inside a chunk the sum is a masked matrix product; across chunks one (F, D) state per chunk is
    carried, so memory is L (F + D + chunk_size) + L F D / chunk_size numbers and no sum is kept
    per position.

    Args:
        q: (B, H, L, F).
        k: (B, H, L, F).
        v: (B, H, L, D).
        chunk_size: Positions per chunk; the result does not depend on it.

    Returns:
        (B, H, L, D).
    """
    length = q.shape[-2]
    if length <= chunk_size:
        return (q @ k.mT).tril() @ v
    short = -length % chunk_size
    q, k, v = (F.pad(x, (0, 0, 0, short)).unflatten(-2, (-1, chunk_size)) for x in (q, k, v))
    inside = (q @ k.mT).tril() @ v  # (B, H, chunks, chunk_size, D)
    states = (k[:, :, :-1].mT @ v[:, :, :-1]).cumsum(dim=2)  # after each chunk but the last
    across = q[:, :, 1:] @ states
    out = inside + F.pad(across, (0, 0, 0, 0, 1, 0))
    return out.flatten(2, 3)[:, :, :length]
