"""LARA in evaluation by its formula, query by query and proposal by proposal."""

from typing import Any

import torch
from torch import Tensor

from tests.oracles import heads, merge

SETTINGS = {"num_landmarks": 5}
BLOCK = 5


def oracle(
    attention: Any,
    query: Tensor,
    context: Tensor,
    query_padding_mask: Tensor,
    key_padding_mask: Tensor,
) -> Tensor:
    q, k, v = heads(attention, query, context)
    is_self = attention.pattern == "noncausal_self"
    mixed = torch.zeros_like(q)
    for b, padding in enumerate(key_padding_mask.tolist()):
        real = [j for j, is_padding in enumerate(padding) if not is_padding]
        if not real:
            continue
        for h in range(attention.num_heads):
            keys, values = k[b, h, real], v[b, h, real]
            pooled = keys + q[b, h, real] if is_self else keys
            means = [part.mean(dim=0) for part in cut(pooled, attention.num_landmarks)]
            proposals = [(mean, *summary(mean, keys, values)) for mean in means]
            for i, own in enumerate(q[b, h]):
                mixed[b, h, i] = answer(own, proposals)
    return merge(attention, mixed)


def summary(mean: Tensor, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
    """The importance of a proposal and the value that it stands for."""
    features = torch.stack([xi(key, mean) for key in keys])
    return features.sum() / xi(mean, mean), features @ values / features.sum()


def answer(query: Tensor, proposals: list[tuple[Tensor, Tensor, Tensor]]) -> Tensor:
    scores = []
    for mean, importance, _ in proposals:
        near = (mean @ query * len(query) ** -0.5).exp()
        scores.append(near * xi(query, mean) * importance)
    weights = torch.stack(scores) / torch.stack(scores).sum()
    return weights @ torch.stack([value for _, _, value in proposals])


def xi(x: Tensor, sample: Tensor) -> Tensor:
    return ((sample @ x - x @ x / 2) * len(x) ** -0.5).exp()


def cut(x: Tensor, num_segments: int) -> list[Tensor]:
    """Rows in contiguous segments that differ by at most one row, the shorter ones first."""
    if len(x) <= num_segments:
        return list(x.split(1))
    shorter = len(x) // num_segments
    num_longer = len(x) % num_segments
    sizes = [shorter] * (num_segments - num_longer) + [shorter + 1] * num_longer
    return list(x.split(sizes))
