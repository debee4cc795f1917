"""Lightning attention as the dense table of its weights, entry by entry."""

from math import exp
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
    num_heads = attention.num_heads
    q, k, v = heads(attention, query, context)
    q, gate = q[:, :num_heads], q[:, num_heads:]
    q, k = q * q.sigmoid(), k * k.sigmoid()
    samples = []
    for b, padding in enumerate(key_padding_mask.tolist()):
        each = []
        for h in range(num_heads):
            decay = exp(-rate(attention.decay, h, num_heads))
            table = weights(attention.pattern, decay, q.shape[2], padding)
            each.append(q[b, h] @ k[b, h].mT * table @ v[b, h])
        samples.append(torch.stack(each))
    mixed = torch.stack(samples)
    norm = (mixed.square().mean(dim=-1, keepdim=True).mean(dim=1, keepdim=True)) + attention.eps
    return merge(attention, mixed / norm.sqrt() * gate)


def rate(decay: str, head: int, num_heads: int) -> float:
    """Of the first layer, for a number of heads that is a power of two."""
    if decay == "paper":
        return 8 * head / num_heads
    return 1.00001 / 2 ** (8 * (head + 1) / num_heads)


def weights(pattern: str, decay: float, length: int, padding: list[bool]) -> Tensor:
    """(length, keys): decay to the power of the distance, zero where there is no attending."""
    end = max([j for j, is_padding in enumerate(padding) if not is_padding], default=0)
    table = torch.zeros(length, len(padding), dtype=torch.float64)
    for i in range(length):
        for j, is_padding in enumerate(padding):
            if is_padding or (pattern == "causal_self" and j > i):
                continue
            distance = end - j if pattern.endswith("cross") else abs(i - j)
            table[i, j] = decay**distance
    return table
