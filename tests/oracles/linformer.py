"""Linformer by sums over positions: every projected key a sum of the keys that are not padding."""

from typing import Any

import torch
from torch import Tensor

from tests.oracles import heads, merge

SETTINGS = {"proj_len": 5, "share_key_value": False}


def oracle(
    attention: Any,
    query: Tensor,
    context: Tensor,
    query_padding_mask: Tensor,
    key_padding_mask: Tensor,
) -> Tensor:
    q, k, v = heads(attention, query, context)
    e, f = attention.key_proj_len, attention.value_proj_len
    samples = []
    for b in range(len(q)):
        keys = [j for j in range(k.shape[2]) if not key_padding_mask[b, j]]
        projected_k = project(e, k[b], keys)
        projected_v = project(e if f is None else f, v[b], keys)
        weights = (q[b] @ projected_k.mT / q.shape[-1] ** 0.5).exp()
        samples.append(weights / weights.sum(dim=-1, keepdim=True) @ projected_v)
    return merge(attention, torch.stack(samples))


def project(weight: Tensor, x: Tensor, keys: list[int]) -> Tensor:
    """(H, N, D) to (H, rows of weight, D)."""
    total = torch.zeros(x.shape[0], len(weight), x.shape[2], dtype=x.dtype)
    for j in keys:
        total = total + weight[:, j, None] * x[:, j, None]
    return total
