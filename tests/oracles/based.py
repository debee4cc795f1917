"""Based as a dense table of weights 1 + s + s^2 / 2, each row divided by its sum."""

from typing import Any

import torch
from torch import Tensor

from tests.oracles import merge, weighted_mean

SETTINGS = {"key_dim": 3}
BLOCK = 128  # its own chunk


def oracle(
    attention: Any,
    query: Tensor,
    context: Tensor,
    query_padding_mask: Tensor,
    key_padding_mask: Tensor,
) -> Tensor:
    def by_head(proj: Any, x: Tensor) -> Tensor:
        y = x @ proj.weight.T + proj.bias
        return torch.stack(y.chunk(attention.num_heads, dim=-1), dim=1)

    q, k = by_head(attention.q_proj, query), by_head(attention.k_proj, context)
    s = q @ k.mT / attention.key_dim**0.5
    weights = (1 + s + s**2 / 2) * ~key_padding_mask[:, None, None, :]
    if attention.pattern == "causal_self":
        weights = weights.tril()
    return merge(attention, weighted_mean(weights, by_head(attention.v_proj, context)))
