"""Relative attention score by score: every pair of positions with its own vector of sinusoids."""

import math
from typing import Any

import torch
from torch import Tensor

from tests.oracles import heads, merge, weighted_mean

STATE_GROWS = True  # every key and value is kept


def oracle(
    attention: Any,
    query: Tensor,
    context: Tensor,
    query_padding_mask: Tensor,
    key_padding_mask: Tensor,
) -> Tensor:
    q, k, v = heads(attention, query, context)
    num_heads, length, head_dim = q.shape[1:]
    width = attention.embed_dim
    by_distance = {}
    for d in range(1 - length, length):
        angles = [d / 10000 ** (2 * f / width) for f in range(width // 2)]
        waves = [math.sin(a) for a in angles] + [math.cos(a) for a in angles]
        r = torch.tensor(waves, dtype=torch.float64)
        by_distance[d] = (attention.distance_proj.weight @ r).reshape(num_heads, head_dim)
    weights = []
    for i in range(length):
        r = torch.stack([by_distance[i - j] for j in range(length)], dim=1)  # (H, N, D)
        by_content = (k * (q[:, :, i] + attention.content_bias[:, 0])[:, :, None]).sum(dim=-1)
        by_place = (r * (q[:, :, i] + attention.distance_bias[:, 0])[:, :, None]).sum(dim=-1)
        weights.append(((by_content + by_place) / head_dim**0.5).exp())
    table = torch.stack(weights, dim=2) * ~key_padding_mask[:, None, None, :]
    if attention.pattern == "causal_self":
        table = table.tril()
    return merge(attention, weighted_mean(table, v))
