"""cosFormer as the dense table of its weights, each row divided by its sum."""

import math
from typing import Any

import torch
from torch import Tensor

from tests.oracles import heads, merge

BLOCK = 64  # the chunk of the causal scan


def oracle(
    attention: Any,
    query: Tensor,
    context: Tensor,
    query_padding_mask: Tensor,
    key_padding_mask: Tensor,
) -> Tensor:
    q, k, v = heads(attention, query, context)
    weights = torch.einsum("bhid,bhjd->bhij", q.clamp(min=0), k.clamp(min=0))
    distance = torch.arange(q.shape[2])[:, None] - torch.arange(k.shape[2])
    cosines = []
    for b in range(len(q)):
        longest = attention.max_len
        if "noncausal" in attention.pattern:
            longest = max(length(query_padding_mask[b]), length(key_padding_mask[b]))
        cosines.append((math.pi * distance.double() / (2 * longest)).cos())
    weights = weights * torch.stack(cosines)[:, None] * ~key_padding_mask[:, None, None, :]
    if attention.pattern == "causal_self":
        weights = weights.tril()
    total = weights.sum(dim=-1, keepdim=True)
    return merge(attention, weights @ v / total.clamp(min=attention.eps))


def length(padded: Tensor) -> int:
    """Positions up to the last that is not padding."""
    return max((n + 1 for n, is_padding in enumerate(padded.tolist()) if not is_padding), default=1)
