"""Block-local attention, query by query: softmax over a list of keys."""

from typing import Any

import torch
from torch import Tensor

from tests.oracles import heads, merge

SETTINGS = {"block_size": 8}
BLOCK = 8


def oracle(
    attention: Any,
    query: Tensor,
    context: Tensor,
    query_padding_mask: Tensor,
    key_padding_mask: Tensor,
) -> Tensor:
    q, k, v = heads(attention, query, context)
    samples = []
    for b in range(len(q)):
        rows = []
        for i in range(q.shape[2]):
            last = i if attention.pattern == "causal_self" else k.shape[2] - 1
            block = i // attention.block_size
            keys = [
                j
                for j in range(last + 1)
                if j // attention.block_size == block and not key_padding_mask[b, j]
            ]
            scores = torch.einsum("hd,hjd->hj", q[b, :, i], k[b][:, keys]) / q.shape[-1] ** 0.5
            weights = scores.exp()
            weights = weights / weights.sum(dim=-1, keepdim=True)
            rows.append(torch.einsum("hj,hjd->hd", weights, v[b][:, keys]))
        samples.append(torch.stack(rows, dim=1))
    return merge(attention, torch.stack(samples))
