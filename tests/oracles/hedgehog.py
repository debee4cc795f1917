"""Hedgehog as a dense table of weights phi(q) . phi(k), each row divided by its sum."""

from typing import Any

import torch
from torch import Tensor

from tests.oracles import heads, merge, weighted_mean

BLOCK = 64  # the chunk of the causal scan


def oracle(
    attention: Any,
    query: Tensor,
    context: Tensor,
    query_padding_mask: Tensor,
    key_padding_mask: Tensor,
) -> Tensor:
    q, k, v = heads(attention, query, context)
    weights = phi(q, attention.q_map) @ phi(k, attention.k_map).mT
    weights = weights * ~key_padding_mask[:, None, None, :]
    if attention.pattern == "causal_self":
        weights = weights.tril()
    return merge(attention, weighted_mean(weights, v))


def phi(x: Tensor, maps: Tensor) -> Tensor:
    """(B, H, L, D) to (B, H, L, 2 D), head after head."""
    rows = []
    for h, weight in enumerate(maps):
        up = (x[:, h] @ weight).exp()
        down = 1 / up
        halves = (y / y.sum(dim=-1, keepdim=True) for y in (up, down))
        rows.append(torch.cat(list(halves), dim=-1))
    return torch.stack(rows, dim=1)
