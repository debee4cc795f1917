"""Routing attention centroid by centroid, with lists of the nearest positions."""

from typing import Any

import torch
from torch import Tensor

from tests.oracles import heads, merge

SETTINGS = {"num_clusters": 3, "window": 11}
BLOCK = 8  # 10 positions are all taken by each centroid: then each output reads its query
STATE_GROWS = True


def oracle(
    attention: Any,
    query: Tensor,
    context: Tensor,
    query_padding_mask: Tensor,
    key_padding_mask: Tensor,
) -> Tensor:
    q, k, v = heads(attention, query, context)
    q, k = normalised(q), normalised(k)
    scale = q.shape[-1] ** -0.5 if attention.scale is None else attention.scale
    out = torch.zeros_like(q)
    for b in range(len(q)):
        queries = [i for i in range(q.shape[2]) if not query_padding_mask[b, i]]
        keys = [j for j in range(k.shape[2]) if not key_padding_mask[b, j]]
        for h, centroids in enumerate(attention.centroids):
            seen: dict[int, list[list[int]]] = {i: [] for i in queries}  # by each cluster it is in
            if attention.pattern == "causal_self":
                cluster = {i: nearest(centroids, q[b, h, i]) for i in queries}
                for i in queries:
                    mates = [j for j in queries if j <= i and cluster[j] == cluster[i]]
                    seen[i].append(mates[-attention.window - 1 :])
            else:
                for c in centroids:
                    near_keys = ordered(c, k[b, h], keys)[: attention.window]
                    for i in ordered(c, q[b, h], queries)[: attention.window]:
                        seen[i].append(near_keys)
            for i, clusters in seen.items():
                rows = []
                for near in filter(None, clusters):
                    weights = (k[b, h, near] @ q[b, h, i] * scale).exp()
                    rows.append(weights @ v[b, h, near] / weights.sum())
                if rows:
                    at = (torch.tensor(b), torch.tensor(h), torch.tensor(i))
                    out = out.index_put(at, torch.stack(rows).mean(dim=0))
    return merge(attention, out)


def normalised(x: Tensor) -> Tensor:
    centred = x - x.mean(dim=-1, keepdim=True)
    return centred / (centred.square().mean(dim=-1, keepdim=True) + 1e-5).sqrt()


def nearest(centroids: Tensor, x: Tensor) -> int:
    distances = [float((c - x).square().sum().detach()) for c in centroids]
    return distances.index(min(distances))


def ordered(centroid: Tensor, x: Tensor, positions: list[int]) -> list[int]:
    return sorted(positions, key=lambda i: -float((x[i] @ centroid).detach()))
