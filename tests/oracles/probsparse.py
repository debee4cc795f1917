"""ProbSparse attention one query at a time, on each sample without its padding.

Exact limit: up to 15 queries all attend (factor 5), which is softmax attention.
"""

import math
from typing import Any

import torch
from torch import Tensor

from tests.oracles import heads, merge

BLOCK = 13  # 2 more are the most queries of which none is lazy: then each output reads its query


def oracle(
    attention: Any,
    query: Tensor,
    context: Tensor,
    query_padding_mask: Tensor,
    key_padding_mask: Tensor,
) -> Tensor:
    q, k, v = heads(attention, query, context)
    out = torch.zeros_like(q)
    for b in range(q.shape[0]):
        queries = (~query_padding_mask[b]).nonzero().flatten()
        keys = (~key_padding_mask[b]).nonzero().flatten()
        if len(queries) and len(keys):
            for h in range(q.shape[1]):
                rows = one_head(attention, q[b, h, queries], k[b, h, keys], v[b, h, keys])
                out = out.index_put((torch.tensor(b), torch.tensor(h), queries), rows)
    return merge(attention, out)


def one_head(attention: Any, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    num_active = count(attention.factor, len(q))
    sampled = [int(draw) % len(k) for draw in attention.draws[: count(attention.factor, len(k))]]
    measure = []
    for row in q:
        scores = [float((row @ k[j]).detach()) for j in sampled]
        measure.append(max(scores) - sum(scores) / len(k))
    best_first = sorted(range(len(q)), key=measure.__getitem__, reverse=True)
    rows = [v.sum(dim=0) / len(v)] * len(q)
    for i in best_first[:num_active]:
        weights = (k @ q[i] / q.shape[-1] ** 0.5).exp()
        rows[i] = weights @ v / weights.sum()
    return torch.stack(rows)


def count(factor: int, length: int) -> int:
    return min(length, factor * max(1, math.ceil(math.log(length))))
