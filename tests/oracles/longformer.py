"""Longformer, query by query: softmax over a list of keys, of one set of projections or the other.

Exact limits: a window of twice the length, and both sets alike, or every token global.
"""

from typing import Any

import torch
from torch import Tensor

from tests.oracles import heads, merge

SETTINGS = {"window": 6, "num_global": 2}
BLOCK = 32  # queries per block at small windows


def oracle(
    attention: Any,
    query: Tensor,
    context: Tensor,
    query_padding_mask: Tensor,
    key_padding_mask: Tensor,
) -> Tensor:
    num_heads = attention.num_heads
    all_heads = heads(attention, query, context)
    first_set = [x[:, :num_heads] for x in all_heads]
    second_set = [x[:, -num_heads:] for x in all_heads]  # the first again, if there is but one
    samples = []
    for b in range(len(query)):
        rows = []
        for i in range(query.shape[1]):
            is_global = i < attention.num_global
            q, k, v = second_set if is_global else first_set
            keys = [
                j
                for j in range(query.shape[1])
                if (is_global or j < attention.num_global or abs(i - j) <= 3)
                and (j <= i or attention.pattern == "noncausal_self")
                and not key_padding_mask[b, j]
            ]
            scores = torch.einsum("hd,hjd->hj", q[b, :, i], k[b][:, keys]) / q.shape[-1] ** 0.5
            weights = scores.exp()
            weights = weights / weights.sum(dim=-1, keepdim=True)
            rows.append(torch.einsum("hj,hjd->hd", weights, v[b][:, keys]))
        samples.append(torch.stack(rows, dim=1))
    return merge(attention, torch.stack(samples))
