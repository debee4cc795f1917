"""Local linear attention by its definition: the intercept of a ridge regression at each query.

The system is solved for intercept and slope together, uncentred.
"""

from typing import Any

import torch
from torch import Tensor

from tests.oracles import heads, merge

SETTINGS = {"ridge": 0.3}  # far from softmax attention
STATE_GROWS = True  # every key and value is kept


def oracle(
    attention: Any,
    query: Tensor,
    context: Tensor,
    query_padding_mask: Tensor,
    key_padding_mask: Tensor,
) -> Tensor:
    q, k, v = heads(attention, query, context)
    weights = (q @ k.mT / q.shape[-1] ** 0.5).exp() * ~key_padding_mask[:, None, None]
    if attention.pattern == "causal_self":
        weights = weights.tril()
    total = weights.sum(dim=-1, keepdim=True)
    some = total > 0
    weights = (weights / torch.where(some, total, 1.0))[..., None]  # (B, H, M, N, 1)
    difference = k[:, :, None] - q[..., None, :]  # (B, H, M, N, D)
    return merge(attention, intercept(weights, difference, v, attention.ridge) * some)


def intercept(weights: Tensor, difference: Tensor, v: Tensor, ridge: float) -> Tensor:
    """b of argmin over b, W of sum w |v - b - W (k - q)|^2 + ridge |W|^2: (B, H, M, D)."""
    x = torch.cat([torch.ones_like(weights), difference], dim=-1)
    # A query without any key has no intercept to penalise: any number makes it solvable.
    penalty = torch.full(x.shape[-1:], ridge, dtype=x.dtype)
    penalty[0] = 0.0
    none = (weights.sum(dim=-2, keepdim=True) == 0) * torch.eye(x.shape[-1])
    system = x.mT @ (weights * x) + torch.diag(penalty) + none
    return torch.linalg.solve(system, x.mT @ (weights * v[:, :, None]))[..., 0, :]
