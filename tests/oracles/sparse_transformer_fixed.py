"""The fixed pattern, query by query: softmax over a list of keys."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from tests.oracles import heads, merge

SETTINGS = {"stride": 5, "num_summary": 2}
BLOCK = 5
STATE_GROWS = True


def oracle(
    attention: Any,
    query: Tensor,
    context: Tensor,
    query_padding_mask: Tensor,
    key_padding_mask: Tensor,
) -> Tensor:
    def sees(i: int, j: int) -> bool:
        own_block = i // attention.stride == j // attention.stride
        return own_block or j % attention.stride >= attention.stride - attention.num_summary

    return listed(attention, query, key_padding_mask, sees)


def listed(
    attention: Any, query: Tensor, padding: Tensor, sees: Callable[[int, int], bool]
) -> Tensor:
    """Softmax over the keys j that query i sees; in the causal pattern over those up to i."""
    q, k, v = heads(attention, query, query)
    samples = []
    for b in range(len(q)):
        rows = []
        for i in range(q.shape[2]):
            end = i + 1 if attention.pattern == "causal_self" else q.shape[2]
            keys = [j for j in range(end) if sees(i, j) and not padding[b, j]]
            scores = torch.einsum("hd,hjd->hj", q[b, :, i], k[b][:, keys]) / q.shape[-1] ** 0.5
            weights = scores.exp()
            weights = weights / weights.sum(dim=-1, keepdim=True)
            rows.append(torch.einsum("hj,hjd->hd", weights, v[b][:, keys]))
        samples.append(torch.stack(rows, dim=1))
    return merge(attention, torch.stack(samples))
